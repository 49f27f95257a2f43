from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from image_optimization import console
from image_optimization.optimize import Step


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_progress_line_tells_what_was_chosen(
    precision: console.PrecisionName, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with console.progress("stylize", torch.device("cpu"), precision) as listener:
        for number in (1, 2):
            listener(Step(number, 2, torch.tensor(0.5), torch.rand(1, 3, 20, 30), number / 2))
    with console.progress("stylize", torch.device("cpu"), precision) as listener:
        parts = {"content": torch.tensor(0.2), "style": torch.tensor(0.3)}
        listener(Step(1, 2, torch.tensor(0.5), torch.rand(1, 3, 20, 30), 0.5, parts=parts))
    assert "loss 0.2 content + 0.3 style" in screen.getvalue()
    assert f"30x20, cpu x {torch.get_num_threads()} {precision}, loss 0.5" in screen.getvalue()


def test_digits_are_dreamed_without_loading_what_takes_seconds(tmp_path: Path) -> None:
    """PyTorch's compiler and torchvision take longer to load than the digits take to dream."""
    code = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 0))  # or Python would take all of PyTorch apart
from activation_maximization.cli import main
sys.argv = ["dream", "digits", "--steps", "1", "--output", "a.png"]
try:
    main()
finally:
    print(sorted({"torch._dynamo", "torchvision", "matplotlib", "scipy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["[]", "True"]
