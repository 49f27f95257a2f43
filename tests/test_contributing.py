"""The Python examples of CONTRIBUTING.md work in the files to which the page says that they belong."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dreamgram as dg
from dreamgram.activation_maximization import objectives, regularizers
from dreamgram.activation_maximization.expressions import parse_objective
from dreamgram.image_optimization import adam
from dreamgram.image_optimization.optimize import OPTIMIZERS, Step, optimize
from dreamgram.image_optimization.parameterizations import PixelImage
from dreamgram.style_transfer import losses, options
from dreamgram.workbench.options import OptionError, check_applies, declaration
from tests.test_docs import PYTHON, ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = [textwrap.dedent(code) for code in PYTHON.findall(PAGE)]
REGISTRIES: list[dict[str, Any]] = [objectives.OBJECTIVES, regularizers.REGULARIZERS, losses.STYLE_LOSSES, OPTIMIZERS]


@pytest.fixture(autouse=True)
def _registries_untouched() -> Iterator[None]:
    """Remove what an example has registered."""
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, entries in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(entries)


def code_with(word: str) -> str:
    """Return the only example that contains ``word``."""
    [found] = [code for code in EXAMPLES if word in code]
    return found


def run_in(module: ModuleType, code: str, **names: Any) -> dict[str, Any]:
    """Run ``code`` with the names of ``module`` and with other ``names``, and return all names afterwards."""
    namespace = {**vars(module), **names}
    exec(code, namespace)
    return namespace


def test_every_example_is_tested() -> None:
    words = (
        "contrast: float",
        "self.options.contrast",
        "def strongest",
        "def dark",
        "class MeanLoss",
        "class Momentum",
    )
    assert sorted(map(code_with, words)) == sorted(EXAMPLES)


def test_an_option(photo: Tensor) -> None:
    declared = textwrap.indent(code_with("contrast: float"), "    ")
    code = f"@dataclass(frozen=True, kw_only=True)\nclass Changed(StyleOptions):\n{declared}"
    changed = run_in(options, code, option=options.option)["Changed"]
    assert changed().contrast == 1
    [contrast] = [each for each in fields(changed) if each.name == "contrast"]
    for value in declaration(contrast).values:
        given = changed(contrast=value)
        used = code_with("self.options.contrast")
        image = run_in(options, used, image=photo, self=SimpleNamespace(options=given))["image"]
        torch.testing.assert_close(image, ((photo - 0.5) * value + 0.5).clamp(0, 1))
    with pytest.raises(OptionError, match="contrast must be at least 0, not -1"):
        changed(contrast=-1)
    check_applies(changed(contrast=2), "folder")
    with pytest.raises(OptionError, match="contrast is for photos, not for a video"):
        check_applies(changed(contrast=2), "video")


def test_an_objective(digits: nn.Module) -> None:
    strongest = run_in(objectives, code_with("def strongest"))["strongest"]
    assert len(dg.maximize(digits, "strongest(conv2)", steps=2).images) == 1
    [entry] = re.findall(r'`"strongest": (\(.*\)),`', PAGE)
    text, same = eval(entry, {"dg": SimpleNamespace(strongest=strongest)})
    image = torch.rand(2, 1, 28, 28)
    assert torch.equal(dg.evaluate(digits, parse_objective(text), image), dg.evaluate(digits, same, image))
    largest = dg.activations(digits, image, ["conv2"])["conv2"].flatten(1).amax(1)
    torch.testing.assert_close(dg.evaluate(digits, same, image), largest)


def test_a_regularizer(digits: nn.Module) -> None:
    dark = run_in(regularizers, code_with("def dark"))["dark"]
    assert len(dg.maximize(digits, "logit(3) - dark(10)", steps=2).images) == 1
    image = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(dg.evaluate(digits, dark(10), image), 10 * image.square().mean((1, 2, 3)))


def test_a_style_loss(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    run_in(losses, code_with("class MeanLoss"))
    how: dict[str, Any] = {"model": vgg16, "size": 32, "steps": 3, "style_layers": {"relu1_1": 1}, "scales": [32]}
    [history] = dg.stylize(photo, [painting], style_loss="mean", **how).history
    assert history[-1] < history[0]


def test_an_optimizer(digits: nn.Module) -> None:
    momentum = run_in(adam, code_with("class Momentum"))["Momentum"]
    OPTIMIZERS["momentum"] = momentum
    states: list[dict[str, Tensor]] = []

    def keep(step: Step) -> None:
        states.append({name: tensor.clone() for name, tensor in step.state().items()})

    def run(**more: Any) -> Tensor:
        image = PixelImage(torch.full((1, 1, 2, 2), 0.9))
        losses_of = optimize(image, lambda x: (x - 0.1).square().sum(), steps=40, optimizer="momentum", **more).losses
        assert losses_of[-1] < 0.01 * losses_of[0]
        return image.render().detach()

    whole = run(listeners=[keep])
    assert torch.equal(run(state=states[7]), whole)
    assert len(dg.maximize(digits, "logit(3)", steps=2, optimizer=momentum).images) == 1
