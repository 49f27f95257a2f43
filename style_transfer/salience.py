"""Salience of the parts of a photo: how much each part stands out to the network, such as a face or a hand.

With equal weights everywhere, the content loss treats a face like a cloud: either the face loses its eyes and mouth to
the painting's strokes, or the cloud stays a photo. The content loss of salient parts is therefore given more weight,
and that of plain parts less.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from dreamgram.image_optimization.capture import capture

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


def has_salience(model: nn.Module) -> bool:
    """Return whether ``model`` has the layer from which the salience is computed."""
    return any(name == SALIENCE_LAYER for name, _ in model.named_modules())


@torch.no_grad()
def salience(model: nn.Module, photo: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the salience of the parts of ``photo`` (1, 3, H, W) in [0, 1], as a map (1, 1, h, w) with a mean of 1.

    The salience is the squared distance of the activations in :data:`SALIENCE_LAYER` from their mean over all
    positions. If the activations are the same at all positions, the map is 1 everywhere. ``dtype`` is the precision of
    the network.
    """
    with capture(model, [SALIENCE_LAYER], dtype) as activations_of:
        activation = activations_of(photo)[SALIENCE_LAYER].float()
    apart = (activation - activation.mean((2, 3), keepdim=True)).square().sum(1, keepdim=True)
    apart = avg_pool2d(apart, SALIENCE_WINDOW, 1, SALIENCE_WINDOW // 2, count_include_pad=False)
    mean = apart.mean()
    return torch.where(mean > 0, apart / mean.clamp(min=torch.finfo(mean.dtype).tiny), torch.ones_like(apart))


def emphasized(salience: Tensor, focus: float) -> Tensor:
    """Return the weight of each part of the photo in the content loss, given its ``salience``; the mean weight is 1.

    With a ``focus`` of 0, all weights are equal. With 1, the weights follow the salience.
    """
    weights = PLAIN_WEIGHT + salience.clamp(max=MOST_SALIENCE)
    return torch.lerp(torch.ones_like(weights), weights / weights.mean(), focus)
