"""Default values that are shared by the Python functions and the command-line options."""

from __future__ import annotations

STEPS = 128
"""Number of optimization steps for a picture."""

PHOTO_STEPS = 256
"""Number of optimization steps for a picture made by ``dream invert`` or ``dream caricature``."""

OCTAVES, OCTAVE_STEPS = 4, 10
"""Number of octaves (image sizes) of a deep dream, and number of optimization steps at each octave."""

LOG_ODDS, PIXEL_SUM, BORDER, BLUR = 0.5, 0.01, 350.0, 1200.0
"""Weights of the terms of the objective with which ``dream digits`` makes digits that people can read.

``LOG_ODDS`` is the weight of the log-odds of the class; the weight of its logit is 1 minus this weight. ``PIXEL_SUM``
is the weight of the sum of all pixel values, ``BORDER`` the weight of the regularizer :func:`border`, and ``BLUR`` the
weight of the regularizer :func:`blur`. The script ``benchmarks/digit_judges.py`` measures how well these weights suit
the three digit networks.
"""

INK_SHARE, BLUR_SHARE = 0.5, 10.0
"""Weights of the two terms of :func:`sparing`, which are the mean of all pixel values and the regularizer :func:`blur`.

The weights are relative to the gradient of the objective's other terms (see :func:`share`), so that the same weights
suit every network.
"""

NEARNESS = 30.0
"""Weight of the term in :func:`accentuate` that keeps the image close to the photo."""

CLASS_STEPS, NATURAL_WEIGHT = 320, 0.5
"""Number of optimization steps for pictures of classes, and weight of the term that keeps their activations natural."""

CLASS_TRANSFORM = "robust(degrees=3, translate=0.14, scale=(0.9, 1.4), shear=0) + noise(0.25, fall=0.8)"
"""Transform for pictures of classes. Without the noise, the pictures are filled with fine patterns."""

CLASS_REGULARIZER = "none"
"""Regularizer for pictures of classes, as an expression."""

EXAMPLES = 9
"""Largest number of examples for each unit; examples are the real pictures that activate the unit most."""
