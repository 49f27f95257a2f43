"""Measure memory and time of tiled and untiled pictures: ``python -m benchmarks.tiling`` (eight minutes).

A photo is resized to each of :data:`SIZES` and painted, with and without a memory limit. The memory is the peak memory
of the process. The time is that of a step at the last scale, at which the picture has its full size. Finally, the
losses and gradients of a tiled and an untiled picture are compared in float32, at a size that fits into memory without
tiles.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from benchmarks.process import PAINTING, PHOTO, run
from dreamgram.image_optimization import images
from dreamgram.image_optimization.capture import capture
from dreamgram.image_optimization.memory import keep_freed_memory
from dreamgram.image_optimization.optimize import OPTIMIZERS, Step
from dreamgram.image_optimization.precision import choose_dtype
from dreamgram.models import load
from dreamgram.style_transfer.budget import (
    LOADED,
    Budget,
    bytes_of_a_pixel,
    memory,
    plan,
    smallest_tile,
)
from dreamgram.style_transfer.presets import PRESETS
from dreamgram.style_transfer.stylizer import stylize
from dreamgram.style_transfer.total_loss import Style, total_loss

SIZES = ((512, 512), (1024, 1024), (1920, 1080), (3840, 2160))
"""Widths and heights of the pictures in pixels."""

LARGEST = 8000, 8000
"""Width and height, in pixels, of a picture of 64 megapixels, whose memory is computed without painting it."""

LIMIT = 4 * 10**9
"""Memory limit in bytes."""

STEPS = 3
"""Number of steps at the last scale."""


def one(width: int, height: int, limit: int | None, note_into: str) -> None:
    """Measure the time of a step at the last scale, and write the time into the file ``note_into``.

    ``limit`` is the memory limit in bytes, or None for most of the free memory. Call this function in a separate
    process, so that the peak memory of this picture alone can be measured.
    """
    keep_freed_memory()  # The commands call this function, too.
    photo = images.resize(images.load(PHOTO), (height, width))
    times: list[float] = []

    def note(step: Step) -> None:
        """Record the time at which a step at the last scale ended."""
        if step.image.shape[3] == width:
            times.append(time.perf_counter())

    stylize(photo, [images.load(PAINTING)], size=max(width, height), steps=STEPS, max_memory=limit, listeners=[note])
    step = statistics.median(later - sooner for sooner, later in itertools.pairwise(times))
    Path(note_into).write_text(f"{step:.1f} s")


def agreement(size: int = 1024, side: int = 400) -> str:
    """Return, as text, how much the loss and the gradient of a tiled picture differ from those of the untiled picture.

    ``size`` is the longer side of the picture in pixels, and ``side`` is the side of a tile in pixels.
    """
    photo, painting = images.fit(images.load(PHOTO), size), images.fit(images.load(PAINTING), size)
    network, preset = load("vgg16"), PRESETS["default"]
    image = (photo + 0.2 * torch.rand_like(photo)).clamp(0, 1)
    found = []
    for budget in (Budget(0, 10**6), Budget(0, side)):
        with capture(network, preset.layers) as activations_of:
            tiles_of = partial(budget.tiles, network, preset.layers)
            loss = total_loss(activations_of, photo, [Style(painting, size, [1.0])], preset, tiles_of)
            leaf = image.clone().requires_grad_()
            value = loss(leaf)
            [gradient] = torch.autograd.grad(value, leaf)
            found.append((value.item(), gradient, len(loss.tiles)))
    (value, gradient, _), (tiled, of_tiles, count) = found
    apart = ((of_tiles - gradient).norm() / gradient.norm()).item()
    return f"in {count} tiles: loss within {abs(tiled / value - 1):.0e}, gradient within {apart:.0e}"


def planned(width: int, height: int, optimizer: str) -> int:
    """Return the smallest memory limit, in bytes, with which a picture of this size can be painted on the CPU.

    The limit is computed, and nothing is painted.
    """
    network, layers, device = load("vgg16"), PRESETS["default"].layers, torch.device("cpu")
    with capture(network, layers, choose_dtype("auto", device)) as activations_of:
        per_pixel = bytes_of_a_pixel(activations_of, device)
    taken = memory(device, None)[1] + LOADED
    smallest = smallest_tile(network, layers)

    def fits(megabytes: int) -> bool:
        with suppress(ValueError):
            vectors = OPTIMIZERS[optimizer].VECTORS_PER_PAIR
            plan(megabytes * 10**6, taken, width * height, per_pixel, vectors, width * height, lambda: smallest)
            return True
        return False

    return 10**6 * bisect.bisect_left(range(10**6), True, key=fits)


def main() -> None:
    """Print the table for docs/benchmarks.md, and how much a tiled picture differs from an untiled picture."""
    for optimizer in OPTIMIZERS:
        least = planned(*LARGEST, optimizer) / 1e9
        print(f"{LARGEST[0]} x {LARGEST[1]} pixels with {optimizer} need at least {least:.1f} GB", flush=True)
    print("| picture | by default | with 4 GB |\n|---|---|---|")
    for width, height in SIZES:
        cells = []
        for limit in (None, LIMIT):
            with tempfile.TemporaryDirectory() as folder:
                step = Path(folder, "step")
                code = f"from benchmarks.tiling import one; one({width}, {height}, {limit}, {str(step)!r})"
                peak = run("python", "-c", code).peak
                cells.append(f"{step.read_text()}, {peak / 1e9:.1f} GB")
        print(f"| {width} x {height} | {' | '.join(cells)} |", flush=True)
    print(agreement())


if __name__ == "__main__":
    main()
