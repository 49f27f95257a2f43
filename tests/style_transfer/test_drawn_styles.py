from __future__ import annotations

import numpy as np
import pytest
import torch

from dreamgram.style_transfer.drawn_styles import DRAWN_STYLES, draw_style


def test_there_are_four_and_each_is_described() -> None:
    assert len(DRAWN_STYLES) >= 4
    captions = [(painter.__doc__ or "").strip().split("\n")[0] for painter in DRAWN_STYLES.values()]
    assert all(caption and not caption.endswith(".") for caption in captions)


@pytest.mark.parametrize("name", DRAWN_STYLES)
def test_a_drawn_style_is_colorful_detailed_and_reproducible(name: str) -> None:
    picture = draw_style(name, 96)
    assert picture.shape == (1, 3, 96, 96)
    assert torch.equal(picture, draw_style(name, 96))
    assert not torch.equal(picture, draw_style(name, 96, seed=1))
    pixels = picture[0].permute(1, 2, 0).numpy()
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert pixels.std(axis=(0, 1)).min() > 0.1  # every channel varies
    assert (pixels.max(axis=2) - pixels.min(axis=2)).mean() > 0.15  # it is not gray
    assert np.abs(np.diff(pixels, axis=0)).mean() > 0.02  # it has edges
