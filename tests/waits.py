"""Run every loss and objective on the pretended device, and print what the loop waited for and copied, as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

import dreamgram as dg
from dreamgram.activation_maximization.objectives import OBJECTIVES
from dreamgram.activation_maximization.regularizers import REGULARIZERS
from dreamgram.image_optimization.optimize import OPTIMIZERS, Step
from dreamgram.style_transfer.budget import WHOLE, Budget
from dreamgram.style_transfer.losses import STYLE_LOSSES
from tests.pretended_device import Pretended, counts, to_device

STEPS = 18
"""Number of steps of a run. Those from the third to the last but one are counted, with one reading of the losses."""

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
"""Layers of style transfer. Deeper layers take longer and wait for nothing else."""


class Loop:
    """A listener that counts the events of the loop."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()

    def __call__(self, step: Step) -> None:
        if step.number == 2:
            counts.clear()
        elif step.number == step.steps - 1:
            self.events = Counter(counts)


def run(work: Callable[[Loop], object]) -> dict[str, int]:
    """Return the events of the loop that ``work`` runs with the given listener."""
    loop = Loop()
    with Pretended():
        work(loop)
    return dict(loop.events)


def style_transfers() -> dict[str, Callable[[Loop], object]]:
    """Return a run for each style loss: plain, with masks, with two styles, and in tiles."""
    generator = torch.Generator().manual_seed(0)
    photo, painting, other = (torch.rand(1, 3, 48, 64, generator=generator) for _ in range(3))
    mask = (torch.arange(64) < 32).float().expand(1, 3, 48, 64)
    vgg = to_device(dg.load("vgg16"))
    kinds: dict[str, tuple[list[torch.Tensor], dict[str, Any]]] = {
        "plain": ([painting], {}),
        "two styles": ([painting, other], {}),
        "masks": ([painting, other], {"content_mask": mask, "style_masks": [mask, mask]}),
        "tiles": ([painting], {"plan": [Budget(5, 48)]}),
    }

    def make(loss: str, paintings: list[torch.Tensor], more: dict[str, Any]) -> Callable[[Loop], object]:
        given = {"size": 64, "scales": [64], "plan": [WHOLE], "precision": "float32", "steps": STEPS, **SHALLOW, **more}
        return lambda loop: dg.stylize(photo, paintings, model=vgg, style_loss=loss, listeners=[loop], **given)

    cases = {f"{loss}, {kind}": make(loss, *kinds[kind]) for loss in STYLE_LOSSES for kind in kinds}
    return {**cases, "adam": make("gram", [painting], {"optimizer": "adam"})}


def dreams() -> dict[str, Callable[[Loop], object]]:
    """Return a run for each objective and regularizer, and for each optimizer and parameterization."""
    digits = to_device(dg.load("digits"))

    def make(objective: dg.Objective, **more: Any) -> Callable[[Loop], object]:
        return lambda loop: dg.maximize(
            digits, objective, steps=STEPS, precision="float32", batch=2, listeners=loop, **more
        )

    assert set(EXAMPLES) == {*OBJECTIVES, *REGULARIZERS}, "each objective and regularizer needs an example"
    cases = {name: make(example()) for name, example in EXAMPLES.items()}
    cases |= {f"optimizer {name}": make(dg.logit([3, 7]), optimizer=name) for name in OPTIMIZERS}
    cases |= {
        f"parameterization {name}": make(dg.logit([3, 7]), parameterization=name)
        for name in ("pixels", "fourier", "phases")
    }
    return cases


if __name__ == "__main__":
    for name, work in {**dreams(), **style_transfers()}.items():
        print(json.dumps({"name": name, "events": run(work)}), flush=True)
