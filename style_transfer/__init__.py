"""Style transfer: an image optimized against a photo's content and a painting's style."""

from style_transfer.transfer import PRESETS, Stylized, stylize

__all__ = ["PRESETS", "Stylized", "stylize"]
