from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import dreamgram as dg
from dreamgram.activation_maximization.defaults import NATURAL_WEIGHT
from dreamgram.activation_maximization.natural import Moments, _Sorted, distribution, natural, normalized_layers
from dreamgram.activation_maximization.options import ClassesOptions
from dreamgram.workbench.recipe import Recipe
from tests.conftest import Command


def network() -> nn.Module:
    """Return a network with two batch normalizations of images, which have seen random images."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.LazyLinear(5), nn.BatchNorm1d(5))
    for each in model.train():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.normal_(each.weight, 0, 1)
            nn.init.normal_(each.bias)
    for _ in range(150):
        model(natural_images(16))
    model.input_shape = (3, 24, 24)  # type: ignore[assignment]
    return model.eval()


def natural_images(count: int) -> Tensor:
    return (0.5 + 0.1 * torch.randn(count, 3, 24, 24)).clamp(0, 1)


def expected(model: nn.Module, image: Tensor) -> float:
    """Compute the objective from its definition, with the inputs of the batch normalizations."""
    parts = []
    assert isinstance(model, nn.Sequential)
    for each in model:
        if isinstance(each, nn.BatchNorm2d):
            assert each.running_mean is not None
            assert each.running_var is not None
            whole = each.running_var + each.eps
            mean, deviation = image.mean((0, 2, 3)), image.std((0, 2, 3), correction=0)
            off = (mean - each.running_mean).square() + (deviation - each.running_var.sqrt()).square()
            parts.append((off / whole).mean() / (each.running_var / whole).mean())
        image = each(image)
    first, last = parts
    return -(first + 0.05 * last).item() / 1.05


def test_the_objective_is_that_of_its_definition() -> None:
    model = network()
    assert normalized_layers(model) == ["1", "4"]
    images = torch.rand(3, 3, 24, 24)
    values = dg.evaluate(model, natural(model), images)
    for image, found in zip(images, values.tolist(), strict=True):
        assert found == pytest.approx(expected(model, image[None]), rel=1e-3)


def test_means_and_their_gradient() -> None:
    activations = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    center = torch.tensor([0.0, 1.0, 100.0], dtype=torch.float64)
    difference, square = Moments.apply(activations, center)
    torch.testing.assert_close(difference + center, activations.mean((2, 3)))
    variance = activations.var((2, 3), correction=0)
    torch.testing.assert_close(square - difference.square(), variance, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(lambda given: Moments.apply(given, center), activations)


def test_natural_images_have_larger_values() -> None:
    model = network()
    objective = natural(model)
    like = dg.evaluate(model, objective, natural_images(4))
    unlike = dg.evaluate(model, objective, torch.rand(4, 3, 24, 24))
    assert like.min() > unlike.max()


def test_it_changes_the_picture_and_leaves_the_network_alone() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    how = {"steps": 40, "learning_rate": 0.05, "transform": None, "precision": "float32"}
    alone = dg.maximize(model, dg.logit(2, "7"), **how)
    kept = dg.maximize(model, dg.logit(2, "7") + 10 * natural(model), **how)
    of_alone, of_kept = (dg.evaluate(model, natural(model), dreams.images).item() for dreams in (alone, kept))
    assert of_kept > of_alone / 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def distance(image: Tensor, pictures: Tensor) -> float:
    """Return the distance of the distributions of activations (C, H, W) and (N, C, H, W) with long sorted lists."""
    parts, scale = [], 0.0
    for number, channel in enumerate(image.flatten(1).tolist()):
        known = sorted(pictures[:, number].flatten().tolist())
        ours = [value for value in sorted(channel) for _ in known]
        theirs = [value for value in known for _ in channel]
        groups = [sum(theirs[start : start + len(known)]) / len(known) for start in range(0, len(ours), len(known))]
        parts.append(sum((a - b) ** 2 for a, b in zip(ours[:: len(known)], groups, strict=True)) / len(channel))
        scale += torch.tensor(known).var(correction=0).item()
    return sum(parts) / scale


@pytest.mark.parametrize("size", [24, 17])
def test_a_distribution_is_that_of_its_definition(size: int) -> None:
    model = network()
    assert isinstance(model, nn.Sequential)
    pictures, images = torch.rand(3, 3, 24, 24), 0.6 * torch.rand(2, 3, size, size)
    objective = distribution(model, ["0", model[3]], pictures)
    assert objective.layers == {"0", "3"}
    values = dg.evaluate(model[:4], objective, images)
    for image, found in zip(images, values.tolist(), strict=True):
        reference = [distance(model[:end](image[None])[0].detach(), model[:end](pictures).detach()) for end in (1, 4)]
        assert found == pytest.approx(-sum(reference) / 2, rel=1e-3)


def test_pictures_have_their_own_distribution_wherever_the_activations_occur() -> None:
    model, picture = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)), torch.rand(1, 3, 8, 12)
    shuffled = picture.flatten(2)[:, :, torch.randperm(96)].view_as(picture)
    objective = distribution(model, "0", picture)
    assert dg.evaluate(model, objective, shuffled).item() == pytest.approx(0, abs=1e-9)
    assert dg.evaluate(model, objective, picture / 2).item() < -0.1


def test_maximizing_a_distribution_brings_it_close() -> None:
    model = network()
    objective = distribution(model, ["0", "3"], natural_images(5))
    dreams = dg.maximize(model, objective, steps=60, parameterization="pixels", transform="none", precision="float32")
    assert dreams.activations.item() > -0.05 > -0.5 > dreams.history[0].item()


def test_distributions_that_do_not_exist() -> None:
    model = network()
    with pytest.raises(ValueError, match="distribution needs at least one layer"):
        distribution(model, [], natural_images(1))
    with pytest.raises(ValueError, match="no layer 'convv'"):
        distribution(model, "convv", natural_images(1))
    with pytest.raises(ValueError, match="all pictures have the same activations in every position of layer '0'"):
        distribution(model, "0", torch.full((2, 3, 24, 24), 0.5))


def test_pictures_of_several_sizes(tmp_path: Path) -> None:
    model, image = nn.Sequential(nn.Conv2d(3, 2, 1)), torch.rand(1, 3, 9, 8)
    pictures = [torch.rand(3, 9, 8), torch.rand(3, 5, 6)]
    [found] = dg.evaluate(model, distribution(model, "0", pictures), image).tolist()
    known = torch.cat([model(each).detach().flatten(1) for each in pictures], 1)
    assert found == pytest.approx(-distance(model(image)[0].detach(), known[None]), rel=1e-3)
    with pytest.raises(ValueError, match="distribution needs pictures"):
        distribution(model, "0", tmp_path)


def test_terms_made_in_inference_mode() -> None:
    model = network()
    with torch.inference_mode():
        objective = natural(model) + distribution(model, "0", natural_images(2))
    assert dg.maximize(model, objective, steps=2).images.isfinite().all()


def test_sorted_activations_on_a_gpu() -> None:
    with FakeTensorMode():
        target = _Sorted.__new__(_Sorted)
        target.values, target.fitted = torch.empty(3, 40, device="cuda"), {}
        assert target._quantiles(30, torch.device("cuda")).is_cuda


def test_a_network_without_batch_normalization_is_refused(digits: nn.Module) -> None:
    with pytest.raises(ValueError, match="has no batch normalization, which would store natural statistics"):
        natural(digits)


def test_class_pictures_are_kept_natural(tmp_path: Path, command: Command) -> None:
    Path("nets.py").write_text(
        "from tests.activation_maximization.test_natural import network\n"
        "def net():\n    model = network()\n    model.class_names = ['a', 'b', 'c', 'd', 'e']\n    return model\n",
        encoding="utf-8",
    )
    how = ["classes", "--model", "nets.py:net", "--layer", "7", "--classes", "b,d", "--steps", 30]
    assert command("dream", *how, "-o", "kept.png").code == 0
    assert command("dream", *how, "--natural", 0, "-o", "alone.png").code == 0
    assert Path("kept.png").read_bytes() != Path("alone.png").read_bytes()
    assert command("dream", "replay", "kept.png", "--trust", "-o", "again.png").code == 0
    assert Image.open("again.png").tobytes() == Image.open("kept.png").tobytes()
    found = Recipe.read(Path("kept.png"), {"dream classes": ClassesOptions}).options
    assert isinstance(found, ClassesOptions)
    assert (found.natural, found.parameterization) == (NATURAL_WEIGHT, "pyramid")
