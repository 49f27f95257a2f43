"""Peak memory of whole commands over what the imports alone need: ``python -m benchmarks.memory``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.figure import Figure
from benchmarks.process import PAINTING, PHOTO, run

IMPORTS = "import torch, models, style_transfer.cli, image_optimization.optimize, activation_maximization.cli"
STEPS = 21
"""Enough to fill the memory of L-BFGS."""

SIZES = (256, 362, 512, 724, 1024)
"""Each with twice the pixels of the one before."""

FEW_STEPS = 5
"""At each of these sizes: what L-BFGS remembers is allocated at its first step."""


def measure() -> list[Figure]:
    base = run("python", "-c", IMPORTS).peak
    with tempfile.TemporaryDirectory() as folder:

        def stylize(size: int, steps: int, precision: str = "auto") -> int:
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
