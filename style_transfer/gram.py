"""The Gram matrix: which channels fire together."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

PARTS = 16
"""A product of two matrices of bfloat16 is rounded to bfloat16 on a CPU. The positions are taken in as many parts,
which are added in float32: the error of the whole, 2^-9 / sqrt(PARTS), is below that of the activations themselves."""

FEW = 1024
"""Below so many positions the product costs less in float32 than the sum of the parts does."""


def gram_matrix(activation: Tensor, weight: Tensor | None = None) -> Tensor:
    """F F^T / (C H W) of activations (N, C, H, W), in float32: (N, C, C). Gatys et al., arXiv:1508.06576, equation 3.

    Divided by the number of positions, unlike in the paper, so that pictures of different sizes compare. With
    ``weight``, of every position, () or (H, W), in place of 1 / (H W).
    """
    return moments(activation, weight)[:, :-1] / activation.shape[1]


def moments(activation: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted sums over the positions of (N, C, H, W), in float32: (N, C + 1, C), f f^T and, the last row, f."""
    if weight is None:
        height, width = activation.shape[2:]
        weight = torch.tensor(1 / (height * width))
    sums: Tensor = _Moments.apply(activation, weight)
    return sums


class _Moments(torch.autograd.Function):
    """With half the work of autograd on the way back, and no change of the order in memory, channels last."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(activation, weight)
        return torch.stack([_sums(features, weight) for features in _features(activation)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        activation, weight = ctx.saved_tensors
        n, c, h, w = activation.shape
        of_products, of_sum = gradient[:, :-1], gradient[:, -1:]
        # A weight that is the same everywhere is cheaper to multiply with here than there.
        everywhere = weight if weight.ndim == 0 else weight.new_ones(())
        factor = ((of_products + of_products.transpose(1, 2)) * everywhere).to(activation.dtype)
        of_features = torch.baddbmm((of_sum * everywhere).to(activation.dtype), _features(activation), factor)
        if weight.ndim:
            of_features = of_features * weight.reshape(1, -1, 1).to(activation.dtype)
        return of_features.view(n, h, w, c).permute(0, 3, 1, 2), None


def _features(activation: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H W, C)"""
    return activation.permute(0, 2, 3, 1).flatten(1, 2)


def _sums(features: Tensor, weight: Tensor) -> Tensor:
    """(P, C) -> (C + 1, C)"""
    exact = features.dtype != torch.bfloat16 or len(features) < FEW or not features.is_cpu
    if exact:
        features = features.to(torch.promote_types(features.dtype, torch.float32))
    sums = features.new_zeros(
        features.shape[1] + 1, features.shape[1], dtype=torch.promote_types(features.dtype, torch.float32)
    )
    # In the weight's largest value, lest those of a large picture fall below what the products can hold.
    unit = weight.max().clamp(min=1e-30)
    shares = None if weight.ndim == 0 else (weight / unit).flatten()[:, None].to(features.dtype)
    for part in _slices(len(features), 1 if exact else PARTS):
        some = features[part]
        weighted = some if shares is None else some * shares[part]
        sums[:-1] += weighted.T @ some
        sums[-1] += weighted.sum(0)
    return sums * unit


def _slices(count: int, parts: int) -> list[slice]:
    """``count`` positions in as many ``parts``, of nearly the same size."""
    bounds = [count * number // parts for number in range(parts + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(bounds)]
