"""The digits network, and how long a command takes to begin: ``python -m benchmarks.digits``."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.process import run

BOTH = """
import os, sys
os.chdir(sys.argv[1])
from activation_maximization.cli import app
from image_optimization import console
for name in "units --units all", "digits":
    sys.argv[1:] = [*name.split(), "--output", name.split()[0] + ".png"]
    try:
        console.run(app, "dream")
    except SystemExit as end:
        assert not end.code
"""


def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        both = run("python", "-c", BOTH, folder)
        first = run("dream", "digits", "--steps", 1, "--output", Path(folder, "first.png"))
    helped = run("dream", "--help")
    return [
        Figure("50 filters + 10 digits, both sheets, one process", both.seconds, "s", "<= 3"),
        Figure("dream digits with a single step, whole process", first.seconds, "s", "< 3"),
        Figure("dream --help", helped.seconds, "s", "< 0.5"),
    ]


if __name__ == "__main__":
    print(*measure(), sep="\n")
