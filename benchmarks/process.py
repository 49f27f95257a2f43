"""Run a command as a user would, and say how long it took and how much memory it needed at its peak."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PICTURES = Path(__file__).parent / "pictures"
PHOTO, PAINTING = PICTURES / "astronaut.jpg", PICTURES / "the_scream.png"
"""Eileen Collins by NASA, and The Scream by Edvard Munch, 1893; both in the public domain."""

MODULES = {"dream": "activation_maximization.cli", "stylize": "style_transfer.cli"}


@dataclass(frozen=True)
class Finished:
    seconds: float
    """From launch to exit, imports included."""
    peak: int
    """Largest resident set in bytes."""


def run(*command: object) -> Finished:
    """Run ``dream ...``, ``stylize ...`` or Python with the arguments given; raises if it fails."""
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
