"""Painting of several variations of one picture, which are shown side by side on a sheet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreamgram.image_optimization import images
from dreamgram.image_optimization.files import check_distinct
from dreamgram.style_transfer.folder import ONWARD
from dreamgram.style_transfer.options import StylizeOptions
from dreamgram.style_transfer.painter import Painter
from dreamgram.workbench.job import Done, Job, output_path
from dreamgram.workbench.recipe import Recipe
from dreamgram.workbench.sheets import contact_sheet
from dreamgram.workbench.state import claimed


def paint_sheet(options: StylizeOptions, job: Job) -> Done:
    """Paint a photo, or a texture, once for each variation, and save a sheet that shows all pictures with captions.

    Each picture is also saved in a folder beside the sheet, with a recipe of its own. If the run is stopped, running
    the same command again paints only the pictures that are missing.

    Raises:
        ValueError: an option or an input is not valid, or another program is painting the same sheet.
        OSError: a file is missing, or it cannot be read or written.
    """
    output = output_path(options.output, "sheet.png", options.overwrite)
    check_distinct("output", output, options.files())
    folder = output.with_name(f"{output.stem}-pictures")
    images.check_folder(folder)
    variations = options.variations()
    job.interrupted = ONWARD
    with claimed(output) as mine:
        if not mine:
            raise ValueError(f"{output} is being painted by another run")
        painter = Painter(options.change(vary=None, **variations[0]), job)
        paths = []
        for number, changes in enumerate(variations):
            painter = painter.changed(**changes) if number else painter
            paths.append(folder / f"{_name(changes)}.png")
            done = painter.paint_of_folder(options.photo, paths[-1])
            if done is not None and done.stopped == "interrupted":
                return Done("interrupted", interrupted=ONWARD)
        columns = len({str(changes[[*changes][-1]]) for changes in variations})
        sheet = contact_sheet(
            [images.load(path)[0] for path in paths],
            [_caption(changes) for changes in variations],
            columns=columns,
            title="" if options.photo is None else options.photo.name,
        )
        recipe = Recipe.of("stylize", options, painter.inputs)
        job.save(sheet, output, recipe, options.overwrite)
    return Done(summary=f"{folder}: {len(paths)} pictures")


def _name(changes: Mapping[str, Any]) -> str:
    """Return the file name, without extension, of the picture with ``changes``, such as ``style_weight=3-seed=1``."""
    return "-".join(f"{name}={_text(value)}" for name, value in changes.items())


def _caption(changes: Mapping[str, Any]) -> str:
    """Return the caption of the picture with ``changes``, such as ``style weight 3, seed 1``."""
    return ", ".join(f"{name.replace('_', ' ')} {_text(value)}" for name, value in changes.items())


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
