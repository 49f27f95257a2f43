"""Regularizers: what an image is to have little of. Each is an objective over the image itself, to be subtracted.

Weigh one anew in every step with :func:`~activation_maximization.objectives.ramp`. To add one, write a function here
that returns an :class:`~activation_maximization.objectives.Objective`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from activation_maximization.objectives import IMAGE, Objective, ramp

if TYPE_CHECKING:
    from torch import Tensor


def pixel_sum(weight: float = 0.08) -> Objective:
    """``weight`` times the sum of all pixels in [0, 1], channels included: the ink on a black sheet."""
    return _of_image(f"{weight:g} pixel sum", lambda image: weight * image.flatten(1).sum(1))


def sparing(ink: float = 0.09, smoothness: float = 1300) -> Objective:
    """Little ink and soft edges: with these weights the digits that a network dreams can be read by others.

    ``ink`` is the weight of the pixel sum at the end; it begins with 0.4 of it, so that a digit is drawn before what it
    can do without is taken away. ``smoothness`` is the weight of :func:`blur`. ``benchmarks/digit_judges.py`` prints
    what these do.
    """
    return ramp(0.4 * ink, ink) * pixel_sum(1) + blur(smoothness)


def l1(weight: float, center: float = 0.5) -> Objective:
    """``weight`` times the mean absolute difference of the pixels from ``center``, by default gray."""
    return _of_image(f"{weight:g} L1", lambda image: weight * (image - center).abs().flatten(1).mean(1))


def l2(weight: float, center: float = 0.5) -> Objective:
    """``weight`` times the mean squared difference of the pixels from ``center``, by default gray."""
    return _of_image(f"{weight:g} L2", lambda image: weight * (image - center).square().flatten(1).mean(1))


def total_variation(weight: float) -> Objective:
    """``weight`` times the mean absolute difference of neighbouring pixels, down plus across.

    Rudin, Osher, Fatemi, "Nonlinear Total Variation Based Noise Removal Algorithms", 1992.
    """

    def value(image: Tensor) -> Tensor:
        down, across = image.diff(dim=2).abs(), image.diff(dim=3).abs()
        return weight * (down.flatten(1).mean(1) + across.flatten(1).mean(1))

    return _of_image(f"{weight:g} total variation", value)


def blur(weight: float) -> Objective:
    """``weight`` times the mean squared difference of the pixels from the mean of the 3 x 3 around them.

    A step against its gradient is a slight blur, which Yosinski et al. apply between steps, "Understanding Neural
    Networks Through Deep Visualization", arXiv:1506.06579. Unlike total variation it spares no edge.
    """

    def value(image: Tensor) -> Tensor:
        from torch.nn.functional import avg_pool2d

        around = avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
        return weight * (image - around).square().flatten(1).mean(1)

    return _of_image(f"{weight:g} blur", value)


def _of_image(name: str, value: Callable[[Tensor], Tensor]) -> Objective:
    return Objective(name, frozenset(), lambda activations: value(activations[IMAGE]))
