"""Pictures of many units, one file each: a run that was stopped goes on where it was."""

# Torch is imported where it is needed, so that the command line can be read without it.
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from activation_maximization.dream import Dreams

FOUND = ("unit", "activation", "silent")
"""What a file holds beside the settings it was made with."""


def make_each(
    folder: Path,
    units: Sequence[int],
    make: Callable[[list[int]], Dreams],
    *,
    batch: int,
    settings: Mapping[str, Any],
    overwrite: bool = False,
) -> Dreams:
    """The dreams of ``units``, each saved in ``folder`` as soon as it is made; those that are there are not made again.

    Args:
        folder: where ``0007.png`` is that of unit 7. Each holds the settings, its activation, and whether it is silent.
        units: their numbers.
        make: from numbers of units to their dreams.
        batch: units made at a time: what is lost at most when the run is killed.
        settings: how they are made. Files that were made otherwise are not mixed with these.
        overwrite: make all of them anew.

    After Ctrl-C there are only those that were finished.

    Raises:
        ValueError: a file in ``folder`` was made with other settings.
    """
    import torch

    from image_optimization import images

    settings = json.loads(json.dumps(dict(settings)))  # as a file gives them back
    paths = {unit: folder / f"{unit:04}.png" for unit in units}
    to_do = [unit for unit, path in paths.items() if overwrite or not _is_made(path, settings)]
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
            found = (unit, dreams.activations[number].item(), number in dreams.silent)
            about = {**settings, **dict(zip(FOUND, found, strict=True))}
            images.save(dreams.images[number], paths[unit], about, overwrite)
    made = [path for path in paths.values() if path.exists()]
    if not made:
        raise KeyboardInterrupt
    about_all = [images.read_settings(path) for path in made]
    pictures = [images.load(path, channels=_channels(path)) for path in made]
    return Dreams(
        torch.cat(pictures),
        torch.tensor([about["activation"] for about in about_all]),
        torch.empty(0, len(made)),
        stopped,
        tuple(number for number, about in enumerate(about_all) if about["silent"]),
    )


def _is_made(path: Path, settings: Mapping[str, Any]) -> bool:
    """Whether ``path`` is there, and made with ``settings``."""
    from image_optimization.images import read_settings

    if not path.exists():
        return False
    theirs = {name: value for name, value in read_settings(path).items() if name not in FOUND}
    for name in {**theirs, **settings}:
        if theirs.get(name) != settings.get(name):
            raise ValueError(
                f"{path} was made with {name} {theirs.get(name)}, not {settings.get(name)}; choose another folder, or "
                "make all anew (--overwrite)"
            )
    return True


def _channels(path: Path) -> int:
    from PIL import Image

    with Image.open(path) as picture:
        return len(picture.getbands())
