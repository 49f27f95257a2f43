"""Image parameterizations: each renders images, with values in [0, 1], from a tensor that is optimized (the leaf).

To add a parameterization, write a class in this module with the members of :class:`Parameterization`, and decorate the
class with :func:`parameterization`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from typing_extensions import Self

Shape = tuple[int, int, int, int]
"""Shape (N, C, H, W) of a batch of images."""

Device = torch.device | str | None


class Parameterization(Protocol):
    """Interface of a batch of images that can be optimized."""

    leaf: Tensor
    """Tensor that is optimized and from which the images are rendered.

    The tensor requires a gradient and is a leaf of the autograd graph. Its first axis is the batch axis.
    """
    bounds: tuple[float, float]
    """Smallest and largest allowed value of the elements of ``leaf``, the optimized tensor."""

    def render(self) -> Tensor:
        """Return the images (N, C, H, W), with values in [0, 1], as a differentiable function of ``self.leaf``."""

    @classmethod
    def from_noise(cls, shape: Shape, strength: float = ..., device: Device = ...) -> Self:
        """Return a parameterization of images of ``shape`` (N, C, H, W), initialized with noise.

        All images of the batch get the same noise, so that an image does not depend on which other images are in its
        batch. ``strength`` multiplies the default standard deviation of the noise. A parameterization is allowed to
        ignore ``strength``.
        """

    @classmethod
    def from_image(cls, image: Tensor) -> Self:
        """Return a parameterization whose images initially equal ``image``, (N, C, H, W) in [0, 1].

        A parameterization that cannot represent every image uses only some properties of ``image``, such as the Fourier
        phases.
        """


PARAMETERIZATIONS: dict[str, type[Parameterization]] = {}
"""Parameterization classes by name."""

ImageClass = TypeVar("ImageClass", bound=type[Parameterization])


def parameterization(name: str) -> Callable[[ImageClass], ImageClass]:
    """Return a decorator that registers a class as the parameterization called ``name``."""

    def register(image_class: ImageClass) -> ImageClass:
        PARAMETERIZATIONS[name] = image_class
        return image_class

    return register


@parameterization("pixels")
class PixelImage:
    """Images whose leaf, the optimized tensor, holds their pixels. The images can have any number of channels."""

    bounds = (0.0, 1.0)

    NOISE = 0.01
    """Standard deviation of the initial noise of the pixels, if :meth:`from_noise` gets a ``strength`` of 1. Pixel
    values are from 0 to 1."""

    def __init__(self, leaf: Tensor) -> None:
        """Start from a copy of ``leaf``, which holds pixels (N, C, H, W) with values in [0, 1]."""
        self.leaf = leaf.detach().clone().requires_grad_()

    @classmethod
    def from_noise(cls, shape: Shape, strength: float = 1.0, device: Device = None) -> Self:
        """Return images of ``shape`` (N, C, H, W) that start from gray plus Gaussian noise.

        The standard deviation of the noise is ``strength * NOISE``. All images of the batch get the same noise.
        """
        return cls((0.5 + strength * cls.NOISE * _noise(shape, device)).clamp(0, 1))

    @classmethod
    def from_image(cls, image: Tensor) -> Self:
        """Return a parameterization whose images initially equal ``image``, (N, C, H, W) in [0, 1]."""
        return cls(image.clamp(0, 1))

    def render(self) -> Tensor:
        """Return the images (N, C, H, W), with values in [0, 1]: the optimized tensor itself, not a copy."""
        return self.leaf


CORRELATION = torch.tensor(
    [[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], dtype=torch.float32, device="cpu"
)
"""Square root of the correlation matrix of ImageNet's colors. The rows are R, G and B; the columns are decorrelated
colors.

The values are those of Olah, Mordvintsev, Schubert, "Feature Visualization", Distill 2017,
https://distill.pub/2017/feature-visualization"""


@parameterization("fourier")
class FourierImage:
    """Images whose leaf, the optimized tensor, holds Fourier coefficients, multiplied by their frequencies.

    Each coefficient belongs to one decorrelated color, not to one channel of the image. To render the image, the
    inverse Fourier transform of the coefficients is converted from decorrelated colors to channels; the sigmoid of the
    result gives the pixel values. In a natural image, the amplitudes of the coefficients fall as 1 / frequency, and the
    colors are correlated. Multiplication by the frequency and decorrelation of the colors compensate for these two
    properties, so that the leaf of a natural image resembles white noise. As a result, one step of the optimizer
    changes all spatial scales and colors of the image by similar amounts. See Olah et al., "Feature Visualization",
    Distill 2017. Only the colors of images with 3 channels are decorrelated.
    """

    bounds = (-math.inf, math.inf)

    GAIN = 0.3
    """Factor by which the optimized tensor is multiplied, in addition to 1 / frequency, to obtain the Fourier
    coefficients. The factor determines how much a step of the optimizer changes the image. It is close to the
    corresponding factor in the library Lucid."""

    NOISE = 0.08
    """Standard deviation of the optimized tensor at the start, if :meth:`from_noise` gets a ``strength`` of 1. The
    resulting noise in the image is ten times as strong as in the library Lucid. With weaker noise, the ReLU after some
    filters outputs only zeros, so that these filters have no gradient."""

    DARKEST = 1 / 512
    """Smallest distance of a pixel value from 0 and from 1. Values closer to 0 or 1 are moved to this distance before
    the inverse sigmoid, which is infinite at 0 and 1. The distance is about half the step between two neighboring 8-bit
    levels."""

    def __init__(self, leaf: Tensor, size: tuple[int, int]) -> None:
        """Start from a copy of ``leaf`` (N, C, H, W // 2 + 1, 2), Fourier coefficients times frequency / ``GAIN``.

        The last axis of ``leaf`` holds the real and imaginary parts of the coefficients. ``size`` is the size (H, W) of
        the images.
        """
        self.leaf = leaf.detach().clone().requires_grad_()
        self.size = size
        self.scale = (1 / frequencies(size)).to(leaf.device)
        self.colors = _colors(leaf.shape[1]).to(leaf.device)

    @classmethod
    def from_noise(cls, shape: Shape, strength: float = 1.0, device: Device = None) -> Self:
        """Return images of ``shape`` (N, C, H, W) that start from gray plus noise; all images get the same noise.

        The amplitude of the noise in an image falls as 1 / frequency. The standard deviation of the elements of the
        optimized tensor is ``strength * NOISE``.
        """
        n, c, h, w = shape
        return cls(strength * cls.NOISE * _noise((n, c, h, w // 2 + 1, 2), device), (h, w))

    @classmethod
    def from_image(cls, image: Tensor) -> Self:
        """Return a parameterization whose images initially equal ``image``, (N, C, H, W) in [0, 1].

        Only values whose distance from 0 or 1 is smaller than :attr:`DARKEST` are changed.
        """
        size = (image.shape[2], image.shape[3])
        scale = (cls.GAIN / frequencies(size)).to(image.device)
        return cls(torch.view_as_real(spectrum_of(image) / scale), size)

    def render(self) -> Tensor:
        """Return the images (N, C, H, W), with values in [0, 1], as a differentiable function of ``self.leaf``."""
        return _picture(torch.view_as_complex(self.leaf) * (self.scale * self.GAIN), self.size, self.colors)


@parameterization("phases")
class PhaseImage:
    """Images whose leaf, the optimized tensor, holds phases of Fourier coefficients. The magnitudes are fixed.

    Each coefficient belongs to one decorrelated color, not to one channel of the image. The magnitudes are those of
    natural photos. No frequency can be stronger than in photos, which prevents high-frequency noise in images of any
    size. See Fel et al., "Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained Optimization"
    (MaCo), arXiv:2306.06805. The paper uses the magnitudes of ImageNet. This class uses the mean magnitudes of crops of
    six photos; these means are smooth enough to be interpolated to any image size. The magnitudes are computed from the
    logits of the pixel values, because a sigmoid follows the inverse Fourier transform. If an image does not have 3
    channels, each channel gets the magnitudes of the lightness of photos.
    """

    bounds = (-math.inf, math.inf)

    GAIN = 5.0
    """Angle, in radians, by which a phase changes if its element of the optimized tensor changes by 1. The angle is
    chosen so that common learning rates, such as 0.05 or 0.1, are suitable."""

    def __init__(self, leaf: Tensor, size: tuple[int, int]) -> None:
        """Start from a copy of ``leaf`` (N, C, H, W // 2 + 1), the phases in units of ``GAIN`` radians.

        ``size`` is the size (H, W) of the images.
        """
        self.leaf = leaf.detach().clone().requires_grad_()
        self.size = size
        self.magnitude = _natural_magnitude(leaf.shape[1], size).to(leaf.device)
        self.colors = _colors(leaf.shape[1]).to(leaf.device)

    @classmethod
    def from_noise(cls, shape: Shape, strength: float = 1.0, device: Device = None) -> Self:
        """Return images of ``shape`` (N, C, H, W) that start from random phases; all images get the same phases.

        ``strength`` is not used, because the magnitudes are fixed.
        """
        n, c, h, w = shape
        turns = torch.rand(1, c, h, w // 2 + 1).to(device).expand(n, c, h, w // 2 + 1)
        return cls(turns * (2 * math.pi / cls.GAIN), (h, w))

    @classmethod
    def from_image(cls, image: Tensor) -> Self:
        """Return a parameterization that starts from the Fourier phases of ``image``, (N, C, H, W) in [0, 1].

        The magnitudes of ``image`` are not used.
        """
        return cls(spectrum_of(image).angle() / cls.GAIN, (image.shape[2], image.shape[3]))

    def render(self) -> Tensor:
        """Return the images (N, C, H, W), with values in [0, 1], as a differentiable function of ``self.leaf``."""
        turned = torch.polar(self.magnitude.expand_as(self.leaf), self.leaf * self.GAIN)
        return _picture(turned, self.size, self.colors)


@parameterization("pyramid")
class PyramidImage:
    """Images that are the sum of images of many sizes, each enlarged to the full size.

    The leaf, the optimized tensor, holds the pixels of all these images in decorrelated colors. The sigmoid of the sum,
    converted to channels, gives the pixel values. A step of the optimizer changes large forms and fine detail at the
    same time, and fine detail less. The brightness of the whole image changes slowly. See Fort and Whitaker, "Direct
    Ascent Synthesis: Revealing Hidden Generative Capabilities in Discriminative Models", arXiv:2502.07753.
    """

    bounds = (-math.inf, math.inf)

    OPTIMIZER: ClassVar[str] = "uniform"
    """Name of the optimizer that :func:`maximize` uses for these images by default."""

    GAIN = 0.4
    """Factor by which the optimized tensor is multiplied. It is chosen so that the learning rate 0.1 suits."""

    SUMMED = 0.85
    """Exponent with which the gradient of a pixel grows with the side of the square that the pixel covers after it is
    enlarged. It would be 1 if the gradients in the square were independent. The value was measured for pictures of
    classes."""

    COARSE = 7
    """Longer side, in pixels, of the largest image to which a step adds as much as to smaller images. To larger images,
    it adds less: the amount falls with the square root of the side."""

    BRIGHTNESS = 0.1
    """Factor by which the mean of the sum, over all pixels and channels, is multiplied. All pixels can have the same
    influence on a class through the brightness of the picture. With the factor 1, the first steps would then make the
    whole picture white or black."""

    NOISE = 0.02
    """Standard deviation of the optimized tensor at the start, if :meth:`from_noise` gets a ``strength`` of 1."""

    def __init__(self, leaf: Tensor, size: tuple[int, int]) -> None:
        """Start from a copy of ``leaf`` (N, C, P), the pixels of the images of all sizes, beginning with the full size.

        ``size`` is the size (H, W) of the images that are rendered.
        """
        self.leaf = leaf.detach().clone().requires_grad_()
        self.size = size
        self.colors = _colors(leaf.shape[1]).to(leaf.device)
        # On a GPU, the gradient of ``interpolate`` would differ from run to run, unlike that of a product.
        self.enlarging = [
            [_interpolation(*sides).to(leaf.device) for sides in zip(level, size, strict=True)]
            for level in self._sizes(size)[1:]
        ]

    @classmethod
    def from_noise(cls, shape: Shape, strength: float = 1.0, device: Device = None) -> Self:
        """Return images of ``shape`` (N, C, H, W) that start from gray plus noise; all images get the same noise.

        The standard deviation of the elements of the optimized tensor is ``strength * NOISE``.
        """
        n, c, h, w = shape
        count = sum(map(math.prod, cls._sizes((h, w))))
        return cls(strength * cls.NOISE * _noise((n, c, count), device), (h, w))

    @classmethod
    def from_image(cls, image: Tensor) -> Self:
        """Return a parameterization whose images initially equal ``image``, (N, C, H, W) in [0, 1].

        All of the image is in the finest level. Only values whose distance from 0 or 1 is smaller than
        :attr:`FourierImage.DARKEST` are changed.
        """
        size = (image.shape[2], image.shape[3])
        colors = _colors(image.shape[1]).to(image.device)
        logits = torch.logit(image, eps=FourierImage.DARKEST).flatten(2)
        whole = logits + (1 / cls.BRIGHTNESS - 1) * logits.mean((1, 2), keepdim=True)
        finest = torch.linalg.inv(colors) @ whole / cls._factor(size, size)
        others = sum(map(math.prod, cls._sizes(size)[1:]))
        return cls(torch.cat([finest, finest.new_zeros(*finest.shape[:2], others)], 2), size)

    def render(self) -> Tensor:
        """Return the images (N, C, H, W), with values in [0, 1], as a differentiable function of ``self.leaf``."""
        sizes = self._sizes(self.size)
        finest, *others = (
            level.unflatten(2, size) * self._factor(size, self.size)
            for level, size in zip(self.leaf.split([*map(math.prod, sizes)], 2), sizes, strict=True)
        )
        whole = finest
        for level, (down, across) in zip(others, self.enlarging, strict=True):
            whole = whole + down @ level @ across.T
        logits = self.colors @ whole.flatten(2)
        logits = logits - (1 - self.BRIGHTNESS) * logits.mean((1, 2), keepdim=True)
        return torch.sigmoid(logits.view(whole.shape))

    @staticmethod
    def _sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the size (H, W) of each level: the full size, and each further level half as large, down to 1 x 1."""
        sizes = [size]
        while max(sizes[-1]) > 1:
            height, width = sizes[-1]
            sizes.append((-(-height // 2), -(-width // 2)))
        return sizes

    @classmethod
    def _factor(cls, size: tuple[int, int], full: tuple[int, int]) -> float:
        """Return the factor by which the image of a level of ``size`` (H, W) is multiplied before it is enlarged.

        ``full`` is the size of the sum. The factor multiplies both the gradient and the step, so a step in proportion
        to the gradient adds an amount in proportion to the square of the factor and to the gradient.
        """
        wanted = math.sqrt(min(1.0, cls.COARSE / max(size)))
        summed = (max(full) / max(size)) ** cls.SUMMED
        return cls.GAIN * math.sqrt(wanted / summed)


def _interpolation(before: int, after: int) -> Tensor:
    """Return the matrix (after, before) of the linear interpolation from ``before`` to ``after`` pixels."""
    return interpolate(torch.eye(before)[None], after, mode="linear", align_corners=False)[0].T


def spectrum_of(image: Tensor) -> Tensor:
    """Return the Fourier coefficients (N, C, H, W // 2 + 1) of the logits of ``image`` (N, C, H, W) in [0, 1].

    Before the Fourier transform, the logits of images with 3 channels are converted to decorrelated colors.
    """
    colors = _colors(image.shape[1]).to(image.device)
    logits = torch.logit(image, eps=FourierImage.DARKEST)
    decorrelated = torch.einsum("dc,nchw->ndhw", torch.linalg.inv(colors), logits)
    spectrum: Tensor = torch.fft.rfft2(decorrelated, norm="ortho")
    return spectrum


def _picture(spectrum: Tensor, size: tuple[int, int], colors: Tensor) -> Tensor:
    """Return the image (N, C, H, W) in [0, 1] from its Fourier coefficients ``spectrum``.

    This function is the inverse of :func:`spectrum_of`. ``size`` is (H, W). ``colors`` is the matrix (C, C) that
    converts decorrelated colors to channels.
    """
    logits = torch.fft.irfft2(spectrum, s=size, norm="ortho")
    # A product of batches needs no copies in another order, unlike einsum.
    return torch.sigmoid((colors @ logits.flatten(2)).view(logits.shape))


def frequencies(size: tuple[int, int], device: Device = None) -> Tensor:
    """Return the frequencies (H, W // 2 + 1), in cycles per pixel, of the Fourier coefficients of images of ``size``.

    The constant coefficient gets the lowest nonzero frequency instead of 0, because the result is used as a divisor.
    """
    h, w = size
    down, across = torch.fft.fftfreq(h, device=device), torch.fft.rfftfreq(w, device=device)
    frequency = torch.hypot(down[:, None], across[None, :])
    return frequency.clamp(min=1 / max(h, w))


def _colors(channels: int) -> Tensor:
    """Return the matrix (C, C) that converts decorrelated colors to channels: the identity unless C is 3."""
    if channels != 3:
        return torch.eye(channels)
    longest: Tensor = torch.linalg.vector_norm(CORRELATION, dim=0).max()
    return CORRELATION / longest


NATURAL = Path(__file__).with_name("natural_magnitude.npz")
"""File with an array (3, 2 K, K + 1): the mean Fourier magnitudes of photos, each multiplied by its frequency.

The axes are decorrelated color, vertical frequency and horizontal frequency. The frequencies are integer numbers of
cycles per side. Along the vertical axis, they are 0 to K - 1, then -K to -1; along the horizontal axis, 0 to K.

The command ``python -m benchmarks.natural_magnitude`` made the file from photos by NASA and SpaceX (public domain),
Stefan van der Walt and Rachel Michetti (CC0), and danielbuechele and vultilion (CC BY 2.0)."""


def _natural_magnitude(channels: int, size: tuple[int, int]) -> Tensor:
    """Return the Fourier magnitudes (C, H, W // 2 + 1) of an average natural photo of ``size`` (H, W).

    The statistics of photos are the same at every scale. Therefore, the amplitude of a wave with a given number of
    cycles per side does not depend on the length of the side. Above the highest frequency in the file :data:`NATURAL`,
    the magnitudes continue to fall as 1 / frequency.
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
    """Return normally distributed noise of ``shape``; every image of the batch gets the same noise.

    As a result, an image does not depend on which other images are in its batch. The noise is drawn on the CPU, so that
    the same seed gives the same noise on every device.
    """
    return torch.randn(1, *shape[1:]).to(device).expand(shape)
