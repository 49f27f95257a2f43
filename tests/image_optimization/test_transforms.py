from __future__ import annotations

import torch
from torch import Tensor

from image_optimization.optimize import seeded
from image_optimization.transforms import robust


def test_views_have_the_size_of_the_image_and_differ(photo: Tensor) -> None:
    transform = robust((photo.shape[2], photo.shape[3]))
    with seeded(0):
        views = [transform(photo) for _ in range(4)]
    assert all(view.shape == photo.shape for view in views)
    assert all((view - photo).abs().mean() > 0.01 for view in views)
    assert (views[0] - views[1]).abs().mean() > 0.01
    assert all(view.min() >= 0 and view.max() <= 1 for view in views)


def test_the_whole_batch_is_seen_alike_and_by_seed(photo: Tensor) -> None:
    transform = robust((photo.shape[2], photo.shape[3]))
    with seeded(5):
        batch = transform(photo.repeat(3, 1, 1, 1))
    with seeded(5):
        alone = transform(photo)
    torch.testing.assert_close(batch, alone.repeat(3, 1, 1, 1))


def test_nothing_black_moves_in() -> None:
    with seeded(0):
        for _ in range(20):
            assert robust((28, 28))(torch.ones(1, 1, 28, 28)).min() > 0.99


def test_gradients_pass(photo: Tensor) -> None:
    image = photo.clone().requires_grad_()
    robust((photo.shape[2], photo.shape[3]))(image).square().sum().backward()
    assert image.grad is not None
    assert image.grad.abs().mean() > 0.01
