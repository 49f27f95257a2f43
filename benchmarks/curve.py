"""The Gatys loss against seconds, beside neural-style: ``python -m benchmarks.curve`` (six minutes).

At 256 and 512 pixels, the same photo, painting and weights. The loss is always that of the saved file, by
``benchmarks/gatys_loss.py``. Our seconds are of the whole command; neural-style's are its median seconds an iteration,
measured here, times iterations, and without loading.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.gatys_loss import gatys_loss
from benchmarks.peers import REACHED, SAVED_EVERY, SIZE, neural_style
from benchmarks.process import PAINTING, PHOTO, run
from image_optimization import images

SMALL = SIZE // 2
STEPS = (10, 20, 50, 100)
"""At each scale."""

ITERATIONS = (100, 200, 300, 400)


def small(path: Path, folder: Path) -> Path:
    """The same picture for both programs: they would make it smaller in ways of their own."""
    return images.save(images.fit(images.load(path), SMALL), folder / f"{path.stem}.png")


def ours(photo: Path, painting: Path, size: int, folder: Path) -> dict[float, float]:
    curve = {}
    for steps in STEPS:
        picture = folder / f"ours-{size}-{steps}.png"
        how = ["--preset", "gatys", "--size", size, "--steps", steps, "--device", "cpu"]
        seconds = run("stylize", photo, "--style", painting, *how, "--output", picture).seconds
        curve[seconds] = gatys_loss(photo, painting, picture, size)
    return curve


def theirs(photo: Path, painting: Path, size: int, folder: Path) -> dict[float, float]:
    """Their losses at full size are known from ``benchmarks/peers.json``."""
    picture = folder / f"theirs-{size}.png"
    if size == SIZE:
        iteration = neural_style(8, picture)
        reached = json.loads(REACHED.read_text())["neural-style"]
        return {count * iteration: reached[str(count)] for count in ITERATIONS}
    iteration = neural_style(ITERATIONS[-1] + SAVED_EVERY, picture, photo, painting, size)
    files = {count: picture.with_stem(f"{picture.stem}_{count}") for count in ITERATIONS}
    return {count * iteration: gatys_loss(photo, painting, file, size) for count, file in files.items()}


def main() -> None:
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
