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
from benchmarks.peers import REACHED, UNITS, lucent
from image_optimization.memory import keep_freed_memory
from models import load

STEPS, LEARNING_RATE = 112, 0.1
"""Chosen for these units: with twice our default rate the colours get as strong as lucent's, and the activation too."""


def measure() -> list[Figure]:
    keep_freed_memory()  # as the command does
    theirs = json.loads(REACHED.read_text())["lucent"]
    # Lucent enlarges the picture to 224 pixels for the network. Of its two activations, there and as it is, the larger.
    goals = [max(theirs[str(unit)].values()) for unit in UNITS]
    with tempfile.TemporaryDirectory() as folder:
        step = lucent(UNITS[0], 12, Path(folder, "picture.pt"))

    def figure(name: str, target: str, **settings: float) -> Figure:
        start = time.perf_counter()
        dreams = maximize(load("vgg16"), channel("relu4_1", UNITS), size=128, **settings)  # type: ignore[arg-type]
        seconds = (time.perf_counter() - start) / len(UNITS)
        lowest = min(ours / goal for ours, goal in zip(dreams.activations.tolist(), goals, strict=True))
        result = f"{seconds:.2g} s a picture, theirs {512 * step:.0f} s; activation at least {lowest:.2f} of theirs"
        reached = lowest >= 1 or not target
        return Figure(name, 512 * step / seconds if reached else math.nan, "x faster", target, result)

    return [
        figure("lucent's activation, relu4_1", ">= 30", steps=STEPS, learning_rate=LEARNING_RATE),
        figure("the same filters with our defaults", ""),
    ]


if __name__ == "__main__":
    print(*measure(), sep="\n")
