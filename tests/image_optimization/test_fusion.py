from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from dreamgram.image_optimization import fusion
from dreamgram.image_optimization.capture import capture
from dreamgram.image_optimization.fusion import conv_relu, groups_in

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
    count, pooled = 0, 0
    whole = fusion.conv_relu

    def counting(convolution: nn.Conv2d, image: Tensor, **how: bool) -> Tensor:
        nonlocal count, pooled
        count += 1
        pooled += how["pooled"]
        return whole(convolution, image, **how)

    monkeypatch.setattr(fusion, "conv_relu", counting)
    activations, gradient = pass_through(vgg16, LAYERS, dtype)
    assert count >= 15  # five convolutions up to relu3_1, in three passes
    assert pooled == 3  # pool1 follows relu1_2, whose output is not captured; pool2 follows relu2_2, which is
    monkeypatch.setattr("dreamgram.image_optimization.capture.groups_in", lambda *_: {})
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
    assert not groups_in(make(), [])


def test_all_arguments_of_a_convolution() -> None:
    convolution = nn.Conv2d(4, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2).requires_grad_(
        False
    )
    image = torch.randn(2, 4, 20, 24, requires_grad=True)
    ours, theirs = conv_relu(convolution, image), convolution(image).relu()
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(each.square().sum(), image)[0] for each in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (12, 9), (13, 13)])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("strip", [fusion.POOLED_AT_ONCE, 1100, 1])
def test_pooling(
    order: torch.memory_format, size: tuple[int, int], strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A strip is both images, at most one image, or two rows."""
    monkeypatch.setattr(fusion, "POOLED_AT_ONCE", strip)
    convolution = nn.Conv2d(3, 16, 3, padding=1).requires_grad_(False)
    image = torch.randn(2, 3, *size).to(memory_format=order).requires_grad_()
    ours, theirs = conv_relu(convolution, image, pooled=True), max_pool2d(convolution(image).relu(), 2)
    torch.testing.assert_close(ours, theirs)
    wanted = torch.randn_like(theirs)
    torch.testing.assert_close(*(torch.autograd.grad(each, image, wanted)[0] for each in (ours, theirs)))


def test_the_pooled_values_may_be_overwritten() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3))
    image = torch.rand(1, 3, 12, 12, requires_grad=True)
    with capture(model, ["4"]) as activations_of:
        ours = torch.autograd.grad(activations_of(image)["4"].square().sum(), image)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(model(image).square().sum(), image)[0])


def test_an_image_too_small_for_pooling() -> None:
    with pytest.raises(RuntimeError, match="too small for pooling"):
        conv_relu(nn.Conv2d(3, 4, 1).requires_grad_(False), torch.rand(1, 3, 1, 8), pooled=True)


def test_of_equal_values_only_one_gets_the_gradient() -> None:
    identity = nn.Conv2d(1, 1, 1).requires_grad_(False)
    identity.weight.fill_(1)
    identity.bias = nn.Parameter(torch.zeros(1), requires_grad=False)
    image = torch.ones(1, 1, 4, 4, requires_grad=True)
    conv_relu(identity, image, pooled=True).sum().backward()
    assert image.grad is not None
    assert image.grad.unfold(2, 2, 2).unfold(3, 2, 2).sum((4, 5)).tolist() == [[[[1, 1], [1, 1]]]]
    assert image.grad.count_nonzero() == 4


@pytest.mark.parametrize(
    "pooling",
    [
        nn.MaxPool2d(3),
        nn.MaxPool2d(2, stride=1),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d((2, 1)),
        nn.AvgPool2d(2),
    ],
)
def test_other_pooling_is_not_fused(pooling: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), pooling)
    assert [group[2] for group in groups_in(model, [])[model]] == [None]
    image = torch.rand(1, 3, 19, 23)
    with torch.no_grad(), capture(model.requires_grad_(False), ["2"]) as activations_of:
        torch.testing.assert_close(activations_of(image)["2"], model(image))


def test_pooling_after_a_captured_or_hooked_relu_is_not_fused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d((2, 2), 2))
    assert groups_in(model, [])[model] == [tuple(model)]
    assert groups_in(model, [model[1]])[model][0][2] is None
    model[1].register_forward_hook(lambda *_: None)
    assert not groups_in(model, [])


def test_a_single_image_without_a_batch_axis() -> None:
    convolution, image = nn.Conv2d(3, 4, 3).requires_grad_(False), torch.randn(3, 8, 8)
    torch.testing.assert_close(conv_relu(convolution, image), convolution(image).relu())
    torch.testing.assert_close(conv_relu(convolution, image, pooled=True), max_pool2d(convolution(image).relu(), 2))


@pytest.mark.parametrize(("pooled", "size"), [(False, (8, 8)), (True, (8, 8)), (True, (8, 9)), (True, (9, 8))])
def test_second_derivatives(pooled: bool, size: tuple[int, int]) -> None:
    convolution = nn.Conv2d(3, 4, 3).requires_grad_(False)
    seconds = []

    def plain(image: Tensor) -> Tensor:
        return max_pool2d(convolution(image).relu(), 2) if pooled else convolution(image).relu()

    for operation in (partial(conv_relu, convolution, pooled=pooled), plain):
        image = torch.linspace(-1, 1, 3 * math.prod(size)).view(1, 3, *size).requires_grad_()
        [first] = torch.autograd.grad(operation(image).pow(3).sum(), image, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), image)[0])
    torch.testing.assert_close(*seconds)
