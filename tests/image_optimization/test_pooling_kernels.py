from __future__ import annotations

import io
import logging
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, relu

from dreamgram.image_optimization import fusion

SIZES = ((2, 16, 6, 8), (1, 3, 5, 7), (3, 64, 2, 3), (2, 5, 4, 4), (1, 70, 9, 12))

ON_CPU = """
import io, sys, torch
from torch import nn
from dreamgram.image_optimization import fusion, pooling_kernels
from dreamgram.image_optimization.capture import capture

def run(values, gradient):
    pooled, places = pooling_kernels.pool(values)
    return pooled, places, pooling_kernels.spread(gradient, places, *values.shape[2:])

def convolve(image, weight, bias):
    convolution = nn.Conv2d(3, len(weight), 3, padding=1).requires_grad_(False)
    convolution.weight.copy_(weight)
    convolution.bias.copy_(bias)
    image.requires_grad_()
    pooled = fusion.conv_relu(convolution, image, pooled=True)
    [first] = torch.autograd.grad((pooled**3).sum(), image, create_graph=True)
    [second] = torch.autograd.grad(first.square().sum(), image)
    [alone] = torch.autograd.grad((fusion.conv_relu(convolution, image, pooled=True) ** 3).sum(), image)
    return pooled.detach(), first.detach(), second, alone

class Flattened(nn.Module):
    # its ``view`` needs the usual memory format after the pooling
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.fc = nn.Linear(8 * 6 * 6, 10)

    def forward(self, image):
        return self.fc(self.features(image).view(len(image), -1))

fusion._pooling_kernels = lambda image, weight: pooling_kernels
examples, convolutions = torch.load(io.BytesIO(sys.stdin.buffer.read()))
results = [run(*each) for each in examples], [convolve(*each) for each in convolutions]
with capture(Flattened(), ["fc"]) as read:
    assert read(torch.rand(2, 1, 12, 12))["fc"].shape == (2, 10)
torch.save(results, sys.stdout.buffer)
"""
"""Program that runs the kernels on a CPU, in Triton's interpreter."""


def on_cpu(given: object) -> tuple[list[tuple[Tensor, ...]], list[tuple[Tensor, ...]]]:
    """Run the program :data:`ON_CPU` for tensors, and return its results."""
    pytest.importorskip("triton")
    stream = io.BytesIO()
    torch.save(given, stream)
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", ON_CPU]
    run = subprocess.run(command, input=stream.getvalue(), capture_output=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr.decode()
    results: tuple[list[tuple[Tensor, ...]], list[tuple[Tensor, ...]]] = torch.load(io.BytesIO(run.stdout))
    return results


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
    pairs = examples()
    convolutions = [(torch.rand(2, 3, *size), torch.randn(16, 3, 3, 3), torch.randn(16)) for size in ((8, 6), (7, 9))]
    results, convolved = on_cpu((pairs, convolutions))
    assert len(results) == len(pairs)
    for (values, gradient), (pooled, places, spread) in zip(pairs, results, strict=True):
        values.requires_grad_()
        expected = max_pool2d(values.relu(), 2)
        [of_values] = torch.autograd.grad(expected, values, gradient)
        assert places.dtype == torch.uint8
        torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(spread, of_values, rtol=0, atol=0)
    for (image, weight, bias), (pooled, first, second, alone) in zip(convolutions, convolved, strict=True):
        image.requires_grad_()
        expected = max_pool2d(relu(conv2d(image, weight, bias, padding=1)), 2)
        [of_image] = torch.autograd.grad((expected**3).sum(), image, create_graph=True)
        [again] = torch.autograd.grad(of_image.square().sum(), image)
        torch.testing.assert_close(pooled, expected)
        torch.testing.assert_close(first, of_image, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(alone, of_image, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(second, again, rtol=1e-3, atol=1)


def test_without_triton_pooling_runs_as_usual(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "dreamgram.image_optimization.pooling_kernels", None)
    fusion._kernels.cache_clear()
    with caplog.at_level(logging.DEBUG):
        assert fusion._kernels(torch.device("cpu")) is None
    fusion._kernels.cache_clear()
    assert "max pooling runs as usual, because the kernels for it do not run" in caplog.text
