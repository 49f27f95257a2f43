"""A short run for every loss, objective, regularizer, optimizer and parameterization.

The caller provides the network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import dreamgram as dg
from dreamgram.activation_maximization.expressions import PARAMETERIZATIONS
from dreamgram.activation_maximization.objectives import OBJECTIVES
from dreamgram.activation_maximization.regularizers import REGULARIZERS
from dreamgram.image_optimization.optimize import OPTIMIZERS, Listener
from dreamgram.style_transfer.budget import WHOLE, Budget
from dreamgram.style_transfer.losses import STYLE_LOSSES, Previous

STEPS = 18
"""Number of steps of a run."""

EXAMPLES: dict[str, Callable[[], dg.Objective]] = {
    "channel": lambda: dg.channel("conv2", [3, 7]),
    "neuron": lambda: dg.neuron("conv2", [3, 7]),
    "logit": lambda: dg.logit([3, 7]),
    "log_odds": lambda: dg.log_odds([3, 7]),
    "direction": lambda: dg.direction("hidden", torch.eye(100)[:2]),
    "deepdream": lambda: dg.deepdream("conv2"),
    "diversity": lambda: dg.logit(3) + dg.diversity("conv2", 2),
    "match": lambda: dg.match("conv2", torch.rand(2, 1, 28, 28)),
    "caricature": lambda: dg.caricature("conv2", torch.rand(1, 1, 28, 28)),
    "ramp": lambda: dg.ramp(0, 1) * dg.logit([3, 7]),
    **{name: lambda name=name: dg.logit([3, 7]) - REGULARIZERS[name](0.1) for name in REGULARIZERS},  # type: ignore[misc]
}
"""An objective for each name that an expression can call."""

SHALLOW = {"content_layers": {"relu2_2": 1.0}, "style_layers": {"relu1_1": 1.0, "relu3_1": 1.0}}
"""Layers of style transfer. Deeper layers would take longer and test nothing new."""

KINDS = "plain", "two styles", "masks", "tiles"

DREAMS = [
    *OBJECTIVES,
    *REGULARIZERS,
    *(f"optimizer {name}" for name in OPTIMIZERS),
    *(f"parameterization {name}" for name in PARAMETERIZATIONS),
    "several transforms",
]
STYLE_TRANSFERS = [*(f"{loss}, {kind}" for loss in STYLE_LOSSES for kind in KINDS), "adam", "video"]

Case = Callable[[Listener], Any]
"""A run that calls the given listener after every step."""


def style_transfers(vgg: nn.Module) -> dict[str, Case]:
    """Return a run for each style loss: plain, with two styles, with masks, and in tiles."""
    generator = torch.Generator().manual_seed(0)
    photo, painting, other = (torch.rand(1, 3, 48, 64, generator=generator) for _ in range(3))
    mask = (torch.arange(64) < 32).float().expand(1, 3, 48, 64)
    previous = Previous(other, torch.ones(1, 1, 48, 64))
    kinds: dict[str, tuple[list[torch.Tensor], dict[str, Any]]] = {
        "plain": ([painting], {}),
        "two styles": ([painting, other], {}),
        "masks": ([painting, other], {"content_mask": mask, "style_masks": [mask, mask]}),
        "tiles": ([painting], {"plan": [Budget(5, 48)]}),
    }

    def make(loss: str, paintings: list[torch.Tensor], more: dict[str, Any]) -> Case:
        given = {"size": 64, "scales": [64], "plan": [WHOLE], "precision": "float32", "steps": STEPS, **SHALLOW, **more}
        return lambda listener: dg.stylize(photo, paintings, model=vgg, style_loss=loss, listeners=[listener], **given)

    cases = {f"{loss}, {kind}": make(loss, *kinds[kind]) for loss in STYLE_LOSSES for kind in KINDS}
    cases["adam"] = make("gram", [painting], {"optimizer": "adam"})
    return {**cases, "video": make("gram", [painting], {"previous": previous})}


def dreams(digits: nn.Module) -> dict[str, Case]:
    """Return a run for each objective and regularizer, and for each optimizer and parameterization."""

    def make(objective: dg.Objective, **more: Any) -> Case:
        return lambda listener: dg.maximize(
            digits, objective, steps=STEPS, precision="float32", batch=2, listeners=listener, **more
        )

    assert set(EXAMPLES) == {*OBJECTIVES, *REGULARIZERS}, "each objective and regularizer needs an example"
    cases = {name: make(example()) for name, example in EXAMPLES.items()}
    cases |= {f"optimizer {name}": make(dg.logit([3, 7]), optimizer=name) for name in OPTIMIZERS}
    cases |= {f"parameterization {name}": make(dg.logit([3, 7]), parameterization=name) for name in PARAMETERIZATIONS}
    return {**cases, "several transforms": make(dg.logit([3, 7]), transform=[dg.robust(), dg.robust(degrees=40)])}
