"""Presets: named sets of losses, with their layers and weights."""

# PyTorch is not imported here, because the command line reads the presets without PyTorch.
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamgram.style_transfer.losses import StyleLoss


@dataclass(frozen=True)
class Preset:
    """The losses of a style transfer, with their layers and weights.

    To add a preset, add an entry to :data:`PRESETS`. If the user sets an option that has the name of a field, such as
    ``style_weight``, the option's value replaces the field's value.
    """

    content_weight: float
    style_weight: float
    tv_weight: float
    temporal_weight: float
    style_loss: str
    """Name of the style loss, a key of :data:`STYLE_LOSSES`."""
    relative: bool = True
    """True if the content and style losses are divided by the magnitude of their targets, and the pixel losses (total
    variation and temporal loss) are divided by the number of values in the image. A weight then has the same meaning
    for every layer, network and image size. If False, none of these losses is divided in this way, and the pixel
    losses are sums over all pixels, with pixel values in [0, 255]."""
    content_layers: Mapping[str, float] | None = None
    """Factor that multiplies the content weight, for each content layer. The default is the attribute
    ``CONTENT_LAYERS`` of the style loss."""
    style_layers: Mapping[str, float] | None = None
    """Factor that multiplies the style weight, for each style layer. The default is the attribute ``LAYERS`` of the
    style loss."""
    focus: float | None = None
    """Emphasis of the content loss on salient parts of the photo, such as faces, in [0, 1]. With 0, all parts count
    equally. The default is the attribute ``FOCUS`` of the style loss."""
    style_margin: float = 0.05
    """Width of the strips along the edges of a painting that are left out, as a fraction of its shorter side. Scans of
    paintings often show a frame or the edge of the canvas there."""

    @property
    def content(self) -> dict[str, float]:
        """The weight of the content loss in each content layer, by layer name."""
        return {name: self.content_weight * weight for name, weight in self._content_layers().items()}

    @property
    def style(self) -> dict[str, float]:
        """The weight of the style loss in each style layer, by layer name."""
        return {name: self.style_weight * weight for name, weight in self._style_layers().items()}

    @property
    def emphasis(self) -> float:
        """The emphasis of the content loss on salient parts of the photo, in [0, 1]."""
        return self._kind().FOCUS if self.focus is None else self.focus

    def pixel_weights(self, numbers: int) -> tuple[float, float]:
        """Return the weight of the total variation and the weight of the temporal loss in the total loss.

        Both losses are sums over all pixels of the image, whose values are in [0, 1]. ``numbers`` is the number of
        values in the image, 3 H W.
        """
        units = (1 / numbers, 1 / numbers) if self.relative else (255, 255**2)
        return self.tv_weight * units[0], self.temporal_weight * units[1]

    @property
    def layers(self) -> list[str]:
        """The names of all layers whose activations the losses use, without duplicates."""
        return [*dict.fromkeys([*self.content, *self.style])]

    def as_options(self) -> dict[str, Any]:
        """Return this preset's fields, except ``relative``, as a dictionary of :class:`StyleOptions` fields."""
        chosen = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "relative"}
        layers = {"content_layers": self._content_layers(), "style_layers": self._style_layers()}
        return {**chosen, **layers, "focus": self.emphasis}

    def _content_layers(self) -> Mapping[str, float]:
        return self._kind().CONTENT_LAYERS if self.content_layers is None else self.content_layers

    def _style_layers(self) -> Mapping[str, float]:
        return self.style_layers or self._kind().LAYERS

    def _kind(self) -> type[StyleLoss]:
        return style_losses()[self.style_loss]


def style_losses() -> dict[str, type[StyleLoss]]:
    """Return :data:`STYLE_LOSSES`, the classes of the style losses by name."""
    from dreamgram.style_transfer.losses import STYLE_LOSSES

    return STYLE_LOSSES


PRESETS = {
    "default": Preset(1.0, 1.0, 0.5, 200.0, "wasserstein"),
    # neural-style's objective and weights (github.com/jcjohnson/neural-style), after Gatys et al., arXiv:1508.06576.
    "gatys": Preset(5.0, 100.0, 1e-3, 1e-3, "gram", relative=False, style_margin=0.0),
}


def choose_preset(name: str, overrides: object) -> Preset:
    """Return the preset called ``name``, with some fields replaced.

    An attribute of ``overrides`` that has the name of a field and is not None replaces that field.
    """
    given = {each.name: getattr(overrides, each.name, None) for each in fields(Preset)}
    return replace(PRESETS[name], **{field: value for field, value in given.items() if value is not None})
