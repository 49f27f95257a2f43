"""Measure the time to activate a filter of VGG-16 as much as lucent does: ``python -m benchmarks.filters``.

The activation that lucent's picture reaches after 512 steps is read from ``benchmarks/peers.json``. Our time is the
time of loading the network and making a batch of pictures, divided by the number of pictures. The time of lucent is 512
times the time of a step, which is measured in the same run of this benchmark as our time. All activations are measured
on the finished pictures, without the random transforms of the optimization.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.peers import LAYER, REACHED, TIMED, lucent
from dreamgram.activation_maximization.gradient_ascent import maximize
from dreamgram.activation_maximization.objectives import channel
from dreamgram.image_optimization.memory import keep_freed_memory
from dreamgram.models import load


def measure() -> list[Figure]:
    """Measure how many times faster Dreamgram makes a picture of a filter than lucent does.

    Dreamgram makes four pictures in one batch. Lucent makes one at a time.
    """
    keep_freed_memory()  # The commands call this function, too.
    theirs = json.loads(REACHED.read_text())["lucent"]
    # Lucent enlarges the picture to 224 pixels for the network. The goal is the larger activation of the two sizes.
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
