"""Random transforms of the image, drawn anew at every step of the optimization.

A transform is any function from images (N, C, H, W) to images, such as a transform of ``torchvision.transforms.v2``.
Pass ``fill=None`` to the geometric transforms of torchvision: with any other ``fill``, they modify tensors in place, so
that no gradient can be computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

Transform = Callable[[Tensor], Tensor]

AHEAD = 16
"""Number of steps whose random views are drawn together."""


def robust(
    degrees: float = 15, translate: float = 0.1, scale: tuple[float, float] = (0.85, 1.15), shear: float = 10
) -> RandomView:
    """Return a transform that rotates, shifts, scales and shears images at random, in one bilinear resampling.

    All images of a batch are transformed in the same way and keep their size. During the optimization, a pattern
    survives only if it activates the network under all these transforms. This suppresses adversarial patterns. See Olah
    et al., "Feature Visualization", Distill 2017, section "Transformation robustness". An image is continued beyond its
    border by reflection, so that there is no edge to which a filter could respond.

    Args:
        degrees: largest rotation in either direction, in degrees.
        translate: largest shift in either direction, as a fraction of the width and of the height.
        scale: smallest and largest factor by which the content of the image is enlarged.
        shear: largest shear in either direction, in degrees.
    """

    return RandomView(degrees, translate, scale, shear)


@dataclass(frozen=True)
class RandomView:
    """The transform that :func:`robust` returns. Several views can be drawn before they are applied."""

    degrees: float
    translate: float
    scale: tuple[float, float]
    shear: float

    def __call__(self, images: Tensor) -> Tensor:
        """Return a random view of ``images`` (N, C, H, W)."""
        return self.apply(images, self.draw(1, images.shape[2:]).to(images.device)[0])

    def draw(self, count: int, size: Sequence[int]) -> Tensor:
        """Draw ``count`` random views of images of ``size`` (H, W) with PyTorch's default CPU generator.

        Returns:
            (count, 2, 3), on the CPU: for each view, the matrix that maps positions in the view to positions in the
            image. Positions are from -1 to 1 along each side.
        """
        height, width = size
        matrices = []
        for _ in range(count):
            turned, sheared, right, down = (2 * torch.rand(4) - 1).tolist()
            angle, slope = math.radians(self.degrees * turned), math.tan(math.radians(self.shear * sheared))
            zoom = self.scale[0] + (self.scale[1] - self.scale[0]) * torch.rand(()).item()
            cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
            across = [cos, (cos * slope - sin) * height / width, 2 * self.translate * right]
            matrices.append([across, [sin * width / height, sin * slope + cos, 2 * self.translate * down]])
        return torch.tensor(matrices)

    @staticmethod
    def apply(images: Tensor, matrix: Tensor) -> Tensor:
        """Return the view of ``images`` (N, C, H, W) with ``matrix`` (2, 3), which is on the images' device."""
        n, c, height, width = images.shape
        grid = affine_grid(matrix[None], [1, 1, height, width], align_corners=False)
        # The batch becomes one image with many channels, so that interpolation weights are computed only once.
        together = images.reshape(1, n * c, height, width)
        seen = grid_sample(together, grid.to(images.dtype), padding_mode="reflection", align_corners=False)
        return seen.view(n, c, height, width)


def drawn_ahead(transform: Transform, steps: int) -> Transform:
    """Return a transform with the same random views as ``transform``, for at most ``steps`` calls.

    The views of several steps are drawn and copied to the device together, so that the steps do not wait for copies.
    Transforms other than :class:`RandomView` are returned unchanged.
    """
    if not isinstance(transform, RandomView):
        return transform
    waiting: list[Tensor] = []
    left = steps

    def view(images: Tensor) -> Tensor:
        nonlocal left
        if not waiting:
            matrices = transform.draw(max(1, min(AHEAD, left)), images.shape[2:])
            left -= len(matrices)
            if images.is_cuda:
                matrices = matrices.pin_memory()
            waiting.extend(matrices.to(images.device, non_blocking=True).flip(0))
        return transform.apply(images, waiting.pop())

    return view
