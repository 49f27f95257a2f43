"""One example of each objective and regularizer, written as an expression and in Python.

Several tests use these examples, so a new function needs no other entry in the tests.
"""

from __future__ import annotations

import torch

import dreamgram as dg
from dreamgram.activation_maximization.objectives import Objective
from dreamgram.models.digits import digit_sample

DIGIT = digit_sample()[0][250:251]
VECTOR = torch.linspace(-1, 1, 50)

EXAMPLES: dict[str, tuple[str, Objective]] = {
    "channel": ("channel(conv2, 3-5, 9)", dg.channel("conv2", [3, 4, 5, 9])),
    "neuron": ("neuron(conv2, 3, position=(4, 5))", dg.neuron("conv2", 3, (4, 5))),
    "logit": ("logit(3,7)", dg.logit([3, 7])),
    "log_probability": ("log_probability(3)", dg.log_probability(3)),
    "log_odds": ("log_odds(unit=0-9, layer=logits)", dg.log_odds(range(10))),
    "direction": ("direction(conv2, vector.npy, cosine=true)", dg.direction("conv2", VECTOR, cosine=True)),
    "deepdream": ("deepdream(layer='conv2')", dg.deepdream("conv2")),
    "diversity": ("diversity(conv1, images=3)", dg.diversity("conv1", 3)),
    "match": ("match(conv2)", dg.match("conv2", DIGIT)),
    "caricature": ("caricature(conv2, power=2.5)", dg.caricature("conv2", DIGIT, 2.5)),
    "ramp": ("logit(3) - ramp(0, .1) * pixel_sum(1)", dg.logit(3) - dg.ramp(0, 0.1) * dg.pixel_sum(1)),
    "pixel_sum": ("logit(3) - pixel_sum", dg.logit(3) - dg.pixel_sum()),
    "sparing": ("logit(0-9) - sparing(blur_share=8)", dg.logit(range(10)) - dg.sparing(blur_share=8)),
    "share": ("logit(3) - share() * l1(.4, 0)", dg.logit(3) - dg.share() * dg.l1(0.4, 0)),
    "border": ("border(2)", dg.border(2)),
    "l1": ("l1(2, center=0)", dg.l1(2, 0)),
    "l2": ("l2(2)", dg.l2(2)),
    "total_variation": ("match(conv2) - total_variation(0.5)", dg.match("conv2", DIGIT) - dg.total_variation(0.5)),
    "blur": ("-blur(3) / 2", -dg.blur(3) / 2),
}
"""For each objective and regularizer, an expression that calls it, and the same in Python.

An expression may use the photo :data:`DIGIT` and the file ``vector.npy``, which holds :data:`VECTOR`.
"""


def example_of(name: str) -> tuple[str, Objective]:
    """Return the example of the objective or regularizer ``name``."""
    assert name in EXAMPLES, (
        f"add an example of {name!r} to EXAMPLES in tests/activation_maximization/expression_examples.py"
    )
    return EXAMPLES[name]
