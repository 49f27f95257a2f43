"""A video, painted frame by frame: each begins as the one before it, moved by optical flow, and stays near to that.

Every painted frame is a PNG beside the video to be, until that is whole: a run that is killed goes on.
"""

# PyAV and torch are imported where they are needed, so that the command line can be read without them.
from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from image_optimization.video import FORMATS, add_pictures, load_av, to_frame

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
    original: av.VideoFrame


def later_steps(steps: int) -> int:
    """The steps of a frame that begins as the one before it, where the first one has so many ``steps``."""
    return max(round(LATER * steps), 1)


def count_frames(video: Path) -> int:
    """How many frames a video has, as far as its header tells.

    Raises:
        ValueError: it is not a video.
    """
    with _opened(video) as container:
        stream = container.streams.video[0]
        length = float(container.duration or 0) / 1e6 * float(stream.average_rate or 0)
        return stream.frames or round(length) or 1


def read_frames(video: Path) -> Iterator[Frame]:
    """The frames of a video, upright, one after the other.

    Raises:
        ValueError: it is not a video, or a damaged one.
    """
    with _opened(video) as container:
        for original in container.decode(container.streams.video[0]):
            yield Frame(_pixels(original), original)


def _opened(video: Path) -> Any:
    av = load_av()
    try:
        container = av.open(str(video))
    except av.FFmpegError as error:
        raise ValueError(f"{video} is not a video that can be read: {error.strerror}") from None
    if not container.streams.video:
        container.close()
        raise ValueError(f"{video} has no pictures in it")
    return container


def _pixels(frame: av.VideoFrame) -> Tensor:
    import numpy as np
    import torch

    unsaid = frame.colorspace in (0, 2)
    colors = {"src_colorspace": "ITU709" if frame.height >= HIGH else "ITU601"} if unsaid else {}
    levels = frame.reformat(format="rgb24", **colors).to_ndarray()  # type: ignore[arg-type]
    upright = np.rot90(levels, round(frame.rotation / 90))
    return torch.from_numpy(upright.transpose(2, 0, 1).astype(np.float32) / 255)[None]


def paint_video(
    video: Path,
    output: Path,
    paint: Callable[[Tensor, Previous | None, int, Path], None],
    settings: Mapping[str, Any],
    overwrite: bool,
) -> None:
    """Paint ``video`` into ``output``, which gets its sound, too.

    Args:
        video: to read.
        output: to write; while it is not there, its frames are in a folder beside it, of its name and ``.frames``.
        paint: called with a frame (1, 3, H, W), what the frame before became, its number and the PNG to write.
        settings: of what is painted: frames that are there with the same ones are not painted again.
        overwrite: replace ``output``, and frames that were painted otherwise.

    Raises:
        ValueError: it is not a video, or frames are there that were painted otherwise.
    """
    from image_optimization.images import fit, is_made, load
    from style_transfer.flow import follow
    from style_transfer.folder import NOT_COMPARED

    folder = output.with_name(f"{output.name}.frames")
    folder.mkdir(parents=True, exist_ok=True)
    before: tuple[Tensor, Tensor] | None = None
    for number, (image, _) in enumerate(read_frames(video)):
        path = _frame(folder, number)
        small: Tensor | None = None
        if not is_made(path, settings, NOT_COMPARED, overwrite):
            previous = None
            if before is not None:
                result, last = before
                small = fit(image, max(result.shape[2:]))
                previous = follow(result, last, small)
            paint(image, None if previous is None or previous.reliable.mean() < CUT else previous, number, path)
        result = load(path)  # as a run that goes on finds it
        before = result, fit(image, max(result.shape[2:])) if small is None else small
    if before is None:
        raise ValueError(f"{video} has no frames that can be read")
    _join(video, folder, output)
    shutil.rmtree(folder)


def _frame(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.png"


def _join(video: Path, folder: Path, output: Path) -> None:
    """The painted frames in ``folder`` as a video, at the times of those of ``video`` and with its sound."""
    from image_optimization.images import whole

    av = load_av()
    kind = FORMATS[output.suffix.lower()]
    with whole(output) as beside, _opened(video) as source, av.open(str(beside), "w", format=kind) as target:
        pictures = source.streams.video[0]
        size = _levels(_frame(folder, 0)).shape[:2]
        stream = add_pictures(target, size, pictures.average_rate or Fraction(25), pictures.time_base)
        sounds = {
            sound.index: target.add_stream_from_template(sound)
            for sound in source.streams.audio
            if _fits(sound, target, output)
        }
        number = 0
        for packet in source.demux(pictures, *(source.streams[index] for index in sounds)):
            if packet.stream.index in sounds:
                if packet.dts is not None:  # the last, empty one
                    packet.stream = sounds[packet.stream.index]
                    target.mux(packet)
                continue
            for original in packet.decode():
                painted = _levels(_frame(folder, number))
                target.mux(stream.encode(to_frame(painted, stream, original.pts, original.time_base)))
                number += 1
        target.mux(stream.encode())


def _fits(sound: Any, target: Any, output: Path) -> bool:
    """Whether this kind of video can hold the sound of another; if not, says so."""
    name = sound.codec_context.codec.canonical_name
    if name in target.supported_codecs:
        return True
    typer.echo(f"{output} cannot hold the video's sound, {name}: it is left out", err=True)
    return False


def _levels(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
