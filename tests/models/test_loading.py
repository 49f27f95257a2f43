from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from dreamgram.models import load
from dreamgram.models.loading import networks


def test_the_names_are_those_of_the_package() -> None:
    assert set(networks()) >= {"digits", "digits-mlp", "vgg16", "vgg19"}


def test_an_unknown_name_is_told_the_nearest_and_all_there_are() -> None:
    with pytest.raises(ValueError, match=r"no network 'vgg-16'; did you mean 'vgg16'\? there are .*vgg19.*, or tor"):
        load("vgg-16")


def test_torchvision_weights_that_cannot_be_fetched_say_so_and_how_to_give_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        assert kwargs["check_hash"]
        assert kwargs["progress"]
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(
        OSError, match=r"could not fetch https://.*resnet18.*\(no route to host\).*give a local file as"
    ):
        load("torchvision:resnet18")


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_torchvision_with_a_local_file(tmp_path: Path, kind: str) -> None:
    original = torchvision.models.resnet18().eval()
    file = tmp_path / f"weights.{kind}"
    if kind == "pt":
        torch.save(original.state_dict(), file)
    else:
        save_file(original.state_dict(), file)
    model = load("torchvision:resnet18", file)
    image = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalized = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(model(image), original(normalized))
    assert model.input_shape == (3, 224, 224)
    assert "layer4.1.conv2" in dict(model.named_modules())  # names unchanged by the normalization
    assert not model.training


def test_an_unknown_torchvision_network() -> None:
    with pytest.raises(ValueError, match="no torchvision network 'resnet5O'; did you mean 'resnet50'"):
        load("torchvision:resnet5O")


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match=r"weights in .*other\.safetensors do not fit digits"):
        load("digits", file)
    file.write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match="do not fit vgg16"):
        load("vgg16", file)
    with pytest.raises(FileNotFoundError, match="no weights file"):
        load("digits", tmp_path / "missing.pt")


def test_timm_from_a_local_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    original = timm.create_model("vit_tiny_patch16_224").eval()
    file = tmp_path / "vit.pt"
    torch.save(original.state_dict(), file)
    model = load("timm:vit_tiny_patch16_224", file)
    image = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(model(image), original((image - 0.5) / 0.5))
    with pytest.raises(ValueError, match="did you mean 'vit_tiny_patch16_224'"):
        load("timm:vit_tiny_patch16_225")


def test_timm_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dreamgram\[timm\]'"):
        load("timm:resnet18")


def test_a_function_in_a_file_of_yours(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n"
        "def tiny():\n    return nn.Sequential(nn.Conv2d(4, 2, 3), nn.ReLU())\n"
        "def wrong():\n    return 7\n"
    )
    model = load(f"{file}:tiny")
    assert isinstance(model, nn.Sequential)
    assert not model.training
    weights = tmp_path / "w.pt"
    torch.save({"0.weight": torch.ones(2, 4, 3, 3), "0.bias": torch.zeros(2)}, weights)
    assert load(f"{file}:tiny", weights).get_parameter("0.weight").sum() == 72
    with pytest.raises(ValueError, match=r"no function in .* 'tinny'; did you mean 'tiny'"):
        load(f"{file}:tinny")
    with pytest.raises(ValueError, match=r"must return a torch\.nn\.Module, not int"):
        load(f"{file}:wrong")
    with pytest.raises(FileNotFoundError, match="no file"):
        load(f"{tmp_path}/theirs.py:tiny")
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
        "def needs(argument): ...\n"
    )
    with pytest.raises(ValueError, match=r"needs\(\) in .* failed: TypeError"):
        load(f"{file}:needs")
    file.write_text("def f(:\n")
    with pytest.raises(ValueError, match=r"mine\.py cannot be run: SyntaxError"):
        load(f"{file}:f")


@pytest.mark.parametrize("name", ["googlenet", "deeplabv3_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_fpn"])
def test_torchvision_networks_with_settings_of_their_own(name: str, tmp_path: Path) -> None:
    """The file that torchvision would fetch fits, nothing else is fetched, and inputs are treated as trained."""
    more = {"googlenet": {"init_weights": False}, "deeplabv3_mobilenet_v3_large": {"aux_loss": True}}.get(name, {})
    backbone = {} if name == "googlenet" else {"weights_backbone": None}
    original = torchvision.models.get_model(name, weights=None, **more, **backbone)
    torch.save(original.state_dict(), tmp_path / "w.pt")
    model = load(f"torchvision:{name}", tmp_path / "w.pt")
    assert getattr(model, "transform_input", True)
