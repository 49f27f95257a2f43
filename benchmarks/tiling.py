"""A picture in tiles against one piece: memory, time, agreement: ``python -m benchmarks.tiling`` (eight minutes).

Photo and painting are enlarged to each size. Memory is the peak of the process, a step that of the last scale. The
agreement is that of the loss and of its gradient in float32, at a size that both can do.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.process import PAINTING, PHOTO, run
from image_optimization import images
from image_optimization.capture import capture
from image_optimization.memory import keep_freed_memory
from image_optimization.optimize import Step
from models import load
from style_transfer import PRESETS, stylize
from style_transfer.budget import Budget
from style_transfer.total import Style, total_loss

SIZES = ((512, 512), (1024, 1024), (1920, 1080), (3840, 2160))
LIMIT = 4 * 10**9
STEPS = 3


def one(width: int, height: int, limit: int | None, note_into: str) -> None:
    """In a process of its own: seconds a step, at the last scale."""
    keep_freed_memory()  # as the command does
    photo = images.resize(images.load(PHOTO), (height, width))
    times: list[float] = []

    def note(step: Step) -> None:
        if step.image.shape[3] == width:
            times.append(time.perf_counter())

    stylize(photo, [images.load(PAINTING)], size=max(width, height), steps=STEPS, max_memory=limit, listeners=[note])
    step = statistics.median(later - sooner for sooner, later in itertools.pairwise(times))
    Path(note_into).write_text(f"{step:.1f} s")


def agreement(size: int = 1024, side: int = 400) -> str:
    photo, painting = images.fit(images.load(PHOTO), size), images.fit(images.load(PAINTING), size)
    network, preset = load("vgg16"), PRESETS["default"]
    image = (photo + 0.2 * torch.rand_like(photo)).clamp(0, 1)
    found = []
    for budget in (Budget(0, 10**6), Budget(0, side)):
        with capture(network, preset.layers) as read:
            tiles_of = partial(budget.tiles, network, preset.layers)
            loss = total_loss(read, photo, [Style(painting, size, [1.0])], preset, tiles_of)
            leaf = image.clone().requires_grad_()
            value = loss(leaf)
            [gradient] = torch.autograd.grad(value, leaf)
            found.append((value.item(), gradient, len(loss.tiles)))
    (value, gradient, _), (tiled, of_tiles, count) = found
    apart = ((of_tiles - gradient).norm() / gradient.norm()).item()
    return f"in {count} tiles: loss within {abs(tiled / value - 1):.0e}, gradient within {apart:.0e}"


def main() -> None:
    print("| picture | in what is free | in 4 GB |\n|---|---|---|")
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
