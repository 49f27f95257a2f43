"""Image parameterizations: a leaf tensor that renders to an image in [0, 1].

A parameterization is a class with

- ``leaf``: the tensor that the optimizer moves; its first axis is that of the images,
- ``render()``: the image (N, C, H, W) in [0, 1], differentiable in the leaf,
- ``bounds``: within which each number of the leaf is kept,
- ``from_noise(shape)`` and ``from_image(image)``: how to begin.

To add one, write such a class here.
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
"""(N, C, H, W)"""

Device = torch.device | str | None


class Parameterization(Protocol):
    """What the optimization loop needs of an image."""

    leaf: Tensor
    bounds: tuple[float, float]

    def render(self) -> Tensor: ...

    @classmethod
    def from_noise(cls, shape: Shape, strength: float = ..., device: Device = ...) -> Self: ...

    @classmethod
    def from_image(cls, image: Tensor) -> Self: ...


class PixelImage:
    """The pixels themselves, any number of channels."""

    bounds = (0.0, 1.0)

    NOISE = 0.01
    """Deviation of the noise it begins with."""

    def __init__(self, leaf: Tensor) -> None:
        self.leaf = leaf.detach().clone().requires_grad_()

    @classmethod
    def from_noise(cls, shape: Shape, strength: float = 1.0, device: Device = None) -> Self:
        """Gray with Gaussian noise, ``strength`` times the usual; one picture of noise for the whole batch."""
        return cls((0.5 + strength * cls.NOISE * _noise(shape, device)).clamp(0, 1))

    @classmethod
    def from_image(cls, image: Tensor) -> Self:
        """Start from ``image`` (N, C, H, W) in [0, 1]."""
        return cls(image.clamp(0, 1))

    def render(self) -> Tensor:
        return self.leaf


CORRELATION = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
"""Square root of the correlation of ImageNet's colours: row R, G, B; column a decorrelated colour.

From Olah, Mordvintsev, Schubert, "Feature Visualization", Distill 2017, https://distill.pub/2017/feature-visualization
"""


class FourierImage:
    """Fourier coefficients scaled by 1 / frequency, of decorrelated colours, squashed by a sigmoid.

    A natural image has amplitudes that fall as 1 / f and colours that vary together; in these coordinates it is
    white noise, so that one step changes all its scales and colours by like amounts. See Olah et al., "Feature
    Visualization", Distill 2017. Colours are decorrelated for 3 channels; gray and other numbers of channels are
    taken as they are.
    """

    bounds = (-math.inf, math.inf)

    GAIN = 0.3
    """How far a unit step moves the image, nearly as in Lucid."""

    NOISE = 0.08
    """Deviation of the noise it begins with, in the picture ten times that of Lucid: from a fainter one some filters
    behind a ReLU never fire, and have no gradient."""

    DARKEST = 1 / 512
    """Half an 8-bit level: the pixels 0 and 1, where the sigmoid has no inverse, start that far inside."""

    def __init__(self, leaf: Tensor, size: tuple[int, int]) -> None:
        """``leaf``: (N, C, H, W // 2 + 1, 2), real and imaginary parts; ``size``: (H, W)."""
        self.leaf = leaf.detach().clone().requires_grad_()
        self.size = size
        self.scale = (1 / _frequency(size)).to(leaf.device)
        self.colors = _colors(leaf.shape[1]).to(leaf.device)

    @classmethod
    def from_noise(cls, shape: Shape, strength: float = 1.0, device: Device = None) -> Self:
        """Gray with 1 / f noise, ``strength`` times the usual; one picture of noise for the whole batch."""
        n, c, h, w = shape
        return cls(strength * cls.NOISE * _noise((n, c, h, w // 2 + 1, 2), device), (h, w))

    @classmethod
    def from_image(cls, image: Tensor) -> Self:
        """Start from ``image`` (N, C, H, W) in [0, 1]."""
        size = (image.shape[2], image.shape[3])
        scale = (cls.GAIN / _frequency(size)).to(image.device)
        return cls(torch.view_as_real(_spectrum(image) / scale), size)

    def render(self) -> Tensor:
        return _picture(torch.view_as_complex(self.leaf) * (self.scale * self.GAIN), self.size, self.colors)


class PhaseImage:
    """Phases of Fourier coefficients whose magnitudes are those of natural photos, of decorrelated colours.

    No frequency can grow beyond what photos have of it, so that nothing noisy can be made, of any size: Fel et al.,
    "Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained Optimization" (MaCo),
    arXiv:2306.06805. There the magnitudes are of ImageNet; here they are the mean of crops of six photos,
    smooth enough to be carried to any size, and of logits of pixels, which the sigmoid at the end undoes.
    Gray and other numbers of channels have the magnitudes of a photo's lightness.
    """

    bounds = (-math.inf, math.inf)

    GAIN = 5.0
    """By how many radians a unit step turns a phase: at the learning rates of the others it comes round in time."""

    def __init__(self, leaf: Tensor, size: tuple[int, int]) -> None:
        """``leaf``: (N, C, H, W // 2 + 1), phases; ``size``: (H, W)."""
        self.leaf = leaf.detach().clone().requires_grad_()
        self.size = size
        self.magnitude = _natural_magnitude(leaf.shape[1], size).to(leaf.device)
        self.colors = _colors(leaf.shape[1]).to(leaf.device)

    @classmethod
    def from_noise(cls, shape: Shape, strength: float = 1.0, device: Device = None) -> Self:
        """Random phases, the same for the whole batch; a phase has no ``strength``."""
        n, c, h, w = shape
        turns = torch.rand(1, c, h, w // 2 + 1).to(device).expand(n, c, h, w // 2 + 1)
        return cls(turns * (2 * math.pi / cls.GAIN), (h, w))

    @classmethod
    def from_image(cls, image: Tensor) -> Self:
        """Start from the phases of ``image`` (N, C, H, W) in [0, 1]; the magnitudes are not its own."""
        return cls(_spectrum(image).angle() / cls.GAIN, (image.shape[2], image.shape[3]))

    def render(self) -> Tensor:
        turned = torch.polar(self.magnitude.expand_as(self.leaf), self.leaf * self.GAIN)
        return _picture(turned, self.size, self.colors)


def _spectrum(image: Tensor) -> Tensor:
    """Fourier coefficients (N, C, H, W // 2 + 1) of the logits of ``image`` (N, C, H, W), in decorrelated colours."""
    colors = _colors(image.shape[1]).to(image.device)
    logits = torch.logit(image, eps=FourierImage.DARKEST)
    decorrelated = torch.einsum("dc,nchw->ndhw", torch.linalg.inv(colors), logits)
    spectrum: Tensor = torch.fft.rfft2(decorrelated, norm="ortho")
    return spectrum


def _picture(spectrum: Tensor, size: tuple[int, int], colors: Tensor) -> Tensor:
    """The image (N, C, H, W) in [0, 1] that has this spectrum: undoes :func:`_spectrum`."""
    logits = torch.fft.irfft2(spectrum, s=size, norm="ortho")
    return torch.sigmoid(torch.einsum("cd,ndhw->nchw", colors, logits))


def _frequency(size: tuple[int, int]) -> Tensor:
    """Cycles a pixel of each Fourier coefficient, (H, W // 2 + 1); that of the constant is the lowest of the others."""
    h, w = size
    frequency = torch.hypot(torch.fft.fftfreq(h)[:, None], torch.fft.rfftfreq(w)[None, :])
    return frequency.clamp(min=1 / max(h, w))


def _colors(channels: int) -> Tensor:
    """From decorrelated colours to channels, (C, C)."""
    if channels != 3:
        return torch.eye(channels)
    longest: Tensor = torch.linalg.vector_norm(CORRELATION, dim=0).max()
    return CORRELATION / longest


NATURAL = Path(__file__).with_name("natural_magnitude.npz")
"""Mean magnitude times frequency, (3, 2 K, K + 1), by whole cycles a side from -K to K - 1 and 0 to K; made by
``python -m benchmarks.natural_magnitude`` from photos of NASA and SpaceX (public domain), by Stefan van der Walt and
Rachel Michetti (CC0), by danielbuechele and vultilion (CC BY 2.0)."""


def _natural_magnitude(channels: int, size: tuple[int, int]) -> Tensor:
    """Magnitudes (C, H, W // 2 + 1) of a natural photo of ``size``.

    Photos look alike at every scale: what is known of so many cycles a side holds for a side of any length; beyond
    the highest known the magnitudes go on to fall as 1 / frequency.
    """
    with np.load(NATURAL) as stored:
        whitened = torch.from_numpy(stored["magnitude"]).float()
    h, w = size
    most = whitened.shape[2] - 1
    down = (torch.fft.fftfreq(h) * max(h, w)).round().long().clamp(-most, most - 1)
    across = (torch.fft.rfftfreq(w) * max(h, w)).round().long().clamp(max=most)
    magnitude = whitened[:, down[:, None], across[None, :]] / _frequency(size) * math.sqrt(h * w) / max(h, w)
    magnitude[:, 0, 0] = 0  # gray in the mean
    if channels == 3:
        return magnitude
    lightness = magnitude[:1] * _colors(3)[:, 0].mean()
    return lightness.expand(channels, -1, -1)


def _noise(shape: tuple[int, ...], device: Device) -> Tensor:
    """The same normal noise for every image of a batch, so that a picture does not depend on its neighbours.

    Drawn on the CPU: a seed means the same start on every device.
    """
    return torch.randn(1, *shape[1:]).to(device).expand(shape)
