"""Conversion of the arguments of public functions, such as :func:`maximize`, to the types that the package uses.

For example, an objective can be given as text, and a single image can be given without a batch axis. If an argument has
none of the accepted forms, the error message says in one line what is expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from numbers import Real
from typing import Any

from torch import Tensor, nn

from dreamgram.activation_maximization.expressions import (
    TRANSFORMS,
    default_parameterization,
    parse_objective,
    parse_parameterization,
    parse_transform,
)
from dreamgram.activation_maximization.objectives import Objective, describe_given
from dreamgram.image_optimization.checks import as_model
from dreamgram.image_optimization.images import as_images
from dreamgram.image_optimization.input_shapes import default_shape, find_shape
from dreamgram.image_optimization.layers import reach_layers
from dreamgram.image_optimization.names import described, either
from dreamgram.image_optimization.parameterizations import PARAMETERIZATIONS, Parameterization
from dreamgram.image_optimization.state import unwrapped
from dreamgram.image_optimization.transforms import Chain, Transform, robust
from dreamgram.image_optimization.trial import blank_image

METHODS = ("from_noise", "from_image", "render")
"""Names of the methods that a parameterization must have, see :class:`Parameterization`.

A parameterization is a class that computes images from the tensor that is optimized.
"""


def model_and_objective(model: Any, objective: Any, size: Any = None) -> tuple[nn.Module, Objective]:
    """Return the network and the objective, in this order, after checking their types.

    The caller is allowed to swap ``model`` and ``objective``. An objective that is given as the text of an expression
    is parsed. ``size`` is the size of the images, in any form that :func:`image_shape` accepts. If the objective
    compares images with a photo, the photo is converted to the number of channels that the network takes.

    Raises:
        TypeError: ``model`` is not a ``torch.nn.Module``, or ``objective`` is neither an :class:`Objective` nor a
            string.
        ValueError: the text is not a valid expression for this network; or the objective reads layers, but the network
            is a single module without submodules.
    """
    model, objective = in_order(model, objective)
    if isinstance(objective, str):
        shape = image_shape(model, size)

        def count_units(layer: str) -> int:
            return reach_layers(model, blank_image(shape), [layer])[0].channels

        objective = parse_objective(objective, count_units=count_units)
    if not isinstance(objective, Objective):
        raise TypeError(
            f"objective must be an Objective, such as channel('conv2', 3), not {describe_given(objective)}; "
            "Objective(name, layers, function) makes one from a function of the activations"
        )
    if objective.layers:
        _check_has_layers(model)
    if objective.photo is not None:
        objective = replace(objective, photo=as_batch(objective.photo, f"the photo of {objective}", model))
    return model, objective


def in_order(model: Any, objective: Any) -> tuple[nn.Module, Any]:
    """Return the network and the objective, in this order, even if the caller has swapped them.

    Raises:
        TypeError: neither argument is a network.
    """
    if isinstance(objective, nn.Module):
        model, objective = objective, model
    return as_model(model), objective


def as_layers(model: nn.Module, layers: Any) -> list[str]:
    """Return the names of ``layers`` as a list.

    ``layers`` is the name of a layer, a module of ``model``, or an iterable of names and modules. Names are returned
    unchanged, even if the network has no layers with these names.

    Raises:
        TypeError: an item of ``layers`` is neither a string nor a module of the network.
        ValueError: the network is a single module without submodules.
    """
    _check_has_layers(model)
    several = isinstance(layers, Iterable) and not isinstance(layers, str | nn.Module)
    names = {id(module): name for name, module in model.named_modules() if name}
    found = []
    for layer in layers if several else [layers]:
        name = names.get(id(layer)) if isinstance(layer, nn.Module) else layer
        if not isinstance(name, str):
            whose = f"not a {type(layer).__name__} that is not in it" if isinstance(layer, nn.Module) else ""
            raise TypeError(f"a layer is the name of a module of the network, {whose or f'not {described(layer)}'}")
        found.append(name)
    return found


def _check_has_layers(model: nn.Module) -> None:
    """Raise a ValueError if the network is a single module without submodules, because it has no named layers."""
    if next(unwrapped(model).children(), None) is None:
        kind = type(unwrapped(model)).__name__
        raise ValueError(f"{kind} is a single module and has no layers inside: wrap it, as in nn.Sequential(model)")


def image_shape(model: nn.Module, size: Any) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of the images to make for ``model``.

    Args:
        model: network that takes the images.
        size: side in pixels for square images, or (H, W), or (C, H, W), or None for the network's default input size.

    Raises:
        TypeError: ``size`` has none of these forms.
        ValueError: the height or the width in ``size`` is not positive; C in ``size`` is not the number of channels
            that the network takes; or the number of channels that the network takes is unknown, because the network
            has neither an ``input_shape`` nor layers that determine this number.
    """
    if size is None:
        return default_shape(model)
    size = size.tolist() if hasattr(size, "tolist") else size  # an array or a tensor
    numbers: Any = [size] if isinstance(size, Real) else size
    if isinstance(numbers, Sequence) and len(numbers) == 4 and numbers[0] == 1:
        numbers = numbers[1:]  # the shape of a batch of one image
    wanted = f"size must be a number of pixels, or (height, width), not {size!r}"
    if isinstance(numbers, str) or not isinstance(numbers, Sequence) or not 1 <= len(numbers) <= 3:
        raise TypeError(wanted)
    whole = (isinstance(number, Real) and float(number).is_integer() for number in numbers)
    if not all(whole) or any(isinstance(number, bool) for number in numbers):
        raise TypeError(wanted)
    sides = [int(number) for number in numbers]
    shape = default_shape(model, (sides[-2], sides[-1]) if len(sides) > 1 else sides[0])
    if len(sides) == 3 and sides[0] != shape[0]:
        raise ValueError(f"size {tuple(sides)} has {sides[0]} channels, but the network takes {shape[0]}")
    return shape


def as_batch(given: Any, name: str, model: nn.Module) -> Tensor:
    """Convert ``given``, images for ``model``, to a float32 tensor (N, C, H, W) in [0, 1].

    Error messages call the images ``name``. The images are converted to the number of channels that the network takes.
    However, a floating-point tensor keeps its number of channels if the network does not declare an ``input_shape``,
    because the number of channels that the network takes is then only a guess.

    Raises:
        TypeError, ValueError, OSError: as for :func:`dreamgram.image_optimization.images.as_images`.
    """
    guessed = getattr(model, "input_shape", None) is None
    channels = None
    if not (guessed and isinstance(given, Tensor) and given.is_floating_point()):
        with suppress(ValueError):  # the network does not say what images it takes
            channels = find_shape(model).shape[0]
    if guessed and channels not in (1, 3):
        channels = None
    return as_images(given, name, channels)


def as_parameterization(given: type[Parameterization] | str | None, channels: int) -> type[Parameterization]:
    """Return the parameterization class that ``given`` selects: the class itself, a class with this name or a default.

    A parameterization computes images from the tensor that is optimized. If ``given`` is None, the result is the
    default class for images with ``channels`` channels.

    Raises:
        TypeError: ``given`` is neither a string nor a parameterization class.
        ValueError: there is no parameterization with the name ``given``.
    """
    if given is None:
        given = default_parameterization(channels)
    if not isinstance(given, str) and not all(callable(getattr(given, name, None)) for name in METHODS):
        known = either(PARAMETERIZATIONS)
        raise TypeError(f"parameterization must be {known}, or a class such as PixelImage, not {described(given)}")
    return parse_parameterization(given) if isinstance(given, str) else given


def as_transform(given: Transform | Sequence[Transform] | str | None) -> Transform:
    """Convert ``given`` to a single transform, a function that changes the images before the network sees them.

    Args:
        given: a transform; a string such as ``jitter(0.1)`` or ``jitter(0.1) + robust(5)``; a list of transforms and
            strings, which are applied in order; or None for the default, ``robust()``.

    Raises:
        TypeError: ``given`` has none of these forms.
        ValueError: the string is not a valid transform.
    """
    if given is None:
        return robust()
    several = not callable(given) and not isinstance(given, str) and isinstance(given, Iterable)
    some: Any = given if several else [given]
    transforms = [_as_one_transform(each) for each in some]
    return transforms[0] if len(transforms) == 1 else Chain(tuple(transforms))


def _as_one_transform(given: Any) -> Transform:
    """Return a transform, given the transform itself, its text, or a function that makes it, such as ``robust``."""
    if isinstance(given, str):
        return parse_transform(given)
    if not callable(given):
        raise TypeError(f"transform must be a function of images, or a list of them, not {described(given)}")
    made: Transform = given() if given in TRANSFORMS.values() else given
    return made
