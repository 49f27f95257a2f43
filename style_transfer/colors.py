"""The colors of the result, which are taken from the painting or from the photo.

Gatys et al., "Preserving Color in Neural Artistic Style Transfer", arXiv:1606.05897.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamgram.image_optimization.image_sizes import strips_of
from dreamgram.image_optimization.images import LUMA, resize
from dreamgram.style_transfer.options import Colors

GRAY_SPREAD = 2.5 / 255
"""Largest difference between the channels of a pixel, in [0, 1], that still counts as gray."""


def match_colors(image: Tensor, target: Tensor) -> Tensor:
    """Recolor ``image`` so that its colors have the same mean and covariance as the colors of ``target``.

    Both pictures are (1, 3, H, W) in [0, 1]; their sizes may differ. Many linear maps of the colors give this mean and
    covariance. The symmetric map is used, because it changes the colors least. Colors outside [0, 1] are clamped to
    this range.
    """

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
    """Return the luminance of an image (1, 3, H, W) in [0, 1], repeated in three equal channels."""
    return (image * LUMA.to(image)).sum(1, keepdim=True).expand_as(image)


def with_colors_of(image: Tensor, photo: Tensor) -> Tensor:
    """Combine the luminance of ``image`` with the chrominance of ``photo``, two images (1, 3, H, W) of the same size.

    The pixel values of the two images and of the result are in [0, 1]. If a combined color would lie outside this
    range, its chrominance is reduced until the color fits, and its luminance is kept.
    """
    gray = luminance(image)
    color = photo - luminance(photo)
    room = torch.where(color > 0, 1 - gray, gray) / color.abs().clamp(min=1e-6)
    return gray + color * room.amin(1, keepdim=True).clamp(max=1)


def prepare(
    colors: Colors, photo: Tensor, paintings: Sequence[Tensor], measured: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Return the photo and the paintings, recolored for the optimization as the option ``colors`` requires.

    With ``match``, the colors of each painting get the mean and covariance of the colors of the photo. With
    ``luminance``, all pictures become gray, and the gray levels of each painting get the mean and variance of the
    photo's gray levels. With ``style`` or ``content``, all pictures stay unchanged. ``measured`` holds those pixels of
    the photo, (1, 3, 1, P), whose colors count; by default, all of them do.
    """
    measured = photo if measured is None else measured
    if colors == "match":
        return photo, [match_colors(painting, measured) for painting in paintings]
    if colors == "luminance":
        gray = luminance(measured)
        return luminance(photo), [match_colors(luminance(painting), gray) for painting in paintings]
    return photo, list(paintings)


def is_gray(image: Tensor) -> bool:
    """Return whether all pixels of an image (1, 3, H, W) in [0, 1] are gray, except for rounding errors of a JPEG."""
    return all(bool((strip.amax(1) - strip.amin(1)).max() <= GRAY_SPREAD) for strip in strips_of(image))


def finish(colors: Colors, strength: float, image: Tensor, photo: Tensor) -> Tensor:
    """Return the optimized ``image`` with the final colors and the final strength of the style.

    Both pictures are (1, 3, H, W) in [0, 1]. ``photo`` is resized to the size of ``image``. If ``colors`` is
    ``content`` or ``luminance``, the luminance of ``image`` is combined with the chrominance of ``photo``. The result
    of this step is then mixed with ``photo``: ``strength`` is the share, in [0, 1], of the painted picture.
    """
    if colors not in ("content", "luminance") and strength == 1:
        return image
    photo = resize(photo, (image.shape[2], image.shape[3]))
    painted = with_colors_of(image, photo) if colors in ("content", "luminance") else image
    return torch.lerp(photo, painted, strength)
