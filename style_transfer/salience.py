"""Salience of the parts of a photo: how much each part stands out to the network, such as a face or a hand.

With equal weights everywhere, the content loss treats a face like a cloud: either the face loses its eyes and mouth to
the painting's strokes, or the cloud stays a photo. The content loss of salient parts is therefore given more weight,
and that of plain parts less.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from dreamgram.image_optimization.capture import capture
from dreamgram.image_optimization.images import resize
from dreamgram.image_optimization.state import unwrapped

_logger = logging.getLogger(__name__)

SALIENCE_LAYER = "relu5_1"
"""Layer whose activations show what stands out. A position of this layer sees a large part of a face."""

SALIENCE_SIDE = 384
"""Longer side, in pixels, of the photo whose salience is measured. It is the same for all large pictures, so that they
look the same at every size."""

SALIENCE_SHORTEST = 16
"""Shortest side, in pixels, of a photo that still has a position in the layer."""

PLAIN_WEIGHT = 0.3
"""Weight, before normalization, of a part of the photo that does not stand out at all. The mean salience is 1."""

MOST_SALIENCE = 1.3
"""Largest salience. Larger values are replaced by this one, so that even a face is still painted."""

SALIENCE_WINDOW = 3
"""Side, in positions of the layer, of the square over which the salience is averaged."""


@torch.no_grad()
def salience(model: nn.Module, photo: Tensor, dtype: torch.dtype, painted: Tensor | None = None) -> Tensor | None:
    """Return the salience of the parts of ``photo`` (1, 3, H, W) in [0, 1], as a map (1, 1, h, w) with a mean of 1.

    The salience is the squared distance of the activations in :data:`SALIENCE_LAYER` from their mean over all
    positions. If the activations are the same at all positions, the map is 1 everywhere. If the network does not have
    this layer, does not reach it, or is called for a photo that is too small for it, the result is None. ``dtype`` is
    the precision of the network. ``painted`` (1, 1, H, W) in [0, 1] marks the parts over which both means are taken,
    by default the whole photo.
    """
    if all(name != SALIENCE_LAYER for name, _ in unwrapped(model).named_modules()):
        return None
    try:
        with capture(model, [SALIENCE_LAYER], dtype) as activations_of:
            activation = activations_of(photo)[SALIENCE_LAYER].float()
    except ValueError as error:
        _logger.debug("all parts of the photo count equally: %s", error)
        return None
    if activation.ndim != 4:
        return None
    shares = shares_of(painted, activation)
    mean = (activation * shares).sum((2, 3), keepdim=True)
    apart = (activation - mean).square().sum(1, keepdim=True)
    apart = avg_pool2d(apart, SALIENCE_WINDOW, 1, SALIENCE_WINDOW // 2, count_include_pad=False)
    usual = (apart * shares).sum()
    return torch.where(usual > 0, apart / usual.clamp(min=torch.finfo(usual.dtype).tiny), torch.ones_like(apart))


def emphasized(salience: Tensor, focus: float, painted: Tensor | None = None) -> Tensor:
    """Return the weight of each part of the photo in the content loss, given its ``salience`` (1, 1, h, w).

    With a ``focus`` of 0, all weights are 1. With 1, the weights follow the salience. Their mean over the parts that
    ``painted`` marks, by default all parts, is 1. The other parts have the weight 1, so that they have no influence.
    """
    weights = PLAIN_WEIGHT + salience.clamp(max=MOST_SALIENCE)
    weights = weights / (weights * shares_of(painted, salience)).sum()
    even = torch.ones_like(weights)
    followed = weights if painted is None else torch.lerp(even, weights, resize(painted, _size(salience)))
    return torch.lerp(even, followed, focus)


def shares_of(painted: Tensor | None, positions: Tensor) -> Tensor:
    """Return the share of each position of a layer, (1, 1, h, w), in the parts that ``painted`` marks.

    The shares add up to 1. ``positions`` is a tensor of the layer's height and width. If no part is marked, all
    positions have the same share.
    """
    shares = torch.ones_like(positions[:1, :1])
    if painted is not None and (marked := resize(painted, _size(positions))).sum() > 0:
        shares = marked
    return shares / shares.sum()


def _size(positions: Tensor) -> tuple[int, int]:
    return positions.shape[2], positions.shape[3]
