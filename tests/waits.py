"""Run every loss and objective on the pretended device, and print what the loop waited for and copied, as JSON."""

from __future__ import annotations

import json
from collections import Counter

import dreamgram as dg
from dreamgram.image_optimization import optimize
from dreamgram.image_optimization.optimize import Step
from tests.cases import SHORT, Case, dreams, style_transfers
from tests.pretended_device import Pretended, counts, to_device

OFTEN = 5
"""Number of steps between two checks of the losses in a run with few steps. Other runs have the usual checks."""


class Loop:
    """A listener that counts the events of the loop, from the third step to the second-to-last."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()

    def __call__(self, step: Step) -> None:
        if step.number == 2:
            counts.clear()
        elif step.number == step.steps - 1:
            self.events = Counter(counts)


def run(case: Case) -> dict[str, int]:
    """Return the events in the loop of the run ``case``."""
    loop = Loop()
    with Pretended():
        case(loop)
    return dict(loop.events)


if __name__ == "__main__":
    digits, vgg = to_device(dg.load("digits")), to_device(dg.load("vgg16"))
    usual = optimize.CHECK_EVERY
    for name, case in {**dreams(digits), **style_transfers(vgg)}.items():
        optimize.CHECK_EVERY = OFTEN if name in SHORT else usual
        print(json.dumps({"name": name, "events": run(case)}), flush=True)
