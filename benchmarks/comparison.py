"""Sheets to judge style transfer by, in ``outputs/gallery/``: ``python -m benchmarks.comparison`` (half an hour).

``styles.jpg``: four photos in four styles with the defaults. ``losses.jpg``: each photo in one of them by each style
loss, and, the last column, by the default one with VGG-19. ``sizes.jpg``: one of them at three sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.gallery import GALLERY
from benchmarks.process import PICTURES
from image_optimization import images
from models import load
from style_transfer import stylize
from style_transfer.losses import STYLE_LOSSES
from style_transfer.painters import PAINTERS, paint

PHOTOS = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg", "rocket.jpg")
"""NASA, in the public domain; Stefan van der Walt, Rachel Michetti and SpaceX, CC0."""

STYLES = ("the_scream.png", "shipwreck.jpg", "brushwork", "stained-glass")
"""Edvard Munch, 1893, and J. M. W. Turner, 1805, in the public domain; the other two are drawn."""

PAIRS = (
    ("astronaut.jpg", "the_scream.png"),
    ("chelsea.jpg", "brushwork"),
    ("coffee.jpg", "stained-glass"),
    ("rocket.jpg", "shipwreck.jpg"),
)
"""For comparing losses, networks and sizes."""

CELL = (240, 320)


def photo(name: str) -> Tensor:
    """Its middle, or its upper part, where the heads are, in the proportions of a cell."""
    picture = images.load(PICTURES / name)
    height, width = picture.shape[2:]
    tall, wide = min(height, width * CELL[0] // CELL[1]), min(width, height * CELL[1] // CELL[0])
    top, left = (height - tall) // 8, (width - wide) // 2
    return picture[:, :, top : top + tall, left : left + wide]


def style(name: str, size: int) -> Tensor:
    return paint(name, size) if name in PAINTERS else images.load(PICTURES / name)


def painted(of: str, by: str, size: int, loss: str | None = None, network: str = "vgg16") -> Tensor:
    print(of, by, size, loss or "", network, flush=True)
    return stylize(photo(of), [style(by, size)], model=load(network), size=size, style_loss=loss).image


def sheet(name: str, rows: Sequence[Sequence[Tensor]], cell: tuple[int, int] = CELL) -> None:
    """Pictures of any size, each in a cell (H, W)."""
    lines = [torch.cat([_within(picture, cell) for picture in row], dim=3) for row in rows]
    images.save(torch.cat(lines, dim=2), GALLERY / name, overwrite=True, quality=88)


def _within(picture: Tensor, cell: tuple[int, int]) -> Tensor:
    """In the middle of white."""
    size = min(cell[0] / picture.shape[2], cell[1] / picture.shape[3]) * max(picture.shape[2:])
    small = images.fit(picture, round(size))
    whole = torch.ones(1, 3, *cell)
    top, left = (cell[0] - small.shape[2]) // 2, (cell[1] - small.shape[3]) // 2
    whole[:, :, top : top + small.shape[2], left : left + small.shape[3]] = small
    return whole


def styles() -> None:
    head = [torch.ones(1, 3, 1, 1), *(style(name, 512) for name in STYLES)]
    sheet("styles.jpg", [head, *([photo(of), *(painted(of, by, 384) for by in STYLES)] for of in PHOTOS)])


def losses() -> None:
    ways = [*((loss, "vgg16") for loss in STYLE_LOSSES), (None, "vgg19")]
    sheet("losses.jpg", [[painted(*pair, 384, *way) for way in ways] for pair in PAIRS])


def sizes() -> None:
    sheet("sizes.jpg", [[painted(*pair, size) for size in (256, 512, 1024)] for pair in PAIRS[:1]], (360, 480))


def main(
    only: Annotated[list[str] | None, typer.Argument(help="styles, losses or sizes; by default all.")] = None,
) -> None:
    for draw in (styles, losses, sizes):
        if not only or draw.__name__ in only:
            draw()


if __name__ == "__main__":
    typer.run(main)
