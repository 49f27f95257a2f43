"""Run a command as a user would, and measure the time and the peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PICTURES = Path(__file__).parent / "pictures"
"""Folder with the pictures for the benchmarks."""

PHOTO = PICTURES / "astronaut.jpg"
"""Photo of Eileen Collins by NASA (public domain)."""

PAINTING = PICTURES / "the_scream.png"
"""The Scream by Edvard Munch, 1893 (public domain)."""

MODULES = {"dream": "dreamgram.activation_maximization.cli", "stylize": "dreamgram.style_transfer.cli"}
"""Module that implements each command, by the command's name."""


@dataclass(frozen=True)
class Finished:
    """The time and the memory that a finished command took."""

    seconds: float
    """Time from launch to exit in seconds, including imports."""
    peak: int
    """Peak memory (largest resident set) in bytes."""


def run(*command: object) -> Finished:
    """Run a ``dream`` or ``stylize`` command, and measure its time and peak memory.

    If the first word of ``command`` is neither ``dream`` nor ``stylize``, Python is run with the remaining words.

    Raises:
        RuntimeError: the command failed.
    """
    tool, *arguments = map(str, command)
    if tool in MODULES:
        arguments = ["-m", MODULES[tool], *arguments]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed")
    return Finished(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
