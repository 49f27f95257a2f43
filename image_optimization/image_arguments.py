"""Convert the images that a caller gives in Python to the tensors that the package works with.

An image may be given as a tensor, as an array, as a Pillow image or as the path of a file. What it means must be clear
from its type and its shape. It is never guessed from its values: numbers from 0 to 255 are accepted only as ``uint8``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dreamgram.image_optimization.image_opening import reading
from dreamgram.image_optimization.image_reading import load, read_pillow
from dreamgram.image_optimization.image_samples import Array, Samples
from dreamgram.image_optimization.names import described

ImageLike = Tensor | NDArray[Any] | Image.Image | str | os.PathLike[str]
"""Type of an image, or of a batch of images, that a caller gives; see :func:`as_images`."""

WHITES = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}
"""Number that stands for white, by type of number. Floating-point numbers, which are not listed, are in [0, 1]."""

PICTURE_CHANNELS = (1, 3, 4)
"""Numbers of channels of a picture: gray, RGB, and RGB with opacity."""

ROUNDING = 0.01
"""Largest distance by which a number may lie outside [0, 1] because of rounding errors. Such a number is clipped."""

AXES = {2: ("HW",), 3: ("CHW", "HWC"), 4: ("NCHW", "NHWC")}
"""Possible orders of the axes of an image or a batch, by the number of axes. This package uses the first order."""


def as_image(given: Any, name: str, channels: int | None = None) -> Tensor:
    """Return the single image that a caller has given as a float32 tensor (1, C, H, W) in [0, 1].

    The arguments and the errors are those of :func:`as_images`. A batch of several images raises ValueError.
    """
    image = as_images(given, name, channels)
    if len(image) != 1:
        raise ValueError(f"{name} must be one image, not a batch of {len(image)}")
    return image


def as_images(given: Any, name: str, channels: int | None = None) -> Tensor:
    """Return the images that a caller has given as a float32 tensor (N, C, H, W) in [0, 1].

    Args:
        given: the images. A tensor of fractions (N, C, H, W), (C, H, W) or (H, W) in [0, 1] is taken as it is. Tensors
            and arrays may also have the channels last. Their numbers are fractions in [0, 1], ``uint8`` from 0 to 255,
            ``uint16`` from 0 to 65535, or Boolean. A Pillow image, or the path of a picture file, is read as
            :func:`dreamgram.image_optimization.images.read` reads a file: upright, in sRGB, without opacity.
        name: what the images are, such as ``init``, for the error messages.
        channels: number of channels of the result. If it is 3, gray is repeated; if it is 1, color is converted to
            gray. Transparent parts are composited over white. If it is None, a picture file gives three channels; other
            images give one channel if they are gray and three if they are in color; but a tensor of fractions with the
            channels first keeps all its channels.

    Raises:
        TypeError: ``given`` is not an image, or its numbers have a type without a known white, such as int64.
        ValueError: the shape is not that of images, or the order of its axes is ambiguous; a value is outside [0, 1] or
            not a finite number; or the images do not have ``channels`` channels.
        OSError: the file cannot be read.
    """
    if isinstance(given, str | os.PathLike):
        images = load(given, 1 if channels == 1 else 3)
    elif isinstance(given, Image.Image) and given.mode != "F" and not given.mode.startswith("I"):
        with reading(name):
            samples = read_pillow(given)
            images, _ = samples.to_tensors(channels if channels in (1, 3) else samples.colors)
    else:
        images = _from_numbers(given, name, channels)
    if channels not in (None, images.shape[1]):
        raise ValueError(f"{name} must have {channels} channels, not {images.shape[1]}")
    return images.clone() if images.is_inference() else images  # PyTorch computes no gradients with the former


def _from_numbers(given: Any, name: str, channels: int | None) -> Tensor:
    """Return the images in a tensor or an array; see :func:`as_images`."""
    numbers = _as_tensor(given, name)
    whites = WHITES.get(numbers.dtype)
    images = _in_range(numbers.float(), name) if whites is None else numbers
    order = _order_of_axes(images.shape, name, channels, isinstance(given, Tensor))
    if order.endswith("C"):
        images = images.movedim(-1, -3).contiguous()
    elif order == "HW":
        images = images[None]
    images = images if images.ndim == 4 else images[None]
    count = images.shape[1]
    if channels is None:
        # Four channels are those of a network in the package's own order, and else a color with its opacity.
        is_kept = count != 4 or (isinstance(given, Tensor) and order in ("CHW", "NCHW"))
    else:
        is_kept = count == channels
    if whites is None and is_kept:
        return images
    if count not in PICTURE_CHANNELS:
        raise ValueError(f"{name} must have {channels or '1, 3 or 4'} channels, not {count}")
    colors = 1 if count == 1 else 3
    arrays: list[Array] = [image.permute(1, 2, 0).cpu().numpy() for image in images]
    samples = [Samples(array, colors, high=whites or 1) for array in arrays]
    made = [each.to_tensors(channels if channels in (1, 3) else colors)[0] for each in samples]
    return made[0] if len(made) == 1 else torch.cat(made)


def _as_tensor(given: Any, name: str) -> Tensor:
    """Return a tensor or an array of numbers as a tensor without a gradient.

    Raises:
        TypeError: ``given`` is neither a tensor nor an array, is a tensor that is not dense or holds no values, or has
            numbers of a type without a known white, such as int64.
    """
    if isinstance(given, Tensor):
        if given.is_meta or given.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor with values, not one on {given.device} ({given.layout})")
        numbers = given.detach() if given.requires_grad else given
        # A tensor that was made in inference mode could not be used where gradients are computed.
        numbers = numbers.clone() if numbers.is_inference() else numbers
    elif not isinstance(given, type) and (hasattr(given, "__array__") or hasattr(given, "__array_interface__")):
        array: Array = np.asarray(given)
        if array.dtype.kind == "f":
            array = array.astype(np.float64 if array.dtype.itemsize > 4 else np.float32)
        elif array.dtype.kind not in "biu":
            raise TypeError(f"{name} must hold numbers, not {array.dtype}")
        numbers = torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))
    else:
        wanted = "an image, such as a tensor (3, H, W) in [0, 1] or a Pillow image"
        raise TypeError(f"{name} must be {wanted}, not {described(given)}")
    if not numbers.is_floating_point() and numbers.dtype not in WHITES:
        kind = str(numbers.dtype).removeprefix("torch.")
        raise TypeError(
            f"{name} must hold uint8 from 0 to 255 or fractions in [0, 1], not {kind}, which does not say what is white"
        )
    return numbers


def _in_range(fractions: Tensor, name: str) -> Tensor:
    """Return ``fractions``, clipped to [0, 1], after checking that they are in [0, 1] except for rounding errors."""
    if not fractions.numel():
        return fractions
    # The channels of a gray picture share their memory. Looking at each of them would need memory for all.
    values = fractions[tuple(slice(1) if stride == 0 else slice(None) for stride in fractions.stride())]
    low, high = (bound.item() for bound in values.aminmax())
    if not math.isfinite(low + high):
        raise ValueError(f"{name} must be in [0, 1], but has values that are infinite or not a number")
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(
            f"{name} must be in [0, 1], but goes from {low:.3g} to {high:.3g}: divide values in 0-255 by 255 or give "
            "them as uint8, clamp what an interpolation overshoots, and do not normalize, because the network does "
            "that itself"
        )
    return fractions if low >= 0 and high <= 1 else fractions.clamp(0, 1)


def _order_of_axes(shape: Sequence[int], name: str, channels: int | None, is_tensor: bool) -> str:
    """Return the order of the axes of images of this ``shape``, such as ``NCHW``.

    If a tensor with four axes could have either order, the result is ``NCHW``.

    Raises:
        ValueError: this is not the shape of images, or a shape of another kind has two possible meanings.
    """
    forms = AXES.get(len(shape), ())
    counts = {*PICTURE_CHANNELS, channels}
    found = [form for form in forms if "C" not in form or shape[form.index("C")] in counts]
    if not found and is_tensor and channels is None:
        found = list(forms[:1])  # a network may take any number of channels
    if len(found) > 1 and len(shape) == 3:
        found = [form for form in found if shape[form.index("H")] > 1 < shape[form.index("W")]] or found
    if not found or 0 in shape:
        raise ValueError(
            f"{name} must be (N, C, H, W), or (C, H, W), (H, W, C) or (H, W) for one image, with "
            f"{'1, 3 or 4' if channels in (None, 1, 3) else channels} channels, not {tuple(shape)}"
        )
    if len(found) > 1 and not (is_tensor and len(shape) == 4):
        raise ValueError(f"the shape {tuple(shape)} of {name} could be (C, H, W) or (H, W, C): give (N, C, H, W)")
    if channels == 1 and found[0] == "CHW" and shape[0] != 1:
        raise ValueError(f"{name} could be one image in color or {shape[0]} gray images: give (N, C, H, W)")
    return found[0]
