from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dreamgram.models import load
from dreamgram.models.provenance import sources, state_hash
from tests.models.test_project import BUILD, width, write


def test_the_hash_is_the_same_for_a_network_that_is_loaded_again(digits: nn.Module) -> None:
    found = state_hash(digits)
    assert found == state_hash(load("digits"))
    assert len(found) == 16
    assert int(found, 16)
    assert found != state_hash(load("digits-robust"))


@pytest.mark.parametrize("name", ["conv1.weight", "logits.bias"])
def test_the_hash_changes_with_any_weight(name: str) -> None:
    model = load("digits")
    before = state_hash(model)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] += 1e-6
    assert state_hash(model) != before


def test_the_hash_knows_names_shapes_and_types() -> None:
    models: list[nn.Module] = [
        nn.Linear(2, 3, bias=False),
        nn.Linear(3, 2, bias=False),
        nn.Sequential(nn.Linear(2, 3, bias=False)),
        nn.Linear(2, 3, bias=False).bfloat16(),
        nn.Linear(2, 3, bias=False).double(),
        nn.Linear(2, 3),
    ]
    for model in models:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    assert len({state_hash(model) for model in models}) == len(models)


def test_the_hash_does_not_depend_on_the_memory_format(digits: nn.Module) -> None:
    assert state_hash(load("digits").to(memory_format=torch.channels_last)) == state_hash(digits)


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no accelerator")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_hash_does_not_depend_on_the_device(dtype: torch.dtype) -> None:
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    assert state_hash(load("digits").to(accelerator, dtype)) == state_hash(load("digits").to(dtype))


def test_a_shared_weight_is_read_once_and_told_from_a_copy() -> None:
    layer = nn.Linear(3, 3)
    copied = nn.Linear(3, 3)
    copied.load_state_dict(layer.state_dict())
    assert state_hash(nn.Sequential(layer, layer)) == state_hash(nn.Sequential(copied, copied))
    assert state_hash(nn.Sequential(layer, layer)) != state_hash(nn.Sequential(layer, copied))


def test_buffers_of_no_dimension_and_of_no_element_are_hashed() -> None:
    model = nn.BatchNorm2d(3)
    model.register_buffer("empty", torch.zeros(0, 3))
    before = state_hash(model)
    model(torch.rand(1, 3, 4, 4))
    assert state_hash(model) != before


def test_the_sources_of_a_file_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    late = "def build():\n    import late\n    return block()\n"
    write(tmp_path, net_in_lib=f"import torch\nfrom parts.blocks import block\n{late}", late="")
    write(tmp_path, init_in_parts_in_lib="", blocks_in_parts_in_lib=width(2), unused_in_lib=BUILD)
    name, weights = "lib/net.py:build", Path("weights.pt")
    assert sources(name, None) == [Path("lib/net.py")]
    torch.save(load(name).state_dict(), weights)
    load(name, weights)
    imported = [Path("late.py"), Path("lib/parts/__init__.py"), Path("lib/parts/blocks.py")]
    assert sources(name, weights) == [Path("lib/net.py"), *imported, weights]


@pytest.mark.parametrize("name", ["digits", "vgg16", "torchvision:resnet18", "timm:resnet18"])
def test_other_networks_have_no_source_but_the_weights(name: str) -> None:
    assert sources(name, None) == []
    assert sources(name, Path("w.pt")) == [Path("w.pt")]


def test_the_folder_of_a_network_is_a_source(tmp_path: Path) -> None:
    assert sources(f"hf:{tmp_path}", Path("w.pt")) == [tmp_path, Path("w.pt")]
    assert sources(f"hf:{tmp_path / 'none'}", None) == []
    (tmp_path / "a:b").mkdir()
    assert sources(f"hf:{tmp_path / 'a:b'}", None) == [tmp_path / "a:b"]
