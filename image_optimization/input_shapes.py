"""Find out the shape of the images that a network takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal
from weakref import WeakKeyDictionary, WeakSet

from torch import nn

from dreamgram.image_optimization.checks import MOST_THINGS
from dreamgram.image_optimization.names import shorten
from dreamgram.image_optimization.settings import usual_settings
from dreamgram.image_optimization.state import unwrapped
from dreamgram.image_optimization.trial import Start, blank_image, is_about_sizes, try_out

_logger = logging.getLogger(__name__)

_Shape = tuple[int, int, int]
"""Type of the shape (C, H, W) of an image."""

USUAL = 224
"""The side, in pixels, of the images that most networks are trained with."""

SIDES = (28, 32, 48, 64, 96, 112, 128, 160, 192, 256, 299, 384, 448, 512)
"""Sides in pixels to try, in ascending order, if a network does not take images of the usual side."""

COLORS = (3, 1)
"""Numbers of channels to try."""


Origin = Literal["declared", "found", "guessed", "given"]
"""Type of a word that says how the height and width of images are known; :data:`ORIGINS` explains each word."""

ORIGINS: dict[Origin, str] = {
    "declared": "as the network declares",
    "found": "the only size that passes through the network",
    "guessed": "a guess",
    "given": "the size that was given",
}
"""Text that tells users where the height and width of images come from, by origin."""


@dataclass(frozen=True)
class InputShape:
    """The shape of the images that a network takes, and how it is known."""

    shape: tuple[int, int, int]
    """Channels, height and width."""
    origin: Origin
    """Way in which the height and width are known."""


_known: WeakKeyDictionary[nn.Module, dict[Any, InputShape | None]] = WeakKeyDictionary()
"""Results of earlier searches: for each network, a dictionary from the size that the caller gave and the shapes of the
network's parameters to the shape that was found by trial, or None."""

_told: WeakSet[nn.Module] = WeakSet()
"""Networks for which the warning that their image size is a guess has already been logged."""


def default_shape(model: nn.Module, size: int | tuple[int, int] | None = None) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of images for ``model``, and log a warning if it is a guess.

    The warning is logged once for each network. :func:`find_shape` describes how the shape is found. If ``size`` is
    given, it replaces the height and width. It is in pixels: one number for a square, or (H, W).

    Raises:
        ValueError: the shape cannot be found, the network's ``input_shape`` is wrong, or ``size`` is not positive or
            too large.
    """
    found = find_shape(model, size)
    model = unwrapped(model)
    if found.origin == "guessed" and model not in _told:
        _told.add(model)
        _logger.warning(
            "%s does not say what images it takes: %s (channels x height x width) is a guess; "
            "give a size, or set its input_shape = (C, H, W)",
            type(model).__name__,
            "x".join(map(str, found.shape)),
        )
    return found.shape


def find_shape(model: nn.Module, size: int | tuple[int, int] | None = None) -> InputShape:
    """Find the shape (C, H, W) of images for ``model``.

    The shape is the network's attribute ``input_shape``. Without this attribute, it is what timm, transformers or
    torchvision have stored in the network, if images of this shape pass through it. Otherwise, the number of channels
    is the one that the first layer of a forward pass takes, and the images have 224 x 224 pixels. If such images do not
    pass through the network, several other usual shapes are tried, and the first one that passes is used. The forward
    passes compute only shapes if possible, and do not change the network.

    If ``size`` is given, it replaces the height and width. ``size`` is in pixels: one number for a square, or (H, W).

    Raises:
        ValueError: nothing shows what images the network takes, its ``input_shape`` is not the shape of an image,
            ``size`` is not positive, or one of the two has more than :data:`MOST_THINGS` elements.
    """
    model = unwrapped(model)
    sides = (size, size) if isinstance(size, int) else size
    if sides is not None and min(sides) < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    if sides is not None and math.prod(sides) > MOST_THINGS:
        raise ValueError(f"size must be at most {MOST_THINGS} pixels in all, not {sides[0]} x {sides[1]}")
    declared = getattr(model, "input_shape", None)
    if declared is not None:
        channels, *own = _checked(model, declared)
        height, width = sides or own
        return InputShape((channels, height, width), "given" if sides else "declared")
    # A network whose layers are replaced by others may take other images.
    key = sides, tuple(parameter.shape for parameter in model.parameters())
    known = _known.setdefault(model, {})
    if key not in known:
        known[key] = _Search(model).find(sides)
    found = known[key]
    if found is None:
        raise ValueError(f"{type(model).__name__} does not say what images it takes: set its input_shape = (C, H, W)")
    return found


def _checked(model: nn.Module, declared: Any) -> _Shape:
    """Return ``declared``, the attribute ``input_shape`` of ``model``, as three numbers.

    Raises:
        ValueError: ``declared`` is not the shape of an image, or the image would have more than :data:`MOST_THINGS`
            elements.
    """
    numbers = declared.tolist() if hasattr(declared, "tolist") else declared  # an array or a tensor
    shape = _whole(numbers) if isinstance(numbers, Sequence) else ()
    if len(shape) != 3 or math.prod(shape) > MOST_THINGS:
        limit = f" with at most {MOST_THINGS} elements" if len(shape) == 3 else ""
        raise ValueError(
            f"input_shape of {type(model).__name__} must be (channels, height, width){limit}, not {shorten(declared)}"
        )
    return shape[0], shape[1], shape[2]


def _whole(numbers: Sequence[Any]) -> tuple[int, ...]:
    """Return ``numbers`` as a tuple of integers if all are positive whole numbers, and otherwise an empty tuple."""
    whole = all(isinstance(each, Integral) and int(each) > 0 for each in numbers)
    return tuple(map(int, numbers)) if whole else ()


def _may_be_about_sizes(failure: Exception) -> bool:
    """Return whether a network that raised ``failure`` may take images of another size.

    A ValueError, RuntimeError or AssertionError always counts, because the message of a network's own check may not
    mention the size.
    """
    return isinstance(failure, ValueError | RuntimeError | AssertionError) or is_about_sizes(failure)


def _library_shape(model: nn.Module) -> tuple[int, ...]:
    """Return (C, H, W) or (H, W) if timm, transformers or torchvision have stored it in ``model``, else ()."""
    for name in ("pretrained_cfg", "default_cfg"):  # timm
        stored = getattr(model, name, None)
        size = stored.get("input_size") if isinstance(stored, Mapping) else None
        if isinstance(size, Sequence) and len(size) == 3:
            return _whole(size)
    config = getattr(model, "config", None)  # transformers
    for holder in (config, model):  # vision transformers of torchvision have the attribute themselves
        size = getattr(holder, "image_size", None)
        sides = [size, size] if isinstance(size, int) else size
        if isinstance(sides, Sequence) and len(sides) == 2:
            channels = getattr(holder, "num_channels", None)
            return _whole([channels, *sides] if isinstance(channels, int) else sides)
    return ()


class _Search:
    """A search, by trial, for the shape of the images that a network takes."""

    def __init__(self, model: nn.Module) -> None:
        """Prepare to search for the shape of the images that ``model`` takes."""
        self.model = model
        self.tried: dict[_Shape, tuple[Start | None, Exception | None]] = {}
        """For each shape that was tried, the first layer and the error that stopped the forward pass, if any."""

    @usual_settings
    def find(self, sides: tuple[int, int] | None) -> InputShape | None:
        """Return the shape of the images, whose height and width are ``sides`` if given; None if it cannot be found."""
        stored = _library_shape(self.model)
        *number, height, width = stored or (USUAL, USUAL)
        channels = self._channels(number, sides or (height, width))
        if sides:
            shape = self._first_passing((each, *sides) for each in channels) or self._fallback(sides)
            return shape and InputShape(shape, "given")
        if stored and (shape := self._first_passing((each, height, width) for each in channels)):
            return InputShape(shape, "declared")
        if shape := self._first_passing((each, USUAL, USUAL) for each in channels):
            return InputShape(shape, self._origin(shape))
        if shape := self._first_passing(self._whole_images()):
            return InputShape(shape, "found")
        depends = any(failure and _may_be_about_sizes(failure) for _, failure in self.tried.values())
        others = SIDES if depends else ()
        if shape := self._first_passing((each, side, side) for side in others for each in channels):
            return InputShape(shape, self._origin(shape))
        shape = self._fallback((USUAL, USUAL))
        return shape and InputShape(shape, "guessed")

    def _try(self, shape: _Shape) -> tuple[Start | None, Exception | None]:
        """Pass an image of ``shape`` through the network; return the first layer that it reaches, and the error.

        The first item of the result is None if the image reaches no layer with weights. The second is None if no error
        stops the image.
        """
        if shape not in self.tried:
            image = blank_image(shape)
            trial = try_out(self.model, image, "shapes")
            if trial.failure is not None and not is_about_sizes(trial.failure):
                trial = try_out(self.model, image, "values")
            self.tried[shape] = trial.start, trial.failure
        return self.tried[shape]

    def _first_passing(self, shapes: Iterator[_Shape]) -> _Shape | None:
        """Return the first of ``shapes`` whose images pass through the network, or None."""
        return next((shape for shape in shapes if self._try(shape)[1] is None), None)

    def _origin(self, shape: _Shape) -> Origin:
        """Return how the size of ``shape``, which passes through the network, is known.

        The result is "guessed" if larger images seem to pass, too, and "found" if not.
        """
        channels, side, _ = shape
        larger = next((each for each in SIDES if each > side), None)
        failure = None if larger is None else self._try((channels, larger, larger))[1]
        return "found" if larger is None or (failure and is_about_sizes(failure)) else "guessed"

    def _channels(self, stored: Sequence[int], sides: tuple[int, int]) -> list[int]:
        """Return the numbers of channels to try, the most probable first.

        ``stored`` holds the number that a library has stored in the network, or is empty. Images of the size ``sides``
        (H, W) are passed through the network to find its first layer.
        """
        for channels in (*stored, *COLORS):
            start, _ = self._try((channels, *sides))
            if start:
                break
        called = [start.input_count] if start and start.function == "conv2d" else []
        return list(dict.fromkeys([*stored, *called, *COLORS]))

    def _whole_images(self) -> Iterator[_Shape]:
        """Yield the shapes of square images that have as many values as a fully connected first layer takes.

        A layer that got parts of an image as several rows, instead of the image as one row, is not considered.
        """
        starts = [start for start, _ in self.tried.values() if start and start.function == "linear"]
        for number in {start.input_count for start in starts if start.row_count == 1}:
            for channels in COLORS:
                side = math.isqrt(number // channels)
                if channels * side**2 == number:
                    yield channels, side, side

    def _fallback(self, sides: tuple[int, int]) -> _Shape | None:
        """Return a shape with the given ``sides`` (H, W) for a network through which no image passes.

        The shape is still useful, because the network may compute the wanted layers before an error stops it. The
        result is None if no convolution shows the number of channels.
        """
        called = [start.input_count for start, _ in self.tried.values() if start and start.function == "conv2d"]
        # A network that does not run at all calls no layer.
        registered = [module.in_channels for module in self.model.modules() if isinstance(module, nn.Conv2d)]
        channels = next(iter(called or registered), None)
        return None if channels is None else (channels, *sides)
