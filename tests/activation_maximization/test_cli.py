"""The command line ``dream``, as typed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dreamgram.activation_maximization import commands, expressions, session
from dreamgram.activation_maximization.gradient_ascent import maximize
from dreamgram.activation_maximization.objectives import channel
from dreamgram.activation_maximization.options import DigitsOptions, UnitsOptions
from dreamgram.activation_maximization.session import Session
from dreamgram.image_optimization import images
from dreamgram.image_optimization.image_writing import SIDE_LIMITS
from dreamgram.image_optimization.names import must_be
from dreamgram.image_optimization.optimize import Step
from dreamgram.image_optimization.parameterizations import PARAMETERIZATIONS
from dreamgram.models.digits import DigitCNN
from dreamgram.models.registry import WEIGHTS
from dreamgram.workbench.job import Job, Watcher
from dreamgram.workbench.sheets import GAP, MARGIN, TEXT
from tests.activation_maximization.recipes import Stopping, old_note, recipe, recorded, unresolved_note
from tests.conftest import Command

GUESSING = """
import torch
from torch import nn

def any_size():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3))

def one_size():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 4))
"""


def test_units_as_typed(command: Command) -> None:
    run = command("dream", "units", "--model", "digits", "--layer", "pool2", "--units", "0-3,7", "--steps", 3)
    assert run.code == 0, run.err
    assert run.out.startswith("outputs/units.png  ")
    assert run.out.strip().endswith(" s")
    assert Image.open("outputs/units.png").size[0] > 300
    assert recipe("outputs/units.png").command == "dream units"
    options = recorded("outputs/units.png")
    assert (options["units"], options["seed"]) == ("0-3,7", 0)
    assert options["precision"] in ("float32", "bfloat16")  # what auto was


def test_units_of_vgg_as_typed(command: Command) -> None:
    size = ["--size", 32, "--steps", 2]
    run = command("dream", "units", "--model", "vgg16", "--layer", "relu2_1", "--units", "5,6", *size, "-o", "v.png")
    assert run.code == 0, run.err
    assert Path("v.png").exists()
    position = ["--position", "3,4", "-o", "p.png"]
    run = command("dream", "units", "--model", "vgg16", "--layer", "relu2_1", "--units", "5", *size, *position)
    assert run.code == 0, run.err


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (["-o", "a.webp"], "a.webp can have 16383 pixels a side, not 18892; PNG and TIFF can have more"),
        (["--timelapse", "webp"], "an animation as webp can have 16383 pixels a side, not 18892"),
    ],
)
def test_a_sheet_too_large_for_its_format_is_refused_before_the_run(
    output: list[str], problem: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "run", lambda *_, **__: pytest.fail("the run began"))
    job = ["--model", "vgg16", "--layer", "relu1_1", "--units", "0-63", "--size", 256, "--columns", 1]
    run = command("dream", "units", *job, *output)
    assert (run.code, run.err) == (2, f"error: {problem}\n")


@pytest.mark.parametrize(
    "job",
    [
        ["units"],
        ["examples", "--top", 3],
        ["digits"],
        ["classes"],
        ["maximize", "logit(3)"],
        ["maximize", "logit(3,4)"],
        *([each, "photo.png", "--layer", "relu2_1"] for each in ("amplify", "invert", "caricature")),
        ["accentuate", "photo.png", "--unit", 3],
        ["maximize", "match(conv2)", "--photo", "photo.png"],
    ],
)
def test_every_command_checks_the_size_before_the_run(
    job: list[object], command: Command, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.save(photo, "photo.png")
    monkeypatch.setattr(Session, "run", lambda *_, **__: pytest.fail("the run began"))
    monkeypatch.setitem(SIDE_LIMITS, "JPEG", 20)
    run = command("dream", *job, "-o", "a.jpg")
    assert run.code == 2
    assert run.err.startswith("error: a.jpg can have 20 pixels a side, not ")


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
    assert recorded(written)["photo"] == "photo.png"


@pytest.mark.parametrize(
    ("expression", "labels"),
    [
        ("channel(conv2, 3) - 0.5 * channel(conv2, 7)", 1),
        ("logit(2-4) - sparing()", 3),
        ("neuron(conv2, 3,7, position=(2, 3)) - ramp(0, 1) * total_variation(10)", 2),
        ("channel(conv2, 5) + 10 * diversity(conv1, 4)", 4),
        ("direction(hidden, v.npy, cosine=true) - l2(0.1) - blur(3)", 1),
    ],
)
def test_maximize_as_typed(expression: str, labels: int, command: Command) -> None:
    np.save("v.npy", np.ones(100, dtype=np.float32))
    run = command("dream", "maximize", expression, "--steps", 2, "--columns", labels, "-o", "a.png")
    assert run.code == 0, run.err
    with Image.open("a.png") as picture:
        assert (picture.size == (28, 28)) == (labels == 1)  # one picture is saved as it is
        assert picture.width > 110 * (labels if labels > 1 else 0)
    assert ("v.npy" in recipe("a.png").files) == ("v.npy" in expression)
    assert command("dream", "replay", "a.png", "-o", "b.png").code == 0
    assert Image.open("b.png").tobytes() == Image.open("a.png").tobytes()


def test_maximize_says_what_units_does(command: Command) -> None:
    """The same objective makes the same pictures, whichever command asks for it."""
    assert command("dream", "units", "--layer", "conv2", "--units", "3,7", "--steps", 3, "-o", "a.png").code == 0
    assert command("dream", "maximize", "channel(conv2, 3,7)", "--steps", 3, "-o", "b.png").code == 0
    below = 70  # the title is another one
    a, b = (np.asarray(Image.open(name))[below:] for name in ("a.png", "b.png"))
    width = min(a.shape[1], b.shape[1])
    assert (a[:, :width] == b[:, :width]).all()


def test_a_height_and_a_width(command: Command, photo: Tensor, digits: nn.Module) -> None:
    line = ["dream", "maximize", "channel(conv1, 3)", "--steps", 2, "--size"]
    run = command(*line, "24x36", "-o", "a.png")
    assert (run.code, run.err) == (0, "size 24x36: 24 pixels high and 36 pixels wide\n")
    dreams = maximize(digits, channel("conv1", 3), steps=2, size=(24, 36))
    assert Image.open("a.png").size == (36, 24)
    assert (images.load("a.png", 1) - dreams.images).abs().max() < 1 / 255
    assert recorded("a.png")["size"] == [24, 36]
    run = command("dream", "replay", "a.png", "-o", "b.png")
    assert (run.code, run.err) == (0, "")
    assert Image.open("b.png").tobytes() == Image.open("a.png").tobytes()
    assert command(*line, "24x24", "-o", "c.png").err == ""
    assert recorded("c.png")["size"] == 24
    # A photo is cropped to the size.
    images.save(photo, "photo.png")
    given = ["dream", "maximize", "match(conv1)", "--photo", "photo.png", "--steps", 1, "--size", "30x24"]
    for more in ([], ["--init", "photo.png"]):
        assert command(*given, *more, "-o", "d.png", "--overwrite").code == 0
        assert Image.open("d.png").size == (24, 30)
    units = ["units", "--layer", "conv1", "--units", "3", "--steps", 1, "--size"]
    for job in (units, ["examples", *units[1:]]):
        for size in ("24x80", "80x24"):
            run = command("dream", *job, size, "-o", f"{size}.png", "--overwrite")
            assert run.code == 0, run.err
        (wide, low), (narrow, high) = (Image.open(f"{size}.png").size for size in ("24x80", "80x24"))
        assert wide >= narrow
        assert low < high
    Path("nets.py").write_text(GUESSING)
    run = command("dream", "layers", "--model", "nets.py:any_size", "--size", "24x36")
    assert ", for images of 1 x 24 x 36 (channels x height x width), the size that was given" in run.out
    run = command("dream", *units, "2x1")
    assert (run.code, run.err.splitlines()[-1][:51]) == (2, "error: an image of 1x2 pixels (width x height) and ")


def test_the_size_of_a_network_with_oblong_images(command: Command, photo: Tensor) -> None:
    Path("nets.py").write_text(
        GUESSING + "\ndef oblong():\n    net = any_size()\n    net.input_shape = (1, 16, 24)\n    return net\n"
    )
    net = ["--model", "nets.py:oblong", "--steps", 1]
    units = ["dream", "units", *net, "--layer", "0", "--units", "0", "--folder", "each"]
    assert command(*units).code == 0
    assert recorded("each/0000.png")["size"] == [16, 24]
    before = Path("each/0000.png").stat().st_mtime_ns
    assert command(*units, "--size", "16x24").code == 0  # the same size, which is now given
    assert Path("each/0000.png").stat().st_mtime_ns == before
    run = command(*units, "--size", "24x16")
    assert "each/0000.png was made with size 16x24, not 24x16; choose another output" in run.err
    # Without --size, a photo keeps its proportions, also when the picture is made again.
    images.save(photo, "photo.png")
    assert command("dream", "maximize", "match(0)", "--photo", "photo.png", *net, "-o", "a.png").code == 0
    assert Image.open("a.png").size == images.to_pillow(images.fit(photo, 24)).size != (24, 16)
    assert command("dream", "replay", "a.png", "--trust", "-o", "b.png").code == 0
    assert Image.open("b.png").tobytes() == Image.open("a.png").tobytes()


def test_maximize_with_a_photo_and_an_image_to_start_from(command: Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    images.save(1 - photo[:, :, :40], "other.png")
    given = ["match(conv1) - total_variation(0.5)", "--photo", "photo.png", "--steps", 2]
    for name, more in {"a.png": [], "b.png": ["--init", "other.png"], "c.png": ["--init", "photo.png"]}.items():
        run = command("dream", "maximize", *given, "--size", 40, *more, "-o", name)
        assert run.code == 0, run.err
        assert Image.open(name).size == (34, 40)
        assert Image.open(name).mode == "L"
        assert set(recipe(name).files) == {"photo.png", *more[1:]}
    near = images.fit(images.load("photo.png", 1), 40)
    far, _, close = ((images.load(name, 1) - near).abs().mean() for name in ("a.png", "b.png", "c.png"))
    assert close < far
    # The layer takes one size only: the middle of the photo is used, and that is told.
    run = command(
        "dream", "maximize", "match(hidden)", "--photo", "photo.png", "--steps", 1, "--size", 40, "-o", "d.png"
    )
    assert run.code == 0, run.err
    assert "photo.png is cut to" in run.err
    assert Image.open("d.png").size == (28, 28)


@pytest.mark.parametrize(
    "job", [["units", "--units", "3"], ["digits", "--classes", 3], ["maximize", "logit(3)"], ["invert", "photo.png"]]
)
def test_transforms_and_parameterizations_as_typed(job: list[object], command: Command, photo: Tensor) -> None:
    """Each choice makes another picture."""
    images.save(images.fit(photo, 28), "photo.png")
    line = ["dream", *job, "--model", "digits", "--steps", 2, *(["--layer", "conv1"] if job[0] == "invert" else [])]
    choices: list[list[object]] = [
        *([], ["--transform", "none"], ["--transform", "jitter(0.1)"], ["--transform", "robust(degrees=20)"]),
        ["--transform", "jitter(0.1) + robust(degrees=20)"],
        *(["--parameterization", name] for name in ("fourier", "phases")),
    ]
    made = set()
    for number, choice in enumerate(choices):
        run = command(*line, *choice, "-o", f"{number}.png")
        assert run.code == 0, run.err
        made.add(Image.open(f"{number}.png").tobytes())
    assert len(made) == len(choices)
    run = command(*line, "--transform", "robust", "--parameterization", "pixels", "-o", "same.png")
    assert Image.open("same.png").tobytes() == Image.open("0.png").tobytes()


@pytest.mark.parametrize(
    "job",
    [
        ["digits", "--classes", "0-2", "--pixel-sum", 0.1, "--log-odds", 0, "--border", 0, "--steps", 4, "--compare"],
        ["units", "--layer", "conv2", "--units", "3,5", "--position", "2,3", "--steps", 4],
        ["accentuate", "photo.png", "--unit", 3, "--layer", "relu2_2", "--size", 48, "--steps", 2],
    ],
)
def test_a_picture_of_version_0_1_0_is_made_again(job: list[object], command: Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    assert command("dream", *job, "-o", "new.png").code == 0
    with Image.open("new.png") as picture:
        images.save(picture, "old.png", old_note(recipe("new.png")))
    run = command("dream", "replay", "old.png", "-o", "again.png")
    assert (run.code, run.err) == (0, "")
    assert Image.open("again.png").tobytes() == Image.open("new.png").tobytes()


DEFAULTS = [
    ["units", "--layer", "conv2", "--units", "3,5,7,9,11", "--steps", 2],
    ["maximize", "channel(conv2, 2-4)", "--transform", "jitter + robust", "--steps", 2],
    ["examples", "--layer", "conv2", "--units", "3", "--top", 2, "--steps", 2],
    ["invert", "photo.png", "--model", "digits", "--layer", "conv1", "--size", 40, "--steps", 2],
    ["caricature", "photo.png", "--layer", "relu2_2", "--size", 48, "--steps", 2],
]


@pytest.mark.parametrize("job", DEFAULTS)
def test_a_replay_does_not_depend_on_defaults(
    job: list[object], command: Command, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.save(photo, "photo.png")
    assert command("dream", *job, "-o", "new.png").code == 0
    monkeypatch.setattr(expressions.robust, "__defaults__", (40, 0.3, (0.5, 1.5), 30))
    monkeypatch.setattr(expressions.jitter, "__defaults__", (0.3,))
    monkeypatch.setattr(expressions, "default_parameterization", lambda channels: "phases")
    monkeypatch.setattr(session, "default_columns", lambda count: 1)
    monkeypatch.setattr(DigitCNN, "input_shape", (1, 32, 32) if job[0] != "examples" else (1, 28, 28))
    run = command("dream", "replay", "new.png", "-o", "again.png")
    assert (run.code, run.err) == (0, "")
    assert Image.open("again.png").tobytes() == Image.open("new.png").tobytes()
    assert command("dream", *job, "-o", "other.png").code == 0
    assert Image.open("other.png").tobytes() != Image.open("new.png").tobytes()


@pytest.mark.parametrize("job", [job for job in DEFAULTS if "jitter + robust" not in job])
def test_a_picture_whose_recipe_has_placeholders_is_made_again(
    job: list[object], command: Command, photo: Tensor
) -> None:
    images.save(photo, "photo.png")
    assert command("dream", *job, "-o", "new.png").code == 0
    with Image.open("new.png") as picture:
        images.save(picture, "old.png", unresolved_note(recipe("new.png")))
    assert command("dream", "replay", "old.png", "-o", "again.png").code == 0
    assert Image.open("again.png").tobytes() == Image.open("new.png").tobytes()
    assert recorded("again.png") == recorded("new.png")


def test_a_recipe_has_no_placeholders(command: Command) -> None:
    assert command("dream", "units", "--layer", "conv2", "--units", "0-4", "--steps", 1, "-o", "a.png").code == 0
    found = recorded("a.png")
    assert (found["size"], found["columns"], found["parameterization"]) == (28, 3, "pixels")
    assert found["transform"] == "robust(degrees=15, translate=0.1, scale=(0.85, 1.15), shear=10)"
    assert found["precision"] in ("float32", "bfloat16")


def test_a_photo_for_a_gray_network_as_typed(command: Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    run = command("dream", "invert", "photo.png", "--model", "digits", "--layer", "conv1", "--size", 40, "--steps", 2)
    assert run.code == 0, run.err
    assert Image.open("outputs/inverted.png").mode == "L"


def test_examples_as_typed(command: Command, photo: Tensor) -> None:
    run = command("dream", "examples", "--layer", "conv2", "--units", "0,3", "--top", 4, "--steps", 2, "--html")
    assert run.code == 0, run.err
    assert run.out.splitlines()[1].startswith("outputs/examples.html  ")
    assert Path("outputs/examples.html").read_text(encoding="utf-8").count("<img ") == 2 * 5
    assert Image.open("outputs/examples.png").size[0] > 5 * 100
    Path("photos/more").mkdir(parents=True)
    images.save(photo, "photos/a.png")
    images.save(photo.flip(3), "photos/more/b.jpg")
    Image.new("RGB", (60, 60)).save("photos/c.gif")
    Path("photos/broken.png").write_text("no picture")
    Path("photos/notes.txt").write_text("no picture either")
    vgg = ["--model", "vgg16", "--layer", "relu2_2", "--units", "0", "--size", 48, "--steps", 2]
    run = command("dream", "examples", *vgg, "--data", "photos")
    assert run.code == 0, run.err
    assert run.err == "skipped: photos/broken.png is not an image that can be read\n"
    assert command("dream", "examples", "--layer", "conv2", "--units", "3", "--size", 40, "--steps", 2).code == 0
    run = command("dream", "examples", *vgg)
    assert run.err == "error: --data is missing: the package has no pictures for this network, so name a folder\n"


def test_digits_compared_as_typed(command: Command) -> None:
    assert command("dream", "digits", "--classes", "0-2", "--steps", 2).code == 0
    assert command("dream", "digits", "--classes", "0-2", "--steps", 2, "--compare").code == 0
    two, three = Image.open("outputs/digits.png").size[1], Image.open("outputs/digits-2.png").size[1]
    assert three > 1.3 * two


def test_the_weights_of_digits_as_typed(command: Command) -> None:
    """Each weight changes only the second row."""
    job = ["dream", "digits", "--classes", "3", "--steps", 8]
    assert command(*job, "-o", "usual.png").code == 0
    usual = row_of(Path("usual.png"), 0, 1), row_of(Path("usual.png"), 1, 1)
    for flag in ("--log-odds", "--pixel-sum", "--border", "--blur"):
        assert command(*job, flag, 0, "-o", "changed.png", "--overwrite").code == 0
        assert (row_of(Path("changed.png"), 0, 1) == usual[0]).all()
        assert (row_of(Path("changed.png"), 1, 1) != usual[1]).any(), flag
    run = command(*job, "--log-odds", 2)
    assert (run.code, run.err) == (2, "error: --log-odds must be from 0 to 1, not 2.0\n")


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
    assert run.err == "warning: unit 1 received no gradient from the network and shows nothing but noise\n"


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


@pytest.mark.parametrize(
    ("job", "frames"),
    [
        (["digits", "--classes", "0-2", "--steps", 5], 5),
        (["examples", "--layer", "conv2", "--units", "0,3", "--steps", 5], 5),
        (["units", "--layer", "conv2", "--units", "0-3", "--steps", 70], 48),
        (["invert", "photo.png", "--model", "vgg16", "--layer", "relu1_2", "--size", 40, "--steps", 3], 3),
        (["amplify", "photo.png", "--layer", "relu1_2", "--size", 40, "--octaves", 2, "--steps", 2], 4),
    ],
)
def test_a_timelapse_as_typed(job: list[object], frames: int, command: Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    run = command("dream", *job, "--timelapse", "webp", "-o", "a.png")
    assert run.code == 0, run.err
    assert run.out.splitlines()[1].startswith("a.webp  ")
    with Image.open("a.webp") as film, Image.open("a.png") as picture:
        assert frames - 4 < film.n_frames <= frames  # at the end some look the same, and become one
        assert film.size == picture.size
        first, last = film.convert("L").tobytes(), None
        film.seek(film.n_frames - 1)
        last = film.convert("L").tobytes()
        assert first != last


def test_what_cannot_be_made_again(command: Command, photo: Tensor) -> None:
    images.save(photo, "mine.png", '{"layer": "relu2_2"}')
    run = command("dream", "replay", "mine.png")
    assert (run.code, run.err) == (2, "error: mine.png holds no recipe of Dreamgram that can be read\n")
    images.save(photo, "other.png", '{"command": "stylize", "options": {}}')
    run = command("dream", "replay", "other.png")
    assert (run.code, run.err) == (2, "error: other.png was made by 'stylize', not by a command of dream\n")
    for found in ({"batches": {"3": [4]}}, 5, [], "unit"):
        units = json.dumps({"command": "dream units", "options": {}, "made": {"found": found}})
        images.save(photo, "damaged.png", units, overwrite=True)
        run = command("dream", "replay", "damaged.png")
        assert (run.code, run.err) == (2, "error: the recipe does not say in which batches the units were made\n")


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
    assert "use fewer octaves (1 for a network that takes one size only)" in run.err
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
    assert recorded("outputs/digits.png")["classes"] == "1"
    assert command("dream", "digits", "--classes", 2, "--steps", 1, "-o", "outputs/digits.png", "--overwrite").code == 0
    assert recorded("outputs/digits.png")["classes"] == "2"


def test_finished_work_is_never_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program takes the name while this one works."""
    monkeypatch.chdir(tmp_path)

    class Meanwhile(Watcher):
        def progress(self, step: Step) -> None:
            Path("a.png").write_text("someone else's")

    commands.digits(DigitsOptions(classes="1", steps=1, output=Path("a.png")), Job(Meanwhile()))
    assert recorded("a-2.png")["classes"] == "1"
    assert Path("a.png").read_text() == "someone else's"


def test_interrupted_a_command_saves_the_picture_so_far(command: Command) -> None:
    """Ctrl-C in the first row of digits: there is no second one, and no way to make the sheet again."""
    options = DigitsOptions(classes="0-2", steps=5, output=Path("a.png"), timelapse="webp")
    assert commands.digits(options, Stopping().job).stopped == "interrupted"
    assert recipe("a.png").stopped == "interrupted"
    assert command("dream", "digits", "--classes", "0-2", "--steps", 1, "-o", "both.png").code == 0
    assert Image.open("a.png").size[1] < 0.8 * Image.open("both.png").size[1]
    with Image.open("a.webp") as film:
        assert film.n_frames < 5
    run = command("dream", "replay", "a.png")
    assert (run.code, run.err) == (2, "error: a.png was interrupted, so it cannot be made again\n")


def test_no_arguments_show_the_help(command: Command) -> None:
    run = command("dream")
    assert run.out.startswith("usage: dream COMMAND")
    assert (run.code, run.err) == (0, "")


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


def test_layers_as_json(command: Command) -> None:
    run = command("dream", "layers", "--json")
    assert run.code == 0, run.err
    listed = json.loads(run.out)
    assert (listed["model"], listed["input_shape"]) == ("digits", [1, 28, 28])
    layers = {layer["name"]: layer for layer in listed["layers"]}
    expected = {"kind": "Conv2d", "units": 50, "shape": [50, 11, 11], "receptive_field": 8}
    assert {name: layers["conv2"][name] for name in expected} == expected
    assert layers["hidden"]["receptive_field"] is None


def test_layers_says_where_the_shape_comes_from(command: Command) -> None:
    Path("nets.py").write_text(GUESSING)
    guessed = ["--model", "nets.py:any_size"]
    for line, shape, origin in (
        ([], "1 x 28 x 28", "as the network declares"),
        (guessed, "1 x 224 x 224", "a guess"),
        ([*guessed, "--size", 8], "1 x 8 x 8", "the size that was given"),
        (["--model", "nets.py:one_size"], "1 x 28 x 28", "the only size that passes through the network"),
    ):
        head = command("dream", "layers", *line).out.splitlines()[0]
        assert head.endswith(f", for images of {shape} (channels x height x width), {origin}")
    assert json.loads(command("dream", "layers", "--json").out)["input_shape_origin"] == "declared"


def test_a_timelapse_of_images_that_pass_one_by_one(command: Command) -> None:
    Path("nets.py").write_text(GUESSING.replace("nn.Conv2d(1, 4, 3)", "nn.Conv2d(1, 4, 3), Mean()") + MEAN)
    few = ["--model", "nets.py:any_size", "--layer", "1", "--units", "0-2", "--size", 8, "--steps", 4]
    run = command("dream", "units", *few, "-o", "sheet.png", "--timelapse", "gif")
    assert run.code == 0, run.err
    with Image.open("sheet.gif") as film, Image.open("sheet.png") as sheet:
        assert film.size == sheet.size


MEAN = """
class Mean(nn.Module):
    def forward(self, values):
        return values - values.mean(0)
"""


def test_the_default_units_are_those_that_there_are(command: Command) -> None:
    Path("nets.py").write_text(GUESSING)
    images.save(torch.rand(1, 1, 8, 8), "photos/a.png")
    few = ["--model", "nets.py:any_size", "--layer", "0", "--size", 8]
    for line in (["units", *few, "--steps", 1], ["examples", *few, "--data", "photos"]):
        run = command("dream", *line, "-o", "sheet.png", "--overwrite")
        assert run.code == 0, run.err
        typed = command("dream", *line, "-o", "typed.png", "--overwrite", "--units", "0-3")
        assert typed.code == 0
        assert torch.equal(images.load("sheet.png"), images.load("typed.png"))
    assert "no unit 10 in layer '0': its 4 units are 0-3" in command("dream", "units", *few, "--units", "0-10").err


def test_a_guessed_size_is_told(command: Command, caplog: pytest.LogCaptureFixture) -> None:
    Path("nets.py").write_text(GUESSING)
    images.save(torch.rand(1, 1, 30, 30), "photos/a.png")

    def told(*line: object) -> list[str]:
        caplog.clear()
        run = command("dream", *line)
        assert run.code == 0, run.err
        return caplog.messages

    guess = (
        "Sequential does not say what images it takes: 1x224x224 (channels x height x width) is a guess; "
        "give a size, or set its input_shape = (C, H, W)"
    )
    few = ["--model", "nets.py:any_size", "--layer", "0", "--units", "0", "--steps", 1]
    assert told("units", *few) == [guess]
    assert told("replay", "outputs/units.png", "--trust") == []  # the recipe contains the size
    assert told("units", *few, "--quiet") == []
    assert told("units", *few, "--size", 8) == []
    assert told("units", "--model", "nets.py:one_size", "--layer", "1", "--units", "0", "--steps", 1) == []
    # The photos are resized to the size that is guessed.
    assert told("examples", *few, "--size", 8, "--data", "photos") == [guess]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["units", "--layer", "poool2"], "no layer 'poool2'; did you mean 'pool2'? there are conv1, pool1, conv2"),
        (["units", "--units", "48-52"], "no unit 52 in layer 'pool2': its 50 units are 0-49"),
        (["units", "--units", "a-b"], "--units must be 'all', or numbers and ranges such as 0-11 or 3,7, not 'a-b'"),
        (["units", "--units", "5-3"], "--units must be 'all', or numbers and ranges such as 0-11 or 3,7, not '5-3'"),
        (["digits", "--classes", "10"], "no unit 10 in layer 'logits': its 10 units are 0-9"),
        (["digits", "--model", "vgg16"], "no layer 'logits'"),
        (["classes", "--classes", "3,,4"], "--classes must be 'all', or names, numbers and ranges such as tabby,"),
        (["classes", "--classes", "5-3"], "--classes must be 'all', or numbers and ranges"),
        (["classes", "--classes", "seven"], "no class 'seven'"),
        (["classes", "--regularizer", "blurr(3)"], "--regularizer must be an expression such as total_variation(10): "),
        (["classes", "--regularizer", "3"], "a number alone is no regularizer"),
        (["units", "--model", "digit"], "no network 'digit'; did you mean 'digits'? there are "),
        (["units", "--model", "mine.py:net"], "no file mine.py"),
        (["units", "--weights", "none.pt"], "no weights file none.pt"),
        (["units", "--size", "-3"], "--size must be at least 1, not -3"),
        (["units", "--size", "2"], "2x2 pixels"),
        (["units", "--steps", "0"], "--steps must be at least 1, not 0"),
        (["units", "--columns", "-1"], "--columns must be at least 1, not -1"),
        (["units", "--steps", "many"], "--steps must be a whole number, not 'many'"),
        (["units", "--device", "cuda:9"], "no device 'cuda:9'; this machine has cpu"),
        (["units", "--output", "sheet.pcx"], "the file name must end in .png, .jpg"),
        (["units", "--output", "file/sheet.png"], "cannot write into file"),
        (["units", "--output", "folder.png"], "folder.png is a folder"),
        (["units", "--output", "."], "cannot write '.': the file name must end in .png, .jpg"),
        (["--seed", 3, "units"], "the command comes first, before its options: dream units"),
        (["--seed", 3], "no command '--seed'; there are layers, units, "),
        (["units", "--layer", "hidden", "--size", "40"], "40x40 pixels"),
        (["unit"], "no command 'unit'; did you mean 'units'?"),
        (["units", "--position", "a"], "--position must be ROW,COLUMN, or TOKEN in a transformer, not 'a'"),
        (["units", "--position", "9,9"], "no position (9, 9) in layer 'pool2': it has 5 x 5"),
        (["examples", "--data", "none"], "--data must be a folder of pictures, and there is no folder none"),
        (["examples", "--data", "."], "there are no pictures"),
        (
            ["units", "--timelapse", "webp", "--folder", "each"],
            "--timelapse cannot be used with a folder: finished pictures",
        ),
        (["replay", "folder.png"], "folder.png"),
        (["amplify"], "PHOTO is missing; --help shows how it is given"),
        (["invert", "none.png"], "none.png"),
        (["accentuate", "file"], "--unit is missing; --help shows how it is given"),
        (["units", "--unit", "3"], "no option --unit; did you mean '--units'?"),
        (
            ["units", "--transform", "jiter"],
            "--transform must be an expression such as jitter(0.1): no function 'jiter'; did you mean 'jitter'?",
        ),
        (
            ["invert", "file", "--parameterization", "pixel"],
            f"--parameterization {must_be('pixel', PARAMETERIZATIONS)}",
        ),
        (["maximize"], "OBJECTIVE is missing"),
        (["maximize", "channel(conv2, 3"], "expected ',' or ')', not the end (in 'channel(conv2, 3')"),
        (["maximize", "chanel(conv2, 3)"], "no function 'chanel'; did you mean 'channel'?"),
        (["maximize", "channel(conv3, 3)"], "no layer 'conv3'; did you mean 'conv"),
        (["maximize", "channel(conv2, 3,99)"], "no unit 99 in layer 'conv2': its 50 units are 0-49"),
        (["maximize", "match(conv1)"], "match compares with a photo, and no photo was given"),
        (["maximize", "logit(3)", "--photo", "file"], "--photo is not used: only match and caricature compare"),
        (["maximize", "match(conv1)", "--photo", "none.png"], "no image file none.png"),
        (["maximize", "3"], "a number alone is nothing to maximize"),
        (["maximize", "__import__('os')"], "no function '__import__'"),
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


def test_a_photo_that_changed_is_not_replayed(command: Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    line = ["dream", "invert", "photo.png", "--layer", "relu1_2", "--size", 40, "--steps", 2, "-o", "a.png"]
    assert command(*line).code == 0
    assert command("dream", "replay", "a.png", "-o", "b.png").code == 0
    images.save(1 - photo, "photo.png", overwrite=True)
    run = command("dream", "replay", "a.png", "-o", "c.png")
    assert (run.code, run.err) == (2, "error: photo.png, used to make this picture, has changed since\n")
    Path("photo.png").unlink()
    run = command("dream", "replay", "a.png", "-o", "c.png")
    assert (run.code, run.err) == (2, "error: photo.png, used to make this picture, is missing\n")


def test_the_pictures_of_examples_are_part_of_the_recipe(command: Command) -> None:
    Path("data").mkdir()
    for number in range(3):
        images.save(torch.rand(1, 1, 28, 28), f"data/{number}.png")
    line = ["dream", "examples", "--data", "data", "--units", "0", "--top", 2, "--steps", 2, "-o", "a.png"]
    run = command(*line)
    assert run.code == 0, run.err
    assert command("dream", "replay", "a.png", "-o", "b.png").code == 0
    images.save(torch.rand(1, 1, 28, 28), "data/1.png", overwrite=True)
    run = command("dream", "replay", "a.png", "-o", "c.png")
    assert (run.code, "data, used to make this picture, has changed" in run.err) == (2, True)


def test_examples_whose_names_are_not_text(command: Command) -> None:
    Path("data").mkdir()
    for name in (b"caf\xe9.png", b"a.png"):
        images.save(torch.rand(1, 1, 28, 28), Path("data", os.fsdecode(name)))
    options = ["--data", "data", "--units", "0", "--steps", 1, "--html", "-o", "a.png"]
    run = command("dream", "examples", *options)
    assert (run.code, run.err) == (0, "")
    assert "caf\ufffd" in Path("a.html").read_text(encoding="utf-8")
    assert command("dream", "replay", "a.png", "-o", "b.png").code == 0


def test_a_data_folder_that_changes_during_the_search(
    command: Command, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe would name pictures other than those that were searched."""
    Path("photos").mkdir()
    images.save(photo, "photos/a.png")
    read = images.read

    def change(path: Path, *given: object, **named: object) -> object:
        found = read(path, *given, **named)  # type: ignore[arg-type]
        images.save(1 - photo, "photos/b.png", overwrite=True)
        return found

    monkeypatch.setattr(images, "read", change)
    vgg = ["--model", "vgg16", "--layer", "relu2_2", "--units", "0", "--size", 48, "--steps", 2]
    run = command("dream", "examples", *vgg, "--data", "photos")
    assert (run.code, run.err) == (2, "error: photos changed while it was read; run the command again\n")


NETS = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU())

def colored():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    net.input_shape = (3, 56, 56)
    return net
"""
"""A model file with two networks, of which one needs a size."""


def row_of(sheet: Path, row: int, count: int) -> np.ndarray[Any, Any]:
    """Return the pixels of the images in a row of a sheet of digits, each 112 pixels wide."""
    pixels = np.asarray(Image.open(sheet))
    label, tile, head = TEXT + GAP, 112, 2 * TEXT + GAP
    top = MARGIN + head + row * (label + tile + TEXT + 2 * GAP) + label
    return np.stack([pixels[top : top + tile, MARGIN + n * (tile + GAP) :][:, :tile] for n in range(count)])


@pytest.mark.parametrize(
    "job",
    [
        ["units", "--layer", "conv2", "--units", "3,7"],
        ["units", "--layer", "conv2", "--units", "3,7", "--position", "2,3", "--batch", 1],
        ["maximize", "logit(3,7) - sparing()"],
    ],
)
def test_networks_side_by_side(job: list[object], command: Command) -> None:
    """Each row is what the network alone gives, and the sheet is made again from its recipe."""
    both = ["--model", "digits", "--model", "digits-robust"]
    run = command("dream", *job, *both, "--steps", 3, "-o", "both.png")
    assert run.code == 0, run.err
    for row, name in enumerate(("digits", "digits-robust")):
        alone = command("dream", *job, "--model", name, "--steps", 3, "--columns", 2, "-o", f"{name}.png")
        assert alone.code == 0, alone.err
        pixels = np.asarray(Image.open(f"{name}.png"))
        top = MARGIN + 2 * TEXT + GAP
        own = np.stack([pixels[top : top + 112, MARGIN + n * (112 + GAP) :][:, :112] for n in range(2)])
        assert np.array_equal(row_of(Path("both.png"), row, 2), own)
    assert recorded("both.png")["model"] == ["digits", "digits-robust"]
    assert recorded("digits.png")["model"] == "digits"
    assert command("dream", "replay", "both.png", "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("both.png").read_bytes()


def test_digits_of_several_networks(command: Command) -> None:
    job = ["digits", "--classes", "3,7", "--steps", 3]
    both = ["--model", "digits", "--model", "digits-mlp", "--compare"]
    assert command("dream", *job, *both, "-o", "both.png").code == 0
    assert command("dream", *job, "--compare", "-o", "one.png").code == 0
    assert command("dream", *job, "--model", "digits-mlp", "-o", "mlp.png").code == 0
    for row, (sheet, other) in enumerate((("one", 0), ("one", 1), ("mlp", 0), ("mlp", 1), ("one", 2))):
        assert np.array_equal(row_of(Path("both.png"), row, 2), row_of(Path(f"{sheet}.png"), other, 2))


def test_checkpoints_side_by_side(command: Command) -> None:
    weights = {name: WEIGHTS / f"{name}.safetensors" for name in ("digits", "digits-robust")}
    job = ["units", "--layer", "conv2", "--units", "3,7", "--steps", 3]
    given = [part for path in weights.values() for part in ("--weights", path)]
    assert command("dream", *job, *given, "-o", "weights.png").code == 0
    assert command("dream", *job, "--model", "digits", "--model", "digits-robust", "-o", "names.png").code == 0
    for row in range(2):
        assert np.array_equal(row_of(Path("weights.png"), row, 2), row_of(Path("names.png"), row, 2))
    own = recipe("weights.png")
    assert len(set(own.network.split(","))) == 2
    assert {Path(name) for name in own.files} == set(weights.values())
    pairs = [part for name, path in weights.items() for part in ("--model", name, "--weights", path)]
    assert command("dream", *job, *pairs, "-o", "pairs.png").code == 0
    assert np.array_equal(row_of(Path("pairs.png"), 1, 2), row_of(Path("names.png"), 1, 2))
    # Other weights under the same name are noticed.
    for path in weights.values():
        shutil.copy(path, path.name)
    own_files = [part for path in weights.values() for part in ("--weights", path.name)]
    assert command("dream", *job, *own_files, "-o", "mine.png").code == 0
    assert command("dream", "replay", "mine.png", "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("mine.png").read_bytes()
    shutil.copy(weights["digits"], "digits-robust.safetensors")
    run = command("dream", "replay", "mine.png", "-o", "third.png")
    assert (run.code, "digits-robust.safetensors, used to make this picture, has changed" in run.err) == (2, True)


def test_networks_of_other_shapes_and_code_that_changed(command: Command) -> None:
    Path("nets.py").write_text(NETS)
    both = ["--model", "nets.py:small", "--model", "nets.py:colored"]
    job = ["units", "--layer", "1", "--units", "1,2", "--steps", 2]
    run = command("dream", *job, *both, "-o", "both.png")
    assert run.code == 0, run.err
    settings = recorded("both.png")
    assert (settings["size"], settings["parameterization"]) == (None, None)  # different in each row
    assert len(recipe("both.png").network.split(",")) == 2
    assert Image.open("both.png").width > 2 * 224
    assert command("dream", "replay", "both.png", "--trust", "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("both.png").read_bytes()
    run = command("dream", "replay", "both.png", "-o", "third.png")
    assert (run.code, "would run the function small in the Python file nets.py" in run.err) == (2, True)
    sized = command("dream", *job, *both, "--size", 30, "-o", "sized.png")
    assert sized.code == 0, sized.err
    assert recorded("sized.png")["size"] == 30


def test_sheets_of_networks_after_ctrl_c(command: Command) -> None:
    """The first row is finished, and the second one has what there is so far."""
    steps: list[int] = []

    class Stopping(Watcher):
        def progress(self, step: Step) -> None:
            steps.append(step.number)
            if len(steps) == 4:
                job.stop()

    job = Job(Stopping())
    options = UnitsOptions(
        model=["digits", "digits-robust"], layer="conv2", units="3,7", steps=3, output=Path("part.png")
    )
    assert commands.units(options, job).stopped == "interrupted"
    assert steps == [1, 2, 3, 1, 2]
    job_of_one = ["units", "--layer", "conv2", "--units", "3,7", "--steps", 3]
    assert command("dream", *job_of_one, "--model", "digits", "--model", "digits", "-o", "whole.png").code == 0
    assert np.array_equal(row_of(Path("part.png"), 0, 2), row_of(Path("whole.png"), 0, 2))
    run = command("dream", "replay", "part.png", "-o", "again.png")
    assert (run.code, run.err) == (2, "error: part.png was interrupted, so it cannot be made again\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["units", "--units", "30", "--layer", "conv1"], "no unit 30 in layer 'conv1': its 25 units are 0-24"),
        (["units", "--layer", "conv3"], "digits: no layer 'conv3'; did you mean 'conv2'"),
        (["units", "--layer", "hidden", "--columns", 2], "--columns cannot be used with several networks, which are"),
        (["units", "--folder", "each"], "--folder cannot be used with several networks"),
        (["units", "--html"], "--html cannot be used with several networks"),
        (["maximize", "logit(3)", "--timelapse", "webp"], "--timelapse cannot be used with several networks"),
        (["maximize", "channel(conv2, 3)"], "digits-mlp: no layer 'conv2'"),
        (["units", "--weights", "a.pt"], "--weights must be given once for each of the 2 models or never, not 1 times"),
        (["examples"], "--model must be a single network for this command, not 2"),
        (["layers"], "--model must be a single network for this command, not 2"),
        (["invert", "a.png"], "--model must be a single network for this command, not 2"),
    ],
)
def test_what_several_networks_cannot_do(arguments: list[object], problem: str, command: Command) -> None:
    other = "digits-mlp" if "channel" in str(arguments[1:]) else "digits-robust"
    run = command("dream", *arguments, "--model", "digits", "--model", other)
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith(f"error: {problem}")
    assert run.err.count("\n") == 1
    assert not Path("outputs").exists()
