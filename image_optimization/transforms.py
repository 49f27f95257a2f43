"""What a picture must survive while it is optimized: random transforms, drawn anew at every step.

Any callable from images (N, C, H, W) to images will do, every transform of ``torchvision.transforms.v2`` included
(give ``fill=None`` to its geometric ones: with another fill they write in place, which has no gradient).
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
    """Turn, move, scale and shear the picture at random, the whole batch alike, in one bilinear resampling.

    Only what a network sees in every such view survives, not what it is fooled by in one of them. See Olah et al.,
    "Feature Visualization", Distill 2017, section "Transformation robustness". What moves in from outside is the
    picture's own mirror image: no border for a filter to respond to. Views have the size of the images.

    Args:
        degrees: largest rotation either way.
        translate: largest shift either way, as a share of each side.
        scale: smallest and largest.
        shear: largest shear either way, in degrees.
    """

    def view(images: Tensor) -> Tensor:
        n, c, height, width = images.shape
        turned, sheared, right, down = (2 * torch.rand(4) - 1).tolist()
        angle, slope = math.radians(degrees * turned), math.tan(math.radians(shear * sheared))
        size = scale[0] + (scale[1] - scale[0]) * torch.rand(()).item()
        cos, sin = math.cos(angle) / size, math.sin(angle) / size
        # From a position in the view to one in the image, both from -1 to 1 across each side.
        to_image = [
            [cos, (cos * slope - sin) * height / width, 2 * translate * right],
            [sin * width / height, sin * slope + cos, 2 * translate * down],
        ]
        matrix = torch.tensor([to_image]).to(images.device, non_blocking=True)
        grid = affine_grid(matrix, [1, 1, height, width], align_corners=False)
        # As one image with many channels: the weights of the interpolation are computed once for the whole batch.
        together = images.reshape(1, n * c, height, width)
        seen = grid_sample(together, grid.to(images.dtype), padding_mode="reflection", align_corners=False)
        return seen.view(n, c, height, width)

    return view
