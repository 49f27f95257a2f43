"""Square roots of symmetric positive definite matrices, computed so that the program does not wait for the GPU.

An eigendecomposition on a GPU takes milliseconds and makes the program wait. On a GPU, the roots are therefore computed
with matrix products alone. On a CPU, an eigendecomposition is used, because it takes a third of the time of these
products. The products have to be computed in full precision (:func:`products_in_full_precision`), because with TF32,
the roots of small eigenvalues are wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor

POLYNOMIALS = (
    (8.47032881, -25.1080747, 18.6292756),
    (4.1828342, -3.10870114, 0.580606687),
    (3.96185728, -2.95406375, 0.562976119),
    (3.28658622, -2.46472014, 0.507357697),
    (2.27374999, -1.64466036, 0.416190927),
    (1.8887162, -1.26515722, 0.376518925),
    (1.87500089, -1.25000098, 0.375000098),
)
"""Coefficients (a, b, c) of the polynomial a x + b x^3 + c x^5 for each Newton-Schulz iteration, from first to last.

Before the first iteration, the matrix is scaled so that the square roots of its eigenvalues are at most 1. The first
polynomial maps the interval [0.001, 1] to values as close to 1 as possible. Each later polynomial maps the range of the
values of the previous polynomial to values as close to 1 as possible. The method is due to Amsel, Persson, Musco,
Gower, "The Polar Express", arXiv:2505.16932. Seven polynomials are enough if the condition number of the matrix is at
most 10^6. For the matrices that are computed from pictures, the condition number is about 10^5. If the condition number
is 10^8, the error of the trace of the matrix's square root is 0.01 %."""


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

    The identity matrix is multiplied by the number ``share * largest + least``, where ``largest`` is the largest
    eigenvalue of ``covariance``. Negative eigenvalues, a result of rounding, count as 0. The eigendecomposition of
    ``covariance`` is computed on the CPU. This does not slow down the optimization steps, because they do not call this
    function.

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

    This is a coupled Newton-Schulz iteration as in Higham, "Functions of Matrices", 2008, section 6.7, with polynomials
    of degree 5 (:data:`POLYNOMIALS`). The iteration can only start from a matrix that commutes with ``matrix``, so it
    cannot start from the result of the previous optimization step.
    """
    # The Frobenius norm of the squared matrix is at least the square of the largest eigenvalue. The factor 1.0001
    # allows for rounding. Dividing by the trace first prevents an overflow.
    trace = matrix.trace().clamp(min=1e-30)
    largest = 1.0001 * trace * torch.linalg.matrix_norm((matrix / trace) @ (matrix / trace)).sqrt()
    identity = torch.eye(len(matrix), device=matrix.device, dtype=matrix.dtype)
    # Three matrices lie side by side, so that two products are computed at once: the estimate of the root, the
    # correction by which both estimates are multiplied, and the estimate of the inverse root.
    now, after = torch.stack([matrix / largest, identity, identity]), matrix.new_empty(3, *matrix.shape)
    for a, b, c in POLYNOMIALS:
        root, correction, inverse = now
        product = inverse @ root
        torch.addmm(product, product, product, beta=b, alpha=c, out=correction)
        correction.diagonal().add_(a)
        torch.bmm(now[:2], now[1:], out=after[::2])
        now, after = after, now
    return now[0] * largest.sqrt(), now[2] / largest.sqrt()


def _trace_and_inverse(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the trace of the square root of a symmetric positive definite ``matrix``, and the inverse of the root."""
    return by_decomposition(matrix) if matrix.is_cpu else by_products(matrix)


def by_decomposition(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the trace of the square root of a symmetric positive definite ``matrix``, and the inverse of the root.

    The function computes an eigendecomposition.
    """
    values, vectors = torch.linalg.eigh(matrix)
    # Rounding errors can make a very small eigenvalue negative.
    smallest = torch.finfo(values.dtype).eps * values[-1].clamp(min=1e-30)
    roots = torch.maximum(values, smallest).sqrt()
    return roots.sum(), vectors / roots @ vectors.T


def by_products(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the trace of the square root of a symmetric positive definite ``matrix``, and the inverse of the root.

    The function uses only matrix products.
    """
    root, inverse = newton_schulz(matrix)
    # The trace of the root of M is the minimum of (tr(S M) + tr(S^-1)) / 2 over all positive definite matrices S. The
    # minimum is reached if S is the inverse root, so an error of S changes the trace only to second order. Here, S is
    # ``inverse``, and S^-1 is approximated by ``root``, which the last term corrects.
    residual = torch.eye(len(matrix), device=matrix.device, dtype=matrix.dtype) - inverse @ root
    trace = ((matrix * inverse).sum() + root.trace() + (root.T * residual).sum()) / 2
    return trace, (inverse + inverse.T) / 2
