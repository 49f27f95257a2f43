"""Optical flow: a painted frame moved to where the next one has its things."""

# Torch is imported where it is needed, so that the command line can be read without it.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[np.float32]]


UNLIKE = 0.1
"""Mean difference of the colours of two pixels, in [0, 1], from which on they are not the same thing."""


SMALLEST = 16
"""Pixels of a frame's side that the search needs."""


@dataclass(frozen=True)
class Previous:
    """The painted frame before this one, moved to where its things are now."""

    image: Tensor
    """(1, 3, H, W) in [0, 1]."""
    reliable: Tensor
    """(1, 1, H, W), 1 where the flow can be trusted and 0 where something has come into sight or moves differently."""


def follow(result: Tensor, before: Tensor, now: Tensor) -> Previous:
    """``result``, painted from the frame ``before``, as it is to look ``now``.

    The flow is the dense inverse search of Kroeger et al., arXiv:1603.03590. It is trusted as in Ruder et al.,
    "Artistic Style Transfer for Videos", arXiv:1604.08610, equations 4 to 6: where there and back again ends near
    where it began, and away from the borders of what moves; and, which is not in the paper, where it leads to a like
    colour, lest two scenes that have nothing to do with each other be matched.

    Args:
        result: (1, 3, H, W) in [0, 1].
        before, now: the frames, likewise and of the same size.

    Raises:
        ValueError: a side has less than 16 pixels.
    """
    import cv2
    import numpy as np
    import torch

    height, width = now.shape[2:]
    if min(height, width) < SMALLEST:  # OpenCV would crash
        raise ValueError(f"the frame has {width}x{height} pixels; optical flow needs {SMALLEST} each way")
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
    """How much a film changes that ought not to: of ``pictures``, painted from ``frames``, all (1, 3, H, W) in [0, 1].

    The mean difference between each and the one before it, moved along, where the flow is reliable; 1 is from black to
    white.
    """
    apart = []
    for (result, before), (later, now) in pairwise(zip(pictures, frames, strict=True)):
        moved = follow(result, before, now)
        differences = (moved.image - later).abs().mean(1, keepdim=True)
        apart.append((differences * moved.reliable).sum() / moved.reliable.sum().clamp(min=1))
    return sum(apart).item() / len(apart)  # type: ignore[union-attr]


def _pixels(image: Tensor) -> Array:
    """(1, C, H, W) -> (H, W, C)"""
    return cast("Array", image[0].permute(1, 2, 0).cpu().numpy())


def _flow(start: Tensor, end: Tensor) -> Array:
    """For each pixel of ``start``, how far it is to its place in ``end``, (H, W, 2): across, down."""
    import cv2
    import numpy as np

    from image_optimization.images import to_pillow

    grays = [np.asarray(to_pillow(frame).convert("L")) for frame in (start, end)]
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found: Array = search.calc(*grays, None)  # type: ignore[call-overload]
    return found


def _places(flow: Array) -> tuple[Array, Array]:
    """Rows and columns, (H, W), to which a flow leads."""
    import numpy as np

    rows, columns = np.indices(flow.shape[:2], dtype=np.float32)
    return rows + flow[:, :, 1], columns + flow[:, :, 0]


def _moved(picture: Array, flow: Array) -> Array:
    """What is in ``picture`` (H, W, C) where the flow leads to."""
    import cv2

    rows, columns = _places(flow)
    return cast("Array", cv2.remap(picture, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))
