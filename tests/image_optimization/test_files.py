from __future__ import annotations

import os
from pathlib import Path

import pytest

from dreamgram.image_optimization import images
from dreamgram.image_optimization.files import check_regular, is_inside, same_file


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_what_is_a_regular_file() -> None:
    Path("a").touch()
    Path("link").symlink_to("a")
    for path in ("a", "link", ".", "gone"):
        check_regular(Path(path))
    os.mkfifo("pipe")
    Path("linked pipe").symlink_to("pipe")
    for path in ("pipe", "linked pipe", os.devnull):
        with pytest.raises(ValueError, match=f"{path} is not a regular file"):
            check_regular(Path(path))
        with pytest.raises(ValueError, match=f"{path} is not a regular file"):
            images.read(path)
        with pytest.raises(ValueError, match=f"{path} is not a regular file"):
            images.read_note(path)


def test_which_paths_lead_to_one_file() -> None:
    Path("a.png").touch()
    Path("b.png").touch()
    Path("link.png").symlink_to("a.png")
    Path("folder").symlink_to("../here")
    Path("dangling.png").symlink_to("new.png")
    for path in ("a.png", "./a.png", "../here/a.png", "link.png", "folder/a.png", str(Path("a.png").resolve())):
        assert same_file(Path("a.png"), Path(path))
    for path in ("b.png", "../there/a.png", "new.png", "dangling.png", "folder"):
        assert not same_file(Path("a.png"), Path(path))
    # Some file systems do not distinguish the case of names. Files that exist show whether this one does.
    for path in ("new.png", "NEW.PNG", "../here/New.png", "folder/new.png", "dangling.png"):
        assert same_file(Path("new.png"), Path(path))
    assert same_file(Path("A.png"), Path("a.png")) == Path("A.png").exists()


def test_what_is_inside_a_folder() -> None:
    Path("link").symlink_to("../there")
    Path("loop").symlink_to("loop")
    for path in (".", "a/b", "a/../b", "../here/b", "gone/../../here/b", str(Path("b").absolute()), "loop"):
        assert is_inside(Path(path), Path())
    for path in ("..", "../b", "a/../../b", "link", "link/b", "../hereafter", str(Path.cwd().parent / "there"), "/"):
        assert not is_inside(Path(path), Path())
