from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from image_optimization import images
from style_transfer import Cache, stylize, total
from style_transfer.folder import name_outputs, paint_each
from tests.conftest import Command

QUICK = ["--style", "marbling", "--size", 40, "--steps", 2]


@pytest.fixture
def photos(photo: Tensor, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        images.save((photo + 0.1 * number).clamp(0, 1), folder / f"{number}.jpg")
    images.save(photo, folder / "2.png")  # of the same name but for the ending
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_folder_as_typed(command: Command, photos: Path) -> None:
    (photos / "bad.png").write_text("no picture either")
    run = command("stylize", photos, *QUICK, "-o", "out")
    assert run.code == 1
    assert f"failed: {photos / 'bad.png'}: {photos / 'bad.png'} is not an image" in run.err
    assert run.out.splitlines()[-1] == "out: 4 painted, 1 failed"
    made = {path.name: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    assert set(made) == {"0.png", "1.png", "2.jpg.png", "2.png.png"}
    assert images.read_settings("out/1.png")["photo"] == str(photos / "1.jpg")
    (photos / "bad.png").unlink()
    Path("out/0.png").unlink()
    run = command("stylize", photos, *QUICK, "-o", "out")
    assert (run.code, run.out.splitlines()[-1]) == (0, "out: 1 painted, 3 there already")
    assert {name: time for name, time in made.items() if name != "0.png"}.items() <= {
        path.name: path.stat().st_mtime_ns for path in Path("out").iterdir()
    }.items()
    # With other settings nothing is replaced unasked.
    run = command("stylize", photos, *QUICK, "-o", "out", "--style-weight", 2)
    assert run.code == 1
    assert "0.png was made with style_weight 1.0, not 2.0; choose another output, or" in run.err
    assert run.out.splitlines()[-1] == "out: 4 failed"
    run = command("stylize", photos, *QUICK, "-o", "out", "--style-weight", 2, "--overwrite")
    assert (run.code, run.out.splitlines()[-1]) == (0, "out: 4 painted")
    # Nor is a painting that has changed meanwhile taken for the same.
    images.save(torch.rand(1, 3, 40, 40), "painting.png")
    painted = ["stylize", photos, "--style", "painting.png", "--size", 40, "--steps", 1, "-o", "painted"]
    assert command(*painted).code == 0
    images.save(torch.rand(1, 3, 40, 40), "painting.png", overwrite=True)
    assert "0.png was made from another painting.png; choose another output, or" in command(*painted).err
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
    assert f"0.png was made from another {photos / '0.jpg'}; choose another output, or" in run.err
    assert Path("out/0.png").read_bytes() == before
    photos.rename("elsewhere")  # what matters is what is in it
    run = command("stylize", "elsewhere", *QUICK, "-o", "out", "--overwrite")
    assert (run.code, run.out.splitlines()[-1]) == (0, "out: 1 painted, 3 there already")


def test_what_cannot_be_painted_is_said(command: Command, photos: Path) -> None:
    (photos / "dead.png").symlink_to("nowhere.png")
    (photos / "phone.heic").write_bytes(b"not one")
    (photos / "more").mkdir()
    (photos / ".hidden.png").write_text("")
    run = command("stylize", photos, *QUICK, "-o", "out")
    assert run.code == 1
    assert "left alone, since not pictures: more, notes.txt" in run.err
    assert f"failed: {photos / 'dead.png'}: no image file" in run.err
    assert f"failed: {photos / 'phone.heic'}: " in run.err
    assert run.out.splitlines()[-1] == "out: 4 painted, 2 failed"


def test_a_killed_run_goes_on(command: Command, photos: Path, tmp_path: Path) -> None:
    arguments = ["stylize", photos, *QUICK, "--seed", 5]
    assert command(*arguments, "-o", "unbroken").code == 0
    code = "from style_transfer.cli import main; main()"
    line = [sys.executable, "-c", code, *map(str, arguments[1:]), "-o", "broken"]
    process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "broken" / "0.png").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = command(*arguments, "-o", tmp_path / "broken")
    assert run.code == 0
    assert "there already" in run.out
    for path in Path("unbroken").iterdir():
        assert Image.open(tmp_path / "broken" / path.name).tobytes() == Image.open(path).tobytes()


def test_the_painting_is_looked_at_once(
    photo: Tensor, painting: Tensor, vgg16: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def statistics(*arguments: object) -> total.Statistics:
        nonlocal looks
        looks += 1
        return look(*arguments)  # type: ignore[arg-type]

    look = total.statistics
    monkeypatch.setattr(total, "statistics", statistics)
    cache = Cache()
    made = [stylize(each, [painting], model=vgg16, size=40, steps=2, cache=cache).image for each in (photo, 1 - photo)]
    assert looks == 1
    assert torch.equal(made[1], stylize(1 - photo, [painting], model=vgg16, size=40, steps=2).image)


def test_one_photo_that_does_not_fit_does_not_stop_the_others(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def paint(photo: Path, path: Path) -> None:
        if photo.name == "0.jpg":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        if photo.name == "2.jpg":
            raise RuntimeError("a mistake of ours")

    (tmp_path / "out").mkdir()
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        paint_each(photos, tmp_path / "out", paint, {"files": {}}, overwrite=False)
    assert "0.jpg: DefaultCPUAllocator: can't allocate memory" in capsys.readouterr().err


def test_errors(command: Command, photos: Path) -> None:
    run = command("stylize", photos, *QUICK, "-o", "a.png")
    assert (run.code, run.err) == (2, "error: the photos are a folder, so the output must be one too, not a.png\n")
    run = command("stylize", photos, *QUICK, "-o", "a.mp4")
    assert (run.code, run.err) == (2, "error: the photos are a folder, so the output must be one too, not a.mp4\n")
    run = command("stylize", photos, *QUICK, "-o", photos)
    assert (run.code, run.err) == (2, f"error: the output is the folder of the photos, {photos}: choose another one\n")
    run = command("stylize", photos, *QUICK, "--style-loss", "gramm")  # said once, not for every photo
    assert (run.code, run.err) == (2, "error: no style loss 'gramm'; there are gram, wasserstein, nearest\n")
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
