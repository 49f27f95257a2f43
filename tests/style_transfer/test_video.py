from __future__ import annotations

import shutil
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from image_optimization import images
from style_transfer import stylize, video
from style_transfer.flow import Previous, flicker
from tests.conftest import Command

QUICK = ["--style", "marbling", "--size", 45, "--steps", 4]
COUNT = 5


def film(path: Path, frames: list[Tensor], sound: bool = True, wide: Fraction = Fraction(1)) -> Path:
    """A video of ``frames`` (1, 3, H, W), 25 a second, and of a tone."""
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


@pytest.fixture
def clip(photo_file: Path, tmp_path: Path) -> Path:
    """The camera moves over a photo."""
    photo = images.fit(images.load(photo_file), 120)
    return film(tmp_path / "clip.mp4", [photo[:, :, 20:68, 10 + 2 * step : 74 + 2 * step] for step in range(COUNT)])


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        [stream] = [stream for stream in container.streams if stream.type == kind]
        return [
            (packet.pts * packet.time_base, bytes(packet))
            for packet in container.demux(stream)
            if packet.pts is not None and packet.time_base is not None
        ]


def test_a_video_as_typed(command: Command, clip: Path) -> None:
    run = command("stylize", clip, *QUICK, "-o", "out.mp4")
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith("out.mp4  ")
    frames = list(video.read_frames(Path("out.mp4")))
    assert len(frames) == COUNT
    assert [frame.time for frame in frames] == [frame.time for frame in video.read_frames(clip)]
    assert frames[0].image.shape[2:] == (34, 44)  # one row less than is painted: H.264 has even numbers only
    assert packets(Path("out.mp4"), "audio") == packets(clip, "audio")
    assert not Path("out.mp4.frames").exists()
    for frame, original in zip(frames, video.read_frames(clip), strict=True):
        assert (frame.image - images.resize(original.image, (34, 44))).abs().mean() > 0.05
    run = command("stylize", clip, *QUICK, "-o", "out.mp4")
    assert (run.code, run.err) == (2, "error: out.mp4 exists; choose another output or overwrite it (--overwrite)\n")
    before = Path("out.mp4").read_bytes()
    assert command("stylize", clip, *QUICK, "--style-weight", 9, "-o", "out.mp4", "--overwrite").code == 0
    assert Path("out.mp4").read_bytes() != before


def test_a_run_that_is_stopped_goes_on(command: Command, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda folder: None)  # the frames are kept, to be compared
    assert command("stylize", clip, *QUICK, "-o", "unbroken.mp4").code == 0
    painted: list[Path] = []
    save = images.save

    def stopped(image: Tensor, path: Path, *arguments: object, **options: object) -> Path:
        if len(painted) == 2:
            raise KeyboardInterrupt
        painted.append(path)
        return save(image, path, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(images, "save", stopped)
        run = command("stylize", clip, *QUICK, "-o", "broken.mp4")
    assert (run.code, run.err) == (130, "interrupted: the same command goes on from here\n")
    assert len(list(Path("broken.mp4.frames").glob("*.png"))) == 2
    assert not Path("broken.mp4").exists()
    # Other settings do not go on with it.
    run = command("stylize", clip, *QUICK, "-o", "broken.mp4", "--seed", 1)
    assert run.code == 2
    assert "000000.png was made with seed 0, not 1; choose another output, or" in run.err
    # Nor does another film.
    shutil.copy(clip, "other.mp4")
    run = command("stylize", "other.mp4", *QUICK, "-o", "broken.mp4")
    assert run.code == 2
    assert f"000000.png was made with photo {clip}, not other.mp4" in run.err
    assert command("stylize", clip, *QUICK, "-o", "broken.mp4").code == 0
    for number in range(COUNT):
        broken, unbroken = (images.load(f"{name}.mp4.frames/{number:06}.png") for name in ("broken", "unbroken"))
        assert torch.equal(broken, unbroken)
    assert len(list(video.read_frames(Path("broken.mp4")))) == COUNT


def test_each_frame_begins_as_the_one_before_but_not_across_a_cut(photo: Tensor, tmp_path: Path) -> None:
    photo = images.resize(photo, (64, 64))
    other = torch.rand(1, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    clip = film(tmp_path / "cut.mp4", [photo, photo, other, other], sound=False)
    calls: list[Previous | None] = []

    def paint(image: Tensor, previous: Previous | None, number: int, path: Path) -> None:
        calls.append(previous)
        images.save(1 - image, path, {})

    video.paint_video(clip, tmp_path / "out.mkv", paint, {}, overwrite=False)
    assert [call is not None for call in calls] == [False, True, False, True]
    assert calls[1] is not None
    assert (calls[1].image - (1 - photo)).abs().mean() < 0.03


@pytest.mark.parametrize("colors", ["content", "luminance", "match"])
def test_the_colors_of_a_video(colors: str, command: Command, clip: Path) -> None:
    """The next frame begins with what was painted, and is shown with colours of its own."""
    run = command(
        "stylize", clip, "--style", "stained-glass", "--size", 64, "--steps", 10, "--colors", colors, "-o", "a.mkv"
    )
    assert run.code == 0, run.err
    frames, results = ([frame.image for frame in video.read_frames(Path(path))] for path in (clip, "a.mkv"))
    photo, painted = (torch.stack([picture.mean((2, 3)) for picture in each]) for each in (frames, results))
    assert (painted - photo).abs().max() < 0.1
    assert flicker(results, frames) < 0.03
    kinds = [(result - result.mean(1, keepdim=True)).abs().mean() for result in results]
    assert min(kinds) > 0.01  # none is gray


def test_damaged_pieces_are_left_out(photo: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = images.resize(photo, (64, 64))
    clip = film(tmp_path / "clip.mkv", [photo.roll(4 * step, 3) for step in range(30)])
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos]
    for place in places[10:13]:
        data[place + 20 : place + 60] = bytes([255]) * 40
    clip.write_bytes(data)

    def paint(image: Tensor, previous: Previous | None, number: int, path: Path) -> None:
        images.save(image, path, {})

    video.paint_video(clip, tmp_path / "out.mkv", paint, {}, overwrite=False)
    assert 10 <= len(list(video.read_frames(tmp_path / "out.mkv"))) <= 30
    assert packets(tmp_path / "out.mkv", "audio")


def test_nothing_but_damage(command: Command, clip: Path) -> None:
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big")
    data[start : start + size - 8] = bytes([255]) * (size - 8)
    clip.write_bytes(data)
    run = command("stylize", clip, *QUICK, "-o", "out.mp4")
    assert run.code == 2
    assert run.err.splitlines()[-1] == f"error: {clip} has no frames that can be read"
    assert not list(Path().glob("out*"))


def test_sounds_keep_their_languages(photo: Tensor, clip: Path, tmp_path: Path) -> None:
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

    def paint(image: Tensor, previous: Previous | None, number: int, path: Path) -> None:
        images.save(image, path, {})

    for name in ("out.mkv", "out.mp4"):
        video.paint_video(two, tmp_path / name, paint, {}, overwrite=False)
        with av.open(str(tmp_path / name)) as container:
            assert [sound.metadata.get("language") for sound in container.streams.audio] == ["eng", "deu"]


def test_an_avi_has_no_times(photo: Tensor, tmp_path: Path) -> None:
    """Of its packets only, which are not in the order of the frames."""
    photo = images.resize(photo, (64, 64))
    clip = film(tmp_path / "clip.avi", [photo.roll(2 * step, 3) for step in range(8)], sound=False)

    def paint(image: Tensor, previous: Previous | None, number: int, path: Path) -> None:
        images.save(image, path, {})

    video.paint_video(clip, tmp_path / "out.mp4", paint, {}, overwrite=False)
    times = [frame.time for frame in video.read_frames(tmp_path / "out.mp4")]
    assert times == [Fraction(number, 25) for number in range(len(times))]
    assert len(times) == len(list(video.read_frames(clip)))


def test_wide_pixels_stay_wide(photo: Tensor, tmp_path: Path) -> None:
    clip = film(tmp_path / "clip.mp4", [images.resize(photo, (64, 64))] * 2, wide=Fraction(4, 3))

    def paint(image: Tensor, previous: Previous | None, number: int, path: Path) -> None:
        images.save(image, path, {})

    video.paint_video(clip, tmp_path / "out.mp4", paint, {}, overwrite=False)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_colors_survive(tmp_path: Path) -> None:
    colors = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0.2, 0.5, 0.8], [0.5, 0.5, 0.5]])
    picture = colors.T.reshape(1, 3, 1, 6).repeat_interleave(16, 2).repeat_interleave(16, 3).float()
    clip = film(tmp_path / "clip.mp4", [picture] * 2, sound=False)

    def paint(image: Tensor, previous: Previous | None, number: int, path: Path) -> None:
        images.save(picture, path, {})

    for name in ("out.mp4", "out.webm", "out.mov"):
        video.paint_video(clip, tmp_path / name, paint, {}, overwrite=False)
        for frame in video.read_frames(tmp_path / name):
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
    upright = next(video.read_frames(clip)).image
    assert upright.shape[2:] == (64, 96)
    assert (upright - lying.rot90(-1, (2, 3))).abs().mean() < 0.03


def test_less_flicker_than_half(clip: Path, vgg16: nn.Module, painting: Tensor, tmp_path: Path) -> None:
    frames = [frame.image for frame in video.read_frames(clip)][:3]
    alone = [stylize(frame, [painting], model=vgg16, size=64, steps=20).image for frame in frames]

    def paint(image: Tensor, previous: Previous | None, number: int, path: Path) -> None:
        result = stylize(
            image, [painting], model=vgg16, size=64, steps=20 if previous is None else 6, previous=previous
        )
        together.append(result.image)
        images.save(result.image, path, {})

    together: list[Tensor] = []
    video.paint_video(clip, tmp_path / "out.mp4", paint, {}, overwrite=False)
    assert flicker(together[:3], frames) < 0.5 * flicker(alone, frames)


def test_bad_input(command: Command, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("letter.mp4").write_text("This is a letter, not a film.")
    run = command("stylize", "letter.mp4", *QUICK)
    assert (run.code, run.err) == (
        2,
        "error: letter.mp4 is not a video that can be read: Invalid data found when processing input\n",
    )
    run = command("stylize", clip, *QUICK, "-o", "out.png")
    assert (run.code, run.err) == (
        2,
        "error: cannot write 'out.png': the file name must end in .mp4, .m4v, .mov, .mkv, .webm\n",
    )
    run = command("stylize", "gone.mp4", *QUICK)
    assert (run.code, run.err) == (2, "error: gone.mp4 is not a video that can be read: No such file or directory\n")
    run = command("stylize", clip, *QUICK, "-o", "small.mp4", "--max-memory", "100M")
    assert "0.1 GB are too little" in run.err
    assert not list(Path().glob("small*"))
    for option in (["--plot"], ["--timelapse", "webp"], ["--quality", 90]):
        run = command("stylize", clip, *QUICK, *option)
        assert (run.code, run.err) == (2, f"error: {option[0]} is for one photo, not for a video\n")
    run = command("stylize", clip, *QUICK, "--checkpoint", "state")
    assert "--checkpoint is for one photo, not for a video: the same command again goes on" in run.err
    run = command("stylize", clip, "--style", "marbling", "--size", 32, "--steps", 1, "-o", "out.webm")
    assert run.code == 0
    assert run.err == "out.webm cannot hold the video's sound, aac: it is left out\n"
    monkeypatch.setitem(sys.modules, "av", None)
    for line in ((clip,), ("photo.png", "--timelapse", "mp4")):
        run = command("stylize", *line, *QUICK)
        assert (run.code, run.err) == (2, "error: videos need PyAV: pip install 'dreamgram[video]'\n")
