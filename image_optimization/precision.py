"""In what arithmetic a network runs. Images, statistics, losses and the optimizer are always in float32."""

# Torch is imported where it is needed, so that the command line can read the names without it.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that a network on ``device`` computes in; ``auto`` is bfloat16 where that is fast, else float32.

    Fast is hardware that multiplies it natively: AVX-512 BF16, AMX, the bf16 instructions of ARM, NVIDIA from Ampere
    on. Elsewhere it is emulated, slower than float32.

    Raises:
        ValueError: an unknown name.
    """
    import torch

    if precision not in get_args(Precision):
        raise ValueError(f"no precision {precision!r}; there are {', '.join(get_args(Precision))}")
    if precision != "auto":
        dtype: torch.dtype = getattr(torch, precision)
        return dtype
    if device.type == "cpu":
        # Older versions of PyTorch have no such list.
        able: Any = getattr(torch.cpu, "get_capabilities", dict)()
        named = any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        native = named and torch.backends.mkldnn.is_available()
    else:
        native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if native else torch.float32
