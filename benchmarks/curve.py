"""Measure the Gatys loss over time for Dreamgram and neural-style: ``python -m benchmarks.curve`` (six minutes).

Both programs get the same photo, painting and weights, at 256 and at 512 pixels. The loss is always that of the saved
file, computed by ``benchmarks/gatys_loss.py``. Our time is that of the whole command. The time of neural-style does not
include loading. It is the number of iterations times the median time of an iteration, which is measured in the same run
of this benchmark as our time.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.gatys_loss import gatys_loss
from benchmarks.peers import REACHED, SAVED_EVERY, SIZE, neural_style
from benchmarks.process import PAINTING, PHOTO, run
from dreamgram.image_optimization import images

SMALL = SIZE // 2
"""Longer side of the smaller copies of the pictures, in pixels."""

STEPS = (10, 20, 50, 100)
"""Numbers of steps at the last scale, one number for each point of Dreamgram's curve."""

ITERATIONS = (100, 200, 300, 400)
"""Numbers of iterations, one number for each point of neural-style's curve."""


def small(path: Path, folder: Path) -> Path:
    """Save a smaller copy of a picture in ``folder``, and return its path.

    Both programs get this copy, because they would downsample the picture in different ways.
    """
    return images.save(images.fit(images.load(path), SMALL), folder / f"{path.stem}.png")


def ours(photo: Path, painting: Path, size: int, folder: Path) -> dict[float, float]:
    """Run Dreamgram with each number of :data:`STEPS`. Return a mapping from its time in seconds to its loss."""
    curve = {}
    for steps in STEPS:
        picture = folder / f"ours-{size}-{steps}.png"
        how = ["--preset", "gatys", "--size", size, "--steps", steps, "--device", "cpu"]
        seconds = run("stylize", photo, "--style", painting, *how, "--output", picture).seconds
        curve[seconds] = gatys_loss(photo, painting, picture, size)
    return curve


def theirs(photo: Path, painting: Path, size: int, folder: Path) -> dict[float, float]:
    """Return a mapping from neural-style's time in seconds to its loss, for each number of :data:`ITERATIONS`.

    If ``size`` is :data:`SIZE`, the losses are read from ``benchmarks/peers.json`` and only the time is measured.
    """
    picture = folder / f"theirs-{size}.png"
    if size == SIZE:
        iteration = neural_style(8, picture)
        reached = json.loads(REACHED.read_text())["neural-style"]
        return {count * iteration: reached[str(count)] for count in ITERATIONS}
    iteration = neural_style(ITERATIONS[-1] + SAVED_EVERY, picture, photo, painting, size)
    files = {count: picture.with_stem(f"{picture.stem}_{count}") for count in ITERATIONS}
    return {count * iteration: gatys_loss(photo, painting, file, size) for count, file in files.items()}


def main() -> None:
    """Print the table of times and losses for docs/benchmarks.md."""
    print("| size | program | seconds to loss |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pairs = {SMALL: (small(PHOTO, folder), small(PAINTING, folder)), SIZE: (PHOTO, PAINTING)}
        for size, pair in pairs.items():
            for name, measure in {"Dreamgram": ours, "neural-style": theirs}.items():
                curve = measure(*pair, size, folder)
                cells = ", ".join(f"{seconds:.0f} s {loss:.3g}" for seconds, loss in curve.items())
                print(f"| {size} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
