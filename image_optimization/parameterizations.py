"""Image parameterizations. Each has a leaf tensor that it renders to an image in [0, 1].

To add a parameterization, write a class in this module with the members of :class:`Parameterization`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

Shape = tuple[int, int, int, int]
"""Shape (N, C, H, W) of a batch of images."""

Device = torch.device | str | None


class Parameterization(Protocol):
    """A batch of images that can be optimized."""

    leaf: Tensor
    """Tensor that the optimizer moves. Its first axis is the batch axis."""
    bounds: tuple[float, float]
    """Smallest and largest allowed value of the leaf's elements."""

    def render(self) -> Tensor:
        """Return the image (N, C, H, W) in [0, 1], differentiable in the leaf."""

    @classmethod
    def from_noise(cls, shape: Shape, strength: float = ..., device: Device = ...) -> Self:
        """Start from noise for images of ``shape`` (N, C, H, W); ``strength`` is relative to the default noise."""

    @classmethod
    def from_image(cls, image: Tensor) -> Self:
        """Start from ``image`` (N, C, H, W) in [0, 1]."""


class PixelImage:
    """Images whose leaf holds their pixels, with any number of channels."""

    bounds = (0.0, 1.0)

    NOISE = 0.01
    """Standard deviation of the initial noise at strength 1, for pixels in [0, 1]."""

    def __init__(self, leaf: Tensor) -> None:
        """Start from pixels ``leaf`` (N, C, H, W) in [0, 1]."""
        self.leaf = leaf.detach().clone().requires_grad_()

    @classmethod
    def from_noise(cls, shape: Shape, strength: float = 1.0, device: Device = None) -> Self:
        """Start from gray plus Gaussian noise of standard deviation ``strength * NOISE``, the same for all images."""
        return cls((0.5 + strength * cls.NOISE * _noise(shape, device)).clamp(0, 1))

    @classmethod
    def from_image(cls, image: Tensor) -> Self:
        """Start from ``image`` (N, C, H, W) in [0, 1]."""
        return cls(image.clamp(0, 1))

    def render(self) -> Tensor:
        """Return the image (N, C, H, W) in [0, 1]: the leaf itself."""
        return self.leaf


CORRELATION = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
"""Square root of the correlation matrix of ImageNet's colors. Rows are R, G, B; columns are decorrelated colors.

From Olah, Mordvintsev, Schubert, "Feature Visualization", Distill 2017,
https://distill.pub/2017/feature-visualization"""


class FourierImage:
    """Images whose leaf holds Fourier coefficients of decorrelated colors, relative to 1 / frequency.

    The image is the sigmoid of the inverse transform of the coefficients. In a natural image, amplitudes fall as
    1 / frequency and colors are correlated. In these coordinates such an image is white noise, so that one step changes
    all scales and colors of the image by similar amounts. See Olah et al., "Feature Visualization", Distill 2017. Only
    the colors of images with 3 channels are decorrelated.
    """

    bounds = (-math.inf, math.inf)

    GAIN = 0.3
    """Factor between the leaf and the coefficients, which determines how much a unit step changes the image. It is
    close to the value in Lucid."""

    NOISE = 0.08
    """Standard deviation of the leaf's initial noise at strength 1. The noise in the picture is ten times that of
    Lucid. With weaker noise, some filters behind a ReLU never fire and have no gradient."""

    DARKEST = 1 / 512
    """Smallest distance of a pixel value from 0 and from 1, where the sigmoid has no inverse: half an 8-bit level."""

    def __init__(self, leaf: Tensor, size: tuple[int, int]) -> None:
        """Start from the ``leaf`` (N, C, H, W // 2 + 1, 2) of images of ``size`` (H, W).

        Its last axis holds the real and imaginary parts.
        """
        self.leaf = leaf.detach().clone().requires_grad_()
        self.size = size
        self.scale = (1 / frequencies(size)).to(leaf.device)
        self.colors = _colors(leaf.shape[1]).to(leaf.device)

    @classmethod
    def from_noise(cls, shape: Shape, strength: float = 1.0, device: Device = None) -> Self:
        """Start from gray with 1 / frequency noise, the same for every image of the batch.

        The standard deviation of the noise is ``strength`` times ``NOISE``. ``shape`` is (N, C, H, W).
        """
        n, c, h, w = shape
        return cls(strength * cls.NOISE * _noise((n, c, h, w // 2 + 1, 2), device), (h, w))

    @classmethod
    def from_image(cls, image: Tensor) -> Self:
        """Start from ``image`` (N, C, H, W) in [0, 1]."""
        size = (image.shape[2], image.shape[3])
        scale = (cls.GAIN / frequencies(size)).to(image.device)
        return cls(torch.view_as_real(spectrum_of(image) / scale), size)

    def render(self) -> Tensor:
        """Return the image (N, C, H, W) in [0, 1], differentiable in the leaf."""
        return _picture(torch.view_as_complex(self.leaf) * (self.scale * self.GAIN), self.size, self.colors)


class PhaseImage:
    """Images whose leaf holds phases of Fourier coefficients of decorrelated colors. The magnitudes are fixed.

    The magnitudes are those of natural photos. No frequency can be stronger than in photos, which prevents noise at
    any image size. See Fel et al., "Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained
    Optimization" (MaCo), arXiv:2306.06805. The paper uses the magnitudes of ImageNet. This class uses the mean
    magnitudes of crops of six photos, which are smooth enough to be interpolated to any size. They are the Fourier
    magnitudes of the logits of pixels, because a sigmoid follows the inverse transform. Images whose number of
    channels is not 3 get the magnitudes of the lightness of photos.
    """

    bounds = (-math.inf, math.inf)

    GAIN = 5.0
    """Angle, in radians, by which a unit step changes a phase. It is chosen so that the usual learning rates are
    suitable."""

    def __init__(self, leaf: Tensor, size: tuple[int, int]) -> None:
        """Start from phases ``leaf`` (N, C, H, W // 2 + 1), in units of ``GAIN`` radians; ``size`` is (H, W)."""
        self.leaf = leaf.detach().clone().requires_grad_()
        self.size = size
        self.magnitude = _natural_magnitude(leaf.shape[1], size).to(leaf.device)
        self.colors = _colors(leaf.shape[1]).to(leaf.device)

    @classmethod
    def from_noise(cls, shape: Shape, strength: float = 1.0, device: Device = None) -> Self:
        """Start from random phases, the same for every image of the batch. ``strength`` has no effect on phases."""
        n, c, h, w = shape
        turns = torch.rand(1, c, h, w // 2 + 1).to(device).expand(n, c, h, w // 2 + 1)
        return cls(turns * (2 * math.pi / cls.GAIN), (h, w))

    @classmethod
    def from_image(cls, image: Tensor) -> Self:
        """Start from the phases of ``image`` (N, C, H, W) in [0, 1]. The magnitudes of ``image`` are not used."""
        return cls(spectrum_of(image).angle() / cls.GAIN, (image.shape[2], image.shape[3]))

    def render(self) -> Tensor:
        """Return the image (N, C, H, W) in [0, 1], differentiable in the leaf."""
        turned = torch.polar(self.magnitude.expand_as(self.leaf), self.leaf * self.GAIN)
        return _picture(turned, self.size, self.colors)


def spectrum_of(image: Tensor) -> Tensor:
    """Return the Fourier coefficients (N, C, H, W // 2 + 1) of the logits of ``image`` (N, C, H, W) in [0, 1].

    They are the coefficients of decorrelated colors.
    """
    colors = _colors(image.shape[1]).to(image.device)
    logits = torch.logit(image, eps=FourierImage.DARKEST)
    decorrelated = torch.einsum("dc,nchw->ndhw", torch.linalg.inv(colors), logits)
    spectrum: Tensor = torch.fft.rfft2(decorrelated, norm="ortho")
    return spectrum


def _picture(spectrum: Tensor, size: tuple[int, int], colors: Tensor) -> Tensor:
    """Return the image (N, C, H, W) in [0, 1] with the coefficients ``spectrum``; invert :func:`spectrum_of`."""
    logits = torch.fft.irfft2(spectrum, s=size, norm="ortho")
    return torch.sigmoid(torch.einsum("cd,ndhw->nchw", colors, logits))


def frequencies(size: tuple[int, int]) -> Tensor:
    """Return the frequency of each Fourier coefficient, (H, W // 2 + 1), in cycles per pixel.

    The constant coefficient gets the lowest nonzero frequency instead of 0, because the result is used as a divisor.
    """
    h, w = size
    frequency = torch.hypot(torch.fft.fftfreq(h)[:, None], torch.fft.rfftfreq(w)[None, :])
    return frequency.clamp(min=1 / max(h, w))


def _colors(channels: int) -> Tensor:
    """Return the matrix (C, C) that converts decorrelated colors to channels."""
    if channels != 3:
        return torch.eye(channels)
    longest: Tensor = torch.linalg.vector_norm(CORRELATION, dim=0).max()
    return CORRELATION / longest


NATURAL = Path(__file__).with_name("natural_magnitude.npz")
"""File with the mean Fourier magnitudes of photos, each multiplied by its frequency, (3, 2 K, K + 1).

The axes are decorrelated color, vertical frequency and horizontal frequency.

Frequencies are integer numbers of cycles per side: 0 to K - 1, then -K to -1 vertically; 0 to K horizontally. ``python
-m benchmarks.natural_magnitude`` made the file from photos of NASA and SpaceX (public domain), by Stefan van der Walt
and Rachel Michetti (CC0), and by danielbuechele and vultilion (CC BY 2.0)."""


def _natural_magnitude(channels: int, size: tuple[int, int]) -> Tensor:
    """Return the magnitudes (C, H, W // 2 + 1) of a natural photo of ``size`` (H, W).

    Photos look alike at every scale, so the magnitude at a given number of cycles per side does not depend on the
    length of the side. Above the highest stored frequency, the magnitudes continue to fall as 1 / frequency.
    """
    with np.load(NATURAL) as stored:
        whitened = torch.from_numpy(stored["magnitude"]).float()
    h, w = size
    most = whitened.shape[2] - 1
    down = (torch.fft.fftfreq(h) * max(h, w)).round().long().clamp(-most, most - 1)
    across = (torch.fft.rfftfreq(w) * max(h, w)).round().long().clamp(max=most)
    magnitude = whitened[:, down[:, None], across[None, :]] / frequencies(size) * math.sqrt(h * w) / max(h, w)
    magnitude[:, 0, 0] = 0  # the mean is gray
    if channels == 3:
        return magnitude
    lightness = magnitude[:1] * _colors(3)[:, 0].mean()
    return lightness.expand(channels, -1, -1)


def _noise(shape: tuple[int, ...], device: Device) -> Tensor:
    """Return normal noise of ``shape``, the same for every image of a batch.

    An image then does not depend on the other images of its batch. The noise is drawn on the CPU, so that a seed gives
    the same start on every device.
    """
    return torch.randn(1, *shape[1:]).to(device).expand(shape)
