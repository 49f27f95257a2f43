"""How far activations are from the nearest of a painting's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 4096
"""Positions whose neighbours are looked for at a time: bounds the memory."""

SHORTEST = 1e-12
"""Length of an activation below which it has no direction."""


def distance_of_nearest(activation: Tensor, weight: Tensor, mean: Tensor, candidates: Tensor) -> Tensor:
    """The weighted sum of 1 - the cosine between each activation and the nearest of the ``candidates``, ().

    Args:
        activation: (1, C, H, W).
        weight: of every position, () or (H, W).
        mean: (C,), taken off the activations before.
        candidates: (Q, C), of length 1, from which the same has been taken off.
    """
    distance: Tensor = _Nearest.apply(activation, weight, mean, candidates)
    return distance


class _Nearest(torch.autograd.Function):
    """The gradient is computed on the way: of all that a chunk needs, nothing else is kept."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor, weight: Tensor, mean: Tensor, candidates: Tensor) -> Tensor:
        _, channels, *ctx.size = activation.shape
        features = activation[0].permute(1, 2, 0).reshape(-1, channels)
        slopes = torch.empty_like(features) if ctx.needs_input_grad[0] else features[:0]
        weights = weight.expand(ctx.size).reshape(-1, 1)
        distance = mean.new_zeros(())
        for first in range(0, len(features), CHUNK):
            part = slice(first, first + CHUNK)
            apart = features[part].to(mean.dtype) - mean
            length = apart.norm(dim=1, keepdim=True).clamp(min=SHORTEST)
            directions = apart / length
            cosines, nearest = (directions @ candidates.T).max(1, keepdim=True)
            distance += (weights[part] * (1 - cosines)).sum()
            if ctx.needs_input_grad[0]:
                slopes[part] = (cosines * directions - candidates[nearest[:, 0]]) * (weights[part] / length)
        ctx.save_for_backward(slopes)
        return distance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        [slopes] = ctx.saved_tensors
        return (gradient * slopes).view(1, *ctx.size, -1).permute(0, 3, 1, 2), None, None, None
