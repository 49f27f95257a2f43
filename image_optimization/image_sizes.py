"""Resize images."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dreamgram.image_optimization.checks import as_whole
from dreamgram.image_optimization.image_arguments import ImageLike, as_images

MOST_REDUCED = 32
"""Largest factor by which a side of an image is reduced on an NVIDIA GPU. Larger reductions are computed on the CPU,
because PyTorch fails on the GPU if the factor is much larger."""


STRIP_PIXELS = 2**22
"""Approximate number of pixels in a strip of a large image."""


def strips_of(image: Tensor) -> tuple[Tensor, ...]:
    """Divide ``image`` (N, C, H, W) into strips of rows that can be processed one at a time, which saves memory."""
    strips: tuple[Tensor, ...] = image.split(max(STRIP_PIXELS // image.shape[3], 1), dim=2)
    return strips


def fit(image: ImageLike, size: int) -> Tensor:
    """Resize ``image`` (N, C, H, W) in [0, 1] so that its longer side has ``size`` pixels.

    ``image`` can also have any other form that :func:`dreamgram.image_optimization.images.as_images` accepts.
    """
    image, size = _as_batch(image), as_whole(size, "size", least=1)
    return resize(image, fitted_size(image, size))


def fitted_size(image: Tensor, size: int) -> tuple[int, int]:
    """Return the height and width to which :func:`fit` resizes ``image`` (N, C, H, W).

    The longer side is ``size`` pixels, and the aspect ratio is that of ``image``.
    """
    height, width = image.shape[2:]
    scale = size / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _as_batch(image: ImageLike) -> Tensor:
    """Return ``image`` as a floating-point tensor (N, C, H, W).

    A tensor of this form is returned unchanged, so that gradients can be computed with respect to it.
    """
    own = isinstance(image, Tensor) and image.ndim == 4 and image.is_floating_point()
    return image if own else as_images(image, "the image")  # type: ignore[return-value]


def resize(image: ImageLike, size: tuple[int, int]) -> Tensor:
    """Resize ``image`` (N, C, H, W) in [0, 1] to ``size`` (H, W), with antialiased bicubic interpolation.

    ``image`` can also have any other form that :func:`dreamgram.image_optimization.images.as_images` accepts.
    """
    image = _as_batch(image)
    if tuple(image.shape[2:]) == size:
        return image
    if image.is_cuda and max(image.shape[2] / size[0], image.shape[3] / size[1]) > MOST_REDUCED:
        return resize(image.cpu(), size).to(image.device)
    # On a CPU, PyTorch, too, first changes the width and then the height, so strips give the same result.
    large = image.device.type == "cpu" and math.prod(image.shape[2:]) > STRIP_PIXELS
    if large and size[1] < image.shape[3] and not image.requires_grad:
        image = torch.cat([_interpolated(strip, (strip.shape[2], size[1])) for strip in strips_of(image)], 2)
    return _interpolated(image, size).clamp(0, 1)


def _interpolated(image: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(image, size, mode="bicubic", antialias=True)


def refine(image: Tensor, start: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Enlarge ``image`` (N, C, H, W) to ``size`` (H, W), and add the fine details of ``start``.

    ``start`` is an image with any height and width, and is first resized to ``size``. Its fine details are those that
    are lost when it is reduced to the height and width of ``image`` and enlarged again. If ``start`` is None, no
    details are added. The result can have values outside [0, 1].
    """
    if start is None:
        return resize(image, size)
    coarse, fine = (image.shape[2], image.shape[3]), resize(start, size)
    return resize(image, size) + fine - resize(resize(fine, coarse), size)
