"""Measure correctness and speed on a GPU: ``python -m benchmarks.gpu`` (less than four minutes).

First, losses and pictures are compared with those computed on the CPU, and pictures made with replayed steps (CUDA
graphs) are compared with pictures made with ordinary steps. Then, times are measured: of whole style transfers and
their steps, of making pictures of filters, and of both tasks with compiled networks. Last, the waits for the GPU, the
copies and the launches in a step are counted, and the times of the kernels in a step are added up. The printed table
names the GPU; ``--write`` also puts the table into docs/gpu.md. ``--device cpu`` does a dry run at small sizes.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn.functional import interpolate
from torch.profiler import ProfilerActivity, profile

import dreamgram as dg
from dreamgram.image_optimization import recording
from dreamgram.image_optimization.optimize import Step
from dreamgram.style_transfer.budget import Budget
from dreamgram.style_transfer.stylizer import Stylized

DOCUMENT = Path(__file__).parents[1] / "docs" / "gpu.md"
MARKS = "<!-- table -->\n", "<!-- end of table -->\n"
LOSSES = ("wasserstein", "gram", "nearest")
COUNTED = ("cudaStreamSynchronize", "Memcpy HtoD", "Memcpy DtoH", "cudaLaunchKernel", "cudaGraphLaunch")
"""Names of the profiler's events to count."""

SIZES = {"wasserstein": (512, 1024, 2048, 3840), "gram": (512, 1024), "nearest": (512, 1024)}
"""Longer sides, in pixels, of the pictures that are made with each style loss."""


def picture(seed: int, height: int, width: int) -> Tensor:
    """Return a smooth random picture (1, 3, H, W) with the random ``seed``, so that no picture file is needed."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 12, 16, generator=generator)
    return interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


PHOTO, PAINTING = picture(1, 768, 1024), picture(2, 800, 1000)


class Card:
    """The device to measure, with VGG-16 loaded onto it."""

    def __init__(self, device: str) -> None:
        """Load VGG-16 onto ``device``, such as ``cuda``."""
        self.device = torch.device(device)
        self.small = self.device.type == "cpu"
        self.name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else device
        self.vgg: nn.Module = dg.load("vgg16").to(self.device)

    def seconds(self, function: Callable[[], object]) -> float:
        """Return the time in seconds that ``function`` takes, including the kernels that it launches."""
        self.wait()
        start = time.perf_counter()
        function()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Wait until the device has finished all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def paint(self, size: int, **how: Any) -> Stylized:
        """Return the result of a style transfer. The longer side of the picture has ``size`` pixels."""
        return dg.stylize(PHOTO, [PAINTING], model=self.vgg, size=size, **how)


@contextmanager
def without_replay() -> Iterator[None]:
    """Run every step of the ``with`` block normally, without recording or replaying."""
    kept = dict(recording.GRAPHS)
    recording.GRAPHS.clear()
    try:
        yield
    finally:
        recording.GRAPHS.update(kept)


def agreement(card: Card) -> dict[str, str]:
    """Compare style transfer on the GPU with style transfer on the CPU, for each style loss, in float32.

    The result maps the name of each table row to its text. Each text says how much the first loss and the picture
    differ.
    """
    rows = {}
    reference = dg.load("vgg16")
    for loss in LOSSES:
        how = {"size": 128, "steps": 4, "style_loss": loss, "precision": "float32"}
        ours, theirs = (dg.stylize(PHOTO, [PAINTING], model=model, **how) for model in (reference, card.vgg))
        first = abs(theirs.history[0][0] / ours.history[0][0] - 1).item()
        apart = (ours.image - theirs.image).abs().mean().item()
        rows[f"{loss}, against the CPU"] = f"first loss {first:.0e} apart, picture {apart:.0e} in the mean"
    return rows


def replays(card: Card) -> dict[str, str]:
    """Compare replayed steps with ordinary ones. The result maps the name of each table row to its text."""
    rows = {}
    size, steps = (64, 3) if card.small else (256, 24)
    for loss in LOSSES:
        for tiles in ("", " in tiles"):
            how: dict[str, Any] = {"style_loss": loss, "steps": steps, "scales": [size]}
            if tiles:
                how["plan"] = [Budget(5, size * 3 // 4)]
            pictures = [card.paint(size, **how).image]
            with without_replay():
                pictures += [card.paint(size, **how).image for _ in range(2)]
            rows[f"{loss}{tiles}, replayed and ordinary steps"] = compared(pictures)
    digits = dg.load("digits").to(card.device)
    runs: dict[str, Callable[[], Tensor]] = {
        "digits": lambda: dg.maximize(digits, dg.logit(range(10)) - dg.sparing(), steps=steps).images,
        "filters": lambda: dg.maximize(card.vgg, dg.channel("relu3_1", [0, 1]), size=64, steps=steps).images,
    }
    for name, run in runs.items():
        pictures = [run()]
        with without_replay():
            pictures += [run() for _ in range(2)]
        rows[f"{name}, replayed and ordinary steps"] = compared(pictures)
    return rows


def compared(pictures: list[Tensor]) -> str:
    """Describe how much three pictures differ: one made with replayed steps, and then two made with ordinary steps."""
    replayed, first, second = pictures
    return f"{difference(replayed, first)}; two ordinary runs: {difference(first, second)}"


def difference(a: Tensor, b: Tensor) -> str:
    """Describe how much two pictures differ."""
    return "bit-identical" if torch.equal(a, b) else f"mean difference {(a - b).abs().mean().item():.0e}"


def style_transfer(card: Card) -> dict[str, str]:
    """Measure the time of a style transfer with the default number of steps, and the mean time of a step at each scale.

    There is one run for each style loss and picture size. The result maps the name of each table row to its text.
    """
    rows = {}
    for loss in LOSSES:
        for size in (64,) if card.small else SIZES[loss]:
            stamps: list[tuple[int, float]] = []
            counts: Counter[int] = Counter()

            def stamp(step: Step, stamps: list[tuple[int, float]] = stamps, counts: Counter[int] = counts) -> None:
                width = step.image.shape[3]
                counts[width] += 1  # the number of steps at this scale
                if counts[width] % 16 == 1:  # the losses of the 16 steps before have been read
                    stamps.append((width, time.perf_counter()))

            how = {"style_loss": loss, **({"steps": 4} if card.small else {})}
            card.paint(min(size, 512), style_loss=loss, steps=4)
            if not card.small:
                torch.cuda.reset_peak_memory_stats()
            seconds = card.seconds(lambda size=size, how=how, stamp=stamp: card.paint(size, listeners=[stamp], **how))  # type: ignore[misc]
            pairs = [(a, b) for a, b in itertools.pairwise(stamps) if a[0] == b[0]]
            widths = sorted({a[0] for a, _ in pairs})
            steps = [f"{1e3 * statistics.mean(b[1] - a[1] for a, b in pairs if a[0] == w) / 16:.1f}" for w in widths]
            peak = "" if card.small else f"; {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
            rows[f"{loss}, {size} px"] = f"{seconds:.2f} s; {', '.join(steps)} ms a step at {widths} px{peak}"
    return rows


def filters(card: Card) -> dict[str, str]:
    """Measure the time of making pictures of 2, 64 and 512 units of relu4_1, with 128 steps at 128 pixels.

    The result maps the name of each table row to its text.
    """
    rows = {}
    for count in (2,) if card.small else (2, 64, 512):
        objective = dg.channel("relu4_1", range(count))
        steps = 4 if card.small else 128
        dg.maximize(card.vgg, dg.channel("relu4_1", range(min(count, 64))), size=128, steps=4)
        rows[f"{count} units of relu4_1"] = (
            f"{card.seconds(lambda o=objective, s=steps: dg.maximize(card.vgg, o, size=128, steps=s)):.2f} s"  # type: ignore[misc]
        )
    return rows


def compiled(card: Card) -> dict[str, str]:
    """Measure the times of two tasks with compiled networks. The result maps the name of each table row to its text."""
    rows = {}
    count, steps, size = (2, 2, 48) if card.small else (512, 128, 512)
    units = dg.channel("relu4_1", range(count))
    few = {"steps": 2} if card.small else {}
    runs: dict[str, Callable[[], object]] = {
        f"{count} units of relu4_1": partial(dg.maximize, card.vgg, units, size=128, steps=steps, compile=True),
        f"gram, {size} px": partial(card.paint, size, style_loss="gram", compile=True, **few),
    }
    for name, run in runs.items():
        first, second = card.seconds(run), card.seconds(run)
        rows[f"{name}, compiled"] = f"{second:.2f} s; the first run, which compiles, {first:.1f} s"
    return rows


def waits(card: Card) -> dict[str, str]:
    """Count the synchronizations, copies and launches of a step, and measure how long kernels run in a step.

    The counts of a run with 16 steps are subtracted from those of a run with 48 steps, and the difference is divided by
    32. The result maps the name of each table row to its text.
    """
    rows = {}
    activities = [ProfilerActivity.CPU, *([] if card.small else [ProfilerActivity.CUDA])]
    size = 64 if card.small else 512
    runs: dict[str, Callable[..., object]] = {
        f"{loss}, {size} px": partial(card.paint, size, scales=[size], style_loss=loss) for loss in LOSSES
    }
    runs["2 filters"] = lambda steps: dg.maximize(card.vgg, dg.channel("relu4_1", [0, 1]), size=128, steps=steps)
    for name, run in runs.items():
        counts, kernels = [], []
        few, many = (2, 4) if card.small else (16, 48)
        run(steps=few)
        seconds = [card.seconds(partial(run, steps=steps)) for steps in (few, many)]
        for steps in (few, many):
            with profile(activities=activities) as measured:
                run(steps=steps)
                card.wait()
            found = measured.key_averages()
            counts.append([sum(each.count for each in found if kind in each.key) for kind in COUNTED])
            kernels.append(sum(each.self_device_time_total for each in found if each.device_type == DeviceType.CUDA))
        each = [
            f"{(after - before) / (many - few):.2g} {kind}"
            for before, after, kind in zip(*counts, COUNTED, strict=True)
        ]
        step, busy = (1e3 * (seconds[1] - seconds[0]) / (many - few), 1e-3 * (kernels[1] - kernels[0]) / (many - few))
        rows[f"{name}, a step"] = f"{step:.2f} ms; kernel times add up to {busy:.2f} ms; {', '.join(each)}"
    return rows


def main() -> None:
    """Measure and print the table for docs/gpu.md; with ``--write``, also put the table into that page."""
    parser = argparse.ArgumentParser(description="Measure correctness and speed on a GPU.")
    parser.add_argument("--device", default="cuda", help="Device to measure. cpu does a dry run at small sizes.")
    parser.add_argument("--write", action="store_true", help="Also put the table into docs/gpu.md.")
    given = parser.parse_args()
    card = Card(given.device)
    lines = [f"{card.name}, PyTorch {torch.__version__.partition('+')[0]}\n", "| what | measured |", "|---|---|"]
    print(*lines, sep="\n", flush=True)
    for part in (agreement, replays, style_transfer, filters, compiled, waits):
        for name, result in part(card).items():
            lines.append(f"| {name} | {result} |")
            print(lines[-1], flush=True)
    different = [line for line in lines if "replayed" in line and any(loss in line for loss in LOSSES)]
    different = [line for line in different if "mean difference" in line]
    if given.write:
        text = DOCUMENT.read_text(encoding="utf-8")
        before, after = text.partition(MARKS[0])[0], text.partition(MARKS[1])[2]
        DOCUMENT.write_text(before + MARKS[0] + "\n".join(lines) + "\n" + MARKS[1] + after, encoding="utf-8")
    if different:
        sys.exit("replayed steps of style transfer must give the same picture as ordinary steps")


if __name__ == "__main__":
    main()
