"""Pictures into a video file, with PyAV (the extra ``video``)."""

# PyAV and numpy are imported where they are needed: the command lines read the formats without them.
from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import av
    import numpy as np
    from av.container import OutputContainer
    from av.video.stream import VideoStream

    Levels = np.ndarray[Any, np.dtype[np.uint8]]

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""What can be written, by file ending."""

CODECS = {"webm": ("libvpx-vp9", {"crf": "24", "b": "0"})}
X264 = ("libx264", {"crf": "17"})


def load_av() -> Any:
    """PyAV, silent.

    Raises:
        ImportError: it is not installed; the message says how to.
    """
    try:
        import av
    except ImportError:
        raise ImportError("videos need PyAV: pip install 'dreamgram[video]'") from None
    av.logging.set_level(av.logging.PANIC)
    return av


def add_pictures(target: OutputContainer, size: tuple[int, int], rate: Fraction, time_base: Fraction) -> VideoStream:
    """A stream for pictures of ``size`` (H, W), ``rate`` a second, of which an odd row or column is left out."""
    codec, options = CODECS.get(target.format.name, X264)
    stream = cast("VideoStream", target.add_stream(codec, rate=rate, options=options))
    stream.height, stream.width = size[0] // 2 * 2, size[1] // 2 * 2  # the codecs halve the resolution of colours
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = time_base
    context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
    context.color_range = 1  # 16 to 235
    return stream


def to_frame(levels: Levels, stream: VideoStream, pts: int | None, time_base: Fraction | None) -> av.VideoFrame:
    """A picture (H, W, 3), sRGB, as a frame of the ``stream``, shown from ``pts`` times ``time_base`` seconds on."""
    shown = levels[: stream.height, : stream.width]
    frame: av.VideoFrame = load_av().VideoFrame.from_ndarray(shown, format="rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
    frame.pts = pts
    if time_base is not None:
        frame.time_base = time_base
    return frame
