"""What a picture must survive while it is optimized: random transforms, drawn anew at every step.

Any callable from images (N, C, H, W) to images will do, every transform of ``torchvision.transforms.v2`` included
(give ``fill=None`` to its geometric ones: with another fill they write in place, which has no gradient).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchvision.transforms import v2

Transform = Callable[[Tensor], Tensor]


def robust(
    size: tuple[int, int],
    degrees: float = 15,
    translate: float = 0.1,
    scale: tuple[float, float] = (0.85, 1.15),
    shear: float = 10,
) -> v2.Compose:
    """Turn, move, scale and shear the picture at random, the whole batch alike, in one resampling.

    Only what a network sees in every such view survives, not what it is fooled by in one of them. See Olah et al.,
    "Feature Visualization", Distill 2017, section "Transformation robustness".

    Args:
        size: (H, W) of the images; the views have the same size.
        degrees: largest rotation either way.
        translate: largest shift either way, as a share of each side.
        scale: smallest and largest.
        shear: largest shear either way, in degrees.
    """
    return v2.Compose(
        [
            # What moves in from outside is the picture's own mirror image: no border for a filter to respond to.
            v2.Pad([size[1] // 2, size[0] // 2], padding_mode="reflect"),
            # The shares are of the padded sides, twice as long.
            v2.RandomAffine(
                degrees,
                (translate / 2, translate / 2),
                scale,
                shear,
                interpolation=v2.InterpolationMode.BILINEAR,
                fill=None,
            ),
            v2.CenterCrop(list(size)),
        ]
    )
