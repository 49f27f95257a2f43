from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreamgram.workbench.state import DAY, STATE_VARIABLE, claimed, delete_old_claims, state_folder


def test_the_folder_of_the_program_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(STATE_VARIABLE)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert state_folder("runs") == tmp_path / ".local/state/dreamgram/runs"
    for folder in (state_folder("runs"), state_folder("runs").parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_folder("runs") == tmp_path / "xdg/dreamgram/runs"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert state_folder("runs") == tmp_path / "Library/Application Support/dreamgram/runs"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert state_folder("runs") == tmp_path / "local/dreamgram/runs"
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "other"))
    assert state_folder("runs") == tmp_path / "other/runs"


def test_a_file_is_claimed_once(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    with claimed(file) as mine, claimed(tmp_path / "." / "a.png") as again, claimed(tmp_path / "b.png") as other:
        assert (mine, again, other) == (True, False, True)
    with claimed(file) as mine:
        assert mine
    assert list((state / "claims").iterdir()) == []


def test_the_claim_of_a_killed_program_ends(state: Path, tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from dreamgram.workbench.state import claimed\n"
    code += "with claimed(Path('a.png')) as mine: print(mine, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with claimed(tmp_path / "a.png") as mine:
            assert not mine
        process.kill()
    [left] = (state / "claims").iterdir()
    delete_old_claims()
    assert left.exists()  # it could be the claim of a program that is just starting
    os.utime(left, (0, time.time() - 2 * DAY))
    with claimed(tmp_path / "a.png") as mine:
        assert mine
        os.utime(left, (0, time.time() - 2 * DAY))
        delete_old_claims()
        assert left.exists()  # a program may run for days
    left.touch()
    for number in range(9):  # these cannot be opened, which does not matter to the others
        (left.parent / str(number)).mkdir()
    for each in left.parent.iterdir():
        os.utime(each, (0, time.time() - 2 * DAY))
    delete_old_claims()
    assert not left.exists()


def test_without_a_folder_nothing_is_claimed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (state / "file").touch()
    monkeypatch.setenv(STATE_VARIABLE, str(state / "file"))
    with claimed(state / "a.png") as mine, claimed(state / "a.png") as again:
        assert mine
        assert again
    delete_old_claims()
