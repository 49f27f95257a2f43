from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from image_optimization import console, images
from image_optimization.optimize import Listener, State, Step
from style_transfer import stylize
from style_transfer.budget import Budget
from style_transfer.checkpoint import Checkpoint, read_state
from style_transfer.transfer import BEFORE
from tests.conftest import Command


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_from_the_state_of_any_step_it_ends_the_same(
    optimizer: Any, stop: int, photo_file: Path, painting: Tensor, vgg16: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four steps at each of two scales: stopped within them, between them and before the last step."""
    monkeypatch.setattr("style_transfer.transfer.COARSEST", 24)
    states: dict[int, State] = {}

    def keep(step: Step) -> None:
        states[step.number] = {name: tensor.clone() for name, tensor in step.state().items()}

    how: dict[str, Any] = {"model": vgg16, "size": 64, "steps": 4, "init": "noise", "optimizer": optimizer}
    photo = images.load(photo_file)
    whole = stylize(photo, [painting], **how, listeners=[keep])
    rest = stylize(photo, [painting], **how, state=states[stop])
    assert torch.equal(rest.image, whole.image)
    assert [losses.tolist() for losses in rest.history] == [losses.tolist() for losses in whole.history]


def test_killed_and_resumed_as_typed(photo_file: Path, tmp_path: Path) -> None:
    def start(*arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "from style_transfer.cli import main; main()", *map(str, arguments)]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    line = [photo_file, "--style", "marbling", "--size", 230, "--steps", 6, "--checkpoint-every", 0]
    assert start(*line, "-o", "unbroken.png").wait() == 0
    process = start(*line, "--checkpoint", "run.ckpt", "-o", "resumed.png")
    while not ((tmp_path / "run.ckpt").exists() and BEFORE in read_state(tmp_path / "run.ckpt")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    unbroken, resumed = tmp_path / "unbroken.png", tmp_path / "resumed.png"
    assert not resumed.exists()
    assert start("--resume", "run.ckpt").wait() == 0
    assert Image.open(resumed).tobytes() == Image.open(unbroken).tobytes()
    theirs, ours = map(images.read_settings, (unbroken, resumed))
    assert {key for key in theirs if theirs[key] != ours[key]} <= {"output"}


def test_ctrl_c_keeps_the_last_step(command: Command, photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    images.save(photo, "photo.png")
    line = ["photo.png", "--style", "marbling", "--size", 40, "--steps", 8]
    assert command("stylize", *line, "-o", "unbroken.png").code == 0

    @contextmanager
    def progress(*_: object) -> Iterator[Listener]:
        yield lambda step: os.kill(os.getpid(), signal.SIGINT) if step.number == 3 else None

    with monkeypatch.context() as patch:
        patch.setattr(console, "progress", progress)
        run = command("stylize", *line, "--checkpoint", "run.ckpt", "-o", "a.png")
    assert run.code == 130
    assert "stopping after this step" in run.err
    assert "stylize resume run.ckpt --overwrite goes on from here" in run.err
    assert len(read_state(Path("run.ckpt"))["losses"]) == 3
    assert images.read_settings("a.png")["stopped"] == "interrupted"
    again = command("stylize", *line, "--checkpoint", "run.ckpt", "-o", "b.png")
    assert (again.code, again.err) == (
        2,
        "error: run.ckpt exists: stylize resume run.ckpt goes on from it, --overwrite begins anew\n",
    )
    assert command("stylize", "resume", "run.ckpt", "--overwrite").code == 0
    assert not Path("run.ckpt").exists()  # there is nothing to go on with
    assert Image.open("a.png").tobytes() == Image.open("unbroken.png").tobytes()
    # Before there is a step, the second Ctrl-C does not wait.
    keeper = Checkpoint(Path("other.ckpt"), {}, seconds=60)
    with keeper:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert not Path("other.ckpt").exists()


def test_errors(command: Command, photo: Tensor) -> None:
    run = command("stylize", "resume", "run.ckpt")
    assert (run.code, run.err) == (2, "error: no checkpoint run.ckpt\n")
    images.save(photo, "a.png")
    run = command("stylize", "resume", "a.png")
    assert (run.code, run.err) == (2, "error: a.png is not a checkpoint of stylize\n")
    run = command("stylize", "a.png", "--style", "marbling", "--checkpoint", "a.png")
    assert (run.code, run.err) == (2, "error: a.png is not a checkpoint of stylize\n")
    assert images.load("a.png").shape == photo.shape  # nothing was written over it
    run = command("stylize", "resume", ".")
    assert (run.code, run.err) == (2, "error: . is a folder, not a checkpoint\n")
    run = command("stylize", "a.png", "--style", "marbling", "--checkpoint", "a.png/run.ckpt")
    assert (run.code, run.err.startswith("error: cannot write into a.png: ")) == (2, True)
    Path("photos").mkdir()
    run = command("stylize", "photos", "--style", "marbling", "--checkpoint", "run.ckpt")
    assert run.code == 2
    assert "--checkpoint is for one photo, not for a folder: the same command again goes on" in run.err


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keeper = Checkpoint(tmp_path / "gone" / "run.ckpt", {}, seconds=0)
    keeper(Step(1, 2, torch.tensor(0.5), torch.rand(1, 3, 4, 4), 0.5, lambda: {"leaf": torch.zeros(3)}))
    assert "the checkpoint could not be written, the run goes on: " in capsys.readouterr().err


def test_a_run_goes_on_with_the_tiles_that_it_had(
    photo_file: Path, painting: Tensor, vgg16: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much memory is free by then: other tiles round otherwise."""
    how: dict[str, Any] = {"model": vgg16, "size": 280, "steps": 3, "precision": "float32"}
    states: list[State] = []

    def keep(step: Step) -> None:
        states.append({name: tensor.clone() for name, tensor in step.state().items()})

    with monkeypatch.context() as patch:
        patch.setattr("style_transfer.budget.plan", lambda *arguments: Budget(pairs=4, side=256))
        unbroken = stylize(images.load(photo_file), [painting], **how, listeners=[keep])
    resumed = stylize(images.load(photo_file), [painting], **how, state=states[4])
    assert torch.equal(resumed.image, unbroken.image)


def test_the_state_of_something_else(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    states: list[State] = []
    how: dict[str, Any] = {"model": vgg16, "size": 40, "steps": 2}
    stylize(photo, [painting], **how, listeners=[lambda step: states.append(step.state())])
    for other in ({"optimizer": "adam"}, {"size": 50}):
        with pytest.raises(ValueError, match="another optimizer or of an image of another size"):
            stylize(photo, [painting], **{**how, **other}, state=states[0])
