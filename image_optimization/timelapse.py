"""How pictures came about, as an animation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

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
    """Write an animated WebP, each frame drawn from the images (N, C, H, W) in [0, 1] that were kept."""
    from image_optimization.images import whole

    drawn = [draw(images).convert("RGB") for images in timelapse.frames()]
    first, others = drawn[0], drawn[1:]
    durations = [FRAME] * len(others) + [20 * FRAME]
    with whole(path) as beside:
        first.save(beside, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, quality=85)
