from __future__ import annotations

import signal
import subprocess
import sys

import pytest

IMPORTING = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[2]:
            print("ready", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
from dreamgram import start
getattr(start, sys.argv[1])()
"""
"""Program that imports a module for a minute. Its arguments are the entry point and the name of the module."""


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("dreamgram", "dreamgram.cli"),
        ("dream", "dreamgram.activation_maximization.cli"),
        ("stylize", "dreamgram.style_transfer.cli"),
    ],
)
def test_ctrl_c_during_an_import(program: str, module: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTING, program, module], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "interrupted\n")
