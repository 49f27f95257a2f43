"""Try changes of L-BFGS and of the scales on neural-style's loss: ``python -m benchmarks.leads`` (half an hour).

The goal is the loss that Dreamgram's own settings reach after 100 steps at 256 pixels, with 50 steps at 128 pixels
before. For each change, the table shows the work until the same loss is reached, as a multiple of the work with
Dreamgram's own settings. The work is the number of steps, each multiplied by the number of pixels. The three pairs of a
photo and a painting are those of ``benchmarks.race``. ``--device cuda`` runs on a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import dreamgram as dg
from benchmarks.process import PICTURES
from benchmarks.race import PAIRS
from dreamgram.image_optimization import images
from dreamgram.image_optimization.lbfgs import LBFGS
from dreamgram.style_transfer.losses import STYLE_LOSSES

SIZE, STEPS = 256, 100

COARSE, MOST = 50, 160
"""Number of steps at each earlier scale, and largest number of steps at the last scale."""

CHANGES: dict[str, dict[str, Any]] = {
    "8 curvature pairs instead of 16": {"history": 8},
    "32 pairs": {"history": 32},
    "100 pairs": {"history": 100},
    "all frequencies with the same weight": {"exponent": 0.0},
    "exponent 0.25 instead of 0.35": {"exponent": 0.25},
    "exponent 0.5": {"exponent": 0.5},
    "exponent 0.5, 100 pairs": {"exponent": 0.5, "history": 100},
    "blocks of 64 pixels": {"block": 64},
    "only the full size": {"scales": [SIZE]},
    "a scale of 181 pixels in between": {"scales": [128, 181, SIZE]},
    "twice the steps at 128 pixels": {"coarse": 2 * COARSE},
    "start from half photo, half noise": {"noise": 0.5},
    "float32": {"precision": "float32"},
}
"""Settings that differ from Dreamgram's own, by the words that the table uses for them."""


def losses(photo: Tensor, painting: Tensor, model: nn.Module, change: Mapping[str, Any]) -> tuple[Tensor, float]:
    """Paint with a ``change`` of the settings. Return the lowest loss up to each step, and the work before the steps.

    The work is in steps at the full size.
    """
    given = dict(change)
    scales, coarse = given.pop("scales", [SIZE // 2, SIZE]), given.pop("coarse", COARSE)
    noise = torch.rand(photo.shape, generator=torch.Generator().manual_seed(0))
    how = {"size": SIZE, "scales": scales, "precision": given.pop("precision", "auto"), "preset": "gatys"}
    how["init"] = photo.lerp(noise, given.pop("noise", 0.0))
    optimizer = partial(LBFGS, **{"block": STYLE_LOSSES["gram"].BLOCK, **given})
    stylizer = dg.Stylizer(photo, [painting], model=model, optimizer=optimizer, **how)
    stylizer.steps = [coarse] * (len(scales) - 1) + [MOST]
    history = stylizer.run().history
    before = sum(len(steps) * (scale / SIZE) ** 2 for steps, scale in zip(history[:-1], scales, strict=False))
    return history[-1].cummin(0)[0], before


def main() -> None:
    """Print the table for docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description="Try changes of L-BFGS on neural-style's loss.")
    parser.add_argument("--device", default="cpu", help="Device on which to run: cpu or cuda.")
    model = dg.load("vgg16").to(parser.parse_args().device)
    pairs = [[images.fit(images.load(PICTURES / name), SIZE) for name in pair] for pair in PAIRS]
    goals = []
    for photo, painting in pairs:
        own, before = losses(photo, painting, model, {})
        goals.append((own[STEPS - 1], before + STEPS))
    print(f"| change | {' | '.join(pair[0].partition('.')[0] for pair in PAIRS)} |")
    print("|---" * (1 + len(PAIRS)) + "|")
    for words, change in CHANGES.items():
        cells = []
        for (photo, painting), (goal, work) in zip(pairs, goals, strict=True):
            reached, before = losses(photo, painting, model, change)
            found = (reached <= goal).nonzero()
            cells.append(f"{(before + int(found[0]) + 1) / work:.2f}" if len(found) else "not reached")
        print(f"| {words} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
