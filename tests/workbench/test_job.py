from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from dreamgram.image_optimization import images
from dreamgram.image_optimization.errors import NotWrittenError
from dreamgram.image_optimization.optimize import Step, StopRun
from dreamgram.style_transfer.options import StylizeOptions
from dreamgram.style_transfer.paint import paint
from dreamgram.workbench.job import Done, Job, beside, free, output_path
from dreamgram.workbench.recipe import Inputs, Recipe
from tests.jobs import Recorder

RECIPE = Recipe.of("stylize", StylizeOptions(photo=Path("photo.png"), style=["marbling"]), Inputs())


@pytest.fixture
def options(photo: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StylizeOptions:
    """Options of a run that takes minutes, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    images.save(photo, "photo.png")
    return StylizeOptions(photo=Path("photo.png"), style=["marbling"], size=40, steps=5000, style_layers={"relu1_1": 1})


def step(number: int) -> Step:
    return Step(number, 10, torch.tensor(0.5), torch.rand(1, 3, 4, 4), number / 10)


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_watcher_is_told_of_everything(options: StylizeOptions) -> None:
    recorder = Recorder()
    quick = options.change(steps=2, output=Path("a.jpg"), plot=True)
    images.save(torch.rand(1, 3, 64, 55), "photo.png", alpha=torch.rand(1, 1, 64, 55), overwrite=True)
    assert paint(quick, Job(recorder)) == Done()
    [(title, setting)] = recorder.begun
    assert title == "photo.png"
    assert setting.startswith(("cpu x ", "cuda", "mps"))
    assert recorder.steps == [1, 2]
    assert recorder.told == ["a.jpg cannot be transparent: the transparent parts of photo.png become white"]
    assert recorder.written == [Path("a.jpg"), Path("a-loss.png")]


def test_a_job_in_a_thread_is_stopped_from_another(options: StylizeOptions) -> None:
    """A web page stops jobs like this: the run ends after its present step, and the picture so far is saved."""
    running = threading.Event()

    class Watching(Recorder):
        def progress(self, step: Step) -> None:
            super().progress(step)
            running.set()

    recorder = Watching()
    job = Job(recorder)
    done: list[Done] = []

    def work() -> None:
        with job.taking_interrupts():  # which has no meaning in a thread
            done.append(paint(options, job))

    thread = threading.Thread(target=work)
    thread.start()
    assert running.wait(60)
    job.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert [each.stopped for each in done] == ["interrupted"]
    assert len(recorder.steps) < 5000
    assert recorder.written == [Path("outputs/stylized.png")]
    assert Recipe.read(recorder.written[0], {"stylize": StylizeOptions}).stopped == "interrupted"


def test_the_first_ctrl_c_waits_for_the_present_step(capfd: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder()
    job = Job(recorder)
    with job.taking_interrupts():
        job(step(1))
        ctrl_c()
        assert job.stopping
        with pytest.raises(StopRun):
            job(step(2))
    assert recorder.stops == 1
    assert capfd.readouterr() == ("", "")  # only a front end prints


def test_the_second_ctrl_c_and_one_before_the_first_step_do_not_wait() -> None:
    job = Job()
    with pytest.raises(KeyboardInterrupt), job.taking_interrupts():
        ctrl_c()
    assert not job.stopping
    with pytest.raises(KeyboardInterrupt), job.taking_interrupts():  # noqa: PT012
        job(step(1))
        ctrl_c()
        ctrl_c()
        pytest.fail("the second one waits, too")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_saves_the_picture_even_if_nothing_can_be_shown() -> None:
    """The program that reads the messages may have been ended by the same Ctrl-C."""

    class Gone(Recorder):
        def stopping(self) -> None:
            raise BrokenPipeError

    job = Job(Gone())
    with job.taking_interrupts():
        job(step(1))
        ctrl_c()
    assert job.stopping


def test_ctrl_c_is_left_alone_where_something_else_handles_it() -> None:
    """It is ignored in the background, and a program that embeds this one may have a handler of its own."""
    for handler in (signal.SIG_IGN, lambda *_: None):
        before = signal.signal(signal.SIGINT, handler)
        try:
            with Job().taking_interrupts():
                assert signal.getsignal(signal.SIGINT) is handler
            assert signal.getsignal(signal.SIGINT) is handler
        finally:
            signal.signal(signal.SIGINT, before)


def test_a_part_ends_well_or_not() -> None:
    ends: list[str] = []

    class Watching(Recorder):
        def end(self) -> None:
            ends.append(self.begun[-1][0])

    job = Job(Watching())
    with job.part("first", "cpu") as listener:
        assert listener is job
    with pytest.raises(ValueError, match="a mistake"), job.part("second"):
        raise ValueError("a mistake")
    assert ends == ["first", "second"]


def test_finished_work_is_never_refused(tmp_path: Path, photo: Tensor) -> None:
    """If the file was made by somebody else during the work, a free name beside it is taken."""
    recorder = Recorder()
    job = Job(recorder)
    path = tmp_path / "a.png"
    path.write_text("somebody else's")
    assert job.save(photo, path, RECIPE) == tmp_path / "a-2.png"
    assert path.read_text() == "somebody else's"
    assert job.save(images.to_pillow(photo), path, RECIPE) == tmp_path / "a-3.png"
    assert job.save(photo, path, RECIPE, overwrite=True, bits=16) == path
    assert images.read(path).bits == 16
    assert recorder.written == [tmp_path / "a-2.png", tmp_path / "a-3.png", path]
    for each in recorder.written:
        assert Recipe.read(each, {"stylize": StylizeOptions}).note() == RECIPE.note()


def test_names_of_files_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert output_path(None, "stylized.png", overwrite=False) == Path("outputs/stylized.png")
    assert not Path("outputs").exists()  # a command that fails leaves no empty folder
    Path("outputs").mkdir()
    Path("outputs/stylized.png").touch()
    assert output_path(None, "stylized.png", overwrite=True) == Path("outputs/stylized-2.png")  # never the last one's
    assert output_path(Path("new/a.png"), "stylized.png", overwrite=False) == Path("new/a.png")
    Path("new").mkdir()
    Path("new/a.png").touch()
    with pytest.raises(FileExistsError, match="exists; choose another output or overwrite it"):
        output_path(Path("new/a.png"), "stylized.png", overwrite=False)
    assert free(Path("new/a.png"), overwrite=True) == Path("new/a.png")
    assert free(Path("new/a.png")) == Path("new/a-2.png")
    assert beside(Path("b.png"), "-loss.png", overwrite=False) == Path("b-loss.png")
    assert beside(Path("b.webp"), ".webp", overwrite=False) == Path("b-2.webp")  # not the picture itself
    Path("b-loss.png").touch()
    assert beside(Path("b.png"), "-loss.png", overwrite=False) == Path("b-loss-2.png")
    assert beside(Path("b.png"), "-loss.png", overwrite=True) == Path("b-loss.png")


def full_disk(monkeypatch: pytest.MonkeyPatch, *places: Path) -> None:
    """Make it impossible to write a picture in ``places``."""
    save = Image.Image.save

    def fail(picture: Image.Image, path: Path, *arguments: object, **options: object) -> None:
        if any(place in path.parents for place in places):
            path.write_bytes(b"the beginning")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(picture, path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "save", fail)


def test_a_full_disk_loses_no_picture(
    tmp_path: Path, state: Path, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    recorder = Recorder()
    for full, kept in (([out], state / "saved"), ([out, state], temporary)):
        with monkeypatch.context() as patch:
            full_disk(patch, *full)
            with pytest.raises(NotWrittenError) as error:
                Job(recorder).save(photo, out / "a.png", RECIPE)
        message = f"cannot write {out / 'a.png'}: No space left on device; the picture was saved as {kept / 'a.png'}"
        assert str(error.value) == message
        assert Recipe.read(kept / "a.png", {"stylize": StylizeOptions}).note() == RECIPE.note()
    with monkeypatch.context() as patch:
        full_disk(patch, tmp_path, state)
        with pytest.raises(OSError, match=r"^cannot write .*/out/a\.png: No space left on device$"):
            Job(recorder).save(photo, out / "a.png", RECIPE)
    assert not recorder.written
    assert not list(out.iterdir())


def test_a_folder_that_becomes_a_file_loses_no_picture(tmp_path: Path, state: Path, photo: Tensor) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(NotWrittenError, match=f"cannot write into .*; the picture was saved as {state}/saved/a.png"):
        Job().save(photo, tmp_path / "out/a.png", RECIPE)
    Job().save(photo, tmp_path / "gone/a.png", RECIPE)  # a folder that was deleted is made again
    assert (tmp_path / "gone/a.png").exists()


def test_ctrl_c_after_the_work_does_nothing() -> None:
    job = Job()
    with job.taking_interrupts():
        job.over = True
        ctrl_c()
    assert not job.stopping


def test_the_message_of_a_second_ctrl_c_is_true() -> None:
    job = Job()
    assert job.interrupted == "interrupted: nothing was saved"
    job.wrote(Path("a.png"))
    assert job.interrupted == "interrupted: a.png was saved"
    job.wrote(Path("a-loss.png"))
    assert job.interrupted == "interrupted: a.png was saved"
