"""Parts of the photo that are kept as they are, and images of which only the other parts are painted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamgram.image_optimization.images import resize
from dreamgram.image_optimization.parameterizations import PixelImage
from dreamgram.style_transfer.colors import luminance

SLACK = 0.02
"""Largest difference from black or white, in [0, 1], of a mask's pixel that still counts as black or white. JPEG
compression changes the pixels of a mask by about this amount."""

MASK_ROUNDING = 0.002
"""Largest rounding error of a resized mask. Values that differ less from 0 or 1 become 0 or 1, so that the pixels of
kept parts are exactly those of the photo."""


@dataclass(frozen=True)
class Kept:
    """The parts of a photo that are kept."""

    photo: Tensor
    """The photo, (1, 3, H, W) in [0, 1]."""
    mask: Tensor
    """Mask (1, 1, H, W) in [0, 1] of any size: 1 where the photo is kept, and 0 where it is painted. A value between 0
    and 1 mixes both, for soft edges."""

    def resized(self, size: tuple[int, int], device: torch.device | str = "cpu") -> Kept:
        """Return a copy on ``device`` whose photo and mask have the given ``size`` (H, W), in pixels."""
        mask = resize(self.mask.to(device), size)
        mask = ((mask - MASK_ROUNDING) / (1 - 2 * MASK_ROUNDING)).clamp(0, 1)
        return Kept(resize(self.photo.to(device), size), mask)

    def over(self, image: Tensor) -> Tensor:
        """Return ``image`` (1, 3, H, W) in [0, 1] with the kept parts in front of it, as a differentiable function.

        The photo and the mask must have the size of ``image``. Where the mask is 1, the result equals the photo
        exactly.
        """
        return torch.lerp(image, self.photo, self.mask)

    def painted_pixels(self) -> Tensor:
        """Return the P pixels of the photo that are mostly painted, (1, 3, 1, P), or all pixels if there are none."""
        painted = resize(self.mask, (self.photo.shape[2], self.photo.shape[3]))[0, 0] < 0.5
        return self.photo[:, :, painted][:, :, None] if painted.any() else self.photo

    def outside(self, region: Tensor | None) -> Tensor:
        """Return the part of a ``region`` that is painted, as a mask (1, 1, H, W) in [0, 1].

        ``region`` is the mask of a region of the photo, (1, 1, H, W) in [0, 1], or None for the whole photo.
        """
        if region is None:
            return 1 - self.mask
        return region * (1 - resize(self.mask, (region.shape[2], region.shape[3])))


def read_mask(picture: Tensor) -> Tensor:
    """Return the mask (1, 1, H, W) in [0, 1] that a black and white ``picture`` (1, 3, H, W) in [0, 1] shows.

    White parts of the picture are kept. The values of gray parts are between 0 and 1. See :data:`SLACK`.

    Raises:
        ValueError: no part of the picture is white, or all parts are.
    """
    mask = ((luminance(picture)[:, :1] - SLACK) / (1 - 2 * SLACK)).clamp(0, 1)
    if mask.max() < 1:
        raise ValueError("the mask of the parts to keep has no white part, so that nothing would be kept")
    if mask.min() == 1:
        raise ValueError("the mask of the parts to keep is white everywhere, so that nothing would be painted")
    return mask


def joined(mask: Tensor | None, others: Sequence[Tensor | None]) -> Tensor:
    """Return a mask (1, 1, H, W) that is the largest of ``mask`` and ``others``, masks of any size, at each pixel.

    The result has the size of the first mask that is not None.

    Raises:
        ValueError: the result is white everywhere, so that nothing would be painted.
    """
    first, *rest = [each for each in (mask, *others) if each is not None]
    for each in rest:
        first = torch.maximum(first, resize(each, (first.shape[2], first.shape[3])))
    if first.min() == 1:
        raise ValueError("all parts of the photo are kept, so that nothing would be painted")
    return first


class PaintedImage(PixelImage):
    """An image of pixels, of which a part can be fixed to the pixels of a photo.

    The optimized tensor has one channel for an image that is always gray, and three for an image in color.
    """

    def __init__(self, leaf: Tensor, kept: Kept | None = None) -> None:
        """Start from a copy of ``leaf``, pixels (1, 1 or 3, H, W) in [0, 1].

        ``kept``, if any, has the height, width and device of ``leaf``.
        """
        super().__init__(leaf)
        self.kept = kept

    def render(self) -> Tensor:
        """Return the image (1, 3, H, W), with values in [0, 1], as a differentiable function of the leaf."""
        image = self.leaf if self.leaf.shape[1] == 3 else self.leaf.expand(-1, 3, -1, -1)
        return image if self.kept is None else self.kept.over(image)
