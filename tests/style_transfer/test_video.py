from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dreamgram.image_optimization import images
from dreamgram.image_optimization.animations import find_animation
from dreamgram.image_optimization.optimize import Step
from dreamgram.image_optimization.video_conversion import read_frames
from dreamgram.style_transfer.flow import flicker
from dreamgram.style_transfer.options import StylizeOptions
from dreamgram.style_transfer.stylizer import Stylizer
from dreamgram.style_transfer.video import Before, paint_frame
from dreamgram.workbench.console import Terminal
from dreamgram.workbench.recipe import Recipe
from tests.conftest import Command
from tests.videos import destroy, film, packets

QUICK = ["--style", "marbling", "--size", 45, "--steps", 4, "--style-layers", "relu1_1,relu2_1"]  # which are quick
QUICKER = [*QUICK[:2], "--size", 32, "--steps", 1, *QUICK[-2:]]
COUNT = 5
DURATIONS = [40, 170, 1230]


@pytest.fixture
def clip(photo_file: Path, tmp_path: Path) -> Path:
    """Write a video in which the camera moves over a photo."""
    photo = images.fit(images.load(photo_file), 120)
    return film(tmp_path / "clip.mp4", [photo[:, :, 20:68, 10 + 2 * step : 74 + 2 * step] for step in range(COUNT)])


def test_a_video_as_typed(command: Command, clip: Path) -> None:
    run = command("stylize", clip, *QUICK, "-o", "out.mp4")
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith("out.mp4  ")
    frames = list(read_frames(Path("out.mp4")))
    assert len(frames) == COUNT
    assert [frame.time for frame in frames] == [frame.time for frame in read_frames(clip)]
    assert frames[0].image.shape[2:] == (34, 44)  # one row less than painted, because H.264 needs even sizes
    assert packets(Path("out.mp4"), "audio") == packets(clip, "audio")
    assert not Path("out.mp4.frames").exists()
    for frame, original in zip(frames, read_frames(clip), strict=True):
        assert (frame.image - images.resize(original.image, (34, 44))).abs().mean() > 0.05
    run = command("stylize", clip, *QUICK, "-o", "out.mp4")
    assert (run.code, run.err) == (2, "error: out.mp4 exists; choose another output or overwrite it (--overwrite)\n")
    before = Path("out.mp4").read_bytes()
    assert command("stylize", clip, *QUICK, "--style-weight", 9, "-o", "out.mp4", "--overwrite").code == 0
    assert Path("out.mp4").read_bytes() != before


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Press Ctrl-C in the only step of the second frame, and yield a list of the steps' shares of the work."""
    steps: list[float] = []

    def progress(terminal: Terminal, step: Step) -> None:
        steps.append(step.done)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", progress)
        yield steps


def test_a_run_that_is_stopped_goes_on(command: Command, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: None)  # keeps the frames for comparison
    assert command("stylize", clip, *QUICK, "-o", "unbroken.mp4").code == 0
    with interrupted(monkeypatch) as steps:
        run = command("stylize", clip, *QUICK, "-o", "broken.mp4")
    assert run.code == 130
    assert run.err.splitlines()[-1] == "interrupted: run the same command again to resume"
    assert steps == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.4, 0.6])  # shares of the work for all frames
    first, second = sorted(Path("broken.mp4.frames").iterdir())
    assert Recipe.read(first, {"stylize": StylizeOptions}).options.record()["photo"] == str(clip)
    assert not Path("broken.mp4").exists()
    # A run with different options does not resume from these frames.
    run = command("stylize", clip, *QUICK, "-o", "broken.mp4", "--seed", 1)
    assert run.code == 2
    assert "000000.png was made with seed 0, not 1; choose another output or" in run.err
    # A different video does not resume from them either, but the same video with a different name does.
    Path("other.mp4").write_bytes(clip.read_bytes() + b"more")
    run = command("stylize", "other.mp4", *QUICK, "-o", "broken.mp4")
    assert run.code == 2
    assert f"000000.png was made from a different {clip}" in run.err
    shutil.copy(clip, "same.mp4")
    times = [path.stat().st_mtime_ns for path in (first, second)]
    assert command("stylize", "same.mp4", *QUICK, "-o", "broken.mp4").code == 0
    assert [path.stat().st_mtime_ns for path in (first, second)] == times
    for number in range(COUNT):
        broken, unbroken = (images.load(f"{name}.mp4.frames/{number:06}.png") for name in ("broken", "unbroken"))
        assert torch.equal(broken, unbroken)
    assert len(list(read_frames(Path("broken.mp4")))) == COUNT


def test_each_frame_begins_as_the_one_before_but_not_across_a_cut(
    photo: Tensor, painting: Tensor, vgg16: nn.Module
) -> None:
    photo = images.resize(photo, (64, 64))
    other = torch.rand(1, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    layers: dict[str, Any] = {"content_layers": {"relu3_1": 1}, "style_layers": {"relu1_1": 1, "relu2_1": 1}}
    stylizer = Stylizer(photo, [painting], model=vgg16, size=64, steps=10, init="noise", **layers)
    before: Before | None = None
    lengths, starts, results = [], [], []
    for frame in (photo, photo, other, other):
        seen: list[Tensor] = []
        listeners = [lambda step, seen=seen: seen.append(step.image.clone())]
        result = paint_frame(stylizer, frame, before, listeners)
        before = result.image, frame
        lengths.append(len(seen))
        starts.append(seen[0])
        results.append(result.image)
    assert lengths == [10, 3, 10, 3]
    for number in (1, 3):
        assert (starts[number] - results[number - 1]).abs().mean() < 0.03
    assert (starts[2] - results[1]).abs().mean() > 0.1


@pytest.mark.parametrize("colors", ["content", "luminance", "match"])
def test_the_colors_of_a_video(colors: str, command: Command, clip: Path) -> None:
    """Each frame starts from the previous frame as painted, and gets its final colors only in the result."""
    line = [clip, "--style", "stained-glass", "--style-layers", "relu1_1,relu2_1,relu3_1", "--size", 64, "--steps", 10]
    run = command("stylize", *line, "--colors", colors, "-o", "a.mkv")
    assert run.code == 0, run.err
    frames, results = ([frame.image for frame in read_frames(Path(path))] for path in (clip, "a.mkv"))
    photo, painted = (torch.stack([picture.mean((2, 3)) for picture in each]) for each in (frames, results))
    assert (painted - photo).abs().max() < 0.1
    assert flicker(results, frames) < 0.03
    kinds = [(result - result.mean(1, keepdim=True)).abs().mean() for result in results]
    assert min(kinds) > 0.01  # none is gray


def test_less_flicker_than_half(clip: Path, vgg16: nn.Module, painting: Tensor) -> None:
    frames = [frame.image for frame in read_frames(clip)][:3]
    style_layers = {"relu1_1": 1, "relu2_1": 1, "relu3_1": 1}
    stylizer = Stylizer(frames[0], [painting], model=vgg16, size=64, steps=20, style_layers=style_layers)
    alone = [paint_frame(stylizer, frame).image for frame in frames]
    together: list[Tensor] = []
    for number, frame in enumerate(frames):
        before = (together[-1], frames[number - 1]) if together else None
        together.append(paint_frame(stylizer, frame, before).image)
    assert torch.equal(together[0], alone[0])
    assert flicker(together, frames) < 0.5 * flicker(alone, frames)


def test_nothing_but_damage(command: Command, clip: Path) -> None:
    destroy(clip)
    run = command("stylize", clip, *QUICK, "-o", "out.mp4")
    assert run.code == 2
    assert run.err.splitlines()[-1] == f"error: {clip} has no frames that can be read"
    assert not list(Path().glob("out*"))


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
        "error: cannot write 'out.png': the file name must end in .mp4, .m4v, .mov, .mkv, .webm, .gif, .webp\n",
    )
    run = command("stylize", "gone.mp4", *QUICK)
    assert (run.code, run.err) == (2, "error: gone.mp4 is not a video that can be read: No such file or directory\n")
    run = command("stylize", clip, *QUICK, "-o", "small.mp4", "--max-memory", "100M")
    assert "0.1 GB are too little" in run.err
    assert not list(Path().glob("small*"))
    for option, kind in ((["--plot"], "photos"), (["--timelapse", "webp"], "photos"), (["--quality", 90], "one photo")):
        run = command("stylize", clip, *QUICK, *option)
        assert (run.code, run.err) == (2, f"error: {option[0]} is for {kind}, not for a video\n")
    run = command("stylize", clip, *QUICK, "--checkpoint", "state")
    assert "--checkpoint is for one photo, not for a video: to resume, run the same command again" in run.err
    run = command("stylize", clip, *QUICK, "-o", "out.webm")
    assert run.code == 0
    assert run.err == "out.webm cannot hold the video's sound, aac: it is left out\n"
    monkeypatch.setitem(sys.modules, "av", None)
    images.save(torch.rand(1, 3, 40, 40), "photo.png")
    for line in ((clip,), ("photo.png", "--timelapse", "mp4")):
        run = command("stylize", *line, *QUICK)
        assert (run.code, run.err) == (2, "error: videos need PyAV: pip install 'dreamgram[video]'\n")


@pytest.fixture
def gif(clip: Path, tmp_path: Path) -> Path:
    """Write an animated GIF of the first frames of the video."""
    frames = [images.to_pillow(frame.image) for frame in read_frames(clip)][:3]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=DURATIONS, loop=3)
    return Path("a.gif")


def look(path: str) -> tuple[str, int, list[float]]:
    """Return the format, number of plays and durations in milliseconds of an animation."""
    animation = find_animation(Path(path))
    assert animation
    return animation.form, animation.plays, [float(1000 * frame.duration) for frame in animation.frames()]


def test_animations_as_typed(command: Command, gif: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "av", None)  # animations do not need PyAV
        run = command("stylize", gif, *QUICK)
        assert (run.code, run.err, run.out.split()[0]) == (0, "", "outputs/stylized.gif")
        assert command("stylize", gif, *QUICKER, "-o", "b.webp").code == 0
        assert command("stylize", "b.webp", *QUICKER).code == 0
        run = command("stylize", gif, *QUICK, "-o", "c.mp4")
        assert (run.code, run.err) == (2, "error: videos need PyAV: pip install 'dreamgram[video]'\n")
    assert {path.name for path in Path("outputs").iterdir()} == {"stylized.gif", "stylized.webp"}
    assert look("outputs/stylized.gif") == ("GIF", 4, DURATIONS)
    for path in ("b.webp", "outputs/stylized.webp"):
        assert look(path) == ("WEBP", 4, DURATIONS)
    assert (images.load("outputs/stylized.gif") - images.resize(images.load(gif), (34, 45))).abs().mean() > 0.05
    assert command("stylize", gif, *QUICKER, "-o", "c.mp4").code == 0
    assert [1000 * each.duration for each in read_frames(Path("c.mp4"))] == DURATIONS
    run = command("stylize", clip, *QUICKER, "-o", "d.gif")
    assert (run.code, run.err) == (0, "d.gif cannot hold the video's sound, aac: it is left out\n")
    assert look("d.gif") == ("GIF", 0, [40] * COUNT)
    Image.open(gif).convert("RGB").save("still.gif")
    run = command("stylize", "still.gif", *QUICKER)
    assert (run.code, run.err, run.out.split()[0]) == (0, "", "outputs/stylized.png")


def test_an_animation_that_is_stopped_goes_on(command: Command, gif: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("stylize", gif, *QUICK, "-o", "unbroken.gif").code == 0
    with interrupted(monkeypatch):
        assert command("stylize", gif, *QUICK, "-o", "broken.gif").code == 130
    assert not Path("broken.gif").exists()
    run = command("stylize", "replay", "broken.gif.frames/000000.png")
    assert run.err == "error: only a picture of one photo can be made again, and a.gif is an animation\n"
    assert command("stylize", gif, *QUICK, "-o", "broken.gif").code == 0
    assert Path("broken.gif").read_bytes() == Path("unbroken.gif").read_bytes()
    assert not Path("broken.gif.frames").exists()


def test_bad_animations(command: Command, gif: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("cut.gif").write_bytes(gif.read_bytes()[:-500])
    clear = Image.new("RGBA", (64, 48))
    clear.save("clear.gif", save_all=True, append_images=[Image.new("RGBA", (64, 48), "red")])
    monkeypatch.setattr("dreamgram.style_transfer.video.most_bytes", lambda max_pixels: 9000)
    for line, message in (
        (["cut.gif"], "cut.gif is a damaged image: "),
        (["a.gif", "-o", "out.png"], "a.gif has 3 frames, and out.png can hold only one: the file name must end in "),
        (["a.gif", "--plot"], "--plot is for photos, not for a video, and a.gif has 3 frames"),
        (["a.gif", "--max-pixels", "3k"], "a.gif has 0.003072 megapixels, and the limit is 0.003 (--max-pixels 3072)"),
        (["clear.gif", "-o", "out.webp"], "out.webp: 2 frames of 45x34 pixels take 9.18e-06 GB, and the limit is 9e-"),
    ):
        run = command("stylize", *line, *QUICK)
        *told, error = run.err.splitlines()
        assert run.code == 2
        assert error.startswith(f"error: {message}")
        assert told == ["the transparent parts of clear.gif become white"] * (line[0] == "clear.gif")
    assert not list(Path().glob("out*"))


def test_an_animation_among_photos(command: Command, gif: Path) -> None:
    """The first frame is painted if the animation is in a folder of photos. This picture can be made again."""
    Path("photos").mkdir()
    shutil.copy(gif, "photos/a.gif")
    run = command("stylize", "photos", *QUICKER, "-o", "out")
    assert (run.code, run.err) == (0, "photos/a.gif has 3 frames, of which the first is painted\n")
    assert command("stylize", "replay", "out/a.png", "-o", "again.png").code == 0
    assert torch.equal(images.load("again.png"), images.load("out/a.png"))


def test_files_of_the_users_among_the_frames_stay(command: Command, clip: Path) -> None:
    Path("out.mp4.frames").mkdir()
    Path("out.mp4.frames/notes.txt").write_text("mine")
    assert command("stylize", clip, *QUICK, "-o", "out.mp4").code == 0
    assert [path.name for path in Path("out.mp4.frames").iterdir()] == ["notes.txt"]
