from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn

from activation_maximization import Objective, channel, evaluate, logit, maximize, neuron, pixel_sum
from image_optimization.optimize import Step
from image_optimization.parameterizations import FourierImage, PixelImage

DIGIT_OBJECTIVES = {
    "channel": channel("pool2", [4, 17]),
    "first layer": channel("conv1", 5),
    "neuron of a convolution": neuron("conv2", [1, 2], position=(5, 5)),
    "neuron": neuron("hidden", [0, 7, 9]),
    "logit": logit(range(10)),
    "with regularizer": logit(range(10)) - pixel_sum(),
    "regularizer alone": -1 * pixel_sum(),
    "difference": logit(3) - logit(8),
    "sum over layers": channel("conv1", 2) + channel("conv2", 2),
}


@pytest.mark.parametrize("parameterization", [PixelImage, FourierImage])
@pytest.mark.parametrize("name", DIGIT_OBJECTIVES)
def test_every_objective_ascends(name: str, parameterization: type[PixelImage], digits: nn.Module) -> None:
    objective = DIGIT_OBJECTIVES[name]
    dreams = maximize(digits, objective, steps=64, parameterization=parameterization)
    assert dreams.images.shape == (objective.images, 1, 28, 28)
    assert dreams.images.min() >= 0
    assert dreams.images.max() <= 1
    assert dreams.history.shape == (64, objective.images)
    assert (dreams.history[-16:].mean(0) > dreams.history[:16].mean(0)).all()
    start = evaluate(digits, objective, torch.full((objective.images, 1, 28, 28), 0.5))
    assert (dreams.activations > start).all()


@pytest.mark.parametrize("objective", [channel("relu3_1", [0, 100]), neuron("relu2_2", 7), channel("conv1_2", 9)])
def test_objectives_ascend_on_vgg(objective: Objective, vgg16: nn.Module) -> None:
    dreams = maximize(vgg16, objective, size=32, steps=10)
    start = evaluate(vgg16, objective, torch.full((objective.images, 3, 32, 32), 0.5))
    assert (dreams.activations > 1.5 * start.clamp(min=1)).all()


def test_a_filter_that_is_silent_at_first_wakes_up(vgg16: nn.Module) -> None:
    """It does not fire for a nearly gray picture; from Lucid's faint noise it stayed gray to the end."""
    dreams = maximize(vgg16, channel("relu4_1", 50), steps=12)
    assert dreams.activations > 100
    assert dreams.images.std() > 0.05


@pytest.mark.parametrize(
    ("network", "layer", "size"),
    [(torchvision.models.resnet18, "layer2", 64), (torchvision.models.vit_b_32, "encoder.layers.encoder_layer_0", 224)],
)
def test_other_architectures(network: type[nn.Module], layer: str, size: int) -> None:
    dreams = maximize(network(), channel(layer, [0, 1]), size=size, steps=6)
    assert dreams.history[-1].mean() > dreams.history[0].mean()


def test_any_number_of_channels() -> None:
    for channels in (1, 4):
        network = nn.Sequential(nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))
        dreams = maximize(network, channel("2", 0), size=20, steps=5)
        assert dreams.images.shape == (1, channels, 20, 20)


def test_a_dreamed_class_is_recognized_and_ink_is_saved(digits: nn.Module, digits_mlp: nn.Module) -> None:
    """The regularized dreams are read by a network that they were not made for, and take less ink."""
    classes = torch.arange(10)
    plain = maximize(digits, logit(range(10)))
    sparing = maximize(digits, logit(range(10)) - pixel_sum())
    assert (digits(plain.images).argmax(1) == classes).all()
    assert (digits(sparing.images).argmax(1) == classes).all()
    assert (digits_mlp(sparing.images).argmax(1) == classes).sum() >= 8
    assert (sparing.images.sum((1, 2, 3)) < 0.7 * plain.images.sum((1, 2, 3))).all()


def test_the_sign_flips_once(digits: nn.Module) -> None:
    """The history is the objective, not the loss: it rises and ends near the activation."""
    dreams = maximize(digits, logit(3), steps=40, transform=lambda image: image)
    assert dreams.history[-1] == pytest.approx(dreams.activations, rel=0.1)
    assert dreams.activations > 20


def test_a_unit_is_dreamed_alike_alone_or_with_others(digits: nn.Module) -> None:
    together = maximize(digits, channel("conv2", [4, 11, 30]), steps=12).images
    alone = maximize(digits, channel("conv2", [11]), steps=12).images
    torch.testing.assert_close(alone[0], together[1], rtol=0, atol=1e-3)


def test_same_seed_same_picture_bit_for_bit(digits: nn.Module, vgg16: nn.Module) -> None:
    for network, objective in ((digits, logit(range(10)) - pixel_sum()), (vgg16, channel("relu2_1", [1, 2]))):
        size = 32 if network is vgg16 else None
        first, second, other = (maximize(network, objective, size=size, steps=5, seed=s).images for s in (1, 1, 2))
        assert torch.equal(first, second)
        assert not torch.equal(first, other)


def test_the_network_comes_back_as_it_was(digits: nn.Module) -> None:
    network = copy.deepcopy(digits).train()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random_state = torch.get_rng_state()
    for _ in range(2):
        maximize(network, logit(1), steps=2)
        assert network.training
        assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
        assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_start_from_a_picture(digits: nn.Module, photo: Tensor) -> None:
    init = photo[:, :1, 10:38, 10:38]
    dreams = maximize(digits, logit([1, 2]), init=init, steps=1, learning_rate=1e-6)
    torch.testing.assert_close(dreams.images, init.expand(2, 1, 28, 28), rtol=0, atol=1e-3)


def test_interrupted_it_returns_what_there_is(digits: nn.Module) -> None:
    def interrupt(step: Step) -> None:
        if step.number == 5:
            raise KeyboardInterrupt

    dreams = maximize(digits, logit([1, 2]), listeners=[interrupt])
    assert dreams.stopped == "interrupted"
    assert dreams.history.shape == (5, 2)
    assert dreams.images.shape == (2, 1, 28, 28)


def test_errors(digits: nn.Module) -> None:
    with pytest.raises(ValueError, match="no layer 'conv3'; did you mean 'conv2'"):
        maximize(digits, channel("conv3", 0))
    with pytest.raises(ValueError, match="no unit 25 in layer 'conv1': its 25 units are 0-24"):
        maximize(digits, channel("conv1", 25))
    with pytest.raises(ValueError, match=r"64x64 pixels .* DigitCNN beyond pool2, so hidden cannot be reached"):
        maximize(digits, neuron("hidden", 0), size=64)
