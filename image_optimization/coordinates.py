"""Coordinates in which L-BFGS learns the curvature of a loss that depends on an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from dreamgram.image_optimization.parameterizations import frequencies

EXPONENT = 0.35
"""Default exponent of :class:`Coordinates`. Losses that depend on a network's activations have less curvature along the
low frequencies of the image than along the high frequencies. In :class:`Coordinates` with this exponent, the curvature
is more even across frequencies."""

CELL = 16
"""Approximate side of a cell, in pixels."""


class Coordinates:
    """Linear coordinates, grouped into cells, for the changes of a tensor.

    The Fourier coefficients of a change are multiplied by frequency ** ``exponent``. The result, transformed back to
    pixels, is cut into square cells. The coordinates are stored in a tensor (cells, n), with n coordinates for each
    cell.

    Several cells form a square block. L-BFGS learns the curvature of each block separately, because distant pixels
    hardly influence each other's gradient. Numbers that belong to blocks are interpolated between the centers of the
    blocks when they are applied to cells (:meth:`spread`). Otherwise, a step would differ so much between neighboring
    blocks that their edges could be seen in the picture.
    """

    def __init__(self, like: Tensor, block: int | None = None, exponent: float = EXPONENT) -> None:
        """Prepare to convert changes of tensors that have the shape and the device of ``like``.

        ``block`` is the approximate side of a block, in pixels, if ``like`` holds the pixels (N, C, H, W) of images. If
        ``block`` is None, or if the images are only 1 pixel high or wide, the coordinates are the elements of the
        tensor, and all of them form one block.
        """
        self.shape = like.shape
        self.weights: Tensor | None = None
        self.grid = self.cells = (1, 1)
        self.padding = (0, 0, 0, 0)
        if block is None or min(like.shape[2:]) < 2:
            return
        height, width = like.shape[2:]
        factors = frequencies((height, width), like.device) ** -exponent
        self.weights = (factors / factors.square().mean().sqrt()).to(like)
        self.grid = (max(1, round(height / block)), max(1, round(width / block)))
        if self.grid != (1, 1):
            self.cells = (self.grid[0] * max(1, round(block / CELL)), self.grid[1] * max(1, round(block / CELL)))
        self.padding = (0, -width % self.cells[1], 0, -height % self.cells[0])

    @property
    def block_count(self) -> int:
        """Number of blocks of all images."""
        return math.prod(self.grid) * self._image_count

    @property
    def _image_count(self) -> int:
        return 1 if self.grid == (1, 1) else self.shape[0]

    def shape_of_cells(self) -> tuple[int, int]:
        """Return the number of cells and the number of coordinates in each cell."""
        cells = self.cut(torch.empty(self.shape, device="meta"))
        return cells.shape[0], cells.shape[1]

    def of_move(self, move: Tensor) -> Tensor:
        """Return the coordinates (cells, n) of ``move``, a change of the tensor."""
        return self.cut(move if self.weights is None else self._filter(move, 1 / self.weights))

    def of_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient (cells, n) with respect to the coordinates, given that with respect to the tensor."""
        return self.cut(gradient if self.weights is None else self._filter(gradient, self.weights))

    def move(self, coordinates: Tensor) -> Tensor:
        """Return the change of the tensor with these ``coordinates`` (cells, n); the inverse of :meth:`of_move`."""
        move = self.paste(coordinates)
        return move if self.weights is None else self._filter(move, self.weights)

    def cut(self, image: Tensor) -> Tensor:
        """Cut ``image`` into cells: (N, C, H, W) -> (cells, n)."""
        if self.grid == (1, 1):
            return image.reshape(1, -1)
        (down, across), padded = self.cells, pad(image, self.padding)
        n, c, height, width = padded.shape
        parts = padded.view(n, c, down, height // down, across, width // across)
        return parts.permute(0, 2, 4, 1, 3, 5).reshape(n * down * across, -1)

    def paste(self, cells: Tensor) -> Tensor:
        """Assemble an image from ``cells`` (cells, n); the inverse of :meth:`cut`."""
        if self.grid == (1, 1):
            return cells.view(self.shape)
        (down, across), (n, c, height, width) = self.cells, self.shape
        tall, wide = -(-height // down), -(-width // across)
        parts = cells.view(n, down, across, c, tall, wide).permute(0, 3, 1, 4, 2, 5)
        return parts.reshape(n, c, down * tall, across * wide)[:, :, :height, :width]

    def add_up(self, values: Tensor) -> Tensor:
        """Add the ``values`` (cells, k) of the cells of each block: the result is (blocks, k)."""
        if self.grid == self.cells:
            return values
        (down, across), (rows, columns) = self.grid, self.cells
        parts = values.view(self._image_count, down, rows // down, across, columns // across, -1)
        return parts.sum((2, 4)).view(self.block_count, -1)

    def copy_to_cells(self, values: Tensor) -> Tensor:
        """Give each cell the values of its block: (blocks, k) -> (cells, k)."""
        if self.grid == self.cells:
            return values
        (down, across), (rows, columns) = self.grid, self.cells
        parts = values.view(self._image_count, down, 1, across, 1, -1)
        parts = parts.expand(-1, -1, rows // down, -1, columns // across, -1)
        return parts.reshape(self._image_count * rows * columns, -1)

    def spread(self, values: Tensor) -> Tensor:
        """Interpolate the ``values`` (blocks, k) bilinearly between the centers of the blocks: (cells, k)."""
        if self.grid == self.cells:
            return values
        maps = values.view(self._image_count, *self.grid, -1).permute(0, 3, 1, 2)
        finer = interpolate(maps, self.cells, mode="bilinear", align_corners=False)
        return finer.permute(0, 2, 3, 1).reshape(-1, values.shape[1])

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
