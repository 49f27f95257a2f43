from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dreamgram.image_optimization import fusion
from dreamgram.image_optimization.capture import capture
from dreamgram.image_optimization.fusion import conv_relu, pairs_in

LAYERS = ["relu1_1", "relu2_2", "relu3_1"]


def pass_through(model: nn.Module, layers: list[str], dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Return the activations of a random image, and the gradient of the sum of their squares."""
    image = torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with capture(model, layers, dtype) as activations_of:
        activations = [activations_of(image)[layer] for layer in layers]
        loss = torch.stack([each.float().square().sum() for each in activations]).sum()
        [gradient] = torch.autograd.grad(loss, image)
    return [each.detach() for each in activations], gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_result_is_the_same(dtype: torch.dtype, vgg16: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    whole = fusion.conv_relu

    def counting(convolution: nn.Conv2d, image: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return whole(convolution, image)

    monkeypatch.setattr(fusion, "conv_relu", counting)
    activations, gradient = pass_through(vgg16, LAYERS, dtype)
    assert count >= 15  # five convolutions up to relu3_1, in three passes
    monkeypatch.setattr("dreamgram.image_optimization.capture.pairs_in", lambda *_: {})
    plain, of_plain = pass_through(vgg16, LAYERS, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for ours, theirs in zip([*activations, gradient], [*plain, of_plain], strict=True):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()
    assert not any("forward" in vars(module) for module in vgg16.modules())


def test_a_convolution_that_is_captured_itself_is_not_fused(vgg16: nn.Module) -> None:
    with torch.no_grad(), capture(vgg16, ["conv1_1", "relu1_1", "conv2_1"]) as activations_of:
        activations = activations_of(torch.rand(1, 3, 32, 32))
    assert activations["conv1_1"].min() < 0
    assert torch.equal(activations["conv1_1"].relu(), activations["relu1_1"])
    assert activations["conv2_1"].min() < 0


class Forked(nn.Module):
    """A network that also uses the output of a convolution outside of the sequence."""

    input_shape = (3, 32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.end = nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        signed = self.parts[0](image)
        return self.end(self.parts(image) - signed)  # type: ignore[no-any-return]


def test_modules_that_are_called_alone_are_not_fused() -> None:
    network, image = Forked(), torch.rand(1, 3, 32, 32)
    with torch.no_grad(), capture(network, ["end"]) as activations_of:
        ours = activations_of(image)["end"]
        torch.testing.assert_close(ours, (-network.parts[0](image)).relu())


class Backwards(nn.Sequential):
    """A sequence that calls its modules in the reverse order."""

    def forward(self, image: Tensor) -> Tensor:
        return self[0](self[1](image))  # type: ignore[no-any-return]


def hooked() -> nn.Module:
    convolution = nn.Conv2d(3, 3, 3)
    convolution.register_forward_hook(lambda *_: None)
    return nn.Sequential(convolution, nn.ReLU())


def hooked_behind() -> nn.Module:
    relu = nn.ReLU()
    relu.register_forward_pre_hook(lambda *_: None)
    return nn.Sequential(nn.Conv2d(3, 3, 3), relu)


def patched() -> nn.Module:
    convolution = nn.Conv2d(3, 3, 3)
    convolution.forward = lambda image: image  # type: ignore[method-assign, assignment]
    return nn.Sequential(convolution, nn.ReLU())


def shared() -> nn.Module:
    relu = nn.ReLU()
    return nn.Sequential(nn.Conv2d(3, 3, 3), relu, nn.Conv2d(3, 3, 3), relu)


@pytest.mark.parametrize(
    "make",
    [
        hooked,
        hooked_behind,
        patched,
        shared,
        lambda: Backwards(nn.Conv2d(3, 3, 3), nn.ReLU()),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding="same"), nn.ReLU()),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3, bias=False), nn.ReLU()),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.Identity(), nn.ReLU()),
    ],
)
def test_what_is_not_fused(make: Callable[[], nn.Module]) -> None:
    assert not pairs_in(make(), [])


def test_all_arguments_of_a_convolution() -> None:
    convolution = nn.Conv2d(4, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2).requires_grad_(
        False
    )
    image = torch.randn(2, 4, 20, 24, requires_grad=True)
    ours, theirs = conv_relu(convolution, image), convolution(image).relu()
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(each.square().sum(), image)[0] for each in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_a_single_image_without_a_batch_axis() -> None:
    convolution, image = nn.Conv2d(3, 4, 3).requires_grad_(False), torch.randn(3, 8, 8)
    torch.testing.assert_close(conv_relu(convolution, image), convolution(image).relu())


def test_second_derivatives() -> None:
    convolution = nn.Conv2d(3, 4, 3).requires_grad_(False)
    seconds = []
    for operation in (partial(conv_relu, convolution), lambda image: convolution(image).relu()):
        image = torch.linspace(-1, 1, 192).view(1, 3, 8, 8).requires_grad_()
        [first] = torch.autograd.grad(operation(image).pow(3).sum(), image, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), image)[0])
    torch.testing.assert_close(*seconds)
