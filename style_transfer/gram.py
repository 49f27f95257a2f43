"""Gram matrices, moments and covariances of activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

PARTS = 16
"""Number of parts into which the positions of bfloat16 activations are divided to compute moments on a CPU. A CPU
rounds the product of two bfloat16 matrices to bfloat16. One product is computed for each part, and the products are
added in float32. The relative error of the sum, 2^-9 / sqrt(PARTS), is therefore smaller than the relative error of the
activations, 2^-9."""

_SUMS_IN_FLOAT32 = torch.version.cuda is not None and hasattr(torch.ops.aten.mm, "dtype")
"""True if the product of two bfloat16 matrices can be computed in float32 on an NVIDIA GPU, without converting the
matrices first. PyTorch 2.7 does not support such a product."""

FEW = 1024
"""Number of positions below which one matrix product in float32 is faster than :data:`PARTS` products in bfloat16."""


def gram_matrix(activation: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the Gram matrices F F^T / (C H W) of activations (N, C, H, W): (N, C, C), in float32 or float64.

    F is the matrix (C, H W) that holds the activations of one image. The product F F^T is equation 3 of Gatys et al.,
    arXiv:1508.06576. Unlike in the paper, the product is divided by C H W, so that pictures of different sizes can be
    compared. ``weight`` (H, W) holds the weight of each position in the product, or is a scalar tensor if all weights
    are equal. With weights, the result is F D F^T / C, where D is the diagonal matrix of the weights. By default, every
    weight is 1 / (H W), so that the result is the formula above.
    """
    return moments(activation, weight)[:, :-1] / activation.shape[1]


def moments(activation: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the weighted moments of activations (N, C, H, W): (N, C + 1, C), in float32 or float64.

    Let f be the vector (C,) of the activations at one position. The first C rows are the weighted sum of f f^T over all
    positions, and the last row is the weighted sum of f. ``weight`` (H, W) holds the weight of each position, or is a
    scalar tensor if all weights are equal. By default, every weight is 1 / (H W).
    """
    if weight is None:
        height, width = activation.shape[2:]
        weight = torch.tensor(1 / (height * width))
    sums: Tensor = _Moments.apply(activation, weight)
    return sums


def distribution(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (C,) and the covariance (C, C) of features, given their ``moments`` (1, C + 1, C).

    The first C rows of ``moments`` are the mean of f f^T over all features f, and the last row is the mean of f.
    """
    mean = moments[0, -1]
    return mean, moments[0, :-1] - mean.outer(mean)


class _Moments(torch.autograd.Function):
    """Autograd function that computes :func:`moments`.

    Its backward pass keeps the channels-last memory format and takes half the work of the backward pass that autograd
    would derive.
    """

    @staticmethod
    def forward(ctx: Any, activation: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(activation, weight)
        return torch.stack([_sums(features, weight) for features in _features(activation)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        activation, weight = ctx.saved_tensors
        n, c, h, w = activation.shape
        of_products, of_sum = gradient[:, :-1], gradient[:, -1:]
        # If all positions have the same weight, the (C, C) matrices are multiplied by it, which is cheaper than
        # multiplying the features.
        everywhere = weight if weight.ndim == 0 else weight.new_ones(())
        factor = ((of_products + of_products.transpose(1, 2)) * everywhere).to(activation.dtype)
        shift, features = (of_sum * everywhere).to(activation.dtype), _features(activation)
        if n == 1:  # this takes fewer passes over memory; the factor is symmetric, so it need not be transposed
            of_features = linear(features[0], factor[0], shift[0, 0])[None]
        else:
            of_features = torch.baddbmm(shift, features, factor)
        if weight.ndim:
            of_features = of_features * weight.reshape(1, -1, 1).to(activation.dtype)
        return of_features.view(n, h, w, c).permute(0, 3, 1, 2), None


def _features(activation: Tensor) -> Tensor:
    """Reshape activations (N, C, H, W) to (N, H W, C)."""
    return activation.permute(0, 2, 3, 1).flatten(1, 2)


def _sums(features: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted moments (C + 1, C) of the features (P, C) of one image; see :func:`moments`."""
    if features.dtype == torch.bfloat16 and weight.ndim == 0 and features.is_cuda and _SUMS_IN_FLOAT32:
        products = torch.mm(features.T, features, out_dtype=torch.float32)
        # A matrix product with ones takes a quarter of the time of Tensor.sum.
        sums = torch.mm(features.new_ones(1, len(features)), features, out_dtype=torch.float32)
        return torch.cat([products, sums]) * weight
    exact = features.dtype != torch.bfloat16 or len(features) < FEW or not features.is_cpu
    if exact:
        features = features.to(torch.promote_types(features.dtype, torch.float32))
    # The weights are divided by the largest weight, because the weights of a large picture are too small for the
    # number format of the products.
    unit = weight.max().clamp(min=1e-30)
    shares = None if weight.ndim == 0 else (weight / unit).flatten()[:, None].to(features.dtype)
    weighted = features if shares is None else features * shares
    if exact:  # a product with ones would add up the positions one after another, with large rounding errors
        return torch.cat([weighted.T @ features, weighted.sum(0, keepdim=True)]) * unit
    ones = features.new_ones(len(features), 1)
    return torch.cat([_product_of_parts(weighted, features), _product_of_parts(ones, weighted)]) * unit


def _product_of_parts(one: Tensor, two: Tensor) -> Tensor:
    """Return the product of ``one`` (P, C) transposed and ``two`` (P, D), both bfloat16, in float32: (C, D).

    The positions P are divided into :data:`PARTS` parts of the same size, and the products of the parts are added.
    """
    size = len(two) // PARTS
    these, those = (each[: PARTS * size].view(PARTS, size, each.shape[1]) for each in (one, two))
    total = torch.bmm(these.mT, those).sum(0, dtype=torch.float32)
    if PARTS * size < len(two):  # fewer positions than there are parts remain
        total += one[PARTS * size :].T.float() @ two[PARTS * size :].float()
    return total
