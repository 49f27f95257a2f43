"""Run every loss and objective on the pretended device, and print what the loop waited for and copied, as JSON."""

from __future__ import annotations

import json
from collections import Counter

import dreamgram as dg
from dreamgram.image_optimization.optimize import Step
from tests.cases import Case, dreams, style_transfers
from tests.pretended_device import Pretended, counts, to_device


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
    cases = {**dreams(to_device(dg.load("digits"))), **style_transfers(to_device(dg.load("vgg16")))}
    for name, case in cases.items():
        print(json.dumps({"name": name, "events": run(case)}), flush=True)
