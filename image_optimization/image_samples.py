"""The samples of a picture: the numbers in its file, together with the numbers that stand for black and white."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]

LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float32, device="cpu").view(3, 1, 1)
"""Weights of red, green and blue in the ITU-R BT.601 conversion to gray, as a tensor (3, 1, 1)."""

BLOCK_PIXELS = 2**20
"""Approximate number of pixels that are converted at a time, so that the conversion needs little memory."""

DARK = 1 / 8
"""Fraction of the range of 16-bit numbers that the largest number in a picture usually exceeds.

If the largest number is below this fraction, the picture probably uses fewer than 16 bits.
"""


@dataclass
class Samples:
    """The numbers in a picture file, and the range from black to white."""

    values: Array
    """Array (H, W, C) of numbers of any type. The first channels hold the color, such as gray, or red, green and blue.
    If the picture has transparent parts, the last channel holds the opacity."""
    colors: int
    """Number of color channels, without the opacity: 1 for gray, 3 for color, or 4 for CMYK."""
    low: Any = 0
    """Number that stands for black in all channels, or an array (C,) with one such number for each channel."""
    high: Any = 255
    """Number that stands for white in all channels, or an array (C,) with one such number for each channel. If ``high``
    is less than ``low``, larger numbers are darker."""
    premultiplied: bool = False
    """True if the stored colors have been multiplied by the opacity."""
    notice: str = ""
    """Remark for the user if the file does not state the range of its numbers, otherwise "". The remark is the rest of
    a sentence that begins with the path of the file."""

    @property
    def bits(self) -> int:
        """The number of bits per channel: 8 if each number takes one byte, and otherwise 16."""
        return 8 if self.values.dtype.itemsize == 1 else 16

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Yield the picture in blocks of rows, each as a pair (slice of row indices, numbers in these rows).

        The numbers are a float32 array (rows, W, C) in [0, 1], where 0 is black and 1 is white. If the stored colors
        have been multiplied by the opacity, they are divided by it.

        Raises:
            ValueError: a number is infinite or NaN.
        """
        height, width, _ = self.values.shape
        step = max(BLOCK_PIXELS // width, 1)
        # float32 cannot represent all numbers of more than 16 bits exactly.
        kind = np.float32 if self.values.dtype.itemsize <= 2 else np.float64
        low: Array = np.asarray(self.low, kind)
        span: Any = np.asarray(self.high, kind) - low
        for top in range(0, height, step):
            rows = slice(top, min(top + step, height))
            block: Any = self.values[rows].astype(kind)
            if self.values.dtype.kind == "f" and not np.isfinite(block).all():
                raise ValueError("some pixels are not finite numbers")
            if low.any():
                block -= low
            block /= span
            block = block.clip(0, 1, out=block).astype(np.float32, copy=False)
            if self.premultiplied:
                colors, alpha = block[..., : self.colors], block[..., self.colors :]
                np.divide(colors, alpha, out=colors, where=alpha > 0)
                colors.clip(0, 1, out=colors)
            yield rows, block

    def to_tensors(self, channels: int) -> tuple[Tensor, Tensor | None]:
        """Return the image (1, ``channels``, H, W) and the opacity (1, 1, H, W), both float32 in [0, 1].

        Transparent parts are composited over white. The opacity is None if the whole picture is opaque. If the picture
        is gray and ``channels`` is 3, the channels of the image share the same memory.
        """
        height, width, _ = self.values.shape
        made = torch.empty(1, min(self.colors, channels), height, width)
        opacity: Tensor | None = None
        for rows, block in self.blocks():
            alpha, block = block[..., self.colors :], block[..., : self.colors]
            if (alpha != 1).any():
                opacity = torch.ones(1, 1, height, width) if opacity is None else opacity
                opacity[0, :, rows] = torch.from_numpy(alpha).permute(2, 0, 1)
                block = block * alpha + (1 - alpha)
            part = torch.from_numpy(block).permute(2, 0, 1)
            # Gray is also multiplied by the weights, so that it is rounded as in pictures made by older versions.
            made[0, :, rows] = part if channels == 3 else (part.expand(3, -1, -1) * LUMA).sum(0, keepdim=True)
        return made.expand(1, channels, height, width), opacity

    def to_levels(self) -> Array:
        """Return the numbers (H, W, C) as 8-bit levels: 0 stands for black or transparent, 255 for white or opaque."""
        if self.values.dtype == np.uint8 and np.all(self.low == 0) and np.all(self.high == 255):
            return self.values
        levels = np.empty(self.values.shape, np.uint8)
        if self.values.dtype == np.uint16 and np.all(self.low == 0) and np.all(self.high == 65535):
            return np.right_shift(self.values, 8, out=levels, casting="unsafe")
        for rows, block in self.blocks():
            levels[rows] = (block * 255).round()
        return levels

    def remark(self) -> str:
        """Return a message to the user about the range of the numbers, or "" if there is nothing to report.

        If ``notice`` is not empty, the message is ``notice``. Otherwise, if the type of the numbers has 16 bits but the
        largest of them is less than the fraction :data:`DARK` of the range, the message says that the picture is very
        dark.
        """
        if self.notice or self.values.dtype.kind != "u" or self.values.dtype.itemsize != 2:
            return self.notice
        top = max(float(np.max(self.high)), float(np.max(self.low)))
        found = int(self.values[..., : self.colors].max(initial=0))
        if not 0 < found < DARK * top or np.min(self.high) < np.max(self.low):
            return ""
        return f"is very dark: its numbers may be up to {top:.0f}, and the largest is {found}"
