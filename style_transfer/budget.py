"""How much of a picture fits into memory at a time, and how much of its past the optimizer may keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor, nn

from image_optimization.layers import device_of, list_layers
from image_optimization.lbfgs import HISTORY
from image_optimization.memory import release_kept_memory
from style_transfer.tiling import Tile, smallest_side, split, whole

if TYPE_CHECKING:
    from style_transfer.transfer import Cache

SHARE = 0.9
"""Of the memory that is free, used if nobody says how much."""

VECTORS = 11
"""Images that a step holds at most besides curvature pairs: leaf, gradient, what the optimizer makes of them, and the
photo's activations."""

FOR_TILING = 250_000_000
"""Bytes that PyTorch takes to follow receptive fields."""

LOADED = 200_000_000
"""Bytes that a run needs besides: libraries that are loaded on the way, and what lies between the pieces."""

COPIES = 3
"""Of a painting and of the photo, that are held while they are resized and seen."""

FEWEST = 3
"""Curvature pairs below which L-BFGS is not worth its name."""

TRANSIENT = 2.3
"""What a pass needs at its peak, as a multiple of what it saves for the way back: gradients, casts, products."""

CUT = 1.3
"""What a pass over a tile needs, as a multiple of one over a whole picture: its own part is copied from the rest."""

REGION, MATRICES = 130, 12_000_000
"""Bytes that each region but the first needs: for a pixel, for its gradients; and for what it knows of styles."""

SAMPLES = 64, 128
"""Sides of the images with which that is counted; in the difference the weights are left out."""

SMALLEST = 256
"""Pixels of a tile's side below which next to nothing of it is its own."""


@dataclass(frozen=True)
class Budget:
    """For pictures of one scale."""

    pairs: int
    """Curvature pairs that L-BFGS keeps."""
    side: int
    """Pixels of a square that passes through the network at once."""

    def tiles(self, network: nn.Module, layers: Sequence[str], image: Tensor) -> list[Tile]:
        """How ``image`` (1, C, H, W) is divided; not at all, if it fits."""
        height, width = image.shape[2:]
        if height * width <= self.side**2:
            return [whole(layers)]
        there = [layer for layer in list_layers(network, image.shape[1:]) if layer.name in layers]
        return split(there, (height, width), self.side)


WHOLE = Budget(HISTORY, 10**6)
"""Everything at once."""


def plan_all(
    network: nn.Module,
    read: Callable[[Tensor], dict[str, Tensor]],
    layers: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    paintings: Sequence[int],
    regions: int,
    limit: int | None,
    optimizer: str,
    cache: Cache,
) -> list[Budget]:
    """For pictures of these ``sizes`` (H, W), one after the other: what one frees is there for the next.

    Args:
        network: the one that is used, as far as ``layers``; by ``read``.
        paintings: for each size, how many pixels the largest painting has.
        regions: of a picture.
        limit: bytes, by default most of what is free.
        cache: what was measured and planned before; what is not yet is added.

    Raises:
        ValueError: it is too little.
    """

    def smallest() -> int:
        there = [layer for layer in list_layers(network, (3, SAMPLES[1], SAMPLES[1])) if layer.name in layers]
        return max(smallest_side(there), SMALLEST)

    # The largest first: it is the one to complain about.
    for size, painting in sorted(zip(sizes, paintings, strict=True), reverse=True):
        if size not in cache.budgets:
            if cache.measured is None:
                per_pixel = bytes_of_a_pixel(read, device_of(network))  # first, since the first pass loads what stays
                cache.measured = (*memory(device_of(network), limit), per_pixel + REGION * (regions - 1))
            most, taken, needed = cache.measured
            taken += LOADED + MATRICES * (regions - 1)
            cache.budgets[size] = plan(most, taken, math.prod(size), needed, optimizer, painting, smallest)
    return [cache.budgets[size] for size in sizes]


def plan(
    limit: int,
    taken: int,
    pixels: int,
    per_pixel: float,
    optimizer: str,
    painting: int = 0,
    smallest: Callable[[], int] = lambda: SMALLEST,
) -> Budget:
    """What fits into ``limit`` bytes, of which ``taken`` are in use, for an image of so many ``pixels``.

    ``per_pixel`` is what a pass through the network needs, ``painting`` how many pixels the largest painting has, and
    ``smallest`` tells the side of the smallest tile. If not all of it fits, half of what is left after the images that
    every step holds is for the curvature pairs of L-BFGS, if it needs as much; the tiles have the rest. Paintings are
    seen before there are pairs.

    Raises:
        ValueError: it is too little.
    """
    image = 12 * pixels  # three channels in float32
    pair = 2 * image if optimizer == "lbfgs" else 0
    held, before = VECTORS * image, COPIES * (image + 12 * painting)
    spare = limit - taken - max(held + HISTORY * pair, before)
    if spare >= max(pixels, painting) * per_pixel:
        return WHOLE
    per_pixel *= CUT
    least = smallest() ** 2 * per_pixel
    spare = limit - taken - FOR_TILING - held
    pairs = min(HISTORY, int(min(spare / 2, spare - least) / pair)) if pair else HISTORY
    spare = min(spare - pairs * pair, limit - taken - FOR_TILING - before)
    if spare < least or pairs < FEWEST:
        tiled = FOR_TILING + max(held + max(2 * FEWEST * pair, FEWEST * pair + least), before + least)
        needed = taken + min(tiled, max(held + HISTORY * pair, before) + max(pixels, painting) * per_pixel / CUT)
        hint = "; the optimizer adam needs less" if pair and held + FEWEST * pair > before else ""
        larger = f" and a painting of {painting:,}" if painting > pixels else ""
        raise ValueError(
            f"{limit / 1e9:.3g} GB are too little for a picture of {pixels:,} pixels{larger}: "
            f"about {math.ceil(needed / 1e8) / 10} GB are needed{hint}"
        )
    return Budget(pairs, math.isqrt(int(spare / per_pixel)))


def memory(device: torch.device, limit: int | None) -> tuple[int, int]:
    """How many bytes this process may have on ``device``, ``limit`` or most of what is free, and how many it has."""
    if device.type == "cuda":
        taken, free = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - taken
    else:
        release_kept_memory()
        taken, free = psutil.Process().memory_info().rss, psutil.virtual_memory().available
    return limit or taken + int(SHARE * free), taken


def bytes_of_a_pixel(read: Callable[[Tensor], dict[str, Tensor]], device: torch.device) -> float:
    """What a pass through the network and back needs at its peak for every pixel, estimated from what it saves."""
    small, large = (_saved(read, side, device) for side in SAMPLES)
    return TRANSIENT * (large - small) / (SAMPLES[1] ** 2 - SAMPLES[0] ** 2)


def _saved(read: Callable[[Tensor], dict[str, Tensor]], side: int, device: torch.device) -> int:
    """Bytes kept after a forward pass with an image of ``side`` pixels square, weights included."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    image = torch.zeros(1, 3, side, side, device=device, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        seen = read(image)
    for activation in seen.values():
        keep(activation)
    return sum(kept.values())
