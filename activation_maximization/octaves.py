"""Deep dreams: what a network sees in a photo, amplified from coarse to fine."""

# Torch is imported where it is needed, so that the command line can read the defaults below without it.
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from activation_maximization.dream import Dreams, maximize
from activation_maximization.objectives import Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from image_optimization.optimize import Listener
    from image_optimization.precision import Precision


def amplify(
    model: nn.Module,
    objective: Objective,
    photo: Tensor,
    *,
    octaves: int = 4,
    ratio: float = 1.4,
    steps: int = 10,
    learning_rate: float = 0.05,
    seed: int = 0,
    precision: Precision = "auto",
    listeners: Sequence[Listener] = (),
) -> Dreams:
    """``photo`` with more of what ``objective`` asks for: large forms first, then finer ones on them.

    Mordvintsev, Olah, Tyka, "Inceptionism: Going Deeper into Neural Networks", 2015. At each octave the picture so far
    is enlarged and given back the photo's detail that was too fine for the one before.

    Args:
        model: as for :func:`maximize`.
        objective: what to amplify, such as :func:`~activation_maximization.objectives.deepdream`; one with a photo of
            its own has but one size, and needs ``octaves=1``.
        photo: (1, C, H, W) in [0, 1]; the result has its size.
        octaves: sizes, each ``ratio`` times the one before.
        ratio: between the sides of one octave and the next.
        steps: at each octave.
        learning_rate: Adam's, in units of the Fourier coefficients: with pixels the colours get shrill.
        seed: of the random shifts.
        precision: as for :func:`maximize`.
        listeners: told of every step; steps are counted through all octaves.

    Raises:
        ValueError: as :func:`maximize`; there are too few or too many ``octaves``; the network takes but one size.
    """
    from image_optimization.images import refine, resize
    from image_optimization.optimize import counted
    from image_optimization.parameterizations import FourierImage
    from image_optimization.transforms import robust

    if octaves < 1 or ratio <= 1:
        raise ValueError(f"amplify needs 1 octave or more, each larger than the last, not {octaves} of {ratio:g}")
    height, width = photo.shape[2:]
    if min(height, width) / ratio ** (octaves - 1) < 1:
        raise ValueError(f"the photo of {width}x{height} pixels is too small for {octaves} octaves")
    _check_smallest(model, objective, photo, ratio ** (octaves - 1))
    shapes = [(round(height / ratio**k), round(width / ratio**k)) for k in reversed(range(octaves))]
    dreams: Dreams | None = None
    for octave, shape in enumerate(shapes):
        start = resize(photo, shape) if dreams is None else refine(dreams.images, photo, shape).clamp(0, 1)
        try:
            dreams = maximize(
                model,
                objective,
                init=start,
                steps=steps,
                learning_rate=learning_rate,
                parameterization=FourierImage,
                transform=robust(degrees=0, translate=0.05, scale=(1, 1), shear=0),
                seed=seed,
                precision=precision,
                listeners=counted(listeners, octave, list(map(math.prod, shapes))),
            )
        except KeyboardInterrupt:  # before the first step of this octave
            if dreams is None:
                raise
            dreams = replace(dreams, stopped="interrupted")
        if dreams.stopped == "interrupted":
            break
    assert dreams is not None  # there is an octave, at least
    return replace(dreams, images=refine(dreams.images, photo, (height, width)).clamp(0, 1))


def _check_smallest(model: nn.Module, objective: Objective, photo: Tensor, times: float) -> None:
    """Whether the network takes a photo so many times smaller."""
    from image_optimization.images import resize
    from image_optimization.layers import reach_layers

    height, width = photo.shape[2:]
    try:
        reach_layers(model, resize(photo, (round(height / times), round(width / times))), sorted(objective.layers))
    except ValueError as error:
        if times == 1:
            raise
        raise ValueError(f"{error}; fewer octaves need no image so small (1: for networks of one size)") from error
