"""Read, write and resize pictures.

This module re-exports the main public names of the modules ``image_notes``, ``image_reading``, ``image_sizes`` and
``image_writing``.
"""

from __future__ import annotations

from dreamgram.image_optimization.image_notes import read_note
from dreamgram.image_optimization.image_reading import LUMA, Picture, load, read
from dreamgram.image_optimization.image_sizes import fit, fitted_size, refine, resize
from dreamgram.image_optimization.image_writing import (
    FORMATS,
    check_folder,
    check_output,
    check_size,
    choose_bits,
    replacing,
    save,
    to_pillow,
)

__all__ = [
    "FORMATS",
    "LUMA",
    "Picture",
    "check_folder",
    "check_output",
    "check_size",
    "choose_bits",
    "fit",
    "fitted_size",
    "load",
    "read",
    "read_note",
    "refine",
    "replacing",
    "resize",
    "save",
    "to_pillow",
]
