"""Default values that are shared by the Python functions and the command-line options."""

from __future__ import annotations

STEPS = 128
"""Number of optimization steps for a picture."""

PHOTO_STEPS = 256
"""Number of optimization steps for a picture made by ``dream invert`` or ``dream caricature``."""

OCTAVES, OCTAVE_STEPS = 4, 10
"""Number of octaves (sizes) of a deep dream, and number of optimization steps at each octave."""

PIXEL_SUM, BLUR = 0.09, 1300.0
"""Weights of two regularizers that make digits readable in images that are optimized for the network ``digits``.

``PIXEL_SUM`` is the weight of the sum of all pixel values. ``BLUR`` is the weight of the mean squared difference
between the image and its blurred copy.
"""

INK_SHARE, BLUR_SHARE = 0.5, 10.0
"""Weights, in :func:`sparing`, of the mean of all pixel values and of the regularizer :func:`blur`.

They are relative to the gradient of the other terms of the objective (:func:`share`), so that they suit every network.
"""

NEARNESS = 30.0
"""Weight of the term in :func:`accentuate` that keeps the image close to the photo."""

EXAMPLES = 9
"""Largest number of examples, the real pictures that activate a unit most, for each unit."""
