"""Statistics of natural pictures that a network has stored, as a term that keeps dreamed pictures natural."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dreamgram.activation_maximization.objectives import Objective
from dreamgram.image_optimization.checks import as_model
from dreamgram.image_optimization.input_shapes import default_shape
from dreamgram.image_optimization.layers import list_layers
from dreamgram.image_optimization.state import unwrapped

LEAST_WEIGHT = 1e-3
"""Smallest factor of a batch normalization, relative to the largest factor of the layer, at which a channel counts. The
output of a channel with a smaller factor hardly depends on its input."""


def normalized_layers(model: nn.Module) -> list[str]:
    """Return the names of the layers of ``model`` that are batch normalizations of images with stored statistics."""
    modules = dict(unwrapped(model).named_modules())
    names = [layer.name for layer in list_layers(model, default_shape(model, None)) if len(layer.shape) == 3]
    return [name for name in names if _is_normalization(modules.get(name))]


def _is_normalization(module: nn.Module | None) -> bool:
    return isinstance(module, nn.BatchNorm2d) and module.running_mean is not None


def natural(model: nn.Module) -> Objective:
    """Return an objective that is largest, zero, if the statistics of all activations are those of natural pictures.

    A batch normalization stores the mean and the variance that each channel had in the pictures on which the network
    was trained. The objective is the negative mean, over all batch normalizations and channels, of the squared
    difference between the image's mean and the stored mean, plus that between the standard deviations. Both are
    relative to the stored standard deviation. Yin et al., "Dreaming to Distill", arXiv:1912.08737, use such a term for
    whole batches. Here, each image is compared by itself, so that it does not depend on the other images.

    Example:
        >>> dreams = maximize(net, log_probability(281) + natural(net), parameterization="pyramid")

    Raises:
        TypeError: ``model`` is not a ``torch.nn.Module``.
        ValueError: the network has no batch normalization with stored statistics.
    """
    model = as_model(model)
    names = normalized_layers(model)
    if not names:
        raise ValueError(f"{type(model).__name__} has no batch normalization, which would store natural statistics")
    modules = dict(unwrapped(model).named_modules())
    targets = {name: _output_statistics(modules[name]) for name in names}

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        distances = []
        for name, (mean, deviation, counts) in targets.items():
            output = activations[name].float()
            mean, deviation, counts = (each.to(output.device) for each in (mean, deviation, counts))
            variance, average = torch.var_mean(output, (2, 3), correction=0)
            off = (average - mean).square() + ((variance + 1e-8).sqrt() - deviation).square()
            distances.append((off / deviation.square() * counts).sum(1) / counts.sum())
        return -torch.stack(distances).mean(0)

    return Objective("natural statistics", frozenset(names), value)


def _output_statistics(module: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean and the standard deviation of the output of each channel for natural pictures, (C,) each.

    The third tensor (C,) is 1 for channels that count, and 0 for those whose output hardly depends on their input.
    """
    assert isinstance(module, nn.BatchNorm2d)
    assert module.running_var is not None
    factor = torch.ones_like(module.running_var) if module.weight is None else module.weight.detach()
    shift = torch.zeros_like(module.running_var) if module.bias is None else module.bias.detach()
    deviation = factor.abs() * (module.running_var / (module.running_var + module.eps)).sqrt()
    counts = deviation > LEAST_WEIGHT * deviation.max()
    return shift.float(), torch.where(counts, deviation, 1).float(), counts.float()
