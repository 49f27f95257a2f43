"""Intercept the operators with which PyTorch carries out a forward pass."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Mode(TorchDispatchMode):
    """A PyTorch dispatch mode, which intercepts every operator that a forward pass calls, until it is turned off."""

    def __init__(self) -> None:
        """Create the mode, with :attr:`active` set to True."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.active = True
        """Whether the mode does anything. If False, it runs all operators unchanged."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise, PyTorch loads its compiler for the first mode, which takes more than a second


class Signature(NamedTuple):
    """The parameters of an operator, and facts about it that the rules need."""

    name: str
    """Name of the operator. The underscore at the end of the names of in-place operators is removed."""
    defaults: Mapping[str, Any]
    """Default values of all arguments, by name, in the order of the arguments."""
    written: tuple[str, ...]
    """Names of the arguments that the operator overwrites."""
    reads: bool
    """Whether the operator returns Python numbers, or tensors whose shapes depend on the values of the arguments."""
    pointwise: bool
    """Whether each element of the result depends only on the elements with the same index in the arguments."""


@functools.cache
def signature_of(func: Any) -> Signature:
    """Return the signature of the operator ``func``, such as ``torch.ops.aten.relu_.default``."""
    schema = func._schema
    name = schema.name.removeprefix("aten::")
    return Signature(
        name=name.rstrip("_"),
        defaults={each.name: each.default_value for each in schema.arguments},
        written=tuple(each.name for each in schema.arguments if each.alias_info and each.alias_info.is_write),
        reads=torch.Tag.data_dependent_output in func.tags
        or (torch.Tag.dynamic_output_shape in func.tags and name != "index"),
        pointwise=torch.Tag.pointwise in func.tags or name.rstrip("_") in POINTWISE,
    )


class WriteError(RuntimeError):
    """The error with which :class:`WriteGuard` stops a forward pass."""


class WriteGuard(Mode):
    """A mode that stops a forward pass before it writes into the memory of certain tensors.

    An operator that would write into this memory raises a :class:`WriteError` instead of running. So does a function
    that gives other libraries, such as NumPy, direct access to the memory.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        """Prepare to guard the memory of ``tensors``."""
        super().__init__()
        self.memory = {_address(tensor) for tensor in tensors}
        self.broken = None in self.memory
        """Whether the pass has tried to write, or a tensor has no memory that can be guarded."""
        self._functions = _DirectAccess(self)

    def __enter__(self) -> WriteGuard:
        """Begin to guard the memory."""
        super().__enter__()  # type: ignore[no-untyped-call]
        self._functions.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop guarding the memory."""
        self.active = False
        self._functions.__exit__(*error)  # type: ignore[no-untyped-call]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        signature = signature_of(func)
        if signature.written:
            given = {**dict(zip(signature.defaults, args, strict=False)), **kwargs}
            self.check(given.get(name) for name in signature.written)
        return func(*args, **kwargs)

    def check(self, written: Iterable[Any]) -> None:
        """Raise a :class:`WriteError` if one of the tensors ``written`` lies in the guarded memory."""
        if self.active and any(_address(tensor) in self.memory for tensor in tensors_among(written)):
            self.broken = True
            raise WriteError("the network writes into its weights")


class _DirectAccess(TorchFunctionMode):
    """A PyTorch function mode that stops the functions :data:`DIRECT` from giving access to guarded memory."""

    def __init__(self, guard: WriteGuard) -> None:
        super().__init__()
        self.guard = guard

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in DIRECT:
            self.guard.check(args)
        return func(*args, **(kwargs or {}))


DIRECT = {"__array__", "__dlpack__", "_typed_storage", "data_ptr", "numpy", "storage", "untyped_storage"}
"""Names of functions that give direct access to the memory of a tensor."""


def _address(tensor: Tensor) -> int | None:
    """Return a key for the memory of ``tensor`` that is valid while it exists, or None if it has no strides."""
    # Python would ignore Ctrl-C while it deletes a key that memory_of returns.
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else None


def memory_of(tensor: Tensor) -> StorageWeakRef | None:
    """Return a key for the memory of ``tensor``, or None for a tensor without strides, such as a sparse one."""
    return StorageWeakRef(tensor.untyped_storage()) if tensor.layout is torch.strided else None


def tensors_among(things: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors in ``things``, including those in nested lists and tuples."""
    for thing in things:
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, list | tuple):
            yield from tensors_among(thing)


POINTWISE = {
    *("_to_copy", "alias", "copy", "detach", "hardswish", "lift_fresh", "log_sigmoid_forward", "_prelu_kernel"),
}
"""Names of operators that compute each element from the elements with the same index, but that PyTorch does not tag as
pointwise."""
