from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from dreamgram.image_optimization import fusion

SIZES = ((2, 16, 6, 8), (1, 3, 5, 7), (3, 64, 2, 3), (2, 5, 4, 4), (1, 70, 9, 12))

ON_CPU = """
import pickle, sys, torch
from dreamgram.image_optimization import pooling_kernels
results = []
for values, gradient in pickle.load(sys.stdin.buffer):
    pooled, places = pooling_kernels.pool(values)
    results.append((pooled, places, pooling_kernels.spread(gradient, places, *values.shape[2:])))
pickle.dump(results, sys.stdout.buffer)
"""
"""Program that runs the kernels on a CPU, in Triton's interpreter."""


def examples() -> list[tuple[Tensor, Tensor]]:
    """Return pairs of values after a ReLU, with many equal values and some NaN, and of gradients after the pooling."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for n, c, height, width in SIZES:
            values = (2 * torch.randn(n, c, height, width, generator=generator)).round().relu()
            values[:, ::3, 1::3] = torch.nan
            gradient = torch.randn(n, c, height // 2, width // 2, generator=generator)
            pairs.append((values.to(dtype), gradient.to(dtype)))
    return pairs


def test_the_kernels_do_the_same_as_pytorch() -> None:

    pytest.importorskip("triton")
    pairs = examples()
    run = subprocess.run(
        [sys.executable, "-c", ON_CPU],
        input=pickle.dumps(pairs),
        capture_output=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()
    results = pickle.loads(run.stdout)
    assert len(results) == len(pairs)
    for (values, gradient), (pooled, places, spread) in zip(pairs, results, strict=True):
        values.requires_grad_()
        expected = max_pool2d(values.relu(), 2)
        [of_values] = torch.autograd.grad(expected, values, gradient)
        assert places.dtype == torch.uint8
        torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(spread, of_values, rtol=0, atol=0)
        # Without the kernels, as for second derivatives, the same gradient is computed from the same places.
        torch.testing.assert_close(fusion._to_places(gradient, places, *values.shape[2:]), of_values, rtol=0, atol=0)


def test_without_triton_pooling_runs_as_usual(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "dreamgram.image_optimization.pooling_kernels", None)
    monkeypatch.delattr("dreamgram.image_optimization.pooling_kernels", raising=False)
    fusion._kernels.cache_clear()
    with caplog.at_level(logging.DEBUG):
        assert fusion._kernels(torch.device("cpu")) is None
        assert not fusion._can_pool(torch.zeros(1, 3, 8, 8), torch.zeros(4, 3, 3, 3))
    fusion._kernels.cache_clear()
    assert "max pooling runs as usual, because the kernels for it do not run" in caplog.text
