"""Default values shared by functions and by the options of commands."""

from __future__ import annotations

STEPS = 128
"""Number of optimization steps for a picture."""

PHOTO_STEPS = 256
"""Number of optimization steps from noise towards a photo."""

OCTAVES, OCTAVE_STEPS = 4, 10
"""Number of octaves (sizes) of a deep dream, and number of optimization steps at each octave."""

INK, SMOOTHNESS = 0.09, 1300.0
"""Weights of the pixel sum and of the blur that make dreamed digits readable."""

NEARNESS = 30.0
"""Weight of staying close to the photo when accentuating it."""

EXAMPLES = 9
"""Largest number of examples for each unit."""
