"""Activation maximization: the image that a filter, a neuron or a class looks for."""

from activation_maximization.dream import Dreams, evaluate, maximize
from activation_maximization.objectives import Objective, channel, logit, neuron
from activation_maximization.regularizers import pixel_sum

__all__ = ["Dreams", "Objective", "channel", "evaluate", "logit", "maximize", "neuron", "pixel_sum"]
