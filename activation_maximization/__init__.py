"""Activation maximization: the image that a filter, a neuron or a class looks for."""

from activation_maximization.dream import Dreams, activations, evaluate, maximize
from activation_maximization.objectives import (
    Objective,
    caricature,
    channel,
    deepdream,
    direction,
    diversity,
    log_odds,
    logit,
    match,
    neuron,
    ramp,
)
from activation_maximization.octaves import amplify
from activation_maximization.regularizers import blur, l1, l2, pixel_sum, sparing, total_variation

__all__ = [
    "Dreams",
    "Objective",
    "activations",
    "amplify",
    "blur",
    "caricature",
    "channel",
    "deepdream",
    "direction",
    "diversity",
    "evaluate",
    "l1",
    "l2",
    "log_odds",
    "logit",
    "match",
    "maximize",
    "neuron",
    "pixel_sum",
    "ramp",
    "sparing",
    "total_variation",
]
