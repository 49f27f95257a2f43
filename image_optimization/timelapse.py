"""How pictures came about, as an animation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from image_optimization.optimize import Step

FRAMES = 48
"""In an animation, at most."""

LONGEST = 1024
"""Pixels of a frame's longer side, at most: an animation is for the screen, and its frames are kept in memory."""

FRAME = 80
"""How long each is shown, in milliseconds; the last one for twenty times as long."""


class Timelapse:
    """A listener that keeps some of the steps, evenly spread, the first and the last among them.

    The batches of a run that makes many images are kept together:
    a frame then has the images of all of them.
    """

    def __init__(self, steps: int) -> None:
        """``steps``: of a run."""
        self.steps = steps
        count = min(FRAMES, steps)
        self.wanted = {round(number * (steps - 1) / max(count - 1, 1)) for number in range(count)}
        self.kept: dict[int, list[Tensor]] = {}

    def __call__(self, step: Step) -> None:
        from image_optimization.images import fit

        at = (step.number - 1) % self.steps
        if at in self.wanted:
            image = fit(step.image, min(LONGEST, max(step.image.shape[2:])))
            self.kept.setdefault(at, []).append((image * 255).round().byte().cpu())

    def frames(self) -> Iterator[Tensor]:
        """The kept images (N, C, H, W) in [0, 1]; of runs that were interrupted, as far as all of them came."""
        import torch

        most = max(map(len, self.kept.values()), default=0)
        return (torch.cat(self.kept[at]) / 255 for at in sorted(self.kept) if len(self.kept[at]) == most)


def save_animation(timelapse: Timelapse, draw: Callable[[Tensor], Image.Image], path: Path) -> None:
    """Write an animation, each frame drawn from the images (N, C, H, W) in [0, 1] that were kept.

    The ending of ``path`` says whether it is a WebP, a GIF or, with PyAV, an MP4.
    """
    from image_optimization.images import whole

    drawn = [draw(images).convert("RGB") for images in timelapse.frames()]
    durations = [FRAME] * (len(drawn) - 1) + [20 * FRAME]
    with whole(path) as beside:
        if path.suffix == ".mp4":
            _save_video(drawn, durations, beside)
        else:
            form = path.suffix.removeprefix(".").upper()
            how: dict[str, Any] = {"append_images": drawn[1:], "duration": durations, "loop": 0}
            drawn[0].save(beside, form, save_all=True, **how, **({"quality": 85} if form == "WEBP" else {}))


def _save_video(drawn: Sequence[Image.Image], durations: Sequence[int], path: Path) -> None:
    """With as many frames as make up the ``durations``, which are multiples of :data:`FRAME`."""
    import numpy as np

    from image_optimization.video import add_pictures, load_av, to_frame

    tick = Fraction(FRAME, 1000)
    with load_av().open(str(path), "w", format="mp4") as target:
        stream = add_pictures(target, (drawn[0].height, drawn[0].width), 1 / tick, tick)
        pts = 0
        for picture, duration in zip(drawn, durations, strict=True):
            for _ in range(duration // FRAME):
                target.mux(stream.encode(to_frame(np.asarray(picture), stream, pts, tick)))
                pts += 1
        target.mux(stream.encode())
