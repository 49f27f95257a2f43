"""Find out what the axes of a layer's output mean: which one counts the images, and which one counts the units.

The axis of the images is found by trial: passes of two and of three images are compared. Which of the other axes counts
the units depends on the kind of the module, as :func:`unit_axis` describes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

UNITS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._LPPoolNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
)
"""Kinds of modules whose outputs have the units directly after the images, before all positions."""

UNITS_LAST = (
    nn.Linear,
    nn.Bilinear,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)
"""Kinds of modules whose outputs have the units on the last axis, after all positions."""

UNIT_COUNTS = (
    "out_channels",
    "out_features",
    "num_features",
    "num_channels",
    "embedding_dim",
    "embed_dim",
    "hidden_size",
)
"""Attributes in which a module may say how many units it has."""


@dataclass(frozen=True)
class Images:
    """The place of the images in a layer's output."""

    axis: int
    """Axis along which the images are."""
    fold: int = 1
    """Number of rows that each image has along :attr:`axis`. There are several if windows, proposals or other parts of
    an image are treated like images of their own. The rows of the first image then come first."""


def find_images(two: Sequence[int], three: Sequence[int]) -> Images | None:
    """Find the images in an output that has the shape ``two`` for two images, and the shape ``three`` for three.

    The images are on the only axis that differs. Its length must be 2 and 3, or the same multiple of 2 and 3. If there
    is no such axis, the result is None.
    """
    if len(two) == len(three):
        different = [axis for axis, (a, b) in enumerate(zip(two, three, strict=True)) if a != b]
        if len(different) == 1:
            [axis] = different
            if two[axis] % 2 == 0 and 3 * two[axis] == 2 * three[axis]:
                return Images(axis, two[axis] // 2)
    return None


@dataclass
class Units:
    """A finder of the units in the outputs of a network's layers, which must be given in the order in which they run.

    For modules of unknown kind, it takes the layers before them into account.
    """

    image: tuple[int, int]
    """Size (H, W) of the image."""
    count: int = 0
    """Number of units of the latest layer of a known kind."""
    axes: dict[int, int] = field(default_factory=dict)
    """For each number of axes, the axis of the units in the latest layer of a known kind."""

    def axis(self, module: nn.Module, shape: Sequence[int]) -> int:
        """Return the axis of the units in ``shape``, the shape of an output of ``module`` for one image.

        A module of a known kind (:data:`UNITS_FIRST`, :data:`UNITS_LAST`) has its units first or last, unless it says
        that it has another number of units and the axis at the other end has this number. For all other modules, such
        as activation functions and modules of your own, the first of these rules that applies decides:

        1. A single axis counts the units.
        2. It is the axis that is as long as the latest layer of a known kind has units. If several axes are, it is the
           one on which that layer has its units, or else the one that rule 4 would choose, or else the first.
        3. If there are two axes, it is the same axis as in the latest layer of a known kind with two axes.
        4. Of two axes, it is the last: the layer has tokens. Of three axes, it is the last if the first two have the
           proportions of the image and the last two have not. Otherwise, it is the first.
        """
        if len(shape) < 2:
            return 0
        last = len(shape) - 1
        first_known = isinstance(module, UNITS_FIRST) or (isinstance(module, nn.LayerNorm) and _is_2d(module))
        if not first_known and not isinstance(module, UNITS_LAST):
            return self._of_unknown_kind(shape)
        axis, other = (0, last) if first_known else (last, 0)
        counts = [getattr(module, name, None) for name in UNIT_COUNTS]
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            counts.append(module.normalized_shape[-1])
        if shape[axis] not in counts and shape[other] in counts:
            axis = other
        self.count, self.axes[len(shape)] = shape[axis], axis
        return axis

    def _of_unknown_kind(self, shape: Sequence[int]) -> int:
        latest, usual = self.axes.get(len(shape)), self._usual(shape)
        fitting = [axis for axis, length in enumerate(shape) if length == self.count]
        if fitting:
            return next((axis for axis in (latest, usual) if axis in fitting and axis is not None), fitting[0])
        return latest if latest is not None and len(shape) == 2 else usual

    def _usual(self, shape: Sequence[int]) -> int:
        if len(shape) == 2:
            return 1
        if len(shape) != 3:
            return 0
        wanted = math.log(self.image[0] / self.image[1])
        off_first, off_last = (abs(math.log(h / w) - wanted) for h, w in (shape[1:], shape[:2]))
        return 2 if off_last < 0.1 < off_first else 0


def _is_2d(module: nn.Module) -> bool:
    """Return whether ``module`` is one of the many versions of layer normalization for activations (N, C, H, W)."""
    return type(module).__name__.endswith("2d")


def describe_axes(shape: Sequence[int], unit_axis: int) -> str:
    """Describe an output for one image, such as "64 x 28 x 28", "197 tokens x 768 units" or "8 channels x 100".

    ``unit_axis`` is the axis of the units. Three or more axes without words are channels, and then positions.
    """
    words = [str(length) for length in shape] or ["1"]
    if len(shape) > 1 and not (unit_axis == 0 and len(shape) > 2):
        words[unit_axis] += " units" if unit_axis else " channels"
    if len(shape) == 2 and unit_axis == 1:
        words[0] += " tokens"
    return " x ".join(words)
