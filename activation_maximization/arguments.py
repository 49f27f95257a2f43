"""Conversion of the arguments of public functions, such as :func:`maximize`, to the types that the package works with.

For example, an objective may be given as text, and a single image may be given without a batch axis. If an argument has
none of the accepted forms, the error message says in one line what is expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from dreamgram.activation_maximization.expressions import (
    default_parameterization,
    parse_objective,
    parse_parameterization,
    parse_transform,
)
from dreamgram.activation_maximization.objectives import OBJECTIVES, Objective
from dreamgram.image_optimization.input_shapes import default_shape
from dreamgram.image_optimization.layers import reach_layers
from dreamgram.image_optimization.parameterizations import Parameterization
from dreamgram.image_optimization.transforms import Chain, Transform, robust

OVERSHOOT = 0.5
"""Largest distance by which a pixel value may lie outside [0, 1].

Resizing an image may give values outside [0, 1], but by less than this distance. Images in 0-255, and images that were
normalized with a mean and a standard deviation, usually have values farther outside and are rejected.
"""


def model_and_objective(model: Any, objective: Any, size: Any = None) -> tuple[nn.Module, Objective]:
    """Return the network and the objective, in this order, after checking their types.

    The caller may pass the two in either order. The objective may be the text of an expression, which is then parsed.
    ``size`` is the size of the images, in any form that :func:`image_shape` accepts.

    Raises:
        TypeError: ``model`` is not a network, or ``objective`` is neither an objective nor a string.
        ValueError: the text is not a valid expression for this network.
    """
    if isinstance(objective, nn.Module):
        model, objective = objective, model
    if isinstance(model, Mapping):
        raise TypeError("model is a state_dict: load it into its network with load_state_dict, and give the network")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, such as load('digits'), not {_described(model)}")
    if isinstance(objective, str):
        shape = image_shape(model, size)

        def count_units(layer: str) -> int:
            return reach_layers(model, torch.zeros(1, *shape), [layer])[0].channels

        objective = parse_objective(objective, count_units=count_units)
    if not isinstance(objective, Objective):
        raise TypeError(
            f"objective must be an Objective, such as channel('conv2', 3), not {_described(objective)}; "
            "Objective(name, layers, function) makes one from a function of the activations"
        )
    return model, objective


def image_shape(model: nn.Module, size: Any) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of the images to make for ``model``.

    Args:
        model: network that takes the images.
        size: side of square images in pixels, (H, W), (C, H, W), or None for the network's own input size.

    Raises:
        TypeError: ``size`` has none of these forms.
        ValueError: ``size`` is not positive; C in ``size`` is not the number of channels that the network takes; or
            this number is unknown, because the network has neither an ``input_shape`` nor layers that show it.
    """
    if size is None:
        return default_shape(model)
    numbers: Any = [size] if isinstance(size, Real) else size
    wanted = f"size must be a number of pixels, or (height, width), not {size!r}"
    if isinstance(numbers, str) or not isinstance(numbers, Sequence) or not 1 <= len(numbers) <= 3:
        raise TypeError(wanted)
    if not all(isinstance(number, Real) and float(number).is_integer() for number in numbers):
        raise TypeError(wanted)
    sides = [int(number) for number in numbers]
    shape = default_shape(model, (sides[-2], sides[-1]) if len(sides) > 1 else sides[0])
    if len(sides) == 3 and sides[0] != shape[0]:
        raise ValueError(f"size {tuple(sides)} has {sides[0]} channels, but the network takes {shape[0]}")
    return shape


def as_batch(images: Any, name: str) -> Tensor:
    """Return ``images`` as a batch (N, C, H, W), after checking that the values are in [0, 1].

    Args:
        images: the images, (N, C, H, W), or (C, H, W) for a single image.
        name: name of the argument, for error messages.

    Raises:
        TypeError: ``images`` is not a tensor of floating-point numbers.
        ValueError: ``images`` has neither 3 nor 4 axes, is empty, or has values that are more than :data:`OVERSHOOT`
            outside [0, 1].
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else _described(images)
        raise TypeError(f"{name} must be a tensor of floating-point numbers in [0, 1], not {kind}")
    if images.ndim not in (3, 4) or not images.numel():
        raise ValueError(f"{name} must be (N, C, H, W), or (C, H, W) for one image, not {tuple(images.shape)}")
    low, high = (bound.item() for bound in images.detach().aminmax())
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
        raise ValueError(
            f"{name} must be in [0, 1], but goes from {low:.3g} to {high:.3g}: "
            "divide values in 0-255 by 255, and do not normalize, because the network does that itself"
        )
    batch: Tensor = images.clone() if images.is_inference() else images  # PyTorch computes no gradients with the former
    return batch if batch.ndim == 4 else batch[None]


def as_parameterization(given: type[Parameterization] | str | None, channels: int) -> type[Parameterization]:
    """Return the parameterization class ``given``, which may be a class or the name of a class.

    If ``given`` is None, return the default for images with this number of ``channels``.
    """
    if given is None:
        given = default_parameterization(channels)
    return parse_parameterization(given) if isinstance(given, str) else given


def as_transform(given: Transform | Sequence[Transform] | str | None) -> Transform:
    """Return ``given`` as one transform, a function that changes the images before the network sees them.

    Args:
        given: a transform, a string such as ``jitter(0.1)`` or ``jitter(0.1) + robust(5)``, a list of transforms to
            apply in order, or None for the default, ``robust()``.
    """
    if given is None:
        return robust()
    if isinstance(given, str):
        return parse_transform(given)
    transforms: list[Transform] = _functions(given, "transform", "images")
    return transforms[0] if len(transforms) == 1 else Chain(tuple(transforms))


def _functions(given: Any, name: str, argument: str) -> list[Any]:
    """Return ``given``, which is one function or several, as a list of functions.

    The error message contains ``name``, the name of the parameter that received ``given``, and ``argument``, a
    description of the argument that each function must take.

    Raises:
        TypeError: ``given`` is neither a function nor several functions.
    """
    functions = [given] if callable(given) else list(given) if isinstance(given, Iterable) else [None]
    if not all(callable(each) for each in functions):
        raise TypeError(f"{name} must be a function of {argument}, or a list of them, not {_described(given)}")
    return functions


def _described(value: Any) -> str:
    """Describe an invalid value for an error message."""
    if callable(value) and value in OBJECTIVES.values():
        return f"the function {value.__name__}, which must be called"
    name = getattr(value, "__name__", None)
    return f"the {type(value).__name__} {name}" if name else type(value).__name__
