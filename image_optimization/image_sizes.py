"""Resize images."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate


def fit(image: Tensor, size: int) -> Tensor:
    """Resize ``image`` (N, C, H, W) in [0, 1] so that its longer side has ``size`` pixels."""
    return resize(image, fitted_size(image, size))


def fitted_size(image: Tensor, size: int) -> tuple[int, int]:
    """Return (H, W) with the aspect ratio of ``image`` (N, C, H, W) and ``size`` pixels on the longer side."""
    height, width = image.shape[2:]
    scale = size / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``image`` (N, C, H, W) in [0, 1] to ``size`` (H, W), with antialiased bicubic interpolation."""
    if tuple(image.shape[2:]) == size:
        return image
    return interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


def refine(image: Tensor, start: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Enlarge ``image`` (N, C, H, W) to ``size`` (H, W) and add the details of ``start`` too fine for ``image``.

    If ``start`` is None, no details are added. The result may have values outside [0, 1].
    """
    if start is None:
        return resize(image, size)
    coarse, fine = (image.shape[2], image.shape[3]), resize(start, size)
    return resize(image, size) + fine - resize(resize(fine, coarse), size)
