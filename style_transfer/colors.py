"""Whose colours: the painting's or the photo's.

Gatys et al., "Preserving Color in Neural Artistic Style Transfer", arXiv:1606.05897.
"""

# Torch is imported where it is needed: the command line reads the names without it.
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Colors = Literal["style", "content", "luminance", "match"]


def match_colors(image: Tensor, target: Tensor) -> Tensor:
    """``image`` with the mean and covariance of the colours of ``target``, both (1, 3, H, W) in [0, 1].

    Of the linear maps of colours that do so, the symmetric one, which changes each colour least.
    """
    import torch

    def distribution(picture: Tensor) -> tuple[Tensor, Tensor]:
        colors = picture[0].flatten(1).double()
        return colors.mean(1, keepdim=True), torch.cov(colors) + 1e-6 * torch.eye(len(colors)).to(colors)

    def power(matrix: Tensor, exponent: float) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        result: Tensor = vectors * values.clamp(min=1e-12) ** exponent @ vectors.T
        return result

    (mean, covariance), (wanted_mean, wanted) = distribution(image), distribution(target)
    root = power(covariance, 0.5)
    change = power(covariance, -0.5) @ power(root @ wanted @ root, 0.5) @ power(covariance, -0.5)
    moved = change @ (image[0].flatten(1).double() - mean) + wanted_mean
    return moved.view_as(image).to(image).clamp(0, 1)


def luminance(image: Tensor) -> Tensor:
    """The gray of (1, 3, H, W) in [0, 1], as three equal channels."""
    from image_optimization.images import LUMA

    return (image * LUMA.to(image)).sum(1, keepdim=True).expand_as(image)


def with_colors_of(image: Tensor, photo: Tensor) -> Tensor:
    """``image`` with the colours of ``photo`` under its own luminance, both (1, 3, H, W) in [0, 1] of the same size.

    Where a colour cannot be so light or dark, it is made paler, until it can: the luminance stays.
    """
    import torch

    gray = luminance(image)
    color = photo - luminance(photo)
    room = torch.where(color > 0, 1 - gray, gray) / color.abs().clamp(min=1e-6)
    return gray + color * room.amin(1, keepdim=True).clamp(max=1)


def prepare(colors: Colors, photo: Tensor, paintings: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The photo and the paintings as the optimization is to see them.

    Raises:
        ValueError: there is no such choice of ``colors``.
    """
    if colors == "match":
        return photo, [match_colors(painting, photo) for painting in paintings]
    if colors == "luminance":
        gray = luminance(photo)
        return gray, [match_colors(luminance(painting), gray) for painting in paintings]
    if colors not in ("style", "content"):
        raise ValueError(f"colors must be 'style', 'content', 'luminance' or 'match', not {colors!r}")
    return photo, list(paintings)


def finish(colors: Colors, image: Tensor, photo: Tensor) -> Tensor:
    """The result, with the colours that it is to have, those of ``photo`` perhaps, which may be of any size."""
    from image_optimization.images import resize

    if colors not in ("content", "luminance"):
        return image
    return with_colors_of(image, resize(photo, (image.shape[2], image.shape[3])))
