"""Random transforms of the image, drawn anew at every step of the optimization.

A transform is any function from images (N, C, H, W) to images, such as a transform of ``torchvision.transforms.v2``.
Pass ``fill=None`` to the geometric transforms of torchvision: with any other ``fill``, they modify tensors in place, so
that no gradient can be computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

Transform = Callable[[Tensor], Tensor]


def robust(
    degrees: float = 15, translate: float = 0.1, scale: tuple[float, float] = (0.85, 1.15), shear: float = 10
) -> Transform:
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

    def view(images: Tensor) -> Tensor:
        n, c, height, width = images.shape
        turned, sheared, right, down = (2 * torch.rand(4) - 1).tolist()
        angle, slope = math.radians(degrees * turned), math.tan(math.radians(shear * sheared))
        size = scale[0] + (scale[1] - scale[0]) * torch.rand(()).item()
        cos, sin = math.cos(angle) / size, math.sin(angle) / size
        # This matrix maps positions in the view to positions in the image, both from -1 to 1 along each side.
        to_image = [
            [cos, (cos * slope - sin) * height / width, 2 * translate * right],
            [sin * width / height, sin * slope + cos, 2 * translate * down],
        ]
        matrix = torch.tensor([to_image]).to(images.device, non_blocking=True)
        grid = affine_grid(matrix, [1, 1, height, width], align_corners=False)
        # The batch becomes one image with many channels, so that interpolation weights are computed only once.
        together = images.reshape(1, n * c, height, width)
        seen = grid_sample(together, grid.to(images.dtype), padding_mode="reflection", align_corners=False)
        return seen.view(n, c, height, width)

    return view
