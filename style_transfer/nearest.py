"""Nearest neighbors: the cosine distance between activations and the nearest activations of a painting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 1024
"""Maximum number of positions whose nearest neighbors are found at once. A larger table of cosines would not fit into
the cache of a CPU core."""

SHORTEST = 1e-12
"""Minimum norm by which an activation is divided, to avoid division by zero. A smaller norm is replaced by this
minimum."""


def distance_of_nearest(activation: Tensor, weight: Tensor, mean: Tensor, candidates: Tensor) -> Tensor:
    """Return the weighted sum of the cosine distances (1 - cosine) from the activations to the nearest candidates.

    Args:
        activation: the image's activations (1, C, H, W).
        weight: the weight of each position, (H, W), or a scalar tensor if all weights are equal.
        mean: the mean (C,) of the painting's activations. It is subtracted from each activation of the image before the
            comparison with the candidates.
        candidates: Q activations of the painting, (Q, C), minus ``mean``. Each of these differences is divided by its
            norm.
    """
    distance: Tensor = _Nearest.apply(activation, weight, mean, candidates)
    return distance


def lattice(activation: Tensor, window: tuple[slice, slice], every: int) -> Tensor:
    """Select the fraction 1 / ``every`` of an activation's positions, evenly spread over its rows and columns.

    ``window`` holds the ranges of rows and columns that ``activation`` covers in the whole layer. Whether a position is
    selected depends only on its row and column in the whole layer, so that dividing the layer into windows does not
    change the selection.

    Returns:
        A boolean mask (H, W) that is True at the selected positions of ``activation`` (1, C, H, W).
    """
    rows, columns = (
        torch.arange(length, device=activation.device) + (part.start or 0)
        for length, part in zip(activation.shape[2:], window, strict=True)
    )
    return (rows[:, None] * round(0.618 * every) + columns) % every == 0


class _Nearest(torch.autograd.Function):
    """Autograd function of :func:`distance_of_nearest`.

    The gradient is computed in the forward pass, one chunk of positions at a time, so that the distances of a chunk do
    not have to be kept for the backward pass. The nearest candidates are found in the type of the activations, such as
    bfloat16, which is faster. The distance from them and its gradient are computed in the type of the candidates.
    """

    @staticmethod
    def forward(ctx: Any, activation: Tensor, weight: Tensor, mean: Tensor, candidates: Tensor) -> Tensor:
        _, channels, *ctx.size = activation.shape
        features = activation[0].permute(1, 2, 0).reshape(-1, channels)
        slopes = torch.empty_like(features) if ctx.needs_input_grad[0] else features[:0]
        weights = weight.expand(ctx.size).reshape(-1, 1)
        distance, rough = mean.new_zeros(()), candidates.to(features.dtype)
        for first in range(0, len(features), CHUNK):
            part = slice(first, first + CHUNK)
            apart = features[part].to(mean.dtype) - mean
            length = apart.norm(dim=1, keepdim=True).clamp(min=SHORTEST)
            directions = apart / length
            # On a CPU, max is several times faster than argmax.
            nearest = candidates[(directions.to(features.dtype) @ rough.T).max(1).indices]
            cosines = (directions * nearest).sum(1, keepdim=True)
            distance += (weights[part] * (1 - cosines)).sum()
            if ctx.needs_input_grad[0]:
                slopes[part] = (cosines * directions - nearest) * (weights[part] / length)
        ctx.save_for_backward(slopes)
        return distance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        [slopes] = ctx.saved_tensors
        return (gradient * slopes).view(1, *ctx.size, -1).permute(0, 3, 1, 2), None, None, None
