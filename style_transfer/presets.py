"""How an image is judged: which losses of which layers, and how they are weighed."""

# Torch is not imported: the command line reads the presets without it.
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from style_transfer.losses import STYLE_LOSSES, GramLoss, StyleLoss, WassersteinLoss


@dataclass(frozen=True)
class Preset:
    """To add one, name it in :data:`PRESETS`."""

    content_weight: float
    style_weight: float
    tv_weight: float
    temporal_weight: float
    relative: bool = True
    """Content and style errors as a share of what they compare with, and the losses of pixels as means, so that a
    weight means the same for every layer, network and picture of any size; else in the network's own units, which are
    0-255, and those of pixels as sums."""
    style_loss: type[StyleLoss] = GramLoss
    content_layers: Mapping[str, float] | None = None
    style_layers: Mapping[str, float] | None = None
    """Weights, by which that of the content or the style is multiplied for each layer; by default relu4_2, and those
    of the style loss."""

    @property
    def content(self) -> dict[str, float]:
        """The weight of each layer's content loss."""
        return {
            name: self.content_weight * weight for name, weight in (self.content_layers or {"relu4_2": 1.0}).items()
        }

    @property
    def style(self) -> dict[str, float]:
        """The weight of each layer's style loss."""
        layers = self.style_layers or self.style_loss.LAYERS
        return {name: self.style_weight * weight for name, weight in layers.items()}

    def of_pixels(self, numbers: int) -> tuple[float, float]:
        """The weights of the total variation and the temporal loss of an image of so many numbers in [0, 1]."""
        units = (1 / numbers, 1 / numbers) if self.relative else (255, 255**2)
        return self.tv_weight * units[0], self.temporal_weight * units[1]

    @property
    def style_loss_name(self) -> str:
        return next(name for name, kind in STYLE_LOSSES.items() if kind is self.style_loss)

    @property
    def layers(self) -> list[str]:
        return [*dict.fromkeys([*self.content, *self.style])]


PRESETS = {
    "default": Preset(1.0, 1.0, 0.5, 200.0, style_loss=WassersteinLoss),
    # neural-style's objective and weights (github.com/jcjohnson/neural-style), after Gatys et al., arXiv:1508.06576.
    "gatys": Preset(5.0, 100.0, 1e-3, 1e-3, relative=False),
}


def choose_preset(
    name: str,
    style_loss: str | None = None,
    content_layers: Mapping[str, float] | None = None,
    style_layers: Mapping[str, float] | None = None,
    **weights: float | None,
) -> Preset:
    """The preset called ``name``, with whatever else is given in place of its own.

    Raises:
        ValueError: there is no such preset or loss, or a weight is negative.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    if style_loss is not None and style_loss not in STYLE_LOSSES:
        raise ValueError(f"no style loss {style_loss!r}; there are {', '.join(STYLE_LOSSES)}")
    layers = {"content_layers": content_layers, "style_layers": style_layers}
    of_layers = {f"{key} {name}": value for key, given in layers.items() for name, value in (given or {}).items()}
    for key, value in {**weights, **of_layers}.items():
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{key} must be 0 or more, not {value}")
    overrides: dict[str, Any] = {**weights, **layers, "style_loss": STYLE_LOSSES.get(style_loss or "")}
    return replace(PRESETS[name], **{key: value for key, value in overrides.items() if value is not None})
