"""The Gram matrix: which channels fire together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PARTS = 16
"""A product of two matrices of bfloat16 is rounded to bfloat16 on a CPU. The positions are taken in as many parts,
which are added in float32: the error of the whole, 2^-9 / sqrt(PARTS), is below that of the activations themselves."""

FEW = 1024
"""Below so many positions the product costs less in float32 than the sum of the parts does."""


def gram_matrix(activation: Tensor) -> Tensor:
    """F F^T / (C H W) of activations (N, C, H, W), in float32: (N, C, C). Gatys et al., arXiv:1508.06576, equation 3.

    Divided by the number of positions, unlike in the paper, so that pictures of different sizes compare.
    """
    gram: Tensor = _Gram.apply(activation)
    return gram


class _Gram(torch.autograd.Function):
    """With half the work of autograd on the way back, and no change of the order in memory, channels last."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor) -> Tensor:
        ctx.save_for_backward(activation)
        products = [_product(features) for features in _features(activation)]
        return torch.stack(products) / activation[0].numel()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        [activation] = ctx.saved_tensors
        factor = ((gradient + gradient.transpose(1, 2)) / activation[0].numel()).to(activation.dtype)
        n, c, h, w = activation.shape
        of_features: Tensor = _features(activation) @ factor
        return of_features.view(n, h, w, c).permute(0, 3, 1, 2)


def _features(activation: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H W, C)"""
    return activation.permute(0, 2, 3, 1).flatten(1, 2)


def _product(features: Tensor) -> Tensor:
    """(P, C) -> (C, C)"""
    if features.dtype != torch.bfloat16 or len(features) < FEW or not features.is_cpu:
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        return features.T @ features
    product = features.new_zeros(features.shape[1], features.shape[1], dtype=torch.float32)
    for part in features.tensor_split(PARTS):
        product += part.T @ part
    return product
