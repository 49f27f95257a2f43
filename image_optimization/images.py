"""Read, write and resize pictures.

This module re-exports the main public names of the modules ``image_arguments``, ``image_notes``, ``image_reading``,
``image_sizes`` and ``image_writing``, and the constants :data:`LUMA` and :data:`MOST_PIXELS`.
"""

from __future__ import annotations

from dreamgram.image_optimization.image_arguments import ImageLike, as_image, as_images
from dreamgram.image_optimization.image_notes import read_note
from dreamgram.image_optimization.image_reading import Picture, load, read
from dreamgram.image_optimization.image_samples import LUMA
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
from dreamgram.image_optimization.limits import MOST_PIXELS

__all__ = [
    "FORMATS",
    "LUMA",
    "MOST_PIXELS",
    "ImageLike",
    "Picture",
    "as_image",
    "as_images",
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
