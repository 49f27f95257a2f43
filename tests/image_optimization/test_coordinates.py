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
    coordinates = Coordinates(torch.zeros(1, 3, 100, 130), 32)  # 3 x 4 blocks of 2 x 2 cells of 17 x 17 pixels
    assert coordinates.block_count == 12
    assert coordinates.shape_of_cells() == (12 * 4, 3 * 17 * 17)
    whole = Coordinates(torch.zeros(1, 3, 100, 130))
    assert (whole.block_count, whole.shape_of_cells()) == (1, (1, 3 * 100 * 130))
    marked = torch.zeros(1, 3, 100, 130)
    marked[:, :, :17, :17] = 1
    assert coordinates.cut(marked)[0].eq(1).all()
    assert not coordinates.cut(marked)[1:].any()


@pytest.mark.parametrize("count", [1, 2])
def test_cells_and_their_blocks(count: int) -> None:
    coordinates = Coordinates(torch.zeros(count, 3, 96, 144), 48)
    image = torch.randn(count, 3, 96, 144)
    sums = coordinates.add_up(coordinates.cut(image).sum(1, keepdim=True))
    expected = image.view(count, 3, 2, 48, 3, 48).sum((1, 3, 5)).reshape(-1, 1)
    torch.testing.assert_close(sums, expected, rtol=0, atol=1e-3)
    numbers = torch.arange(6.0 * count)[:, None]
    painted = coordinates.paste(coordinates.copy_to_cells(numbers).expand(-1, 3 * 16 * 16))
    blocks = numbers.view(count, 1, 2, 3).repeat_interleave(48, 2).repeat_interleave(48, 3)
    assert torch.equal(painted, blocks.expand(-1, 3, -1, -1))


def test_numbers_of_blocks_are_interpolated() -> None:
    coordinates = Coordinates(torch.zeros(1, 1, 48, 144), 48)
    spread = coordinates.spread(torch.tensor([[0.0], [12.0], [6.0]])).view(3, 9)
    torch.testing.assert_close(spread, spread[:1].expand(3, -1))
    expected = [0, 0, 4, 8, 12, 10, 8, 6, 6]
    assert spread[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_low_frequencies_move_further() -> None:
    """The same coordinates change an image more if they are a low frequency."""
    coordinates = Coordinates(torch.zeros(1, 1, 32, 32), 32)
    rows = torch.arange(32)[:, None].expand(32, 32) * 2 * torch.pi / 32
    low, high = (coordinates.move(torch.sin(cycles * rows).reshape(1, -1)).norm() for cycles in (1, 16 / 3))
    assert low > 1.4 * high
