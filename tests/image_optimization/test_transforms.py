from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from dreamgram.image_optimization.optimize import seeded
from dreamgram.image_optimization.transforms import drawn_ahead, noise, robust


def test_views_have_the_size_of_the_image_and_differ(photo: Tensor) -> None:
    transform = robust()
    with seeded(0):
        views = [transform(photo) for _ in range(4)]
    assert all(view.shape == photo.shape for view in views)
    assert all((view - photo).abs().mean() > 0.01 for view in views)
    assert (views[0] - views[1]).abs().mean() > 0.01
    assert all(view.min() >= 0 and view.max() <= 1 for view in views)


def test_the_whole_batch_is_seen_alike_and_by_seed(photo: Tensor) -> None:
    transform = robust()
    with seeded(5):
        batch = transform(photo.repeat(3, 1, 1, 1))
    with seeded(5):
        alone = transform(photo)
    torch.testing.assert_close(batch, alone.repeat(3, 1, 1, 1))


def test_nothing_black_moves_in() -> None:
    with seeded(0):
        for _ in range(20):
            assert robust()(torch.ones(1, 1, 28, 28)).min() > 0.99


def test_gradients_pass(photo: Tensor) -> None:
    image = photo.clone().requires_grad_()
    robust()(image).square().sum().backward()
    assert image.grad is not None
    assert image.grad.abs().mean() > 0.01


def test_nothing_drawn_is_nothing_changed(photo: Tensor) -> None:
    torch.testing.assert_close(robust(0, 0, (1, 1), 0)(photo), photo, rtol=0, atol=1e-4)


def test_distances_in_the_picture() -> None:
    """A rotation keeps the spacing of rows and columns of an oblong picture; scaling changes it."""
    rows, columns = torch.meshgrid(torch.arange(60.0), torch.arange(100.0), indexing="ij")
    ramps = torch.stack([rows, columns])[:, None]

    def spacing(view: Tensor) -> Tensor:
        """Return the differences of neighboring values near the middle, down and across, for both ramps."""
        middle = view[:, 0, 25:35, 45:55]
        return torch.stack([middle.diff(dim=1).mean((1, 2)), middle.diff(dim=2).mean((1, 2))])

    for _ in range(5):
        turned = spacing(robust(40, 0, (1, 1), 0)(ramps))
        torch.testing.assert_close(turned.norm(dim=0), torch.ones(2))
        torch.testing.assert_close(turned @ turned.T, torch.eye(2), rtol=0, atol=1e-4)
        torch.testing.assert_close(spacing(robust(0, 0, (2, 2), 0)(ramps)), torch.eye(2) / 2)
        torch.testing.assert_close(spacing(robust(0, 0.1, (1, 1), 0)(ramps)), torch.eye(2))
        moved = robust(0, 0.1, (1, 1), 0)(ramps) - ramps
        assert 0 < abs(moved[0, 0, 30, 50]) <= 6
        assert 0 < abs(moved[1, 0, 30, 50]) <= 10
        sheared = spacing(robust(0, 0, (1, 1), 30)(ramps))
        torch.testing.assert_close(torch.linalg.det(sheared), torch.tensor(1.0))


def test_noise_has_the_deviation_and_is_the_same_for_all_images() -> None:
    images = torch.full((2, 3, 64, 48), 0.5)
    seen = noise(0.2)(images) - images
    assert torch.equal(seen[0], seen[1])
    assert seen.std().item() == pytest.approx(0.2, rel=0.05)
    assert torch.equal(noise(0)(images), images)
    with pytest.raises(ValueError, match="the deviation must be at least 0, not -1"):
        noise(-1)


def test_noise_falls_over_the_steps() -> None:
    images = torch.full((2, 3, 64, 48), 0.5)
    ahead = drawn_ahead(noise(0.2, fall=0.75), 4)
    for expected in (0.2, 0.15, 0.1, 0.05):
        assert (ahead(images) - images).std().item() == pytest.approx(expected, rel=0.05)
    assert (noise(0.2, fall=0.75)(images) - images).std().item() == pytest.approx(0.2, rel=0.05)
    with pytest.raises(ValueError, match=r"fall must be from 0 to 1, not 1\.5"):
        noise(0.2, 1.5)


def test_noise_drawn_ahead_differs_in_every_step() -> None:
    images = torch.full((2, 3, 64, 48), 0.5)
    ahead = drawn_ahead(noise(0.2), 4)
    steps = [ahead(images) - images for _ in range(4)]
    for seen in steps:
        assert torch.equal(seen[0], seen[1])
        assert seen.std().item() == pytest.approx(0.2, rel=0.05)
    for first, second in itertools.combinations(steps, 2):
        assert (first * second).mean().abs() < 0.2 * 0.04  # the noise is moved, so that it is not correlated
