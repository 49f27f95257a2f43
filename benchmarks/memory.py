"""Peak memory of whole commands over what the imports alone need: ``python -m benchmarks.memory``."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.process import PAINTING, PHOTO, run

IMPORTS = "import torch, models, style_transfer.cli, image_optimization.optimize, activation_maximization.cli"
STEPS = 21
"""Enough to fill the memory of L-BFGS."""

SIZES = (362, 512, 724)
"""Each with twice the pixels of the one before."""


def measure() -> list[Figure]:
    base = run("python", "-c", IMPORTS).peak
    with tempfile.TemporaryDirectory() as folder:

        def stylize(size: int, precision: str) -> int:
            output = Path(folder, f"{size}-{precision}.png")
            options = ["--size", size, "--steps", STEPS, "--precision", precision, "--device", "cpu"]
            return run("stylize", PHOTO, "--style", PAINTING, *options, "--output", output).peak - base

        peaks = [stylize(size, "auto") for size in SIZES]
        exact = stylize(512, "float32")
        sheet = ["--layer", "relu4_1", "--units", "0-63", "--steps", 3, "--device", "cpu"]
        filters = (
            run("dream", "filters", "--model", "vgg16", *sheet, "--output", Path(folder, "filters.png")).peak - base
        )
    slopes = [
        (after - before) / (large**2 - small**2)
        for before, after, small, large in zip(peaks, peaks[1:], SIZES, SIZES[1:], strict=False)
    ]
    below = f"{slopes[0] / 1e3:.2f} kB from 362 to 512"
    return [
        Figure("stylize, 512 x 512, memory", peaks[1] / 1e9, "GB", "<= 1.2"),
        Figure("stylize, 512 x 512, float32, memory", exact / 1e9, "GB", ""),
        Figure("stylize, memory of a pixel from 512 to 724", slopes[1] / 1e3, "kB", "linear", below),
        Figure("64 filters of VGG-16, 128 x 128, memory", filters / 1e9, "GB", "<= 2"),
    ]


if __name__ == "__main__":
    print(*measure(), sep="\n")
