"""The README's Python examples run unchanged, except for smaller sizes and fewer steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dreamgram as dg
from dreamgram.image_optimization import images

README = Path(__file__).parents[1] / "README.md"

SMALLER = {"range(512)": "range(3)", "size=128": "size=32", 'cat.jpg"), 224': 'cat.jpg"), 48', "size=512": "size=32"}


def test_the_python_of_the_readme(photo: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    for large, small in SMALLER.items():
        assert large in code
        code = code.replace(large, small)
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("cat.jpg", "photo.jpg", "painting.jpg", "photos/cat.jpg"):
        images.save(photo, name)
    for name in ("maximize", "stylize"):
        function = getattr(dg, name)
        monkeypatch.setattr(dg, name, lambda *args, of=function, **settings: of(*args, **{**settings, "steps": 2}))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["dreams"].images.shape == (10, 1, 28, 28)
    assert torch.equal(dg.Dreams.load("digits.safetensors").images, names["dreams"].images)
    assert names["textures"].images.shape == (3, 3, 32, 32)
    assert names["variants"].images.shape[0] == 4
    assert names["brought_out"].images.shape == names["cat"].shape
    assert torch.isfinite(names["seen"].activations).all()
    assert sorted(path.name for path in Path("textures").iterdir()) == ["0000.png", "0001.png", "0002.png"]
    assert names["each"].units == [0, 1, 2]
    assert names["best"][0].name == names["many"]["relu3_1"][8][0].name == "cat"
    assert Path("stylized.png").exists()
    assert Path("nets.png").exists()
