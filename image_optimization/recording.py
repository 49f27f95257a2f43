"""Record one step of an optimization on a GPU, and replay the recording for all following steps.

Python takes longer to launch the operations of a step one by one than the GPU takes to compute them. A recording, which
is called a CUDA graph, launches all operations at once. It repeats the same operations on the same memory,
without running any Python code. A step can be recorded only if it makes no decision on the CPU and copies nothing
between the CPU and the GPU. Everything that changes from step to step must be a tensor on the GPU that the step changes
in place.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import torch
from torch import Tensor

StepFunction = Callable[[], tuple[Tensor, ...]]
"""Type of a function that does one step of an optimization, and returns tensors. A later step may overwrite them."""

WARM_UP = 2
"""Largest number of warm-up steps, which run before a step is recorded. In these steps, libraries choose and load their
kernels. The second warm-up step runs only if the first one made the CPU wait for the GPU, for example to copy data that
later steps reuse."""

_logger = logging.getLogger(__name__)


class Graph(Protocol):
    """Interface of a recording of the operations of one step."""

    waits: Sequence[str]
    """Descriptions of the operations that made the CPU wait for the GPU in the last call of :meth:`warm_up`."""

    def __init__(self, device: torch.device) -> None: ...

    def warm_up(self, step: StepFunction) -> tuple[Tensor, ...]:
        """Run ``step`` without recording it, and return its result."""

    def record(self, step: StepFunction) -> tuple[Tensor, ...]:
        """Record the operations of ``step`` without running them.

        Return the tensors that :meth:`replay` will overwrite with the result of the step.
        """

    def replay(self) -> None:
        """Run the recorded operations."""


class CudaGraph:
    """A recording of the operations of one step on an NVIDIA GPU."""

    def __init__(self, device: torch.device) -> None:
        """Prepare to record the operations of a step on ``device``."""
        self.device = torch.device(device.type, torch.cuda.current_device() if device.index is None else device.index)
        self.stream = torch.cuda.Stream(self.device)
        self.graph = torch.cuda.CUDAGraph()
        self.waits: Sequence[str] = ()

    def warm_up(self, step: StepFunction) -> tuple[Tensor, ...]:
        """Run ``step`` in the CUDA stream in which it will be recorded, and return its result."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream), _noting_waits() as self.waits:
            result = step()
        current.wait_stream(self.stream)
        return result

    def record(self, step: StepFunction) -> tuple[Tensor, ...]:
        """Record the operations of ``step`` without running them, and return the tensors that a replay overwrites.

        Raises:
            RuntimeError: ``step`` made the CPU wait for the GPU in the last call of :meth:`warm_up`, or ``step`` cannot
                be recorded.
        """
        if self.waits:
            raise RuntimeError(self.waits[0])
        generator, pool = torch.cuda.default_generators[self.device.index], torch.cuda.graph_pool_handle()
        random_state, current = generator.clone_state(), torch.cuda.current_stream(self.device)
        try:
            # Other threads may use the GPU during the recording.
            with (
                torch.cuda.device(self.device),
                torch.cuda.graph(self.graph, pool, self.stream, capture_error_mode="thread_local"),
            ):
                return step()
        except BaseException:
            # PyTorch might still behave as if it were recording. It can then neither draw random numbers on the GPU nor
            # free memory. These calls tell it that the recording is over.
            generator.graphsafe_set_state(random_state)
            torch.cuda.set_stream(current)
            with suppress(AttributeError, RuntimeError):
                torch._C._cuda_endAllocateToPool(self.device.index, pool)
                torch._C._cuda_releasePool(self.device.index, pool)
            raise

    def replay(self) -> None:
        """Run the recorded operations."""
        self.graph.replay()


@contextmanager
def _noting_waits() -> Iterator[list[str]]:
    """Yield a list that is filled, on leaving, with descriptions of operations that made the CPU wait for the GPU.

    A failed recording leaves PyTorch in an inconsistent state. Steps that make the CPU wait for the GPU are therefore
    detected before a recording is attempted.
    """
    waits: list[str] = []
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for each in found:
        if "synchroniz" in str(each.message):
            waits.append(str(each.message))
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


GRAPHS: dict[str, type[Graph]] = {"cuda": CudaGraph}
"""Classes of recordings, by type of device. On devices of other types, every step runs without a recording."""


def replayed(step: StepFunction, device: torch.device) -> StepFunction:
    """Return a function that does the same as ``step``, but faster if steps can be recorded on ``device``.

    After at most :data:`WARM_UP` steps, the returned function records a step and from then on replays the recording. If
    the recording fails, all steps run without a recording.
    """
    kind = GRAPHS.get(device.type)
    return step if kind is None else _Replayed(step, kind(device))


class _Replayed:
    """A step that is recorded once and then replayed."""

    def __init__(self, step: StepFunction, graph: Graph) -> None:
        self.step = step
        self.graph: Graph | None = graph
        self.steps = 0
        self.result: tuple[Tensor, ...] | None = None

    def __call__(self) -> tuple[Tensor, ...]:
        """Do one step, and return its result."""
        if self.graph is None:
            return self.step()
        if self.steps == 0 or (self.steps < WARM_UP and self.graph.waits):
            self.steps += 1
            return self.graph.warm_up(self.step)
        if self.result is None:
            try:
                self.result = self.graph.record(self.step)
            except Exception as error:  # its type depends on what in the step cannot be recorded
                _logger.debug("the steps run one operation at a time, because recording a step failed: %s", error)
                self.graph = None
                return self.step()
        self.graph.replay()
        return self.result


def side_by_side(functions: Sequence[Callable[[Tensor], Tensor]], arguments: Sequence[Tensor]) -> list[Tensor]:
    """Call each function in ``functions`` with the corresponding argument in ``arguments``, and return the results.

    When a recording of these calls is replayed, the operations of one function do not wait for the operations of
    another function, either in the forward pass or in the backward pass. Operations that are too small to keep a GPU
    busy one by one can then run at the same time.
    """
    if not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return [function(given) for function, given in zip(functions, arguments, strict=True)]
    current = torch.cuda.current_stream()
    streams = [torch.cuda.Stream() for _ in functions]
    results = []
    for stream, function, given in zip(streams, functions, arguments, strict=True):
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            results.append(function(given))
        given.record_stream(stream)  # operations of other streams must not reuse its memory too early
    for stream in streams:
        current.wait_stream(stream)
    return results


def is_own(*things: object) -> bool:
    """Return whether all ``things``, such as classes and functions, are defined in Dreamgram.

    Only Dreamgram's own code is known to do the same operations in every step, so other code is not recorded. Networks
    are an exception; see :func:`dreamgram.image_optimization.capture.is_recordable`.
    """
    return all((getattr(thing, "__module__", None) or "").startswith("dreamgram.") for thing in things)
