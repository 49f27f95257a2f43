"""Measure the time of whole commands with the digit network, start included: ``python -m benchmarks.digits``."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.process import run

BOTH = """
import os, sys
os.chdir(sys.argv[1])
from dreamgram.activation_maximization.cli import main
for name in "units --units all", "digits":
    sys.argv[1:] = [*name.split(), "--output", name.split()[0] + ".png"]
    try:
        main()
    except SystemExit as end:
        assert not end.code
"""
"""Python program that makes a sheet of filters and a sheet of digits in one process. Its argument is the folder in
which it saves them."""


def measure() -> list[Figure]:
    """Measure the times of the program :data:`BOTH`, of ``dream digits`` with one step, and of ``dream --help``."""
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
