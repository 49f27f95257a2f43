"""Regularizers as shares of the gradient, on networks and sizes that they were not tuned for."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn

import dreamgram as dg


def scales(network: nn.Module, unit: int, images: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of the gradient of ``unit`` at each of ``images``, computed one by one."""
    found = []
    for image in images:
        leaf = image[None].clone().requires_grad_()
        [gradient] = torch.autograd.grad(network(leaf)[0, unit], leaf)
        found.append(gradient.square().mean().sqrt())
    return torch.stack(found)


def test_a_share_is_measured_in_gradients_of_the_other_terms(digits: nn.Module) -> None:
    images = torch.rand(3, 1, 28, 28)
    scale = scales(digits, 4, images)
    penalty = images.square().mean((1, 2, 3))
    expected = digits(images)[:, 4] - 0.3 * scale * 28 * 28 * penalty - 2 * images.sum((1, 2, 3))
    objective = dg.logit(4) - dg.share() * dg.l2(0.3, center=0)
    torch.testing.assert_close(dg.evaluate(digits, objective, images), expected + 2 * images.sum((1, 2, 3)))
    # Other regularizers belong to the other terms.
    both = torch.stack([(each + 0).requires_grad_() for each in images])
    [gradient] = torch.autograd.grad((digits(both)[:, 4] - 2 * both.sum((1, 2, 3))).sum(), both)
    scale = gradient.square().mean((1, 2, 3)).sqrt()
    expected = digits(images)[:, 4] - 2 * images.sum((1, 2, 3)) - 0.3 * scale * 28 * 28 * penalty
    torch.testing.assert_close(dg.evaluate(digits, objective - dg.pixel_sum(2), images), expected)


@pytest.mark.parametrize("factor", [1e-4, 1e3])
def test_a_network_with_other_units_gives_the_same_picture(digits: nn.Module, factor: float) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = digits
            self.input_shape = (1, 28, 28)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = factor * self.network(image)
            return result

    objective, scaled = dg.logit([3, 5]) - dg.sparing(), dg.logit([3, 5], layer="1") - dg.sparing()
    network = nn.Sequential(Scaled(), nn.Identity())
    network.input_shape = (1, 28, 28)  # type: ignore[assignment]
    how = {"steps": 60, "precision": "float32", "seed": 1}
    one, other = dg.maximize(digits, objective, **how), dg.maximize(network, scaled, **how)  # type: ignore[arg-type]
    assert (one.images - other.images).abs().mean() < 0.02
    assert other.images.std((1, 2, 3)).min() > 0.1


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet18": (torchvision.models.resnet18, "fc"),
    "mobilenet": (torchvision.models.mobilenet_v3_small, "classifier.3"),
    "regnet": (torchvision.models.regnet_y_400mf, "fc"),
    "lcnet": (lambda: timm.create_model("lcnet_050"), "classifier"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_sparing_leaves_something_on_other_networks_and_sizes(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, layer = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    for size in ((64, 96), 40):
        images = dg.maximize(network, dg.logit([1, 2], layer) - dg.sparing(), size=size, steps=24).images
        assert images.std((1, 2, 3)).min() > 0.05
        assert 0.02 < images.mean() < 0.6
    assert "same value" not in caplog.text


def test_a_picture_of_one_value_is_told(digits: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    dreams = dg.maximize(digits, dg.logit([3, 7]) - dg.pixel_sum(50), steps=80)
    assert dreams.images.max() < 1 / 255
    assert "the picture of unit 3, 7 has the same value everywhere: try a smaller weight" in caplog.text
    assert not math.isnan(dreams.activations[0])
