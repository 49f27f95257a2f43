"""A recipe may name only some files, and a command may write only some. ``tests/crafted.py`` has many more recipes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor

from dreamgram.activation_maximization.options import OPTIONS_OF_COMMANDS, ExamplesOptions, MaximizeOptions
from dreamgram.image_optimization import images
from dreamgram.style_transfer.options import ResumeOptions, StylizeOptions
from dreamgram.workbench.options import Options, ReplayOptions, declaration
from dreamgram.workbench.trust import UntrustedError, check_trusted, check_trusted_output
from tests.conftest import Command

QUICK = ["--style", "marbling", "--size", 32, "--steps", 2, "--style-layers", "relu1_1", "--content-layers", "relu1_1"]


@pytest.mark.parametrize("options", [StylizeOptions, *OPTIONS_OF_COMMANDS.values()])
def test_every_option_that_names_a_file_is_checked(options: type[Options]) -> None:
    """An option is written like a file if its placeholder in the help is one, or if its help names a Python file."""
    for each in fields(options):
        known = declaration(each)
        named = known.files is not None or "Path" in str(each.type)
        of_file = any(word in known.metavar for word in ("FILE", "FOLDER")) or ".py" in known.help
        assert named or not of_file, each.name


def test_the_files_that_options_name() -> None:
    options = StylizeOptions(
        photo="p.jpg", style=["a.png", "marbling"], style_mask=["m.png"], init="i.png", model="n.py:f", output="o.png"
    )
    names = {"photo": ["p.jpg"], "style": ["a.png", "marbling"], "style_mask": ["m.png"], "init": ["i.png"]}
    names["model"] = ["n.py"]
    found: dict[str, list[str]] = {}
    for name, path in options.files():
        found.setdefault(name, []).append(str(path))
    assert found == names
    vectors = MaximizeOptions(objective="direction(a, v.npy) + direction(b, '/x y/w.safetensors') - 2 * logit(1.5)")
    assert [str(path) for _, path in vectors.files()] == ["v.npy", "/x y/w.safetensors"]


def test_only_the_commands_that_follow_a_recipe_can_trust_it() -> None:
    assert ReplayOptions(picture="a.png", trust=True).trust
    assert ResumeOptions(checkpoint="a.ckpt", trust=True).trust
    for options in (StylizeOptions, *OPTIONS_OF_COMMANDS.values()):
        assert "trust" not in [each.name for each in fields(options)]


def test_links_in_a_folder_are_followed_only_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home/data/more").mkdir(parents=True)
    (tmp_path / "secret.png").touch()
    monkeypatch.chdir(tmp_path / "home")
    Path("photo.png").touch()
    options = ExamplesOptions(data=Path("data"))
    Path("data/a.png").symlink_to("../photo.png")
    check_trusted(options, [], Path("sheet.png"))
    Path("data/more/b.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UntrustedError, match=r"sheet\.png would read data/more/b\.png, which is outside"):
        check_trusted(options, [], Path("sheet.png"))
    check_trusted(options, [], tmp_path / "sheet.png")  # the folder of the picture has all of them


def test_a_refusal_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UntrustedError) as found:
        check_trusted(StylizeOptions(photo="../p.jpg", style=["marbling"]), [], Path("../other/a.png"))
    place = "which is outside the current folder and the folder of ../other/a.png"
    assert str(found.value) == f"../other/a.png would read ../p.jpg, {place}; trust ../other/a.png to allow it"
    assert found.value.remedies == ("trust",)
    with pytest.raises(UntrustedError) as found:
        check_trusted_output(Path("/out.png"), Path("a.ckpt"))
    assert str(found.value).startswith(
        "a.ckpt would write /out.png, which is outside the current folder; name an output"
    )
    assert found.value.remedies == ("output", "trust")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--checkpoint", "out.png"], "the checkpoint out.png is also the output; choose another checkpoint"),
        (["--checkpoint", "./OUT.png"], "the checkpoint OUT.png is also the output; choose another checkpoint"),
        (["--checkpoint", "here/out.png"], "the checkpoint here/out.png is also the output; choose"),
        (["--checkpoint", "link.png"], "the checkpoint link.png is also the photo; choose another checkpoint"),
        (["--checkpoint", "style.png"], "the checkpoint style.png is also the style; choose another checkpoint"),
        (["--checkpoint", "mask.png"], "the checkpoint mask.png is also the content mask; choose"),
        (["--checkpoint", "w.pth", "--weights", "w.pth"], "the checkpoint w.pth is also the weights; choose"),
        (["--checkpoint", "out.gif", "--timelapse", "gif"], "the checkpoint out.gif is also the animation; choose"),
        (["--checkpoint", "out-loss.png", "--plot"], "the checkpoint out-loss.png is also the plot; choose"),
        (["-o", "photo.png", "--overwrite"], "the output photo.png is also the photo; choose another output"),
        (["-o", "link.png", "--overwrite"], "the output link.png is also the photo; choose another output"),
        (["-o", "here/style.png", "--overwrite"], "the output here/style.png is also the style; choose"),
        (["-o", "mask.png", "--overwrite"], "the output mask.png is also the content mask; choose"),
        (["-o", "style.png", "--init", "style.png", "--overwrite"], "the output style.png is also the "),
    ],
)
def test_no_output_of_stylize_is_an_input(line: list[object], message: str, command: Command, photo: Tensor) -> None:
    for name in ("photo.png", "style.png", "mask.png"):
        images.save(photo, name)
    Path("w.pth").write_text("weights")
    Path("link.png").symlink_to("photo.png")
    Path("here").symlink_to(".")
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    more = ["--style", "style.png", "--content-mask", "mask.png", *QUICK, *([] if "-o" in line else ["-o", "out.png"])]
    run = command("stylize", "photo.png", *more, *line)
    assert (run.code, run.err.startswith(f"error: {message}")) == (2, True), run.err
    assert len(run.err.splitlines()) == 1
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


def test_no_output_of_a_folder_is_a_painting(command: Command, photo: Tensor) -> None:
    images.save(photo, "photos/a.png")
    images.save(photo, "photos/b.png")
    images.save(1 - photo, "out/a.png")
    before = Path("out/a.png").read_bytes()
    run = command("stylize", "photos", "--style", "out/a.png", *QUICK[2:], "-o", "out", "--overwrite")
    assert run.code == 1
    assert "failed: photos/a.png: the output out/a.png is also the style; choose another output\n" in run.err
    assert Path("out/a.png").read_bytes() == before
    assert Path("out/b.png").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["invert", "photo.png", "-o", "./photo.png"], "the output photo.png is also the photo; choose"),
        (["maximize", "channel(conv1, 0)", "--init", "photo.png", "-o", "photo.png"], "is also the init; choose"),
        (["examples", "--data", "data", "-o", "data/a.png"], "is a file in the folder data, which is the data; choose"),
        (["units", "--folder", "data", "-o", "data/0003.png"], "--output must not be data/0003.png: pictures in the"),
        (["replay", "photo.png", "-o", "photo.png"], "the output photo.png is also the picture to make again; choose"),
    ],
)
def test_no_output_of_dream_is_an_input(line: list[object], message: str, command: Command) -> None:
    Path("data").mkdir()
    for name in ("photo.png", "data/a.png", "data/0003.png"):
        Image.new("L", (28, 28), 90).save(name)
    note = '{"command": "dream units", "options": {}}'
    images.save(Image.new("L", (28, 28), 90), "photo.png", note, overwrite=True)
    before = {path: path.read_bytes() for path in Path().rglob("*.png")}
    run = command("dream", *line, "--overwrite")
    assert (run.code, message in run.err) == (2, True), run.err
    assert len(run.err.splitlines()) == 1
    assert {path: path.read_bytes() for path in Path().rglob("*.png")} == before


def test_only_the_picture_is_made_again(command: Command, photo: Tensor) -> None:
    """The recipe asks for a page, an animation and a plot, but the user named only the picture."""
    images.save(photo, "photo.png")
    assert command("stylize", "photo.png", *QUICK, "--plot", "--timelapse", "gif", "-o", "a.png").code == 0
    run = command("stylize", "replay", "a.png", "-o", "b.png", "--overwrite")
    assert (run.code, [line.split()[0] for line in run.out.splitlines()]) == (0, ["b.png"])
    line = ["units", "--layer", "conv1", "--units", "0", "--steps", 1, "--html", "--timelapse", "gif", "-o", "c.png"]
    assert command("dream", *line).code == 0
    run = command("dream", "replay", "c.png", "-o", "d.png", "--overwrite")
    assert (run.code, [line.split()[0] for line in run.out.splitlines()]) == (0, ["d.png"])


def test_a_network_in_a_folder_is_a_file_that_the_recipe_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home/net").mkdir(parents=True)
    (tmp_path / "net").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    for model in ("hf:net", "hf:google/vit-base-patch16-224", "timm:resnet18"):
        check_trusted(MaximizeOptions(objective="logit(1)", model=model), [], Path("a.png"))
    with pytest.raises(UntrustedError, match=r"a\.png would read \.\./net, which is outside"):
        check_trusted(MaximizeOptions(objective="logit(1)", model="hf:../net"), [], Path("a.png"))
