"""Convert images in all accepted forms to float32 tensors (N, C, H, W) in [0, 1].

An image can be given as a tensor, an array, a Pillow image or the path of a file. The range of its numbers follows from
their data type, and the order of its axes from its shape. Neither is guessed from the values of the numbers. For
example, 255 stands for white only in numbers of type ``uint8``.
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
"""Type of an image, or of a batch of images, in any form that :func:`as_images` accepts."""

WHITES = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}
"""Number that stands for white, by data type. For floating-point types, which are not listed, this number is 1."""

PICTURE_CHANNELS = (1, 3, 4)
"""Numbers of channels that a picture can have: 1 for gray, 3 for RGB, and 4 for RGB with opacity."""

ROUNDING = 0.01
"""Tolerance for rounding errors: numbers outside [0, 1] by at most this amount are clipped and raise no error."""

AXES = {2: ("HW",), 3: ("CHW", "HWC"), 4: ("NCHW", "NHWC")}
"""Accepted orders of the axes of an image or a batch, by the number of axes.

The first order for each number of axes is the one that this package itself uses.
"""


def as_image(given: Any, name: str, channels: int | None = None) -> Tensor:
    """Convert one image to a float32 tensor (1, C, H, W) in [0, 1].

    The arguments and the errors are the same as for :func:`as_images`, but a batch of several images raises ValueError.
    """
    image = as_images(given, name, channels)
    if len(image) != 1:
        raise ValueError(f"{name} must be one image, not a batch of {len(image)}")
    return image


def as_images(given: Any, name: str, channels: int | None = None) -> Tensor:
    """Convert one image or a batch of images to a float32 tensor (N, C, H, W) in [0, 1].

    Args:
        given: the images. A tensor or an array has the shape (N, C, H, W), (C, H, W) or (H, W), or has the channels
            last. Its numbers are floating-point numbers in [0, 1], ``uint8`` from 0 to 255, ``uint16`` from 0 to 65535,
            or Boolean. A Pillow image, or a picture file given by its path, is converted as in
            :func:`dreamgram.image_optimization.images.read`: it is turned upright, converted to sRGB and composited
            over white. However, a Pillow image of more than 8 bits per channel is treated as an array.
        name: name of the images in the error messages, such as ``init``.
        channels: number of channels of the result. If it is 3, the channel of a gray image is repeated. If it is 1, a
            color image is converted to gray. If it is None, a picture file gives 3 channels, a floating-point tensor
            with the channels first keeps its channels, and any other image gives 1 channel if it is gray and 3 if it is
            in color. The fourth channel of an image that is reduced from 4 channels to 3 or 1 is its opacity, with
            which the image is composited over white.

    Raises:
        TypeError: ``given`` has none of the accepted types, or its numbers have a data type without a defined white,
            such as int64.
        ValueError: the shape is not accepted or is ambiguous; a number is outside [0, 1], infinite or NaN; a file is
            not a picture or is damaged; or the images cannot be converted to ``channels`` channels.
        OSError: the file cannot be read.
    """
    if isinstance(given, str | os.PathLike):
        images = load(given, 1 if channels == 1 else 3)
    elif isinstance(given, Image.Image) and given.mode != "F" and not given.mode.startswith("I"):
        with reading(name):
            samples = read_pillow(given)
            colors = 1 if given.mode in ("L", "LA") else samples.colors  # opacity alone adds no color
            images, _ = samples.to_tensors(channels if channels in (1, 3) else colors)
    else:
        images = _from_numbers(given, name, channels)
    if channels not in (None, images.shape[1]):
        raise ValueError(f"{name} must have {channels} channels, not {images.shape[1]}")
    return images.clone() if images.is_inference() else images  # no gradients with inference tensors


def _from_numbers(given: Any, name: str, channels: int | None) -> Tensor:
    """Convert images in a tensor or an array; the arguments and the result are those of :func:`as_images`."""
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
        # In a tensor with the channels first, four channels are a network's input; otherwise, RGB with opacity.
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
    """Convert ``given``, a tensor or an array of numbers, to a tensor that is detached from the autograd graph.

    Raises:
        TypeError: ``given`` is neither a tensor nor an array, it is a sparse tensor or a meta tensor, or its numbers
            have a data type without a defined white, such as int64.
    """
    if isinstance(given, Tensor):
        if given.is_meta or given.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor with values, not one on {given.device} ({given.layout})")
        numbers = given.detach() if given.requires_grad else given
        # A tensor that was created in inference mode cannot be used where gradients are computed.
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
            f"{name} must hold fractions in [0, 1], uint8, uint16 or bool, not {kind}, which does not say what is white"
        )
    return numbers


def _in_range(fractions: Tensor, name: str) -> Tensor:
    """Check that ``fractions`` are in [0, 1], with tolerance :data:`ROUNDING`, and return them clipped to [0, 1]."""
    if not fractions.numel():
        return fractions
    # The channels of a gray picture share memory. Only one is checked, because checking all would need memory for each.
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
    """Return the order of the axes, such as ``NCHW``, of images with the given ``shape``.

    If the order of the four axes of a tensor could be ``NCHW`` or ``NHWC``, the result is ``NCHW``.

    Raises:
        ValueError: ``shape`` is not the shape of images, or it is ambiguous for any other reason.
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
