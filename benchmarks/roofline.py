"""How close a step of VGG-16 comes to the machine's rate of matrix products: ``python -m benchmarks.roofline``.

A step is forward and backward from relu5_1 to an image of 512 x 512, as style transfer does it. Its multiplications and
additions are counted, and divided by the time; the rate it is held against is the fastest of square matrix products of
three sizes in the same precision, timed in turn with the steps. Freed memory is kept, as the commands keep it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figure import Figure
from image_optimization.capture import capture
from image_optimization.memory import keep_freed_memory
from image_optimization.precision import Precision, choose_dtype
from models import load
from style_transfer.losses import FIVE

ROUNDS = 5
SIZES = (1024, 2048, 3072)


def measure() -> list[Figure]:
    keep_freed_memory()
    return [_measure(precision) for precision in ("float32", "bfloat16")]


def _measure(precision: Precision) -> Figure:
    device = torch.device("cpu")
    dtype = choose_dtype(precision, device)
    image = torch.rand(1, 3, 512, 512, requires_grad=True)
    matrices = [torch.randn(size, size).to(dtype) for size in SIZES]
    with capture(load("vgg16"), FIVE, dtype) as activations_of:
        gradient = torch.randn_like(activations_of(image)["relu5_1"])

        def step() -> None:
            image.grad = None
            activations_of(image)["relu5_1"].backward(gradient)

        with FlopCounterMode(display=False) as counter:
            step()
        steps, products = [], []
        for _ in range(ROUNDS):
            steps += [_rate(counter.get_total_flops(), step) for _ in range(3)]
            products.append(max(_rate(2 * len(m) ** 3, lambda m=m: m @ m) for m in matrices for _ in range(3)))
    own, best = statistics.median(steps), statistics.median(products)
    result = f"{own / 1e9:.0f} of {best / 1e9:.0f} Gflop/s"
    return Figure(f"VGG-16 step at 512 px of the matrix rate, {precision}", 100 * own / best, "%", ">= 85", result)


def _rate(operations: int, function: Callable[[], Tensor | None]) -> float:
    start = time.perf_counter()
    function()
    return operations / (time.perf_counter() - start)


if __name__ == "__main__":
    print(*measure(), sep="\n")
