from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from dreamgram.activation_maximization.examples import Example
from dreamgram.activation_maximization.page import page


def pictures(text: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r'src="data:[^,]+,([^"]+)"', text)]


def test_all_is_in_one_file() -> None:
    dreams = torch.rand(3, 3, 100, 100)
    examples = [[Example(torch.rand(3, 20, 20), 2.5, "cat"), Example(torch.rand(3, 20, 20), 1.5, "dog")]] * 3
    text = page("vgg16 relu4_1", [7, 8, 30], dreams, [10.0, 20.0, 30.5], examples, {"steps": 128})
    assert [picture.size for picture in pictures(text)] == [(100, 100), (20, 20), (20, 20)] * 3
    assert not re.search(r"(src|href)=.(?!data:)", text)  # nothing from elsewhere
    assert "http" not in text
    assert re.findall(r'data-unit="(\d+)"', text) == ["7", "8", "30"]
    for shown in ("vgg16 relu4_1", "30.5", "cat", "steps", "128", 'type="search"'):
        assert shown in text


def test_small_pictures_are_exact() -> None:
    dream = torch.randint(0, 256, (1, 1, 28, 28)) / 255
    [picture] = pictures(page("digits", [0], dream, [1.0]))
    assert torch.equal(torch.from_numpy(np.array(picture)), (dream * 255).round().byte()[0, 0])


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", 'a"b', "a&b"])
def test_names_of_files_are_only_shown(name: str) -> None:
    text = page(name, [0], torch.rand(1, 3, 8, 8), [1.0], [[Example(torch.rand(3, 4, 4), 1.0, name)]], {"data": name})
    assert name not in text.replace("&amp;b", "")
    assert text.count("<script>") == 1
