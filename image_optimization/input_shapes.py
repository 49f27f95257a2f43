"""Find the shape of the images that a network takes."""

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
from dreamgram.image_optimization.settings import usual_settings, without_collecting
from dreamgram.image_optimization.state import unwrapped
from dreamgram.image_optimization.trial import Start, blank_image, is_about_sizes, try_shapes, try_two

_logger = logging.getLogger(__name__)

_Shape = tuple[int, int, int]
"""Type of the shape (C, H, W) of an image."""

USUAL = 224
"""Side, in pixels, of the square images with which most networks are trained."""

SIDES = (28, 32, 48, 64, 96, 112, 128, 160, 192, 256, 299, 384, 448, 512)
"""Sides, in pixels, of the square images to try, in ascending order, if images of the side :data:`USUAL` fail."""

COLORS = (3, 1)
"""Numbers of channels to try."""


Origin = Literal["declared", "found", "guessed", "given"]
"""Type of a word that names the source of the height and width of images; :data:`ORIGINS` explains each word."""

ORIGINS: dict[Origin, str] = {
    "declared": "as the network declares",
    "found": "the only size that passes through the network",
    "guessed": "a guess",
    "given": "the size that was given",
}
"""Explanation, for users, of each source of the height and width of images."""


@dataclass(frozen=True)
class InputShape:
    """The shape of the images that a network takes, and the source of their height and width."""

    shape: tuple[int, int, int]
    """Channels, height and width."""
    origin: Origin
    """Source of the height and width."""


_known: WeakKeyDictionary[nn.Module, dict[Any, InputShape | None]] = WeakKeyDictionary()
"""Results of earlier searches. For each network, a dictionary maps the size that the caller chose and the shapes of the
network's parameters to the result: the image shape, or None if the search failed."""

_told: WeakSet[nn.Module] = WeakSet()
"""Networks for which the warning that their image size is a guess has already been logged."""


def default_shape(model: nn.Module, size: int | tuple[int, int] | None = None) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of images for ``model``, and log a warning if this shape is a guess.

    The warning is logged once for each network. :func:`find_shape` describes how the shape is found. If ``size`` is
    given, it determines the height and width: it is either the side of a square in pixels, or (H, W) in pixels.

    Raises:
        ValueError: the shape cannot be found, the network's ``input_shape`` is not the shape of an image, or ``size``
            is too large or not positive.
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

    If the network has an attribute ``input_shape``, this is the shape. Otherwise, the shape is the one that timm,
    transformers or torchvision have stored in the network, if images of this shape pass through the network. Otherwise,
    the images have as many channels as the first layer of a forward pass takes, and 224 x 224 pixels. If such images do
    not pass through the network, several other shapes are tried, and the first shape whose images pass is used.
    These forward passes compute only shapes if possible, and do not change the network.

    If ``size`` is given, it determines the height and width: it is either the side of a square in pixels, or (H, W) in
    pixels.

    Raises:
        ValueError: the shape cannot be found; the network's ``input_shape`` is not the shape of an image, or an image
            of this shape has more than :data:`MOST_THINGS` elements; or ``size`` is not positive, or an image of this
            size has more than :data:`MOST_THINGS` pixels.
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
    # After some of its layers have been replaced, a network might take images of a different shape.
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
    """Return ``numbers`` as a tuple of integers if all of them are positive whole numbers, or else an empty tuple."""
    whole = all(isinstance(each, Integral) and int(each) > 0 for each in numbers)
    return tuple(map(int, numbers)) if whole else ()


def _may_be_about_sizes(failure: Exception) -> bool:
    """Return whether a network that raised ``failure`` might take images of a different size.

    The result is True for every ValueError, RuntimeError and AssertionError, because a network might check the size
    itself and raise an error whose message does not mention the size.
    """
    return isinstance(failure, ValueError | RuntimeError | AssertionError) or is_about_sizes(failure)


def _library_shape(model: nn.Module) -> tuple[int, ...]:
    """Return the shape (C, H, W) or (H, W) that timm, transformers or torchvision have stored in ``model``, else ()."""
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
        """Results of :meth:`_try` for all shapes that have been tried."""

    @usual_settings
    @without_collecting
    def find(self, sides: tuple[int, int] | None) -> InputShape | None:
        """Return the shape of the images, with the height and width ``sides`` if given, or None if the search fails."""
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
        """Pass images of ``shape`` through the network; return the first layer with weights, and the error.

        The first item of the result is None if the forward pass reaches no layer with weights. The second item is None
        if the forward pass raises no error.
        """
        if shape not in self.tried:
            image = blank_image(shape)
            trial = try_two(self.model, image)
            if trial.failure is not None:  # perhaps it takes only one image at a time
                trial = try_shapes(self.model, image)
            self.tried[shape] = trial.start, trial.failure
        return self.tried[shape]

    def _first_passing(self, shapes: Iterator[_Shape]) -> _Shape | None:
        """Return the first of ``shapes`` whose images pass through the network, or None."""
        return next((shape for shape in shapes if self._try(shape)[1] is None), None)

    def _origin(self, shape: _Shape) -> Origin:
        """Return the source of the height and width in ``shape``, a shape whose images pass through the network.

        The result is "guessed" if larger images seem to pass, too, and "found" if they do not.
        """
        channels, side, _ = shape
        larger = next((each for each in SIDES if each > side), None)
        failure = None if larger is None else self._try((channels, larger, larger))[1]
        return "found" if larger is None or (failure and is_about_sizes(failure)) else "guessed"

    def _channels(self, stored: Sequence[int], sides: tuple[int, int]) -> list[int]:
        """Return the numbers of channels to try, the most probable first.

        ``stored`` holds the number of channels that a library has stored in the network, or is empty. Images of the
        size ``sides`` (H, W) are passed through the network to find its first layer with weights.
        """
        for channels in (*stored, *COLORS):
            start, _ = self._try((channels, *sides))
            if start:
                break
        called = [start.input_count] if start and start.function == "conv2d" else []
        return list(dict.fromkeys([*stored, *called, *COLORS]))

    def _whole_images(self) -> Iterator[_Shape]:
        """Yield the shapes of square images that have as many values as a fully connected first layer takes.

        Such a layer is considered only if it received the whole image as one row, and not parts of the image as several
        rows.
        """
        starts = [start for start, _ in self.tried.values() if start and start.function == "linear"]
        for number in {start.input_count for start in starts if start.row_count == 1}:
            for channels in COLORS:
                side = math.isqrt(number // channels)
                if channels * side**2 == number:
                    yield channels, side, side

    def _fallback(self, sides: tuple[int, int]) -> _Shape | None:
        """Return an image shape with the size ``sides`` (H, W), for a network that failed for all images tried.

        The shape is still useful, because the network might compute the requested layers before an error stops it. The
        result is None if no convolution shows the number of channels.
        """
        called = [start.input_count for start, _ in self.tried.values() if start and start.function == "conv2d"]
        # A network that does not run at all calls no layer.
        registered = [module.in_channels for module in self.model.modules() if isinstance(module, nn.Conv2d)]
        channels = next(iter(called or registered), None)
        return None if channels is None else (channels, *sides)
