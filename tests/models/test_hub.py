from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dreamgram.models import load


def transformers() -> Any:
    return pytest.importorskip("transformers", reason="the extra hf is not installed")


def saved_vit(folder: Path) -> Any:
    zoo = transformers()
    config = zoo.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8
    )
    config.id2label = {1: "tabby, tabby cat", 0: "tench"}
    network = zoo.ViTForImageClassification(config)
    network.save_pretrained(folder)
    zoo.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(folder)
    return network.eval()


def test_a_network_of_transformers_from_a_folder(tmp_path: Path) -> None:
    original = saved_vit(tmp_path)
    model = load(f"hf:{tmp_path}")
    assert model.input_shape == (3, 32, 32)
    assert not model.training
    image = torch.rand(2, 3, 32, 32)
    normalized = (image - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / 0.5
    torch.testing.assert_close(model(image).logits, original(normalized).logits)
    assert model.class_names == ("tench", "tabby, tabby cat")


def test_other_weights_for_a_network_of_transformers(tmp_path: Path) -> None:
    original = saved_vit(tmp_path)
    file = tmp_path / "mine.pt"
    torch.save({"state_dict": {f"net.{name}": 2 * each for name, each in original.state_dict().items()}}, file)
    model = load(f"hf:{tmp_path}", file)
    assert torch.equal(model.get_parameter("classifier.weight"), 2 * original.get_parameter("classifier.weight"))


def test_the_part_of_clip_that_sees(tmp_path: Path) -> None:
    zoo = transformers()
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {**small, "vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1}
    zoo.CLIPModel(
        zoo.CLIPConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8})
    ).save_pretrained(tmp_path)
    zoo.CLIPImageProcessor().save_pretrained(tmp_path)
    model = load(f"hf:{tmp_path}")
    assert model.input_shape == (3, 32, 32)
    model(torch.rand(1, 3, 32, 32))


def test_networks_of_transformers_that_cannot_be_used(tmp_path: Path) -> None:
    zoo = transformers()
    saved_vit(tmp_path)
    zoo.ViTModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text().replace("ViTModel", "ViTForImageClassification")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"has no weights for classifier\.bias"):
        load(f"hf:{tmp_path}")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"preprocessor_config\.json, which says how images are normalized"):
        load(f"hf:{tmp_path}")


def test_a_network_of_timm_from_a_folder(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="the extra hf is not installed")
    original: nn.Module = timm.create_model("test_resnet", num_classes=5).eval()
    timm.models.save_for_hf(original, tmp_path)
    for weights in (None, next(tmp_path.glob("*model*"))):
        model = load(f"hf:{tmp_path}", weights)
        image = torch.rand(1, 3, 160, 160)
        assert model.input_shape == (3, 160, 160)
        torch.testing.assert_close(model(image), original((image - 0.5) / 0.5))


def test_pickled_weights_of_timm_run_no_code(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="the extra hf is not installed")
    timm.models.save_for_hf(timm.create_model("test_resnet", num_classes=5), tmp_path, safe_serialization=False)

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "proof"),)

    torch.save({"fc.weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"mkdir"):
        load(f"hf:{tmp_path}")
    assert not (tmp_path / "proof").exists()
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"has no weights: neither model\.safetensors nor pytorch_model\.bin is there"):
        load(f"hf:{tmp_path}")


def test_what_cannot_be_fetched_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the extra hf is not installed")
    with pytest.raises(FileNotFoundError, match=r"no file .*config\.json"):
        load(f"hf:{tmp_path}")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no route to host\nmore lines")

    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    with pytest.raises(
        OSError, match=r"could not fetch hf:some/network \(no route to host\); give a local folder"
    ) as told:
        load("hf:some/network")
    assert "\n" not in str(told.value)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dreamgram\[hf\]'"):
        load("hf:some/network")
