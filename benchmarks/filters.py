"""Filters of VGG-16 to the activation that lucent reaches in its 512 steps: ``python -m benchmarks.filters``.

Our time is that of loading the network and of the whole batch, divided by the pictures; lucent's is its seconds a step,
measured beside ours, times its steps. The activation is that of the finished picture, without transforms.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path

from activation_maximization import channel, maximize
from benchmarks.figure import Figure
from benchmarks.peers import LAYER, REACHED, TIMED, lucent
from image_optimization.memory import keep_freed_memory
from models import load


def measure() -> list[Figure]:
    keep_freed_memory()  # as the command does
    theirs = json.loads(REACHED.read_text())["lucent"]
    # Lucent enlarges the picture to 224 pixels for the network. Of its two activations, there and as it is, the larger.
    goals = [max(theirs[str(unit)].values()) for unit in TIMED]
    with tempfile.TemporaryDirectory() as folder:
        step = lucent(TIMED[0], 12, Path(folder, "picture.pt"))
    start = time.perf_counter()
    dreams = maximize(load("vgg16"), channel(LAYER, TIMED), size=128)
    seconds = (time.perf_counter() - start) / len(TIMED)
    lowest = min(ours / goal for ours, goal in zip(dreams.activations.tolist(), goals, strict=True))
    result = f"{seconds:.2g} s a picture, theirs {512 * step:.0f} s; activation at least {lowest:.2f} of theirs"
    value = 512 * step / seconds if lowest >= 1 else math.nan
    return [Figure("lucent's activation, relu4_1", value, "x faster", ">= 30", result)]


if __name__ == "__main__":
    print(*measure(), sep="\n")
