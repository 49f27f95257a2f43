"""A folder of photos, each into a file of its own: a bad one does not stop the others, a killed run goes on."""

# Torch is imported where it is needed, so that the command line can be read without it.
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
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
    "timelapse",
    "plot",
    "quality",
    "checkpoint_every",
)
"""Settings that change nothing in a picture."""

READABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp")


def paint_each(
    photos: Path, output: Path, paint: Callable[[Path, Path], object], settings: Mapping[str, Any], overwrite: bool
) -> None:
    """Call ``paint`` with each picture in ``photos`` and the PNG in ``output`` for it, but for those that are there.

    Says at the end how many were painted, were there, and failed.

    Raises:
        ValueError: there are no pictures.
        SystemExit: some failed, code 1; Ctrl-C, code 130.
    """
    from image_optimization import console
    from image_optimization.images import is_made
    from image_optimization.memory import is_out_of_memory

    if output.resolve() == photos.resolve():
        raise ValueError(f"the output is the folder of the photos, {photos}: choose another one")
    files = sorted(path for path in photos.iterdir() if path.suffix.lower() in READABLE and path.is_file())
    if not files:
        raise ValueError(f"{photos} has no pictures in it: {', '.join(READABLE)}")
    stems = Counter(path.stem for path in files)
    count: Counter[str] = Counter()
    stopped = "finished"
    for file in files:
        path = output / f"{file.stem if stems[file.stem] == 1 else file.name}.png"
        try:
            if is_made(path, settings, NOT_COMPARED, overwrite):
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
