"""Folders with one picture of each unit.

A stopped run can be resumed. Pictures that are already in the folder are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from dreamgram.activation_maximization.gradient_ascent import BATCH, Dreams
from dreamgram.activation_maximization.options import EachOptions
from dreamgram.image_optimization import images
from dreamgram.image_optimization.optimize import StopRun, in_turn
from dreamgram.workbench.job import Done
from dreamgram.workbench.recipe import Inputs, Recipe, is_made

FOUND = "found"
"""Key of a unit's description in the field ``made`` of a recipe; see :func:`describe_unit`."""

Make = Callable[[list[int]], Dreams]
"""Function that takes the indices of some units and returns one image of each unit."""


class Each(NamedTuple):
    """The images of some units, made in several batches."""

    units: list[int]
    """Indices of the units that are finished."""
    dreams: Dreams
    """Images of these units, in the same order, without the history of the objective."""
    batches: dict[int, list[int]]
    """For each unit, the units of the batch that it was made in, including the unit itself."""


def make_each(
    folder: str | os.PathLike[str],
    units: Iterable[int],
    make: Make,
    *,
    batch: int = BATCH,
    recipe: Recipe | str = "",
    overwrite: bool = False,
) -> Each:
    """Make one picture of each unit, save each picture as a file, and return all of them.

    The pictures of a batch are saved as soon as the batch is finished. Pictures that already exist are skipped. A run
    that was stopped, even by a power cut, can therefore be resumed by calling the function again.

    Example:
        >>> def texture(units):
        ...     return maximize(vgg, channel("relu4_1", units), size=128)
        >>> each = make_each("relu4_1", range(512), texture, recipe="relu4_1 at 128 pixels")

    Args:
        folder: folder for the pictures; the picture of unit 7 is called ``0007.png``.
        units: indices of the units.
        make: function that takes the indices of some units and returns one image of each unit.
        batch: number of units made at a time, at least 1. If the run is killed, at most this many pictures are lost.
        recipe: how the pictures are made: a recipe, or a description in your own words. It is stored in each picture.
        overwrite: whether to overwrite files that were made with a different recipe.

    Returns:
        The finished units and their images. After Ctrl-C, some units may be missing. Unfinished pictures are not
        saved.

    Raises:
        ValueError: a file in the folder was made with a different recipe, ``units`` is empty, or ``batch`` is below 1.
        OSError: the folder cannot be created or written to.
        KeyboardInterrupt: Ctrl-C was pressed before any picture was finished.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    units = list(units)
    if not units:
        raise ValueError("no units given")
    if isinstance(recipe, str):
        recipe = Recipe.of("make_each", EachOptions(about=recipe), Inputs())
    paths = {unit: images.check_output(Path(folder, f"{unit:04}.png"), overwrite=True) for unit in units}
    to_do = [unit for unit, path in paths.items() if not is_made(path, recipe, overwrite)]

    def make_some(some: list[int]) -> Done:
        if not some:
            return Done()
        dreams = make(some)
        if dreams.stopped == "interrupted":
            raise StopRun  # Unfinished pictures are discarded.
        for number, unit in enumerate(some):
            found = {FOUND: describe_unit(dreams, number, some)}
            note = replace(recipe, made={**recipe.made, **found}).note()
            images.save(dreams.images[number], paths[unit], note, overwrite=True)  # allowed by is_made
        return Done(dreams.stopped)

    # If pictures exist already, an empty first batch stands for them, so that Ctrl-C raises no error.
    there: list[list[int]] = [[]] if len(to_do) < len(paths) else []
    _, stopped = in_turn([*there, *(to_do[start : start + batch] for start in range(0, len(to_do), batch))], make_some)
    made = {unit: path for unit, path in paths.items() if is_made(path, recipe, overwrite)}
    return _read_each(made, recipe, stopped)


def describe_unit(dreams: Dreams, number: int, batch: Sequence[int]) -> dict[str, Any]:
    """Return the description of unit ``batch[number]`` that is stored in the recipe of its picture.

    ``batch`` lists the units of the images in ``dreams``. It is stored because the same picture can be made again only
    in the same batch: the rounding in convolutions depends on the number of images.
    """
    return {
        "unit": batch[number],
        "activation": dreams.activations[number].item(),
        "silent": number in dreams.silent,
        "batch": list(batch),
    }


def batches_of(found: Mapping[str, Any]) -> dict[int, list[int]]:
    """Return, for each unit that a recipe describes, the batch that the unit was made in.

    The recipe belongs either to one picture in a folder or to a contact sheet of many units.

    Raises:
        ValueError: the recipe is damaged.
    """
    try:
        given = {found["unit"]: found["batch"]} if "unit" in found else found["batches"]
        batches = {int(unit): [int(each) for each in batch] for unit, batch in given.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        batches = {}
    if not batches or not all(unit in batch for unit, batch in batches.items()):
        raise ValueError("the recipe does not say in which batches the units were made")
    return batches


def make_again(batches: Mapping[int, list[int]], make: Make) -> Each:
    """Make the pictures of some units again, each unit in the same batch as before."""
    distinct = list(dict.fromkeys(map(tuple, batches.values())))
    results, stopped = in_turn(distinct, lambda batch: make(list(batch)))
    dreams_of = dict(zip(distinct, results, strict=False))
    made = {unit: batch for unit, batch in batches.items() if tuple(batch) in dreams_of}
    places = [(dreams_of[tuple(batch)], batch.index(unit)) for unit, batch in made.items()]
    dreams = _join(
        [dreams.images[number] for dreams, number in places],
        [dreams.activations[number].item() for dreams, number in places],
        [number in dreams.silent for dreams, number in places],
        stopped,
    )
    return Each(list(made), dreams, made)


def _read_each(made: Mapping[int, Path], recipe: Recipe, stopped: str) -> Each:
    """Read the pictures and the descriptions in their recipes. ``made`` maps each unit to its file."""
    commands = {recipe.command: type(recipe.options)}
    about = [Recipe.read(path, commands).made[FOUND] for path in made.values()]
    pictures = [images.load(path, channels=_channels(path))[0] for path in made.values()]
    activations = [each["activation"] for each in about]
    dreams = _join(pictures, activations, [each["silent"] for each in about], stopped)
    return Each(list(made), dreams, {unit: each["batch"] for unit, each in zip(made, about, strict=True)})


def _join(pictures: list[torch.Tensor], activations: Sequence[float], silent: Sequence[bool], stopped: str) -> Dreams:
    numbers = tuple(number for number, each in enumerate(silent) if each)
    return Dreams(torch.stack(pictures), torch.tensor(activations), torch.empty(0, len(pictures)), stopped, numbers)


def _channels(path: Path) -> int:
    with Image.open(path) as picture:
        return len(picture.getbands())
