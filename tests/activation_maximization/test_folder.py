"""Folders with one picture of each unit: they are continued, made again, and never mixed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import dreamgram as dg
from dreamgram.activation_maximization import commands
from dreamgram.activation_maximization.dreams import Dreams
from dreamgram.activation_maximization.folder import make_each
from dreamgram.activation_maximization.gradient_ascent import maximize
from dreamgram.activation_maximization.objectives import channel
from dreamgram.activation_maximization.options import UnitsOptions
from dreamgram.activation_maximization.regularizers import total_variation
from dreamgram.image_optimization import images
from dreamgram.image_optimization.errors import NotWrittenError
from dreamgram.image_optimization.optimize import Step
from dreamgram.workbench.console import Terminal
from tests.activation_maximization.recipes import Stopping, old_note, recipe, recorded, unresolved_note
from tests.conftest import Command

UNITS = ["units", "--layer", "conv2", "--units", "4,9,17", "--size", 24, "--steps", 3, "--folder", "each"]


def test_each_unit_in_a_file_of_its_own(command: Command) -> None:
    run = command("dream", *UNITS)
    assert run.code == 0, run.err
    names = ["0004.png", "0009.png", "0017.png"]
    assert sorted(path.name for path in Path("each").iterdir()) == names
    options, found = recorded("each/0009.png"), recipe("each/0009.png").made["found"]
    assert (options["layer"], options["steps"]) == ("conv2", 3)
    assert found.pop("activation") != 0
    assert found == {"unit": 9, "silent": False, "batch": [4, 9, 17]}
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
    assert recorded("each/0009.png")["steps"] == 4
    assert recorded("each/0020.png")["steps"] == 3  # was not asked for
    before = Path("each/0009.png").stat().st_mtime_ns
    assert command("dream", *UNITS, "--steps", 4, "--overwrite").code == 0
    assert Path("each/0009.png").stat().st_mtime_ns == before  # is as it is asked for
    run = command("dream", *UNITS[:-1], "each/0009.png")
    assert run.code == 2
    assert "cannot write into each/0009.png" in run.err


def test_interrupted_a_folder_shows_what_is_in_it(command: Command) -> None:
    """Unit 9 is there; Ctrl-C before 4 is finished: the sheet has 9 alone, under its own number."""
    assert command("dream", *UNITS, "--units", "9", "-o", "nine.png").code == 0
    options = UnitsOptions(
        layer="conv2", size=24, steps=3, folder=Path("each"), units="4,9,9", output=Path("sheet.png")
    )
    done = commands.units(options, Stopping().job)
    assert done.stopped == "interrupted"
    assert "the same command continues" in done.interrupted
    assert Image.open("sheet.png").tobytes() == Image.open("nine.png").tobytes()
    assert recipe("sheet.png").made["found"] == {"batches": {"9": [9]}}
    assert [path.name for path in Path("each").iterdir()] == ["0009.png"]
    run = command("dream", "replay", "sheet.png")
    assert (run.code, run.err) == (2, "error: sheet.png was interrupted, so it cannot be made again\n")


def test_interrupted_before_anything_is_finished(command: Command) -> None:
    options = UnitsOptions(layer="conv2", size=24, steps=3, folder="each", units="4")
    with pytest.raises(KeyboardInterrupt):
        commands.units(options, Stopping().job)
    assert not Path("each").exists()


def test_killed_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    script = """
import sys
from dreamgram.activation_maximization import cli, commands
commands.batch_size = lambda *_: 2
make_each = commands.make_each
def slow(folder, units, make, **how):
    def told(units):
        print(*units, flush=True)
        return make(units)
    return make_each(folder, units, told, **how)
commands.make_each = slow
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


def test_one_of_a_folder_is_made_again_bit_for_bit(command: Command) -> None:
    """The unit is made in the batch that it was made in: alone, the sums would be rounded otherwise."""
    vgg = ["--model", "vgg16", "--layer", "relu3_1", "--size", 48, "--precision", "float32"]
    assert command("dream", "units", *vgg, "--units", "0-4", "--steps", 10, "--folder", "each").code == 0
    run = command("dream", "replay", "each/0003.png", "-o", "3.png")
    assert (run.code, run.out.split("  ")[0]) == (0, "3.png")
    assert Image.open("3.png").tobytes() == Image.open("each/0003.png").tobytes()
    assert recipe("3.png").made["found"]["unit"] == 3


def test_the_sheet_of_a_resumed_folder_is_made_again(command: Command) -> None:
    """Its units were made in different batches, one of them hard to wake."""
    line = ["dream", "units", "--model", "vgg16", "--layer", "relu4_1", "--size", 48, "--steps", 3, "--folder", "each"]
    assert command(*line, "--units", "50", "-o", "first.png").code == 0
    assert command(*line, "--units", "3,50", "-o", "both.png").code == 0
    run = command("dream", "replay", "both.png", "-o", "again.png")
    assert run.code == 0, run.err
    assert Image.open("again.png").tobytes() == Image.open("both.png").tobytes()


def test_units_of_version_0_1_0_are_made_again(command: Command) -> None:
    """A unit of a folder, and the sheet of a folder whose units were made in two batches."""
    vgg = ["--model", "vgg16", "--layer", "relu3_1", "--size", 48, "--precision", "float32", "--steps", 4]
    assert command("dream", "units", *vgg, "--units", "1,2", "--folder", "each", "-o", "first.png").code == 0
    assert command("dream", "units", *vgg, "--units", "0-3", "--folder", "each", "-o", "sheet.png").code == 0
    for path in ("each/0002.png", "sheet.png"):
        new = recipe(path)
        with Image.open(path) as picture:
            images.save(picture, "old.png", old_note(new, **new.made), overwrite=True)
        run = command("dream", "replay", "old.png", "-o", "again.png", "--overwrite")
        assert (run.code, run.err) == (0, "")
        assert Image.open("again.png").tobytes() == Image.open(path).tobytes()
        assert recipe("again.png").made == new.made


def test_a_folder_of_version_0_1_0_is_continued(command: Command) -> None:
    assert command("dream", *UNITS).code == 0
    for path in Path("each").iterdir():
        with Image.open(path) as picture:
            images.save(picture, path, old_note(recipe(path), **recipe(path).made), overwrite=True)
    before = {path.name: path.read_bytes() for path in Path("each").iterdir()}
    run = command("dream", *UNITS, "--units", "4,9,17,20")
    assert run.code == 0, run.err
    after = {path.name: path.read_bytes() for path in Path("each").iterdir()}
    assert {name: after[name] for name in before} == before
    assert set(after) == {*before, "0020.png"}


def test_a_folder_whose_recipes_have_placeholders_is_continued(command: Command) -> None:
    line = ["dream", "units", "--layer", "conv2", "--steps", 3, "--folder", "each"]
    assert command(*line, "--units", "4,9").code == 0
    for path in Path("each").iterdir():
        with Image.open(path) as picture:
            images.save(picture, path, unresolved_note(recipe(path)), overwrite=True)
    before = {path.name: path.read_bytes() for path in Path("each").iterdir()}
    for different in (["--parameterization", "fourier"], ["--transform", "jitter"], ["--size", "24"]):
        assert "was made with" in command(*line, "--units", "4,9", *different).err
    run = command(*line, "--units", "4,9,17")
    assert run.code == 0, run.err
    after = {path.name: path.read_bytes() for path in Path("each").iterdir()}
    assert {name: after[name] for name in before} == before
    assert set(after) == {*before, "0017.png"}


NETWORK = """
import torch
def net():
    torch.manual_seed({seed})
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU())
    {then}
    return net
"""


def test_two_networks_are_not_mixed(command: Command) -> None:
    """The file of the network is edited: half of the units would be those of another network."""
    mine = ["dream", "units", "--model", "nets.py:net", "--layer", "0", "--size", 16, "--steps", 2, "--folder", "mix"]
    Path("nets.py").write_text(NETWORK.format(seed=1, then="pass"))
    run = command(*mine, "--units", "0-3", "-o", "a.png")
    assert run.code == 0, run.err
    Path("nets.py").write_text(NETWORK.format(seed=2, then="pass"))
    run = command(*mine, "--units", "0-7", "-o", "b.png")
    assert run.code == 2
    assert "mix/0000.png was made from a different nets.py; choose another output" in run.err
    for path in ("mix/0000.png", "a.png"):
        run = command("dream", "replay", path, "-o", "c.png", "--trust")
        assert (run.code, run.err) == (2, "error: nets.py, used to make this picture, has changed since\n")
    assert not Path("b.png").exists()
    assert command(*mine, "--units", "0-7", "-o", "b.png", "--overwrite").code == 0


def test_two_networks_of_one_file_are_not_mixed(command: Command) -> None:
    """The file of the network is the same, but the weights that it reads are not."""
    mine = ["dream", "units", "--model", "nets.py:net", "--layer", "0", "--size", 16, "--steps", 2, "--folder", "mix"]
    Path("nets.py").write_text(NETWORK.format(seed=1, then="net.load_state_dict(torch.load('state.pt'))"))
    torch.save({"0.weight": torch.rand(8, 1, 3, 3), "0.bias": torch.rand(8)}, "state.pt")
    run = command(*mine, "--units", "0-3", "-o", "a.png")
    assert run.code == 0, run.err
    assert command("dream", "replay", "a.png", "-o", "again.png", "--trust").code == 0
    torch.save({"0.weight": torch.rand(8, 1, 3, 3), "0.bias": torch.rand(8)}, "state.pt")
    run = command(*mine, "--units", "0-7", "-o", "b.png")
    assert run.code == 2
    assert "mix/0000.png was made with different network weights; choose another output" in run.err
    run = command("dream", "replay", "a.png", "-o", "c.png", "--trust")
    assert (run.code, run.err) == (2, "error: the network has different weights now from when the picture was made\n")


def test_units_over_night(digits: nn.Module, tmp_path: Path) -> None:
    """Each batch of a run in Python is saved as it ends, and the next call continues."""
    asked: list[list[int]] = []

    def make(units: list[int]) -> Dreams:
        asked.append(units)
        if units == [4]:
            raise KeyboardInterrupt
        return maximize(digits, channel("conv2", units) - total_variation(1), steps=3)

    each = make_each(tmp_path, range(5), make, batch=2, recipe="conv2, first try")
    assert (each.units, each.dreams.stopped) == ([0, 1, 2, 3], "interrupted")
    assert each.batches == {0: [0, 1], 1: [0, 1], 2: [2, 3], 3: [2, 3]}
    alone = maximize(digits, channel("conv2", [2, 3]) - total_variation(1), steps=3)
    assert (each.dreams.images[2:] - alone.images).abs().max() <= 0.5 / 255 + 1e-6  # as files keep them
    assert torch.equal(each.dreams.activations[2:], alone.activations)
    asked.clear()
    assert make_each(str(tmp_path), [0, 3, 5], make, recipe="conv2, first try").units == [0, 3, 5]
    assert asked == [[5]]
    with pytest.raises(FileExistsError, match=r"0000\.png was made with about conv2, first try, not conv2, again;"):
        make_each(tmp_path, [0], make, recipe="conv2, again")
    with pytest.raises(ValueError, match="no units given"):
        make_each(tmp_path, [], make)
    with pytest.raises(ValueError, match="batch must be at least 1, not 0"):
        make_each(tmp_path, [0], make, batch=0)


def test_units_of_your_own(digits: nn.Module, tmp_path: Path) -> None:
    """The numbers may be anything, such as seeds, and in any form."""

    def make(seeds: list[int]) -> Dreams:
        [seed] = seeds
        return dg.maximize(digits, dg.channel("conv2", 3), steps=2, seed=seed)

    each = dg.make_each(tmp_path, np.arange(2), make, batch=1, recipe="seeds")
    assert not torch.equal(each.dreams.images[0], each.dreams.images[1])
    for units in (torch.arange(2), (0.0, 1.0), range(2)):
        again = dg.make_each(str(tmp_path), units, lambda seeds: pytest.fail("made again"), recipe="seeds")  # type: ignore[arg-type]
        assert again.units == [0, 1]
        assert torch.equal(again.dreams.images, each.dreams.images)
    assert dg.make_each(tmp_path, 1, make, recipe="seeds").units == [1]
    assert dg.make_each(tmp_path, 2**31 - 1, make, recipe="seeds").units == [2**31 - 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"folder": range(3), "units": "each"}, "folder must be the path of a folder, not range"),
        ({"units": "0-3"}, "a unit must be a whole number, not '0-3'"),
        ({"units": [-1]}, "a unit must be at least 0, not -1"),
        (
            {"make": channel("conv2", [1, 2])},
            "make must be a function of some units that returns Dreams, not Objective",
        ),
        ({"make": lambda units: torch.rand(2, 1, 28, 28)}, "make must return Dreams, as maximize does, not Tensor"),
        ({"make": lambda units: None}, "make must return Dreams, as maximize does, not NoneType"),
        ({"batch": 1.5}, "batch must be a whole number, not 1.5"),
        ({"recipe": {"steps": 3}}, "recipe must be a Recipe or a text, not dict"),
    ],
)
def test_arguments_that_are_not_clear(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments = {"folder": tmp_path, "units": [1, 2], "make": lambda units: pytest.fail("made"), **given}
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        dg.make_each(**arguments)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_an_image_of_each_unit(digits: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make must return one image of each unit, 2, not 1"):
        make_each(tmp_path, [1, 2], lambda units: maximize(digits, channel("conv2", 3), steps=1))
    assert not list(tmp_path.iterdir())


def test_a_foreign_file_in_a_folder(command: Command) -> None:
    Path("each").mkdir()
    Path("each/0003.png").write_text("no picture")
    line = ["dream", "units", "--units", "3", "--steps", 2, "--folder", "each", "-o", "a.png"]
    run = command(*line)
    assert run.code == 2
    assert (
        "0003.png was made without a recipe of this command; choose another output or overwrite it (--overwrite)"
        in run.err
    )
    assert command(*line, "--overwrite").code == 0


def test_a_batch_that_cannot_be_written_is_not_lost(
    digits: nn.Module, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(units: list[int]) -> Dreams:
        dreams = maximize(digits, channel("conv2", units), steps=2)
        (tmp_path / "each").rmdir()
        (tmp_path / "each").touch()  # as if the disk were gone
        return dreams

    (tmp_path / "each").mkdir()
    with pytest.raises(NotWrittenError, match=r"cannot write into .*; the picture was saved as .*/saved/0000\.png"):
        make_each(tmp_path / "each", range(3), make)
    assert sorted(path.name for path in (state / "saved").iterdir()) == ["0000.png", "0001.png", "0002.png"]


def test_the_batch_of_a_folder_is_chosen_and_recorded(command: Command) -> None:
    line = ["dream", "units", "--units", "0-4", "--steps", 2, "--folder", "each", "--batch", 2, "-o", "sheet.png"]
    run = command(*line)
    assert run.code == 0, run.err
    assert [recipe(f"each/{unit:04}.png").made["found"]["batch"] for unit in (0, 3, 4)] == [[0, 1], [2, 3], [4]]
    Path("each/0004.png").unlink()
    assert command(*line, "--batch", 3, "--overwrite").code == 0  # another batch is no other picture
    for name in ("sheet", "each/0003"):
        assert command("dream", "replay", f"{name}.png", "-o", "again.png", "--overwrite").code == 0
        assert Image.open("again.png").tobytes() == Image.open(f"{name}.png").tobytes()


def test_ctrl_c_between_the_units_and_the_sheet(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """All units may be saved already, so that no step was done when Ctrl-C is pressed."""
    line = ["dream", "units", "--units", "0-2", "--steps", 2, "--folder", "each", "-o", "sheet.png"]
    assert command(*line).code == 0
    Path("sheet.png").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(commands, "draw_sheet", lambda *given, **look: os.kill(os.getpid(), signal.SIGINT))
        run = command(*line)
    assert (run.code, run.err) == (130, f"{commands.SHEET_ONWARD}\n")


def test_the_same_command_replaces_its_unfinished_sheet(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["dream", "units", "--units", "0-2", "--steps", 4, "--folder", "each", "--batch", 1, "-o", "sheet.png"]
    seen: list[int] = []

    def progress(terminal: Terminal, step: Step) -> None:
        seen.append(step.number)
        if len(seen) == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", progress)
        run = command(*line)
    assert (run.code, run.err.splitlines()[-1]) == (130, commands.SHEET_ONWARD)
    assert recipe("sheet.png").stopped == "interrupted"
    run = command(*line)
    assert run.code == 0, run.err
    assert recipe("sheet.png").stopped == "finished"
    run = command(*line)
    assert (run.code, run.err) == (2, "error: sheet.png exists; choose another output or overwrite it (--overwrite)\n")
