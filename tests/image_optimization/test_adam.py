from __future__ import annotations

import torch

from dreamgram.image_optimization.adam import DECAY, Adam

ALL = torch.tensor(1.0)
"""The fraction of the steps that remain, at the first step."""


def test_it_is_pytorchs_adam() -> None:
    start = torch.randn(5, 7)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    method, reference = Adam(ours, learning_rate=0.03), torch.optim.Adam([theirs], lr=0.03, betas=DECAY)
    for _ in range(50):
        gradient = torch.randn(5, 7) * torch.logspace(-1, 1, 7)
        theirs.grad = gradient.clone()
        reference.step()
        method.step(torch.tensor(0.0), gradient, ALL)
        torch.testing.assert_close(ours, theirs.detach())


def test_the_unit_of_the_loss_does_not_matter() -> None:
    leaves = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    methods = [Adam(leaf) for leaf in leaves]
    for _ in range(10):
        gradient = torch.randn(2, 3, 4)
        for method, unit in zip(methods, (1, 1e-12), strict=True):
            method.step(torch.tensor(0.0), unit * gradient, ALL)
    torch.testing.assert_close(*leaves)
    still = Adam(torch.zeros(2, 3, 4))
    still.step(torch.tensor(0.0), torch.zeros(2, 3, 4), ALL)
    assert torch.equal(still.leaf, torch.zeros(2, 3, 4))


def test_it_stays_inside_its_bounds() -> None:
    leaf = torch.full((3,), 0.5)
    method = Adam(leaf, (0, 1), learning_rate=0.3)
    for _ in range(4):
        method.step(torch.tensor(0.0), torch.tensor([1.0, -1.0, 0.0]), ALL)
    assert leaf.tolist() == [0, 1, 0.5]
