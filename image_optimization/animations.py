"""Read and write animated GIF and WebP files with Pillow, frame by frame."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from torch import Tensor

from dreamgram.image_optimization.image_opening import open_file, open_image, reading
from dreamgram.image_optimization.image_reading import WEBP_BYTES, read_pillow
from dreamgram.image_optimization.image_samples import Samples
from dreamgram.image_optimization.image_sizes import resize
from dreamgram.image_optimization.image_writing import to_pillow
from dreamgram.image_optimization.limits import MOST_PIXELS, check_limits

ANIMATION_FORMATS = {".gif": "GIF", ".webp": "WEBP"}
"""Pillow's names of the formats of animations, by file extension."""

TICKS = {"GIF": 100, "WEBP": 1000}
"""Number of units per second in which each format stores durations."""

TOO_SHORT, INSTEAD = Fraction(10, 1000), Fraction(100, 1000)
"""Longest duration, in seconds, that browsers take for a mistake, and the duration that they use instead."""

MOST_16_BITS = 2**16 - 1
"""Largest duration in a GIF, in units of the format, and largest number of plays."""

SAMPLE_PIXELS = 2**20
"""Approximate number of pixels from which the palette of a GIF is computed."""

GIF_COLORS = 255
"""Number of colors in a GIF. One more is left for pixels that are as in the previous frame."""


class Frame(NamedTuple):
    """A frame of a video or of an animation."""

    image: Tensor
    """Upright image of the frame, (1, 3, H, W) in [0, 1]."""
    time: Fraction
    """Time, in seconds, at which the frame appears."""
    duration: Fraction
    """Duration of the frame, in seconds."""


@dataclass(frozen=True)
class Animation:
    """An animated GIF or WebP file."""

    path: Path
    form: str
    """Format of the file, one of the values of :data:`ANIMATION_FORMATS`."""
    count: int
    """Number of frames, at least 2."""
    length: Fraction
    """Duration in seconds."""
    plays: int
    """Number of times that the animation is to be played; 0 if it is repeated without end."""
    transparent: bool
    """True if a frame has transparent parts."""
    max_pixels: int

    def frames(self) -> Iterator[Frame]:
        """Yield the frames in order, composited over the earlier frames and over white.

        All frames have the size of the first frame. Durations up to :data:`TOO_SHORT` are replaced by :data:`INSTEAD`.
        """
        time = Fraction(0)
        with open_file(self.path, self.max_pixels) as file:
            with reading(self.path):
                picture = open_image(file)
            for samples, duration in _decode(picture, self.path, self.max_pixels):
                yield Frame(samples.to_tensors(3)[0], time, duration)
                time += duration


def find_animation(path: Path, *, max_pixels: int = MOST_PIXELS) -> Animation | None:
    """Return the animation in a GIF or WebP file, or None if the file has only one frame or another format.

    All frames are decoded once, to find damage. ``max_pixels`` is the largest allowed number of pixels in a frame.

    Raises:
        OSError: ``path`` does not exist, is a folder, or is not readable.
        TooLargeError: a frame is too large.
        ValueError: the file is a damaged GIF or WebP.
    """
    with open_file(path, max_pixels) as file:
        start = file.read(12)
        file.seek(0)
        if not (start.startswith(b"GIF8") or (start[:4], start[8:]) == (b"RIFF", b"WEBP")):
            return None
        with reading(path):
            picture = open_image(file)
            count = getattr(picture, "n_frames", 1)
        if count == 1:
            return None
        length, transparent = Fraction(0), False
        for samples, duration in _decode(picture, path, max_pixels):
            length += duration
            transparent |= bool((samples.values[..., samples.colors :] < samples.high).any())
        # A WebP states the number of plays. A GIF states the number of repetitions, or nothing if there are none.
        form, loop = picture.format or "", int(picture.info.get("loop", -1))
        plays = loop if form == "WEBP" or loop == 0 else max(loop, 0) + 1
        return Animation(path, form, count, length, plays, transparent, max_pixels)


def _decode(picture: ImageFile, path: Path, max_pixels: int) -> Iterator[tuple[Samples, Fraction]]:
    """Yield the samples and the duration, in seconds, of each frame of ``picture``."""
    size = picture.size
    for number in range(getattr(picture, "n_frames", 1)):
        with reading(path):
            picture.seek(number)
            check_limits(picture.size, WEBP_BYTES, max_pixels)  # a later frame of a GIF may be larger
            picture.load()  # only then is the duration of a frame of a WebP known
            duration = Fraction(picture.info.get("duration", 0), 1000)
            shown = picture if picture.size == size else picture.crop((0, 0, *size))
            samples = read_pillow(shown)
        yield samples, duration if duration > TOO_SHORT else INSTEAD


class AnimationWriter:
    """A writer of an animated GIF or WebP. It keeps the frames in memory until its context ends without an error."""

    def __init__(self, path: Path, form: str, plays: int = 0, wide: Fraction = Fraction(1)) -> None:
        """Prepare to write ``path``; see :class:`Animation` for ``form`` and ``plays``.

        ``wide`` is the width of a pixel of the frames, divided by its height. The pixels of the file are square.
        """
        self.path, self.form, self.plays, self.wide = path, form, min(plays, MOST_16_BITS), wide
        self.shortest = math.floor(TOO_SHORT * TICKS[form]) + 1
        """Shortest duration, in units of the format, that browsers do not take for a mistake."""
        self.pictures: list[Image.Image] = []
        self.starts: list[int] = []
        self.end = 0

    def __enter__(self) -> AnimationWriter:
        return self

    def show(self, frame: Frame) -> None:
        """Add ``frame``, unless it follows so soon that browsers would show the previous frame for too long."""
        unit = TICKS[self.form]
        start, self.end = round(frame.time * unit), round((frame.time + frame.duration) * unit)
        if not self.starts or start >= self.starts[-1] + self.shortest:
            height, width = frame.image.shape[2:]
            self.starts.append(start)
            self.pictures.append(to_pillow(resize(frame.image, (height, max(round(width * self.wide), 1)))))

    def hear(self, packet: object) -> None:
        """Ignore an audio packet."""

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            return
        times = [*self.starts, max(self.end, self.starts[-1] + self.shortest)]
        lengths = [after - before for before, after in itertools.pairwise(times)]
        how: dict[str, Any] = {"duration": lengths, "loop": self.plays, "quality": 90, "method": 4}
        pictures = self.pictures
        if self.form == "GIF":
            palette = _find_palette(pictures)
            pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
            how = {"duration": [10 * min(length, MOST_16_BITS) for length in lengths]}
            how |= {} if self.plays == 1 else {"loop": max(self.plays - 1, 0)}  # the number of repetitions
        pictures[0].save(self.path, self.form, save_all=True, append_images=pictures[1:], **how)


def _find_palette(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return a picture whose palette suits all ``pictures``.

    With a palette of its own for each frame, or with dithering, still parts of the pictures would flicker.
    """
    pixels = sum(picture.width * picture.height for picture in pictures)
    step = math.isqrt(pixels // SAMPLE_PIXELS) + 1
    samples = [np.asarray(picture)[::step, ::step].reshape(1, -1, 3) for picture in pictures]
    return Image.fromarray(np.concatenate(samples, axis=1)).quantize(GIF_COLORS, kmeans=1)
