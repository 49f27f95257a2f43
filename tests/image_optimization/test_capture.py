from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from dreamgram.image_optimization.capture import capture


def test_activations_are_those_of_a_plain_forward_pass(digits: nn.Module) -> None:
    image = torch.rand(2, 1, 28, 28)
    expected = {"conv1": digits.get_submodule("conv1")(image), "logits": digits(image)}
    with capture(digits, expected) as activations_of:
        activations = activations_of(image)
    assert set(activations) == set(expected)
    for name in expected:
        torch.testing.assert_close(activations[name], expected[name])


def test_in_place_operations_do_no_harm(vgg16: nn.Module) -> None:
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    with capture(vgg16, ["conv1_1", "relu1_1", "conv2_1"]) as activations_of:
        activations = activations_of(image)
        assert activations["conv1_1"].min() < 0  # VGG's in-place ReLU did not write over it
        torch.testing.assert_close(activations["relu1_1"], activations["conv1_1"].relu())
        activations["conv1_1"].sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_in_place_addition_does_no_harm() -> None:
    """Torchvision's residual blocks write over the last batch normalization with ``out += identity``."""
    network = torchvision.models.resnet18().eval()
    image = torch.rand(1, 3, 64, 64)
    block = network.get_submodule("layer1.0")
    inputs: list[Tensor] = []
    handle = block.register_forward_hook(lambda module, args, output: inputs.append(args[0].clone()))
    with torch.no_grad(), capture(network, ["layer1.0.bn2", "layer1.0"]) as activations_of:
        activations = activations_of(image)
        handle.remove()
        torch.testing.assert_close((activations["layer1.0.bn2"] + inputs[-1]).relu(), activations["layer1.0"])


def test_the_forward_pass_stops_at_the_deepest_layer(vgg16: nn.Module) -> None:
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda module, args, output, name=name: ran.append(name))
        for name, module in vgg16.named_children()
    ]
    with capture(vgg16, ["relu2_1", "relu1_1"]) as activations_of:
        activations_of(torch.rand(1, 3, 32, 32))  # the first call looks at the whole network, without arithmetic
        ran.clear()
        activations_of(torch.rand(1, 3, 32, 32))
    for handle in handles:
        handle.remove()
    assert ran[-1] == "relu2_1"


def test_everything_is_put_back_and_hooks_of_yours_stay() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).train()
    network[1].eval()
    network[0].weight.requires_grad_(False)
    mine: list[int] = []
    network[2].register_forward_hook(lambda module, args, output: mine.append(1))

    def state() -> tuple[object, ...]:
        return (
            [module.training for module in network.modules()],
            [parameter.requires_grad for parameter in network.parameters()],
            [len(module._forward_hooks) for module in network.modules()],
            {name: tensor.tolist() for name, tensor in network.state_dict().items()},
        )

    before = state()
    with capture(network, ["2"]) as activations_of:
        activations_of(torch.rand(1, 1, 8, 8))
        assert not network.training
    assert state() == before
    with pytest.raises(ValueError, match="no layer"), capture(network, ["none"]) as activations_of:
        activations_of(torch.rand(1, 1, 8, 8))
    assert state() == before
    mine.clear()
    network.eval()(torch.rand(1, 1, 8, 8))
    assert mine == [1]


def test_no_weight_gradient_is_computed_and_calls_leave_no_hooks(digits: nn.Module) -> None:
    image = torch.rand(1, 1, 28, 28, requires_grad=True)
    with capture(digits, ["logits"]) as activations_of:
        counts = []
        for _ in range(3):
            activations_of(image)["logits"].sum().backward()
            counts.append(sum(len(module._forward_hooks) for module in digits.modules()))
        # The same holds for the copies of the weights that the network computes with.
        assert not any(weight.requires_grad for weight in activations_of.weights.values())  # type: ignore[attr-defined]
    assert counts == [1, 1, 1]
    assert all(parameter.grad is None for parameter in digits.parameters())
    assert all(parameter.requires_grad for parameter in digits.parameters())


def test_calls_of_a_reused_module_are_told_apart() -> None:
    class Reuses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, image: Tensor) -> Tensor:
            answer: Tensor = self.conv(self.conv(image))
            return answer

    network = Reuses()
    image = torch.rand(1, 1, 8, 8)
    first = network.conv(image)
    with capture(network, ["conv:1", "conv:0"]) as activations_of:
        activations = activations_of(image)
    torch.testing.assert_close(activations["conv:0"], first)
    torch.testing.assert_close(activations["conv:1"], network.conv(first))
    with capture(network, ["conv"]) as activations_of, pytest.raises(ValueError, match="runs 2 times"):
        activations_of(image)


def test_any_number_of_channels_and_any_architecture() -> None:
    for channels in (1, 2, 7):
        network = nn.Sequential(nn.Conv2d(channels, 3, 3), nn.ReLU(inplace=True))
        with capture(network, ["0"]) as activations_of:
            assert activations_of(torch.rand(2, channels, 9, 9))["0"].shape == (2, 3, 7, 7)
    vit = torchvision.models.vit_b_32().eval()
    with torch.no_grad(), capture(vit, ["encoder.layers.encoder_layer_1"]) as activations_of:
        assert activations_of(torch.rand(1, 3, 224, 224))["encoder.layers.encoder_layer_1"].shape == (1, 50, 768)


def test_errors_name_layers_and_sizes(digits: nn.Module, vgg16: nn.Module) -> None:
    with (
        capture(digits, ["conv3"]) as activations_of,
        pytest.raises(ValueError, match="no layer 'conv3'; did you mean"),
    ):
        activations_of(torch.rand(1, 1, 28, 28))
    with (
        capture(vgg16, ["relu5_1"]) as activations_of,
        pytest.raises(ValueError, match=r"8x8 pixels .* beyond relu4_3, so relu5_1 cannot be reached"),
    ):
        activations_of(torch.rand(1, 3, 8, 8))
    with capture(digits, ["conv1"]) as activations_of:  # the layers before the fully connected ones take any size
        assert activations_of(torch.rand(1, 1, 50, 40))["conv1"].shape == (1, 25, 48, 38)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_close_to_float32_and_the_weights_come_back(vgg16: nn.Module, dtype: torch.dtype) -> None:
    before = {name: (tensor.clone(), tensor.stride()) for name, tensor in vgg16.state_dict().items()}
    image = torch.rand(1, 3, 32, 32, requires_grad=True)

    def gradient(dtype: torch.dtype) -> Tensor:
        with capture(vgg16, ["relu1_1", "relu3_1"], dtype) as activations_of:
            activations = activations_of(image)
            # The loss is so small that its gradient in the network would be zero in float16.
            (1e-9 * sum(activation.float().square().mean() for activation in activations.values())).backward()
        found, image.grad = image.grad, None
        assert found is not None
        return found

    exact, low = gradient(torch.float32), gradient(dtype)
    assert low.dtype == torch.float32
    assert (low - exact).norm() < 0.05 * exact.norm()
    for name, tensor in vgg16.state_dict().items():
        assert torch.equal(tensor, before[name][0])
        assert tensor.stride() == before[name][1]


def test_normalization_and_attention_run_in_low_precision() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.norm = nn.LayerNorm(8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 5)

        def forward(self, image: Tensor) -> Tensor:
            tokens = self.norm(self.patches(image).flatten(2).transpose(1, 2))
            answer: Tensor = self.head(self.attention(tokens, tokens, tokens)[0])
            return answer

    network, image = Attends(), torch.rand(2, 3, 16, 16)
    with torch.no_grad(), capture(network, ["head"], torch.bfloat16) as activations_of:
        low = activations_of(image)["head"].float()
    torch.testing.assert_close(low, network(image).detach(), rtol=0.05, atol=0.02)


def test_a_network_that_views_its_features_as_they_lie() -> None:
    class LeNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4 * 6 * 6, 5)

        def forward(self, image: Tensor) -> Tensor:
            features = self.conv(image).relu()
            answer: Tensor = self.head(features.view(len(features), -1))
            return answer

    network, image = LeNet(), torch.rand(2, 3, 8, 8)
    with capture(network, ["head", "conv"]) as activations_of:
        for _ in range(2):
            torch.testing.assert_close(activations_of(image)["head"], network(image))


def test_the_network_can_be_used_inside(vgg16: nn.Module) -> None:
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad(), capture(vgg16, ["relu2_1"], torch.bfloat16) as activations_of:
        low = activations_of(image)["relu2_1"]
        with capture(vgg16, ["relu2_1"]) as exact_activations_of:
            exact = exact_activations_of(image)["relu2_1"]
        assert vgg16(image).dtype == torch.float32
        assert torch.equal(activations_of(image)["relu2_1"], low)
    assert exact.dtype == torch.float32
    torch.testing.assert_close(low.float(), exact, rtol=0.05, atol=0.05 * exact.max().item())


def test_layers_that_share_their_weights() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1))
    network[2].weight = network[0].weight
    image = torch.rand(1, 3, 8, 8)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.no_grad(), capture(network, ["2"], dtype) as activations_of:
            torch.testing.assert_close(activations_of(image)["2"].float(), network(image), rtol=0.02, atol=0.02)
    assert network[2].weight is network[0].weight
