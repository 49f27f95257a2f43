"""Networks with trained weights, and the function :func:`load`, which loads a network by its name."""

from dreamgram.models.loading import load

__all__ = ["load"]
