"""Open picture files that might come from untrusted sources.

Only files in the formats listed in this module are opened. The format is recognized by the content of the file. A
picture that is too large is refused before it is decoded. Every error of a decoder becomes a ValueError, and the
warnings of the decoders are not printed.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

from PIL import Image, _imaging
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.PsdImagePlugin import PsdImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dreamgram.image_optimization.errors import TooLargeError
from dreamgram.image_optimization.files import check_regular
from dreamgram.image_optimization.limits import enough_pixels, most_bytes
from dreamgram.image_optimization.memory import is_out_of_memory

READ_FORMATS: tuple[type[ImageFile], ...] = (
    *(PngImageFile, JpegImageFile, WebPImageFile, TiffImageFile, GifImageFile, BmpImageFile, PpmImageFile),
    *(Jpeg2KImageFile, AvifImageFile, PsdImageFile),
)
"""Pillow's classes for the picture formats that can be read. If pillow-heif is installed, HEIC can be read, too.

Each format is recognized by the first bytes of the file. Decoding a file in one of these formats starts no other
program and opens no other file.
"""

READABLE = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".apng"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpx", ".jpf", ".avif", ".heic", ".heif", ".psd"),
)
"""File name extensions of pictures, in lower case. When a folder of pictures is read, files with other extensions are
ignored."""

LONGEST_REASON = 200
"""Largest number of characters that an error message quotes from the error message of another library."""

# Without a handler, the logging module would print the warnings of Pillow.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class RefusedError(ValueError):
    """The error raised if a file has a format that this package cannot read.

    The message is the rest of a sentence that begins with the path of the file, such as "is a big-endian BigTIFF".
    """


def check_file(path: Path) -> None:
    """Check that ``path`` is a regular file, which can be read to its end, and not a folder or a pipe.

    Raises:
        IsADirectoryError: ``path`` is a folder.
        FileNotFoundError: ``path`` does not exist.
        ValueError: ``path`` is a special file, such as a pipe or a device.
    """
    check_regular(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not an image file")
    if not path.exists():
        raise FileNotFoundError(f"no image file {path}")


@contextmanager
def open_file(path: Path, max_pixels: int) -> Iterator[IO[bytes]]:
    """Open a picture file for the duration of a ``with`` block, without reading it.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: ``path`` does not exist, is a folder, or is not readable.
        TooLargeError: the file is larger than 1 GB. If ``max_pixels`` is larger than
            :data:`~dreamgram.image_optimization.limits.MOST_PIXELS`, this limit grows in proportion.
        ValueError: the file is empty, or it is a special file, such as a pipe or a device.
    """
    check_file(path)
    most = most_bytes(max_pixels)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise ValueError(f"{path} is empty (0 bytes), not an image")
        if size > most:
            problem = f"{path} is a file of {size / 1e9:.3g} GB, and the limit is {most / 1e9:.3g} GB"
            raise TooLargeError(problem, enough_pixels(0, size))
        yield file


def open_image(file: IO[bytes]) -> ImageFile:
    """Open a picture with Pillow. The format is recognized by the content of the file, and no pixels are decoded yet.

    ``Image.open`` is not used, because it would apply Pillow's limit on the number of pixels.

    Raises:
        RefusedError: the format is neither one of :data:`READ_FORMATS` nor HEIC, or it is HEIC and the package
            pillow-heif is not installed.
        Exception: the file is damaged. Pillow raises exceptions of many types.
    """
    start = file.read(64)
    file.seek(0)
    if _is_heic(start):
        return _open_heic(file)
    for kind in READ_FORMATS:
        accept = Image.OPEN[kind.format or ""][1]
        if accept and accept(start[:16]) is True:
            return kind(file)
    raise RefusedError("is not an image that can be read")


def _is_heic(start: bytes) -> bool:
    """Return whether a file whose first bytes are ``start`` is an HEIF container that does not contain AVIF."""
    brands = start[8 : int.from_bytes(start[:4], "big")]
    known = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
    return start[4:8] == b"ftyp" and brands[:4] in known and b"avif" not in brands and b"avis" not in brands


def _open_heic(file: IO[bytes]) -> ImageFile:
    try:
        from pillow_heif import HeifImageFile  # an optional package
    except ImportError:
        raise RefusedError("is an HEIC image, which needs pillow-heif: pip install 'dreamgram[heif]'") from None
    opened: ImageFile = HeifImageFile(file)  # type: ignore[no-untyped-call]
    return opened


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Raise ValueError for every error in a ``with`` block that decodes the file ``path``, and hide warnings.

    If the image is not in a file, ``path`` is the name of the image in the error messages.

    Raises:
        TooLargeError: the picture is too large.
        ValueError: the file is not an image, has a format that cannot be read, is damaged, or needs too much memory.
    """
    try:
        with _SILENCE:
            yield
    except TooLargeError as error:
        raise TooLargeError(f"{path} {error.problem}", error.enough) from None
    except RefusedError as error:
        raise ValueError(f"{path} {error}") from None
    except Exception as error:  # decoders raise errors of almost any type for damaged files
        if is_out_of_memory(error):
            raise ValueError(f"{path} needs more memory than there is") from None
        reason = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
        raise ValueError(f"{path} is a damaged image: {reason}") from error


class _Silence:
    """A context manager that hides the messages of decoders while at least one thread is inside the context.

    Pillow issues warnings, and libtiff, which Pillow uses, prints messages to standard error. Both are turned off in
    the whole process when the first thread enters the context, and on again when the last thread leaves it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._filters = warnings.catch_warnings()
        self._handlers: list[tuple[Any, int | None]] = []
        """Pairs (function, handler): a function of libtiff that sets a message handler, and the handler that was set
        before the first thread entered the context."""

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.|pillow_heif|dreamgram\.image_optimization\.image_")
                self._handlers = [(function, function(None)) for function in _libtiff_setters()]
            self._threads += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                self._filters.__exit__(None, None, None)
                for function, handler in self._handlers:
                    function(handler)


@cache
def _libtiff_setters() -> list[Any]:
    """Return the two functions of libtiff that set its handlers for errors and for warnings.

    The functions are looked up in the copy of libtiff that Pillow uses. If they are not found, as on Windows, the list
    is empty.
    """
    names = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")
    try:
        library = ctypes.CDLL(_imaging.__file__)
        found = [getattr(library, name) for name in names]
    except (OSError, AttributeError, TypeError):
        return []
    for function in found:
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
    return found


_SILENCE = _Silence()
