"""Measure how much memory long jobs still need after their first pictures: ``python -m benchmarks.leaks``.

Three jobs run, each in a process of its own: ``stylize`` paints a folder of photos, and a Python program calls
``stylize`` and ``maximize`` repeatedly. Each figure is the resident memory at the end minus that after the tenth
picture. A job that frees the memory of each picture needs the same memory from then on.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.figure import Figure

PHOTOS, CALLS, FIRST = 300, 100, 10
"""Number of photos in the folder, number of calls from Python, and number of pictures after which the memory counts."""

SIDE, STEPS = 64, 2
"""Longer side of the pictures in pixels, and number of optimization steps."""

REPORT = """
import sys, psutil
def report(): print(psutil.Process().memory_info().rss, flush=True)
"""
"""Beginning of the Python programs, which print the memory after every picture."""

COMMAND = """
from dreamgram.workbench.job import Job
wrote = Job.wrote
Job.wrote = lambda *arguments: (wrote(*arguments), report())
from dreamgram.style_transfer.cli import main
main()
"""
"""Python program that runs ``stylize`` with its arguments."""

PICTURES = """
import torch, dreamgram as dg
photo, painting = torch.rand(1, 3, {side}, {side}), torch.rand(1, 3, {side}, {side})
vgg, digits = dg.load("vgg16"), dg.load("digits")
"""
"""Python program that prepares the calls from Python."""

CALL = {
    "stylize": "dg.stylize(photo, [painting], model=vgg, size={side}, steps={steps})",
    "maximize": "dg.maximize(digits, dg.channel('conv2', [1, 2]), steps={steps})",
}
"""Calls from Python, by the name of the function."""


def measure() -> list[Figure]:
    """Measure the additional memory of a folder of photos, and of repeated calls of two functions."""
    figures = [_figure(f"stylize, folder of {PHOTOS} photos, more memory after the tenth", _of_folder(PHOTOS))]
    for name, call in CALL.items():
        code = PICTURES + f"for _ in range({CALLS}):\n    {call}\n    report()\n"
        memory = _memory(REPORT + code.format(side=SIDE, steps=STEPS))
        figures.append(_figure(f"{name} from Python, {CALLS} calls, more memory after the tenth", memory))
    return figures


def _of_folder(photos: int) -> list[int]:
    """Return the resident memory in bytes after each photo of a folder of random pictures."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "photos")
        folder.mkdir()
        for number in range(photos):
            pixels = random.integers(0, 256, (SIDE, SIDE - number % 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:04}.png")
        options = ["--style", "marbling", "--size", SIDE, "--steps", STEPS, "--quiet", "-o", Path(place, "out")]
        return _memory(REPORT + COMMAND, folder, *options)


def _memory(code: str, *arguments: object) -> list[int]:
    """Run a Python program that prints its memory in bytes after each picture, and return these numbers."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [int(line) for line in run.stdout.split()]


def _figure(name: str, memory: list[int]) -> Figure:
    return Figure(name, (memory[-1] - memory[FIRST - 1]) / 1e6, "MB", "<= 60", f"{memory[-1] / 1e6:.0f} MB at the end")


if __name__ == "__main__":
    print(*measure(), sep="\n")
