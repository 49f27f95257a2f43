"""Networks come back as they were, whatever they do in a forward pass and however a run ends."""

from __future__ import annotations

import gc
import itertools
import logging
import random
import signal
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import dreamgram as dg
from dreamgram.image_optimization.capture import capture
from dreamgram.image_optimization.layers import list_layers, smallest_size
from dreamgram.image_optimization.settings import usual_settings
from dreamgram.image_optimization.state import Snapshot
from dreamgram.image_optimization.trial import _NoArithmetic, _Reading
from tests.same_model import differences, portrait


class Cache:
    """An object that is not a module."""

    def __init__(self) -> None:
        self.last: Tensor | None = None
        self.passes = 0


class Careless(nn.Module):
    """A network that changes everything that a forward pass can change, and whose output depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 5)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("latest", None)
        self.hidden: Tensor | None = None
        self.scale = torch.ones(4)
        self.anchors: dict[object, Tensor] = {"first": torch.ones(3)}
        self.history = [torch.zeros(2)]
        self.nested = {"lists": [[1, 2], {"deep": torch.zeros(1)}]}
        self.pair = (torch.zeros(2), [3])
        self.cache, self.names, self.passes = Cache(), {"a"}, 0
        self.generator = torch.Generator().manual_seed(3)
        self.old: int | None = 1

    def train(self, mode: bool = True) -> Careless:
        self.anchors = {}  # some networks clear their caches
        return super().train(mode)

    def forward(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            self.norm.weight.mul_(1.1)
        features: Tensor = self.norm(self.conv(image))
        self.count += 1
        self.latest = features.detach().mean((0, 2, 3))
        self.hidden = features if self.hidden is None else self.hidden * 0.5 + features
        self.scale.mul_(1.5)
        self.anchors[tuple(image.shape)] = torch.rand(2, generator=self.generator)
        self.anchors["first"].add_(1)
        self.history.append(features.detach())
        self.history[0].add_(1)
        self.nested["lists"][0].append(3)  # type: ignore[attr-defined]
        self.nested["lists"][1]["deep"].add_(1)  # type: ignore[index, call-overload]
        self.pair[0].add_(1)
        self.cache.last, self.cache.passes = features.detach(), self.cache.passes + 1
        self.names.add(f"pass {self.passes}")
        self.passes += 1
        self.linear.weight.data.clamp_(-0.01, 0.01)
        self.conv.register_forward_hook(lambda module, args, output: None)
        self.conv.training = True
        self.linear.bias.requires_grad_(True)
        if hasattr(self, "old"):
            del self.old
        noise = torch.randn(4) * 0.01
        scaled = features * (self.scale * self.count + noise)[:, None, None]
        result: Tensor = self.linear(scaled.mean((2, 3)))
        return result


def careless() -> Careless:
    network = Careless()
    network.norm.eval()
    network.conv.weight.requires_grad_(False)
    network.linear.weight.grad = torch.ones(5, 4)
    network.norm.register_forward_hook(lambda module, args, output: output * 1.0)
    return network


TOUCHES: dict[str, Callable[[Careless], Any]] = {
    "a buffer": lambda net: net.count.add_(1),
    "a buffer of a part": lambda net: net.norm.running_mean.add_(1),  # type: ignore[union-attr]
    "a parameter": lambda net: net.conv.weight.data[0, 0, 0].fill_(7),
    "a new parameter": lambda net: setattr(net.conv, "weight", nn.Parameter(net.conv.weight.detach().clone())),
    "a gradient": lambda net: net.linear.weight.grad.zero_(),  # type: ignore[union-attr]
    "a gradient flag": lambda net: net.conv.bias.requires_grad_(False),  # type: ignore[union-attr]
    "a mode": lambda net: net.linear.eval(),
    "a hook": lambda net: net.linear.register_forward_pre_hook(lambda module, args: None),
    "an attribute": lambda net: setattr(net, "hidden", torch.zeros(1)),
    "a new attribute": lambda net: setattr(net, "other", 1),
    "a lost attribute": lambda net: delattr(net, "old"),
    "a tensor in a list": lambda net: net.history[0].add_(1),
    "a list": lambda net: net.history.append(torch.zeros(1)),
    "a nested list": lambda net: net.nested["lists"][0].append(1),  # type: ignore[attr-defined]
    "a tensor in a tuple": lambda net: net.pair[0].add_(1),
    "a dictionary": lambda net: net.anchors.update(second=torch.zeros(1)),
    "an object": lambda net: setattr(net.cache, "passes", 2),
    "a set": lambda net: net.names.add("b"),
    "a generator": lambda net: torch.rand(1, generator=net.generator),
    "the random state": lambda net: torch.rand(1),
}


@pytest.mark.parametrize("touch", TOUCHES)
def test_the_comparison_sees_every_touch(touch: str) -> None:
    network = careless()
    before = portrait(network)
    assert differences(before, portrait(network)) == []
    TOUCHES[touch](network)
    assert differences(before, portrait(network)) != []


def fail(step: dg.Step) -> None:
    if step.number == 2:
        raise ZeroDivisionError


def press_ctrl_c(step: dg.Step) -> None:
    if step.number == 2:
        raise KeyboardInterrupt


USES: dict[str, Callable[[nn.Module, str], Any]] = {
    "list_layers": lambda net, layer: list_layers(net, (3, 8, 8)),
    "smallest_size": lambda net, layer: smallest_size(net, [layer]),
    "activations": lambda net, layer: dg.activations(net, torch.rand(2, 3, 8, 8), layer),
    "maximize": lambda net, layer: dg.maximize(net, dg.channel(layer, [0, 1, 2]), size=8, steps=3),
    "a failing listener": lambda net, layer: dg.maximize(net, dg.channel(layer, 1), size=8, steps=3, listeners=fail),
    "Ctrl-C": lambda net, layer: dg.maximize(net, dg.channel(layer, 1), size=8, steps=3, listeners=press_ctrl_c),
    "a wrong unit": lambda net, layer: dg.maximize(net, dg.channel(layer, 99), size=8, steps=3),
    "a wrong layer": lambda net, layer: dg.activations(net, torch.rand(1, 3, 8, 8), "none"),
    "examples": lambda net, layer: dg.top_examples(net, layer, [0, 1], torch.rand(3, 3, 8, 8)),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("layer", ["conv", "linear"])
def test_a_network_comes_back_as_it_was(use: str, layer: str) -> None:
    network = careless()
    network.input_shape = (3, 8, 8)  # type: ignore[assignment]
    torch.rand(3)
    before = portrait(network)
    state = torch.get_rng_state()
    try:
        USES[use](network, layer)
    except (ValueError, ZeroDivisionError):
        assert use in ("a failing listener", "a wrong unit", "a wrong layer")
    if use in ("activations", "examples", "a wrong layer"):  # their random images are drawn by the test
        torch.set_rng_state(state)
    assert differences(before, portrait(network)) == []


def test_every_pass_begins_with_the_network_as_it_was() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.hidden: Tensor | None = None

        def forward(self, image: Tensor) -> Tensor:
            features: Tensor = self.conv(image)
            self.hidden = features if self.hidden is None else features + self.hidden  # of the same number of images
            return features * self.hidden

    network = nn.Sequential(Recurrent())
    images = torch.rand(5, 3, 8, 8)
    expected = network[0].conv(images).square().mean((2, 3)).diagonal()
    assert torch.allclose(dg.evaluate(network, dg.channel("0", range(4)), images[:4]), expected[:4])
    with pytest.raises(ValueError, match="its 4 units are 0-3"):
        dg.evaluate(network, dg.channel("0", range(5)), images)
    assert network[0].hidden is None
    assert len(dg.maximize(network, dg.channel("0", range(4)), size=8, steps=2, batch=3).images) == 4
    assert network[0].hidden is None


NETWORKS: dict[str, Callable[[], tuple[nn.Module, str, int]]] = {
    "resnet18": lambda: (torchvision.models.resnet18(), "layer2.0.conv1", 32),
    "vit": lambda: (timm.create_model("vit_tiny_patch16_224", img_size=32), "blocks.1", 32),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_known_networks_come_back_as_they_were(name: str) -> None:
    network, layer, size = NETWORKS[name]()
    before = portrait(network)
    dg.maximize(network, dg.channel(layer, 1), size=size, steps=2)
    assert differences(before, portrait(network)) == []


def test_large_detection_networks_have_no_shapes_in_their_caches() -> None:
    """A dry run of a large image computes shapes only, and these networks keep a tensor between passes."""
    network = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None
    ).eval()
    before = portrait(network)
    assert list_layers(network, (3, 288, 288))
    assert differences(before, portrait(network)) == []
    with torch.no_grad():
        network(torch.rand(1, 3, 288, 288))


def in_threads(*functions: Callable[[], Tensor]) -> list[Tensor]:
    """Call all functions at the same time, and return their results."""
    results: dict[int, Tensor] = {}

    def call(number: int) -> None:
        results[number] = functions[number]()

    threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread waits forever"
    return [results[number] for number in range(len(functions))]


def noisy(images: Tensor) -> Tensor:
    """Change the images at random, in a way that this package cannot draw ahead."""
    return images + 0.05 * torch.randn_like(images)


def test_threads_give_what_each_gives_alone() -> None:
    networks = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Tanh()) for _ in range(2)]
    networks[0].train()
    functions = [
        lambda: dg.maximize(networks[0], dg.channel("3", [0, 1]), size=16, steps=9, transform=noisy, seed=1).images,
        lambda: dg.maximize(networks[1], dg.channel("1", [0, 1]), size=16, steps=9, transform=noisy, seed=2).images,
        lambda: dg.maximize(networks[0], dg.channel("0", 3), size=16, steps=5, seed=3).images,
        lambda: dg.maximize(networks[1], dg.channel("2", 3), size=16, steps=5, seed=3).images,
        lambda: torch.tensor([len(list_layers(networks[0], (3, 16, 16)))]),
    ]
    alone = [function() for function in functions]
    before = [portrait(network) for network in networks]
    for _ in range(3):
        together = in_threads(*functions)
        assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert [differences(one, portrait(network)) for one, network in zip(before, networks, strict=True)] == [[], []]


def test_a_listener_may_draw_random_numbers_and_make_images() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    wanted = dg.maximize(network, dg.channel("1", 1), size=8, steps=3, transform=noisy).images

    def listen(step: dg.Step) -> None:
        torch.rand(step.number)
        for model in (network, nn.Sequential(nn.Conv2d(3, 4, 3))):
            dg.maximize(model, dg.channel("0", 1), size=8, steps=2, seed=7)

    heard = dg.maximize(network, dg.channel("1", 1), size=8, steps=3, transform=noisy, listeners=listen).images
    assert torch.equal(wanted, heard)


class Merging(nn.Module):
    """A network that merges weights when it is put into evaluation mode, as LoRA layers do, and cannot undo it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.low_rank = nn.Conv2d(3, 4, 1), nn.Parameter(torch.rand(4, 3, 1, 1))

    def train(self, mode: bool = True) -> Merging:
        self.conv.weight.data += self.low_rank.data if not mode else -0.9 * self.low_rank.data
        return super().train(mode)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.conv(image)
        return result


class Late(nn.Module):
    """A network that changes itself only in its sixth pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.passes, self.late = nn.Conv2d(3, 4, 1), itertools.count(), 0

    def forward(self, image: Tensor) -> Tensor:
        if next(self.passes) == 5:
            self.late = 1
        result: Tensor = self.conv(image)
        return result


class Aliased(nn.Module):
    """A network with two names for one memory, of which it writes one and reads the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("memory", torch.zeros(4, 2))
        self.column = self.memory[:, 1]

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.conv(image)
        self.memory += 1
        return features * self.column[:, None, None]


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("latest", "unset")

    def __init__(self) -> None:
        self.latest = torch.zeros(2)


class Strange(nn.Module):
    """A network with containers that behave in their own way, and with much data that is no state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.calls: Counter[str] = Counter({"pass": 2})
        self.ordered = OrderedDict(first=[1], second=[2])
        self.slotted, self.log = Slotted(), logging.getLogger("strange")
        self.names = [f"class {number}" for number in range(500_000)]
        self.chain: list[Any] = []
        for _ in range(3000):  # deeper than Python's recursion
            self.chain = [self.chain]

    def forward(self, image: Tensor) -> Tensor:
        self.calls["pass"] += 1
        self.ordered.move_to_end("first")
        self.ordered["first"].append(3)
        self.slotted.latest, self.slotted.unset = self.slotted.latest + 1, 1  # type: ignore[attr-defined]
        result: Tensor = self.conv(image)
        return result


@pytest.mark.parametrize("kind", [Merging, Late, Aliased, Strange])
def test_peculiar_networks_come_back_as_they_were(kind: type[nn.Module]) -> None:
    network = kind()
    values = [parameter.detach().clone() for parameter in network.parameters()]
    kept = {name: (id(value), str(value)) for name, value in vars(network).items() if name not in ("passes", "chain")}
    result = dg.maximize(network, dg.channel("conv", [0, 1]), size=4, steps=4)
    assert len(result.images) == 2
    assert all(torch.equal(now, before) for now, before in zip(network.parameters(), values, strict=True))
    assert kept == {name: (id(getattr(network, name)), str(getattr(network, name))) for name in kept}
    if isinstance(network, Strange):
        assert network.slotted.latest.tolist() == [0, 0]
        assert not hasattr(network.slotted, "unset")
    if isinstance(network, Aliased):
        features = network.conv(images := torch.rand(2, 3, 4, 4))
        assert torch.allclose(
            dg.activations(nn.Sequential(network), images, ["0"])["0"], features
        )  # 0 + 1, in every pass


def test_a_snapshot_looks_only_at_what_may_be_a_state() -> None:
    with Snapshot(Strange()) as saved:
        assert len(saved._seen) < 4000  # not 500,000 names, and nothing of the logger


def test_everything_else_is_put_back_when_one_object_fails_or_ctrl_c_is_pressed() -> None:
    class Refusing(list[int]):
        def clear(self) -> None:
            raise problems.pop() if problems else RuntimeError("no")

    for problem, expected in ((ZeroDivisionError(), ZeroDivisionError), (KeyboardInterrupt(), RuntimeError)):
        network, problems = nn.Sequential(nn.BatchNorm2d(2)), [problem]
        network.first, network.middle, network.last = [1], Refusing([1]), [1]  # type: ignore[assignment]
        saved = Snapshot(network).__enter__()
        for name in ("first", "middle", "last"):
            getattr(network, name).append(2)
        network[0].num_batches_tracked.add_(1)
        with pytest.raises(expected):
            saved.restore()
        assert (network.first, network.last, network[0].num_batches_tracked.item()) == ([1], [1], 0)


def test_ctrl_c_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network, pressing = careless(), False

    def press(*args: object) -> None:
        if pressing:
            raise KeyboardInterrupt

    monkeypatch.setattr(network, "input_shape", (3, 8, 8), raising=False)
    chance = random.Random(11)
    duration, caught, before_handler = 0.0, 0, signal.signal(signal.SIGALRM, press)
    try:
        for number in range(60):
            before, start = portrait(network), time.perf_counter()
            pressing = number > 1  # the first two runs show how long one takes
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0002, duration) if pressing else 0)
                dg.maximize(network, dg.channel("linear", [0, 1]), size=8, steps=3)
            except KeyboardInterrupt:
                caught += 1
            finally:
                pressing = False
                signal.setitimer(signal.ITIMER_REAL, 0)
            duration = duration if number > 1 else time.perf_counter() - start
            assert differences(before, portrait(network)) == [], f"attempt {number}"
            modes = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()
            assert modes == (0, 0), f"attempt {number}"
            assert in_threads(lambda: torch.tensor(len(list_layers(network, (3, 8, 8))))) == [torch.tensor(3)]
    finally:
        signal.signal(signal.SIGALRM, before_handler)
    assert caught > 20


class Hoarder(nn.Module):
    """A network that keeps its state in places of all kinds that are not its own attributes."""

    cache: ClassVar[dict[str, Tensor]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.space, self.draw, self.chance = SimpleNamespace(hidden=None), np.random.default_rng(0), random.Random(1)
        self.plain = [nn.Parameter(torch.zeros(2))]
        self.register_buffer("memory", torch.zeros(4))
        self.views = self.memory[:2], self.memory[2:]

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.conv(image)
        self.space.hidden = features if self.space.hidden is None else 0.5 * self.space.hidden + features
        self.cache["latest"] = features
        self.plain[0].data.add_(1)
        self.views[0].add_(1)
        return features * self.draw.random() * self.chance.random()


def test_state_in_unusual_places_is_put_back() -> None:
    network = Hoarder()
    before, draw, chance = portrait(network), network.draw.bit_generator.state, network.chance.getstate()
    dg.maximize(nn.Sequential(network), dg.channel("0", [0, 1]), size=8, steps=3)
    assert differences(before, portrait(network)) == []
    assert (network.space.hidden, Hoarder.cache, network.plain[0].tolist()) == (None, {}, [0, 0])
    assert (network.draw.bit_generator.state, network.chance.getstate()) == (draw, chance)
    network.memory.fill_(7)
    assert network.views[0].tolist() == [7, 7]  # it still shares its memory


def test_networks_made_in_inference_mode_and_scripted_parts() -> None:
    with torch.inference_mode():
        frozen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    assert dg.maximize(frozen, dg.channel("2", 1), size=8, steps=2).stopped == "finished"
    assert all(parameter.requires_grad for parameter in frozen.parameters())
    with pytest.warns(FutureWarning, match="script"):
        mixed = nn.Sequential(nn.Conv2d(3, 4, 3), torch.jit.script(nn.ReLU()), nn.Conv2d(4, 4, 3))
    assert dg.maximize(mixed, dg.channel("2", 1), size=8, steps=2).stopped == "finished"
    assert mixed[1].training


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_mode_that_is_left_on_is_left_at_the_end(interrupted: bool) -> None:
    def dispatch_mode() -> _NoArithmetic:
        mode = _NoArithmetic().__enter__()
        if interrupted:
            mode.old_dispatch_mode_flags.clear()  # as if Ctrl-C had been pressed while it was being left
        return mode

    @usual_settings
    def work() -> None:
        _Reading("shapes", None).__enter__()
        dispatch_mode()
        raise KeyboardInterrupt

    with torch.device("cpu"):  # the caller's own mode stays on
        with pytest.raises(KeyboardInterrupt):
            work()
        assert (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()) == (1, 0)


@pytest.mark.parametrize("collecting", [True, False])
def test_the_garbage_collector_stays_as_it_was(collecting: bool, digits: nn.Module) -> None:
    @usual_settings
    def work() -> None:
        gc.disable()  # as if Ctrl-C had been pressed before it was enabled again
        raise KeyboardInterrupt

    states: list[bool] = []
    try:
        (gc.enable if collecting else gc.disable)()
        dg.maximize(digits, dg.logit(3), steps=2, listeners=[lambda step: states.append(gc.isenabled())])
        assert states == [collecting] * 2
        with pytest.raises(KeyboardInterrupt):
            work()
        assert gc.isenabled() == collecting
    finally:
        gc.enable()


def test_ctrl_c_while_frames_are_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(traceback: object) -> None:
        raise KeyboardInterrupt

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    mean = network[1].running_mean
    monkeypatch.setattr("dreamgram.image_optimization.state.clear_frames", interrupt)

    def work() -> None:
        with Snapshot(network):
            network[1].train(False)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert network[1].training
    assert network[1].running_mean is mean


def through_numpy(network: nn.Conv2d, image: Tensor) -> None:
    network.weight.detach().numpy()[...] *= 1.1


def swallowed(network: nn.Conv2d, image: Tensor) -> None:
    with suppress(Exception), torch.no_grad():
        network.weight.mul_(1.1)


def with_gradients(network: nn.Conv2d, image: Tensor) -> None:
    if image.requires_grad:
        network.weight.data += 0.1


def out_argument(network: nn.Conv2d, image: Tensor) -> None:
    torch.mul(network.weight.detach(), 1.1, out=network.weight.detach())


def other_memory(network: nn.Conv2d, image: Tensor) -> None:
    network.weight.data = network.weight.data * 1.1


def many_at_once(network: nn.Conv2d, image: Tensor) -> None:
    torch._foreach_mul_([network.weight.detach(), network.bias.detach()], 1.1)  # type: ignore[union-attr]


WRITING = (through_numpy, swallowed, with_gradients, out_argument, other_memory, many_at_once)


@pytest.mark.parametrize("side", [1, 3])  # kernels of 1 x 1 are not copied into another order of memory
@pytest.mark.parametrize("write", WRITING)
def test_every_way_to_write_into_the_weights_is_found(write: Callable[[nn.Conv2d, Tensor], None], side: int) -> None:
    class Writing(nn.Conv2d):
        def forward(self, image: Tensor) -> Tensor:
            write(self, image)
            return super().forward(image)

    torch.manual_seed(0)
    network = nn.Sequential(Writing(3, 4, side), nn.ReLU())
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    before = portrait(network)
    with capture(network, ["1"]) as activations_of:
        first, second = (activations_of(image)["1"] for _ in range(2))
        assert activations_of.leaves_traces
    assert not differences(before, portrait(network))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first, network(image))


def test_weights_that_stay_as_they_are_are_not_copied(vgg16: nn.Module) -> None:
    with capture(vgg16, ["relu2_1"]) as activations_of:
        activations_of(torch.rand(1, 3, 16, 16))
        assert activations_of.guarded
        assert activations_of.leaves_traces is False
