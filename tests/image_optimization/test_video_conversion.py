from __future__ import annotations

import os
import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.hostile import mutate
from dreamgram.image_optimization import images
from dreamgram.image_optimization.errors import TooLargeError
from dreamgram.image_optimization.video_conversion import convert_video, count_frames, first_frame, read_frames
from tests.videos import damage, destroy, film, packets

COUNT = 5


def negative(number: int, image: Tensor) -> Tensor:
    return 1 - image


def silent(line: str) -> None:
    pytest.fail(f"told: {line}")


@pytest.fixture
def square(photo: Tensor) -> Tensor:
    return images.resize(photo, (64, 64))


@pytest.fixture
def clip(square: Tensor, tmp_path: Path) -> Path:
    return film(tmp_path / "clip.mp4", [square.roll(2 * step, 3) for step in range(COUNT)])


def test_every_frame_is_converted_at_its_time_and_the_sound_is_copied(clip: Path, tmp_path: Path) -> None:
    numbers: list[int] = []

    def convert(number: int, image: Tensor) -> Tensor:
        numbers.append(number)
        return images.resize(1 - image, (33, 35))

    convert_video(clip, tmp_path / "out.mp4", convert, silent)
    assert numbers == list(range(COUNT))
    before, after = list(read_frames(clip)), list(read_frames(tmp_path / "out.mp4"))
    assert [frame.time for frame in after] == [frame.time for frame in before]
    assert packets(tmp_path / "out.mp4", "audio") == packets(clip, "audio")
    for one, other in zip(before, after, strict=True):
        assert other.image.shape == (1, 3, 32, 34)  # H.264 has even numbers of rows and columns only
        assert (other.image - images.resize(1 - one.image, (33, 35))[:, :, :32, :34]).abs().mean() < 0.03
    assert count_frames(clip) == COUNT
    assert torch.equal(first_frame(clip), before[0].image)


def test_an_error_on_the_way_leaves_nothing(clip: Path, tmp_path: Path) -> None:
    def convert(number: int, image: Tensor) -> Tensor:
        if number == 3:
            raise KeyboardInterrupt
        return image

    with pytest.raises(KeyboardInterrupt):
        convert_video(clip, tmp_path / "out.mp4", convert, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_damaged_pieces_are_left_out(square: Tensor, tmp_path: Path) -> None:
    clip = film(tmp_path / "clip.mkv", [square.roll(4 * step, 3) for step in range(30)])
    damage(clip, slice(10, 13))
    told: list[str] = []
    convert_video(clip, tmp_path / "out.mkv", negative, told.append)
    assert 10 <= len(list(read_frames(tmp_path / "out.mkv"))) <= 30
    assert packets(tmp_path / "out.mkv", "audio")
    assert all(line.startswith(f"{clip}: ") and line.endswith("are damaged and were skipped") for line in told)


def test_nothing_but_damage(clip: Path, tmp_path: Path) -> None:
    destroy(clip)
    told: list[str] = []
    with pytest.raises(ValueError, match=r"clip\.mp4 has no frames that can be read"):
        convert_video(clip, tmp_path / "out.mp4", negative, told.append)
    assert told == [f"{clip}: {COUNT} packets are damaged and were skipped"]
    with pytest.raises(ValueError, match=r"clip\.mp4 has no frames that can be read"):
        first_frame(clip)
    assert not (tmp_path / "out.mp4").exists()


def test_sounds_keep_their_languages(clip: Path, tmp_path: Path) -> None:
    two = tmp_path / "two.mkv"
    with av.open(str(clip)) as source, av.open(str(two), "w") as target:
        copies = [target.add_stream_from_template(source.streams.video[0])]
        for language in ("eng", "deu"):
            copies.append(target.add_stream_from_template(source.streams.audio[0]))
            copies[-1].metadata["language"] = language
        for packet in list(source.demux()):
            for copy in copies[:1] if packet.stream.type == "video" else copies[1:]:
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
    for name in ("out.mkv", "out.mp4"):
        convert_video(two, tmp_path / name, negative, silent)
        with av.open(str(tmp_path / name)) as container:
            assert [sound.metadata.get("language") for sound in container.streams.audio] == ["eng", "deu"]


def test_sound_that_the_output_cannot_hold(clip: Path, tmp_path: Path) -> None:
    told: list[str] = []
    convert_video(clip, tmp_path / "out.webm", negative, told.append)
    assert told == [f"{tmp_path / 'out.webm'} cannot hold the video's sound, aac: it is left out"]
    assert len(list(read_frames(tmp_path / "out.webm"))) == COUNT


def test_an_avi_has_no_times(square: Tensor, tmp_path: Path) -> None:
    """Only its packets have times, and they are not in the order of the frames."""
    clip = film(tmp_path / "clip.avi", [square.roll(2 * step, 3) for step in range(8)], sound=False)
    convert_video(clip, tmp_path / "out.mp4", negative, silent)
    times = [frame.time for frame in read_frames(tmp_path / "out.mp4")]
    assert times == [Fraction(number, 25) for number in range(len(times))]
    assert len(times) == len(list(read_frames(clip)))


def test_wide_pixels_stay_wide(square: Tensor, tmp_path: Path) -> None:
    clip = film(tmp_path / "clip.mp4", [square] * 2, sound=False, wide=Fraction(4, 3))
    convert_video(clip, tmp_path / "out.mp4", negative, silent)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    convert_video(clip, tmp_path / "out.gif", negative, silent)
    assert Image.open(tmp_path / "out.gif").size == (85, 64)


def test_colors_survive(tmp_path: Path) -> None:
    colors = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0.2, 0.5, 0.8], [0.5, 0.5, 0.5]])
    picture = colors.T.reshape(1, 3, 1, 6).repeat_interleave(16, 2).repeat_interleave(16, 3).float()
    clip = film(tmp_path / "clip.mp4", [1 - picture] * 2, sound=False)
    for name in ("out.mp4", "out.webm", "out.mov"):
        convert_video(clip, tmp_path / name, lambda number, image: picture, silent)
        for frame in read_frames(tmp_path / name):
            centers = frame.image[0, :, 8, 8::16].T
            assert (centers - colors).abs().max() < 0.04


def test_a_phone_held_upright(photo: Tensor, tmp_path: Path) -> None:
    """The film lies on its side, and a matrix in its header says how to turn it."""
    lying = images.resize(photo, (64, 96)).rot90(1, (2, 3))
    clip = film(tmp_path / "clip.mp4", [lying] * 2, sound=False)
    data = bytearray(clip.read_bytes())
    matrix = data.index(b"tkhd") + 44
    quarter = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 96 << 16, 0, 1 << 30], dtype=">i4")  # clockwise
    data[matrix : matrix + 36] = quarter.tobytes()
    clip.write_bytes(data)
    upright = first_frame(clip)
    assert upright.shape[2:] == (64, 96)
    assert (upright - lying.rot90(-1, (2, 3))).abs().mean() < 0.03


def test_files_that_are_no_videos(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "letter.mp4").write_text("This is a letter, not a film.")
    with pytest.raises(ValueError, match=r"letter\.mp4 is not a video that can be read: Invalid data found"):
        count_frames(tmp_path / "letter.mp4")
    with pytest.raises(ValueError, match=r"gone\.mp4 is not a video that can be read: No such file"):
        first_frame(tmp_path / "gone.mp4")
    with av.open(str(clip)) as source, av.open(str(tmp_path / "tone.mp4"), "w") as target:
        copy = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    with pytest.raises(ValueError, match=r"tone\.mp4 has no pictures in it"):
        count_frames(tmp_path / "tone.mp4")


def test_a_video_of_too_large_frames(clip: Path, tmp_path: Path) -> None:
    height, width = first_frame(clip).shape[2:]
    read_frames(clip, max_pixels=height * width)
    for read in (count_frames, first_frame):
        with pytest.raises(TooLargeError, match=rf"{clip.name} has .* megapixels, and the limit is"):
            read(clip, max_pixels=height * width - 1)
    with pytest.raises(TooLargeError, match="megapixels"):
        convert_video(clip, tmp_path / "out.mp4", lambda number, frame: frame, print, max_pixels=100)
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("words", ["ffconcat version 1.0\nfile {}\n", "#EXTM3U\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"])
def test_a_playlist_is_no_video(words: str, clip: Path, tmp_path: Path) -> None:
    """A file that names other files would let its author have them read."""
    path = tmp_path / "list.mp4"
    path.write_text(words.format(clip.name))
    with pytest.raises(ValueError, match=r"list\.mp4 is not a video that can be read"):
        first_frame(path)


def test_a_pipe_is_no_video(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"a\.mp4 is not a regular file"):
        count_frames(tmp_path / "a.mp4")


def test_damaged_videos(clip: Path, tmp_path: Path) -> None:
    """Whatever is changed, frames are read or one error is raised."""
    data, dice = clip.read_bytes(), random.Random(0)
    path = tmp_path / "a.mp4"
    for _ in range(60):
        path.write_bytes(mutate(data, [data], dice))
        for read in (count_frames, first_frame, lambda video: list(read_frames(video))):
            problem = ""
            try:
                read(path)
            except ValueError as error:
                problem = str(error)
            assert problem.startswith(f"{path} ") or not problem
