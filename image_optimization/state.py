"""Save everything in a network that a forward pass might change, and restore it afterwards."""

from __future__ import annotations

import pickle
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import partial
from operator import is_
from traceback import clear_frames
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, NoneType, SimpleNamespace, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dreamgram.image_optimization.checks import as_model
from dreamgram.image_optimization.settings import without_collecting

LEAVES = frozenset(
    [str, bytes, bool, int, float, complex, type, NoneType, FunctionType, BuiltinFunctionType, MethodType, ModuleType]
)
"""Types of objects that are neither searched nor saved, because a forward pass does not change such objects, or because
changing them does not change the network."""

LIBRARIES = frozenset([*sys.stdlib_module_names, "builtins", "torch", "numpy"])
"""Packages whose classes are ignored in the search for a network's state: the objects of these classes are neither
searched nor saved, unless they are modules, tensors, arrays, random number generators or containers."""

CONTAINERS = frozenset([dict, OrderedDict, list, set, deque])
"""Types of containers in which a forward pass can add, remove or replace elements."""

COLLECTIONS = (dict, list, deque, tuple, set, frozenset)
"""Types of containers whose elements are searched for parts of a network's state."""

FIXING = (tuple, set, frozenset, Tensor)
"""Types of objects in which tensors cannot be replaced by copies."""

MANY = 10_000
"""Largest number of elements that a container may have for its elements to be searched. The elements of a larger
container are probably data instead of the network's state, so only the container itself is saved."""

Undo = Callable[[], bool]
"""Type of a function that restores one object, and returns whether the object had changed.

If the function was interrupted, it can be called again."""


class Snapshot:
    """A context manager that saves the state of a network on entering and restores this state on leaving.

    On leaving the ``with`` statement, everything that its body has changed in the network is restored, even after an
    error. This includes the buffers, hooks, training modes and other attributes of all modules, and the contents of
    the containers and objects in these attributes. It also includes which parameters the modules have, the gradients of
    these parameters and their ``requires_grad`` flags. The values of parameters are not saved, because copies of all
    parameters would take as much memory as the network. To protect these values from a forward pass that changes them,
    call the network with copies of its parameters.

    Inside the ``with`` statement, the network uses copies of its buffers and of the other tensors in its attributes,
    dictionaries and lists. The network can change the copies in place. Gradients whose computation needs the copies
    can still be computed after the original tensors have been restored.
    """

    def __init__(self, model: nn.Module) -> None:
        """Prepare to save the state of ``model``."""
        self.model = model
        self.changed = False
        """Whether anything had changed when the state was restored."""
        self._undo: list[Undo] = []
        self._seen: dict[int, Any] = {}
        """All objects that were searched, by their ``id``. Keeping the objects ensures that Python uses no ``id``
        twice."""
        self._copies: dict[int, Tensor] = {}
        """Copies of tensors, by the ``id`` of the original tensor."""
        self._copied: set[type] = set()
        """Types of the tensors that have copies."""
        self._fixed: set[int] = set()
        """The ``id`` of each tensor that cannot be replaced by a copy: the parameters, and tensors in objects such as
        tuples."""
        self._empty: list[Any] = []
        """Containers that had no elements when the state was saved. A network has thousands of such containers, so a
        single function empties all of them."""
        self._kinds: dict[type, _Kind] = {}
        """Facts about the classes of all objects that were searched, by class. The facts are stored because a network
        has thousands of objects, but few classes."""

    # These are methods instead of a generator function with @contextmanager. After Ctrl-C at the wrong moment, Python
    # would close such a generator only later, perhaps after a snapshot that was taken earlier has been restored.
    def __enter__(self) -> Snapshot:
        """Save the state of the network, and let the network use copies of its tensors until its state is restored."""
        try:
            self._take()
        except BaseException:
            self.restore()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        """Restore the state of the network."""
        try:
            if kind is KeyboardInterrupt:
                clear_frames(traceback)  # this closes contexts of PyTorch whose exit was interrupted
        finally:
            self.restore()

    @without_collecting
    def _take(self) -> None:
        self._find(self.model)
        own = {id(parameter) for parameter in self.model.parameters()}
        tensors = [each for each in self._seen.values() if isinstance(each, Tensor)]
        self._fixed.update(id(each) for each in tensors if isinstance(each, nn.Parameter))
        tensors = [each for each in tensors if id(each) not in own]
        for some in _by_storage(tensors):
            self._copy(some)
        self._undo.append(self._empty_again)
        for thing in self._seen.values():
            self._kind(thing).save(self, thing)

    @without_collecting
    def restore(self) -> None:
        """Restore all objects. If restoring an object fails or Ctrl-C is pressed, an exception is raised afterwards.

        Raises:
            Exception: restoring an object of the user's network raised this exception. All other objects have been
                restored.
        """
        problem: Exception | None = None
        try:
            while self._undo:
                problem = self._put_back() or problem
        except KeyboardInterrupt:
            self.restore()  # the object whose restoring was interrupted is restored again
            raise
        if problem is not None:
            raise problem

    def _put_back(self) -> Exception | None:
        """Restore the next object, in reverse order of saving; return the error if this fails, or else None."""
        problem = None
        try:
            self.changed |= self._undo[-1]()
        except Exception as error:  # an object of the user's network may raise anything
            problem = error
        self._undo.pop()
        return problem

    def _find(self, model: nn.Module) -> None:
        """Find all objects that belong to the state of ``model``."""
        waiting: list[Any] = [model]
        while waiting:
            thing = waiting.pop()
            if id(thing) in self._seen:
                continue
            self._seen[id(thing)] = thing
            parts = self._parts(thing)
            for part in parts:
                kind = type(part)
                if kind in CONTAINERS and not part:
                    self._empty.append(part)
                elif kind not in LEAVES:
                    waiting.append(part)
            if isinstance(thing, FIXING):
                self._fixed.update(id(part) for part in parts if isinstance(part, Tensor))

    def _parts(self, thing: Any) -> Iterable[Any]:
        """Return the objects to search inside ``thing``, which can be a container, a module or any other object."""
        if isinstance(thing, Tensor):
            return [thing.grad] if thing.is_leaf and thing.grad is not None else []
        if isinstance(thing, COLLECTIONS):
            elements = dict.values(thing) if isinstance(thing, dict) else thing
            return [] if len(elements) > MANY or LEAVES.issuperset(map(type, elements)) else elements
        kind = self._kind(thing)
        if not kind.searched:
            return []
        attributes = getattr(thing, "__dict__", None)
        inside = [attributes] if isinstance(attributes, dict) else []
        return [*inside, *kind.shared, *(getattr(thing, name, None) for name in kind.slots)]

    def _kind(self, thing: Any) -> _Kind:
        """Return the stored facts about the class of ``thing``."""
        kind = type(thing)
        if kind not in self._kinds:
            self._kinds[kind] = _Kind(kind)
        return self._kinds[kind]

    def _copy(self, tensors: list[Tensor]) -> None:
        """Copy ``tensors``, which share memory, so that the copies share memory, too.

        The network uses the copies until its state is restored. If one of the tensors cannot be replaced, for example
        because it is in a tuple, the network keeps using all of the original tensors, and their elements are later
        restored from the copies.
        """
        fixed = any(id(each) in self._fixed for each in tensors)
        # A tensor that a network has computed with gradients keeps its autograd graph; the copies get no graph.
        for tensor, copy in zip(tensors, _clones([each.detach() for each in tensors]), strict=True):
            if fixed:
                self._undo.append(partial(_put_elements_back, tensor, copy))
            else:
                self._copies[id(tensor)] = copy.requires_grad_(tensor.requires_grad)
                self._copied.add(type(tensor))
                self._undo.append(partial(_differ, tensor, copy))

    def _empty_again(self) -> bool:
        filled = [thing for thing in self._empty if len(thing)]
        for thing in filled:
            thing.clear()
        return bool(filled)

    def _save_dictionary(self, thing: dict[Any, Any]) -> None:
        # A subclass might override these methods to do something different.
        base: Any = OrderedDict if isinstance(thing, OrderedDict) else dict
        before = thing.copy() if type(thing) is dict else dict(dict.items(thing))
        copied = {}
        if not self._copied.isdisjoint(map(type, before.values())):
            copied = {key: self._copies[id(value)] for key, value in before.items() if id(value) in self._copies}
        lent = [*({**before, **copied} if copied else before).values()]

        def undo() -> bool:
            changed = list(before) != list(thing) or not all(map(is_, lent, dict.values(thing)))
            if changed:
                base.clear(thing)
            for key in before if changed else copied:
                base.__setitem__(thing, key, before[key])
            return changed

        self._undo.append(undo)
        for key, copy in copied.items():
            base.__setitem__(thing, key, copy)

    def _save_sequence(self, thing: Any) -> None:
        before = list(thing)
        lent = [self._copies.get(id(each), each) for each in before]

        def undo() -> bool:
            changed = len(thing) != len(lent) or not all(map(is_, thing, lent))
            if changed or self._copies:
                thing.clear()
                thing.extend(before)
            return changed

        self._undo.append(undo)
        for place, value in enumerate(lent):
            if value is not before[place]:
                thing[place] = value

    def _save_set(self, thing: set[Any]) -> None:
        before = set(thing)

        def undo() -> bool:
            changed = thing != before
            if changed:
                thing.clear()
                thing.update(before)
            return changed

        self._undo.append(undo)

    def _save_parameter(self, parameter: Tensor) -> None:
        if not isinstance(parameter, nn.Parameter):
            return  # the elements of other tensors have been copied
        gradient, required = parameter.grad, parameter.requires_grad

        def undo() -> bool:
            changed = parameter.grad is not gradient or parameter.requires_grad != required
            if changed:
                with torch.inference_mode(parameter.is_inference()):
                    parameter.requires_grad_(required)
                parameter.grad = gradient
            return changed

        self._undo.append(undo)

    def _save_random_state(self, generator: Any) -> None:
        self._undo.append(partial(_set_random_state, generator, _random_state(generator)))

    def _save_mode(self, module: torch.jit.ScriptModule) -> None:
        self._undo.append(partial(_set_mode, module, module.training))

    def _save_array(self, array: np.ndarray[Any, Any]) -> None:
        copy = array.copy()

        def undo() -> bool:
            changed = array.tobytes() != copy.tobytes()
            if changed:
                array[...] = copy
            return changed

        self._undo.append(undo)

    def _save_slots(self, thing: Any) -> None:
        """Save the attributes that ``thing`` stores in ``__slots__``; its ``__dict__`` is saved separately."""
        if not self._kind(thing).slots:
            return
        absent = object()
        before = {name: getattr(thing, name, absent) for name in self._kind(thing).slots}
        lent = {name: self._copies.get(id(value), value) for name, value in before.items()}

        def undo() -> bool:
            changed = any(getattr(thing, name, absent) is not lent[name] for name in lent)
            for name, value in before.items():
                if value is not absent:
                    object.__setattr__(thing, name, value)
                elif hasattr(thing, name):
                    object.__delattr__(thing, name)
            return changed

        self._undo.append(undo)
        for name, value in lent.items():
            if value is not before[name]:
                object.__setattr__(thing, name, value)


def _nothing(snapshot: Snapshot, thing: object) -> None:
    """Save nothing, because the elements of ``thing`` cannot be replaced."""


SAVING: dict[Any, Callable[[Snapshot, Any], None]] = {
    Tensor: Snapshot._save_parameter,
    dict: Snapshot._save_dictionary,
    (list, deque): Snapshot._save_sequence,
    set: Snapshot._save_set,
    (tuple, frozenset): _nothing,
    np.ndarray: Snapshot._save_array,
    torch.jit.ScriptModule: Snapshot._save_mode,
    (torch.Generator, random.Random, np.random.Generator, np.random.RandomState): Snapshot._save_random_state,
    object: Snapshot._save_slots,
}
"""Methods that save objects, by the types of the objects. For each object, the first entry with a matching type is
used."""


class _Kind:
    """Facts about one class that are needed to save the objects of this class."""

    def __init__(self, kind: type) -> None:
        """Collect the facts about the class ``kind``."""
        own = [each for each in kind.__mro__ if each.__module__.partition(".")[0] not in LIBRARIES]
        self.searched = issubclass(kind, nn.Module | SimpleNamespace) or kind in own
        """Whether the attributes of an object of this class belong to the state of a network."""
        self.shared = [value for each in own for value in vars(each).values() if type(value) in CONTAINERS]
        """Containers that are attributes of the class itself or of its base classes, except for classes from
        :data:`LIBRARIES`. Networks might keep caches in such containers."""
        declared = [each.__dict__.get("__slots__", ()) for each in own]
        names = [name for some in declared for name in ([some] if isinstance(some, str) else some)]
        self.slots = [name for name in names if name not in ("__dict__", "__weakref__") and not name.startswith("__")]
        """Names of the attributes that an object of this class can store in ``__slots__``."""
        self.save = next(method for kinds, method in SAVING.items() if issubclass(kind, kinds))
        """Method of :class:`Snapshot` that saves an object of this class."""


def _by_storage(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Divide ``tensors`` into lists of tensors that share memory, such as a tensor and its views."""
    groups: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        # Tensors of other classes do not always have their own memory.
        plain = type(tensor) is Tensor and tensor.layout == torch.strided and not tensor.is_meta and tensor.numel()
        plain = plain and not tensor.is_quantized
        key = (tensor.device, tensor.dtype, tensor.untyped_storage().data_ptr()) if plain else id(tensor)
        groups.setdefault(key, []).append(tensor)
    return groups.values()


def _clones(tensors: list[Tensor]) -> list[Tensor]:
    """Copy ``tensors``, which share memory, so that the copies share memory in the same way."""
    if len(tensors) == 1:
        return [tensors[0].clone()]
    elements = tensors[0].untyped_storage().nbytes() // tensors[0].element_size()
    memory = tensors[0].as_strided((elements,), (1,), 0).clone()
    return [memory.as_strided(each.shape, each.stride(), each.storage_offset()) for each in tensors]


def _differ(tensor: Tensor, copy: Tensor) -> bool:
    """Return whether ``copy`` is no longer equal to ``tensor``, or differs in ``requires_grad``."""
    return not same(tensor.detach(), copy.detach()) or tensor.requires_grad != copy.requires_grad


def _put_elements_back(tensor: Tensor, copy: Tensor) -> bool:
    """Give ``tensor`` the elements of ``copy``, and return whether the elements of ``tensor`` were different before."""
    changed = not same(tensor.detach(), copy)
    if changed:
        with torch.inference_mode(tensor.is_inference()):
            if tensor.shape == copy.shape and tensor.dtype == copy.dtype:
                tensor.data.copy_(copy)  # its views share its memory
            else:
                tensor.data = copy.clone()
    return changed


def _random_state(generator: Any) -> Any:
    """Return the state of a random number generator of PyTorch, Python or NumPy."""
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _set_random_state(generator: Any, random_state: Any) -> bool:
    """Set the state of a random number generator to ``random_state``, and return whether it was different before."""
    changed = pickle.dumps(_random_state(generator)) != pickle.dumps(random_state)
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = random_state
    elif isinstance(generator, random.Random):
        generator.setstate(random_state)
    else:
        generator.set_state(random_state)
    return changed


def _set_mode(module: nn.Module, training: bool) -> bool:
    """Set the training mode of a TorchScript module to ``training``, and return whether it was different before."""
    changed = module.training != training
    if changed:
        module.train(training)
    return changed


def same(tensor: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same shape, type, device and elements; NaN equals NaN."""
    if tensor.shape != other.shape or tensor.dtype != other.dtype or tensor.device != other.device:
        return False
    if tensor.is_meta or torch.equal(tensor, other):
        return True
    return torch.equal(tensor.isnan(), other.isnan()) and torch.equal(tensor.nan_to_num(), other.nan_to_num())


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside ``model``, which might be wrapped by ``nn.DataParallel`` or ``torch.compile``.

    A wrapper changes only how the network runs, and adds a prefix to the names of its layers. In the returned network,
    the layers have their original names.

    Raises:
        ValueError: ``model`` is a TorchScript program, whose layers cannot be observed; the weights of ``model`` have
            no shapes yet; or ``model`` has no weights, because it is on the meta device.
    """
    model = as_model(model)
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or "_orig_mod" in model._modules:
        inner = model.module if hasattr(model, "module") and "_orig_mod" not in model._modules else model._orig_mod
        assert isinstance(inner, nn.Module)
        model = inner
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError(f"the weights of {type(model).__name__} have no shapes yet: call it with an image first")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no weights, because it is on the meta device")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"{model.original_name} is a TorchScript program, whose layers cannot be observed; "
            "use the network from which it was made"
        )
    return model
