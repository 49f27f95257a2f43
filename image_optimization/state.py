"""Keep networks as they are: save everything that a forward pass may change, and put it back afterwards."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

LEAVES = (str, bytes, int, float, complex, type, type(None), FunctionType, BuiltinFunctionType, MethodType, ModuleType)
"""Types of objects that a forward pass does not change, or whose changes belong to no network."""

Restore = Callable[[], bool]
"""A function that puts one object back as it was, and returns whether the object had changed."""


@contextmanager
def restored(model: nn.Module) -> Iterator[Snapshot]:
    """Put everything that the body of the ``with`` statement changes in ``model`` back as it was, even after an error.

    This includes the plain attributes of all modules, the contents of the lists and dictionaries in these attributes,
    buffers, hooks and training modes. Parameters keep their identity, their gradients and their ``requires_grad``
    flags. Their values are not saved, because a copy of all parameters would take as much memory as the network: call
    the network with copies of its parameters. The yielded object knows afterwards whether anything had changed.
    """
    saved = Snapshot(model)
    try:
        yield saved
    finally:
        saved.restore()


class Snapshot:
    """The state of a network at one time, without the values of its parameters.

    Until :meth:`restore` is called, the network has copies of the tensors in its buffers, attributes, dictionaries and
    lists. It may change the copies in place, and gradients that need them can still be computed after the original
    tensors have been put back.
    """

    def __init__(self, model: nn.Module) -> None:
        """Save the state of ``model``."""
        self.seen: dict[int, Any] = {}
        """All objects that were looked at, by identity. Keeping them ensures that no identity is used twice."""
        self.copies: dict[int, Tensor] = {}
        """Copies of tensors by the identities of the originals."""
        self.undo: list[Restore] = []
        self.changed = False
        """Whether anything had changed when :meth:`restore` was called."""
        for module in model.modules():
            self._visit(module)

    def restore(self) -> None:
        """Put everything back."""
        changes = [undo() for undo in self.undo]
        self.changed = any(changes)

    def _visit(self, thing: Any) -> None:
        """Save the state of ``thing`` and of all objects in it."""
        if isinstance(thing, LEAVES) or id(thing) in self.seen:
            return
        self.seen[id(thing)] = thing
        if isinstance(thing, nn.Parameter):
            self._save_parameter(thing)
        elif isinstance(thing, Tensor):
            self._save_tensor(thing)
        elif isinstance(thing, torch.Generator):
            state = thing.get_state()
            self.undo.append(lambda: not same(thing.get_state(), state) and thing.set_state(state) is not None)
        elif isinstance(thing, np.ndarray):
            self._save_array(thing)
        elif isinstance(thing, dict):
            self._save_mapping(thing)
        elif isinstance(thing, list | deque):
            self._save_sequence(thing)
        elif isinstance(thing, set):
            self._save_set(thing)
        elif isinstance(thing, tuple | frozenset):
            for each in thing:
                self._visit(each)
        elif isinstance(getattr(thing, "__dict__", None), dict):
            self._visit(vars(thing))

    def _lend(self, thing: Any) -> Any:
        """Return a copy of ``thing`` if it is a tensor, but not a parameter. Return anything else itself."""
        self._visit(thing)
        return self.copies.get(id(thing), thing)

    def _save_mapping(self, thing: MutableMapping[Any, Any]) -> None:
        before = dict(thing.items())
        lent = {key: self._lend(value) for key, value in before.items()}
        thing.update((key, value) for key, value in lent.items() if value is not before[key])

        def undo() -> bool:
            changed = len(thing) != len(lent) or any(thing.get(key, self) is not lent[key] for key in lent)
            if changed:
                thing.clear()
            if changed or self.copies:
                thing.update(before)
            return changed

        self.undo.append(undo)

    def _save_sequence(self, thing: Any) -> None:
        before = list(thing)
        lent = [self._lend(each) for each in before]
        for place, value in enumerate(lent):
            if value is not before[place]:
                thing[place] = value

        def undo() -> bool:
            changed = len(thing) != len(lent) or any(a is not b for a, b in zip(thing, lent, strict=True))
            if changed or self.copies:
                thing.clear()
                thing.extend(before)
            return changed

        self.undo.append(undo)

    def _save_set(self, thing: set[Any]) -> None:
        before = set(thing)

        def undo() -> bool:
            changed = thing != before
            if changed:
                thing.clear()
                thing.update(before)
            return changed

        self.undo.append(undo)
        for each in before:
            self._visit(each)

    def _save_parameter(self, parameter: nn.Parameter) -> None:
        gradient, required = parameter.grad, parameter.requires_grad
        if gradient is not None:
            self._visit(gradient)

        def undo() -> bool:
            changed = parameter.grad is not gradient or parameter.requires_grad != required
            if changed:
                parameter.requires_grad_(required)
                parameter.grad = gradient
            return changed

        self.undo.append(undo)

    def _save_tensor(self, tensor: Tensor) -> None:
        # A tensor that a network has computed with gradients keeps its graph, so the copies are made without it.
        kept, required = tensor.detach().clone(), tensor.requires_grad
        copy = self.copies[id(tensor)] = kept.clone().requires_grad_(required)

        def undo() -> bool:
            changed = not same(copy.detach(), kept) or copy.requires_grad != required
            if not same(tensor.detach(), kept):  # an alias, such as a view or a part of a tuple, was changed in place
                changed = True
                tensor.data = kept.clone()
            return changed

        self.undo.append(undo)

    def _save_array(self, array: np.ndarray[Any, Any]) -> None:
        copy = array.copy()

        def undo() -> bool:
            changed = array.tobytes() != copy.tobytes()
            if changed:
                array[...] = copy
            return changed

        self.undo.append(undo)


def same(tensor: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same shape, type, device and elements; NaN equals NaN."""
    if tensor.shape != other.shape or tensor.dtype != other.dtype or tensor.device != other.device:
        return False
    if tensor.is_meta or torch.equal(tensor, other):
        return True
    return torch.equal(tensor.isnan(), other.isnan()) and torch.equal(tensor.nan_to_num(), other.nan_to_num())


_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_of_locks = threading.Lock()


@contextmanager
def in_one_thread(model: nn.Module) -> Iterator[None]:
    """Let only one thread at a time use ``model``. Another thread waits until the body of the ``with`` statement ends.

    Capturing activations changes the network for a while: it adds hooks, and turns off training and the gradients of
    the parameters.
    """
    with _of_locks:
        lock = _locks.setdefault(model, threading.RLock())
    with lock:
        yield


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside ``model``, which ``nn.DataParallel`` or ``torch.compile`` may have wrapped.

    The wrappers only run the network in another way. Without them, layers have the names that they have in the network.

    Raises:
        ValueError: ``model`` is a TorchScript program, whose layers cannot be observed, or it has no weights.
    """
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or "_orig_mod" in model._modules:
        inner = model.module if hasattr(model, "module") and "_orig_mod" not in model._modules else model._orig_mod
        assert isinstance(inner, nn.Module)
        model = inner
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no weights, because it is on the meta device")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"{model.original_name} is a TorchScript program, whose layers cannot be observed; "
            "use the network from which it was made"
        )
    return model
