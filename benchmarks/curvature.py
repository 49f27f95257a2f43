"""Count the steps that L-BFGS saves by learning the curvature in blocks: ``python -m benchmarks.curvature``.

For each style loss and three pairs of a photo and a painting, the goal is the loss that L-BFGS reaches in 50 steps at
256 pixels if it learns one curvature for the whole image and all frequencies have the same weight. The table shows how
many steps other settings need to reach this loss: with frequencies weighted as in :class:`Coordinates`, with blocks of
48 pixels, and with both. All runs in one row of the table start from the same picture, the result of 30 steps at 128
pixels. The command takes ten minutes.
"""

from __future__ import annotations

from functools import partial

import torch
from matplotlib.cbook import get_sample_data
from torch import Tensor

import dreamgram as dg
from benchmarks.process import PAINTING, PHOTO
from dreamgram.image_optimization.lbfgs import LBFGS
from dreamgram.style_transfer.drawn_styles import draw_style
from dreamgram.style_transfer.losses import STYLE_LOSSES

SIZE, STEPS = 256, 50
BLOCK = STYLE_LOSSES["wasserstein"].BLOCK
SETTINGS = {
    "by frequency": {"block": STYLE_LOSSES["gram"].BLOCK},
    "in blocks": {"block": BLOCK, "exponent": 0.0},
    "both": {"block": BLOCK},
}


def losses(pair: tuple[Tensor, Tensor], style_loss: str, init: Tensor, optimizer: partial[LBFGS]) -> Tensor:
    """Paint a ``pair`` of photo and painting. Return the lowest loss up to each step, (:data:`STEPS`,)."""
    how = {"style_loss": style_loss, "size": SIZE, "scales": [SIZE], "steps": STEPS, "init": init}
    return dg.stylize(pair[0], [pair[1]], optimizer=optimizer, **how).history[0].cummin(0)[0]


def steps_to(goal: Tensor, reached: Tensor) -> str:
    """Return, as text, the number of steps after which the losses ``reached`` first fall to ``goal`` or below it."""
    found = (reached <= goal).nonzero()
    return str(int(found[0]) + 1) if len(found) else f"over {STEPS}"


def main() -> None:
    """Print the table for docs/benchmarks.md."""
    torch.manual_seed(0)
    astronaut, portrait = dg.images.load(PHOTO), dg.images.load(get_sample_data("grace_hopper.jpg", asfileobj=False))
    painting, glass = dg.images.load(PAINTING), draw_style("stained-glass", SIZE)
    pairs = {
        "astronaut, The Scream": (astronaut, painting),
        "portrait, The Scream": (portrait, painting),
        "astronaut, stained glass": (astronaut, glass),
    }
    print(f"| style loss | photo, painting | {' | '.join(SETTINGS)} |", "|---|---|---|---|---|", sep="\n")
    for style_loss in STYLE_LOSSES:
        for name, pair in pairs.items():
            start = dg.stylize(pair[0], [pair[1]], size=SIZE // 2, style_loss=style_loss, steps=30).image
            goal = losses(pair, style_loss, start, partial(LBFGS))[-1]
            found = [
                steps_to(goal, losses(pair, style_loss, start, partial(LBFGS, **how)))  # type: ignore[arg-type]
                for how in SETTINGS.values()
            ]
            print(f"| {style_loss} | {name} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
