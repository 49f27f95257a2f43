"""Textures without seams: the right edge of the picture continues at its left edge, and the bottom edge at its top."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dreamgram.image_optimization.images import resize

EDGES = 16
"""The edges of a painting, which are not measured, are as wide as its shorter side divided by this number."""

REPEATED = 8
"""Smallest width, in pixels, of the border that is repeated around a texture before it is enlarged. Bicubic
interpolation reads two pixels on each side."""


@contextmanager
def circular(model: nn.Module) -> Iterator[None]:
    """Make the convolutions of ``model`` wrap around the edges of their input while the ``with`` statement runs.

    Each 2D convolution that otherwise pads its input with zeros then pads it with the pixels of the opposite edge.
    """
    changed = [each for each in model.modules() if isinstance(each, nn.Conv2d) and each.padding_mode == "zeros"]
    try:
        for each in changed:
            each.padding_mode = "circular"
        yield
    finally:
        for each in changed:
            each.padding_mode = "zeros"


def without_edges(painting: Tensor) -> Tensor:
    """Return a mask (1, 1, H, W) that is 0 near the edges of ``painting`` (1, 3, H, W), and 1 elsewhere.

    Activations near an edge depend on the zeros with which convolutions pad their input. A seamless texture has no
    edges, so that its activations should not resemble those near the edges of a painting.
    """
    width = min(painting.shape[2:]) // EDGES
    mask = torch.ones(1, 1, painting.shape[2] - 2 * width, painting.shape[3] - 2 * width)
    return pad(mask, (width, width, width, width))


def enlarge(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a seamless ``image`` (N, C, H, W) in [0, 1] to ``size`` (H, W), so that the result is seamless, too."""
    if tuple(image.shape[2:]) == size:
        return image
    borders = [_border(before, after) for before, after in zip(image.shape[2:], size, strict=True)]
    (top, above), (left, before) = borders
    wide = pad(image, (left, left, top, top), mode="circular")
    larger = resize(wide, (size[0] + 2 * above, size[1] + 2 * before))
    return larger[:, :, above : above + size[0], before : before + size[1]]


def _border(before: int, after: int) -> tuple[int, int]:
    """Return the width of a border, in pixels, before and after resizing a side from ``before`` to ``after`` pixels.

    Both widths are whole numbers with the same ratio as the sides.
    """
    smallest = before // math.gcd(before, after)
    width = min(smallest * -(-REPEATED // smallest), before)
    return width, width * after // before


def seamless_variation(image: Tensor, rows: slice = slice(None)) -> Tensor:
    """Return the total variation of a seamless ``image`` (N, C, H, W), including the differences across its edges.

    ``rows`` is the range of all rows of the image. It is an argument because other losses of the pixels have it.
    """
    return (image - image.roll(1, 2)).abs().sum() + (image - image.roll(1, 3)).abs().sum()
