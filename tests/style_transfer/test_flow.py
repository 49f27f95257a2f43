from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamgram.image_optimization import images
from dreamgram.style_transfer.flow import flicker, follow


@pytest.fixture(scope="module")
def wide(photo_file: Path) -> Tensor:
    return images.fit(images.load(photo_file), 240)


def test_a_painted_frame_moves_with_what_it_shows(wide: Tensor) -> None:
    """The camera moves 4 pixels to the right and 2 pixels down."""
    before, now = wide[:, :, 10:170, 10:170], wide[:, :, 12:172, 14:174]
    painted = 1 - wide
    previous = follow(painted[:, :, 10:170, 10:170], before, now)
    expected = painted[:, :, 12:172, 14:174]
    seen = previous.reliable.bool().expand_as(expected)
    assert seen.float().mean() > 0.7
    assert not previous.reliable[:, :, :, -3:].any()  # these pixels have come into view
    assert not previous.reliable[:, :, -1:].any()
    assert (previous.image - expected).abs()[seen].mean() < 0.02
    still = (painted[:, :, 10:170, 10:170] - expected).abs()[seen].mean()
    assert (previous.image - expected).abs()[seen].mean() < still / 5


def test_pixels_that_are_uncovered_are_not_reliable(wide: Tensor) -> None:
    """A square of a different picture moves by 8 pixels. Uncovered pixels are not reliable; distant pixels are."""
    before, now = wide[:, :, :160, :160].clone(), wide[:, :, :160, :160].clone()
    square = wide.flip(2)[:, :, 100:140, 100:140]
    before[:, :, 60:100, 60:100] = square
    now[:, :, 60:100, 68:108] = square
    reliable = follow(before, before, now).reliable[0, 0]
    assert reliable[62:98, 61:66].mean() < 0.4
    assert reliable[120:150, 10:150].mean() > 0.95
    assert reliable[68:92, 78:98].mean() > 0.6


def test_too_small_frames(wide: Tensor) -> None:
    smallest = wide[:, :, :16, :16]
    assert follow(smallest, smallest, smallest).reliable.mean() > 0.5
    thin = wide[:, :, :15, :100]
    with pytest.raises(ValueError, match="the frame has 100x15 pixels; optical flow needs 16 each way"):
        follow(thin, thin, thin)


def test_flicker(wide: Tensor) -> None:
    """A result that moves exactly with the video has almost no flicker, and a result of noise has much."""
    frames = [wide[:, :, 10:170, start : start + 160] for start in (10, 13, 16)]
    assert flicker([1 - frame for frame in frames], frames) < 0.02
    noise = [torch.rand(1, 3, 160, 160) for _ in frames]
    assert flicker(noise, frames) > 0.2
