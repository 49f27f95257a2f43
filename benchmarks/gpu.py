"""Measure correctness and speed on a GPU: ``python -m benchmarks.gpu`` (less than four minutes).

First, losses and pictures are compared with those computed on the CPU. Then, times are measured: of whole style
transfers and their steps, for each style loss, and of making pictures of filters. Last, the kernel launches, the copies
and the waits for the GPU in a step are counted. The printed table names the GPU; ``--write`` also puts the table into
docs/gpu.md. ``--device cpu`` does a dry run at small sizes.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.profiler import ProfilerActivity, profile

import dreamgram as dg
from dreamgram.image_optimization.optimize import Step

DOCUMENT = Path(__file__).parents[1] / "docs" / "gpu.md"
MARKS = "<!-- table -->\n", "<!-- end of table -->\n"
LOSSES = ("wasserstein", "gram", "nearest")
COUNTED = ("cudaStreamSynchronize", "Memcpy HtoD", "Memcpy DtoH", "cudaLaunchKernel")
"""Names of the profiler's events to count."""


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


def agreement(card: Card) -> dict[str, str]:
    """Compare style transfer with that on the CPU, and two runs of the digit network that have the same seed.

    For each style loss, the first loss and the picture of a style transfer in float32 are compared. The result maps the
    names of table rows to their texts.
    """
    rows = {}
    reference = dg.load("vgg16")
    for loss in LOSSES:
        how = {"size": 128, "steps": 4, "style_loss": loss, "precision": "float32"}
        ours, theirs = (dg.stylize(PHOTO, [PAINTING], model=model, **how) for model in (reference, card.vgg))
        first = abs(theirs.history[0][0] / ours.history[0][0] - 1).item()
        apart = (ours.image - theirs.image).abs().mean().item()
        rows[f"{loss}, against the CPU"] = f"first loss {first:.0e} apart, picture {apart:.0e} in the mean"
    digits = dg.load("digits").to(card.device)
    runs = [dg.maximize(digits, dg.logit(range(10)) - dg.sparing(), steps=16).images for _ in range(2)]
    rows["digits twice"] = "the same bits" if torch.equal(*runs) else "not the same bits"
    return rows


def style_transfer(card: Card) -> dict[str, str]:
    """Measure the time of a whole style transfer with half the default number of steps, and of a step at each scale.

    There is one run for each style loss and picture size. The result maps the names of table rows to their texts.
    """
    rows = {}
    for loss in LOSSES:
        for size in (64,) if card.small else (512, 1024):
            stamps: list[tuple[int, float]] = []

            def stamp(step: Step, stamps: list[tuple[int, float]] = stamps) -> None:
                stamps.append((step.image.shape[3], time.perf_counter()))

            dg.stylize(PHOTO, [PAINTING], model=card.vgg, size=size, steps=2, style_loss=loss)
            how = {"size": size, "steps": 4 if card.small else 50, "style_loss": loss}
            seconds = card.seconds(
                lambda how=how, stamp=stamp: dg.stylize(PHOTO, [PAINTING], model=card.vgg, listeners=[stamp], **how)  # type: ignore[misc]
            )
            pairs = [(a, b) for a, b in itertools.pairwise(stamps) if a[0] == b[0]]
            widths = sorted({width for width, _ in stamps})
            steps = [f"{1e3 * statistics.mean(b[1] - a[1] for a, b in pairs if a[0] == width):.1f}" for width in widths]
            rows[f"{loss}, {size} px"] = f"{seconds:.2f} s; {', '.join(steps)} ms a step at {widths} px"
    return rows


def filters(card: Card) -> dict[str, str]:
    """Measure the time of making pictures of 2, 64 and 512 units of relu4_1, with 128 steps at 128 pixels.

    The result maps the names of table rows to their texts.
    """
    rows = {}
    for count in (2,) if card.small else (2, 64, 512):
        objective = dg.channel("relu4_1", range(count))
        steps = 4 if card.small else 128
        dg.maximize(card.vgg, objective, size=128, steps=2)
        rows[f"{count} units of relu4_1"] = (
            f"{card.seconds(lambda o=objective, s=steps: dg.maximize(card.vgg, o, size=128, steps=s)):.2f} s"  # type: ignore[misc]
        )
    return rows


def waits(card: Card) -> dict[str, str]:
    """Count the synchronizations, copies and kernel launches of a step, for a style transfer and for two filters.

    The counts of a run with 16 steps are subtracted from those of a run with 32 steps, and the difference is divided by
    16. The result maps the names of table rows to their texts.
    """
    rows = {}
    activities = [ProfilerActivity.CPU, *([] if card.small else [ProfilerActivity.CUDA])]
    runs: dict[str, Callable[[int], object]] = {
        "wasserstein": lambda steps: dg.stylize(PHOTO, [PAINTING], model=card.vgg, size=96, steps=steps),
        "filters": lambda steps: dg.maximize(card.vgg, dg.channel("relu4_1", [0, 1]), size=128, steps=steps),
    }
    for name, run in runs.items():
        counts = []
        for steps in (16, 32):
            with profile(activities=activities) as measured:
                run(steps)
                card.wait()
            found = measured.key_averages()
            counts.append([sum(each.count for each in found if kind in each.key) for kind in COUNTED])
        each = [f"{(after - before) / 16:g} {kind}" for before, after, kind in zip(*counts, COUNTED, strict=True)]
        rows[f"{name}, a step"] = ", ".join(each)
    return rows


def main() -> None:
    """Measure all parts of the table for docs/gpu.md and print it; with ``--write``, also put it into the page."""
    parser = argparse.ArgumentParser(description="Measure correctness and speed on a GPU.")
    parser.add_argument("--device", default="cuda", help="Device to measure. cpu does a dry run at small sizes.")
    parser.add_argument("--write", action="store_true", help="Also put the table into docs/gpu.md.")
    given = parser.parse_args()
    card = Card(given.device)
    lines = [f"{card.name}, PyTorch {torch.__version__.partition('+')[0]}\n", "| what | measured |", "|---|---|"]
    print(*lines, sep="\n", flush=True)
    for part in (agreement, style_transfer, filters, waits):
        for name, result in part(card).items():
            lines.append(f"| {name} | {result} |")
            print(lines[-1], flush=True)
    if given.write:
        text = DOCUMENT.read_text(encoding="utf-8")
        before, after = text.partition(MARKS[0])[0], text.partition(MARKS[1])[2]
        DOCUMENT.write_text(before + MARKS[0] + "\n".join(lines) + "\n" + MARKS[1] + after, encoding="utf-8")


if __name__ == "__main__":
    main()
