from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.kills import CASES, kill, prepare, run
from dreamgram.image_optimization import images
from dreamgram.image_optimization.optimize import Step
from dreamgram.style_transfer.checkpoint import INTERVAL, LARGEST_SHARE, NOTE, Checkpoint, read_recipe
from dreamgram.style_transfer.options import StylizeOptions
from dreamgram.style_transfer.unfinished import ABANDONED, find_run, keeping_run, make_room
from dreamgram.workbench.console import Terminal
from dreamgram.workbench.job import Done, Job
from dreamgram.workbench.recipe import Inputs, Recipe
from dreamgram.workbench.state import claimed
from tests.conftest import Command
from tests.jobs import Recorder, ctrl_c_at

RECIPE = Recipe.of("stylize", StylizeOptions(photo=Path("photo.png"), style=["marbling"]), Inputs())
QUICK = ["photo.png", "--style", "marbling", "--size", 32, "--steps", 6, "--style-layers", "relu1_1"]


def write_state(path: Path, output: str = "a.png", folder: Path | None = None, size: int = 0) -> Path:
    """Write a state that belongs to a run in ``folder``, by default the current one."""
    made = {"output": output, "folder": str(folder or Path.cwd())}
    save_file({"leaf": torch.zeros(size)}, path, {NOTE: replace(RECIPE, made=made).note()})
    return path


@pytest.fixture
def runs(state: Path) -> Path:
    folder = state / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def stopped(command: Command, photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Stop a run by Ctrl-C in its third step; the same run without it made ``unbroken.png``."""
    images.save(photo, "photo.png")
    assert command("stylize", *QUICK, "-o", "unbroken.png").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", ctrl_c_at(3))
        outcome = command("stylize", *QUICK, "-o", "my face.png")
    assert outcome.code == 130
    said = "interrupted: saved the picture so far; stylize resume 'my face' continues it"
    assert outcome.err.splitlines()[-1] == said
    return command


@pytest.mark.parametrize("name", [[], ["my face"]])
def test_every_run_can_be_resumed(name: list[str], stopped: Command, state: Path) -> None:
    assert Recipe.read(Path("my face.png"), {"stylize": StylizeOptions}).stopped == "interrupted"
    outcome = stopped("stylize", "resume", *name)
    assert outcome.code == 0, outcome.err
    assert Path("my face.png").read_bytes() == Path("unbroken.png").read_bytes()
    assert not list((state / "runs").iterdir())
    assert not list((state / "claims").iterdir())
    outcome = stopped("stylize", "resume")
    assert (outcome.code, outcome.err) == (2, "error: no unfinished run was started in this folder\n")


def test_a_resumed_run_is_stopped_again(stopped: Command, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", ctrl_c_at(5))
        assert stopped("stylize", "resume").code == 130
    assert [path.name for path in (state / "runs").iterdir()] == ["my face.ckpt"]
    assert stopped("stylize", "resume").code == 0
    assert Image.open("my face.png").tobytes() == Image.open("unbroken.png").tobytes()


def test_another_picture_is_not_overwritten(stopped: Command, photo: Tensor) -> None:
    images.save(photo, "my face.png", overwrite=True)
    outcome = stopped("stylize", "resume")
    assert outcome.code == 2
    assert "my face.png was made without a recipe of this command; choose another output or" in outcome.err
    assert stopped("stylize", "resume", "-o", "other.png").code == 0
    assert Path("other.png").read_bytes() == Path("unbroken.png").read_bytes()


def test_a_run_that_is_finished_already(stopped: Command, state: Path) -> None:
    """A run may be killed after it has saved the picture and before it deletes its state."""
    Path("unbroken.png").replace("my face.png")
    before = Path("my face.png").stat().st_mtime_ns
    outcome = stopped("stylize", "resume")
    assert (outcome.code, outcome.out) == (0, "my face.png is finished\n")
    assert Path("my face.png").stat().st_mtime_ns == before
    assert not list((state / "runs").iterdir())


def test_the_same_names_in_another_folder(
    stopped: Command, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    outcome = stopped("stylize", "resume", "my face")
    assert (outcome.code, outcome.err) == (2, f"error: my face was started in {tmp_path}: resume it there\n")
    outcome = stopped("stylize", "resume")
    assert "no unfinished run was started in this folder; there are my face in" in outcome.err
    outcome = stopped("stylize", "resume", state / "runs/my face.ckpt")
    assert (outcome.code, outcome.err) == (2, f"error: my face was started in {tmp_path}: resume it there\n")
    outcome = stopped("stylize", "resume", "my fac")
    assert outcome.err.startswith("error: no checkpoint my fac; the unfinished runs are my face in ")


def test_a_run_that_is_running_is_not_resumed(stopped: Command, state: Path) -> None:
    with claimed(state / "runs/my face.ckpt"):
        outcome = stopped("stylize", "resume")
        assert (outcome.code, outcome.err) == (2, "error: my face is still running\n")
        other = write_state(state / "runs/other.ckpt")
        os.utime(other, (0, 0))
        assert find_run(None) == other  # an older run that is not running


def test_a_folder_with_the_name_of_a_run(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_state(runs / "a.ckpt")
    Path("a").mkdir()
    assert find_run(Path("a")) == path


def test_interrupted_before_a_resumed_run_goes_on(stopped: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(painter: object, *given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dreamgram.style_transfer.paint.Painter", interrupt)
    outcome = stopped("stylize", "resume")
    assert (outcome.code, outcome.err) == (130, "interrupted: stylize resume 'my face' continues it\n")


def test_the_limit_of_states_is_kept(command: Command, photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    images.save(photo, "photo.png")
    limits = []

    def paint(options: StylizeOptions, *given: object) -> Done:
        limits.append(options.state_limit)
        return Done()

    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", ctrl_c_at(3))
        assert command("stylize", *QUICK, "-o", "a.png", "--state-limit", "3G").code == 130
    monkeypatch.setattr("dreamgram.style_transfer.paint.paint", paint)
    assert command("stylize", "resume").code == 0
    assert limits == [3 * 10**9]


def test_a_run_that_may_overwrite_its_output(command: Command, photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    images.save(photo, "photo.png")
    images.save(photo, "a.png")
    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", ctrl_c_at(3))
        assert command("stylize", *QUICK, "-o", "a.png", "--overwrite").code == 130
    images.save(photo, "a.png", overwrite=True)  # as if the run had been killed before it saved anything
    assert command("stylize", "resume").code == 0
    assert Recipe.read(Path("a.png"), {"stylize": StylizeOptions}).stopped == "finished"


def test_a_resumed_run_is_not_allowed_more(stopped: Command, photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of someone else appears after the run was resumed and stopped again."""
    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", ctrl_c_at(5))
        assert stopped("stylize", "resume").code == 130
    images.save(photo, "my face.png", overwrite=True)
    before = Path("my face.png").read_bytes()
    outcome = stopped("stylize", "resume")
    assert outcome.code == 2
    assert "choose another output or overwrite it" in outcome.err
    assert Path("my face.png").read_bytes() == before


def test_the_permission_to_overwrite_is_for_one_output(
    command: Command, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("photo.png", "a.png", "other.png"):
        images.save(photo, name)
    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", ctrl_c_at(3))
        assert command("stylize", *QUICK, "-o", "a.png", "--overwrite").code == 130
    before = Path("other.png").read_bytes()
    outcome = command("stylize", "resume", "-o", "other.png")
    assert outcome.code == 2
    assert "other.png was made without a recipe of this command" in outcome.err
    assert Path("other.png").read_bytes() == before
    assert command("stylize", "resume", "-o", "other.png", "--overwrite").code == 0


def test_a_picture_that_appears_during_a_resumed_run(
    stopped: Command, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def progress(terminal: object, step: Step) -> None:
        images.save(photo, "my face.png", overwrite=True)

    monkeypatch.setattr(Terminal, "progress", progress)
    assert stopped("stylize", "resume").code == 0
    assert images.read_note("my face.png") is None
    assert Path("my face-2.png").read_bytes() == Path("unbroken.png").read_bytes()


def test_names_of_runs(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_state(runs / "a.ckpt", folder=tmp_path / "elsewhere")
    with keeping_run(Path("a.png"), RECIPE.same_as) as path, keeping_run(Path("a.png"), RECIPE.same_as) as second:
        assert path == runs / "a-2.ckpt"
        assert second == runs / "a-3.ckpt"
    write_state(runs / "a-2.ckpt")
    with keeping_run(Path("a.png"), RECIPE.same_as) as path:  # a new run of the same picture replaces the old one
        assert path == runs / "a-2.ckpt"
    other = replace(RECIPE, options=RECIPE.options.change(size=64))
    with keeping_run(Path("a.png"), other.same_as) as path:  # an unfinished picture with other settings is kept
        assert path == runs / "a-3.ckpt"


def test_a_new_run_leaves_the_state_of_a_killed_one(
    stopped: Command, photo: Tensor, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("my face.png").unlink()  # as if the run had been killed
    run = state / "runs/my face.ckpt"
    before = run.read_bytes()
    images.save(1 - photo, "other.png")
    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", ctrl_c_at(3))
        outcome = stopped("stylize", "other.png", *QUICK[1:], "-o", "my face.png")
    assert outcome.err.endswith("stylize resume 'my face-2' continues it\n")
    assert run.read_bytes() == before
    Path("my face.png").unlink()
    assert stopped("stylize", *QUICK, "-o", "my face.png").code == 0  # the same picture, but no state was saved
    assert run.read_bytes() == before
    outcome = stopped("stylize", "resume", "my face")
    assert (outcome.code, outcome.out) == (0, "my face.png is finished\n")
    assert not run.exists()


def test_abandoned_runs_are_deleted(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    old, new, running = (write_state(runs / f"{name}.ckpt") for name in ("old", "new", "running"))
    for path in (old, running):
        os.utime(path, (0, time.time() - ABANDONED - 60))
    with claimed(running), keeping_run(Path("a.png"), RECIPE.same_as):
        assert not old.exists()
        assert new.exists()
        assert running.exists()


def test_the_oldest_states_make_room(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [write_state(runs / f"{number}.ckpt", size=1000) for number in range(4)]
    for number, path in enumerate(paths):
        os.utime(path, (0, time.time() - 1000 + number))
    size = paths[0].stat().st_size
    assert make_room(paths[3], size, 4 * size)
    assert all(path.exists() for path in paths)
    with claimed(paths[0]):
        assert make_room(paths[3], size, 3 * size)
        assert [path.exists() for path in paths] == [True, False, True, True]
        assert not make_room(paths[3], size + 1, size)
        assert not make_room(paths[3], size, size)  # the third state would not be enough
        assert [path.exists() for path in paths] == [True, False, True, True]


def test_a_state_that_is_too_large_is_told_once(command: Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    outcome = command("stylize", *QUICK, "-o", "a.png", "--state-limit", "1k", "--checkpoint-every", 0)
    assert outcome.code == 0
    assert outcome.err.count("is too large to be kept, so a stopped run starts over") == 1
    outcome = command("stylize", *QUICK, "-o", "b.png", "--state-limit", "0", "--checkpoint-every", 0)
    assert (outcome.code, outcome.err) == (0, "")


def test_saving_takes_little_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first state is saved within a minute, and the later ones the more seldom, the longer saving takes."""
    now, saved = 0.0, []

    def state() -> dict[str, Tensor]:
        nonlocal now
        saved.append(now)
        now += 4
        return {"leaf": torch.zeros(1)}

    monkeypatch.setattr("time.monotonic", lambda: now)
    keeper = Checkpoint(tmp_path / "run.ckpt", RECIPE, None, Job())
    for number in range(1, 1000):
        now += 1
        keeper(Step(number, 1000, torch.tensor(0.5), torch.rand(1, 3, 4, 4), 0.5, state))
    assert saved[0] == INTERVAL <= 60
    assert 4 * len(saved) <= LARGEST_SHARE * now + 4
    assert len(saved) == 5
    assert saved[2] - saved[1] == 4 / LARGEST_SHARE + 4


def test_a_second_ctrl_c_says_how_to_resume(tmp_path: Path) -> None:
    job = Job(Recorder())
    assert job.interrupted == "interrupted: nothing was saved"
    keeper = Checkpoint(tmp_path / "run.ckpt", RECIPE, 0, job, "stylize resume run continues it")
    assert job.interrupted == "interrupted: nothing was saved"
    keeper(Step(1, 10, torch.tensor(0.5), torch.rand(1, 3, 4, 4), 0.5, lambda: {"leaf": torch.zeros(1)}))
    assert job.interrupted == "interrupted: stylize resume run continues it"
    assert read_recipe(tmp_path / "run.ckpt").note() == RECIPE.note()


def test_killed_at_any_time(tmp_path: Path) -> None:
    """Real processes are killed. ``python -m benchmarks.kills`` does so more often, and at random times."""
    case, unbroken = CASES["photo"], tmp_path / "unbroken"
    prepare(unbroken)
    duration = run(unbroken, case.command, case.code)
    late = [0.7 * duration, 0.8 * duration]  # the resumed run is killed, too
    early = [max(0.15, 0.1 * duration)]  # on a busy machine, Python takes longer to start
    for number, (times, how) in enumerate([(late, signal.SIGKILL), (early, signal.SIGINT)]):
        assert kill(case, tmp_path / str(number), times, how, unbroken) == []
