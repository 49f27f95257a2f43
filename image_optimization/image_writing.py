"""Write picture files. If writing fails, no incomplete file is left, and an existing file is not changed."""

from __future__ import annotations

import os
import platform
import re
import struct
import tempfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import Tensor

from dreamgram.image_optimization.errors import OutputExistsError
from dreamgram.image_optimization.image_arguments import ImageLike, as_image
from dreamgram.image_optimization.image_notes import PNG_KEY, SEGMENT, check_note, encode_jpeg_xmp, encode_xmp
from dreamgram.image_optimization.image_samples import Array
from dreamgram.image_optimization.image_tiff import GRAY, RGB, UNASSOCIATED_ALPHA, UNCOMPRESSED, Tag
from dreamgram.image_optimization.names import described

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
"""Formats of pictures that can be written, by file extension."""

DEEP_FORMATS = ("PNG", "TIFF")
"""Formats in which pictures can be saved with 16 bits per channel."""

SIDE_LIMITS = {"WEBP": 16_383, "JPEG": 65_500}
"""Largest width and height of a picture, in pixels, in the formats that limit them. The JPEG format allows
65,535, but the library that writes JPEG files allows only 65,500."""

SECTIONS = (Tag.ExifOffset, Tag.GPSInfo)
"""TIFF tags whose value is itself a set of tags: the EXIF data and the GPS data."""


def to_pillow(image: ImageLike) -> Image.Image:
    """Convert one image, (C, H, W) or (1, C, H, W) in [0, 1] with 1 or 3 channels, to an 8-bit Pillow image.

    ``image`` can also have any other form that :func:`dreamgram.image_optimization.images.as_images` accepts.

    Raises:
        TypeError, ValueError: ``image`` is invalid, as described in
            :func:`dreamgram.image_optimization.images.as_image`, or the number of its channels is not 1 or 3.
    """
    levels = (_as_picture(image)[0].cpu() * 255).round().byte()
    return Image.fromarray(levels[0].numpy() if len(levels) == 1 else levels.permute(1, 2, 0).numpy())


def _as_picture(image: ImageLike) -> Tensor:
    """Convert an image to a tensor (1, C, H, W) in [0, 1], and check that C is 1 or 3."""
    # A tensor with three axes is (C, H, W), even if its columns are so few that (H, W, C) is possible, too.
    given = image[None] if isinstance(image, Tensor) and image.ndim == 3 and len(image) in (1, 3) else image
    picture = as_image(given, "the image")
    if picture.shape[1] not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, not {picture.shape[1]}")
    return picture


def check_output(
    path: str | os.PathLike[str], overwrite: bool = False, formats: Collection[str] = tuple(FORMATS)
) -> Path:
    """Check that a file can be saved at ``path``, and return ``path`` as a :class:`~pathlib.Path`.

    The folder that contains the file is checked with :func:`check_folder`. Call this function before a long
    computation, so that an unusable path is reported before the computation and not after it.

    Raises:
        ValueError: the file extension is not one of ``formats``. By default, these are the extensions in
            :data:`FORMATS`.
        OutputExistsError: the file exists, and ``overwrite`` is False.
        OSError: ``path`` is a folder, or the folder that contains it cannot be created or written to.
    """
    path = Path(path)
    if path.suffix.lower() not in formats:
        raise ValueError(f"cannot write {(path.name or str(path))!r}: the file name must end in {', '.join(formats)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists; choose another output or overwrite it")
    check_folder(path.parent)
    return path


def check_folder(folder: Path) -> None:
    """Check that files can be created in ``folder``, and delete temporary files that killed runs left there.

    If the folder does not exist, this function checks that it can be created, but does not create it. The folder is
    created only when the first file is written, so that a command that fails earlier leaves no empty folder behind.

    Raises:
        OSError: the folder cannot be created or written to.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists() or each.is_symlink())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        if there == folder:
            _delete_leftovers(folder)
    except OSError as error:
        raise type(error)(f"cannot write into {folder}: {error.strerror or error}") from None


def choose_bits(path: Path, wanted: int | None, given: int) -> int:
    """Return the number of bits per channel, 8 or 16, with which to save a picture at ``path``.

    ``given`` is the number of bits per channel of the input picture, from which the picture to save is computed. If
    ``wanted`` is None, the result is ``given``, or 8 if the format of ``path`` cannot hold ``given`` bits per channel.
    If ``wanted`` is a number, the result is ``wanted``.

    Raises:
        ValueError: the format of ``path`` cannot hold ``wanted`` bits per channel.
    """
    able = (8, 16) if FORMATS.get(path.suffix.lower()) in DEEP_FORMATS else (8,)
    if wanted is None:
        return given if given in able else 8
    if wanted not in able:
        raise ValueError(f"{path.name} can have {' or '.join(map(str, able))} bits, not {wanted}")
    return wanted


def check_size(path: Path, size: tuple[int, int]) -> None:
    """Check that the format of the file ``path`` can hold a picture of ``size`` (H, W).

    Call this function before a long computation, so that an unsuitable format is reported before the computation and
    not after it.

    Raises:
        ValueError: a side is longer than the format allows.
    """
    most = SIDE_LIMITS.get(FORMATS[path.suffix.lower()])
    if most is not None and max(size) > most:
        raise ValueError(f"{path.name} can have {most} pixels a side, not {max(size)}; PNG and TIFF can have more")


def save(
    image: ImageLike,
    path: str | os.PathLike[str],
    note: str | None = None,
    overwrite: bool = False,
    *,
    alpha: Tensor | None = None,
    exif: bytes = b"",
    bits: int = 8,
    quality: int = 95,
    dpi: int | None = None,
) -> Path:
    """Write ``image`` to ``path``. If writing fails, an existing file is not changed.

    An sRGB profile is embedded in color images.

    Args:
        image: a tensor, (C, H, W) or (1, C, H, W) in [0, 1], in sRGB or gray; a Pillow image; or one image in any
            other form that :func:`dreamgram.image_optimization.images.as_images` accepts.
        path: file to write. Its extension determines the format (:data:`FORMATS`).
        note: text to store in the metadata of the file. :func:`read_note` reads it.
        overwrite: whether to replace an existing file.
        alpha: opacity (1, 1, H, W) in [0, 1] of ``image``; None to add no opacity. ``image`` must already be
            composited over white, as in the result of :func:`read`. The colors are stored as they were before
            compositing, unless ``image`` is a Pillow image, whose colors are stored unchanged. A JPEG cannot store the
            opacity, and holds the composited image.
        exif: encoded EXIF data to store, such as :attr:`Picture.exif`. In a JPEG, EXIF data of more than 64 kB is
            omitted.
        bits: bits per channel: 8 or 16. Only PNG and TIFF can have 16 bits per channel. A Pillow image cannot be saved
            with 16 bits.
        quality: compression quality of JPEG and WebP, up to 100. A higher quality gives a larger file.
        dpi: resolution in dots per inch to store in the file; None to store none.

    Returns:
        ``path`` as a :class:`~pathlib.Path`.

    Raises:
        OutputExistsError: the file exists, and ``overwrite`` is False.
        OSError: the file cannot be written.
        ValueError: the file extension is not in :data:`FORMATS`, the format cannot hold ``bits`` bits per channel or a
            picture of this size, ``bits`` is 16 but ``image`` is a Pillow image, or the note has characters that XML
            cannot hold.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be the path of a file, not {described(path)}")
    path = check_output(path, overwrite)
    image = image if isinstance(image, Image.Image) else _as_picture(image)
    kind = FORMATS[path.suffix.lower()]
    if note is not None:
        check_note(note)
    if alpha is not None and kind != "JPEG" and isinstance(image, Tensor):
        alpha = alpha.cpu()
        image = ((image.cpu() - (1 - alpha)) / alpha.clamp(min=1 / 255)).clamp(0, 1)  # remove the white
    if choose_bits(path, bits, 8) == 16:
        if not isinstance(image, Tensor):
            raise ValueError("a Pillow image cannot be saved with 16 bits; pass a tensor")
        data = _encode_deep(image, alpha, kind, note, exif, dpi)
        with replacing(path) as beside:
            beside.write_bytes(data)
        return path
    picture = to_pillow(image) if isinstance(image, Tensor) else image
    check_size(path, (picture.height, picture.width))
    if alpha is not None and kind != "JPEG":
        picture = picture.convert("RGB")
        picture.putalpha(to_pillow(alpha))
    pillow_options = _metadata(kind, picture.mode in ("RGB", "RGBA"), note, exif, dpi)
    if kind in ("JPEG", "WEBP"):
        pillow_options["quality"] = quality
    with replacing(path) as beside:
        picture.save(beside, kind, **pillow_options)
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file in the folder of ``path``. The caller writes this file within the context.

    The folder is created if it does not exist. At the end of the context, the temporary file replaces ``path``. If the
    context raises an error, the temporary file is deleted and ``path`` is unchanged.

    Raises:
        OSError: the file cannot be written; the message names ``path``.
    """
    # The name is cut, because file systems limit its length. _delete_leftovers reads the host and the process in it.
    beside = path.with_name(f".{path.name[:50]}.{_host()}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        beside.replace(path)
    except OSError as error:
        if isinstance(error, OutputExistsError) or error.filename not in (None, str(beside), str(path.parent)):
            raise  # the error is about another file
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _delete_leftovers(folder: Path) -> None:
    """Delete temporary files of :func:`replacing` that were created on this computer by processes that have ended."""
    for left in folder.glob(f".*.{_host()}.*.part"):
        number = left.name.split(".")[-2]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            left.unlink(missing_ok=True)


def _host() -> str:
    """Return the computer's name up to its first dot or other special character, but at most 20 characters."""
    return re.sub(r"[^\w-].*", "", platform.node())[:20]


def _metadata(kind: str, colored: bool, note: str | None, exif: bytes, dpi: int | None) -> dict[str, Any]:
    """Return the options of Pillow's ``save`` that store the note, the EXIF data, the resolution and an sRGB profile.

    The profile is omitted if ``colored`` is False. EXIF data that is too long for a JPEG is omitted.
    """
    pillow_options: dict[str, Any] = {"icc_profile": _srgb_profile()} if colored else {}
    if dpi is not None:
        if exif or kind in ("WEBP", "TIFF"):
            exif = _with_resolution(exif, dpi)
        if kind in ("PNG", "JPEG"):
            pillow_options["dpi"] = (dpi, dpi)
    if exif and kind == "TIFF":
        pillow_options["exif"] = Image.Exif()
        pillow_options["exif"].load(exif)
    elif exif and not (kind == "JPEG" and len(exif) > SEGMENT):
        pillow_options["exif"] = exif
    if note is None:
        return pillow_options
    if kind == "PNG":
        pillow_options["pnginfo"] = PngInfo()
        pillow_options["pnginfo"].add_itxt(PNG_KEY, note)
    elif kind == "TIFF":
        pillow_options.setdefault("exif", Image.Exif())[Tag.XMLPacket] = encode_xmp(note)
    elif kind == "JPEG":
        pillow_options["extra"] = encode_jpeg_xmp(note)  # Pillow's option "xmp" refuses a long packet
    else:
        pillow_options["xmp"] = encode_xmp(note)
    return pillow_options


def _with_resolution(exif: bytes, dpi: int) -> bytes:
    """Return the encoded EXIF data ``exif`` with a resolution of ``dpi`` dots per inch."""
    tags = Image.Exif()
    if exif:
        tags.load(exif)
    tags[ExifTags.Base.XResolution] = tags[ExifTags.Base.YResolution] = dpi
    tags[ExifTags.Base.ResolutionUnit] = 2  # inches
    return tags.tobytes()


def _srgb_profile() -> bytes:
    """Return an sRGB profile with its creation date erased, so that saving a picture twice gives identical files."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return made[:24] + bytes(12) + made[36:]


def _encode_deep(
    image: Tensor, alpha: Tensor | None, kind: str, note: str | None, exif: bytes, dpi: int | None
) -> bytes:
    """Return the bytes of a PNG or TIFF with 16-bit channels, which Pillow can write only in gray."""
    channels = [image.reshape(image.shape[-3:]), *([] if alpha is None else [alpha[0]])]
    numbers = (torch.cat([each.detach().cpu() for each in channels]).clamp(0, 1) * 65535).round()
    levels = numbers.permute(1, 2, 0).numpy().astype(np.uint16)
    encode = _encode_deep_tiff if kind == "TIFF" else _encode_deep_png
    return encode(levels, _metadata(kind, levels.shape[2] > 1, note, exif, dpi))


def _encode_deep_tiff(levels: Array, pillow_options: dict[str, Any]) -> bytes:
    """Return the bytes of a TIFF with 16-bit channels.

    Pillow encodes the TIFF tags. The uncompressed pixels follow them as a single strip.
    """
    if levels.shape[2] == 2:  # few programs can read gray with alpha
        levels = levels[:, :, [0, 0, 0, 1]]
    height, width, channels = levels.shape
    pixels = levels.astype("<u2").tobytes()
    tags = ImageFileDirectory_v2()
    exif = pillow_options.get("exif", Image.Exif())
    for tag in exif:
        tags[tag] = exif.get_ifd(tag) if tag in SECTIONS else exif[tag]
    tags[Tag.ImageWidth], tags[Tag.ImageLength] = width, height
    tags[Tag.SamplesPerPixel], tags[Tag.BitsPerSample] = channels, (16,) * channels
    tags[Tag.PhotometricInterpretation] = GRAY if channels == 1 else RGB
    if channels == 4:
        tags[Tag.ExtraSamples] = UNASSOCIATED_ALPHA
    if "icc_profile" in pillow_options:
        tags[Tag.InterColorProfile] = pillow_options["icc_profile"]
    tags[Tag.Compression] = UNCOMPRESSED
    tags[Tag.StripOffsets] = 0  # relative to the end of the tags
    tags[Tag.RowsPerStrip], tags[Tag.StripByteCounts] = height, len(pixels)
    file = BytesIO()
    tags.save(file)
    return file.getvalue() + pixels


def _encode_deep_png(levels: Array, pillow_options: dict[str, Any]) -> bytes:
    """Return the bytes of a PNG with 16-bit channels.

    OpenCV encodes the pixels. Afterwards, the metadata, which OpenCV cannot write, is inserted.
    """
    import cv2

    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[levels.shape[2]]  # OpenCV's order, such as BGR
    done, encoded = cv2.imencode(".png", levels[:, :, order])
    if not done:
        raise OSError("the picture could not be written as PNG")
    data = encoded.tobytes()
    extra: list[tuple[bytes, bytes]] = []
    if "icc_profile" in pillow_options:
        extra.append((b"iCCP", b"sRGB\0\0" + zlib.compress(pillow_options["icc_profile"])))
    if "pnginfo" in pillow_options:
        extra += [chunk[:2] for chunk in pillow_options["pnginfo"].chunks]
    if "dpi" in pillow_options:
        per_meter = round(pillow_options["dpi"][0] / 0.0254)
        extra.append((b"pHYs", struct.pack(">IIB", per_meter, per_meter, 1)))  # 1 stands for meters
    if "exif" in pillow_options:
        extra.append((b"eXIf", pillow_options["exif"].removeprefix(b"Exif\0\0")))
    chunks = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in extra
    ]
    header = 33  # bytes of the signature and of the first chunk, IHDR
    return b"".join([data[:header], *chunks, data[header:]])
