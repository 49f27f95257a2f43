from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from benchmarks.hostile import mutate
from dreamgram.image_optimization import images
from dreamgram.image_optimization.animations import Animation, AnimationWriter, Frame, find_animation
from dreamgram.image_optimization.errors import TooLargeError
from dreamgram.image_optimization.video_conversion import convert_video

ENDINGS = pytest.mark.parametrize("ending", ["gif", "webp"])


def squares(count: int) -> list[Image.Image]:
    """Return pictures of a small square that moves over a larger one."""
    made = [Image.new("RGB", (48, 32), "navy") for _ in range(count)]
    for number, picture in enumerate(made):
        picture.paste("olive", (0, 0, 21, 13))
        picture.paste("red", (4 + 6 * number, 8, 12 + 6 * number, 16))
    return made


def write(path: Path, pictures: Sequence[Image.Image], durations: Sequence[int] | int = 50, **how: object) -> Path:
    how |= {"lossless": True} if path.suffix == ".webp" else {}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, **how)
    return path


def find(path: Path) -> Animation:
    animation = find_animation(path)
    assert animation is not None
    return animation


def milliseconds(path: Path) -> list[Fraction]:
    return [1000 * frame.duration for frame in find(path).frames()]


@ENDINGS
def test_frames_are_composited(ending: str, tmp_path: Path) -> None:
    pictures = squares(4)
    animation = find(write(tmp_path / f"a.{ending}", pictures, [40, 10, 20, 70]))
    assert (animation.form, animation.count, animation.transparent) == (ending.upper(), 4, False)
    assert animation.length == Fraction(23, 100)
    frames = list(animation.frames())
    assert [100 * frame.time for frame in frames] == [0, 4, 14, 16]  # browsers show 10 ms for 100 ms
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.array_equal(np.asarray(images.to_pillow(frame.image)), np.asarray(picture))
    with Image.open(tmp_path / f"a.{ending}") as file:
        file.seek(1)  # in a GIF, Pillow stores the frame only in part
        assert getattr(file, "dispose_extent", (4, 8, 18, 16)) == (4, 8, 18, 16)


@ENDINGS
def test_transparent_parts_become_white(ending: str, tmp_path: Path) -> None:
    pictures = [Image.new("RGBA", (16, 16)) for _ in range(3)]
    for picture, color in zip(pictures, ("red", "lime", "blue"), strict=True):
        ImageDraw.Draw(picture).ellipse((3, 3, 12, 12), color)
    animation = find(write(tmp_path / f"a.{ending}", pictures, disposal=2))
    assert animation.transparent
    for frame, color in zip(animation.frames(), torch.eye(3), strict=True):
        assert frame.image[0, :, 0, 0].tolist() == [1, 1, 1]
        assert torch.equal(frame.image[0, :, 8, 8], color)


def test_stills_are_no_animations(tmp_path: Path) -> None:
    pictures = squares(2)
    for name in ("a.gif", "a.webp", "a.png"):
        pictures[0].save(tmp_path / name)
        assert find_animation(tmp_path / name) is None
    assert find_animation(write(tmp_path / "b.png", pictures)) is None
    write(tmp_path / "b.webp", pictures).rename(tmp_path / "c.png")  # the content counts, not the name
    assert find(tmp_path / "c.png").form == "WEBP"


@pytest.mark.parametrize(("loop", "plays"), [(None, 1), (0, 0), (4, 5)])
def test_durations_and_the_number_of_plays_survive(loop: int | None, plays: int, tmp_path: Path) -> None:
    durations = [40, 170, 1230]
    how = {} if loop is None else {"loop": loop}
    before = find(write(tmp_path / "a.gif", squares(3), durations, **how))
    assert before.plays == plays
    for name in ("b.webp", "c.webp", "d.gif", "e.gif"):  # each is made from the file before it
        convert_video(before, tmp_path / name, lambda number, image: image, pytest.fail)
        assert milliseconds(tmp_path / name) == durations
        after = find(tmp_path / name)
        assert after.plays == plays
        for one, other in zip(before.frames(), after.frames(), strict=True):
            assert (one.image - other.image).abs().mean() < 0.02
        before = after


@pytest.mark.parametrize(("form", "shown"), [("GIF", [20, 30] * 20), ("WEBP", [17, 16, 17] * 20)])
def test_a_fast_video_keeps_its_speed(form: str, shown: list[int], tmp_path: Path) -> None:
    gap = Fraction(1, 60)
    with AnimationWriter(tmp_path / "a", form) as writer:
        for number in range(60):
            writer.show(Frame(torch.rand(1, 3, 8, 8), gap * number, gap))
    assert milliseconds(tmp_path / "a") == shown


def test_a_gif_has_one_palette(photo: torch.Tensor, tmp_path: Path) -> None:
    """A pixel that is the same in all pictures is also the same in all frames of the GIF."""
    still = images.resize(photo, (64, 64))
    with AnimationWriter(tmp_path / "a.gif", "GIF") as writer:
        for number in range(5):
            moving = still.roll(4 * number, 2)[..., 32:] * (1 - 0.1 * number)
            writer.show(Frame(torch.cat([still[..., :32], moving], 3), Fraction(number), Fraction(1)))
    frames = [frame.image for frame in find(tmp_path / "a.gif").frames()]
    assert all(torch.equal(frame[..., :32], frames[0][..., :32]) for frame in frames)
    assert (frames[0] - still).abs().mean() < 0.015
    assert 200 < torch.cat([frame.flatten(2) for frame in frames], 2)[0].unique(dim=1).shape[1] <= 255


def test_a_later_frame_that_is_larger(tmp_path: Path) -> None:
    """Only the part of the frame that lies in the first frame is used."""
    path, frame = tmp_path / "a.gif", b"\x2c\0\0\0\0"
    pictures = [[Image.new("RGB", (side, side), color) for color in ("red", "blue")] for side in (8, 12)]
    small, large = (write(path, pair).read_bytes() for pair in pictures)
    path.write_bytes(small[: small.rindex(frame)] + large[large.rindex(frame) :])
    red, blue = find(path).frames()
    assert red.image.shape == blue.image.shape
    assert blue.image[0, :, 7, 7].tolist() == [0, 0, 1]
    with pytest.raises(TooLargeError, match=r"a\.gif has 0\.000144 megapixels, and the limit is 0\.0001 "):
        find_animation(path, max_pixels=100)


@ENDINGS
def test_damaged_animations(ending: str, tmp_path: Path) -> None:
    """Whatever is changed, all frames are read or one error is raised."""
    path, dice = tmp_path / f"a.{ending}", random.Random(0)
    data = write(path, squares(4)).read_bytes()
    problems = []
    for each in [data[:end] for end in range(0, len(data), 23)] + [mutate(data, [data], dice) for _ in range(100)]:
        path.write_bytes(each)
        try:
            animation = find_animation(path)
            assert animation is None or len(list(animation.frames())) == animation.count
        except ValueError as error:
            problems.append(str(error))
    assert len(problems) > 20
    assert all(problem.startswith(f"{path} ") and "\n" not in problem for problem in problems)
