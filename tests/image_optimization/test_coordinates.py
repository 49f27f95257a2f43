from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamgram.image_optimization.coordinates import Coordinates

CASES = [((1, 3, 40, 70), 16), ((1, 3, 64, 64), 64), ((2, 1, 28, 28), None), ((1, 3, 17, 9), 4), ((5,), None)]


@pytest.fixture(params=CASES, ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Coordinates, Tensor]:
    shape, block = request.param
    change = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Coordinates(change, block), change


def test_a_move_is_recovered_from_its_coordinates(pair: tuple[Coordinates, Tensor]) -> None:
    coordinates, move = pair
    torch.testing.assert_close(coordinates.move(coordinates.of_move(move)), move)


def test_products_of_moves_and_gradients_do_not_change(pair: tuple[Coordinates, Tensor]) -> None:
    """The derivative of a function along a move is the same in all coordinates."""
    coordinates, move = pair
    gradient = torch.randn_like(move)
    product = (coordinates.of_move(move) * coordinates.of_gradient(gradient)).sum()
    torch.testing.assert_close(product, (move * gradient).sum())


def test_blocks_cover_the_image_and_are_nearly_square() -> None:
    coordinates = Coordinates(torch.zeros(1, 3, 100, 130), 32)
    assert coordinates.blocks() == (12, 3 * 34 * 33)
    assert Coordinates(torch.zeros(1, 3, 100, 130)).blocks() == (1, 3 * 100 * 130)
    marked = torch.zeros(1, 3, 100, 130)
    marked[:, :, :34, :33] = 1
    assert coordinates.cut(marked)[0].eq(1).all()
    assert not coordinates.cut(marked)[1:].any()


def test_low_frequencies_move_further() -> None:
    """The same coordinates change an image more if they are a low frequency."""
    coordinates = Coordinates(torch.zeros(1, 1, 32, 32), 32)
    rows = torch.arange(32)[:, None].expand(32, 32) * 2 * torch.pi / 32
    low, high = (coordinates.move(torch.sin(cycles * rows).reshape(1, -1)).norm() for cycles in (1, 16 / 3))
    assert low > 1.4 * high
