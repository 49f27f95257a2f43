"""Find the batch axis and the axis of the units (channels or features) in the output of a layer.

The batch axis is found by comparing the shapes of the outputs for two and for three images. Which of the other axes is
the axis of the units depends on the class of the module; :meth:`Units.axis` lists the rules.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
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
"""Classes of modules whose outputs have the axis of the units directly after the batch axis, as in (N, C, H, W)."""

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
"""Classes of modules whose outputs have the units on the last axis, as in (N, tokens, features)."""

UNIT_COUNTS = (
    "out_channels",
    "out_features",
    "num_features",
    "num_channels",
    "embedding_dim",
    "embed_dim",
    "hidden_size",
)
"""Names of the attributes in which modules store the number of their units."""


@dataclass(frozen=True)
class Images:
    """The batch axis of a layer's output, and the number of rows along this axis that belong to each image."""

    axis: int
    """Zero-based index of the batch axis."""
    fold: int = 1
    """Number of rows (indices) along :attr:`axis` that belong to each image. It is above 1 if the network treats
    windows, proposals or other parts of an image as separate images. All rows of the first image then come before all
    rows of the second image, and so on."""


def find_images(two: Sequence[int], three: Sequence[int]) -> Images | None:
    """Find the batch axis of an output whose shape is ``two`` for two images and ``three`` for three images.

    The batch axis is the only axis whose length differs between these shapes. Its two lengths must be 2 and 3, or the
    same multiple of 2 and of 3. If there is no such axis, the result is None.
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
    """A finder of the axis of the units (channels or features) in the outputs of a network's layers.

    Call :meth:`axis` for the layers in the order in which they run, because the result for some classes of modules
    depends on the layers before them. A layer is of a known kind if its class is in :data:`UNITS_FIRST` or
    :data:`UNITS_LAST`, unless it normalizes over several axes together.
    """

    image: tuple[int, int]
    """Size (H, W) of the image."""
    count: int = 0
    """Number of units of the latest layer of a known kind; 0 before the first such layer."""
    axes: dict[int, int] = field(default_factory=dict)
    """For each number of axes, not counting the batch axis: the index of the unit axis in the latest layer of a known
    kind whose output has this number of axes."""

    uncertain: bool = False
    """Whether rule 2 of :meth:`axis` has had a choice between several axes."""

    def axis(self, module: nn.Module, shape: Sequence[int], positions: Collection[int] = ()) -> int:
        """Return the index of the unit axis in ``shape``, the shape of an output of ``module`` without the batch axis.

        ``positions`` are the indices of the axes along which the output has positions in the image, if they are known.

        For a class in :data:`UNITS_FIRST`, and for a layer normalization such as ``LayerNorm2d``, the unit axis is
        normally the first axis. For any other class in :data:`UNITS_LAST`, it is normally the last axis. There is one
        exception: if the module's attributes :data:`UNIT_COUNTS` contain the length of the axis at the opposite end,
        but not the length of the normal axis, the unit axis is the axis at the opposite end. For all other modules,
        such as activation functions and modules that you define, the first applicable rule in this list decides:

        1. If there is only one axis, it is the unit axis.
        2. The unit axis is the axis whose length equals the number of units of the latest layer of a known kind. If
           several axes have this length, axes in ``positions`` are left out. If there are still several, the unit axis
           is the one that was the unit axis in the latest layer of a known kind with the same number of axes. If there
           is no such axis, it is the axis of this length that rule 4 would choose, or else the first axis of this
           length.
        3. If there are two axes, and an earlier layer of a known kind has two axes, the unit axis is the same as in the
           latest such layer.
        4. If there are two axes, the unit axis is the last one, because the first one probably holds tokens. If there
           are three axes, and the first two have the aspect ratio of the image but the last two do not, the unit axis
           is the last one. In all other cases, the unit axis is the first one.
        """
        if len(shape) < 2:
            return 0
        last = len(shape) - 1
        first_known = isinstance(module, UNITS_FIRST) or (isinstance(module, nn.LayerNorm) and _is_2d(module))
        normalized = module.normalized_shape if isinstance(module, nn.LayerNorm | nn.RMSNorm) else ()
        if len(normalized) > 1 or not (first_known or isinstance(module, UNITS_LAST)):
            return self._of_unknown_kind(shape, positions)
        axis, other = (0, last) if first_known else (last, 0)
        counts = [*(getattr(module, name, None) for name in UNIT_COUNTS), *normalized]
        if shape[axis] not in counts and shape[other] in counts:
            axis = other
        self.count, self.axes[len(shape)] = shape[axis], axis
        return axis

    def _of_unknown_kind(self, shape: Sequence[int], positions: Collection[int]) -> int:
        latest, usual = self.axes.get(len(shape)), self._usual(shape)
        fitting = [axis for axis, length in enumerate(shape) if length == self.count]
        self.uncertain |= len(fitting) > 1
        fitting = [axis for axis in fitting if axis not in positions] or fitting
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
    """Return whether the layer normalization ``module`` is for activations (N, C, H, W), such as ``LayerNorm2d``."""
    return type(module).__name__.endswith("2d")


def describe_axes(shape: Sequence[int], unit_axis: int) -> str:
    """Describe the shape of an output for one image, as in "64 x 28 x 28" or "197 tokens x 768 units".

    ``unit_axis`` is the index of the axis of the units. If the unit axis is the first of three or more axes, the
    description contains no words: it gives the number of channels, followed by the number of positions along each of
    the other axes.
    """
    words = [str(length) for length in shape] or ["1"]
    if len(shape) > 1 and not (unit_axis == 0 and len(shape) > 2):
        words[unit_axis] += " units" if unit_axis else " channels"
    if len(shape) == 2 and unit_axis == 1:
        words[0] += " tokens"
    return " x ".join(words)
