"""The types of keyword arguments, for type checkers and editors. ``make docs`` writes this file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from torch import nn

from dreamgram.image_optimization.images import ImageLike
from dreamgram.image_optimization.optimize import OptimizerFactory
from dreamgram.image_optimization.precision import Precision
from dreamgram.style_transfer.budget import Budget
from dreamgram.style_transfer.losses import Previous
from dreamgram.style_transfer.options import Colors, LayerWeights


class StyleKeywords(TypedDict, total=False):
    """The fields of :class:`StyleOptions` that are keyword arguments of :class:`Stylizer`."""

    precision: Precision
    compile: bool
    seed: int
    size: int
    draft: bool
    blend: list[float] | None
    style_scale: float
    colors: Colors
    strength: float
    seamless: bool
    preset: str
    style_loss: str | None
    content_weight: float | None
    style_weight: float | None
    tv_weight: float | None
    temporal_weight: float | None
    content_layers: LayerWeights | None
    style_layers: LayerWeights | None
    focus: float | None
    style_margin: float | None
    steps: int
    max_memory: int | None


class StylizerKeywords(StyleKeywords, total=False):
    """The keyword arguments of :class:`Stylizer`."""

    model: nn.Module | None
    content_mask: ImageLike | None
    style_masks: Sequence[ImageLike] | ImageLike | None
    keep: ImageLike | None
    init: Literal["content", "noise"] | ImageLike
    previous: Previous | None
    scales: Sequence[int] | None
    plan: Sequence[Budget] | None
    optimizer: str | OptimizerFactory | None
