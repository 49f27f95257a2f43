"""Measure the time until a style transfer reaches neural-style's loss: ``python -m benchmarks.stylize``.

The losses of both programs are those of the saved files, computed in float32 by ``benchmarks/gatys_loss.py``. Our time
is that of the whole command. neural-style saves a file every 50 iterations. Its time is the number of iterations up to
the first file whose loss is at most the loss to reach, times the time of an iteration, which this benchmark measures.
Later files can have a higher loss, because the pixels of neural-style leave [0, 1] after some hundreds of iterations
and are clipped in the file.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.gatys_loss import gatys_loss
from benchmarks.peers import REACHED, SIZE, neural_style
from benchmarks.process import PAINTING, PHOTO, run

STEPS = 44
"""Number of steps at the last scale, enough to reach the loss of neural-style's best file."""


def measure() -> list[Figure]:
    """Measure how many times faster ``stylize --preset gatys`` reaches three losses than neural-style does.

    The command is run with ``--steps`` :data:`STEPS` and with the default number of steps.
    """
    losses = {int(iterations): loss for iterations, loss in json.loads(REACHED.read_text())["neural-style"].items()}
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "stylized.png")
        iteration = neural_style(8, picture)

        def stylize(*options: object) -> tuple[float, float]:
            """Return the time of the command ``stylize`` in seconds and the loss of the file that it saves."""
            command = ["stylize", PHOTO, "--style", PAINTING, "--preset", "gatys", "--size", SIZE, "--device", "cpu"]
            seconds = run(*command, *options, "--output", picture, "--overwrite").seconds
            return seconds, gatys_loss(PHOTO, PAINTING, picture, SIZE)

        ours, default = stylize("--steps", STEPS), stylize()

    def figure(name: str, goal: float, ours: tuple[float, float], target: str) -> Figure:
        """Compare ``ours``, a time and a loss, with the time that neural-style needs to reach the loss ``goal``."""
        first = min(iterations for iterations, loss in losses.items() if loss <= goal)
        seconds, loss = ours
        theirs = first * iteration
        result = f"{seconds:.0f} s to {loss:.4g}; theirs {theirs:.0f} s ({first} iterations) to {losses[first]:.4g}"
        return Figure(name, theirs / seconds if loss <= goal else math.nan, "x faster", target, result)

    return [
        figure("neural-style's loss after 500 iterations", losses[500], ours, ">= 5, aim 10"),
        figure("neural-style's loss after 1000 iterations", losses[1000], ours, ">= 5, aim 10"),
        figure("its best loss, with our default steps", min(losses.values()), default, ""),
    ]


if __name__ == "__main__":
    print(*measure(), sep="\n")
