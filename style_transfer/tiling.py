"""A picture of any size in bounded memory: in overlapping tiles, to the same loss and gradient as in one piece."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from image_optimization.layers import Layer
from style_transfer.losses import EVERYWHERE, Window


@dataclass(frozen=True)
class Tile:
    """A part of a picture, with as much around it as its activations depend on."""

    pixels: Window
    """What the network is shown of the picture."""
    inner: Mapping[str, Window]
    """Of its activations, layer by layer, those that are the same as in the whole picture and no other tile's."""
    windows: Mapping[str, Window]
    """Where in the whole picture's activations these are."""

    def show(self, image: Tensor) -> Tensor:
        """The tile's part of ``image`` (N, C, H, W)."""
        return image[:, :, self.pixels[0], self.pixels[1]]

    def own(self, activations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of the tile's ``activations``, those it answers for."""
        return {name: _part(seen, self.inner[name]) for name, seen in activations.items()}


def _part(activation: Tensor, window: Window) -> Tensor:
    if window == EVERYWHERE:
        return activation
    part: Tensor = _Part.apply(activation, window)
    return part


class _Part(torch.autograd.Function):
    """A window of an activation. Slicing's way back puts channels first, and all that follows has to put them last."""

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
    """A picture in one piece."""
    return Tile(EVERYWHERE, dict.fromkeys(layers, EVERYWHERE), dict.fromkeys(layers, EVERYWHERE))


def split(layers: Sequence[Layer], size: tuple[int, int], side: int) -> list[Tile]:
    """Tiles for a picture of ``size`` (H, W), each about ``side`` pixels square with all that it needs around it.

    ``layers`` are those asked for, with their fields and shapes for the whole picture
    (:func:`image_optimization.layers.list_layers`). A tile begins where every layer's positions do, so that
    poolings fall into step; around its own part it shows all that the receptive fields reach: its edges are not felt.
    """
    step, halo = _reach(layers, max(size))
    cores = [_cut(length, max(side - 2 * halo, halo, step), step) for length in size]
    tiles = []
    for top, bottom in cores[0]:
        for left, right in cores[1]:
            rows = slice(max(top - halo, 0), min(bottom + halo, size[0]))
            columns = slice(max(left - halo, 0), min(right + halo, size[1]))
            windows = {
                layer.name: (
                    _positions(layer, 1, (top, bottom), size[0]),
                    _positions(layer, 2, (left, right), size[1]),
                )
                for layer in layers
            }
            inner = {
                layer.name: (
                    _moved(windows[layer.name][0], round(rows.start / layer.stride)),
                    _moved(windows[layer.name][1], round(columns.start / layer.stride)),
                )
                for layer in layers
            }
            tiles.append(Tile((rows, columns), inner, windows))
    return tiles


def smallest_side(layers: Sequence[Layer]) -> int:
    """Pixels of the side of the smallest tile: a third of it is its own."""
    return 3 * _reach(layers, 0)[1]


def _reach(layers: Sequence[Layer], everything: int) -> tuple[int, int]:
    """At multiples of how many pixels all layers have positions, and how many around a tile they depend on.

    ``everything``: if one of them depends on all of the picture.
    """
    step = round(max(layer.stride for layer in layers))
    fields = [(layer.start, layer.receptive_field or everything, layer.stride) for layer in layers]
    before = max(-start for start, _, _ in fields)
    after = max(start + field - stride for start, field, stride in fields)
    return step, step * -int(-max(before, after, 0) // step)


def _cut(length: int, side: int, step: int) -> list[tuple[int, int]]:
    """``length`` in parts of nearly the same size, ``side`` at most, that begin at multiples of ``step``."""
    count = -(-length // side)
    begins = {step * round(length * number / count / step) for number in range(count)}
    bounds = [*sorted(begin for begin in begins if begin == 0 or begin <= length - step), length]  # no part is empty
    return list(itertools.pairwise(bounds))


def _positions(layer: Layer, axis: int, core: tuple[int, int], length: int) -> slice:
    """The layer's positions that belong to the pixels of ``core``; at the end of the picture, all that are left."""
    first, last = (round(bound / layer.stride) for bound in core)
    return slice(first, layer.shape[axis] if core[1] == length else last)


def _moved(window: slice, by: int) -> slice:
    return slice(window.start - by, window.stop - by)
