"""A short run for every loss, objective, regularizer, optimizer and parameterization.

The caller provides the network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import dreamgram as dg
from dreamgram.activation_maximization.objectives import OBJECTIVES
from dreamgram.activation_maximization.regularizers import REGULARIZERS
from dreamgram.image_optimization.optimize import OPTIMIZERS, Listener
from dreamgram.image_optimization.parameterizations import PARAMETERIZATIONS
from dreamgram.style_transfer.budget import WHOLE, Budget
from dreamgram.style_transfer.losses import STYLE_LOSSES, Previous
from tests.activation_maximization.expression_examples import example_of

STEPS, FEW = 18, 7
"""Number of steps of most runs, and of the runs that differ from another run only in their pictures."""

SHALLOW = {"content_layers": {"relu2_2": 1.0}, "style_layers": {"relu1_1": 1.0, "relu2_1": 1.0}}
"""Layers of style transfer. Deeper layers would take longer and test nothing new."""

KINDS = "plain", "two styles", "masks", "tiles"

DREAMS = [
    *OBJECTIVES,
    *REGULARIZERS,
    *(f"optimizer {name}" for name in OPTIMIZERS),
    *(f"parameterization {name}" for name in PARAMETERIZATIONS),
    "several transforms",
    "noise that falls",
    "distribution",
]
STYLE_TRANSFERS = [*(f"{loss}, {kind}" for loss in STYLE_LOSSES for kind in KINDS), "adam", "video"]

SHORT = [f"{loss}, {kind}" for loss in STYLE_LOSSES for kind in KINDS if kind != "plain"]
"""Names of the runs with few steps. Each is like a plain run, but with more styles, masks or tiles."""

Case = Callable[[Listener], Any]
"""A run that calls the given listener after every step."""


def style_transfers(vgg: nn.Module) -> dict[str, Case]:
    """Return a run for each style loss: plain, with two styles, with masks, and in tiles."""
    generator = torch.Generator().manual_seed(0)
    photo, painting, other = (torch.rand(1, 3, 32, 48, generator=generator) for _ in range(3))
    mask = (torch.arange(48) < 24).float().expand(1, 3, 32, 48)
    previous = Previous(other, torch.ones(1, 1, 32, 48))
    kinds: dict[str, tuple[list[torch.Tensor], dict[str, Any]]] = {
        "plain": ([painting], {}),
        "two styles": ([painting, other], {}),
        "masks": ([painting, other], {"content_mask": mask, "style_masks": [mask, mask]}),
        "tiles": ([painting], {"plan": [Budget(5, 36)]}),
    }

    def make(loss: str, paintings: list[torch.Tensor], more: dict[str, Any], steps: int = STEPS) -> Case:
        given = {"size": 48, "scales": [48], "plan": [WHOLE], "precision": "float32", "steps": steps, **SHALLOW, **more}
        return lambda listener: dg.stylize(photo, paintings, model=vgg, style_loss=loss, listeners=[listener], **given)

    cases = {
        f"{loss}, {kind}": make(loss, *kinds[kind], STEPS if kind == "plain" else FEW)
        for loss in STYLE_LOSSES
        for kind in KINDS
    }
    cases["adam"] = make("gram", [painting], {"optimizer": "adam"})
    return {**cases, "video": make("gram", [painting], {"previous": previous})}


def dreams(digits: nn.Module) -> dict[str, Case]:
    """Return a run for each objective and regularizer, and for each optimizer and parameterization."""

    def make(objective: dg.Objective, **more: Any) -> Case:
        how: dict[str, Any] = {"steps": STEPS, "precision": "float32", **more}
        return lambda listener: dg.maximize(digits, objective, listeners=listener, **how)

    cases = {name: make(_to_maximize(name)) for name in (*OBJECTIVES, *REGULARIZERS)}
    cases |= {f"optimizer {name}": make(dg.logit([3, 7]), optimizer=name) for name in OPTIMIZERS}
    cases |= {f"parameterization {name}": make(dg.logit([3, 7]), parameterization=name) for name in PARAMETERIZATIONS}
    cases["several transforms"] = make(dg.logit([3, 7]), transform=[dg.robust(), dg.robust(degrees=40)])
    cases["noise that falls"] = make(dg.logit([3, 7]), transform="noise(0.2, fall=0.5)")
    # Making it runs the network.
    cases["distribution"] = lambda listener: make(dg.distribution(digits, "conv1", torch.eye(28)))(listener)
    return cases


def _to_maximize(name: str) -> dg.Objective:
    """Return the example of the objective or regularizer ``name``. An example that uses no layer is subtracted."""
    _, example = example_of(name)
    return example if example.layers else dg.logit([3, 7]) - example
