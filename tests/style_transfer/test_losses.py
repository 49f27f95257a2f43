from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from style_transfer.losses import ContentLoss, GramLoss, total_variation, total_variation_sum


def slow_gram(activation: Tensor) -> Tensor:
    """One number at a time, as the definition reads."""
    _, channels, height, width = activation.shape
    gram = torch.zeros(channels, channels, dtype=activation.dtype)
    for i, j, y, x in itertools.product(range(channels), range(channels), range(height), range(width)):
        gram[i, j] += activation[0, i, y, x] * activation[0, j, y, x]
    return gram / (channels * height * width)


def slow_mean_square(a: Tensor, b: Tensor) -> float:
    pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    return sum((x - y) ** 2 for x, y in pairs) / len(pairs)


def slow_variation(image: Tensor) -> tuple[list[float], list[float]]:
    _, channels, height, width = image.shape
    down = [
        abs(image[0, c, y + 1, x].item() - image[0, c, y, x].item())
        for c, y, x in itertools.product(range(channels), range(height - 1), range(width))
    ]
    across = [
        abs(image[0, c, y, x + 1].item() - image[0, c, y, x].item())
        for c, y, x in itertools.product(range(channels), range(height), range(width - 1))
    ]
    return down, across


def random(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def test_gram_matrix_against_the_definition() -> None:
    activation = random(1, 4, 3, 5)
    torch.testing.assert_close(GramLoss.statistic(activation)[0], slow_gram(activation))
    batch = random(3, 4, 3, 5)
    torch.testing.assert_close(GramLoss.statistic(batch)[1], slow_gram(batch[1:2]))


def test_values_against_slow_formulas() -> None:
    a, b = random(1, 4, 3, 5), random(1, 4, 3, 5)
    assert ContentLoss(b)(a).item() == pytest.approx(slow_mean_square(a, b))
    assert GramLoss(GramLoss.statistic(b))(a).item() == pytest.approx(slow_mean_square(slow_gram(a), slow_gram(b)))
    down, across = slow_variation(a)
    assert total_variation(a).item() == pytest.approx(sum(down) / len(down) + sum(across) / len(across))
    assert total_variation_sum(a).item() == pytest.approx(255 * (sum(down) + sum(across)))


@pytest.mark.parametrize("loss", ["content", "gram", "variation"])
def test_gradients_by_finite_differences(loss: str) -> None:
    target = random(1, 3, 4, 4)
    function = {
        "content": ContentLoss(target),
        "gram": GramLoss(GramLoss.statistic(target)),
        "variation": total_variation,
    }[loss]
    image = random(1, 3, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(function, (image,))


def test_a_picture_has_no_loss_against_itself() -> None:
    a = random(1, 3, 8, 8)
    assert ContentLoss(a)(a) == 0
    assert GramLoss(GramLoss.statistic(a))(a) == 0
    assert total_variation(torch.full((1, 3, 8, 8), 0.3)) == 0


def test_targets_take_no_gradient() -> None:
    a = random(1, 3, 4, 4).requires_grad_()
    GramLoss(GramLoss.statistic(a))(random(1, 3, 4, 4).requires_grad_()).backward()
    ContentLoss(a)(random(1, 3, 4, 4).requires_grad_()).backward()
    assert a.grad is None


def test_losses_mean_the_same_at_every_size() -> None:
    """Tiling a texture changes neither its Gram matrix nor its mean variation."""
    tile = random(1, 3, 8, 8)
    tiled = tile.repeat(1, 1, 4, 4)
    torch.testing.assert_close(GramLoss.statistic(tiled), GramLoss.statistic(tile))
    smooth = torch.linspace(0, 1, 8, dtype=torch.float64).expand(1, 3, 8, 8)
    assert total_variation(smooth.repeat(1, 1, 4, 1)).item() == pytest.approx(total_variation(smooth).item())
