"""Folders with one picture of each unit of a layer.

A run that was stopped can be resumed, because pictures that are already in the folder are not made again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dreamgram.activation_maximization.dreams import Dreams
from dreamgram.activation_maximization.expressions import MOST_UNITS
from dreamgram.activation_maximization.gradient_ascent import BATCH
from dreamgram.activation_maximization.objectives import Objective
from dreamgram.activation_maximization.options import EachOptions
from dreamgram.image_optimization import images
from dreamgram.image_optimization.checks import MOST_THINGS, as_whole, as_wholes
from dreamgram.image_optimization.errors import NotWrittenError
from dreamgram.image_optimization.image_opening import open_image
from dreamgram.image_optimization.names import described
from dreamgram.image_optimization.optimize import Ending, StopRun, in_turn
from dreamgram.workbench.job import Done, save
from dreamgram.workbench.recipe import Inputs, Recipe, is_made

FOUND = "found"
"""Key under which :attr:`Recipe.made` stores the description of the units in the picture; see :func:`describe_unit`.

The recipe holds the settings of a picture and is stored in the picture file.
"""

Make = Callable[[list[int]], Dreams]
"""Type of a function that takes the indices of some units and returns one image of each unit."""


class Each(NamedTuple):
    """The images of some units, and the batches in which the images were made."""

    units: list[int]
    """Indices of the units whose images are finished."""
    dreams: Dreams
    """Images and activations of the units, in the order of :attr:`units`. The values of the objective before each step
    (``Dreams.history``) are not kept."""
    batches: dict[int, list[int]]
    """Map from each unit to all units whose images were made in the same batch, including the unit itself."""


def make_each(
    folder: str | os.PathLike[str],
    units: Iterable[int],
    make: Make,
    *,
    batch: int = BATCH,
    recipe: Recipe | str = "",
    overwrite: bool = False,
) -> Each:
    """Make one picture of each unit, save each picture as a file, and return all pictures.

    The pictures of a batch are saved as soon as the batch is finished. Pictures that are already in the folder are read
    and not made again. A run that was stopped, even by a power cut, can therefore be resumed by calling the function
    again.

    Example:
        >>> def texture(units):
        ...     return maximize(vgg, channel("relu4_1", units), size=128)
        >>> each = make_each("relu4_1", range(512), texture, recipe="relu4_1 at 128 pixels")

    Args:
        folder: folder for the pictures; the picture of unit 7 is called ``0007.png``.
        units: indices of the units, or other whole numbers of at least 0 that ``make`` accepts, such as seeds.
        make: function that takes a list of some of ``units`` and returns the result of :func:`maximize` with one image
            for each unit in the list.
        batch: number of pictures in a batch, at least 1. If the run is killed, at most this many pictures are lost.
        recipe: description of how the pictures are made, either a :class:`Recipe` or a text in your own words. The
            recipe is stored in each picture file. An existing picture is reused only if it was made with the same
            recipe.
        overwrite: whether to overwrite files that were made with a different recipe.

    Returns:
        The finished units and their images. After Ctrl-C, some units might be missing. Unfinished pictures are not
        saved.

    Raises:
        OutputExistsError: a file in the folder was made with a different recipe, and ``overwrite`` is False.
        ValueError: ``units`` is empty, ``batch`` is below 1, or ``make`` does not return one image of each unit.
        TypeError: an argument, or what ``make`` returns, has the wrong type.
        OSError: the folder cannot be created or written to. If writing fails after a batch was made, the pictures of
            this batch are saved in a different folder, and the message names one of the files.
        KeyboardInterrupt: Ctrl-C was pressed before any picture was finished.
    """
    batch = as_whole(batch, "batch", least=1)
    units = _check_arguments(folder, units, make, recipe)
    if isinstance(recipe, Recipe):
        common_recipe = recipe
    else:
        common_recipe = Recipe.of("make_each", EachOptions(about=recipe), Inputs())
    paths = {unit: images.check_output(Path(folder, f"{unit:04}.png"), overwrite=True) for unit in units}
    to_do = [unit for unit, path in paths.items() if not is_made(path, common_recipe, overwrite)]

    def make_some(some: list[int]) -> Done:
        if not some:
            return Done()
        dreams = make(some)
        _check_made(dreams, len(some))
        if dreams.stopped == "interrupted":
            raise StopRun  # Unfinished pictures are discarded.
        failure = None
        for number, unit in enumerate(some):
            found = {FOUND: describe_unit(dreams, number, some)}
            made = replace(common_recipe, made={**common_recipe.made, **found})
            try:
                save(dreams.images[number], paths[unit], made, overwrite=True)  # is_made allowed it
            except NotWrittenError as error:
                failure = failure or error  # the other pictures of the batch are saved first
        if failure:
            raise failure
        return Done(dreams.stopped)

    # If pictures exist already, an empty first batch is added, so that Ctrl-C raises no error before the next picture.
    there: list[list[int]] = [[]] if len(to_do) < len(paths) else []
    _, stopped = in_turn([*there, *(to_do[start : start + batch] for start in range(0, len(to_do), batch))], make_some)
    made = {unit: path for unit, path in paths.items() if is_made(path, common_recipe, overwrite)}
    return _read_each(made, common_recipe, stopped)


def _check_arguments(folder: Any, units: Any, make: Any, recipe: Any) -> list[int]:
    """Check the types of these arguments of :func:`make_each`, and return ``units`` as a list."""
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder must be the path of a folder, not {described(folder)}")
    if not callable(make) or isinstance(make, Objective | type):
        raise TypeError(f"make must be a function of some units that returns Dreams, not {described(make)}")
    if not isinstance(recipe, Recipe | str):
        raise TypeError(f"recipe must be a Recipe or a text, not {described(recipe)}")
    chosen = as_wholes(units, "a unit", least=0)
    if not chosen:
        raise ValueError("no units given")
    return chosen


def _check_made(dreams: object, count: int) -> None:
    """Check that ``dreams``, the result of the user's function, holds ``count`` images.

    After Ctrl-C, a different number of images is allowed.
    """
    if not isinstance(dreams, Dreams):
        raise TypeError(f"make must return Dreams, as maximize does, not {described(dreams)}")
    if len(dreams.images) != count and dreams.stopped != "interrupted":
        raise ValueError(f"make must return one image of each unit, {count}, not {len(dreams.images)}")


def describe_unit(dreams: Dreams, number: int, batch: Sequence[int]) -> dict[str, Any]:
    """Return the description of the unit ``batch[number]``, to be stored in the recipe (the settings) of its picture.

    ``batch`` lists the units of the images in ``dreams``. This list is part of the description because an identical
    picture can be made again only in the same batch: the rounding in convolutions depends on the number of images.
    """
    return {
        "unit": batch[number],
        "activation": dreams.activations[number].item(),
        "silent": number in dreams.silent,
        "batch": list(batch),
    }


def batches_of(found: Mapping[str, Any]) -> dict[int, list[int]]:
    """Return a map from each unit in a picture to the list of the units whose images were made in the same batch.

    ``found`` is the description of the units that is stored under the key :data:`FOUND` in the picture's recipe. The
    picture is either a picture of one unit from a folder, or a contact sheet of several units.

    Raises:
        ValueError: ``found`` does not have a batch for each unit, because the recipe is damaged.
    """
    batches: dict[int, list[int]] = {}
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        given = {found["unit"]: found["batch"]} if "unit" in found else found["batches"]
        # The keys of an object in JSON are text.
        batches = {int(unit) if isinstance(unit, str) else unit: batch for unit, batch in given.items()}
    if not batches or not all(_is_batch(batch, unit) for unit, batch in batches.items()):
        raise ValueError("the recipe does not say in which batches the units were made")
    return batches


def _is_batch(batch: object, unit: object) -> bool:
    """Return whether ``batch`` is a list of distinct units that contains ``unit``.

    Both values are read from a picture file that might be damaged, so they can have any type.
    """
    return (
        isinstance(batch, list)
        and len(batch) <= MOST_UNITS
        and all(type(each) is int and 0 <= each <= MOST_THINGS for each in [unit, *batch])
        and len(set(batch)) == len(batch)
        and unit in batch
    )


def make_again(batches: Mapping[int, list[int]], make: Make) -> Each:
    """Make the pictures of some units again, each unit in the same batch as before.

    ``batches`` maps each unit to the units of its batch. ``make`` makes the images of one batch.
    """
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


def _read_each(made: Mapping[int, Path], recipe: Recipe, stopped: Ending) -> Each:
    """Read the finished pictures from their files, and the descriptions of their units from the recipes in the files.

    ``made`` maps each unit to its picture file.
    """
    about = [_read_unit(unit, path, recipe) for unit, path in made.items()]
    pictures = [images.load(path, channels=_channels(path))[0] for path in made.values()]
    for path, picture in zip(made.values(), pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise ValueError(f"{path} has a different size or different colors than the other pictures; delete it")
    activation_values = [each["activation"] for each in about]
    dreams = _join(pictures, activation_values, [each["silent"] for each in about], stopped)
    return Each(list(made), dreams, {unit: each["batch"] for unit, each in zip(made, about, strict=True)})


def _read_unit(unit: int, path: Path, recipe: Recipe) -> Mapping[str, Any]:
    """Read the description of ``unit``, which :func:`describe_unit` made, from the picture file ``path``.

    Raises:
        ValueError: the description is damaged, or it describes a different unit.
    """
    found = Recipe.read(path, {recipe.command: type(recipe.options)}).made.get(FOUND)
    if not (
        isinstance(found, dict)
        and found.get("unit") == unit
        and _is_batch(found.get("batch"), found["unit"])
        and isinstance(found.get("silent"), bool)
        and isinstance(found.get("activation"), float)
    ):
        raise ValueError(f"{path} does not say how its unit was made; delete it to make it again")
    return found


def _join(
    pictures: list[torch.Tensor], activation_values: Sequence[float], silent: Sequence[bool], stopped: Ending
) -> Dreams:
    numbers = tuple(number for number, each in enumerate(silent) if each)
    return Dreams(
        torch.stack(pictures), torch.tensor(activation_values), torch.empty(0, len(pictures)), stopped, numbers
    )


def _channels(path: Path) -> int:
    with path.open("rb") as file, open_image(file) as picture:
        return len(picture.getbands())
