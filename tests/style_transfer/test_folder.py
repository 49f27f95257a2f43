from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from dreamgram.image_optimization import images
from dreamgram.image_optimization.names import must_be
from dreamgram.image_optimization.optimize import Step
from dreamgram.style_transfer.folder import name_outputs, paint_each
from dreamgram.style_transfer.losses import STYLE_LOSSES
from dreamgram.style_transfer.options import StylizeOptions
from dreamgram.workbench.console import Terminal
from dreamgram.workbench.job import Done, Job
from dreamgram.workbench.recipe import Recipe
from dreamgram.workbench.state import claimed
from tests.conftest import Command
from tests.jobs import Recorder

QUICK = ["--style", "marbling", "--size", 40, "--steps", 2, "--style-layers", "relu1_1,relu2_1"]  # which are quick


@pytest.fixture
def photos(photo: Tensor, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        images.save((photo + 0.1 * number).clamp(0, 1), folder / f"{number}.jpg")
    images.save(photo, folder / "2.png")  # the same name with another ending
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_folder_that_an_older_version_has_begun(command: Command, photos: Path) -> None:
    assert command("stylize", photos, *QUICK, "-o", "out").code == 0
    for name in ("0.png", "1.png"):
        made = Recipe.read(Path("out", name), {"stylize": StylizeOptions})
        with Image.open(f"out/{name}") as picture:
            images.save(picture, f"out/{name}", replace(made, version="0.1.0").note(), overwrite=True)
    assert "0.1.0" not in command("stylize", photos, *QUICK, "-o", "out").err  # nothing is painted
    Path("out/2.png.png").unlink()
    run = command("stylize", photos, *QUICK, "-o", "out")
    assert run.out.splitlines()[-1] == "out: 3 already existed, 1 painted"
    [told] = [line for line in run.err.splitlines() if "0.1.0" in line]
    assert told.startswith("out/0.png was made by Dreamgram 0.1.0; version 0.2.0 changed the optimization, so the ")
    assert told.endswith("; choose another output to paint all anew")
    Path("out/0.png").unlink()
    Path("out/1.png").unlink()
    assert "0.1.0" not in command("stylize", photos, *QUICK, "-o", "out").err


def test_a_folder_as_typed(command: Command, photos: Path) -> None:
    (photos / "bad.png").write_text("no picture either")
    run = command("stylize", photos, *QUICK, "-o", "out", "--quiet")
    assert run.code == 1
    assert run.err == f"failed: {photos / 'bad.png'} is not an image that can be read\n"
    assert run.out == ""
    made = {path.name: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    assert set(made) == {"0.png", "1.png", "2.jpg.png", "2.png.png"}
    recipe = Recipe.read(Path("out/1.png"), {"stylize": StylizeOptions})
    assert recipe.options.record()["photo"] == str(photos / "1.jpg")
    (photos / "bad.png").unlink()
    Path("out/0.png").unlink()
    run = command("stylize", photos, *QUICK, "-o", "out")
    assert (run.code, run.out.splitlines()[-1]) == (0, "out: 1 painted, 3 already existed")
    assert {name: time for name, time in made.items() if name != "0.png"}.items() <= {
        path.name: path.stat().st_mtime_ns for path in Path("out").iterdir()
    }.items()
    # With different options, existing pictures are overwritten only with --overwrite.
    run = command("stylize", photos, *QUICK, "-o", "out", "--style-weight", 2)
    assert run.code == 1
    assert (
        "0.png was made with style_weight 1.0, not 2.0; choose another output or overwrite it (--overwrite)" in run.err
    )
    assert run.err.count("(--overwrite)") == 4
    assert run.out.splitlines()[-1] == "out: 4 failed"
    run = command("stylize", photos, *QUICK, "-o", "out", "--style-weight", 2, "--overwrite")
    assert (run.code, run.out.splitlines()[-1]) == (0, "out: 4 painted")
    # A painting whose file has changed in the meantime counts as different.
    images.save(torch.rand(1, 3, 40, 40), "painting.png")
    painted = ["stylize", photos, "--style", "painting.png", *QUICK[2:], "-o", "painted"]
    assert command(*painted).code == 0
    images.save(torch.rand(1, 3, 40, 40), "painting.png", overwrite=True)
    assert "0.png was made from a different painting.png; choose another output or" in command(*painted).err
    assert command("stylize", "replay", "out/0.png", "-o", "again.png").code == 0
    assert Image.open("again.png").tobytes() == Image.open("out/0.png").tobytes()


def test_every_photo_has_a_file_of_its_own() -> None:
    def names(*photos: str) -> list[str]:
        return [path.name for path in name_outputs([Path(photo) for photo in photos], Path("out"))]

    assert names("a.jpg", "b.jpg") == ["a.png", "b.png"]
    assert names("a.jpg", "a.png") == ["a.jpg.png", "a.png.png"]
    assert names("a.jpg", "a.jpg.png", "a.png") == ["a.jpg.png", "a.jpg-2.png", "a.png.png"]
    assert names("IMG.jpg", "img.png") == ["IMG.jpg.png", "img.png.png"]
    many = names("a.jpg", "a.jpg.png", "a.jpg.png.gif", "a.png")
    assert len(set(many)) == 4


def test_another_photo_of_the_same_name_is_not_done(command: Command, photos: Path, photo: Tensor) -> None:
    assert command("stylize", photos, *QUICK, "-o", "out").code == 0
    before = Path("out/0.png").read_bytes()
    images.save(1 - photo, photos / "0.jpg", overwrite=True)
    run = command("stylize", photos, *QUICK, "-o", "out")
    assert run.code == 1
    assert f"0.png was made from a different {photos / '0.jpg'}; choose another output or" in run.err
    assert Path("out/0.png").read_bytes() == before
    photos.rename("elsewhere")  # the names do not matter, only the contents do
    run = command("stylize", "elsewhere", *QUICK, "-o", "out", "--overwrite")
    assert (run.code, run.out.splitlines()[-1]) == (0, "out: 1 painted, 3 already existed")


def test_what_cannot_be_painted_is_said(command: Command, photos: Path) -> None:
    (photos / "dead.png").symlink_to("nowhere.png")
    (photos / "phone.heic").write_bytes(b"not one")
    (photos / "more").mkdir()
    (photos / ".hidden.png").write_text("")
    run = command("stylize", photos, *QUICK, "-o", "out")
    assert run.code == 1
    assert "skipped, because they are not pictures: more, notes.txt" in run.err
    assert f"failed: no image file {photos / 'dead.png'}\n" in run.err
    assert f"failed: {photos / 'phone.heic'} " in run.err
    assert run.out.splitlines()[-1] == "out: 4 painted, 2 failed"


def test_a_killed_run_goes_on(command: Command, photos: Path, tmp_path: Path) -> None:
    arguments = ["stylize", photos, *QUICK, "--seed", 5]
    assert command(*arguments, "-o", "unbroken").code == 0
    code = "from dreamgram.style_transfer.cli import main; main()"
    line = [sys.executable, "-c", code, *map(str, arguments[1:]), "-o", "broken"]
    process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "broken" / "0.png").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = command(*arguments, "-o", tmp_path / "broken")
    assert run.code == 0
    assert "already existed" in run.out
    for path in Path("unbroken").iterdir():
        assert Image.open(tmp_path / "broken" / path.name).tobytes() == Image.open(path).tobytes()


def test_ctrl_c_keeps_what_is_complete(command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def progress(terminal: Terminal, step: Step) -> None:
        steps.append(step.number)
        if len(steps) == 3:  # the first step of the second photo
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", progress)
        run = command("stylize", photos, *QUICK, "-o", "out")
    assert (run.code, run.out.splitlines()[-1]) == (130, "out: 1 painted")
    assert run.err.splitlines()[-1] == "interrupted: run the same command again to resume"
    assert [path.name for path in Path("out").iterdir()] == ["0.png"]  # an unfinished picture is not kept
    run = command("stylize", photos, *QUICK, "-o", "out")
    assert (run.code, run.out.splitlines()[-1]) == (0, "out: 1 already existed, 3 painted")


def test_photos_one_after_the_other_are_painted_as_each_alone(command: Command, photos: Path, photo: Tensor) -> None:
    images.save(images.resize(photo, (40, 60)), photos / "1.jpg", overwrite=True)  # of another size
    assert command("stylize", photos, *QUICK, "-o", "out").code == 0
    for name in ("1", "2.jpg"):
        source = photos / Path(name).with_suffix(".jpg").name
        assert command("stylize", source, *QUICK, "-o", "alone.png", "--overwrite").code == 0
        assert Path("alone.png").read_bytes() == Path(f"out/{name}.png").read_bytes()


def test_one_photo_that_does_not_fit_does_not_stop_the_others(photos: Path, tmp_path: Path) -> None:
    def paint(photo: Path, path: Path) -> Done | None:
        if photo.name == "0.jpg":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        if photo.name == "2.png":
            raise RuntimeError("a mistake of ours")
        return None if photo.name == "1.jpg" else Done()

    recorder = Recorder()
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        paint_each(photos, tmp_path / "out", paint, Job(recorder))
    assert recorder.told[-1] == f"failed: {photos / '0.jpg'}: DefaultCPUAllocator: can't allocate memory"
    (photos / "2.png").unlink()
    done = paint_each(photos, tmp_path / "out", paint, Job(recorder))
    assert done.failed == 1
    assert done.summary == f"{tmp_path / 'out'}: 1 failed, 1 already existed, 1 painted"


def test_errors(command: Command, photos: Path) -> None:
    run = command("stylize", photos, *QUICK, "-o", "a.png")
    assert (run.code, run.err) == (2, "error: the photos are a folder, so the output must be one too, not a.png\n")
    run = command("stylize", photos, *QUICK, "-o", "a.mp4")
    assert (run.code, run.err) == (2, "error: the photos are a folder, so the output must be one too, not a.mp4\n")
    run = command("stylize", photos, *QUICK, "-o", photos)
    message = f"error: the output is the folder of the photos, {photos}: choose a different folder\n"
    assert (run.code, run.err) == (2, message)
    run = command("stylize", photos, *QUICK, "--style-loss", "gramm")  # told once, not for each photo
    assert (run.code, run.err) == (2, f"error: --style-loss {must_be('gramm', STYLE_LOSSES)}\n")
    for mistake, told in (
        (["--style-layers", "relu9_1"], "no layer 'relu9_1'; did you mean"),
        (["--blend", "1,2"], "1 style but 2 blend weights"),
        (["--style-mask", photos / "0.jpg"], "--style-mask is for one photo, not for a folder"),
    ):
        run = command("stylize", photos, *QUICK, *mistake)
        assert (run.code, run.err.startswith(f"error: {told}")) == (2, True)
        assert len(run.err.splitlines()) == 1
    run = command("stylize", photos, *QUICK, "--content-mask", photos / "0.jpg")
    assert (run.code, run.err) == (2, "error: --content-mask is for one photo, not for a folder\n")


def test_a_photo_that_another_run_paints_is_left_to_it(command: Command, photos: Path, tmp_path: Path) -> None:
    with claimed(tmp_path / "out/0.png"):
        run = command("stylize", photos, *QUICK, "-o", "out")
    assert (run.code, run.out.splitlines()[-1]) == (0, "out: 1 left to another run, 3 painted")
    run = command("stylize", photos, *QUICK, "-o", "out")
    assert (run.code, run.out.splitlines()[-1]) == (0, "out: 1 painted, 3 already existed")


def test_names_that_are_not_text(command: Command, photo: Tensor) -> None:
    name = os.fsdecode(b"\xff.png")
    images.save(photo, Path("photos", name))
    run = command("stylize", "photos", *QUICK, "-o", "out")
    assert (run.code, run.err) == (0, "")
    assert [path.name for path in Path("out").iterdir()] == [name]


def test_a_mistake_is_told_once_and_leaves_no_folder(command: Command, photos: Path) -> None:
    for mistake, told in (
        (["--size", 4], "the photo at its final size has 4x4 pixels; VGG needs"),
        (["-o", ""], "--output must be a file name, not ''"),
    ):
        run = command("stylize", photos, *QUICK, "-o", "out", *mistake)
        lines = [line for line in run.err.splitlines() if not line.startswith("skipped")]
        assert (run.code, len(lines), lines[0].startswith(f"error: {told}")) == (2, 1, True), run.err
        assert not Path("out").exists()
