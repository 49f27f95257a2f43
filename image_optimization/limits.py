"""Limits on the size of pictures and videos to decode. Importing this module does not import PyTorch."""

from __future__ import annotations

from dreamgram.image_optimization.errors import TooLargeError

MOST_PIXELS = 180_000_000
"""Largest allowed number of pixels in an input picture, unless the caller chooses a different limit."""

MOST_BYTES = 1_000_000_000
"""Largest allowed size, in bytes, of a decoded picture, and also of an input file.

If the caller allows more pixels than :data:`MOST_PIXELS`, this limit grows in proportion.
"""

MOST_MEMORY = 1_250_000_000
"""Largest allowed memory, in bytes, of a decoded picture together with the floating-point image that is made from it.

docs/files.md lists the sizes of pictures that pass. If the caller allows more pixels than :data:`MOST_PIXELS`, the
limit grows in proportion.
"""


def most_bytes(max_pixels: int) -> int:
    """Return the largest allowed size, in bytes, of a decoded picture if ``max_pixels`` pixels are allowed."""
    return max(max_pixels, MOST_PIXELS) * MOST_BYTES // MOST_PIXELS


def enough_pixels(pixels: int, size: int, memory: int = 0) -> int:
    """Return a number of pixels that must be allowed to decode a picture with ``pixels`` pixels and ``size`` bytes.

    ``memory`` is the number of bytes that the picture and the image made from it need together. Numbers above a million
    are rounded up to whole millions.
    """
    least = max(-(-size * MOST_PIXELS // MOST_BYTES), -(-memory * MOST_PIXELS // MOST_MEMORY))
    least = max(pixels, least if least > MOST_PIXELS else 0)  # smaller limits on the bytes are never in force
    return least if least <= 10**6 else -(-least // 10**6) * 10**6


def check_limits(size: tuple[int, int], pixel: int, max_pixels: int, needed: int = 0) -> None:
    """Check that a picture of ``size``, (H, W) or (W, H), with ``pixel`` bytes per pixel is small enough to be decoded.

    ``needed`` is the number of bytes per pixel that the picture and the image made from it need together.

    Raises:
        TooLargeError: the picture has more than ``max_pixels`` pixels, or more bytes than :func:`most_bytes` allows, or
            needs more memory than :data:`MOST_MEMORY`. The message does not name the file.
    """
    pixels = size[0] * size[1]
    enough = enough_pixels(pixels, pixels * pixel, pixels * needed)
    if pixels > max_pixels:
        raise TooLargeError(f"has {pixels / 1e6:.4g} megapixels, and the limit is {max_pixels / 1e6:.4g}", enough)
    if pixels * pixel > most_bytes(max_pixels):
        limit = most_bytes(max_pixels) / 1e9
        raise TooLargeError(f"unpacks to {pixels * pixel / 1e9:.3g} GB, and the limit is {limit:.3g} GB", enough)
    most = max(max_pixels, MOST_PIXELS) * MOST_MEMORY // MOST_PIXELS
    if pixels * needed > most:
        problem = f"needs {pixels * needed / 1e9:.3g} GB of memory, and the limit is {most / 1e9:.3g} GB"
        raise TooLargeError(problem, enough)
