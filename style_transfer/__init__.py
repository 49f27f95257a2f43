"""Style transfer: an image optimized against a photo's content and a painting's style."""

from style_transfer.presets import PRESETS, Preset
from style_transfer.transfer import Cache, Stylized, stylize

__all__ = ["PRESETS", "Cache", "Preset", "Stylized", "stylize"]
