"""Measure the speed of a VGG-16 step relative to that of matrix products: ``python -m benchmarks.roofline``.

A step is a forward pass from an image of 512 x 512 pixels to relu5_1 and a backward pass, as in style transfer. The
speed of a step is its number of multiplications and additions divided by its time. This speed is compared with the
speed of products of square matrices in the same precision. Matrices of three sizes are multiplied, and the fastest
product counts. Products and steps are timed in turn. Freed memory is kept for reuse, as in Dreamgram's commands.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from benchmarks.figure import Figure
from dreamgram.image_optimization.capture import capture
from dreamgram.image_optimization.memory import keep_freed_memory
from dreamgram.image_optimization.precision import Precision, choose_dtype
from dreamgram.models import load
from dreamgram.style_transfer.default_layers import FIVE

ROUNDS = 5
"""Number of rounds. In each round, three steps and three products of each size are timed."""

SIZES = (1024, 2048, 3072)
"""Numbers of rows and columns of the square matrices."""


def measure() -> list[Figure]:
    """Measure the speed of a VGG-16 step relative to that of matrix products, in float32 and in bfloat16."""
    keep_freed_memory()
    return [_measure(precision) for precision in ("float32", "bfloat16")]


def _measure(precision: Precision) -> Figure:
    """Measure the speed of a VGG-16 step relative to that of matrix products, in one precision."""
    device = torch.device("cpu")
    dtype = choose_dtype(precision, device)
    image = torch.rand(1, 3, 512, 512, requires_grad=True)
    matrices = [torch.randn(size, size).to(dtype) for size in SIZES]
    with capture(load("vgg16"), FIVE, dtype) as activations_of:
        gradient = torch.randn_like(activations_of(image)["relu5_1"])

        def step() -> None:
            image.grad = None
            activations_of(image)["relu5_1"].backward(gradient)

        counted = {torch.ops.mkldnn._convolution_pointwise: _operations}
        with FlopCounterMode(display=False, custom_mapping=counted) as counter:
            step()
        steps, products = [], []
        for _ in range(ROUNDS):
            steps += [_rate(counter.get_total_flops(), step) for _ in range(3)]
            products.append(max(_rate(2 * len(m) ** 3, lambda m=m: m @ m) for m in matrices for _ in range(3)))
    own, best = statistics.median(steps), statistics.median(products)
    result = f"{own / 1e9:.0f} of {best / 1e9:.0f} Gflop/s"
    return Figure(f"VGG-16 step at 512 px of the matrix rate, {precision}", 100 * own / best, "%", ">= 85", result)


def _operations(image: torch.Size, weight: torch.Size, *_: object, out_shape: torch.Size, **__: object) -> int:
    """Return the number of operations of a fused convolution and ReLU, an operator that PyTorch cannot count."""
    return conv_flop_count(image, weight, out_shape)


def _rate(operations: int, function: Callable[[], Tensor | None]) -> float:
    """Call ``function``, which performs ``operations`` operations, and return its speed in operations per second."""
    start = time.perf_counter()
    function()
    return operations / (time.perf_counter() - start)


if __name__ == "__main__":
    print(*measure(), sep="\n")
