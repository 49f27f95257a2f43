"""Optical flow, by which a painted frame of a video is warped so that it lines up with the next frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import cv2
import numpy as np
import torch
from torch import Tensor

from dreamgram.image_optimization.image_samples import Array
from dreamgram.image_optimization.images import to_pillow
from dreamgram.style_transfer.losses import Previous

UNLIKE = 0.1
"""Minimum color difference, in [0, 1], at which two pixels count as showing different objects. The color difference is
the mean of the absolute differences in the three channels."""


SMALLEST_FRAME = 16
"""Minimum height and width, in pixels, of a frame for which optical flow can be computed."""


def follow(result: Tensor, before: Tensor, now: Tensor) -> Previous:
    """Warp ``result``, which was painted from frame ``before``, so that it lines up with frame ``now``.

    The flow is computed by the dense inverse search of Kroeger et al., arXiv:1603.03590. Its reliability is judged as
    in Ruder et al., "Artistic Style Transfer for Videos", arXiv:1604.08610, equations 4 to 6. The flow at a pixel of
    ``now`` is reliable if following the flow back to ``before`` and then forward to ``now`` ends near the pixel, and if
    the pixel is not at a motion boundary. In addition to these two conditions of the paper, the flow has to lead to a
    position inside ``before`` whose color is similar to the color of the pixel. This condition keeps two unrelated
    scenes from being matched.

    Args:
        result: the painted frame, (1, 3, H, W) in [0, 1].
        before: the frame from which ``result`` was painted, of the same shape and range.
        now: the next frame, of the same shape and range.

    Returns:
        The warped picture and a mask of the pixels where the flow is reliable.

    Raises:
        ValueError: a side of the frames is shorter than :data:`SMALLEST_FRAME` pixels.
    """
    height, width = now.shape[2:]
    if min(height, width) < SMALLEST_FRAME:  # OpenCV would crash
        raise ValueError(f"the frame has {width}x{height} pixels; optical flow needs {SMALLEST_FRAME} each way")
    back, forth = _flow(now, before), _flow(before, now)
    returned = back + _moved(forth, back)
    lengths = np.square(back).sum(2), np.square(_moved(forth, back)).sum(2)
    seen = np.square(returned).sum(2) <= 0.01 * sum(lengths) + 0.5
    bends = sum(np.square(cv2.Sobel(back, cv2.CV_32F, *axes, scale=1 / 8)).sum(2) for axes in ((1, 0), (0, 1)))
    reliable = seen & (bends <= 0.01 * lengths[0] + 0.002)
    changed = np.abs(_moved(_pixels(before), back) - _pixels(now)).mean(2)
    reliable &= changed < UNLIKE
    rows, columns = _places(back)
    reliable &= (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
    moved = _moved(_pixels(result), back)
    return Previous(
        torch.from_numpy(moved).permute(2, 0, 1)[None].clamp(0, 1), torch.from_numpy(reliable).float()[None, None]
    )


def flicker(pictures: Sequence[Tensor], frames: Sequence[Tensor]) -> float:
    """Measure the flicker of a painted video.

    Each picture is compared with the previous picture, after the previous picture has been warped to line up with it.
    The result is the mean absolute difference over the pixels where the flow is reliable (:func:`follow`). A result of
    0 means no flicker; 1 means that every pixel changes between black and white from each frame to the next.

    Args:
        pictures: at least two painted frames, (1, 3, H, W) in [0, 1].
        frames: the frames from which ``pictures`` were painted, of the same shape and range.
    """
    apart = []
    for (result, before), (later, now) in pairwise(zip(pictures, frames, strict=True)):
        moved = follow(result, before, now)
        differences = (moved.image - later).abs().mean(1, keepdim=True)
        apart.append((differences * moved.reliable).sum() / moved.reliable.sum().clamp(min=1))
    return sum(apart).item() / len(apart)  # type: ignore[union-attr]


def _pixels(image: Tensor) -> Array:
    """Convert an image (1, C, H, W) to an array (H, W, C)."""
    return cast("Array", image[0].permute(1, 2, 0).cpu().numpy())


def _flow(start: Tensor, end: Tensor) -> Array:
    """Return, for each pixel of ``start``, the displacement to the matching point in ``end``.

    The result is (H, W, 2): the displacement to the right and the displacement down, in this order, in pixels.
    """
    grays = [np.asarray(to_pillow(frame).convert("L")) for frame in (start, end)]
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found: Array = search.calc(*grays, None)  # type: ignore[call-overload]
    return found


def _places(flow: Array) -> tuple[Array, Array]:
    """Return the rows and the columns, (H, W) each, to which ``flow`` (H, W, 2) leads from each pixel."""
    rows, columns = np.indices(flow.shape[:2], dtype=np.float32)
    return rows + flow[:, :, 1], columns + flow[:, :, 0]


def _moved(picture: Array, flow: Array) -> Array:
    """Warp ``picture`` (H, W, C) by ``flow`` (H, W, 2).

    Each pixel of the result gets the value of ``picture`` at the position to which the flow vector of the pixel points.
    """
    rows, columns = _places(flow)
    return cast("Array", cv2.remap(picture, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))
