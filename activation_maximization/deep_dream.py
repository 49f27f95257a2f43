"""Deep dream: amplify the patterns that a network detects in a photo, first large patterns and then finer ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from dreamgram.activation_maximization import arguments
from dreamgram.activation_maximization.defaults import OCTAVE_STEPS, OCTAVES
from dreamgram.activation_maximization.dreams import Dreams
from dreamgram.activation_maximization.gradient_ascent import maximize
from dreamgram.activation_maximization.objectives import Objective
from dreamgram.image_optimization.checks import as_number, as_whole
from dreamgram.image_optimization.images import ImageLike, refine, resize
from dreamgram.image_optimization.layers import reach_layers
from dreamgram.image_optimization.optimize import Listener, as_listeners, counted, in_turn
from dreamgram.image_optimization.parameterizations import FourierImage
from dreamgram.image_optimization.precision import Precision
from dreamgram.image_optimization.transforms import robust

MOST_OCTAVES = 100
"""Largest allowed number of octaves, which are the sizes at which a photo is processed.

With the default ratio of 1.4 between successive sizes, no photo is large enough for 100 octaves.
"""


def amplify(
    model: nn.Module,
    objective: Objective | str,
    photo: ImageLike,
    *,
    octaves: int = OCTAVES,
    ratio: float = 1.4,
    steps: int = OCTAVE_STEPS,
    learning_rate: float = 0.05,
    seed: int = 0,
    precision: Precision = "auto",
    compile: bool = False,
    listeners: Sequence[Listener] | Listener = (),
) -> Dreams:
    """Amplify the patterns in ``photo`` that increase ``objective``, first large shapes and then finer ones.

    The photo is processed at several sizes, called octaves, from the smallest to the largest. At each octave, the
    objective is maximized by gradient ascent. The first octave starts from the reduced photo. Each later octave starts
    from the enlarged result of the previous octave, to which the details of the photo that were lost at the smaller
    size are added. See Mordvintsev, Olah, Tyka, "Inceptionism: Going Deeper into Neural Networks", 2015.

    Args:
        model: any network that takes images (N, C, H, W) in [0, 1], as for :func:`maximize`.
        objective: objective to maximize, such as ``deepdream(layer)``, or the text of an expression. An objective that
            compares images with a photo, such as ``match``, needs ``octaves=1``, because it works only at the size of
            its photo.
        photo: photo to start from, (1, C, H, W) in [0, 1], or in any other form that :func:`maximize` accepts for
            ``init``. The result has the size of the photo.
        octaves: number of octaves, the sizes at which the photo is processed.
        ratio: factor by which the height and the width grow from one octave to the next; larger than 1.
        steps: number of gradient steps at each octave.
        learning_rate: step size of Adam, in the unit of the optimized values, which are scaled Fourier coefficients of
            the image. Optimizing the pixels directly would give garish colors.
        seed: seed of the random shifts that are applied to the image in every step.
        precision: number format that the network computes in, as for :func:`maximize`.
        compile: whether to compile the network for each octave, as for :func:`maximize`.
        listeners: functions that are called with a :class:`Step` after every step. The steps of all octaves are
            numbered consecutively.

    Raises:
        ValueError: an argument is not valid for :func:`maximize`; ``octaves`` is below 1 or above
            :data:`MOST_OCTAVES`; the photo would be less than 1 pixel high or wide at the smallest octave; ``ratio`` is
            not above 1; or the network cannot take images of the size of the smallest octave.
    """
    model, objective = arguments.in_order(model, objective)
    start = arguments.as_batch(photo, "photo", model)
    model, objective = arguments.model_and_objective(model, objective, tuple(start.shape[2:]))
    told = as_listeners(listeners)
    octaves, steps = as_whole(octaves, "octaves"), as_whole(steps, "steps", least=1)
    ratio = as_number(ratio, "ratio")
    if octaves < 1 or ratio <= 1:
        raise ValueError(
            f"amplify needs 1 octave or more and a ratio above 1, not {octaves} octaves and a ratio of {ratio:g}"
        )
    height, width = start.shape[2:]
    if octaves > MOST_OCTAVES or min(height, width) / ratio ** (octaves - 1) < 1:
        raise ValueError(f"the photo of {width}x{height} pixels is too small for {octaves} octaves")
    _check_smallest(model, objective, start, ratio ** (octaves - 1))
    shapes = [(round(height / ratio**k), round(width / ratio**k)) for k in reversed(range(octaves))]
    costs = list(map(math.prod, shapes))
    picture: Tensor | None = None

    def dream(part: tuple[int, tuple[int, int]]) -> Dreams:
        nonlocal picture
        octave, shape = part
        dreams = maximize(
            model,
            objective,
            init=resize(start, shape) if picture is None else refine(picture, start, shape).clamp(0, 1),
            steps=steps,
            learning_rate=learning_rate,
            parameterization=FourierImage,
            transform=robust(degrees=0, translate=0.05, scale=(1, 1), shear=0),
            seed=seed,
            precision=precision,
            compile=compile,
            listeners=counted(told, octave, [steps] * octaves, costs),
        )
        picture = dreams.images
        return dreams

    done, stopped = in_turn(enumerate(shapes), dream)
    finished = refine(done[-1].images, start, (height, width)).clamp(0, 1)
    settings = {**done[-1].settings, "octaves": octaves, "ratio": ratio}
    return replace(done[-1], images=finished, stopped=stopped, settings=settings)


def _check_smallest(model: nn.Module, objective: Objective, photo: Tensor, times: float) -> None:
    """Raise a ValueError if the network cannot take ``photo`` with its height and width divided by ``times``."""
    height, width = photo.shape[2:]
    try:
        reach_layers(model, resize(photo, (round(height / times), round(width / times))), sorted(objective.layers))
    except ValueError as error:
        if times == 1:
            raise
        raise ValueError(f"{error}; use fewer octaves (1 for a network that takes one size only)") from error
