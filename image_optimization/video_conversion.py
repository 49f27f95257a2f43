"""Convert a video or an animation frame by frame, keeping its timestamps and its sound.

PyAV is needed, except to convert an animated GIF or WebP into one of these formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dreamgram.image_optimization.animations import ANIMATION_FORMATS, Animation, AnimationWriter, Frame
from dreamgram.image_optimization.errors import TooLargeError
from dreamgram.image_optimization.files import check_regular
from dreamgram.image_optimization.images import replacing, to_pillow
from dreamgram.image_optimization.limits import MOST_PIXELS, check_limits
from dreamgram.image_optimization.video import READ_CONTAINERS, VIDEO_FORMATS, add_pictures, load_av, to_frame

if TYPE_CHECKING:
    import av

HIGH_DEFINITION = 720
"""Smallest height, in pixels, at which a video that does not state its color matrix is decoded as BT.709.

Such a video is decoded as BT.601 if its height is smaller. Video players use the same height to choose between BT.601
and BT.709.
"""

Video = Path | Animation
"""Type of a video to read: the path of a video file, or an animation."""

Tell = Callable[[str], None]
"""Type of a function that shows the user a message. Its argument is the message, which is one line of text."""


def count_frames(video: Video, *, max_pixels: int = MOST_PIXELS) -> int:
    """Return the number of frames of a video, as stated in its header or estimated from its duration and frame rate.

    Raises:
        ValueError: ``video`` cannot be opened as a video, or it has no video stream.
    """
    if isinstance(video, Animation):
        return video.count
    with _open(video, max_pixels) as container:
        stream = container.streams.best("video")
        length = float(container.duration or 0) / 1e6 * float(stream.average_rate or 0)
        return stream.frames or round(length) or 1


def read_frames(video: Video, *, max_pixels: int = MOST_PIXELS) -> Iterator[Frame]:
    """Yield the frames of a video in order, upright and resized to the size of the first frame.

    Damaged frames are skipped. ``max_pixels`` is the largest allowed number of pixels in a frame.

    Raises:
        TooLargeError: the frames have more than ``max_pixels`` pixels.
        ValueError: ``video`` cannot be opened as a video, or it has no video stream.
    """
    if isinstance(video, Animation):
        yield from video.frames()
        return
    with _open(video, max_pixels) as container:
        yield from (each for each in _read(container, [], lambda line: None) if isinstance(each, Frame))


def first_frame(video: Video, *, max_pixels: int = MOST_PIXELS) -> Tensor:
    """Return the first readable frame of a video, as an upright image (1, 3, H, W) in [0, 1].

    Raises:
        ValueError: ``video`` cannot be opened as a video, or none of its frames can be read.
    """
    for frame in read_frames(video, max_pixels=max_pixels):
        return frame.image
    raise ValueError(f"{video} has no frames that can be read")


def convert_video(
    video: Video,
    output: Path,
    convert: Callable[[int, Tensor], Tensor],
    tell: Tell,
    *,
    max_pixels: int = MOST_PIXELS,
) -> None:
    """Convert the frames of ``video`` and write them to ``output``, with the timestamps and the sound of ``video``.

    Damaged frames of a video file are skipped. An animation that is made from a video file is repeated without end.

    Args:
        video: video or animation to read.
        output: file to write, whose extension is in :data:`VIDEO_FORMATS` or :data:`ANIMATION_FORMATS`. If the
            conversion fails, an existing file is not changed.
        convert: function that receives the zero-based index of a frame and its image (1, 3, H, W) in [0, 1], and
            returns the converted image, (1, 3, H, W) in [0, 1].
        tell: function that shows the user a message. It is called if parts of ``video`` are damaged, or if the format
            of ``output`` cannot hold the sound of ``video``.
        max_pixels: largest allowed number of pixels in a frame.

    Raises:
        TooLargeError: the frames have more than ``max_pixels`` pixels.
        ValueError: ``video`` cannot be opened as a video, or none of its frames can be read.
    """
    with replacing(output) as beside, ExitStack() as stack:
        source: Any = video if isinstance(video, Animation) else stack.enter_context(_open(video, max_pixels))
        sounds = [] if isinstance(video, Animation) else _fitting(source.streams.audio, output, tell)
        parts = video.frames() if isinstance(video, Animation) else _read(source, sounds, tell)
        heard: list[av.Packet[Any]] = []  # audio packets that come before the first image
        writer: _Writer | AnimationWriter | None = None
        number = 0
        for each in parts:
            if isinstance(each, Frame):
                frame = each._replace(image=convert(number, each.image))
                if writer is None:
                    writer = _open_writer(beside, output, source, sounds, frame.image)
                    stack.enter_context(writer)
                    for packet in heard:
                        writer.hear(packet)
                writer.show(frame)
                number += 1
            elif writer is None:
                heard.append(each)
            else:
                writer.hear(each)
        if not number:
            raise ValueError(f"{video} has no frames that can be read")


def _open(video: Path, max_pixels: int) -> Any:
    check_regular(video)
    av = load_av()
    # A file of another format, such as a playlist, might name further files, which FFmpeg would open.
    allowed = {"protocol_whitelist": "file", "format_whitelist": ",".join(READ_CONTAINERS)}
    try:
        container = av.open(str(video), options=allowed)
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", error)
        raise ValueError(f"{video} is not a video that can be read: {reason}") from None
    try:
        pictures = container.streams.best("video")
        if pictures is None:
            raise ValueError(f"{video} has no pictures in it")
        codec = pictures.codec_context
        if codec is None:
            raise ValueError(f"{video} has pictures of a kind that cannot be read")
        check_limits((codec.width, codec.height), 3, max_pixels)
        codec.options = {"max_pixels": str(max_pixels)}  # a later frame may be larger
    except TooLargeError as error:
        container.close()
        raise TooLargeError(f"{video} {error.problem}", error.enough) from None
    except ValueError:
        container.close()
        raise
    return container


def _read(container: Any, sounds: list[Any], tell: Tell) -> Iterator[Frame | av.Packet[Any]]:
    """Yield the frames of the open video ``container`` and the packets of its audio streams ``sounds``, in file order.

    Damaged video packets are skipped. At the end, their number is reported with ``tell``.
    """
    av = load_av()
    pictures = container.streams.best("video")
    gap = 1 / (pictures.average_rate or Fraction(25))
    # AVI stores the times of packets and not of frames. The packets are in a different order from the frames.
    timed = container.format.name != "avi"
    size: tuple[int, int] | None = None
    last = -gap
    damaged = 0
    packets = container.demux(pictures, *sounds)
    while True:
        try:
            packet = next(packets, None)
            frames = [] if packet is None or packet.stream.index != pictures.index else packet.decode()
        except av.FFmpegError:
            damaged += 1
            continue
        if packet is None:
            break
        if packet.stream.index != pictures.index:
            yield packet
        for frame in frames:
            size = size or (frame.width, frame.height)
            time = Fraction(frame.pts * frame.time_base) if timed and frame.pts is not None else last + gap
            last = time if time > last else last + gap
            yield Frame(_to_image(frame, size), last, Fraction(frame.duration * frame.time_base) or gap)
    if damaged:
        tell(f"{container.name}: {damaged} packets are damaged and were skipped")


def _to_image(frame: av.VideoFrame, size: tuple[int, int]) -> Tensor:
    """Return a frame as an image (1, 3, H, W) in [0, 1], resized to ``size`` (W, H) and then rotated upright."""
    unnamed = frame.colorspace in (0, 2)
    standard = "ITU709" if frame.height >= HIGH_DEFINITION else "ITU601"
    levels = frame.reformat(*size, "rgb24", **({"src_colorspace": standard} if unnamed else {})).to_ndarray()  # type: ignore[arg-type]
    upright = np.rot90(levels, round(frame.rotation / 90))
    return torch.from_numpy(upright.transpose(2, 0, 1).astype(np.float32) / 255)[None]


def _open_writer(path: Path, output: Path, source: Any, sounds: list[Any], first: Tensor) -> _Writer | AnimationWriter:
    """Return a writer of ``path`` in the format of ``output``; see :class:`_Writer` for the other arguments."""
    ending = output.suffix.lower()
    if ending in VIDEO_FORMATS:
        return _Writer(path, VIDEO_FORMATS[ending], source, sounds, first)
    if isinstance(source, Animation):
        return AnimationWriter(path, ANIMATION_FORMATS[ending], source.plays)
    wide = source.streams.best("video").sample_aspect_ratio or Fraction(1)
    return AnimationWriter(path, ANIMATION_FORMATS[ending], wide=wide)


class _Writer:
    """A writer of a video file that contains new images and the sound of another video, ``source``."""

    def __init__(self, path: Path, form: str, source: Any, sounds: list[Any], first: Tensor) -> None:
        self.container = load_av().open(str(path), "w", format=form)
        size = (first.shape[2], first.shape[3])
        if isinstance(source, Animation):
            rate = (source.count / source.length).limit_denominator(1000)
            self.stream = add_pictures(self.container, size, rate or Fraction(1, 1000), Fraction(1, 1000))
            # If frames were stored in a different order, an MP4 would lose the duration of the last frame.
            self.stream.codec_context.max_b_frames = 0
        else:
            pictures = source.streams.best("video")
            self.container.metadata.update(source.metadata)
            self.stream = add_pictures(self.container, size, pictures.average_rate or Fraction(25), pictures.time_base)
            if pictures.sample_aspect_ratio:
                self.stream.codec_context.sample_aspect_ratio = pictures.sample_aspect_ratio
        self.durations: dict[int, int | None] = {}
        self.sounds = {}
        for sound in sounds:
            self.sounds[sound.index] = self.container.add_stream_from_template(sound)
            self.sounds[sound.index].metadata.update(sound.metadata)  # such as the language

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._mux(self.stream.encode())
        self.container.close()

    def show(self, frame: Frame) -> None:
        """Write ``frame``."""
        base = self.stream.codec_context.time_base
        pts = round(frame.time / base)
        self.durations[pts] = round(frame.duration / base)
        self._mux(self.stream.encode(to_frame(np.asarray(to_pillow(frame.image)), self.stream, pts, base)))

    def _mux(self, packets: Iterable[av.Packet[Any]]) -> None:
        """Write encoded frames with their durations, which the encoder does not keep."""
        for packet in packets:
            packet.duration = self.durations.pop(packet.pts or 0, packet.duration)
            self.container.mux(packet)

    def hear(self, packet: av.Packet[Any]) -> None:
        """Write an audio packet without re-encoding it."""
        if packet.dts is not None:  # the packets at the end of a stream are empty
            packet.stream = self.sounds[packet.stream.index]
            self.container.mux(packet)


def _fitting(sounds: Sequence[Any], output: Path, tell: Tell) -> list[Any]:
    """Return those audio streams of ``sounds`` that the format of ``output`` can hold.

    If the format cannot hold all of ``sounds``, ``tell`` is called with a message for the user.
    """
    names = [sound.codec_context.codec.canonical_name for sound in sounds]
    held: set[str] = set()
    if form := VIDEO_FORMATS.get(output.suffix.lower()):
        with load_av().open(BytesIO(), "w", format=form) as nothing:
            held = nothing.supported_codecs
    if left := sorted(set(names) - held):
        tell(f"{output} cannot hold the video's sound, {', '.join(left)}: it is left out")
    return [sound for sound, name in zip(sounds, names, strict=True) if name in held]
