"""Choose the precision, which is the number format in which a network computes.

Images, losses, the optimizer, and statistics of activations such as Gram matrices are always in float32 or float64.
"""

# The functions import PyTorch themselves, so that the command line can read the names of the formats without PyTorch.
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

from dreamgram.image_optimization.names import unknown

if TYPE_CHECKING:
    import torch
    from torch import nn

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def choose_dtype(precision: Precision, device: torch.device, model: nn.Module | None = None) -> torch.dtype:
    """Return the data type in which the network ``model`` computes on ``device``, as selected by ``precision``.

    ``"auto"`` means bfloat16 if the hardware is known to support bfloat16 natively, and float32 otherwise. Such
    hardware is a CPU with AVX-512 BF16, AMX or ARM's bf16 instructions, or an NVIDIA GPU of the Ampere generation or
    later. Most other hardware emulates bfloat16, which is slower than float32. On a CPU, ``"auto"`` also means float32
    if the network contains ``nn.MultiheadAttention``, as torchvision's vision transformers do, because PyTorch takes
    four times as long to run such a network in bfloat16 as in float32. Instead of a name, ``precision`` can be a data
    type of PyTorch, such as ``torch.float16``.

    Raises:
        ValueError: ``precision`` is not one of the allowed names; the message lists them.
    """
    import torch

    name = str(precision).removeprefix("torch.")  # a data type of PyTorch is accepted, too
    if name not in get_args(Precision):
        raise ValueError(unknown("precision", name, get_args(Precision)))
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cpu":
        # Older versions of PyTorch do not list the capabilities.
        able: Any = getattr(torch.cpu, "get_capabilities", dict)()
        named = any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        attention = model is not None and any(isinstance(each, torch.nn.MultiheadAttention) for each in model.modules())
        native = named and torch.backends.mkldnn.is_available() and not attention
    else:
        native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if native else torch.float32


def most_precise(device: torch.device) -> torch.dtype:
    """Return the most precise floating-point type that ``device`` supports: float64, or float32 on Apple's GPUs."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


@contextmanager
def products_in_full_precision(device: torch.device) -> Iterator[None]:
    """Turn off TF32 for products of float32 matrices on ``device`` while the body of the ``with`` statement runs.

    On NVIDIA GPUs, PyTorch can be set to round the elements of the matrices to the format TF32, which has a mantissa of
    10 bits. The products are then faster, but too inexact to compute the roots of matrices by iteration.
    """
    import torch

    if device.type != "cuda":
        yield
        return
    # Since version 2.9, PyTorch has a second interface to the same setting. Setting only one of them makes reading the
    # other fail.
    matmul: Any = torch.backends.cuda.matmul
    newer = hasattr(matmul, "fp32_precision")
    before = torch.get_float32_matmul_precision(), matmul.fp32_precision if newer else None
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        if newer:
            matmul.fp32_precision = before[1]
