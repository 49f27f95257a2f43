"""Small videos for tests, with and without sound, and functions that read or damage their packets."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from torch import Tensor

from dreamgram.image_optimization import images


def film(path: Path, frames: Sequence[Tensor], sound: bool = True, wide: Fraction = Fraction(1)) -> Path:
    """Write a video of ``frames`` (1, 3, H, W) at 25 frames per second, with a tone if ``sound``.

    ``wide`` is the aspect ratio of a pixel.
    """
    with av.open(str(path), "w") as target:
        pictures = target.add_stream("libx264", rate=25, options={"crf": "10"})
        pictures.height, pictures.width, pictures.pix_fmt = *frames[0].shape[2:], "yuv420p"
        pictures.codec_context.sample_aspect_ratio = wide
        tone = target.add_stream("aac", rate=44100, layout="mono") if sound else None
        for frame in frames:
            target.mux(pictures.encode(av.VideoFrame.from_ndarray(np.asarray(images.to_pillow(frame)), "rgb24")))
        target.mux(pictures.encode())
        if tone:
            for start in range(0, 44100 * len(frames) // 25, 1024):
                wave = np.sin((start + np.arange(1024)) / 20).astype(np.float32)
                heard = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
                heard.sample_rate, heard.pts, heard.time_base = 44100, start, Fraction(1, 44100)
                target.mux(tone.encode(heard))
            target.mux(tone.encode())
    return path


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """Return the time and the content of each packet of the only stream of a ``kind``, "video" or "audio"."""
    with av.open(str(path)) as container:
        [stream] = [stream for stream in container.streams if stream.type == kind]
        return [
            (packet.pts * packet.time_base, bytes(packet))
            for packet in container.demux(stream)
            if packet.pts is not None and packet.time_base is not None
        ]


def damage(path: Path, pieces: slice) -> None:
    """Overwrite the middle of the video packets with the indices ``pieces``."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos]
    for place in places[pieces]:
        data[place + 20 : place + 60] = bytes([255]) * 40
    path.write_bytes(data)


def destroy(path: Path) -> None:
    """Overwrite the media data of an MP4 file and leave the rest unchanged."""
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big")
    data[start : start + size - 8] = bytes([255]) * (size - 8)
    path.write_bytes(data)
