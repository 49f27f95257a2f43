"""Write pictures to video files with the optional package PyAV (``pip install 'dreamgram[video]'``)."""

# PyAV is imported inside the functions, so that the command-line programs can use the constants without PyAV and NumPy.
from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import av
    import numpy as np
    from av.container import OutputContainer
    from av.video.stream import VideoStream

    Levels = np.ndarray[Any, np.dtype[np.uint8]]

VIDEO_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Container formats of videos that can be written, by file extension."""

VIDEO_ENDINGS = (*VIDEO_FORMATS, ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp")
"""File extensions of videos that can be read."""

READ_CONTAINERS = ("mov", "matroska", "avi", "mpeg", "mpegts", "mpegvideo", "m4v", "asf", "flv")
"""FFmpeg's names of the container formats of videos that can be read. Reading these formats opens no other files."""

CODECS = {"webm": ("libvpx-vp9", {"crf": "24", "b": "0"})}
X264 = ("libx264", {"crf": "17"})
"""Names and options of the video codecs. ``CODECS`` maps a container format to the name and the options of its codec.
``X264`` holds the name and the options of the codec for all other formats."""


def load_av() -> Any:
    """Import PyAV, silence its log, and return the module.

    Raises:
        ImportError: PyAV is not installed; the message says how to install it.
    """
    try:
        import av
    except ImportError:
        raise ImportError("videos need PyAV: pip install 'dreamgram[video]'") from None
    av.logging.set_level(av.logging.PANIC)
    return av


def add_pictures(container: OutputContainer, size: tuple[int, int], rate: Fraction, time_base: Fraction) -> VideoStream:
    """Add a video stream to the file ``container`` for pictures of ``size`` (H, W), with ``rate`` pictures per second.

    ``time_base`` is the unit, in seconds, of the timestamps of the stream. If the height or width is odd, the last row
    or column of each picture is cropped, because the codecs store colors at half the resolution and need even sizes.
    """
    codec, options = CODECS.get(container.format.name, X264)
    stream = cast("VideoStream", container.add_stream(codec, rate=rate, options=options))
    stream.height, stream.width = size[0] // 2 * 2, size[1] // 2 * 2
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = time_base
    context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
    context.color_range = 1  # levels from 16 to 235
    return stream


def to_frame(levels: Levels, stream: VideoStream, pts: int | None, time_base: Fraction | None) -> av.VideoFrame:
    """Convert an 8-bit sRGB picture (H, W, 3) to a frame of ``stream`` that appears at ``pts * time_base`` seconds."""
    shown = levels[: stream.height, : stream.width]
    frame: av.VideoFrame = load_av().VideoFrame.from_ndarray(shown, format="rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
    frame.pts = pts
    if time_base is not None:
        frame.time_base = time_base
    return frame
