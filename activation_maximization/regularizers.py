"""Regularizers: quantities that are computed from the pixels of an image and that should stay small.

A regularizer is an :class:`Objective`. Subtract it from the objective that you maximize:
``logit(3) - total_variation(10)``. For a weight that changes over the steps, multiply the regularizer by a
:func:`ramp`.

To add a regularizer, write a function that returns an :class:`Objective` and decorate the function with
:func:`regularizer`. Expressions on the command line can then call your function. The function can be in this file or in
a file of your own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dreamgram.activation_maximization.defaults import BLUR_SHARE, INK_SHARE
from dreamgram.activation_maximization.objectives import IMAGE, Maker, Objective, ramp, share
from dreamgram.image_optimization.checks import as_number

REGULARIZERS: dict[str, Callable[..., Objective]] = {}
"""Functions that make a regularizer, by name. Expressions can call these functions."""


def regularizer(make: Maker) -> Maker:
    """Register ``make``, a function that returns a regularizer, so that expressions can call it by its name."""
    REGULARIZERS[make.__name__] = make
    return make


@regularizer
def pixel_sum(weight: float = 0.08) -> Objective:
    """Return a regularizer: ``weight`` times the sum of all pixel values over all channels.

    The pixel values are in [0, 1]. For an image of a white digit on black, the sum measures the amount of ink.
    """
    weight = as_number(weight, "weight")
    return _of_image(f"{weight:g} pixel sum", lambda image: weight * image.flatten(1).sum(1))


@regularizer
def border(weight: float) -> Objective:
    """Return a regularizer: ``weight`` times a mean of the pixel values that counts pixels near the border most.

    Each pixel value is multiplied by the fourth power of the distance from the middle of the image. This distance is 1
    at the middle of each side, and the square root of 2 in each corner. In contrast to :func:`pixel_sum`, ink in the
    middle is almost free. Digits of MNIST have no ink near the border. A network that was trained on them has therefore
    not learned how to respond to such ink, and a spot in a corner can make a logit large.
    """

    def value(image: Tensor) -> Tensor:
        down, across = (torch.linspace(-1, 1, side, device=image.device).square() for side in image.shape[2:])
        return weight * (image * (down[:, None] + across).square()).flatten(1).mean(1)

    weight = as_number(weight, "weight")
    return _of_image(f"{weight:g} border", value)


@regularizer
def sparing(ink_share: float = INK_SHARE, blur_share: float = BLUR_SHARE) -> Objective:
    """Return a regularizer that favors little ink and soft edges, so that optimized images of digits are readable.

    The amount of ink is the mean of the pixel values. The weights are relative to the gradient of the other terms of
    the objective (see :func:`share`), so that they suit every network and image size. With the default weights, the
    digits are also recognized by networks that were not used for the optimization. The script
    ``benchmarks/digit_judges.py`` measures how many digits such networks recognize.

    Args:
        ink_share: weight, at the last step, of the mean of the pixel values. At the first step, the weight is 0.4 times
            ``ink_share``. It rises linearly, so that a digit is drawn before unneeded ink is removed.
        blur_share: weight of the regularizer :func:`blur`.
    """
    ink_share, blur_share = as_number(ink_share, "ink_share"), as_number(blur_share, "blur_share")
    return share() * (ramp(0.4 * ink_share, ink_share) * l1(1, center=0) + blur(blur_share))


@regularizer
def l1(weight: float, center: float = 0.5) -> Objective:
    """Return a regularizer: ``weight`` times the mean absolute difference between pixel values and ``center``.

    The default ``center`` of 0.5 is gray.
    """
    weight, center = as_number(weight, "weight"), as_number(center, "center")
    return _of_image(f"{weight:g} L1", lambda image: weight * (image - center).abs().flatten(1).mean(1))


@regularizer
def l2(weight: float, center: float = 0.5) -> Objective:
    """Return a regularizer: ``weight`` times the mean squared difference between pixel values and ``center``.

    The default ``center`` of 0.5 is gray.
    """
    weight, center = as_number(weight, "weight"), as_number(center, "center")
    return _of_image(f"{weight:g} L2", lambda image: weight * (image - center).square().flatten(1).mean(1))


@regularizer
def total_variation(weight: float) -> Objective:
    """Return a regularizer: ``weight`` times the total variation of the image.

    The total variation is the mean absolute difference between vertically neighboring pixels plus the mean absolute
    difference between horizontally neighboring pixels. See Rudin, Osher, Fatemi, "Nonlinear Total Variation Based Noise
    Removal Algorithms", 1992.
    """

    def value(image: Tensor) -> Tensor:
        down, across = image.diff(dim=2).abs(), image.diff(dim=3).abs()
        return weight * (down.flatten(1).mean(1) + across.flatten(1).mean(1))

    weight = as_number(weight, "weight")
    return _of_image(f"{weight:g} total variation", value)


@regularizer
def blur(weight: float) -> Objective:
    """Return a regularizer: ``weight`` times the mean squared difference between the image and its blurred copy.

    In the blurred copy, each pixel is the mean of the 3 x 3 pixels around it. A gradient step that reduces this
    regularizer blurs the image slightly. Yosinski et al. do not use a regularizer, but blur the image between steps;
    see "Understanding Neural Networks Through Deep Visualization", arXiv:1506.06579. Unlike total variation, this
    regularizer also softens strong edges.
    """

    def value(image: Tensor) -> Tensor:
        around = avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
        return weight * (image - around).square().flatten(1).mean(1)

    weight = as_number(weight, "weight")
    return _of_image(f"{weight:g} blur", value)


def _of_image(name: str, value: Callable[[Tensor], Tensor]) -> Objective:
    """Return the objective called ``name`` whose value is computed from the image alone."""
    return Objective(name, frozenset(), lambda activations: value(activations[IMAGE]))
