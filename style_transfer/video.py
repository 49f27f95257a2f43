"""A video, painted frame by frame: each begins as the one before it, moved by optical flow, and stays near to that.

Every painted frame is a PNG beside the video to be, until that is whole: a run that is killed goes on.
"""

# PyAV and torch are imported where they are needed, so that the command line can be read without them.
from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from image_optimization.video import FORMATS, add_pictures, load_av, to_frame
from style_transfer.folder import NOT_COMPARED

if TYPE_CHECKING:
    import av
    from torch import Tensor

    from style_transfer.flow import Previous

READABLE = (*FORMATS, ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp")

CUT = 0.25
"""Share of a frame that must be known from the one before; where less is, another scene begins, and so anew."""

LATER = 0.3
"""Share of the steps that a frame takes which begins as the one before it."""

HIGH = 720
"""Rows from which on a video that does not say so has the colours of BT.709, below it of BT.601: as players do."""


class Frame(NamedTuple):
    image: Tensor
    """(1, 3, H, W) in [0, 1]."""
    time: Fraction
    """In seconds, from which on it is shown."""


def later_steps(steps: int) -> int:
    """The steps of a frame that begins as the one before it, where the first one has so many ``steps``."""
    return max(round(LATER * steps), 1)


def count_frames(video: Path) -> int:
    """How many frames a video has, as far as its header tells.

    Raises:
        ValueError: it is not a video.
    """
    with _opened(video) as container:
        stream = container.streams.best("video")
        length = float(container.duration or 0) / 1e6 * float(stream.average_rate or 0)
        return stream.frames or round(length) or 1


def read_frames(video: Path) -> Iterator[Frame]:
    """The frames of a video, upright and of one size, one after the other; what is damaged is left out.

    Raises:
        ValueError: it is not a video.
    """
    with _opened(video) as container:
        yield from (each for each in _read(container, []) if isinstance(each, Frame))


def first_frame(video: Path) -> Tensor:
    """The first image (1, 3, H, W) of a video.

    Raises:
        ValueError: it is not a video, or none of it can be read.
    """
    for frame in read_frames(video):
        return frame.image
    raise ValueError(f"{video} has no frames that can be read")


def _opened(video: Path) -> Any:
    av = load_av()
    try:
        container = av.open(str(video))
    except av.FFmpegError as error:
        raise ValueError(f"{video} is not a video that can be read: {error.strerror}") from None
    if container.streams.best("video") is None:
        container.close()
        raise ValueError(f"{video} has no pictures in it")
    return container


def _read(container: Any, sounds: list[Any]) -> Iterator[Frame | av.Packet[Any]]:
    """The frames of a video, and the packets of its ``sounds``, in their order. Says how much was damaged."""
    av = load_av()
    pictures = container.streams.best("video")
    gap = 1 / (pictures.average_rate or Fraction(25))
    # AVI has no times of frames, but of packets, which come in another order.
    timed = container.format.name != "avi"
    size: tuple[int, int] | None = None
    last = -gap
    damaged = 0
    for packet in container.demux(pictures, *sounds):
        if packet.stream.index != pictures.index:
            yield packet
            continue
        try:
            frames = packet.decode()
        except av.FFmpegError:
            damaged += 1
            continue
        for frame in frames:
            size = size or (frame.width, frame.height)
            time = Fraction(frame.pts * frame.time_base) if timed and frame.pts is not None else last + gap
            last = time if time > last else last + gap
            yield Frame(_pixels(frame, size), last)
    if damaged:
        typer.echo(f"{container.name}: {damaged} pieces are damaged and left out", err=True)


def _pixels(frame: av.VideoFrame, size: tuple[int, int]) -> Tensor:
    """Of ``size`` (W, H) before it is turned."""
    import numpy as np
    import torch

    unsaid = frame.colorspace in (0, 2)
    colors = {"src_colorspace": "ITU709" if frame.height >= HIGH else "ITU601"} if unsaid else {}
    levels = frame.reformat(*size, "rgb24", **colors).to_ndarray()  # type: ignore[arg-type]
    upright = np.rot90(levels, round(frame.rotation / 90))
    return torch.from_numpy(upright.transpose(2, 0, 1).astype(np.float32) / 255)[None]


def paint_video(
    video: Path,
    output: Path,
    paint: Callable[[Tensor, Previous | None, int, Path], None],
    settings: Mapping[str, Any],
    overwrite: bool,
    finish: Callable[[Tensor, Tensor], Tensor] = lambda result, frame: result,
) -> None:
    """Paint ``video`` into ``output``, which gets its times and its sound, too.

    Args:
        video: to read.
        output: to write; while it is not there, its frames are in a folder beside it, of its name and ``.frames``.
        paint: called with a frame (1, 3, H, W), what the frame before became, its number and the PNG to write.
        settings: of what is painted: frames that are there with the same ones are not painted again.
        overwrite: replace ``output``, and frames that were painted otherwise.
        finish: from what was painted, which is what the next frame begins with, and the frame to what is shown.

    Raises:
        ValueError: it is not a video, or frames are there that were painted otherwise.
    """
    from image_optimization.images import fit, is_made, load
    from style_transfer.flow import follow

    folder = output.with_name(f"{output.name}.frames")
    before: tuple[Tensor, Tensor] | None = None
    number = 0
    with ExitStack() as stack:
        source = stack.enter_context(_opened(video))
        sounds = _fitting(source.streams.audio, output)
        heard: list[av.Packet[Any]] = []  # before there is anything to be seen
        joined: _Joined | None = None
        for each in _read(source, sounds):
            if not isinstance(each, Frame):
                joined.hear(each) if joined else heard.append(each)
                continue
            path = folder / f"{number:06}.png"
            if not is_made(path, settings, NOT_COMPARED_OF_FRAMES, overwrite):
                previous = None
                if before is not None:
                    previous = follow(*before, fit(each.image, max(before[0].shape[2:])))
                paint(
                    each.image, None if previous is None or previous.reliable.mean() < CUT else previous, number, path
                )
            result = load(path)  # as a run that goes on finds it
            before = result, fit(each.image, max(result.shape[2:]))
            if joined is None:
                joined = stack.enter_context(_Joined(folder / output.name, source, sounds, result))
                for packet in heard:
                    joined.hear(packet)
            joined.show(finish(*before), each.time)
            number += 1
    if not number:
        raise ValueError(f"{video} has no frames that can be read")
    (folder / output.name).replace(output)
    shutil.rmtree(folder)


NOT_COMPARED_OF_FRAMES = tuple(name for name in NOT_COMPARED if name != "photo")
"""A folder's photos have names of their own, frames have not."""


class _Joined:
    """Painted frames and the sound of another video, as a video."""

    def __init__(self, path: Path, source: Any, sounds: list[Any], first: Tensor) -> None:
        pictures = source.streams.best("video")
        self.container = load_av().open(str(path), "w", format=FORMATS[path.suffix.lower()])
        self.container.metadata.update(source.metadata)
        size = (first.shape[2], first.shape[3])
        rate = pictures.average_rate or Fraction(25)
        self.stream = add_pictures(self.container, size, rate, pictures.time_base)
        if pictures.sample_aspect_ratio:
            self.stream.codec_context.sample_aspect_ratio = pictures.sample_aspect_ratio
        self.sounds = {}
        for sound in sounds:
            self.sounds[sound.index] = self.container.add_stream_from_template(sound)
            self.sounds[sound.index].metadata.update(sound.metadata)  # its language

    def __enter__(self) -> _Joined:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.container.mux(self.stream.encode())
        self.container.close()

    def show(self, image: Tensor, time: Fraction) -> None:
        import numpy as np

        from image_optimization.images import to_pillow

        base = self.stream.codec_context.time_base
        pts = round(time / base)
        self.container.mux(self.stream.encode(to_frame(np.asarray(to_pillow(image)), self.stream, pts, base)))

    def hear(self, packet: av.Packet[Any]) -> None:
        if packet.dts is not None:  # of the last, empty ones
            packet.stream = self.sounds[packet.stream.index]
            self.container.mux(packet)


def _fitting(sounds: Sequence[Any], output: Path) -> list[Any]:
    """Those that the kind of video that ``output`` is can hold; says which it cannot."""
    names = [sound.codec_context.codec.canonical_name for sound in sounds]
    with load_av().open(BytesIO(), "w", format=FORMATS[output.suffix.lower()]) as nothing:
        held = nothing.supported_codecs
    if left := sorted(set(names) - held):
        typer.echo(f"{output} cannot hold the video's sound, {', '.join(left)}: it is left out", err=True)
    return [sound for sound, name in zip(sounds, names, strict=True) if name in held]
