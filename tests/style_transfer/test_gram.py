from __future__ import annotations

import pytest
import torch

from dreamgram.style_transfer.gram import gram_matrix, moments


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [1, 2])
def test_sums_and_gradient_are_those_of_double_precision(
    dtype: torch.dtype, order: torch.memory_format, count: int
) -> None:
    """There are 89,999 positions. Sums in the number format of the activations would be inaccurate."""
    activation = torch.rand(count, 8, 301, 299).to(dtype).contiguous(memory_format=order).requires_grad_()
    weight = torch.randn(8, 8)
    exact = activation.detach().double().requires_grad_()
    features = exact.flatten(2)
    expected = features @ features.transpose(1, 2) / features[0].numel()
    (expected * weight).sum().backward()
    gram = gram_matrix(activation)
    (gram * weight * 1e4).sum().backward()
    assert gram.dtype == torch.float32
    assert (gram - expected).norm() < {torch.float32: 1e-5, torch.bfloat16: 6e-4}[dtype] * expected.norm()
    assert activation.grad is not None
    assert exact.grad is not None
    error = (activation.grad.double() / 1e4 - exact.grad).norm() / exact.grad.norm()
    assert error < {torch.float32: 1e-5, torch.bfloat16: 0.01}[dtype]


def test_the_mean_of_equal_activations_is_exact() -> None:
    """If the positions were added up one after another, the rounding errors would add up as well."""
    activation = torch.full((1, 64, 512, 512), 0.7)
    torch.testing.assert_close(moments(activation)[0, -1], torch.full((64,), 0.7), rtol=1e-5, atol=0)
