"""Measure how much the memory of long jobs grows after their first pictures: ``python -m benchmarks.leaks``.

Three jobs run, each in a process of its own. The first job paints a folder of photos with the command ``stylize``. The
other two jobs call ``stylize`` or ``maximize`` repeatedly from Python. Each figure is the resident memory at the end
minus the resident memory after the tenth picture. If a job frees the memory of each picture, this difference is almost
zero.
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
"""Number of photos in the folder, number of calls from Python, and number of pictures that are made before the growth
of the memory is measured."""

SIDE, STEPS = 64, 2
"""Longer side of the pictures in pixels, and number of optimization steps."""

REPORT = """
import sys, psutil
def report(): print(psutil.Process().memory_info().rss, flush=True)
"""
"""Beginning of the Python programs. It defines a function that prints the resident memory in bytes."""

COMMAND = """
from dreamgram.workbench.job import Job
wrote = Job.wrote
Job.wrote = lambda *arguments: (wrote(*arguments), report())
from dreamgram.style_transfer.cli import main
main()
"""
"""Python program that runs the command ``stylize`` with its arguments, and reports the memory after each picture."""

PICTURES = """
import torch, dreamgram as dg
photo, painting = torch.rand(1, 3, {side}, {side}), torch.rand(1, 3, {side}, {side})
vgg, digits = dg.load("vgg16"), dg.load("digits")
"""
"""Python code that prepares the calls in :data:`CALL`."""

CALL = {
    "stylize": "dg.stylize(photo, [painting], model=vgg, size={side}, steps={steps})",
    "maximize": "dg.maximize(digits, dg.channel('conv2', [1, 2]), steps={steps})",
}
"""Calls from Python, by the name of the function."""


def measure() -> list[Figure]:
    """Measure how much the memory grows while a folder of photos is painted and while two functions are called."""
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
