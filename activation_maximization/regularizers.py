"""Regularizers: what an image is to have little of. Each is an objective over the image itself, to be subtracted.

To add one, write a function here that returns an :class:`~activation_maximization.objectives.Objective`.
"""

from __future__ import annotations

from activation_maximization.objectives import IMAGE, Objective


def pixel_sum(weight: float = 0.08) -> Objective:
    """``weight`` times the sum of all pixels in [0, 1], channels included: the ink on a black sheet."""
    return Objective(
        f"{weight:g} pixel sum", frozenset([IMAGE]), lambda activations: weight * activations[IMAGE].flatten(1).sum(1)
    )
