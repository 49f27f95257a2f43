"""Divide a picture into tiles that pass through the network one at a time, which limits memory use.

The loss and its gradient are the same as without tiles, except for rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamgram.image_optimization.layers import Layer
from dreamgram.style_transfer.losses import EVERYWHERE, Window


@dataclass(frozen=True)
class Tile:
    """A part of a picture, with the surrounding pixels on which the part's activations depend."""

    pixels: Window
    """Rows and columns of the picture that the tile covers, including the surrounding pixels."""
    inner: Mapping[str, Window]
    """Rows and columns of the tile's activations that belong to this tile alone, by layer name. In these rows and
    columns, the activations are the same as without tiles."""
    windows: Mapping[str, Window]
    """Rows and columns that the part ``inner`` occupies in the activations of the whole picture, by layer name."""

    def show(self, image: Tensor) -> Tensor:
        """Return the pixels of ``image`` (N, C, H, W) that this tile covers, which are the input of the network."""
        return image[:, :, self.pixels[0], self.pixels[1]]

    def own(self, activations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return, for each layer, those of the tile's ``activations`` that belong to this tile alone."""
        return {name: _part(activation, self.inner[name]) for name, activation in activations.items()}


def _part(activation: Tensor, window: Window) -> Tensor:
    if window == EVERYWHERE:
        return activation
    part: Tensor = _Part.apply(activation, window)
    return part


class _Part(torch.autograd.Function):
    """Autograd function that cuts a window out of an activation and keeps the memory format in the backward pass.

    The gradient of ordinary slicing would always be channels-first, which slows down the backward pass if the
    activation is channels-last.
    """

    @staticmethod
    def forward(ctx: Any, activation: Tensor, window: Window) -> Tensor:
        ctx.window, ctx.shape, ctx.strides = window, activation.shape, activation.stride()
        return activation[:, :, window[0], window[1]].clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = gradient.new_empty_strided(ctx.shape, ctx.strides).zero_()
        whole[:, :, ctx.window[0], ctx.window[1]] = gradient
        return whole, None


def whole(layers: Sequence[str]) -> Tile:
    """Return a tile that covers a whole picture, for the layers with the names ``layers``."""
    return Tile(EVERYWHERE, dict.fromkeys(layers, EVERYWHERE), dict.fromkeys(layers, EVERYWHERE))


def split(layers: Sequence[Layer], size: tuple[int, int], side: int) -> list[Tile]:
    """Divide a picture into tiles of about ``side`` x ``side`` pixels, including their surroundings.

    The row and column at which a tile begins are multiples of all strides of ``layers``, so that the tile's pooling
    windows are aligned with those of the whole picture. A tile consists of a part that belongs to it alone and
    of the surrounding pixels in the receptive fields of this part, so that the tile's borders have no effect on the
    activations of this part.

    Args:
        layers: the layers whose activations the losses use, as listed by :func:`list_layers` for the whole picture.
        size: the height and width of the picture, in pixels.
        side: the approximate side of a tile, including its surroundings, in pixels.

    Raises:
        ValueError: a layer cannot be computed in tiles. For example, its receptive fields are unknown or cover the
            whole picture.
    """
    step, halo = _reach(layers)
    cores = []
    for axis, length in enumerate(size):
        # The positions of a layer without padding do not cover the whole picture.
        covered = min(round(_stride(layer)) * _counts(layer)[axis] for layer in layers)
        cores.append(_cut(length, min(covered, length), max(side - 2 * halo, halo, step), step))
    tiles = []
    for top, bottom in cores[0]:
        for left, right in cores[1]:
            rows = slice(max(top - halo, 0), min(bottom + halo, size[0]))
            columns = slice(max(left - halo, 0), min(right + halo, size[1]))
            windows = {
                layer.name: (
                    _positions(layer, 0, (top, bottom), size[0]),
                    _positions(layer, 1, (left, right), size[1]),
                )
                for layer in layers
            }
            inner = {
                layer.name: (
                    _moved(windows[layer.name][0], round(rows.start / _stride(layer))),
                    _moved(windows[layer.name][1], round(columns.start / _stride(layer))),
                )
                for layer in layers
            }
            tiles.append(Tile((rows, columns), inner, windows))
    return tiles


def smallest_side(layers: Sequence[Layer]) -> int:
    """Return the smallest side of a tile that is worth asking :func:`split` for, in pixels, surroundings included.

    About a third of this side remains for the part that belongs to the tile alone.

    Raises:
        ValueError: a layer cannot be computed in tiles. For example, its receptive fields are unknown or cover the
            whole picture.
    """
    return 3 * _reach(layers)[1]


def _reach(layers: Sequence[Layer]) -> tuple[int, int]:
    """Return the least common multiple of the strides of ``layers``, and the width of a tile's surroundings, in pixels.

    A tile consists of a part that belongs to it alone and of its surroundings. The surroundings include all other
    pixels that influence the activations of this part. The width of the surroundings is a multiple of the least common
    multiple of the strides.
    """
    for layer in layers:
        reason = _obstacle(layer)
        if reason:
            raise ValueError(refusal(reason))
    step = math.lcm(*(round(_stride(layer)) for layer in layers))
    fields = [(layer.start or 0.0, layer.receptive_field or 0, _stride(layer)) for layer in layers]
    before = max(-start for start, _, _ in fields)
    after = max(start + field - stride for start, field, stride in fields)
    return step, step * -int(-max(before, after, 0) // step)


def refusal(reason: str) -> str:
    """Return the error message that says that a picture cannot be divided into tiles because of ``reason``."""
    return (
        f"the memory does not suffice for the whole picture, and tiles would be wrong, because {reason}: allow more "
        "memory, choose other layers or a smaller size"
    )


def _obstacle(layer: Layer) -> str:
    """Return why the activations of ``layer`` cannot be computed in tiles, or an empty string if they can."""
    if layer.whole_image:
        return f"each position of {layer.name} depends on the whole picture"
    if layer.receptive_field is None:
        return f"each position of {layer.name} depends on pixels that are not known"
    if not layer.local:
        return f"{layer.name} is not the same for a part of the picture, for example because of coordinates or a crop"
    return "" if len(layer.shape) == 3 else f"the positions of {layer.name} do not form rows and columns"


def _cut(length: int, covered: int, side: int, step: int) -> list[tuple[int, int]]:
    """Divide ``length`` into parts (start, end) of nearly equal length, none much longer than ``side``.

    Each part begins at a multiple of ``step``. Beyond ``covered``, some layers have no positions. Each part except the
    first therefore begins at least ``step`` before ``covered``. All numbers are in pixels.
    """
    count = -(-length // side)
    begins = {step * round(length * number / count / step) for number in range(count)}
    bounds = [*sorted(begin for begin in begins if begin == 0 or begin <= covered - step), length]  # no part is empty
    return list(itertools.pairwise(bounds))


def _positions(layer: Layer, axis: int, core: tuple[int, int], length: int) -> slice:
    """Return the range of a layer's positions that corresponds to ``core``, a range of pixels (start, end).

    ``axis`` is 0 for ranges of rows and 1 for ranges of columns. ``length`` is the number of the picture's pixels along
    this axis. If ``core`` ends where the picture ends, the result includes all remaining positions.
    """
    first, last = (round(bound / _stride(layer)) for bound in core)
    return slice(first, _counts(layer)[axis] if core[1] == length else last)


def _counts(layer: Layer) -> list[int]:
    """Return the number of rows and the number of columns of positions in a layer."""
    return [count for axis, count in enumerate(layer.shape) if axis != layer.unit_axis]


def _stride(layer: Layer) -> float:
    """Return the stride, in pixels, of a ``layer`` with known receptive fields.

    For such a layer, the attribute ``stride`` is not None.
    """
    assert layer.stride is not None
    return layer.stride


def _moved(window: slice, by: int) -> slice:
    return slice(window.start - by, window.stop - by)
