"""What is looked at: networks, their trained weights, and how to load them."""

from models.loading import load

__all__ = ["load"]
