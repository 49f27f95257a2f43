"""Statistics of natural pictures, stored in a network or measured, as terms that keep dreamed pictures natural."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dreamgram.activation_maximization import arguments
from dreamgram.activation_maximization.examples import Pictures
from dreamgram.activation_maximization.gradient_ascent import activations as activations_for
from dreamgram.activation_maximization.objectives import Objective, features_of
from dreamgram.activation_maximization.pictures import batches
from dreamgram.image_optimization.checks import as_model
from dreamgram.image_optimization.input_shapes import default_shape
from dreamgram.image_optimization.layers import list_layers
from dreamgram.image_optimization.settings import usual_settings
from dreamgram.image_optimization.state import unwrapped

LEAST_WEIGHT = 1e-3
"""Smallest factor of a batch normalization, relative to the largest factor of the layer, at which a channel counts. The
output of a channel with a smaller factor hardly depends on its input."""


LAST_SHARE = 0.05
"""Weight of the last batch normalization in :func:`natural`, relative to that of the first. In deep layers, a picture
of one class differs from the average of all pictures, so a large weight would hide the class."""


def normalized_layers(model: nn.Module) -> list[str]:
    """Return the names of the layers of ``model`` that are batch normalizations of images with stored statistics."""
    modules = dict(unwrapped(model).named_modules())
    names = [layer.name for layer in list_layers(model, default_shape(model, None)) if len(layer.shape) == 3]
    return [name for name in names if _is_normalization(modules.get(name))]


def _is_normalization(module: nn.Module | None) -> bool:
    return isinstance(module, nn.BatchNorm2d) and module.running_mean is not None


class Moments(torch.autograd.Function):
    """Means over all positions of the differences of activations (N, C, H, W) from a center (C,), and of their squares.

    Both results are (N, C). They are products of matrices, which are several times as fast as ``torch.var_mean`` if the
    channels are the last axis in memory. The gradient is computed in one pass. A center near the mean keeps the
    difference between the mean square and the squared mean exact.
    """

    @staticmethod
    def forward(ctx: Any, activations: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two means."""
        ctx.save_for_backward(activations, center)
        pixels = activations.permute(0, 2, 3, 1).flatten(1, 2) - center
        weights = pixels.new_full((1, pixels.shape[1]), 1 / pixels.shape[1])
        return (weights @ pixels)[:, 0], (weights @ pixels.square_())[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient with respect to the activations, given those with respect to the two means."""
        activations, center = ctx.saved_tensors
        of_mean, of_square = (each / activations[0, 0].numel() for each in gradients)
        constant, slope = of_mean - 2 * of_square * center, 2 * of_square
        return torch.addcmul(constant[:, :, None, None], activations, slope[:, :, None, None]), None


@usual_settings
def natural(model: nn.Module) -> Objective:
    """Return an objective that is largest, zero, if the statistics of all activations are those of natural pictures.

    A batch normalization stores the mean and the variance that each channel had in the pictures on which the network
    was trained. The objective is the negative mean, over all batch normalizations and channels, of the squared
    difference between the image's mean and the stored mean, plus that between the standard deviations. Both are
    relative to the stored standard deviation. In the mean, the weights of the batch normalizations fall exponentially
    from the first to the last, whose weight is :data:`LAST_SHARE` times that of the first. Yin et al., "Dreaming to
    Distill", arXiv:1912.08737, use such a term for whole batches. Here, each image is compared by itself, so that it
    does not depend on the other images.

    Example:
        >>> dreams = maximize(net, log_odds(281) + 0.5 * natural(net), parameterization="pyramid")

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
    falling = LAST_SHARE ** torch.linspace(0, 1, len(names), dtype=torch.float64)
    shares = dict(zip(names, (falling / falling.sum()).tolist(), strict=True))

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        distances = []
        for name, (mean, deviation, counts) in targets.items():
            output = activations[name].float()
            mean, deviation, counts = (each.to(output.device) for each in (mean, deviation, counts))
            difference, square = Moments.apply(output, mean)
            variance = (square - difference.square()).clamp(min=0)
            off = difference.square() + ((variance + 1e-8).sqrt() - deviation).square()
            distances.append(shares[name] * (off / deviation.square() * counts).sum(1) / counts.sum())
        return -torch.stack(distances).sum(0)

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


@usual_settings
def distribution(
    model: nn.Module, layers: str | nn.Module | Iterable[str | nn.Module], pictures: Pictures
) -> Objective:
    """Return an objective that is largest, zero, if the activations are distributed as those for ``pictures``.

    The activations of a channel at all positions are sorted, and so are those for all pictures together. The objective
    is the negative mean squared difference between the two sorted lists, which is the squared Wasserstein-2 distance
    between the distributions. The distances of all channels of a layer are added, and divided by the sum of the
    variances of the channels for the pictures. The result is averaged over the layers. Where the activations occur in
    the image does not matter. See Gorgun, Schiele and Fischer, "VITAL: More Understandable Feature Visualization
    through Distribution Alignment and Relevant Information Flow", ICCV 2025.

    Example:
        >>> objective = log_odds(281, "fc") + distribution(net, ["layer2", "layer3"], pictures)

    Args:
        model: any network that takes images (N, C, H, W) in [0, 1].
        layers: name of a layer, a module of the network, or an iterable of several.
        pictures: real pictures of any sizes in [0, 1], in any form that :func:`top_examples` accepts, such as a folder.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``layers`` or ``pictures`` is empty, a layer does not exist, or its activations have no variance.
    """
    model = as_model(model)
    names = arguments.as_layers(model, layers)
    if not names:
        raise ValueError("distribution needs at least one layer")
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for batch in batches(pictures, model):
        activations = activations_for(model, batch.images, names)
        for name, parts in found.items():
            parts.append(features_of(activations, name).transpose(0, 1).flatten(1))
    if not all(found.values()):
        raise ValueError("distribution needs pictures")
    targets = {name: _Sorted(torch.cat(parts, 1), name) for name, parts in found.items()}

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        distances = [target.distance(features_of(activations, name)) for name, target in targets.items()]
        return -torch.stack(distances).mean(0)

    return Objective(f"distribution of {', '.join(names)}", frozenset(names), value)


class _Sorted:
    """Sorted activations of each channel of a layer for some pictures."""

    def __init__(self, features: Tensor, layer: str) -> None:
        """Sort ``features`` (C, positions), which are from all pictures."""
        self.values = features.sort(1).values
        self.scale = self.values.var(1, correction=0).sum()
        if not self.scale > 0:
            raise ValueError(f"all pictures have the same activations in every position of layer {layer!r}")
        self.fitted: dict[tuple[int, torch.device], Tensor] = {}

    def distance(self, features: Tensor) -> Tensor:
        """Return the distance (N,) of ``features`` (N, C, positions) from the pictures' activations."""
        target = self._quantiles(features.shape[2], features.device)
        return (features.sort(2).values - target).square().mean(2).sum(1) / self.scale.to(features.device)

    def _quantiles(self, count: int, device: torch.device) -> Tensor:
        """Return ``count`` numbers for each channel, (C, count), with the same distribution as the sorted values."""
        if (count, device) not in self.fitted:
            # Each number is the mean of an equally long part of the step function that the sorted values form.
            # Not every device has float64.
            values = self.values.cpu()
            total = torch.cat([values.new_zeros(len(values), 1), values], 1).double().cumsum(1)
            ends = torch.arange(count + 1, dtype=torch.float64) * (values.shape[1] / count)
            below = ends.long().clamp(max=values.shape[1] - 1)
            part = total[:, below] + (ends - below) * values[:, below]
            self.fitted[count, device] = (part.diff(dim=1) * (count / values.shape[1])).float().to(device)
        return self.fitted[count, device]
