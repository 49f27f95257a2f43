"""Networks, their trained weights, and how to load them."""

from dreamgram.models.loading import load

__all__ = ["load"]
