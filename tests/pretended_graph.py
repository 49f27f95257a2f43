"""A pretended CUDA graph: it records the operations of a step on the CPU, and replays them on the same tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreamgram.image_optimization.recording import StepFunction

aten = torch.ops.aten

READING = {aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default, aten.nonzero.default}
"""Operations whose result Python reads, which a CUDA graph refuses. Random numbers from the CPU are refused, too."""


class PretendedGraph:
    """A recording of a step. Like a CUDA graph, it repeats operations and runs no Python code of the step."""

    replays = 0
    """Number of replays of all recordings."""

    waits: tuple[str, ...] = ()

    def __init__(self, device: torch.device) -> None:
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def warm_up(self, step: StepFunction) -> tuple[Tensor, ...]:
        return step()

    def record(self, step: StepFunction) -> tuple[Tensor, ...]:
        with _Recorder(self.operations) as recorder:
            result = step()
        with torch.no_grad():
            for tensor, before in recorder.overwritten:  # a recording does not run anything
                tensor.copy_(before)
        return result

    @torch.no_grad()
    def replay(self) -> None:
        PretendedGraph.replays += 1
        for operation, args, kwargs, outputs in self.operations:
            results = [each for each in tree_leaves(operation(*args, **kwargs)) if isinstance(each, Tensor)]
            for output, result in zip(outputs, results, strict=False):
                output.copy_(result)


class _Recorder(TorchDispatchMode):
    def __init__(self, operations: list[tuple[Any, Any, Any, list[Tensor]]]) -> None:
        super().__init__()
        self.operations = operations
        self.overwritten: list[tuple[Tensor, Tensor]] = []
        self.new: set[int] = set()
        """Addresses of the memory that was allocated during the recording. All of it stays allocated."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation in READING or torch.Tag.nondeterministic_seeded in operation.tags:
            raise RuntimeError(f"{operation} is not permitted during a recording")
        schema = operation._schema
        given = dict(zip([each.name for each in schema.arguments], args, strict=False)) | kwargs
        written = [
            tensor
            for each in schema.arguments
            if each.alias_info is not None and each.alias_info.is_write
            for tensor in tree_leaves(given.get(each.name))
            if isinstance(tensor, Tensor)
        ]
        for tensor in written:
            if _address(tensor) not in self.new:
                self.overwritten.insert(0, (tensor, tensor.clone()))
        result = operation(*args, **kwargs)
        alias = any(each.alias_info is not None for each in schema.returns)
        outputs = [] if alias else [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        inputs = {_address(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        self.new |= {_address(each) for each in outputs} - inputs
        if written or outputs:
            self.operations.append((operation, args, kwargs, outputs))
        return result


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
