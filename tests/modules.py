"""Modules for networks in tests."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class Does(nn.Module):
    """A layer that computes any function of the features."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, features: Tensor) -> Tensor:
        return self.run(features)
