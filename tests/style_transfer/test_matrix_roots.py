from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamgram.style_transfer.gram import distribution
from dreamgram.style_transfer.losses import WassersteinLoss
from dreamgram.style_transfer.matrix_roots import (
    POLYNOMIALS,
    by_decomposition,
    by_products,
    newton_schulz,
    regularized_root,
    trace_of_root,
)

SPECTRA = ("even", "mostly small", "one large")


def positive(channels: int, condition: float, spectrum: str) -> Tensor:
    """Return a random symmetric matrix with a given condition number and one of the kinds of :data:`SPECTRA`."""
    generator = torch.Generator().manual_seed(channels)
    vectors = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64, generator=generator))[0]
    values = torch.full((channels,), 1 / condition, dtype=torch.float64)
    if spectrum == "one large":
        values[0] = 1
    else:
        large = channels if spectrum == "even" else channels // 8
        values[:large] = condition ** -torch.linspace(0, 1, large, dtype=torch.float64)
    matrix = ((vectors * values) @ vectors.T).float()
    return (matrix + matrix.T) / 2


def errors(found: tuple[Tensor, Tensor], matrix: Tensor) -> tuple[float, float]:
    """Return the relative errors of a trace and of an inverse root of ``matrix``, against those in double precision."""
    values, vectors = torch.linalg.eigh(matrix.double())
    trace, inverse = values.sqrt().sum(), vectors / values.sqrt() @ vectors.T
    return abs(float(found[0] / trace - 1)), float((found[1].double() - inverse).norm() / inverse.norm())


@pytest.mark.parametrize("channels", [64, 256])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("condition", [1, 1e2, 1e3, 1e4, 1e5])
def test_products_give_the_trace_and_the_gradient(channels: int, spectrum: str, condition: float) -> None:
    matrix = positive(channels, condition, spectrum)
    trace, gradient = errors(by_products(matrix), matrix)
    assert trace < 1e-5
    assert gradient < 1e-3


@pytest.mark.parametrize("condition", [1e7, 1e8])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_inverse_root_is_bounded_where_rounding_makes_eigenvalues_negative(spectrum: str, condition: float) -> None:
    matrix = positive(256, condition, spectrum)
    for trace, inverse in (by_products(matrix), by_decomposition(matrix)):
        assert 0 < trace.item() < 300
        assert torch.linalg.matrix_norm(inverse, 2) < 2 * condition**0.5


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_products_are_not_much_worse_than_a_decomposition_for_larger_conditions(spectrum: str) -> None:
    matrix = positive(128, 1e6, spectrum)
    products, decomposition = errors(by_products(matrix), matrix), errors(by_decomposition(matrix), matrix)
    assert products[0] < 1e-5
    assert products[1] < 4 * decomposition[1]


def test_the_polynomials_map_everything_to_1() -> None:
    x = torch.logspace(-3, 0, 10_000, dtype=torch.float64)
    for a, b, c in POLYNOMIALS:
        furthest = (x - 1).abs().max()
        x = a * x + b * x**3 + c * x**5
        assert (x - 1).abs().max() < furthest
    assert (x - 1).abs().max() < 1e-8


def test_root_times_root_is_the_matrix() -> None:
    matrix = positive(32, 1e3, "even")
    root, inverse = newton_schulz(matrix)
    torch.testing.assert_close(root @ root, matrix, atol=1e-5, rtol=0)
    torch.testing.assert_close(root @ inverse, torch.eye(32), atol=1e-4, rtol=0)


def test_gradient_is_that_of_finite_differences() -> None:
    matrix = positive(8, 10, "even").double().requires_grad_()
    assert torch.autograd.gradcheck(lambda each: trace_of_root(each + each.T), matrix)


def test_regularized_root_is_that_of_the_sum() -> None:
    samples = torch.randn(20, 48, generator=torch.Generator().manual_seed(0))
    covariance = samples.T @ samples / 20  # of rank 20
    noise, root = regularized_root(covariance, 0.003, torch.tensor(0.5))
    torch.testing.assert_close(root @ root, covariance + noise, atol=1e-4, rtol=0)
    assert noise[0, 0].item() == pytest.approx(0.003 * torch.linalg.eigvalsh(covariance)[-1].item() + 0.5)
    assert torch.equal(noise, noise[0, 0] * torch.eye(48))


def test_negative_eigenvalues_count_as_0() -> None:
    noise, root = regularized_root(torch.diag(torch.tensor([1.0, -0.1, 0.0])), 0.01, torch.tensor(0.0))
    torch.testing.assert_close(root @ root, torch.diag(torch.tensor([1.01, 0.01, 0.01])))
    torch.testing.assert_close(noise, 0.01 * torch.eye(3))


@pytest.mark.parametrize("magnitude", [1e-14, 1.0, 1e14])
def test_products_neither_overflow_nor_underflow(magnitude: float) -> None:
    matrix = magnitude * positive(16, 1e3, "even")
    assert max(errors(by_products(matrix), matrix)) < 1e-4


def test_a_painting_of_a_single_color() -> None:
    """Its covariance is nothing but rounding errors."""
    generator = torch.Generator().manual_seed(0)
    color = 100 * torch.rand(1, 64, 1, 1, generator=generator)
    weight = torch.tensor(1 / 400)
    loss = WassersteinLoss([(1.0, WassersteinLoss.statistic(color.expand(1, 64, 20, 20), weight))], weight)
    image = 100 * torch.rand(1, 64, 20, 20, generator=generator)
    covariance = distribution(loss.measure(image))[1] + loss.noise
    matrix = loss.root @ covariance @ loss.root
    assert max(errors(by_products((matrix + matrix.T) / 2), matrix)) < 1e-3
