"""Coordinates in which L-BFGS learns the curvature of a loss that depends on an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from dreamgram.image_optimization.parameterizations import frequencies

EXPONENT = 0.35
"""Default exponent of :class:`Coordinates`. Losses that depend on a network's activations have less curvature along the
low frequencies of the image than along the high frequencies. In :class:`Coordinates` with this exponent, the curvature
is more even across frequencies."""


class Coordinates:
    """Linear coordinates, grouped into blocks, for the changes of a tensor.

    The Fourier coefficients of a change are multiplied by frequency ** ``exponent``. The result, transformed back to
    pixels, is cut into square blocks, because distant pixels hardly influence each other's gradient. L-BFGS learns the
    curvature of each block separately. The coordinates are stored in a tensor (blocks, n), with n coordinates for each
    block.
    """

    def __init__(self, like: Tensor, block: int | None = None, exponent: float = EXPONENT) -> None:
        """Prepare to convert changes of tensors that have the shape and the device of ``like``.

        ``block`` is the approximate side of a block, in pixels, if ``like`` holds the pixels (N, C, H, W) of images. If
        ``block`` is None, or if the images are only 1 pixel high or wide, the coordinates are the elements of the
        tensor, and all of them form one block.
        """
        self.shape = like.shape
        self.weights: Tensor | None = None
        self.grid = (1, 1)
        self.padding = (0, 0, 0, 0)
        if block is None or min(like.shape[2:]) < 2:
            return
        height, width = like.shape[2:]
        factors = frequencies((height, width), like.device) ** -exponent
        self.weights = (factors / factors.square().mean().sqrt()).to(like)
        self.grid = (max(1, round(height / block)), max(1, round(width / block)))
        self.padding = (0, -width % self.grid[1], 0, -height % self.grid[0])

    def blocks(self) -> tuple[int, int]:
        """Return the number of blocks and the number of coordinates in each block."""
        count = self.grid[0] * self.grid[1] * (self.shape[0] if self.grid != (1, 1) else 1)
        return count, self.cut(torch.empty(self.shape, device="meta")).shape[1]

    def of_move(self, move: Tensor) -> Tensor:
        """Return the coordinates (blocks, n) of ``move``, a change of the tensor."""
        return self.cut(move if self.weights is None else self._filter(move, 1 / self.weights))

    def of_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient (blocks, n) with respect to the coordinates, given that with respect to the tensor."""
        return self.cut(gradient if self.weights is None else self._filter(gradient, self.weights))

    def move(self, coordinates: Tensor) -> Tensor:
        """Return the change of the tensor with these ``coordinates`` (blocks, n); the inverse of :meth:`of_move`."""
        move = self.paste(coordinates)
        return move if self.weights is None else self._filter(move, self.weights)

    def cut(self, image: Tensor) -> Tensor:
        """Cut ``image`` into blocks: (N, C, H, W) -> (blocks, n)."""
        if self.grid == (1, 1):
            return image.reshape(1, -1)
        (down, across), padded = self.grid, pad(image, self.padding)
        n, c, height, width = padded.shape
        parts = padded.view(n, c, down, height // down, across, width // across)
        return parts.permute(0, 2, 4, 1, 3, 5).reshape(n * down * across, -1)

    def paste(self, blocks: Tensor) -> Tensor:
        """Assemble an image from ``blocks``, a tensor (blocks, n); the inverse of :meth:`cut`."""
        if self.grid == (1, 1):
            return blocks.view(self.shape)
        (down, across), (n, c, height, width) = self.grid, self.shape
        tall, wide = -(-height // down), -(-width // across)
        parts = blocks.view(n, down, across, c, tall, wide).permute(0, 3, 1, 4, 2, 5)
        return parts.reshape(n, c, down * tall, across * wide)[:, :, :height, :width]

    @staticmethod
    def _filter(image: Tensor, weights: Tensor) -> Tensor:
        """Return ``image`` after multiplying its Fourier coefficients, in the layout of ``rfft2``, by ``weights``."""
        if not image.is_cpu:  # on an accelerator, fewer operations matter more than less memory
            whole: Tensor = torch.fft.irfft2(torch.fft.rfft2(image).mul_(weights), s=image.shape[2:])
            return whole
        filtered = torch.empty_like(image)
        for channel, result in zip(image.unbind(1), filtered.unbind(1), strict=True):  # one by one, to save memory
            result.copy_(torch.fft.irfft2(torch.fft.rfft2(channel).mul_(weights), s=image.shape[2:]))
        return filtered
