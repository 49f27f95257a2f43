from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from typing import Any

import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad

from dreamgram.activation_maximization import deep_dream
from dreamgram.activation_maximization.commands import readable_digits
from dreamgram.activation_maximization.deep_dream import amplify
from dreamgram.activation_maximization.dreams import Dreams
from dreamgram.activation_maximization.gradient_ascent import activations, evaluate, maximize
from dreamgram.activation_maximization.objectives import (
    Objective,
    caricature,
    channel,
    deepdream,
    direction,
    diversity,
    log_odds,
    logit,
    match,
    neuron,
    ramp,
)
from dreamgram.activation_maximization.options import DigitsOptions
from dreamgram.activation_maximization.regularizers import blur, l1, l2, pixel_sum, sparing, total_variation
from dreamgram.image_optimization.adam import Adam
from dreamgram.image_optimization.optimize import Step
from dreamgram.image_optimization.parameterizations import FourierImage, Parameterization, PhaseImage, PixelImage
from dreamgram.models import load
from dreamgram.models.digits import digit_sample

DIGIT = digit_sample()[0][250:251]

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
    "log-odds": log_odds([2, 5]),
    "direction": direction("conv2", torch.linspace(-1, 1, 50)),
    "cosine": direction("conv2", torch.linspace(-1, 1, 50), cosine=True),
    "layer": deepdream("conv2"),
    "diverse": 0.1 * logit(3) + 10 * diversity("conv1", 3),
    "match": match("conv2", DIGIT),
    "caricature": caricature("conv2", DIGIT),
    "smooth": logit(4) - total_variation(10) - blur(10),
    "near gray": logit(4) - l1(10) - l2(10),
    "ramp": logit(4) - ramp(0.2, 0) * pixel_sum(1),
}


@pytest.mark.parametrize("parameterization", [PixelImage, FourierImage, PhaseImage])
@pytest.mark.parametrize("name", DIGIT_OBJECTIVES)
def test_every_objective_ascends(name: str, parameterization: type[Parameterization], digits: nn.Module) -> None:
    objective = DIGIT_OBJECTIVES[name]
    dreams = maximize(digits, objective, steps=64, parameterization=parameterization)
    assert dreams.images.shape == (objective.images, 1, 28, 28)
    assert dreams.images.min() >= 0
    assert dreams.images.max() <= 1
    assert dreams.history.shape == (64, objective.images)
    assert (dreams.history[-16:].mean(0) > dreams.history[:16].mean(0)).all()
    if parameterization is not PhaseImage:  # which is never gray
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
    [
        (torchvision.models.resnet18, "layer2", 64),
        (torchvision.models.vit_b_32, "encoder.layers.encoder_layer_0", 224),
        (torchvision.models.swin_t, "features.1.0", 64),
    ],
)
def test_other_architectures(network: type[nn.Module], layer: str, size: int) -> None:
    dreams = maximize(network(), channel(layer, [0, 1]), size=size, steps=6)
    assert dreams.history[-1].mean() > dreams.history[0].mean()


def test_any_number_of_channels() -> None:
    for channels in (1, 4):
        network = nn.Sequential(nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))
        dreams = maximize(network, channel("2", 0), size=20, steps=5)
        assert dreams.images.shape == (1, channels, 20, 20)


@pytest.mark.parametrize("painter", ["digits", "digits-robust"])
def test_a_dreamed_class_is_recognized_and_ink_is_saved(painter: str, digits_mlp: nn.Module) -> None:
    """The regularized dreams are read by a network that they were not made for, look like digits, and take less ink."""
    network, classes = load(painter), torch.arange(10)
    plain = maximize(network, logit(range(10))).images
    regularized = maximize(network, logit(range(10)) - sparing()).images
    assert (network(plain).argmax(1) == classes).all()
    assert (network(regularized).argmax(1) == classes).all()
    assert (digits_mlp(regularized).argmax(1) == classes).sum() >= 9
    assert (regularized.sum((1, 2, 3)) < 0.7 * plain.sum((1, 2, 3))).all()
    known = digit_sample()[0].flatten(1)
    distances = [torch.cdist(each.flatten(1), known).min(1).values.mean() for each in (plain, regularized)]
    assert distances[1] < 0.6 * distances[0]


@pytest.mark.parametrize("painter", ["digits", "digits-robust", "digits-mlp"])
def test_digits_as_the_command_makes_them_can_be_read(painter: str) -> None:
    """Networks that they were not made for read all ten, and they are about as far from real digits as real digits."""
    network, classes = load(painter), torch.arange(10)
    plain = maximize(network, logit(range(10)), seed=7).images
    readable = maximize(network, readable_digits(DigitsOptions(), range(10)), seed=7).images
    for other in {"digits", "digits-robust", "digits-mlp"} - {painter}:
        assert (load(other)(readable).argmax(1) == classes).all()
    known, labels = digit_sample()
    distances = torch.cdist(torch.cat([plain, readable, known]).flatten(1), known.flatten(1))
    assert (labels[distances[10:20].topk(5, largest=False).indices].mode(1).values == classes).sum() >= 9
    among_real = distances[20:].fill_diagonal_(math.inf).amin(1).mean()
    assert distances[10:20].amin(1).mean() < 1.2 * among_real < 0.6 * distances[:10].amin(1).mean()


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


def test_a_window_transformers_unit_is_a_channel_not_a_row() -> None:
    """Its activations are (N, H, W, C)."""
    network = torchvision.models.swin_t().eval()
    images = torch.rand(2, 3, 64, 64)
    seen: list[Tensor] = []
    handle = network.features[1][0].register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        network(images)
    handle.remove()
    assert seen[0].shape == (2, 16, 16, 96)
    expected = seen[0][:, :, :, 77].mean((1, 2))
    torch.testing.assert_close(evaluate(network, channel("features.1.0", 77), images), expected)


def test_any_number_of_units_in_batches(digits: nn.Module) -> None:
    numbers: list[tuple[int, int]] = []

    def listener(step: Step) -> None:
        numbers.append((step.number, step.steps))
        assert len(step.image) <= 3

    objective = channel("conv2", range(7)) - pixel_sum(0.001)
    parts = maximize(digits, objective, steps=4, batch=3, listeners=[listener])
    whole = maximize(digits, objective, steps=4)
    torch.testing.assert_close(parts.images, whole.images, rtol=0, atol=1e-3)
    torch.testing.assert_close(parts.activations, whole.activations, rtol=1e-3, atol=1e-3)
    assert parts.history.shape == (4, 7)
    assert numbers == [(i, 12) for i in range(1, 13)]


def test_pictures_of_one_unit_differ_if_asked_to(digits: nn.Module) -> None:
    """The images begin alike but for their noise; without it they would stay alike."""
    alike = maximize(digits, channel("conv2", [9, 9, 9]), steps=30)
    diverse = maximize(digits, channel("conv2", 9) + 20 * diversity("conv1", 3), steps=30, batch=1)
    assert torch.equal(alike.images[0], alike.images[1])
    assert (diverse.images[0] - diverse.images[1]).abs().mean() > 0.05
    assert (diverse.images[1] - diverse.images[2]).abs().mean() > 0.05


class HardToWake(nn.Module):
    """Unit 0 fires only where the image varies much, unit 1 never, unit 2 always."""

    input_shape = (1, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.ReLU()

    def forward(self, image: Tensor) -> Tensor:
        spread = image.std((2, 3))
        answers: Tensor = self.units(torch.cat([spread - 0.05, spread - 9, spread], dim=1))
        return answers


def test_a_start_without_gradient_is_mended_or_said() -> None:
    faint = PixelImage.NOISE
    assert faint < 0.05
    dreams = maximize(HardToWake(), channel("units", range(3)) - pixel_sum(0.001), steps=20)
    assert dreams.silent == (1,)
    assert dreams.activations[0] > 0.1
    # What another unit needs changes nothing for this one.
    for unit in (0, 2):  # one that had to be woken, one that had not
        alone = maximize(HardToWake(), channel("units", unit) - pixel_sum(0.001), steps=20)
        assert alone.silent == ()
        torch.testing.assert_close(alone.images[0], dreams.images[unit])


def test_a_unit_that_is_hard_to_wake_does_not_depend_on_its_neighbors(vgg16: nn.Module) -> None:
    """Unit 50 of relu4_1 is silent at first."""
    alone, together = (
        maximize(vgg16, channel("relu4_1", units), size=64, steps=4, precision="float32")
        for units in ([50], [50, 3, 176])
    )
    torch.testing.assert_close(alone.images[0], together.images[0], rtol=0, atol=1e-2)


@pytest.mark.parametrize("factor", [1e-9, 1e6])
def test_an_objective_in_other_units_makes_the_same_picture(factor: float, digits: nn.Module) -> None:
    usual, other = (maximize(digits, by * channel("conv2", 3), steps=20, precision="float32") for by in (1, factor))
    torch.testing.assert_close(usual.images, other.images, rtol=0, atol=1e-2)


def test_a_network_without_a_gradient_is_said() -> None:
    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x > 0.5).float()

    network = nn.Sequential(OrderedDict(first=nn.Conv2d(1, 2, 3), steps=Steps()))
    with pytest.raises(ValueError, match="no gradient passes back from steps: an operation before it has no gradient"):
        maximize(network, channel("steps", 0), size=16, steps=2)


def test_a_leaf_without_a_gradient_is_said(digits: nn.Module) -> None:
    class Fixed(PixelImage):
        def __init__(self, leaf: Tensor) -> None:
            self.leaf = leaf

    with pytest.raises(ValueError, match="the leaf of Fixed requires no gradient"):
        maximize(digits, logit(3), steps=1, parameterization=Fixed)


def test_activations_and_a_second_call_are_what_they_were(digits: nn.Module) -> None:
    image = torch.rand(2, 1, 28, 28)
    before = activations(digits, image, ["conv1", "hidden"])
    first = maximize(digits, channel("conv2", 3), steps=4, learning_rate=0.3, seed=1, size=20)
    usual = maximize(digits, channel("conv2", 3), steps=4)
    maximize(digits, channel("conv2", 3), steps=4, learning_rate=0.3, seed=1, size=20)
    again = maximize(digits, channel("conv2", 3), steps=4)
    assert first.images.shape != usual.images.shape
    assert torch.equal(usual.images, again.images)  # nothing of the other calls' settings stuck
    after = activations(digits, image, ["conv1", "hidden"])
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_dead_unit_is_said_whatever_else_moves_the_picture() -> None:
    photo = torch.full((1, 1, 16, 16), 0.5)
    network = nn.Sequential(OrderedDict(first=nn.Conv2d(1, 4, 3), second=nn.Conv2d(4, 2, 3), dead=nn.ReLU()))
    nn.init.constant_(network.second.bias, -100)  # type: ignore[arg-type]
    held = maximize(network, channel("dead", 1) + match("first", photo), init=photo, steps=3)
    assert held.silent == (0,)


def test_no_false_alarm(digits: nn.Module) -> None:
    assert maximize(digits, ramp(0, 1) * logit([3, 4]), steps=3).silent == ()
    assert maximize(digits, match("conv2", DIGIT), init=DIGIT, steps=3, transform=lambda image: image).silent == ()
    assert maximize(digits, -1 * pixel_sum(), steps=3).silent == ()


def test_a_transformers_unit_is_an_embedding_dimension() -> None:
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64, depth=3)
    for objective in (channel("blocks.1", [3, 4]), neuron("blocks.1", [3, 4], position=(5,))):
        dreams = maximize(network, objective, size=64, steps=10, learning_rate=0.1)
        assert (dreams.history[-3:].mean(0) > dreams.history[:3].mean(0)).all()


def test_as_many_images_as_the_objective_is_for(digits: nn.Module) -> None:
    with pytest.raises(ValueError, match="logits:1,2,3 is for 3 images, not 2"):
        maximize(digits, logit([1, 2, 3]), init=torch.rand(2, 1, 28, 28))
    with pytest.raises(ValueError, match="is for 3 images, not 5"):
        evaluate(digits, logit([1, 2, 3]), torch.rand(5, 1, 28, 28))
    assert len(evaluate(digits, logit(1), torch.rand(5, 1, 28, 28))) == 5


def test_amplified_a_photo_keeps_its_size(vgg16: nn.Module, photo: Tensor) -> None:
    objective = deepdream("relu3_1")
    dreams = amplify(vgg16, objective, photo, octaves=2, steps=3)
    assert dreams.images.shape == photo.shape
    assert evaluate(vgg16, objective, dreams.images) > 1.2 * evaluate(vgg16, objective, photo)
    with pytest.raises(ValueError, match="too small for 40 octaves"):
        amplify(vgg16, objective, photo, octaves=40)


def test_interrupted_between_octaves_the_picture_so_far(
    vgg16: nn.Module, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    octaves_made: list[Tensor] = []

    def once(*args: Any, **kwargs: Any) -> Dreams:
        if octaves_made:
            raise KeyboardInterrupt
        octaves_made.append(kwargs["init"])
        return maximize(*args, **kwargs)

    monkeypatch.setattr(deep_dream, "maximize", once)
    dreams = amplify(vgg16, deepdream("relu2_1"), photo, octaves=2, steps=3)
    assert dreams.stopped == "interrupted"
    assert dreams.images.shape == photo.shape
    assert (dreams.images - photo).abs().mean() > 0.01


def test_a_photo_is_known_by_its_activations(digits: nn.Module) -> None:
    """Inversion from noise: conv2 still knows most of the digit."""
    found = maximize(digits, match("conv2", DIGIT), steps=200, transform=lambda image: image)
    assert found.activations > -0.02
    assert (found.images - DIGIT).abs().mean() < 0.3 * DIGIT.mean()


def test_the_photo_is_seen_in_the_same_view(digits: nn.Module) -> None:
    """Else a picture that is the photo would not match it, and be driven away from it."""
    kept = maximize(digits, match("conv2", DIGIT), init=DIGIT, steps=20)
    assert kept.history.abs().max() < 1e-3
    torch.testing.assert_close(kept.images, DIGIT, rtol=0, atol=0.02)


def test_accentuated_a_photo_stays_near_itself(digits: nn.Module) -> None:
    free = maximize(digits, logit(8), init=DIGIT, steps=30)
    held = maximize(digits, logit(8) + 100 * match("conv1", DIGIT), init=DIGIT, steps=30)
    before = evaluate(digits, logit(8), DIGIT)
    assert evaluate(digits, logit(8), held.images) > before + 1
    assert (held.images - DIGIT).abs().mean() < 0.5 * (free.images - DIGIT).abs().mean()


def test_one_photo_for_each_picture(digits: nn.Module) -> None:
    photos = digit_sample()[0][[0, 500, 900]]
    together = maximize(digits, match("conv1", photos), steps=6, batch=2)
    alone = maximize(digits, match("conv1", photos[1:2]), steps=6)
    torch.testing.assert_close(together.images[1], alone.images[0], rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="the photo of match of conv1 is an image of 28x28 pixels and 1 channel, not"):
        maximize(digits, match("conv1", photos), size=30)


def test_activations_as_the_network_computes_them(digits: nn.Module) -> None:
    seen = activations(digits, DIGIT, ["conv1", "logits"])
    torch.testing.assert_close(seen["logits"], digits(DIGIT).detach())
    assert seen["conv1"].shape == (1, 25, 26, 26)
    assert not seen["conv1"].requires_grad


def test_interrupted_it_returns_what_there_is(digits: nn.Module) -> None:
    def interrupt(step: Step) -> None:
        if step.number == 5:
            raise KeyboardInterrupt

    dreams = maximize(digits, logit([1, 2]), listeners=[interrupt])
    assert dreams.stopped == "interrupted"
    assert dreams.history.shape == (5, 2)
    assert dreams.images.shape == (2, 1, 28, 28)


def test_another_optimizer(digits: nn.Module) -> None:
    how: dict[str, Any] = {"steps": 4, "transform": lambda images: images}
    usual = maximize(digits, logit(1), **how)
    assert torch.equal(
        maximize(digits, logit(1), optimizer=partial(Adam, learning_rate=0.1), **how).images, usual.images
    )
    assert not torch.equal(maximize(digits, logit(1), optimizer="lbfgs", **how).images, usual.images)


def test_errors(digits: nn.Module) -> None:
    with pytest.raises(ValueError, match="no layer 'conv3'; did you mean 'conv2'"):
        maximize(digits, channel("conv3", 0))
    with pytest.raises(ValueError, match="no unit 25 in layer 'conv1': its 25 units are 0-24"):
        maximize(digits, channel("conv1", 25))
    with pytest.raises(ValueError, match=r"64x64 pixels .* DigitCNN beyond pool2, so hidden cannot be reached"):
        maximize(digits, neuron("hidden", 0), size=64)


def test_a_notebook_shows_the_pictures(digits: nn.Module) -> None:
    dreams = maximize(digits, logit([1, 2, 3, 4]), steps=1)
    png = dreams._repr_png_()
    assert png is not None
    assert Image.open(BytesIO(png)).size[0] > 2 * 112
    odd = maximize(nn.Sequential(nn.Conv2d(5, 2, 3)), channel("0", 0), size=9, steps=1)
    assert odd._repr_png_() is None  # of five channels there is no picture; a notebook then prints it


def test_a_silent_image_beside_a_photo() -> None:
    """A silent image and the photo of the objective are transformed together, even if the transform changes sizes."""
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU())
    with torch.no_grad():
        network[2].bias.copy_(torch.tensor([1.0, -1e3]))  # unit 1 never answers
    photo = torch.rand(1, 3, 12, 12)
    wanted = channel("3", [0, 1]) - 0.1 * match("1", photo)
    dreams = maximize(
        network, wanted, size=12, steps=2, transform=lambda images: pad(images, (2, 2, 2, 2), mode="reflect")
    )
    assert dreams.silent == (1,)


def objective_of(function: Callable[[Mapping[str, Tensor]], Any]) -> Objective:
    return Objective("mine", frozenset(["conv2"]), function)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"objective": objective_of(lambda a: a["conv2"].mean())}, "must give one value for each image"),
    ({"objective": objective_of(lambda a: a["conv2"].mean().item())}, "must give one value for each image"),
    ({"objective": objective_of(lambda a: a["conv2"].flatten(1).mean(1)[:0])}, "must give one value for each image"),
    ({"objective": objective_of(lambda a: a["conv1"].flatten(1).mean(1))}, "mine reads 'conv1', which is not among"),
    ({"objective": objective_of(lambda a: a["conv2"].detach().flatten(1).mean(1))}, "no gradient passes back|depend"),
    ({"objective": objective_of(lambda a: a["conv2"].flatten(1).mean(1) / 0)}, "the loss is -?(inf|nan) at step 1"),
    ({"transform": lambda images: images[:0]}, r"must return one image for each image, shape \(1, 1, height, width\)"),
    ({"transform": lambda images: images[0]}, "must return one image for each image"),
    ({"transform": lambda images: None}, "must return one image for each image, .* not NoneType"),
    ({"transform": lambda images: images.detach()}, "must not detach the images"),
    ({"listeners": "text"}, "listeners must be a function of a Step"),
]


@pytest.mark.parametrize("init", [None, torch.full((1, 1, 28, 28), 0.5)], ids=["noise", "init"])
@pytest.mark.parametrize(("mistake", "message"), MISTAKES)
def test_mistakes_are_told_at_the_first_step(
    mistake: dict[str, Any], message: str, init: Tensor | None, digits: nn.Module
) -> None:
    steps: list[int] = []
    given = {"objective": channel("conv2", 3), "init": init, "steps": 20, "listeners": lambda s: steps.append(s.number)}
    with pytest.raises((ValueError, TypeError, ArithmeticError), match=message):
        maximize(digits, **{**given, **mistake})
    assert len(steps) <= 1


def test_a_layer_without_gradient_does_not_lose_the_result(digits: nn.Module) -> None:
    """If the run starts from an image, this is noticed only when the run is over."""
    objective = Objective(
        "mine",
        frozenset(["conv1", "conv2"]),
        lambda a: a["conv2"].flatten(1).mean(1) + a["conv1"].detach().flatten(1).mean(1),
    )
    dreams = maximize(digits, objective, init=torch.full((1, 1, 28, 28), 0.5), steps=3)
    assert dreams.stopped == "finished"


def test_images_that_the_memory_cannot_hold_are_refused_at_once(digits: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"1000000000 images of 28x28 .* need at least 12,544\.0 GB of memory"):
        maximize(digits, channel("conv1", 0) + diversity("conv1", 10**9))


class Regions(nn.Module):
    """A network that proposes regions of each image, in a number that depends on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        found = [features.flatten(1).T for features in self.features(images)]
        return self.head(torch.cat([some[some[:, 0] > some[:, 0].mean()] for some in found]))


def test_images_with_different_numbers_of_regions_are_made_one_by_one() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Regions())
    how: dict[str, Any] = {"size": (1, 12, 12), "steps": 3}
    together = maximize(network, channel("0.head", [0, 3, 4]), **how)
    for number, unit in enumerate([0, 3, 4]):
        alone = maximize(network, channel("0.head", unit), **how)
        assert torch.equal(together.images[number], alone.images[0])
        assert torch.equal(together.history[:, number], alone.history[:, 0])
    steps: list[Step] = []
    spared = maximize(network, channel("0.head", [0, 3]) - sparing(), listeners=steps.append, **how)
    assert [(step.number, step.steps, len(step.image)) for step in steps] == [(n, 6, 1) for n in range(1, 7)]
    one = maximize(network, channel("0.head", 3) - sparing(), **how)
    assert torch.equal(spared.images[1:], one.images)
    torch.testing.assert_close(spared.activations[1:], one.activations)
    values = [evaluate(network, channel("0.head", 3), image[None]) for image in together.images]
    assert torch.equal(evaluate(network, channel("0.head", 3), together.images), torch.cat(values))
    with pytest.raises(ValueError, match="pass one image at a time"):
        maximize(network, channel("0.head", 3) + diversity("0.features", 2), **how)
    with pytest.raises(ValueError, match="pass one image at a time"):
        activations(network, together.images, "0.head")
