"""Pictures of many units, one file each: a run that was stopped goes on where it was."""

# Torch is imported where it is needed, so that the command line can be read without it.
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from activation_maximization.dream import Dreams

FOUND = "found"
"""Under which a file keeps, beside its settings, its unit, its activation, whether it is silent, and its batch."""

NOT_COMPARED = (FOUND, "version")


def make_each(
    folder: Path,
    units: Sequence[int],
    make: Callable[[list[int]], Dreams],
    *,
    batch: int,
    settings: Mapping[str, Any],
    overwrite: bool = False,
) -> tuple[list[int], Dreams]:
    """The dreams of ``units``, each saved in ``folder`` as soon as it is made; those that are there are not made again.

    Returns the units that there are, after Ctrl-C not all, and their dreams, without history.

    Args:
        folder: where ``0007.png`` is that of unit 7.
        units: their numbers.
        make: from numbers of units to their dreams.
        batch: units made at a time: what is lost at most when the run is killed.
        settings: how they are made.
        overwrite: replace files that were made with other settings.

    Raises:
        ValueError: a file in ``folder`` was made with other settings.
        OSError: the folder cannot be made or written.
    """
    import torch

    from image_optimization import images

    paths = {unit: images.check_output(folder / f"{unit:04}.png", overwrite=True) for unit in units}
    to_do = [unit for unit, path in paths.items() if not images.is_made(path, settings, NOT_COMPARED, overwrite)]
    stopped = "finished"
    for start in range(0, len(to_do), batch):
        some = to_do[start : start + batch]
        try:
            dreams = make(some)
        except KeyboardInterrupt:  # before the first step
            stopped = "interrupted"
        else:
            stopped = dreams.stopped
        if stopped == "interrupted":
            break
        for number, unit in enumerate(some):
            found = {
                "unit": unit,
                "activation": dreams.activations[number].item(),
                "silent": number in dreams.silent,
                "batch": some,  # convolutions round a little differently with the number of images
            }
            images.save(dreams.images[number], paths[unit], {**settings, FOUND: found}, overwrite)
    made = [unit for unit, path in paths.items() if images.is_made(path, settings, NOT_COMPARED, overwrite)]
    if not made:
        raise KeyboardInterrupt
    about = [images.read_settings(paths[unit])[FOUND] for unit in made]
    dreams = Dreams(
        torch.cat([images.load(paths[unit], channels=_channels(paths[unit])) for unit in made]),
        torch.tensor([each["activation"] for each in about]),
        torch.empty(0, len(made)),
        stopped,
        tuple(number for number, each in enumerate(about) if each["silent"]),
    )
    return made, dreams


def batches(folder: Path, units: Sequence[int]) -> dict[int, list[int]]:
    """For each of ``units`` that :func:`make_each` made, those that it was made with, itself included."""
    from image_optimization.images import read_settings

    return {unit: read_settings(folder / f"{unit:04}.png")[FOUND]["batch"] for unit in units}


def _channels(path: Path) -> int:
    from PIL import Image

    with Image.open(path) as picture:
        return len(picture.getbands())
