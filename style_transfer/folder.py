"""A folder of photos, each into a file of its own: a bad one does not stop the others, a killed run goes on."""

# Torch is imported where it is needed, so that the command line can be read without it.
from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

NOT_COMPARED = (
    "photo",
    "output",
    "overwrite",
    "stopped",
    "version",
    "max_memory",
    "tiled",
    "timelapse",
    "plot",
    "quality",
    "checkpoint_every",
)
"""Settings that change nothing in a picture."""

_ENDINGS = ("png", "jpg", "jpeg", "jfif", "webp", "avif", "heic", "jp2", "tif", "tiff", "gif", "bmp", "ppm")
READABLE = tuple(f".{ending}" for ending in _ENDINGS)
"""Endings of files that are pictures: one that cannot be read is reported."""

SHOWN = 5
"""Names of other files that are told."""


def paint_each(
    photos: Path, output: Path, paint: Callable[[Path, Path], object], settings: Mapping[str, Any], overwrite: bool
) -> None:
    """Call ``paint`` with each picture in ``photos`` and the PNG in ``output`` for it, but for those that are there.

    They are, if they were made with the same ``settings`` from the same photo. Says at the end how many were painted,
    were there, and failed.

    Raises:
        ValueError: there are no pictures.
        SystemExit: some failed, code 1; Ctrl-C, code 130.
    """
    from image_optimization import console
    from image_optimization.images import is_made
    from image_optimization.memory import is_out_of_memory

    if output.resolve() == photos.resolve():
        raise ValueError(f"the output is the folder of the photos, {photos}: choose another one")
    seen = sorted(path for path in photos.iterdir() if not path.name.startswith("."))
    pictures = [path for path in seen if path.suffix.lower() in READABLE and not path.is_dir()]
    if not pictures:
        raise ValueError(f"{photos} has no pictures in it: {', '.join(READABLE)}")
    if others := [path.name for path in seen if path not in pictures]:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        typer.echo(f"left alone, since not pictures: {', '.join(others[:SHOWN])}{more}", err=True)
    count: Counter[str] = Counter()
    stopped = "finished"
    for file, path in zip(pictures, name_outputs(pictures, output), strict=True):
        try:
            files = {**settings["files"], **console.checksums([str(file)])}
            if is_made(path, {**settings, "photo": str(file), "files": files}, NOT_COMPARED, overwrite):
                count["there already"] += 1
                continue
            paint(file, path)
            count["painted"] += 1
        except KeyboardInterrupt:
            stopped = "interrupted"
            break
        except (ValueError, OSError, ArithmeticError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            typer.echo(f"failed: {file}: {error}", err=True)
            count["failed"] += 1
    typer.echo(f"{output}: " + ", ".join(f"{number} {what}" for what, number in count.items()))
    if stopped == "interrupted":
        typer.echo("interrupted: the same command goes on from here", err=True)
        raise SystemExit(console.INTERRUPTED)
    if count["failed"]:
        raise SystemExit(1)


def name_outputs(files: Sequence[Path], output: Path) -> list[Path]:
    """A PNG in ``output`` for each of the ``files`` of one folder: of its name, with its ending where two are alike.

    Alike is what some systems take for the same, small letters and capitals.
    """
    stems = Counter(file.stem.casefold() for file in files)
    names: list[str] = []
    for file in files:
        name = file.stem if stems[file.stem.casefold()] == 1 else file.name
        taken = {each.casefold() for each in names}
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        names.append(next(each for each in itertools.chain([name], numbered) if each.casefold() not in taken))
    return [output / f"{name}.png" for name in names]
