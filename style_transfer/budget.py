"""How much of a picture fits into memory at a time, and how much of its past the optimizer may keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn

from image_optimization.layers import list_layers
from image_optimization.lbfgs import HISTORY
from image_optimization.memory import release_kept_memory
from style_transfer.tiling import Tile, split, whole

SHARE = 0.9
"""Of the memory that is free, used if nobody says how much."""

VECTORS = 11
"""Images that a step holds at most besides curvature pairs: leaf, gradient, what the optimizer makes of them, and the
photo's activations."""

FOR_TILING = 250_000_000
"""Bytes that PyTorch takes to follow receptive fields."""

FEWEST = 3
"""Curvature pairs below which L-BFGS is not worth its name."""

TRANSIENT = 3
"""What a pass needs at its peak, as a multiple of what it saves for the way back: gradients, casts, products."""

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


def plan_all(
    read: Callable[[Tensor], dict[str, Tensor]],
    device: torch.device,
    limit: int | None,
    sizes: Sequence[tuple[int, int]],
    optimizer: str,
    planned: dict[tuple[int, int], Budget],
) -> list[Budget]:
    """For pictures of these ``sizes`` (H, W), one after the other: what one frees is there for the next.

    Those that are not among the ``planned`` are added there.

    Raises:
        ValueError: ``limit`` bytes, by default most of what is free, are too little.
    """
    if not set(sizes) <= set(planned):
        per_pixel = bytes_of_a_pixel(read, device)  # first, since the first pass of all loads what stays
        most, taken = memory(device, limit)
        for height, width in reversed(sizes):  # the largest first: it is the one to complain about
            planned[height, width] = plan(most, taken, height * width, per_pixel, optimizer)
    return [planned[size] for size in sizes]


def plan(limit: int, taken: int, pixels: int, per_pixel: float, optimizer: str) -> Budget:
    """What fits into ``limit`` bytes, of which ``taken`` are in use, for an image of so many ``pixels``.

    ``per_pixel`` is what a pass through the network needs. Half of what is left after the images that every step holds
    is for the curvature pairs of L-BFGS, if it needs as much; the tiles have the rest.

    Raises:
        ValueError: it is too little.
    """
    image = 12 * pixels  # three channels in float32
    spare = limit - taken - VECTORS * image
    if spare - 2 * HISTORY * image < pixels * per_pixel:
        spare -= FOR_TILING
    for_pairs = max(min(spare / 2, spare - SMALLEST**2 * per_pixel), 0)
    pairs = min(HISTORY, int(for_pairs / (2 * image))) if optimizer == "lbfgs" else 0
    side = math.isqrt(max(int((spare - 2 * pairs * image) / per_pixel), 0))
    if side < SMALLEST or (optimizer == "lbfgs" and pairs < FEWEST):
        least = (
            taken + FOR_TILING + (VECTORS + 2 * FEWEST * 2 * (optimizer == "lbfgs")) * image + SMALLEST**2 * per_pixel
        )
        hint = "; the optimizer adam needs less" if optimizer == "lbfgs" else ""
        raise ValueError(
            f"{limit / 1e9:.2g} GB are too little for a picture of {pixels / 1e6:.1f} megapixels: "
            f"about {least / 1e9:.1f} GB are needed{hint}"
        )
    return Budget(pairs, side)


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
