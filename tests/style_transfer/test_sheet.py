"""Sheets of variations, and finished pictures whose strength is changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from dreamgram.image_optimization import images
from dreamgram.style_transfer.options import StylizeOptions
from dreamgram.workbench.recipe import Recipe
from dreamgram.workbench.sheets import lay_out
from tests.conftest import Command

HOW = ["--style", "marbling", "--size", 48, "--steps", 2]


@pytest.fixture
def portrait(command: Command, photo: Tensor) -> Path:
    """Return the path of a photo of 55 x 64 pixels in the current folder."""
    images.to_pillow(photo).save("photo.png")
    return Path("photo.png")


def test_several_values_make_one_sheet(command: Command, portrait: Path) -> None:
    run = command("stylize", portrait, *HOW, "--style-weight", "1,3,10", "-o", "sheet.png")
    assert run.code == 0, run.err
    folder = Path("sheet-pictures")
    names = [f"style_weight={value}.png" for value in (1, 3, 10)]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    single = command("stylize", portrait, *HOW, "--style-weight", "3", "-o", "single.png")
    assert single.code == 0
    assert Image.open(folder / names[1]).tobytes() == Image.open("single.png").tobytes()
    assert Recipe.read(folder / names[1], {"stylize": StylizeOptions}).options.style_weight == 3  # type: ignore[attr-defined]
    layout = lay_out(3, (48, 41), columns=3, title="photo.png")
    assert Image.open("sheet.png").size == layout.size[::-1]
    before = {name: (folder / name).stat().st_mtime_ns for name in names}
    Path(folder, names[0]).unlink()
    assert command("stylize", portrait, *HOW, "--style-weight", "1,3,10", "-o", "sheet.png", "--overwrite").code == 0
    after = {name: (folder / name).stat().st_mtime_ns for name in names}
    assert [before[name] == after[name] for name in names] == [False, True, True]
    run = command("stylize", "replay", "sheet.png", "-o", "again.png")
    assert run.code == 2
    assert "replay the pictures of the sheet" in run.err


def test_two_options_vary_by_row_and_column(command: Command, portrait: Path) -> None:
    run = command(
        "stylize", portrait, *HOW, "--vary", "seed=1,2", "--vary", "style-loss=gram,wasserstein", "-o", "a.png"
    )
    assert run.code == 0, run.err
    names = {f"style_loss={loss}-seed={seed}.png" for loss in ("gram", "wasserstein") for seed in (1, 2)}
    assert {path.name for path in Path("a-pictures").iterdir()} == names
    assert Image.open("a.png").size == lay_out(4, (48, 41), columns=2, title="photo.png").size[::-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--style-weight", "1,x"], "must be a number, not 'x'"),
        (["--style-weight", "1,-2"], "must be at least 0, not -2"),
        (["--vary", "style_wight=1,2"], "did you mean 'style_weight'"),
        (["--vary", "size=64,128"], "must name an option: 'style_weight'"),
        (["--style-weight", "1,2", "--vary", "style_weight=3,4"], "named twice"),
        (["--seed", "1,2", "--steps", "1,2", "--strength", "0,1"], "one or two options, not 3"),
        (["--seed", ",".join(map(str, range(101)))], "at most 100 pictures"),
        (["--seed", "1,2", "--checkpoint", "a.ckpt"], "for a single picture, not for a sheet"),
        (["--seed", "1,1"], "must give different values of seed, not '1,1'"),
        (["--vary", "strength"], "must give values of strength, as in strength=X,X, not 'strength'"),
    ],
)
def test_bad_variations_get_one_line(options: list[str], message: str, command: Command, portrait: Path) -> None:
    run = command("stylize", portrait, "--style", "marbling", *options)
    assert run.code == 2
    assert message in run.err
    assert len(run.err.splitlines()) == 1


def test_a_finished_picture_fades(command: Command, portrait: Path) -> None:
    assert command("stylize", portrait, *HOW, "-o", "picture.png").code == 0
    run = command("stylize", "fade", "picture.png", "--strength", 0.6)
    assert run.code == 0, run.err
    assert run.out.startswith("picture-0.6.png  ")
    small = images.resize(images.load(portrait), (48, 41))
    mixed = 0.6 * images.load("picture.png") + 0.4 * small
    torch.testing.assert_close(images.load("picture-0.6.png"), mixed, rtol=0, atol=0.51 / 255)
    assert command("stylize", portrait, *HOW, "--strength", 0.6, "-o", "painted.png").code == 0
    painted, faded = (images.load(name) for name in ("painted.png", "picture-0.6.png"))
    assert (painted - faded).abs().max() < 1.1 / 255
    run = command("stylize", "replay", "picture-0.6.png", "-o", "again.png")
    assert run.code == 0
    assert "can differ slightly" in run.err
    assert Image.open("again.png").tobytes() == Image.open("painted.png").tobytes()


def test_what_cannot_fade_gets_one_line(command: Command, portrait: Path, photo: Tensor, tmp_path: Path) -> None:
    assert command("stylize", portrait, *HOW, "--strength", 0.5, "-o", "half.png").code == 0
    assert command("stylize", "--texture", *HOW, "-o", "texture.png").code == 0
    assert command("stylize", portrait, *HOW, "-o", "picture.png").code == 0
    for picture, message in {
        "half.png": "already has the strength 0.5",
        "texture.png": "is a texture",
        "photo.png": "holds no recipe",
    }.items():
        run = command("stylize", "fade", picture, "--strength", 0.3)
        assert (run.code, len(run.err.splitlines())) == (2, 1)
        assert message in run.err
    portrait.rename("moved.png")
    assert (
        "is missing: name the file that it is now" in command("stylize", "fade", "picture.png", "--strength", 0.3).err
    )
    assert command("stylize", "fade", "picture.png", "--strength", 0.3, "--photo", "moved.png").code == 0
    images.to_pillow(photo.flip(3)).save("other.png")
    run = command("stylize", "fade", "picture.png", "--strength", 0.2, "--photo", "other.png")
    assert "is not the photo from which picture.png was painted" in run.err
