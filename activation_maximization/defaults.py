"""Default values that are shared by the Python functions and the command-line options."""

from __future__ import annotations

STEPS = 128
"""Number of optimization steps for a picture."""

PHOTO_STEPS = 256
"""Number of optimization steps for a picture made by ``dream invert`` or ``dream caricature``."""

OCTAVES, OCTAVE_STEPS = 4, 10
"""Number of octaves (image sizes) of a deep dream, and number of optimization steps at each octave."""

PIXEL_SUM, BLUR = 0.09, 1300.0
"""Weights of two regularizers that make the digits in images optimized for the network ``digits`` readable.

``PIXEL_SUM`` is the weight of the sum of all pixel values. ``BLUR`` is the weight of the mean squared difference
between the image and its blurred copy.
"""

INK_SHARE, BLUR_SHARE = 0.5, 10.0
"""Weights of the two terms of :func:`sparing`, which are the mean of all pixel values and the regularizer :func:`blur`.

The weights are relative to the gradient of the objective's other terms (see :func:`share`), so that the same weights
suit every network.
"""

NEARNESS = 30.0
"""Weight of the term in :func:`accentuate` that keeps the image close to the photo."""

CLASS_REGULARIZER = "none"
"""Regularizer for pictures of classes, as an expression."""

EXAMPLES = 9
"""Largest number of examples for each unit; examples are the real pictures that activate the unit most."""
