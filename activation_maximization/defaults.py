"""Default values that are shared by the Python functions and the command-line options."""

from __future__ import annotations

STEPS = 128
"""Number of optimization steps for a picture."""

PHOTO_STEPS = 256
"""Number of optimization steps for a picture made by ``dream invert`` or ``dream caricature``."""

OCTAVES, OCTAVE_STEPS = 4, 10
"""Number of octaves (sizes) of a deep dream, and number of optimization steps at each octave."""

PIXEL_SUM, BLUR = 0.09, 1300.0
"""Weights of two regularizers that make images of digits readable that are optimized for the network ``digits``.

The regularizers are the sum of the pixels and the difference between the image and its blurred copy.
"""

INK_SHARE, BLUR_SHARE = 0.5, 10.0
"""Weights of the same two regularizers as shares of the gradient, for every network."""

NEARNESS = 30.0
"""Weight of the term in :func:`accentuate` that keeps the image close to the photo."""

EXAMPLES = 9
"""Largest number of example pictures for each unit."""
