from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from image_optimization import images
from image_optimization.images import read_settings
from tests.conftest import Command


def test_units_as_typed(command: Command) -> None:
    run = command("dream", "units", "--model", "digits", "--layer", "pool2", "--units", "0-3,7", "--steps", 3)
    assert run.code == 0, run.err
    assert run.out.startswith("outputs/units.png  ")
    assert run.out.strip().endswith(" s")
    assert Image.open("outputs/units.png").size[0] > 300
    settings = read_settings("outputs/units.png")
    assert settings["command"] == "dream units"
    assert settings["units"] == "0-3,7"
    assert settings["seed"] == 0


def test_units_of_vgg_as_typed(command: Command) -> None:
    size = ["--size", 32, "--steps", 2]
    run = command("dream", "units", "--model", "vgg16", "--layer", "relu2_1", "--units", "5,6", *size, "-o", "v.png")
    assert run.code == 0, run.err
    assert Path("v.png").exists()
    position = ["--position", "3,4", "-o", "p.png"]
    run = command("dream", "units", "--model", "vgg16", "--layer", "relu2_1", "--units", "5", *size, *position)
    assert run.code == 0, run.err


@pytest.mark.parametrize("job", [["amplify"], ["invert"], ["caricature"], ["accentuate", "--unit", 3]])
def test_a_photo_as_typed(job: list[object], command: Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    run = command("dream", *job, "photo.png", "--layer", "relu2_2", "--size", 48, "--steps", 2)
    assert run.code == 0, run.err
    [written] = Path("outputs").iterdir()
    assert run.out.startswith(str(written))
    picture = images.load(written)
    assert max(picture.shape[2:]) == 48
    assert picture.shape == images.fit(photo, 48).shape
    assert read_settings(written)["photo"] == "photo.png"


def test_a_photo_for_a_gray_network_as_typed(command: Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    run = command("dream", "invert", "photo.png", "--model", "digits", "--layer", "conv1", "--size", 40, "--steps", 2)
    assert run.code == 0, run.err
    assert Image.open("outputs/inverted.png").mode == "L"


def test_examples_as_typed(command: Command, photo: Tensor) -> None:
    run = command("dream", "examples", "--layer", "conv2", "--units", "0,3", "--top", 4, "--steps", 2, "--html")
    assert run.code == 0, run.err
    assert run.out.splitlines()[1] == "outputs/examples.html"
    assert Path("outputs/examples.html").read_text(encoding="utf-8").count("<img ") == 2 * 5
    assert Image.open("outputs/examples.png").size[0] > 5 * 100
    Path("photos/more").mkdir(parents=True)
    images.save(photo, "photos/a.png")
    images.save(photo.flip(3), "photos/more/b.jpg")
    Path("photos/broken.png").write_text("no picture")
    Path("photos/notes.txt").write_text("no picture either")
    vgg = ["--model", "vgg16", "--layer", "relu2_2", "--units", "0", "--size", 48, "--steps", 2]
    run = command("dream", "examples", *vgg, "--data", "photos")
    assert run.code == 0, run.err
    assert run.err == "left out: photos/broken.png is not an image that can be read\n"
    run = command("dream", "examples", *vgg)
    assert "give a folder of them (--data)" in run.err


def test_digits_compared_as_typed(command: Command) -> None:
    assert command("dream", "digits", "--classes", "0-2", "--steps", 2).code == 0
    assert command("dream", "digits", "--classes", "0-2", "--steps", 2, "--compare").code == 0
    two, three = Image.open("outputs/digits.png").size[1], Image.open("outputs/digits-2.png").size[1]
    assert three > 1.3 * two


def test_a_silent_unit_is_named(command: Command) -> None:
    Path("mine.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    input_shape = (1, 8, 8)\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.units = torch.nn.ReLU()\n"
        "    def forward(self, x):\n"
        "        return self.units(torch.cat([x.mean((2, 3)), -x.mean((2, 3)) - 1], 1))\n"
    )
    run = command("dream", "units", "--model", "mine.py:Net", "--layer", "units", "--units", "0,1", "--steps", 2)
    assert run.code == 0, run.err
    assert run.err == "silent: the network passed no gradient back to unit 1, which means nothing\n"


UNITS = ["units", "--layer", "conv2", "--units", "4,9,17", "--size", 24, "--steps", 3, "--folder", "each"]


def test_each_unit_in_a_file_of_its_own(command: Command) -> None:
    run = command("dream", *UNITS)
    assert run.code == 0, run.err
    names = ["0004.png", "0009.png", "0017.png"]
    assert sorted(path.name for path in Path("each").iterdir()) == names
    settings = read_settings("each/0009.png")
    assert (settings["layer"], settings["steps"]) == ("conv2", 3)
    assert settings["found"].pop("activation") != 0
    assert settings["found"] == {"unit": 9, "silent": False, "batch": [4, 9, 17]}
    assert images.load("each/0009.png", channels=1).shape == (1, 1, 24, 24)
    before = {path.name: path.stat().st_mtime_ns for path in Path("each").iterdir()}
    # The sheet has those that were there and the one that was not.
    assert command("dream", *UNITS, "--units", "4,9,17,20").code == 0
    after = {path.name: path.stat().st_mtime_ns for path in Path("each").iterdir()}
    assert {name: after[name] for name in names} == before
    assert set(after) == {*names, "0020.png"}
    run = command("dream", *UNITS, "--steps", 4)
    assert run.code == 2
    assert "each/0004.png was made with steps 3, not 4; choose another output" in run.err
    assert command("dream", *UNITS, "--steps", 4, "--overwrite").code == 0
    assert read_settings("each/0009.png")["steps"] == 4
    assert read_settings("each/0020.png")["steps"] == 3  # was not asked for
    before = Path("each/0009.png").stat().st_mtime_ns
    assert command("dream", *UNITS, "--steps", 4, "--overwrite").code == 0
    assert Path("each/0009.png").stat().st_mtime_ns == before  # is as it is asked for
    run = command("dream", *UNITS[:-1], "each/0009.png")
    assert run.code == 2
    assert "cannot write into each/0009.png" in run.err


def test_interrupted_a_folder_shows_what_is_in_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit 9 is there; Ctrl-C before 4 is finished: the sheet has 9 alone, under its own number."""
    from activation_maximization import cli

    assert command("dream", *UNITS, "--units", "9").code == 0
    captions: list[str] = []
    sheet, ascend = cli._sheet, cli._Job.ascend

    def watch(images: Any, units: Any, *args: Any, **look: Any) -> Any:
        captions.extend(map(str, units))
        assert len(images) == len(units)
        return sheet(images, units, *args, **look)

    monkeypatch.setattr(cli, "_sheet", watch)
    monkeypatch.setattr(
        cli._Job, "ascend", lambda self, *args, **kwargs: replace(ascend(self, *args, **kwargs), stopped="interrupted")
    )
    run = command("dream", *UNITS, "--units", "4,9,9", "-o", "sheet.png")
    assert run.code == 130
    assert captions == ["9"]
    assert read_settings("sheet.png")["stopped"] == "interrupted"
    run = command("dream", "replay", "sheet.png")
    assert run.code == 2
    assert "sheet.png was interrupted: it cannot be made again" in run.err


def test_killed_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    script = """
import sys, time
from activation_maximization import cli, folder
cli.batch_size = lambda pixels: 2
make_each = folder.make_each
def slow(*args, **kwargs):
    make = args[2]
    def told(units):
        print(*units, flush=True)
        return make(units)
    return make_each(args[0], args[1], told, **kwargs)
cli.make_each = slow
sys.argv[1:] = "units --layer conv2 --units 0-9 --steps 40 --folder each".split()
cli.main()
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == ["0 1\n", "2 3\n", "4 5\n"]
    process.kill()
    process.communicate()
    made = sorted(path.name for path in (tmp_path / "each").glob("*.png"))
    assert made[:4] == [f"{unit:04}.png" for unit in range(4)]
    assert len(made) < 10
    assert all(Image.open(tmp_path / "each" / name).size == (28, 28) for name in made)
    again = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    missing = list(range(len(made), 10))
    assert again.stdout.splitlines()[:-1] == [f"{unit} {unit + 1}" for unit in missing[::2]]
    assert len(list((tmp_path / "each").glob("*.png"))) == 10
    assert Image.open(tmp_path / "outputs" / "units.png")


@pytest.mark.parametrize(
    "job",
    [
        ["digits", "--classes", "0-2", "--pixel-sum", 0.1, "--steps", 4, "--seed", 3, "--compare"],
        ["units", "--layer", "hidden", "--units", "0,5", "--steps", 4, "--columns", 1],
        ["examples", "--layer", "conv2", "--units", "3", "--steps", 2],
        *(
            [*job, "photo.png", "--layer", "relu2_2", "--size", 48, "--steps", 2]
            for job in (["amplify"], ["amplify", "--unit", 3], ["invert"], ["caricature"], ["accentuate", "--unit", 3])
        ),
    ],
)
def test_a_picture_is_made_again_bit_for_bit(job: list[object], command: Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    assert command("dream", *job, "--output", "first.png").code == 0
    run = command("dream", "replay", "first.png", "--output", "again.png")
    assert run.code == 0, run.err
    assert Image.open("again.png").tobytes() == Image.open("first.png").tobytes()


def test_one_of_a_folder_is_made_again_bit_for_bit(command: Command) -> None:
    """In the batch that it was made in: alone the sums would be rounded otherwise."""
    vgg = ["--model", "vgg16", "--layer", "relu3_1", "--size", 48, "--precision", "float32"]
    assert command("dream", "units", *vgg, "--units", "0-4", "--steps", 10, "--folder", "each").code == 0
    run = command("dream", "replay", "each/0003.png", "-o", "3.png")
    assert (run.code, run.out) == (0, "3.png\n")
    assert Image.open("3.png").tobytes() == Image.open("each/0003.png").tobytes()
    assert read_settings("3.png")["found"]["unit"] == 3


@pytest.mark.parametrize(
    ("job", "frames"),
    [
        (["digits", "--classes", "0-2", "--steps", 5], 5),
        (["units", "--layer", "conv2", "--units", "0-3", "--steps", 70], 48),
        (["invert", "photo.png", "--model", "vgg16", "--layer", "relu1_2", "--size", 40, "--steps", 3], 3),
        (["amplify", "photo.png", "--layer", "relu1_2", "--size", 40, "--octaves", 2, "--steps", 2], 4),
    ],
)
def test_a_timelapse_as_typed(job: list[object], frames: int, command: Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    run = command("dream", *job, "--timelapse", "webp", "-o", "a.png")
    assert run.code == 0, run.err
    assert run.out.splitlines()[1] == "a.webp"
    with Image.open("a.webp") as film, Image.open("a.png") as picture:
        assert frames - 4 < film.n_frames <= frames  # at the end some look the same, and become one
        assert film.size == picture.size
        first, last = film.convert("L").tobytes(), None
        film.seek(film.n_frames - 1)
        last = film.convert("L").tobytes()
        assert first != last


def test_what_cannot_be_made_again(command: Command, photo: Tensor) -> None:
    images.save(photo, "mine.png", {"layer": "relu2_2"})
    run = command("dream", "replay", "mine.png")
    assert (run.code, run.err) == (
        2,
        "error: mine.png was not made by dream, or not by this version: it cannot be made again\n",
    )


def test_a_network_of_one_size_gets_the_middle_of_the_photo(command: Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    Path("mine.py").write_text(
        "import timm\n"
        "def net():\n"
        "    return timm.create_model('vit_tiny_patch16_224', pretrained=False, img_size=64, depth=2)\n"
    )
    vit = ["--model", "mine.py:net", "--layer", "blocks.1", "--steps", 2]
    Path("mine.py").write_text(
        Path("mine.py").read_text().replace("    return ", "    net = ")
        + "    net.input_shape = (3, 64, 64)\n    return net\n"
    )
    run = command("dream", "invert", "photo.png", *vit)
    assert run.code == 0, run.err
    assert Image.open("outputs/inverted.png").size == (64, 64)
    run = command("dream", "amplify", "photo.png", *vit)
    assert run.code == 2
    assert "fewer octaves need no image so small (1: for networks of one size)" in run.err
    assert command("dream", "amplify", "photo.png", *vit, "--octaves", 1).code == 0
    assert command("dream", "units", *vit, "--units", "5,6").code == 0
    assert command("dream", "units", *vit, "--units", "5,6", "--position", "3").code == 0


def test_a_network_of_five_channels_has_no_picture_files(command: Command) -> None:
    Path("mine.py").write_text("import torch\ndef net():\n    return torch.nn.Sequential(torch.nn.Conv2d(5, 2, 3))\n")
    run = command("dream", "units", "--model", "mine.py:net", "--layer", "0", "--units", "0")
    assert run.code == 2
    assert "takes images of 5 channels" in run.err


def test_neurons_and_digits_as_typed(command: Command) -> None:
    neurons = ["--layer", "hidden", "--units", "0-8", "--steps", 2, "--output", "outputs/hidden.png"]
    assert command("dream", "units", *neurons).code == 0
    assert (
        command("dream", "digits", "--model", "digits-mlp", "--classes", "0-9", "--pixel-sum", 0.2, "--steps", 2).code
        == 0
    )
    wide, high = Image.open("outputs/digits.png").size
    assert wide > 10 * 100  # ten classes
    assert high > 2 * 100  # two rows
    assert {path.name for path in Path("outputs").iterdir()} == {"hidden.png", "digits.png"}


def test_a_second_run_does_not_overwrite_the_first(command: Command) -> None:
    for name in ("digits.png", "digits-2.png", "digits-3.png"):
        assert command("dream", "digits", "--classes", "1", "--steps", 1).out.startswith(f"outputs/{name}")
    run = command("dream", "digits", "--classes", "2", "--steps", 1, "--output", "outputs/digits.png")
    assert run.code == 2
    assert run.err == "error: outputs/digits.png exists; choose another output or overwrite it (--overwrite)\n"
    assert read_settings("outputs/digits.png")["classes"] == "1"
    assert command("dream", "digits", "--classes", 2, "--steps", 1, "-o", "outputs/digits.png", "--overwrite").code == 0
    assert read_settings("outputs/digits.png")["classes"] == "2"


def test_finished_work_is_never_refused(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program takes the name while this one works."""
    from activation_maximization import cli

    ascend = cli._Job.ascend

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        Path("a.png").write_text("someone else's")
        return ascend(*args, **kwargs)

    monkeypatch.setattr(cli._Job, "ascend", meanwhile)
    run = command("dream", "digits", "--classes", 1, "--steps", 1, "--output", "a.png")
    assert run.code == 0
    assert run.out.startswith("a-2.png  ")
    assert Path("a.png").read_text() == "someone else's"


def test_no_arguments_show_the_help(command: Command) -> None:
    run = command("dream")
    assert "Usage: dream" in run.out + run.err
    assert "error" not in run.err


def test_all_units(command: Command) -> None:
    assert command("dream", "units", "--layer", "conv1", "--units", "all", "--steps", 1, "--columns", 5).code == 0


def test_layers_as_typed(command: Command) -> None:
    run = command("dream", "layers", "--model", "digits")
    assert run.code == 0
    lines = [line.split() for line in run.out.splitlines()]
    assert lines[2] == ["layer", "kind", "channels", "output", "receptive", "field"]
    assert ["conv2", "Conv2d", "50", "50", "x", "11", "x", "11", "8", "px"] in lines
    assert ["hidden", "Linear", "100", "100", "whole", "image"] in lines
    assert "relu5_3" in command("dream", "layers", "--model", "vgg19", "--size", 64).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["units", "--layer", "poool2"], "no layer 'poool2'; did you mean 'pool2'? there are conv1, pool1, conv2"),
        (["units", "--units", "48-52"], "no unit 50 in layer 'pool2': its 50 units are 0-49"),
        (["units", "--units", "a-b"], "units are 'all', or numbers and ranges such as 0-11 or 3,7, not 'a-b'"),
        (["units", "--units", "5-3"], "no unit '5-3' in layer 'pool2'"),
        (["digits", "--classes", "10"], "no unit 10 in layer 'logits': its 10 units are 0-9"),
        (["digits", "--model", "vgg16"], "no layer 'logits'"),
        (["units", "--model", "digit"], "no network 'digit'; did you mean 'digits'? there are digits, digits-mlp"),
        (["units", "--model", "mine.py:net"], "no file mine.py"),
        (["units", "--weights", "none.pt"], "no weights file none.pt"),
        (["units", "--size", "-3"], "Invalid value for '--size': must be at least 1, not -3"),
        (["units", "--size", "2"], "2x2 pixels"),
        (["units", "--steps", "0"], "Invalid value for '--steps': must be at least 1, not 0"),
        (["units", "--columns", "-1"], "Invalid value for '--columns': must be at least 1, not -1"),
        (["units", "--steps", "many"], "Invalid value for '--steps'"),
        (["units", "--device", "cuda:9"], "no device 'cuda:9' on this machine; there are cpu"),
        (["units", "--output", "sheet.pcx"], "the file name must end in .png, .jpg"),
        (["units", "--output", "file/sheet.png"], "cannot write into file"),
        (["units", "--output", "folder.png"], "folder.png is a folder"),
        (["units", "--layer", "hidden", "--size", "40"], "40x40 pixels"),
        (["unit"], "Did you mean 'units'?"),
        (["units", "--position", "a"], "a position is ROW,COLUMN, of tokens TOKEN, not 'a'"),
        (["units", "--position", "9,9"], "no position (9, 9) in layer 'pool2': it has 5 x 5"),
        (["examples", "--data", "none"], "no folder none"),
        (["examples", "--data", "."], "there are no pictures"),
        (["units", "--timelapse", "webp", "--folder", "each"], "choose one of them"),
        (["replay", "folder.png"], "folder.png"),
        (["amplify"], "Missing argument 'photo'"),
        (["invert", "none.png"], "none.png"),
        (["accentuate", "file"], "Missing option '--unit'"),
        (["units", "--unit", "3"], "No such option: --unit"),
        (["layers", "--model", "torchvision:resnet81"], "no torchvision network 'resnet81'; did you mean 'resnet18'"),
    ],
)
def test_bad_input_gets_one_clear_line(arguments: list[str], message: str, command: Command) -> None:
    Path("file").touch()
    Path("folder.png").mkdir()
    run = command("dream", *arguments)
    assert run.code == 2
    assert message in run.err
    assert run.err.startswith("error: ")
    assert run.err.count("\n") == 1
    assert "Traceback" not in run.err
    assert {path.name for path in Path().rglob("*.png")} == {"folder.png"}


def test_debug_shows_the_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no layer 'x'"):
        command("dream", "units", "--layer", "x", "--debug")


def test_the_sheet_of_a_resumed_folder_is_made_again(command: Command) -> None:
    """Its units were made in different batches, one of them hard to wake."""
    line = ["dream", "units", "--model", "vgg16", "--layer", "relu4_1", "--size", 48, "--steps", 3, "--folder", "each"]
    assert command(*line, "--units", "50", "-o", "first.png").code == 0
    assert command(*line, "--units", "3,50", "-o", "both.png").code == 0
    run = command("dream", "replay", "both.png", "-o", "again.png")
    assert run.code == 0, run.err
    assert Image.open("again.png").tobytes() == Image.open("both.png").tobytes()


def test_a_photo_that_changed_is_not_replayed(command: Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    line = ["dream", "invert", "photo.png", "--layer", "relu1_2", "--size", 40, "--steps", 2, "-o", "a.png"]
    assert command(*line).code == 0
    assert command("dream", "replay", "a.png", "-o", "b.png").code == 0
    images.save(1 - photo, "photo.png", overwrite=True)
    run = command("dream", "replay", "a.png", "-o", "c.png")
    assert (run.code, run.err) == (2, "error: photo.png is not the file any more that the picture was made from\n")
    Path("photo.png").unlink()
    run = command("dream", "replay", "a.png", "-o", "c.png")
    assert (run.code, run.err) == (2, "error: photo.png is not here, from which the picture was made\n")


def test_a_foreign_file_in_a_folder(command: Command) -> None:
    Path("each").mkdir()
    Path("each/0003.png").write_text("no picture")
    line = ["dream", "units", "--units", "3", "--steps", 2, "--folder", "each", "-o", "a.png"]
    run = command(*line)
    assert run.code == 2
    assert (
        "0003.png was made without our settings; choose another output, or replace what is there (--overwrite)"
        in run.err
    )
    assert command(*line, "--overwrite").code == 0
