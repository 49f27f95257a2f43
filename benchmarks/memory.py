"""Measure the peak memory of whole commands, minus that of their imports: ``python -m benchmarks.memory``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.figure import Figure
from benchmarks.process import PAINTING, PHOTO, run

IMPORTS = (
    "import torch, dreamgram.models, dreamgram.style_transfer.cli, dreamgram.image_optimization.optimize, "
    "dreamgram.activation_maximization.cli"
)
"""Python program that only imports modules. Its peak memory is subtracted from that of the commands."""

STEPS = 21
"""Number of steps at the last scale, more than the number of curvature pairs that L-BFGS stores."""

SIZES = (256, 362, 512, 724, 1024)
"""Sides of square pictures in pixels. Each picture has about twice as many pixels as the previous one."""

FEW_STEPS = 5
"""Number of steps at the last scale for the pictures whose sides are :data:`SIZES`.

A few steps suffice, because L-BFGS allocates all its memory at the first step.
"""


def measure() -> list[Figure]:
    """Measure the peak memory of style transfer at several sizes, and of making a sheet of 64 filters."""
    base = run("python", "-c", IMPORTS).peak
    with tempfile.TemporaryDirectory() as folder:

        def stylize(size: int, steps: int, precision: str = "auto") -> int:
            """Return the peak memory of a style transfer in bytes, minus that of the imports."""
            options = ["--size", size, "--steps", steps, "--precision", precision, "--device", "cpu"]
            output = ["--output", Path(folder, "stylized.png"), "--overwrite"]
            return run("stylize", PHOTO, "--style", PAINTING, *options, *output).peak - base

        usual, exact = stylize(512, STEPS), stylize(512, STEPS, "float32")
        peaks = np.array([stylize(size, FEW_STEPS) for size in SIZES])
        sheet = ["--layer", "relu4_1", "--units", "0-63", "--steps", 3, "--device", "cpu"]
        filters = run("dream", "units", "--model", "vgg16", *sheet, "--output", Path(folder, "units.png")).peak - base
    pixels = np.square(SIZES)
    slope, start = np.polyfit(pixels, peaks, 1)
    away = np.abs(peaks / (start + slope * pixels) - 1).max()
    line = f"{start / 1e9:.2f} GB and that for every pixel; from {SIZES[0]} to {SIZES[-1]} px within {100 * away:.0f} %"
    return [
        Figure("stylize, 512 x 512, memory", usual / 1e9, "GB", "<= 1.2"),
        Figure("stylize, 512 x 512, float32, memory", exact / 1e9, "GB", ""),
        Figure("stylize, memory of a pixel", slope / 1e3, "kB", "linear", line),
        Figure("64 filters of VGG-16, 128 x 128, memory", filters / 1e9, "GB", "<= 2"),
    ]


if __name__ == "__main__":
    print(*measure(), sep="\n")
