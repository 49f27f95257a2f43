from __future__ import annotations

import argparse
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from dreamgram.models import load
from dreamgram.models.digits import DigitCNN
from dreamgram.models.loading import networks
from dreamgram.models.registry import WEIGHTS


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
    with pytest.raises(ValueError, match=r"no function 'tinny'; did you mean 'tiny'"):
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


def lightning(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A checkpoint with the keys that Lightning writes: hyperparameters, an optimizer, and a loss with a weight."""
    net = {f"net.{name}": tensor for name, tensor in state.items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**net, "loss.weight": torch.ones(1000)},
        "optimizer_states": [optimizer],
        "hyper_parameters": {"lr": 0.1, "args": argparse.Namespace(data="x", layers=[1, 2])},
    }


WRAPPED: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, Any]]] = {
    "module.": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "model.": lambda state: {f"model.{name}": tensor for name, tensor in state.items()},
    "_orig_mod.": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "compiled inside": lambda state: {f"net._orig_mod.{name}": tensor for name, tensor in state.items()},
    "parallel inside": lambda state: {name.replace(".", ".module.", 1): tensor for name, tensor in state.items()},
    "state_dict": lambda state: {"epoch": 7, "state_dict": state},
    "model": lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
    "state_dict, module.": lambda state: {"state_dict": {f"module.{name}": each for name, each in state.items()}},
    "Lightning": lightning,
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_names_of_tensors_with_the_prefixes_of_training_programs(wrapper: str, tmp_path: Path) -> None:
    original = torchvision.models.shufflenet_v2_x0_5()
    file = tmp_path / "weights.pt"
    torch.save(WRAPPED[wrapper](original.state_dict()), file)
    model = load("torchvision:shufflenet_v2_x0_5", file)
    for name, tensor in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_the_versions_of_modules_are_kept(tmp_path: Path) -> None:
    """MNASNet cannot be filled without them."""
    original = torchvision.models.mnasnet0_5()
    for content in (original.state_dict(), {"state_dict": nn.DataParallel(original).state_dict()}):
        torch.save(content, tmp_path / "w.pt")
        model = load("torchvision:mnasnet0_5", tmp_path / "w.pt")
        assert torch.equal(model.get_parameter("classifier.1.bias"), original.get_parameter("classifier.1.bias"))


def test_a_network_that_wraps_what_the_file_has(tmp_path: Path) -> None:
    inner = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))
    torch.save(inner.state_dict(), tmp_path / "w.pt")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Wrapper(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))\n"
        "    def forward(self, x):\n        return self.body(x)\n"
    )
    model = load(f"{tmp_path}/mine.py:Wrapper", tmp_path / "w.pt")
    assert torch.equal(model.get_parameter("body.0.weight"), inner[0].weight)


def test_a_mismatch_shows_the_first_names_of_both_sides(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save(torchvision.models.squeezenet1_0().state_dict(), file)
    with pytest.raises(
        ValueError,
        match=r"w\.pt do not fit resnet18: missing conv1\.weight, bn1\.weight, .*\.\.\. \(\d+ in all\); unexpected "
        r"features\.0\.weight, features\.0\.bias, .*\.\.\. \(52 in all\)$",
    ):
        load("torchvision:resnet18", file)
    state = load("digits").state_dict()
    torch.save({**state, "conv1.weight": torch.zeros(25, 3, 3, 3)}, file)
    with pytest.raises(ValueError, match=r"conv1\.weight is \(25, 3, 3, 3\) in the file, not \(25, 1, 3, 3\)$"):
        load("digits", file)


def test_a_file_that_asks_for_code_says_for_which(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    for zipped in (True, False):
        torch.save(nn.Linear(2, 2), file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r"asks for torch\.nn\.modules\.linear\.Linear, .*model\.state_dict\(\)"):
            load("digits", file)
    for nothing in ({}, [torch.zeros(3)], {"epoch": 3}):
        torch.save(nothing, file)
        with pytest.raises(ValueError, match="holds no tensors by name"):
            load("digits", file)


def test_vgg_with_torchvisions_names(tmp_path: Path) -> None:
    """The layers answer as torchvision's do to normalized images."""
    original = torchvision.models.vgg16(num_classes=2, init_weights=False).eval()
    state = {f"module.{name}": tensor for name, tensor in original.state_dict().items() if "classifier.0" not in name}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    model = load("vgg16", tmp_path / "w.pt")
    image = torch.rand(1, 3, 48, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = original.features((image - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        torch.testing.assert_close(model(image), expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="do not fit vgg19: missing conv3_4"):
        load("vgg19", tmp_path / "w.pt")


def test_a_torchvision_network_of_the_size_of_its_weights(tmp_path: Path) -> None:
    torch.save(torchvision.models.vit_b_32(image_size=64).state_dict(), tmp_path / "vit.pt")
    assert load("torchvision:vit_b_32", tmp_path / "vit.pt").input_shape == (3, 64, 64)
    torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), tmp_path / "resnet.pt")
    assert load("torchvision:resnet18", tmp_path / "resnet.pt").get_parameter("fc.bias").shape == (7,)


def test_weights_that_torchvision_published_for_another_size(tmp_path: Path) -> None:
    original = torchvision.models.regnet_y_400mf()
    entries = torchvision.models.get_model_weights("regnet_y_16gf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.models.get_model_weights", lambda name: entries)
        for entry in entries:
            file = tmp_path / Path(entry.url).name
            torch.save(original.state_dict(), file)
            size = entry.transforms().crop_size[0]
            assert load("torchvision:regnet_y_400mf", file).input_shape == (3, size, size)


def test_names_and_weights_in_other_forms(tmp_path: Path) -> None:
    assert isinstance(load(Path("digits"), str(WEIGHTS / "digits-robust.safetensors")), DigitCNN)
    cases: list[tuple[Any, Any, str]] = [
        (nn.Flatten(), None, "a network is loaded by its name, such as 'digits', not by Flatten"),
        (nn.Flatten, None, "not by the class Flatten"),
        (None, None, "not by NoneType"),
        ("digits", nn.Flatten().state_dict(), "weights must be the path of a file, not OrderedDict"),
    ]
    for name, weights, message in cases:
        with pytest.raises(TypeError, match=message):
            load(name, weights)
    with pytest.raises(FileNotFoundError, match=r"no weights file .*none\.pt"):
        load("digits", str(tmp_path / "none.pt"))
