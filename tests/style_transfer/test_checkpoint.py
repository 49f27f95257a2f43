from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from dreamgram.image_optimization import images
from dreamgram.image_optimization.optimize import State, Step
from dreamgram.style_transfer.budget import WHOLE, Budget
from dreamgram.style_transfer.checkpoint import NOTE, Checkpoint, read_checkpoint
from dreamgram.style_transfer.options import StylizeOptions
from dreamgram.style_transfer.paint import paint
from dreamgram.style_transfer.stylizer import Stylizer, stylize
from dreamgram.workbench.console import Terminal
from dreamgram.workbench.job import Job
from dreamgram.workbench.recipe import Inputs, Recipe
from dreamgram.workbench.state import claimed
from tests.cases import SHALLOW
from tests.conftest import Command
from tests.jobs import Recorder, ctrl_c_at, stopping_at

COMMANDS = {"stylize": StylizeOptions}
RECIPE = Recipe.of("stylize", StylizeOptions(photo=Path("photo.png"), style=["marbling"]), Inputs())


class Keeper:
    """A listener that keeps the state of every step."""

    def __init__(self) -> None:
        self.states: dict[int, State] = {}

    def __call__(self, step: Step) -> None:
        self.states[step.number] = {name: tensor.clone() for name, tensor in step.state().items()}


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_from_the_state_of_any_step_it_ends_the_same(
    optimizer: str, photo_file: Path, painting: Tensor, vgg16: nn.Module
) -> None:
    """A run of 2 and 6 steps at two scales is stopped within a scale, between the scales or before the last step."""
    options: dict[str, Any] = {"size": 64, "scales": [32, 64], "steps": 6, "init": "noise", "optimizer": optimizer}
    stylizer = Stylizer(images.load(photo_file), [painting], model=vgg16, **options, **SHALLOW)
    keeper = Keeper()
    whole = stylizer.run(listeners=[keeper])
    assert list(keeper.states) == list(range(1, 9))
    for stop in range(1, 8):
        rest = stylizer.run(state=keeper.states[stop])
        assert torch.equal(rest.image, whole.image), f"stopped after step {stop}"
        assert [losses.tolist() for losses in rest.history] == [losses.tolist() for losses in whole.history]


def test_killed_and_resumed_as_typed(command: Command, photo_file: Path, tmp_path: Path) -> None:
    shutil.copy(photo_file, tmp_path / "photo.jpg")
    line: list[object] = ["photo.jpg", "--style", "marbling", "--size", 230, "--steps", 6, "--checkpoint-every", 0]
    line += ["--style-layers", "relu1_1,relu2_1"]
    assert command("stylize", *line, "-o", "unbroken.png").code == 0
    arguments = map(str, [*line, "--checkpoint", "run.ckpt", "-o", "resumed.png"])
    typed = [sys.executable, "-c", "from dreamgram.style_transfer.cli import main; main()", *arguments]
    process = subprocess.Popen(typed, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not ((tmp_path / "run.ckpt").exists() and "image_before" in read_checkpoint(tmp_path / "run.ckpt")[0]):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    unbroken, resumed = tmp_path / "unbroken.png", tmp_path / "resumed.png"
    assert not resumed.exists()
    assert command("stylize", "resume", "run.ckpt").code == 0
    assert resumed.read_bytes() == unbroken.read_bytes()


def test_stopped_and_resumed_as_typed(command: Command, photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    images.save(photo, "photo.png")
    line = ["photo.png", "--style", "marbling", "--size", 40, "--steps", 8, "--style-layers", "relu1_1,relu2_1"]
    assert command("stylize", *line, "-o", "unbroken.png").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", ctrl_c_at(3))
        run = command("stylize", *line, "--checkpoint", "run.ckpt", "-o", "a.png")
    assert run.code == 130
    assert "stopping as soon as" in run.err
    assert "interrupted: saved the picture so far; stylize resume run.ckpt continues it\n" in run.err
    assert len(read_checkpoint(Path("run.ckpt"))[0]["losses"]) == 3
    assert Recipe.read(Path("a.png"), COMMANDS).stopped == "interrupted"
    for arguments, message in (
        ([*line, "--checkpoint", "run.ckpt", "-o", "b.png"], "run.ckpt exists: stylize resume run.ckpt continues it"),
        (["replay", "a.png"], "a.png was interrupted, so it cannot be made again"),
    ):
        run = command("stylize", *arguments)
        assert run.code == 2
        assert message in run.err
    assert command("stylize", "resume", "run.ckpt").code == 0  # it replaces the unfinished picture
    assert not Path("run.ckpt").exists()  # there is nothing to continue
    assert Image.open("a.png").tobytes() == Image.open("unbroken.png").tobytes()


def test_two_runs_do_not_share_a_checkpoint(
    command: Command, photo: Tensor, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.save(photo, "photo.png")
    line = ["photo.png", "--style", "marbling", "--size", 40, "--steps", 4, "--style-layers", "relu1_1"]
    with claimed(Path("run.ckpt")):
        run = command("stylize", *line, "--checkpoint", "run.ckpt", "-o", "a.png")
    assert (run.code, run.err) == (2, "error: the checkpoint run.ckpt is used by another run\n")

    def progress(terminal: object, step: Step) -> None:
        with claimed(Path("run.ckpt")) as mine:
            assert not mine  # stylize resume would begin only with the claim

    monkeypatch.setattr(Terminal, "progress", progress)
    assert command("stylize", *line, "--checkpoint", "run.ckpt", "-o", "a.png").code == 0
    assert not list((state / "claims").iterdir())


def test_the_advice_how_to_resume_can_be_followed(
    command: Command, photo: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user painted a photo from another folder, which a checkpoint may name only if it is trusted."""
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    images.save(photo, tmp_path / "photo.png")
    line = ["../photo.png", "--style", "marbling", "--size", 40, "--steps", 4, "--style-layers", "relu1_1"]
    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", ctrl_c_at(3))
        run = command("stylize", *line, "--checkpoint", "run.ckpt", "-o", "a.png")
    assert run.err.endswith("; stylize resume run.ckpt --trust continues it\n")
    run = command("stylize", "resume", "run.ckpt")
    place = "which is outside the current folder"
    message = f"error: run.ckpt would read ../photo.png, {place}; trust run.ckpt to allow it (--trust)\n"
    assert (run.code, run.err) == (2, message)
    assert command("stylize", "resume", "run.ckpt", "--trust").code == 0


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        ("adam", {"leaf", "mean", "square", "steps"}),
        (
            "lbfgs",
            {"leaf", "point", "gradient", "accepted", "best", "best_point", "pairs", "valid", "move_change"}
            | {"change_change", "scale", "steps"},
        ),
    ],
)
def test_tensors_have_short_names(
    optimizer: str, names: set[str], photo: Tensor, painting: Tensor, vgg16: nn.Module
) -> None:
    keeper = Keeper()
    options: dict[str, Any] = {"size": 40, "scales": [32, 40], "steps": 1, "optimizer": optimizer}
    stylize(photo, [painting], model=vgg16, listeners=[keeper], **options)
    names |= {"losses", "budgets"}
    assert keeper.states[1].keys() == names
    assert keeper.states[2].keys() == names | {"image_before", "losses_of_scale_0"}
    assert all(name.isidentifier() for name in keeper.states[2])


def test_a_recipe_of_version_0_1_0_is_resumed(command: Command, photo: Tensor) -> None:
    """The settings in the checkpoint are flat, and the names of three tensors are phrases."""
    images.save(photo, "photo.png")
    layers = {"content_layers": {"relu2_1": 1}, "style_layers": {"relu1_1": 1}}
    whole = StylizeOptions(photo=Path("photo.png"), style=["marbling"], size=170, steps=4, optimizer="adam", **layers)
    paint(whole.change(output=Path("whole.png")), Job())
    paint(whole.change(output=Path("part.png"), checkpoint=Path("run.ckpt")), stopping_at(4))
    state, recipe = read_checkpoint(Path("run.ckpt"))
    flat = {**recipe.options.record(), "files": dict(recipe.files), "output": "a.png"}
    flat |= {"command": "stylize", "version": "0.1.0", "checkpoint": "run.ckpt", "resume_from": None, "tiled": None}
    old_names = {"image_before": "image of the scale before", "losses_of_scale_0": "losses of scale 0"}
    old_names |= {"budgets": "pairs and sides of tiles"}
    assert set(old_names) < set(state)
    old_state = {old_names.get(name, name): tensor for name, tensor in state.items()}
    save_file(old_state, "old.ckpt", {NOTE: json.dumps(flat)})
    run = command("stylize", "resume", "old.ckpt")
    assert run.code == 0, run.err
    assert "old.ckpt was made by Dreamgram 0.1.0; version 0.2.0 changed the optimization" in run.err
    assert Image.open("a.png").tobytes() == Image.open("whole.png").tobytes()
    save_file({**old_state, "losses": torch.ones(3), "leaf": torch.ones(1)}, "lost.ckpt", {NOTE: json.dumps(flat)})
    run = command("stylize", "resume", "lost.ckpt", "--output", "b.png")
    assert run.code == 2
    reason = "version 0.2.0 changed the optimization, so that its state does not fit"
    assert run.err.endswith(f"error: cannot resume: lost.ckpt was made by Dreamgram 0.1.0; {reason}\n")


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    recorder = Recorder()
    (tmp_path / "file").touch()
    keeper = Checkpoint(tmp_path / "file" / "run.ckpt", RECIPE, 0, Job(recorder))
    keeper(Step(1, 2, torch.tensor(0.5), torch.rand(1, 3, 4, 4), 0.5, lambda: {"leaf": torch.zeros(3)}))
    [line] = recorder.told
    assert line.startswith("the checkpoint could not be written, the run continues: ")


def test_a_checkpoint_is_written_every_so_many_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    keeper = Checkpoint(tmp_path / "run.ckpt", RECIPE, 10, Job())
    for number in range(1, 30):
        now[0] = number
        keeper(Step(number, 30, torch.tensor(0.5), torch.rand(1, 3, 4, 4), 0.5, lambda: {"at": torch.tensor(now[0])}))
        if (tmp_path / "run.ckpt").exists():
            assert read_checkpoint(tmp_path / "run.ckpt")[0]["at"] == number // 10 * 10
        else:
            assert number < 10


def test_a_run_is_resumed_with_the_tiles_that_it_had(photo_file: Path, painting: Tensor, vgg16: nn.Module) -> None:
    """More memory may be free when the run is resumed, but different tiles would be rounded differently."""
    layers = {"content_layers": {"relu2_1": 1}, "style_layers": {"relu1_1": 1, "relu2_1": 1}}
    options: dict[str, Any] = {"size": 120, "scales": [60, 120], "steps": 4, **layers}
    stylizer = Stylizer(images.load(photo_file), [painting], model=vgg16, **options)
    keeper = Keeper()
    unbroken = stylizer.change(plan=[WHOLE, Budget(pairs=4, side=64)]).run(listeners=[keeper])
    assert not torch.equal(unbroken.image, stylizer.run().image)
    resumed = stylizer.run(state=keeper.states[3])
    assert torch.equal(resumed.image, unbroken.image)
    assert resumed.plan == unbroken.plan


def test_the_state_of_something_else(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    stylizer = Stylizer(photo, [painting], model=vgg16, size=40, steps=2)
    keeper = Keeper()
    stylizer.run(listeners=[keeper])
    for other in ({"optimizer": "adam"}, {"size": 50}):
        with pytest.raises(ValueError, match="different optimizer, to a different image size"):
            stylizer.change(**other).run(state=keeper.states[1])


def test_errors(command: Command, photo: Tensor) -> None:
    run = command("stylize", "resume", "run.ckpt")
    assert (run.code, run.err) == (2, "error: no checkpoint run.ckpt\n")
    images.save(photo, "a.png")
    run = command("stylize", "resume", "a.png")
    assert (run.code, run.err) == (2, "error: a.png is not a checkpoint of stylize\n")
    run = command("stylize", "a.png", "--style", "marbling", "--checkpoint", "a.png")
    assert (run.code, run.err) == (2, "error: the checkpoint a.png is also the photo; choose another checkpoint\n")
    images.save(photo, "b.png")
    run = command("stylize", "a.png", "--style", "marbling", "--checkpoint", "b.png")
    assert (run.code, run.err) == (2, "error: b.png is not a checkpoint of stylize\n")
    assert images.load("a.png").shape == photo.shape  # the file was not overwritten
    run = command("stylize", "resume", ".")
    assert (run.code, run.err) == (2, "error: . is a folder, not a checkpoint\n")
    run = command("stylize", "a.png", "--style", "marbling", "--checkpoint", "a.png/run.ckpt")
    assert (run.code, run.err.startswith("error: cannot write into a.png: ")) == (2, True)
    Path("photos").mkdir()
    run = command("stylize", "photos", "--style", "marbling", "--checkpoint", "run.ckpt")
    assert run.code == 2
    assert "--checkpoint is for one photo, not for a folder: to resume, run the same command again" in run.err
