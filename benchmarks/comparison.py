"""Make sheets of pictures for judging style transfer by eye: ``python -m benchmarks.comparison``.

The sheets are saved in ``outputs/gallery/``. This takes half an hour.

- ``styles.jpg`` shows four photos in four styles with the default settings.
- ``losses.jpg`` shows four pairs of a photo and a style, one in each row. There is a column for each style loss with
  VGG-16, and one for the default style loss with VGG-19.
- ``focus.jpg`` shows two of these pairs with a focus of 0, 0.5 and 1.
- ``sizes.jpg`` shows one of these pairs at 256, 512 and 1024 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import typer
from torch import Tensor
from typing_extensions import Unpack

from benchmarks.gallery import GALLERY
from benchmarks.process import PICTURES
from dreamgram.image_optimization import images
from dreamgram.models import load
from dreamgram.style_transfer.drawn_styles import DRAWN_STYLES, draw_style
from dreamgram.style_transfer.keywords import StyleKeywords
from dreamgram.style_transfer.losses import STYLE_LOSSES
from dreamgram.style_transfer.stylizer import stylize

PHOTOS = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg", "rocket.jpg")
"""Photos by NASA (public domain), Stefan van der Walt, Rachel Michetti and SpaceX (CC0)."""

STYLES = ("the_scream.png", "shipwreck.jpg", "brushwork", "stained-glass")
"""Paintings by Edvard Munch, 1893, and J. M. W. Turner, 1805 (public domain), and two styles that Dreamgram draws."""

PAIRS = (
    ("astronaut.jpg", "the_scream.png"),
    ("chelsea.jpg", "brushwork"),
    ("coffee.jpg", "stained-glass"),
    ("rocket.jpg", "shipwreck.jpg"),
)
"""Pairs of a photo and a style for comparing losses, networks and sizes."""

CELL = (240, 320)
"""Height and width of a cell of the sheets, in pixels."""


def photo(name: str) -> Tensor:
    """Return the photo in the file ``name``, (1, 3, H, W), cropped to the aspect ratio of a cell of the sheets.

    Most of the rows that are cut off are at the bottom, because heads are near the top.
    """
    picture = images.load(PICTURES / name)
    height, width = picture.shape[2:]
    tall, wide = min(height, width * CELL[0] // CELL[1]), min(width, height * CELL[1] // CELL[0])
    top, left = (height - tall) // 8, (width - wide) // 2
    return picture[:, :, top : top + tall, left : left + wide]


def style(name: str, size: int) -> Tensor:
    """Return the style ``name``, (1, 3, H, W): a drawn style of ``size`` x ``size`` pixels or a painting in a file."""
    return draw_style(name, size) if name in DRAWN_STYLES else images.load(PICTURES / name)


def painted(content: str, painting: str, size: int, network: str = "vgg16", **options: Unpack[StyleKeywords]) -> Tensor:
    """Paint the photo ``content`` in the style ``painting``, and return the result (1, 3, H, W).

    The longer side has ``size`` pixels. ``options`` are fields of :class:`StyleOptions`.
    """
    print(content, painting, size, network, options, flush=True)
    return stylize(photo(content), [style(painting, size)], model=load(network), size=size, **options).image


def sheet(name: str, rows: Sequence[Sequence[Tensor]], cell: tuple[int, int] = CELL) -> None:
    """Save ``rows`` of pictures as one sheet called ``name``. Each picture is resized to fit into a ``cell`` (H, W)."""
    lines = [torch.cat([_within(picture, cell) for picture in row], dim=3) for row in rows]
    images.save(torch.cat(lines, dim=2), GALLERY / name, overwrite=True, quality=88)


def _within(picture: Tensor, cell: tuple[int, int]) -> Tensor:
    """Return a white image with the size (H, W) of a ``cell`` and with ``picture`` in its middle, resized to fit."""
    size = min(cell[0] / picture.shape[2], cell[1] / picture.shape[3]) * max(picture.shape[2:])
    small = images.fit(picture, round(size))
    whole = torch.ones(1, 3, *cell)
    top, left = (cell[0] - small.shape[2]) // 2, (cell[1] - small.shape[3]) // 2
    whole[:, :, top : top + small.shape[2], left : left + small.shape[3]] = small
    return whole


def styles() -> None:
    """Make and save ``styles.jpg``: four photos in four styles."""
    head = [torch.ones(1, 3, 1, 1), *(style(name, 512) for name in STYLES)]
    sheet("styles.jpg", [head, *([photo(name), *(painted(name, each, 384) for each in STYLES)] for name in PHOTOS)])


def losses() -> None:
    """Make and save ``losses.jpg``: four pairs of a photo and a style, with each style loss and with VGG-19."""
    by_loss = [[painted(*pair, 384, style_loss=loss) for loss in STYLE_LOSSES] for pair in PAIRS]
    sheet("losses.jpg", [[*row, painted(*pair, 384, "vgg19")] for row, pair in zip(by_loss, PAIRS, strict=True)])


def focus() -> None:
    """Make and save ``focus.jpg``: a portrait and a landscape, each with three values of the option ``focus``."""
    sheet("focus.jpg", [[painted(*pair, 384, focus=value) for value in (0, 0.5, 1)] for pair in (PAIRS[0], PAIRS[3])])


def sizes() -> None:
    """Make and save ``sizes.jpg``: one photo in one style, at three sizes."""
    sheet("sizes.jpg", [[painted(*pair, size) for size in (256, 512, 1024)] for pair in PAIRS[:1]], (360, 480))


def main(
    only: Annotated[list[str] | None, typer.Argument(help="styles, losses, focus or sizes. By default, all.")] = None,
) -> None:
    """Make sheets of pictures for judging style transfer by eye."""
    for draw in (styles, losses, focus, sizes):
        if not only or draw.__name__ in only:
            draw()


if __name__ == "__main__":
    typer.run(main)
