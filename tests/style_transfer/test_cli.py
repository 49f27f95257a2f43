from __future__ import annotations

import inspect
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor

from dreamgram.image_optimization import images
from dreamgram.image_optimization.names import must_be
from dreamgram.image_optimization.optimize import OPTIMIZERS
from dreamgram.image_optimization.video_conversion import read_frames
from dreamgram.style_transfer import stylizer
from dreamgram.style_transfer.budget import WHOLE, Budget
from dreamgram.style_transfer.drawn_styles import DRAWN_STYLES
from dreamgram.style_transfer.losses import STYLE_LOSSES
from dreamgram.style_transfer.options import StylizeOptions
from dreamgram.style_transfer.paint import paint, plan_of
from dreamgram.workbench.job import Job
from dreamgram.workbench.recipe import Inputs, Recipe
from tests.conftest import Command
from tests.files import bad_files
from tests.jobs import stopping_at

QUICK = ["--size", 40, "--steps", 2]
COMMANDS = {"stylize": StylizeOptions}


def test_stylize_as_typed(command: Command, photo_file: Path) -> None:
    run = command("stylize", photo_file, "--style", "stained-glass", *QUICK)
    assert run.code == 0, run.err
    assert run.out.startswith("outputs/stylized.png  ")
    assert Image.open("outputs/stylized.png").size == (34, 40)
    recipe = Recipe.read(Path("outputs/stylized.png"), COMMANDS)
    assert recipe.command == "stylize"
    assert isinstance(recipe.options, StylizeOptions)
    assert recipe.options.style == ["stained-glass"]
    assert recipe.options.photo == photo_file
    assert recipe.options.precision in ("float32", "bfloat16")  # the format that auto selected
    assert recipe.options.style_layers == {f"relu{block}_1": 1.0 for block in range(1, 5)}  # the preset's
    assert command("stylize", photo_file, "--style", "stained-glass", *QUICK).out.startswith("outputs/stylized-2.png  ")


def test_every_option_as_typed(command: Command, photo_file: Path) -> None:
    shutil.copy(photo_file, "painting.jpg")
    run = command(
        "stylize", photo_file, "--style", "painting.jpg", "--style", "marbling", "--blend", "2,1", "--size", 48,
        "--content-weight", 2, "--style-weight", 5, "--tv-weight", 0.1, "--init", "noise", "--optimizer", "adam",
        "--steps", 2, "--seed", 4, "--device", "cpu", "--precision", "float32", "--output", "new/folder/a.jpg",
    )  # fmt: skip
    assert run.code == 0, run.err
    assert Image.open("new/folder/a.jpg").size == (41, 48)
    run = command(
        "stylize", photo_file, "--style", "marbling", "--init", "new/folder/a.jpg", "--preset", "gatys", *QUICK
    )
    assert run.code == 0, run.err


def test_a_draft_as_typed(command: Command, photo_file: Path) -> None:
    shutil.copy(photo_file, "photo.jpg")
    how = ["stylize", "photo.jpg", "--style", "marbling", "--device", "cpu"]
    run = command(*how, "--size", 96, "--steps", 4, "--draft", "-o", "draft.png")
    assert run.code == 0, run.err
    assert max(Image.open("draft.png").size) == 48
    assert command("stylize", "replay", "draft.png", "-o", "again.png").code == 0
    assert command(*how, "--size", 48, "--steps", 2, "-o", "small.png").code == 0
    for name in ("again.png", "small.png"):
        assert Image.open(name).tobytes() == Image.open("draft.png").tobytes()


def test_a_photo_passes_through_few_functions(
    command: Command, photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count the project's functions from the one that parses the path of the photo to the one that calls the engine."""
    way: list[str] = []

    def optimize(*given: object, **named: object) -> None:
        names = [(each.frame.f_globals["__name__"], each.function) for each in inspect.stack()]
        # The decorator of public functions is a part of the engine.
        decorator = "dreamgram.image_optimization.settings"
        way.extend(function for name, function in names if name.startswith("dreamgram.") and name != decorator)
        raise ValueError("this is far enough")

    monkeypatch.setattr(stylizer, "optimize", optimize)
    run = command("stylize", photo_file, "--style", "marbling", "--size", 40)
    assert run.err == "error: this is far enough\n"
    assert (way[0], way[-1]) == ("_paint_scale", "main")
    assert len(way[: way.index("_dispatch") + 1]) <= 8, way


def test_a_replay_says_that_an_old_picture_will_differ(command: Command, photo_file: Path) -> None:
    shutil.copy(photo_file, "photo.jpg")
    line = ["stylize", "photo.jpg", "--style", "marbling", "--size", 40, "--steps", 1]
    assert command(*line, "-o", "new.png").code == 0
    made = Recipe.read(Path("new.png"), COMMANDS)
    with Image.open("new.png") as picture:
        images.save(picture, "old.png", replace(made, version="0.1.0").note())
    run = command("stylize", "replay", "old.png", "-o", "a.png")
    reason = "version 0.2.0 changed the optimization, so the picture will differ"
    assert (run.code, run.err) == (0, f"old.png was made by Dreamgram 0.1.0; {reason}\n")
    assert command("stylize", "replay", "new.png", "-o", "b.png").err == ""


def test_masks_colors_and_layers_as_typed(command: Command, photo_file: Path) -> None:
    mask = Image.new("L", (55, 64))
    mask.paste(255, (0, 0, 25, 64))
    mask.save("mask.png")
    run = command(
        "stylize", photo_file, "--style", "marbling", "--style", "stained-glass", "--content-mask", "mask.png",
        "--colors", "match", "--style-loss", "wasserstein", "--style-layers", "relu1_1=1,relu3_1=0.5",
        "--content-layers", "relu3_1", "--style-scale", 0.7, *QUICK,
    )  # fmt: skip
    assert run.code == 0, run.err
    # There is one style, and its mask has both regions.
    shutil.copy(photo_file, "painting.jpg")
    run = command(
        "stylize", photo_file, "--style", "painting.jpg", "--content-mask", "mask.png", "--style-mask", "mask.png",
        "--colors", "content", "--style-loss", "nearest", "--style-layers", "relu2_1", *QUICK,
    )  # fmt: skip
    assert run.code == 0, run.err
    # There are two styles, each with a mask.
    Image.new("L", (64, 64)).save("black.png")
    Image.new("L", (64, 64), 255).save("white.png")
    run = command(
        "stylize", photo_file, "--style", "marbling", "--style", "stained-glass", "--content-mask", "mask.png",
        "--style-mask", "white.png", "--style-mask", "black.png", "--style-layers", "relu2_1", *QUICK, "-o", "a.png",
    )  # fmt: skip
    assert run.code == 0, run.err
    assert Recipe.read(Path("a.png"), COMMANDS).options.record()["style_mask"] == ["white.png", "black.png"]


def test_made_again_bit_for_bit(command: Command, photo_file: Path) -> None:
    shutil.copy(photo_file, "photo.jpg")
    styles = [
        "--style",
        "marbling",
        "--style",
        "stained-glass",
        "--blend",
        "2,1",
        "--style-layers",
        "relu1_1=1,relu2_1",
    ]
    run = command("stylize", "photo.jpg", *styles, "--init", "noise", "--seed", 3, *QUICK, "-o", "a.png")
    assert run.code == 0, run.err
    run = command("stylize", "replay", "a.png", "-o", "b.png")
    assert run.code == 0, run.err
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    run = command("stylize", "replay", "a.png", "-o", "b.png")
    assert (run.code, "b.png exists" in run.err) == (2, True)
    images.save(torch.rand(1, 3, 9, 9), "c.png", '{"command": "dream units"}')
    run = command("stylize", "replay", "c.png")
    assert (run.code, run.err) == (2, "error: c.png was made by 'dream units', not by a command of stylize\n")
    images.save(torch.rand(1, 3, 9, 9), "d.png")
    run = command("stylize", "replay", "d.png")
    assert (run.code, run.err) == (2, "error: d.png holds no recipe of Dreamgram\n")
    assert command("stylize", "replay", "gone.png").err == "error: no image file gone.png\n"
    Path("text.png").write_text("a letter")
    assert command("stylize", "replay", "text.png").err == "error: text.png is not an image that can be read\n"
    Path("photo.jpg").write_bytes(Path("photo.jpg").read_bytes() + b"more")
    run = command("stylize", "replay", "a.png")
    assert (run.code, run.err) == (2, "error: photo.jpg, used to make this picture, has changed since\n")
    Path("photo.jpg").unlink()
    run = command("stylize", "replay", "a.png")
    assert (run.code, run.err) == (2, "error: photo.jpg, used to make this picture, is missing\n")


def test_a_tiled_picture_is_made_again_with_its_tiles(command: Command, photo_file: Path) -> None:
    """Only the last scale is tiled. The picture is replayed from its recipe and resumed from a checkpoint."""
    layers = {"content_layers": {"relu2_1": 1}, "style_layers": {"relu1_1": 1, "relu2_1": 1}}
    how = {"size": 240, "steps": 4, "colors": "match", **layers}
    shutil.copy(photo_file, "photo.jpg")
    options = StylizeOptions(photo=Path("photo.jpg"), style=["marbling"], output=Path("a.png"), **how)
    tiled = Recipe.of("stylize", options, Inputs(), {"plan": [astuple(WHOLE), (4, 160)]})
    assert paint(options, Job(), tiled).stopped == "finished"
    unfinished = options.change(output=Path("c.png"), checkpoint=Path("first.ckpt"))
    assert paint(unfinished, stopping_at(3), tiled).stopped == "interrupted"
    assert command("stylize", "replay", "a.png", "-o", "b.png").code == 0
    Path("first.ckpt").rename("moved.ckpt")
    Path("first.ckpt").write_text("another run's")
    assert command("stylize", "resume", "moved.ckpt", "--overwrite").code == 0
    for again in ("b.png", "c.png"):
        assert Path("a.png").read_bytes() == Path(again).read_bytes()
    assert (Path("moved.ckpt").exists(), Path("first.ckpt").exists()) == (False, True)
    damaged = {**json.loads(images.read_note("a.png") or ""), "made": {"plan": [[4, 96]]}}
    images.save(torch.rand(1, 3, 9, 9), "damaged.png", json.dumps(damaged))
    assert command("stylize", "replay", "damaged.png").err == "error: the plan has 1 budgets for 2 scales\n"
    # Without tiles, the picture is different.
    paint(options.change(output=Path("d.png")), Job())
    assert Image.open("a.png").tobytes() != Image.open("d.png").tobytes()


def test_the_tiles_of_version_0_1_0(photo: Tensor) -> None:
    """Recipes of version 0.1.0 list the height and width of each scale before its budget."""
    flat = {"command": "stylize", "photo": "photo.png", "style": ["marbling"], "tiled": "[[60, 50, 7, 90]]"}
    assert plan_of(Recipe.parse(json.dumps(flat), COMMANDS, "a.png")) == [Budget(7, 90)]
    for broken in ("[[60]]", "[[60, 50, 7, 90, 3]]", "{", "5", "[[1, 2, null, 4]]", "[[60, 50, 0, 90]]"):
        with pytest.raises(ValueError, match="the recipe does not say how the picture was tiled"):
            plan_of(Recipe.parse(json.dumps({**flat, "tiled": broken}), COMMANDS, "a.png"))


def test_animations_and_the_plot_as_typed(command: Command, photo_file: Path) -> None:
    run = command("stylize", photo_file, "--style", "marbling", *QUICK, "--timelapse", "webp", "--plot", "-o", "a.png")
    assert run.code == 0, run.err
    assert [line.split()[0] for line in run.out.splitlines()] == ["a.png", "a.webp", "a-loss.png"]
    with Image.open("a.webp") as film:
        assert film.n_frames == 2
        assert film.size == (34, 40)
    assert Image.open("a-loss.png").width > 500
    large = ["--size", 230, "--steps", 3, "--content-layers", "relu2_1", "--style-layers", "relu1_1"]
    assert command("stylize", photo_file, "--style", "marbling", *large, "--timelapse", "webp", "-o", "d.png").code == 0
    with Image.open("d.webp") as film:
        assert film.n_frames == 4  # one step at half the size, and three at the full size
    run = command("stylize", photo_file, "--style", "marbling", *QUICK, "--timelapse", "gif", "-o", "b.png")
    assert run.out.splitlines()[1].startswith("b.gif  ")
    with Image.open("b.gif") as film:
        assert (film.format, film.n_frames) == ("GIF", 2)
    longer = ["--size", 40, "--steps", 4]  # the first step raises the loss, and is undone
    run = command("stylize", photo_file, "--style", "marbling", *longer, "--timelapse", "mp4", "-o", "c.png")
    assert run.out.splitlines()[1].startswith("c.mp4  ")
    frames = [frame.image for frame in read_frames(Path("c.mp4"))]
    assert len(frames) == 3 + 20  # the last one is shown for longer
    assert (frames[-1] - images.load("c.png")).abs().mean() < 0.05


def test_bits_opacity_and_exif_of_the_photo_are_kept(command: Command, photo: Tensor) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "A camera"
    alpha = torch.linspace(0, 1, 55).expand(1, 1, 64, 55)
    images.save(photo, "photo.png", alpha=alpha, bits=16, exif=exif.tobytes())
    assert command("stylize", "photo.png", "--style", "marbling", *QUICK, "-o", "a.png").code == 0
    made = images.read("a.png")
    assert made.bits == 16
    assert made.alpha is not None
    torch.testing.assert_close(made.alpha, images.resize(alpha, (40, 34)), rtol=0, atol=1e-4)
    assert Image.open("a.png").getexif()[ExifTags.Base.Model] == "A camera"
    assert Recipe.read(Path("a.png"), COMMANDS).command == "stylize"
    run = command("stylize", "photo.png", "--style", "marbling", *QUICK, "-o", "b.png", "--strip", "--bits", 8)
    assert run.code == 0, run.err
    assert images.read("b.png").bits == 8
    assert not Image.open("b.png").getexif()
    run = command("stylize", "photo.png", "--style", "marbling", *QUICK, "-o", "d.jpg")
    assert (run.code, run.err) == (0, "d.jpg cannot be transparent: the transparent parts of photo.png become white\n")
    run = command("stylize", "photo.png", "--style", "marbling", *QUICK, "-o", "c.jpg", "--bits", 16)
    assert (run.code, run.err) == (2, "error: c.jpg can have 8 bits, not 16\n")


def test_the_resolution_for_printing(command: Command, photo: Tensor) -> None:
    images.save(photo, "photos/a.png")
    line = ["--style", "marbling", *QUICK, "--dpi", 300]
    assert command("stylize", "photos", *line, "-o", "out").code == 0
    assert command("stylize", "photos/a.png", *line, "-o", "b.jpg").code == 0
    for name in ("out/a.png", "b.jpg"):
        with Image.open(name) as picture:
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_the_first_frame_of_an_animation_is_painted(command: Command) -> None:
    frames = [Image.effect_noise((60, 60), 50).convert("RGB") for _ in range(3)]
    frames[0].save("a.tif", save_all=True, append_images=frames[1:])
    run = command("stylize", "a.tif", "--style", "marbling", *QUICK)
    assert run.code == 0, run.err
    assert "a.tif has 3 frames, of which the first is painted" in run.err
    Image.effect_noise((60, 60), 50).save("photo.png")
    run = command("stylize", "photo.png", "--style", "a.tif", *QUICK)
    assert (run.code, run.err) == (0, "a.tif has 3 frames, of which the first is the style\n")


def test_list_styles(command: Command) -> None:
    run = command("stylize", "--list-styles")
    assert run.code == 0
    assert [line.split()[0] for line in run.out.splitlines()] == list(DRAWN_STYLES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jpg", "--style", "marbling"], "no image file missing.jpg"),
        (["folder", "--style", "marbling"], "folder contains no pictures (.png, .jpg"),
        (["zero.png", "--style", "marbling"], "zero.png is empty (0 bytes), not an image"),
        (["text.png", "--style", "marbling"], "text.png is not an image that can be read"),
        (["cut.png", "--style", "marbling"], "cut.png is a damaged image"),
        (
            ["bomb.png", "--style", "marbling"],
            "bomb.png has 3600 megapixels, and the limit is 180 (--max-pixels 3600M)",
        ),
        (["tiny.png", "--style", "marbling"], "the photo has 7x7 pixels; VGG needs 8 each way"),
        (["whole.png", "--style", "text.png"], "text.png is not an image that can be read"),
        (["whole.png", "--style", "marblin"], "no image file or drawn style 'marblin'; did you mean 'marbling'?"),
        (["whole.png"], "--style is missing; --help shows how it is given"),
        (["whole.png", "--style", "marbling", "--blend", "1,2"], "1 style but 2 blend weights; give one for each"),
        (["whole.png", "--style", "marbling", "--blend", "x"], "--blend must be numbers such as 2,1, not 'x'"),
        (
            ["whole.png", "--style", "marbling", "--size", "-1"],
            "--size must be at least 1, not -1",
        ),
        (
            ["whole.png", "--style", "marbling", "--steps", "-7"],
            "--steps must be at least 1, not -7",
        ),
        (["whole.png", "--style", "marbling", "--style-weight", "-1"], "--style-weight must be at least 0, not -1"),
        (
            ["whole.png", "--style", "marbling", "--init", "nois"],
            "--init must be content, noise or an image file, and there is no file 'nois'; did you mean 'noise'?",
        ),
        (["whole.png", "--style", "marbling", "--weights", "whole.png"], "the file holds no tensors that torch.save"),
        (["whole.png", "--style", "marbling", "--style-layers", "relu1_1,relu1_1=2"], "has relu1_1 twice"),
        (["nan.tif", "--style", "marbling"], "nan.tif is a damaged image: some pixels are not finite numbers"),
        (["whole.png", "--style", "marbling", "--style-loss", "x"], f"--style-loss {must_be('x', STYLE_LOSSES)}"),
        (
            ["whole.png", "--style", "marbling", "--style-layers", "relu1_1=a"],
            "--style-layers must be layers with weights such as",
        ),
        (["whole.png", "--style", "marbling", "--style-layers", "relu11"], "no layer 'relu11'; did you mean 'relu1_1'"),
        (["whole.png", "--style", "marbling", "--content-mask", "no.png"], "no image file no.png"),
        (
            ["whole.png", "--style", "marbling", "--colors", "red"],
            "--colors must be 'style', 'content', 'luminance' or 'match', not",
        ),
        (["whole.png", "--style", "marbling", "--style-scale", "0"], "--style-scale must be above 0, not 0"),
        (["whole.png", "--style", "marbling", "--preset", "x"], "--preset must be 'default' or 'gatys', not 'x'"),
        (["whole.png", "--style", "marbling", "--optimizer", "x"], f"--optimizer {must_be('x', OPTIMIZERS)}"),
        (
            ["whole.png", "--style", "marbling", "--precision", "fp16"],
            "--precision must be 'auto', 'float32', 'bfloat16'",
        ),
        (["whole.png", "--style", "marbling", "--model", "vgg"], "no network 'vgg'; did you mean 'vgg"),
        (["whole.png", "--style", "marbling", "--model", "digits"], "no layer 'relu3_1'"),
        (
            ["whole.png", "--style", "marbling", "--device", "tpu"],
            "no device 'tpu'; did you mean 'cpu'? this machine has cpu",
        ),
        (
            ["whole.png", "--style", "whole.png", "--size", "20000", "--output", "a.webp"],
            "a.webp can have 16383 pixels a side, not 20000; PNG and TIFF can have more",
        ),
        (
            ["whole.png", "--style", "whole.png", "--size", "400000"],
            "GB are too little for a picture of 160,000,000,000 p",
        ),
        (["whole.png", "--style", "marbling", "--output", "whole.png"], "whole.png exists"),
        (["whole.png", "--style", "marbling", "--bits", "7"], "--bits must be 8 or 16, not '7'"),
        (["whole.png", "--style", "marbling", "--seed", "9" * 30], "--seed must be from -9.22337e+18 to 1.84467e+19"),
        (["whole.png", "--style", "marbling", "--max-memory", "lots"], "--max-memory must be an amount of memory such"),
        (["whole.png", "--style", "marbling", "--output", "zero.png/a.png"], "cannot write into zero.png"),
    ],
)
def test_bad_input_gets_one_clear_line(arguments: list[str], message: str, command: Command) -> None:
    bad_files(Path())
    Path("folder").mkdir()
    Image.effect_noise((7, 7), 50).save("tiny.png")
    Image.fromarray(np.full((60, 60), np.nan, dtype=np.float32)).save("nan.tif")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    run = command("stylize", *arguments, *([] if "--size" in arguments or "--steps" in arguments else QUICK))
    assert run.code == 2
    assert message in run.err
    assert run.err.startswith("error: ")
    assert run.err.count("\n") == 1
    assert "Traceback" not in run.err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_ctrl_c_saves_the_picture_so_far(photo_file: Path, tmp_path: Path) -> None:
    arguments = [photo_file, "--style", "marbling", "--size", "200", "--steps", "100000", "--output", "a.png"]
    process = subprocess.Popen(
        [sys.executable, "-c", TOLD_OF_STEP_3, *map(str, arguments)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "step 3\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "a.png  " in out
    said = "interrupted: saved the picture so far; stylize resume a continues it"
    assert err == f"stopping as soon as what is done is saved; Ctrl-C again stops at once\n{said}\n"
    assert Image.open(tmp_path / "a.png").size == (171, 200)


TOLD_OF_STEP_3 = """
from dreamgram.style_transfer.cli import main
from dreamgram.workbench.console import Terminal

Terminal.progress = lambda self, step: print(f"step {step.number}", flush=True) if step.number == 3 else None
main()
"""


TELLING_BEFORE_THE_FIRST_STEP = """
from dreamgram.style_transfer.cli import main
from dreamgram.style_transfer.stylizer import Stylizer

loss = Stylizer._loss

def telling(self, *given):
    print("ready", flush=True)
    return loss(self, *given)  # computing the targets takes a moment

Stylizer._loss = telling
main()
"""


def test_ctrl_c_before_the_first_step(photo_file: Path, tmp_path: Path) -> None:
    arguments = [str(photo_file), "--style", "marbling"]
    process = subprocess.Popen(
        [sys.executable, "-c", TELLING_BEFORE_THE_FIRST_STEP, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "interrupted: nothing was saved\n"
    assert not list(tmp_path.rglob("*.png"))


def test_a_picture_is_not_made_again_by_another_network(command: Command, photo_file: Path) -> None:
    Path("nets.py").write_text(
        "from pathlib import Path\n"
        "from dreamgram.models import load\n"
        "def net():\n"
        "    model = load('vgg16')\n"
        "    model.conv1_1.weight.data *= float(Path('factor.txt').read_text())\n"
        "    return model\n"
    )
    Path("factor.txt").write_text("1.1")
    shutil.copy(photo_file, "photo.jpg")
    line = ["photo.jpg", "--style", "marbling", "--style-layers", "relu1_1", "--model", "nets.py:net", *QUICK]
    assert command("stylize", *line, "-o", "a.png").code == 0
    assert command("stylize", "replay", "a.png", "-o", "b.png", "--trust").code == 0
    Path("factor.txt").write_text("0.9")
    run = command("stylize", "replay", "a.png", "-o", "c.png", "--trust")
    assert (run.code, run.err) == (2, "error: the network has different weights now from when the picture was made\n")


def test_what_belongs_to_a_picture_never_overwrites_an_input(command: Command, photo: Tensor) -> None:
    images.save(photo, "cat.webp")
    before = Path("cat.webp").read_bytes()
    line = ["cat.webp", "--style", "marbling", *QUICK, "-o", "cat.png", "--overwrite", "--timelapse", "webp"]
    run = command("stylize", *line)
    assert (run.code, run.out.split()[0]) == (0, "cat.png")
    assert Path("cat.webp").read_bytes() == before
    assert Path("cat-2.webp").exists()


def test_resume_tells_what_this_version_does_not_know(command: Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    options = StylizeOptions(photo=Path("photo.png"), style=["marbling"], size=40, steps=4, checkpoint_every=0)
    paint(options.change(output=Path("a.png"), checkpoint=Path("run.ckpt")), stopping_at(2))
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open("run.ckpt", "pt") as file:
        state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        kept = json.loads(file.metadata()["dreamgram"])
    kept["version"], kept["options"]["hair"] = "9.0.0", 3
    save_file(state, "run.ckpt", {"dreamgram": json.dumps(kept)})
    run = command("stylize", "resume", "run.ckpt", "--overwrite")
    assert run.code == 0
    assert "run.ckpt was made with hair, which this version does not know" in run.err
    assert "run.ckpt was made by Dreamgram 9.0.0, which is newer than this one" in run.err
