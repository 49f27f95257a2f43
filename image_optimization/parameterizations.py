"""Image parameterizations: a leaf tensor that renders to an image in [0, 1].

A parameterization is a class with

- ``leaf``: the tensor that the optimizer moves,
- ``render()``: the image (N, C, H, W) in [0, 1], differentiable in the leaf,
- ``bounds``: within which each number of the leaf is kept,
- ``from_noise(shape)`` and ``from_image(image)``: how to begin.

To add one, write such a class here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

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
    def from_noise(cls, shape: Shape, std: float = ..., device: Device = ...) -> Self: ...

    @classmethod
    def from_image(cls, image: Tensor) -> Self: ...


class PixelImage:
    """The pixels themselves, any number of channels."""

    bounds = (0.0, 1.0)

    def __init__(self, leaf: Tensor) -> None:
        self.leaf = leaf.detach().clone().requires_grad_()

    @classmethod
    def from_noise(cls, shape: Shape, std: float = 0.01, device: Device = None) -> Self:
        """Gray with Gaussian noise of deviation ``std``; one picture of noise for the whole batch."""
        return cls((0.5 + std * _noise(shape, device)).clamp(0, 1))

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

    GAIN = 0.25
    """How far a unit step moves the image, as in Lucid, whose learning rates hold here."""

    DARKEST = 1 / 512
    """Half an 8-bit level: the pixels 0 and 1, where the sigmoid has no inverse, start that far inside."""

    def __init__(self, leaf: Tensor, size: tuple[int, int]) -> None:
        """``leaf``: (N, C, H, W // 2 + 1, 2), real and imaginary parts; ``size``: (H, W)."""
        self.leaf = leaf.detach().clone().requires_grad_()
        self.size = size
        self.scale = self._scale(size).to(leaf.device)
        self.colors = self._colors(leaf.shape[1]).to(leaf.device)

    @classmethod
    def from_noise(cls, shape: Shape, std: float = 0.1, device: Device = None) -> Self:
        """Gray with 1 / f noise; one picture of noise for the whole batch.

        Ten times Lucid's deviation: in a fainter picture some filters behind a ReLU never fire: no gradient.
        """
        n, c, h, w = shape
        return cls(std * _noise((n, c, h, w // 2 + 1, 2), device), (h, w))

    @classmethod
    def from_image(cls, image: Tensor) -> Self:
        """Start from ``image`` (N, C, H, W) in [0, 1]."""
        size = (image.shape[2], image.shape[3])
        colors = cls._colors(image.shape[1]).to(image.device)
        logits = torch.logit(image, eps=cls.DARKEST)
        logits = torch.einsum("dc,nchw->ndhw", torch.linalg.inv(colors), logits)
        spectrum = torch.fft.rfft2(logits, norm="ortho") / (cls._scale(size).to(image.device) * cls.GAIN)
        return cls(torch.view_as_real(spectrum), size)

    def render(self) -> Tensor:
        spectrum = torch.view_as_complex(self.leaf) * (self.scale * self.GAIN)
        logits = torch.fft.irfft2(spectrum, s=self.size, norm="ortho")
        return torch.sigmoid(torch.einsum("cd,ndhw->nchw", self.colors, logits))

    @staticmethod
    def _scale(size: tuple[int, int]) -> Tensor:
        """1 / frequency, in pixels; the constant term as the lowest frequency."""
        h, w = size
        frequency = torch.hypot(torch.fft.fftfreq(h)[:, None], torch.fft.rfftfreq(w)[None, :])
        return 1 / frequency.clamp(min=1 / max(h, w))

    @staticmethod
    def _colors(channels: int) -> Tensor:
        if channels != 3:
            return torch.eye(channels)
        longest: Tensor = torch.linalg.vector_norm(CORRELATION, dim=0).max()
        return CORRELATION / longest


def _noise(shape: tuple[int, ...], device: Device) -> Tensor:
    """The same normal noise for every image of a batch, so that a picture does not depend on its neighbours.

    Drawn on the CPU: a seed means the same start on every device.
    """
    return torch.randn(1, *shape[1:]).to(device).expand(shape)
