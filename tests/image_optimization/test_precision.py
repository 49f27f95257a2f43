from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dreamgram.image_optimization.precision import choose_dtype

CPU = torch.device("cpu")


def test_a_precision_that_is_asked_for_is_taken() -> None:
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("float16", CPU) == torch.float16
    with pytest.raises(ValueError, match="no precision 'double'; there are auto, float32, bfloat16, float16"):
        choose_dtype("double", CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("able", "chosen"),
    [
        ({"avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({"avx512_f": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"neon": True, "bf16": True}, torch.bfloat16),
        ({"neon": True, "bf16": False}, torch.float32),
    ],
)
def test_auto_is_bfloat16_only_where_it_is_native(
    able: dict[str, Any], chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert choose_dtype("auto", CPU) == chosen
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_dtype("auto", CPU) == torch.float32  # an older PyTorch
    assert choose_dtype("auto", torch.device("mps")) == torch.float32


def test_attention_is_slow_in_bfloat16_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    attention, convolution = nn.Sequential(nn.MultiheadAttention(8, 2)), nn.Conv2d(3, 3, 3)
    assert choose_dtype("auto", CPU, attention) == torch.float32
    assert choose_dtype("auto", CPU, convolution) == torch.bfloat16
    assert choose_dtype("bfloat16", CPU, attention) == torch.bfloat16
    assert choose_dtype("auto", torch.device("cuda:0"), attention) == torch.bfloat16


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), torch.float32), ((8, 6), torch.bfloat16)])
def test_auto_is_bfloat16_from_ampere_on(
    capability: tuple[int, int], chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_dtype("auto", torch.device("cuda:1")) == chosen
