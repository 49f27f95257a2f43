"""Measure what the constants of style_transfer/budget.py stand for: ``python -m benchmarks.budget`` (one minute).

Each constant is printed beside its measured value. The measurements are taken at small sizes on the CPU, on Linux. They
are increases of the resident memory of this process, so they depend on the memory allocator and vary from run to run.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from benchmarks.process import PAINTING, PHOTO
from dreamgram.image_optimization import images
from dreamgram.image_optimization.capture import ActivationsOf, capture
from dreamgram.image_optimization.layers import list_layers
from dreamgram.image_optimization.memory import release_kept_memory
from dreamgram.image_optimization.optimize import OPTIMIZERS, optimize
from dreamgram.image_optimization.parameterizations import PixelImage
from dreamgram.image_optimization.precision import choose_dtype
from dreamgram.models import load
from dreamgram.style_transfer import budget
from dreamgram.style_transfer.budget import WHOLE, Budget
from dreamgram.style_transfer.losses import STYLE_LOSSES
from dreamgram.style_transfer.presets import PRESETS
from dreamgram.style_transfer.total_loss import Style, TotalLoss, total_loss

SIZES = (256, 384, 512)
"""Sides of the untiled pictures in pixels."""

TILED, LIMIT, TILE = 640, 480, 360
"""Side of a picture that is divided into four tiles, largest allowed side of a tile, and resulting side of the tiles,
all in pixels."""

DIVIDED, REGIONS = 128, (2, 8)
"""Side, in pixels, of the pictures that are divided into regions, and the numbers of regions to measure."""

LARGE = 1536
"""Side, in pixels, of the picture that is optimized without a network."""

PAIRS = 3
"""Number of curvature pairs that L-BFGS keeps in the optimization without a network."""

PRESET = PRESETS["default"]


def peak(work: Callable[[], object]) -> int:
    """Return the number of bytes by which the peak memory of ``work`` exceeds the memory in use before it."""
    gc.collect()
    release_kept_memory()
    Path("/proc/self/clear_refs").write_text("5")  # makes the present memory the peak
    before = psutil.Process().memory_info().rss
    work()
    status = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 - before


def stripes(count: int, size: int) -> list[Tensor | None]:
    """Return ``count`` masks (1, 1, size, size), each of which marks a vertical stripe of a square picture."""
    columns = torch.arange(size) * count // size
    return [(columns == number).float().expand(1, 1, size, size) for number in range(count)]


class Pass:
    """A forward and backward pass over a square picture, which computes the loss and its gradient."""

    def __init__(
        self, network: nn.Module, activations_of: ActivationsOf, size: int, tiles: Budget = WHOLE, regions: int = 1
    ) -> None:
        """Read the photo and the painting.

        Args:
            network: the network that ``activations_of`` runs.
            activations_of: function that returns the activations of the preset's layers.
            size: side of the picture in pixels.
            tiles: memory budget that determines how the picture is divided into tiles.
            regions: number of regions of the photo.
        """
        self.activations_of = activations_of
        self.photo, painting = (images.resize(images.load(path), (size, size)) for path in (PHOTO, PAINTING))
        self.masks = stripes(regions, size) if regions > 1 else [None]
        self.style = Style(painting, size, [1.0] * regions, self.masks)
        self.tiles_of = partial(tiles.tiles, network, PRESET.layers)

    def loss(self) -> TotalLoss:
        """Compute the targets of the losses, and return the loss."""
        return total_loss(self.activations_of, self.photo, [self.style], PRESET, self.tiles_of, self.masks)

    def peak(self) -> int:
        """Return the peak memory of a pass, in bytes. A first pass, which loads libraries, is not measured."""
        loss, leaf = self.loss(), self.photo.clone().requires_grad_()
        torch.autograd.grad(loss(leaf), leaf)
        return peak(lambda: torch.autograd.grad(loss(leaf), leaf))

    def peak_with_targets(self) -> int:
        """Return the peak memory, in bytes, of computing the targets and then doing a pass.

        Both are done twice, and the peak of the second time is returned, because libraries are loaded the first time.
        """

        def work() -> None:
            leaf = self.photo.clone().requires_grad_()
            torch.autograd.grad(self.loss()(leaf), leaf)

        work()
        return peak(work)


class Energy(torch.autograd.Function):
    """The sum of the squares of a tensor. Unlike ``image.square().sum()``, it allocates only the gradient."""

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        ctx.save_for_backward(image)
        return torch.dot(image.flatten(), image.flatten())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        [image] = ctx.saved_tensors
        return image * (2 * gradient)


def vectors(optimizer: str) -> float:
    """Return the peak memory of an optimization without a network, as a multiple of the memory of its image.

    The curvature pairs are not counted. The temporary tensors of the optimizer are counted, although a style transfer
    frees them before its next pass through the network. A constant of the module ``budget`` can therefore be correct
    even if it is below the measured value.
    """
    photo, block = images.resize(images.load(PHOTO), (LARGE, LARGE)), STYLE_LOSSES[PRESET.style_loss].BLOCK

    def work() -> None:
        image = PixelImage.from_image(photo)
        optimize(image, Energy.apply, steps=PAIRS + 2, optimizer=optimizer, history=PAIRS, block=block)

    return peak(work) / (12 * LARGE**2) - PAIRS * OPTIMIZERS[optimizer].VECTORS_PER_PAIR


def show(name: str, measured: float, constant: float) -> None:
    """Print a measured value beside the constant of the module ``budget`` that stands for it."""
    print(f"{name:17} {measured:11.4g}  constant {constant:11.4g}", flush=True)


def main() -> None:
    """Print all measurements."""
    network, device = load("vgg16"), torch.device("cpu")
    with capture(network, PRESET.layers, choose_dtype("auto", device, network)) as activations_of:
        saved = budget.bytes_of_a_pixel(activations_of, device) / budget.TRANSIENT
        find_layers = peak(lambda: list_layers(network, (3, SIZES[0], SIZES[0])))
        show("FOR_TILING", find_layers, budget.FOR_TILING)
        peaks = [Pass(network, activations_of, size).peak() for size in SIZES]
        slope, _ = np.polyfit(np.square(SIZES), peaks, 1)
        show("TRANSIENT", float(slope) / saved, budget.TRANSIENT)
        whole, tiled = Pass(network, activations_of, TILE), Pass(network, activations_of, TILED, Budget(1, LIMIT))
        assert all(tile.show(tiled.photo).shape[2:] == (TILE, TILE) for tile in tiled.tiles_of(tiled.photo))
        show("TILE_OVERHEAD", tiled.peak() / whole.peak(), budget.TILE_OVERHEAD)
        few, many = (Pass(network, activations_of, DIVIDED, WHOLE, count).peak_with_targets() for count in REGIONS)
        of_region = (many - few) / (REGIONS[1] - REGIONS[0]) - budget.REGION * DIVIDED**2
        show("MATRICES", of_region, budget.MATRICES)
    layers = list_layers(network, (3, SIZES[0], SIZES[0]))
    content = sum(math.prod(layer.shape) for layer in layers if layer.name in PRESET.content) / (3 * SIZES[0] ** 2)
    plain_steps, with_pairs = (vectors(name) + content for name in ("adam", "lbfgs"))
    show("VECTORS", plain_steps, budget.VECTORS)
    show("with MORE_VECTORS", with_pairs, budget.VECTORS + budget.MORE_VECTORS)


if __name__ == "__main__":
    main()
