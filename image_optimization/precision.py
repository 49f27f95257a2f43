"""The number format of a network. Images, statistics, losses and the optimizer are always in float32."""

# The function imports PyTorch, so that the command line can read the names of the formats without PyTorch.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type for a network on ``device``. ``auto`` is bfloat16 if the hardware supports it, else float32.

    Hardware that supports bfloat16 has AVX-512 BF16, AMX or the bf16 instructions of ARM, or is an NVIDIA GPU of
    the Ampere generation or later. Other hardware emulates bfloat16, which is slower than float32.

    Raises:
        ValueError: there is no such precision; the message lists the names.
    """
    import torch

    if precision not in get_args(Precision):
        raise ValueError(f"no precision {precision!r}; there are {', '.join(get_args(Precision))}")
    if precision != "auto":
        dtype: torch.dtype = getattr(torch, precision)
        return dtype
    if device.type == "cpu":
        # Older versions of PyTorch do not list the capabilities.
        able: Any = getattr(torch.cpu, "get_capabilities", dict)()
        named = any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        native = named and torch.backends.mkldnn.is_available()
    else:
        native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if native else torch.float32
