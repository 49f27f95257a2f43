from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor

from image_optimization import console, images
from image_optimization.images import read_settings
from image_optimization.optimize import Listener, Step
from style_transfer import video
from style_transfer.budget import WHOLE, Budget
from style_transfer.painters import PAINTERS
from tests.conftest import Command
from tests.files import bad_files

QUICK = ["--size", 40, "--steps", 2]


def test_stylize_as_typed(command: Command, photo_file: Path) -> None:
    run = command("stylize", photo_file, "--style", "stained-glass", *QUICK)
    assert run.code == 0, run.err
    assert run.out.startswith("outputs/stylized.png  ")
    assert Image.open("outputs/stylized.png").size == (34, 40)
    settings = read_settings("outputs/stylized.png")
    assert settings["command"] == "stylize"
    assert settings["style"] == ["stained-glass"]
    assert settings["photo"] == str(photo_file)
    assert settings["precision"] in ("float32", "bfloat16")  # what auto was


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


def test_masks_colors_and_layers_as_typed(command: Command, photo_file: Path) -> None:
    mask = Image.new("L", (55, 64))
    mask.paste(255, (0, 0, 25, 64))
    mask.save("mask.png")
    run = command(
        "stylize", photo_file, "--style", "marbling", "--style", "brushwork", "--content-mask", "mask.png",
        "--colors", "match", "--style-loss", "wasserstein", "--style-layers", "relu1_1=1,relu3_1=0.5",
        "--content-layers", "relu3_1", "--style-scale", 0.7, *QUICK,
    )  # fmt: skip
    assert run.code == 0, run.err
    # One style, whose mask has both regions.
    shutil.copy(photo_file, "painting.jpg")
    run = command(
        "stylize", photo_file, "--style", "painting.jpg", "--content-mask", "mask.png", "--style-mask", "mask.png",
        "--colors", "content", "--style-loss", "nearest", *QUICK,
    )  # fmt: skip
    assert run.code == 0, run.err


def test_made_again_bit_for_bit(command: Command, photo_file: Path) -> None:
    styles = ["--style", "marbling", "--style", "brushwork", "--blend", "2,1", "--style-layers", "relu1_1=1,relu2_1"]
    run = command("stylize", photo_file, *styles, "--init", "noise", "--seed", 3, *QUICK, "-o", "a.png")
    assert run.code == 0, run.err
    run = command("stylize", "replay", "a.png", "-o", "b.png")
    assert run.code == 0, run.err
    assert Image.open("a.png").tobytes() == Image.open("b.png").tobytes()
    run = command("stylize", "replay", "a.png", "-o", "b.png")
    assert (run.code, "b.png exists" in run.err) == (2, True)
    assert command("dream", "units", "--units", "0", "--steps", 1, "-o", "c.png").code == 0
    run = command("stylize", "replay", "c.png")
    assert (run.code, run.err) == (2, "error: c.png was not made by stylize: it cannot be made again\n")
    assert command("stylize", "replay", "gone.png").err == "error: no image file gone.png\n"
    Path("text.png").write_text("a letter")
    assert command("stylize", "replay", "text.png").err == "error: text.png is not an image that can be read\n"


def test_a_tiled_picture_is_made_again_with_its_tiles(
    command: Command, photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last scale is tiled, the one before is not. Begun anew, and gone on with in the middle."""
    options = ["--size", 280, "--steps", 2, "--precision", "float32", "--colors", "match", "--checkpoint-every", 0]
    line = [photo_file, "--style", "marbling", *options]

    def plan(*arguments: object) -> Budget:
        return Budget(pairs=4, side=256) if arguments[2] > 256**2 else WHOLE  # type: ignore[operator]

    def stop(step: Step) -> None:
        if step.number == 3:
            raise KeyboardInterrupt

    @contextmanager
    def stopping(*_: object) -> Iterator[Listener]:
        yield stop

    monkeypatch.setattr("style_transfer.transfer.COARSEST", 110)
    with monkeypatch.context() as patch:
        patch.setattr("style_transfer.budget.plan", plan)
        assert command("stylize", *line, "-o", "a.png").code == 0
        patch.setattr(console, "progress", stopping)
        assert command("stylize", *line, "--checkpoint", "first.ckpt", "-o", "c.png").code == 130
    budgets = [[140, 119, *astuple(WHOLE)], [280, 239, 4, 256]]
    assert json.loads(read_settings("a.png")["tiled"]) == budgets
    monkeypatch.setattr("style_transfer.budget.plan", lambda *arguments: pytest.fail("planned again"))
    assert command("stylize", "replay", "a.png", "-o", "b.png").code == 0
    Path("first.ckpt").rename("moved.ckpt")
    Path("first.ckpt").write_text("another run's")
    assert command("stylize", "resume", "moved.ckpt", "--overwrite").code == 0
    for again in ("b.png", "c.png"):
        assert json.loads(read_settings(again)["tiled"]) == budgets
        assert Image.open("a.png").tobytes() == Image.open(again).tobytes()
    assert (Path("moved.ckpt").exists(), Path("first.ckpt").exists()) == (False, True)


def test_how_it_came_about_as_typed(command: Command, photo_file: Path) -> None:
    run = command("stylize", photo_file, "--style", "marbling", *QUICK, "--timelapse", "webp", "--plot", "-o", "a.png")
    assert run.code == 0, run.err
    assert run.out.splitlines()[1:] == ["a.webp", "a-loss.png"]
    with Image.open("a.webp") as film:
        assert film.n_frames == 2
        assert film.size == (34, 40)
    assert Image.open("a-loss.png").width > 500
    run = command("stylize", photo_file, "--style", "marbling", *QUICK, "--timelapse", "gif", "-o", "b.png")
    assert run.out.splitlines()[1:] == ["b.gif"]
    with Image.open("b.gif") as film:
        assert (film.format, film.n_frames) == ("GIF", 2)
    run = command("stylize", photo_file, "--style", "marbling", *QUICK, "--timelapse", "mp4", "-o", "c.png")
    assert run.out.splitlines()[1:] == ["c.mp4"]
    frames = [frame.image for frame in video.read_frames(Path("c.mp4"))]
    assert len(frames) == 1 + 20  # the last one is shown for longer
    assert (frames[-1] - images.load("c.png")).abs().mean() < 0.05


def test_what_belongs_to_the_photo_is_kept(command: Command, photo: Tensor) -> None:
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
    assert read_settings("a.png")["style"] == ["marbling"]
    run = command("stylize", "photo.png", "--style", "marbling", *QUICK, "-o", "b.png", "--strip", "--bits", 8)
    assert run.code == 0, run.err
    assert images.read("b.png").bits == 8
    assert not Image.open("b.png").getexif()
    run = command("stylize", "photo.png", "--style", "marbling", *QUICK, "-o", "d.jpg")
    assert (run.code, run.err) == (0, "d.jpg cannot be transparent: it will be white where photo.png is\n")
    run = command("stylize", "photo.png", "--style", "marbling", *QUICK, "-o", "c.jpg", "--bits", 16)
    assert (run.code, run.err) == (2, "error: c.jpg can have 8 bits, not 16\n")


def test_of_an_animation_the_first_frame(command: Command) -> None:
    frames = [Image.effect_noise((60, 60), 50).convert("RGB") for _ in range(3)]
    frames[0].save("a.gif", save_all=True, append_images=frames[1:])
    run = command("stylize", "a.gif", "--style", "marbling", *QUICK)
    assert run.code == 0, run.err
    assert "a.gif has 3 frames, of which the first is painted" in run.err
    Image.effect_noise((60, 60), 50).save("photo.png")
    run = command("stylize", "photo.png", "--style", "a.gif", *QUICK)
    assert (run.code, run.err) == (0, "a.gif has 3 frames, of which the first is the style\n")


def test_list_styles(command: Command) -> None:
    run = command("stylize", "--list-styles")
    assert run.code == 0
    assert [line.split()[0] for line in run.out.splitlines()] == list(PAINTERS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jpg", "--style", "marbling"], "no image file missing.jpg"),
        (["folder", "--style", "marbling"], "folder has no pictures in it: .png, .jpg"),
        (["zero.png", "--style", "marbling"], "zero.png is empty (0 bytes), not an image"),
        (["text.png", "--style", "marbling"], "text.png is not an image that can be read"),
        (["cut.png", "--style", "marbling"], "cut.png is a damaged image"),
        (["bomb.png", "--style", "marbling"], "bomb.png unpacks to more than 178,956,970 pixels: refused"),
        (["tiny.png", "--style", "marbling"], "the photo has 9x9 pixels; VGG needs 16 each way"),
        (["whole.png", "--style", "text.png"], "text.png is not an image that can be read"),
        (["whole.png", "--style", "marblin"], "no image file or drawn style 'marblin'; did you mean 'marbling'?"),
        (["whole.png"], "Missing option '--style'"),
        (["whole.png", "--style", "marbling", "--blend", "1,2"], "1 style but 2 blend weights; give one for each"),
        (["whole.png", "--style", "marbling", "--blend", "x"], "blend weights are numbers such as 2,1, not 'x'"),
        (
            ["whole.png", "--style", "marbling", "--size", "-1"],
            "Invalid value for '--size': must be at least 1, not -1",
        ),
        (
            ["whole.png", "--style", "marbling", "--steps", "-7"],
            "Invalid value for '--steps': must be at least 1, not -7",
        ),
        (["whole.png", "--style", "marbling", "--style-weight", "-1"], "style_weight must be 0 or more, not -1"),
        (
            ["whole.png", "--style", "marbling", "--init", "nois"],
            "no image file 'nois'; did you mean 'noise'? --init is",
        ),
        (["whole.png", "--style", "marbling", "--weights", "whole.png"], "it holds no tensors that torch.save or"),
        (["whole.png", "--style", "marbling", "--style-layers", "relu1_1,relu1_1=2"], "layer relu1_1 is given twice"),
        (["nan.tif", "--style", "marbling"], "nan.tif is a damaged image: some pixels are not finite numbers"),
        (["whole.png", "--style", "marbling", "--style-loss", "x"], "no style loss 'x'; there are gram, wasserstein"),
        (["whole.png", "--style", "marbling", "--style-layers", "relu1_1=a"], "layers are given with weights such as"),
        (["whole.png", "--style", "marbling", "--style-layers", "relu11"], "no layer 'relu11'; did you mean 'relu1_1'"),
        (["whole.png", "--style", "marbling", "--content-mask", "no.png"], "no image file no.png"),
        (["whole.png", "--style", "marbling", "--colors", "red"], "Invalid value for '--colors'"),
        (["whole.png", "--style", "marbling", "--style-scale", "0"], "style_scale must be above 0, not 0"),
        (["whole.png", "--style", "marbling", "--preset", "x"], "no preset 'x'; there are default, gatys"),
        (["whole.png", "--style", "marbling", "--optimizer", "sgd"], "Invalid value for '--optimizer'"),
        (["whole.png", "--style", "marbling", "--precision", "fp16"], "Invalid value for '--precision'"),
        (["whole.png", "--style", "marbling", "--model", "vgg"], "no network 'vgg'; did you mean 'vgg19'?"),
        (["whole.png", "--style", "marbling", "--model", "digits"], "no layer 'relu4_2'"),
        (["whole.png", "--style", "marbling", "--device", "tpu"], "no device 'tpu' on this machine; there are cpu"),
        (
            ["whole.png", "--style", "whole.png", "--size", "20000", "--output", "a.webp"],
            "a.webp can have 16383 pixels a side, not 20000; PNG and TIFF can have more",
        ),
        (
            ["whole.png", "--style", "whole.png", "--size", "400000"],
            "GB are too little for a picture of 160,000,000,000 p",
        ),
        (["whole.png", "--style", "marbling", "--output", "whole.png"], "whole.png exists"),
        (["whole.png", "--style", "marbling", "--output", "zero.png/a.png"], "cannot write into zero.png"),
    ],
)
def test_bad_input_gets_one_clear_line(arguments: list[str], message: str, command: Command) -> None:
    bad_files(Path())
    Path("folder").mkdir()
    Image.effect_noise((9, 9), 50).save("tiny.png")
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
        [sys.executable, "-c", INTERRUPTED_LATER, *map(str, arguments)],
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
    assert "interrupted: saved the picture so far" in err
    assert "Traceback" not in err
    assert Image.open(tmp_path / "a.png").size == (171, 200)


# The command line itself, with a listener more: it tells the test when the third step is done.
INTERRUPTED_LATER = """
from contextlib import contextmanager
from image_optimization import console
from style_transfer.cli import main

@contextmanager
def progress(what, device, precision):
    yield lambda step: print(f"step {step.number}", flush=True) if step.number == 3 else None

console.progress = progress
main()
"""


def test_ctrl_c_before_the_first_step(photo_file: Path, tmp_path: Path) -> None:
    arguments = [str(photo_file), "--style", "marbling"]
    code = "from style_transfer.cli import main; print('ready', flush=True); main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)  # now it is importing torch, which takes seconds
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "error: interrupted: nothing was saved\n"
    assert not list(tmp_path.rglob("*.png"))
