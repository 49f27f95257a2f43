"""A pretended accelerator: its tensors are computed on the CPU, and every wait for the device and copy is counted.

The device is called ``gpu``. It belongs to the whole process, so the tests run it in a process of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, library, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten = torch.ops.aten

WAITING = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten._linalg_eigh.default,
    aten._linalg_svd.default,
    aten.linalg_eig.default,
    aten._linalg_solve_ex.default,
    aten._linalg_det.default,
    aten.linalg_cholesky_ex.default,
    aten.linalg_inv_ex.default,
    aten.linalg_lu_factor_ex.default,
    aten.linalg_qr.default,
    aten.repeat_interleave.Tensor,
    aten.histc.default,
    # These wait, because they read the value to fill with from the device.
    aten.index_fill.int_Tensor,
    aten.index_fill_.int_Tensor,
    aten.masked_fill.Tensor,
    aten.masked_fill_.Tensor,
}
"""Operations that make a program wait for a GPU, or that decompose a matrix, which also waits."""

INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}

counts: Counter[str] = Counter()
"""Events since the counter was cleared: ``wait: ...``, ``copy: ...``, ``mixed devices: ...``, and ``operations``."""


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass


_setup_privateuseone_for_python_backend("gpu", _Backend())
DEVICE = torch.device("gpu:0")


class _OnDevice(Tensor):
    """A tensor on the pretended device. Its numbers are in ``inner``, a tensor on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> _OnDevice:
        wrapped: _OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        return wrapped

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def tolist(self) -> Any:
        counts["wait: tolist"] += 1
        return self.inner.detach().tolist()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class Pretended(TorchDispatchMode):
    """Context in which tensors can be created on the device."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


def to_device(model: nn.Module) -> nn.Module:
    """Move the parameters and buffers of ``model`` to the device, in place."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(_OnDevice(parameter.detach()), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _OnDevice(buffer.detach())
    return model


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, _OnDevice) else value


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Apply ``change`` to all values in nested lists, tuples and dictionaries.

    ``torch.utils._pytree.tree_map`` does the same, but took a third of the time of the tests that use this device.
    """
    if isinstance(value, list | tuple):
        return type(value)([_mapped(change, each) for each in value])
    if isinstance(value, dict):
        return {name: _mapped(change, each) for name, each in value.items()}
    return change(value)


def _tensors(value: Any) -> list[Tensor]:
    """Return all tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for each in inner for tensor in _tensors(each)]


def _count(operation: Any, args: Any, kwargs: Any, on_device: list[Tensor], on_cpu: list[Tensor]) -> None:
    """Count what a real device would have to wait for or to copy."""
    counts["operations"] += 1
    if operation in WAITING:
        counts[f"wait: {operation}"] += 1
    elif operation is aten.copy_.default and on_cpu:
        counts["copy: copy_"] += 1
    elif operation in INDEXING:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype == torch.bool for index in indices):
            counts["wait: boolean index"] += 1
        if not all(isinstance(index, _OnDevice) for index in indices):
            counts["copy: index"] += 1
    elif on_cpu and not (torch.Tag.pointwise in operation.tags and all(each.ndim == 0 for each in on_cpu)):
        counts[f"mixed devices: {operation}"] += 1


def _run(operation: Any, args: Any, kwargs: Any) -> Any:
    tensors = _tensors((args, kwargs))
    on_device = [each for each in tensors if isinstance(each, _OnDevice)]
    on_cpu = [each for each in tensors if not isinstance(each, _OnDevice)]
    wanted = kwargs.get("device")
    to_gpu = bool(on_device) if wanted is None else torch.device(wanted).type == DEVICE.type
    if operation is aten._to_copy.default:
        if to_gpu != bool(on_device):
            counts["copy: to the device" if to_gpu else "wait: copy from the device"] += 1
        copy = operation(_inner(args[0]), **{name: value for name, value in kwargs.items() if name != "device"})
        return _OnDevice(copy) if to_gpu else copy
    if on_device:
        _count(operation, args, kwargs, on_device, on_cpu)
    plain_args, plain_kwargs = _mapped(_inner, (args, kwargs))
    if to_gpu and wanted is not None:
        plain_kwargs = {**plain_kwargs, "device": "cpu"}
    if "pin_memory" in plain_kwargs:
        plain_kwargs = {**plain_kwargs, "pin_memory": False}
    result = operation(*plain_args, **plain_kwargs)
    if not to_gpu:
        return result
    known = {id(_inner(each)): each for each in on_device}

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, _OnDevice):
            return value
        return known[id(value)] if id(value) in known else _OnDevice(value)

    wrapped = _mapped(wrap, result)
    if on_device and any(each.alias_info is not None for each in operation._schema.returns):
        return return_and_correct_aliasing(operation, args, kwargs, wrapped)
    return wrapped


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    if isinstance(source, _OnDevice) != isinstance(target, _OnDevice):
        counts["copy: to the device" if isinstance(target, _OnDevice) else "wait: copy from the device"] += 1
    _inner(target).copy_(_inner(source))
    return target


def _read(source: Tensor) -> Any:
    counts["wait: read"] += 1
    return _inner(source).item()


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
    return _OnDevice(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return _OnDevice(torch.empty_strided(size, stride, dtype=dtype))


for _name, _function in {
    "empty.memory_format": _empty,
    "empty_strided": _empty_strided,
    "_copy_from": _copy_from,
    "_local_scalar_dense": _read,
}.items():
    library.impl(f"aten::{_name}", DEVICE.type, _function)
