"""Square roots of symmetric positive definite matrices, computed so that the program does not wait for the GPU.

An eigendecomposition on a GPU takes milliseconds and makes the program wait. On a GPU, the roots are therefore computed
with matrix products alone. On a CPU, an eigendecomposition takes a third of the time of these products. The products
have to be in full precision: with TF32, the roots of small eigenvalues are wrong (:func:`products_in_full_precision`).
"""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 12
"""Number of Newton-Schulz iterations. Twelve are enough if the condition number of the matrix is up to 10^6. For
pictures, it is about 10^5. At 10^8, the trace is wrong by 0.2 %."""

SMALLEST = 1e-3
"""Square root of the smallest eigenvalue for which the iterations are optimized, relative to the square root of the
largest."""


def trace_of_root(matrix: Tensor) -> Tensor:
    """Return, as a scalar tensor, the trace of the square root of a symmetric positive definite ``matrix`` (C, C).

    The result is differentiable with respect to ``matrix``. The gradient is half the inverse of the square root.
    """
    trace, inverse = _trace_and_inverse((matrix + matrix.T).detach() / 2)
    slope = inverse / 2
    differentiable: Tensor = trace + (slope * (matrix - matrix.detach())).sum()
    return differentiable


def regularized_root(covariance: Tensor, share: float, least: Tensor) -> tuple[Tensor, Tensor]:
    """Add a multiple of the identity matrix to a ``covariance`` (C, C), and compute the square root of the sum.

    The multiple is ``share`` times the largest eigenvalue of ``covariance``, plus ``least``. Negative eigenvalues, a
    result of rounding, count as 0. The decomposition is computed on the CPU, because this is not part of the loop.

    Returns:
        The added multiple of the identity matrix, and the symmetric square root of the sum, (C, C) each.
    """
    values, vectors = torch.linalg.eigh(covariance.cpu().double())
    noise = share * values[-1].clamp(min=0) + least.cpu()
    root = vectors * (values.clamp(min=0) + noise).sqrt() @ vectors.T
    added = noise * torch.eye(len(values))
    return added.to(covariance), root.to(covariance.dtype).to(covariance.device)


def newton_schulz(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the square root of a symmetric positive definite ``matrix`` (C, C) and the inverse of the root.

    This is the coupled Newton-Schulz iteration, equation 6.35 of Higham, "Functions of Matrices", 2008. It is scaled as
    in Chen, Chow, "A Stable Scaling of Newton-Schulz for Improving the Sign Function Computation of a Hermitian
    Matrix", 2014, so that small eigenvalues need half as many iterations. It can only start from a matrix that commutes
    with ``matrix``, so the result of the previous optimization step is of no use.
    """
    # The norm of the square is at least the square of the largest eigenvalue. The margin allows for rounding. Dividing
    # by the trace first prevents an overflow.
    trace = matrix.trace().clamp(min=1e-30)
    largest = 1.0001 * trace * torch.linalg.matrix_norm((matrix / trace) @ (matrix / trace)).sqrt()
    identity = torch.eye(len(matrix), device=matrix.device, dtype=matrix.dtype)
    root, inverse = matrix / largest, identity
    for of_identity, of_product in _COEFFICIENTS:
        correction = torch.addmm(identity, inverse, root, beta=of_identity, alpha=of_product)
        root, inverse = root @ correction, correction @ inverse
    return root * largest.sqrt(), inverse / largest.sqrt()


def _trace_and_inverse(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the trace of the square root of a symmetric positive definite ``matrix``, and the inverse of the root."""
    return by_decomposition(matrix) if matrix.is_cpu else by_products(matrix)


def by_decomposition(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the trace of the square root of a symmetric positive definite ``matrix``, and the inverse of the root."""
    values, vectors = torch.linalg.eigh(matrix)
    # An eigenvalue that is smaller than the rounding errors may even be negative.
    smallest = torch.finfo(values.dtype).eps * values[-1].clamp(min=1e-30)
    roots = torch.maximum(values, smallest).sqrt()
    return roots.sum(), vectors / roots @ vectors.T


def by_products(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the trace of the square root of a symmetric positive definite ``matrix``, and the inverse of the root.

    The computation uses only matrix products.
    """
    root, inverse = newton_schulz(matrix)
    # The trace of the root is the minimum of (tr(S M) + tr(S^-1)) / 2 over S, which is reached at the inverse root. The
    # error of the inverse root therefore changes the trace only to second order. The last term corrects S^-1.
    residual = torch.eye(len(matrix), device=matrix.device, dtype=matrix.dtype) - inverse @ root
    trace = ((matrix * inverse).sum() + root.trace() + (root.T * residual).sum()) / 2
    return trace, (inverse + inverse.T) / 2


def _coefficients() -> list[tuple[float, float]]:
    """Return the coefficients (a, b) of each iteration of :func:`newton_schulz`.

    An iteration multiplies X, its estimate of the root, and Y, its estimate of the inverse root, by a I + b Y X. I is
    the identity matrix.
    """
    coefficients, smallest = [], SMALLEST
    for _ in range(ITERATIONS):
        scale = (3 / (1 + smallest + smallest**2)) ** 0.5
        coefficients.append((1.5 * scale, -0.5 * scale**3))
        smallest = 0.5 * scale * smallest * (3 - (scale * smallest) ** 2)
    return coefficients


_COEFFICIENTS = _coefficients()
