"""Animations that show the progress of an optimization."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dreamgram.image_optimization.images import fit, replacing
from dreamgram.image_optimization.optimize import Step
from dreamgram.image_optimization.video import add_pictures, load_av, to_frame

FRAMES = 48
"""Largest number of frames in an animation."""

FRAME_SIDE = 1024
"""Largest width or height, in pixels, of each image in a frame. Larger images are scaled down, because all images are
kept in memory, and because animations are watched on screens."""

ANIMATION_LIMITS = {"webp": 16_383, "gif": 65_535, "mp4": 16_384}
"""Largest width and height of a frame, in pixels, by file extension."""

FRAME_TIME = 80
"""Duration of a frame, in milliseconds. The last frame is shown twenty times as long."""


class Timelapse:
    """A recorder that keeps the images of evenly spaced steps of an optimization, including the first and last step.

    Pass the recorder to the optimization as one of the ``listeners``, the functions that are called after every step.
    If the images are optimized in several batches, one after another, each frame combines the images of all batches.
    """

    def __init__(self, steps: int) -> None:
        """Choose which of the ``steps`` steps of an optimization to keep.

        If the images are optimized in several batches, ``steps`` is the number of steps for each batch.
        """
        self.steps = steps
        count = min(FRAMES, steps)
        self.wanted = {round(number * (steps - 1) / max(count - 1, 1)) for number in range(count)}
        self.kept_images: dict[int, list[Tensor]] = {}

    def __call__(self, step: Step) -> None:
        """Keep a copy of the images of ``step`` if the constructor chose this step."""
        at = (step.number - 1) % self.steps
        if at in self.wanted:
            image = fit(step.image, min(FRAME_SIDE, max(step.image.shape[2:])))
            self.kept_images.setdefault(at, []).append((image * 255).round().byte().cpu())

    def frames(self) -> Iterator[Tensor]:
        """Yield, for each kept step, the images of all batches at that step, (N, C, H, W) in [0, 1].

        If Ctrl-C interrupted a batch, the steps that this batch did not reach are left out.
        """
        most = max(map(len, self.kept_images.values()), default=0)
        return (torch.cat(batches) / 255 for _, batches in sorted(self.kept_images.items()) if len(batches) == most)


def check_frame(ending: str, size: tuple[int, int]) -> None:
    """Check that an animation with the file extension ``ending`` can hold frames of ``size`` (H, W).

    Call this function before a long computation, so that saving the animation does not fail at the end.

    Raises:
        ValueError: a side of the frames is longer than the format allows.
    """
    most = ANIMATION_LIMITS[ending]
    if max(size) > most:
        raise ValueError(f"an animation as {ending} can have {most} pixels a side, not {max(size)}")


def save_animation(timelapse: Timelapse, draw: Callable[[Tensor], Image.Image], path: Path) -> None:
    """Write an animation of the steps in ``timelapse`` to ``path``.

    The file extension selects the format: WebP, GIF or MP4. MP4 requires PyAV. ``draw`` is a function that draws one
    frame from the images (N, C, H, W) in [0, 1] of one step.
    """
    drawn = [draw(images).convert("RGB") for images in timelapse.frames()]
    durations = [FRAME_TIME] * (len(drawn) - 1) + [20 * FRAME_TIME]
    with replacing(path) as beside:
        if path.suffix == ".mp4":
            _save_video(drawn, durations, beside)
        else:
            form = path.suffix.removeprefix(".").upper()
            how: dict[str, Any] = {"append_images": drawn[1:], "duration": durations, "loop": 0}
            drawn[0].save(beside, form, save_all=True, **how, **({"quality": 85} if form == "WEBP" else {}))


def _save_video(drawn: Sequence[Image.Image], durations: Sequence[int], path: Path) -> None:
    """Write the pictures in the sequence ``drawn`` to the MP4 file ``path``.

    Each picture is repeated to fill its duration. ``durations`` are in milliseconds and are multiples of
    :data:`FRAME_TIME`.
    """
    tick = Fraction(FRAME_TIME, 1000)
    with load_av().open(str(path), "w", format="mp4") as container:
        stream = add_pictures(container, (drawn[0].height, drawn[0].width), 1 / tick, tick)
        pts = 0
        for picture, duration in zip(drawn, durations, strict=True):
            for _ in range(duration // FRAME_TIME):
                container.mux(stream.encode(to_frame(np.asarray(picture), stream, pts, tick)))
                pts += 1
        container.mux(stream.encode())
