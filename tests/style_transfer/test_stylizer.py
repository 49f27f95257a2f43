from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dreamgram.image_optimization import images
from dreamgram.image_optimization.adam import Adam
from dreamgram.image_optimization.capture import Reader, capture
from dreamgram.image_optimization.names import must_be
from dreamgram.image_optimization.optimize import OPTIMIZERS, Run, State, Step, StopRun
from dreamgram.image_optimization.parameterizations import PixelImage
from dreamgram.image_optimization.precision import Precision
from dreamgram.models.registry import WEIGHTS, read_weights
from dreamgram.style_transfer import stylizer as stylizer_module
from dreamgram.style_transfer.budget import WHOLE
from dreamgram.style_transfer.drawn_styles import draw_style
from dreamgram.style_transfer.losses import STYLE_LOSSES, GramLoss
from dreamgram.style_transfer.presets import PRESETS
from dreamgram.style_transfer.stylizer import Stylized, Stylizer, pyramid, stylize
from dreamgram.style_transfer.tiling import whole
from dreamgram.style_transfer.total_loss import Style, TotalLoss, total_loss
from tests.cases import SHALLOW

LAYERS = PRESETS["gatys"].layers


def features_from_the_weights(rgb: Tensor) -> dict[str, Tensor]:
    """Compute the activations of VGG-16 from its weights file, one convolution after another, in double precision."""
    weights = {name: tensor.double() for name, tensor in read_weights(WEIGHTS / "vgg16.fp16.safetensors").items()}
    x = torch.stack([rgb[:, 2] * 255 - 103.939, rgb[:, 1] * 255 - 116.779, rgb[:, 0] * 255 - 123.68], dim=1).double()
    features = {}
    for block, count in enumerate((2, 2, 3, 3, 3), 1):
        for number in range(1, count + 1):
            name = f"conv{block}_{number}"
            x = nn.functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).clamp(min=0)
            features[f"relu{block}_{number}"] = x
        x = nn.functional.max_pool2d(x, 2)
    return features


def neural_style_loss(image: Tensor, content: Tensor, style: Tensor) -> Tensor:
    """Compute the loss of neural-style from its formulas. It is differentiable with respect to ``image``."""
    of_image, of_content, of_style = map(features_from_the_weights, (image, content, style))

    def gram(features: Tensor) -> Tensor:
        flat = features.view(features.shape[1], -1)
        return flat @ flat.T / features.numel()

    loss = 5 * (of_image["relu4_2"] - of_content["relu4_2"]).square().mean()
    for layer in ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"):
        loss = loss + 100 * (gram(of_image[layer]) - gram(of_style[layer])).square().mean()
    pixels = image.double() * 255
    rows = (pixels[:, :, 1:, :] - pixels[:, :, :-1, :]).abs().sum()
    columns = (pixels[:, :, :, 1:] - pixels[:, :, :, :-1]).abs().sum()
    return loss + 1e-3 * (rows + columns)


def our_loss(image: Tensor, content: Tensor, style: Tensor, vgg16: nn.Module, preset: str = "gatys") -> Tensor:
    with capture(vgg16, LAYERS) as activations_of:
        tiles = [whole(LAYERS)]
        return total_loss(
            activations_of, content, [Style(style, max(style.shape), [1.0])], PRESETS[preset], lambda image: tiles
        )(image)


def test_the_gatys_preset_is_neural_styles_loss(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    image = (0.5 * photo + 0.5 * torch.rand_like(photo)).requires_grad_()
    theirs = neural_style_loss(image, photo, painting)
    (their_gradient,) = torch.autograd.grad(theirs, image)
    ours = our_loss(image, photo, painting, vgg16)
    (our_gradient,) = torch.autograd.grad(ours, image)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-3)
    assert (our_gradient - their_gradient).norm() < 1e-3 * their_gradient.norm()


def test_the_benchmark_prints_that_value_for_anyones_output(
    photo: Tensor, photo_file: Path, painting: Tensor, tmp_path: Path
) -> None:
    style = images.save(painting, tmp_path / "style.png")
    output = images.save((photo + 0.1).clamp(0, 1), tmp_path / "output.png")
    script = Path(__file__).parents[2] / "benchmarks" / "gatys_loss.py"
    arguments = [str(photo_file), str(style), str(output), "--size", "64"]
    run = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=True)
    expected = neural_style_loss(images.load(output), photo, images.load(style))
    assert float(run.stdout) == pytest.approx(expected.item(), rel=1e-3)


def test_a_draft_has_half_the_size_and_half_the_steps(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    stylizer = Stylizer(photo, [painting], model=vgg16, size=96, steps=4, draft=True)
    draft = stylizer.run().image
    assert max(draft.shape) == 48
    assert torch.equal(draft, stylize(photo, [painting], model=vgg16, size=48, steps=2).image)
    assert stylizer.change(style_weight=2).options.size == 48  # it is not halved again
    with pytest.raises(ValueError, match="a draft has scales and a plan of its own"):
        Stylizer(photo, [painting], model=vgg16, draft=True, scales=[48, 96])


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_loss_falls(preset: str, optimizer: str, photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    result = stylize(photo, [painting], model=vgg16, size=48, preset=preset, optimizer=optimizer, steps=25)
    assert result.image.shape == (1, 3, 48, 41)
    assert result.image.min() >= 0
    assert result.image.max() <= 1
    assert result.history[-1][-1] < 0.5 * result.history[-1][0]


def test_style_and_content_are_traded(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    def distances(style_weight: float) -> tuple[float, float]:
        result = stylize(photo, [painting], model=vgg16, size=64, style_weight=style_weight, steps=10)
        with torch.no_grad(), capture(vgg16, LAYERS) as activations_of:
            of_image, of_photo, of_style = map(activations_of, (result.image, photo, painting))
            content = (of_image["relu4_2"] - of_photo["relu4_2"]).norm() / of_photo["relu4_2"].norm()
            a, b = (features["relu2_1"].flatten(2).mean(2) for features in (of_image, of_style))
            return float(content), float((a - b).norm() / b.norm())

    faithful, painterly = distances(0.01), distances(100)
    assert faithful[0] < 0.7 * painterly[0]
    assert painterly[1] < 0.7 * faithful[1]


def test_a_weight_means_the_same_at_every_size(photo_file: Path, vgg16: nn.Module) -> None:
    """The default loss of the same pictures at 96 and at 192 pixels agrees within 40 percent."""
    painting = draw_style("brushwork", 192)
    photo = images.load(photo_file)
    values = []
    for size in (96, 192):
        content, style = images.fit(photo, size), images.fit(painting, size)
        values.append(
            our_loss(images.resize(style, (content.shape[2], content.shape[3])), content, style, vgg16, "default")
        )
    assert values[1].item() == pytest.approx(values[0].item(), rel=0.4)


def test_the_default_errors_are_shares_of_their_targets(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    """The default loss does not change if a network's activations are scaled. VGG-19's are larger than VGG-16's."""

    def scaled(image: Tensor) -> dict[str, Tensor]:
        with capture(vgg16, LAYERS) as activations_of:
            return {layer: 7 * activation for layer, activation in activations_of(image).items()}

    tiles = [whole(LAYERS)]
    loss = total_loss(scaled, photo, [Style(painting, 64, [1.0])], PRESETS["default"], lambda image: tiles)(1 - photo)
    torch.testing.assert_close(loss, our_loss(1 - photo, photo, painting, vgg16, "default"), rtol=1e-4, atol=0)


def test_several_styles_are_blended(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    other = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.2
    options: dict[str, Any] = {"size": 48, "steps": 8, "style_layers": {"relu1_1": 1, "relu2_1": 1, "relu3_1": 1}}
    stylizer = Stylizer(photo, [painting, other], model=vgg16, **options)
    images_ = [stylizer.change(blend=blend).run().image for blend in ([1, 0], [0, 2], [1, 1], None)]
    only_first, only_second = (stylizer.change(paintings=[each]).run().image for each in (painting, other))
    torch.testing.assert_close(images_[0], only_first, rtol=0, atol=1e-2)
    torch.testing.assert_close(images_[1], only_second, rtol=0, atol=1e-2)
    assert torch.equal(images_[2], images_[3])
    assert (images_[2] - only_first).abs().mean() > 0.02


def test_a_long_thin_painting_is_never_too_small(photo: Tensor, vgg16: nn.Module) -> None:
    scroll = torch.rand(1, 3, 20, 300)  # at 48 pixels only 3 high
    assert stylize(photo, [scroll], model=vgg16, size=48, steps=2).image.shape == (1, 3, 48, 41)


def test_where_it_starts(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    stylizer = Stylizer(photo, [painting], model=vgg16, size=64, steps=1, optimizer="adam")

    def start(init: object, seed: int = 0) -> Tensor:
        seen: list[Tensor] = []
        stylizer.change(init=init, seed=seed).run(listeners=[lambda step: seen.append(step.image.clone())])
        return seen[0]

    near = 0.03  # one step of Adam later
    assert (start("content") - photo).abs().max() < near
    assert (start(1 - photo) - (1 - photo)).abs().max() < near
    assert (start("noise") - 0.5).abs().mean() < 2 * near
    assert torch.equal(start("noise"), start("noise"))
    assert not torch.equal(start("noise"), start("noise", seed=1))


def test_the_pyramid() -> None:
    assert pyramid(torch.zeros(1, 3, 600, 512), 512) == [128, 256, 512]
    assert pyramid(torch.zeros(1, 3, 9, 16), 512) == [128, 256, 512]
    assert pyramid(torch.zeros(1, 3, 5, 5), 512) == [128, 256, 512]
    assert pyramid(torch.zeros(1, 3, 5, 10), 512) == [256, 512]
    assert pyramid(torch.zeros(1, 3, 100, 100), 100) == [100]
    assert pyramid(torch.zeros(1, 3, 100, 1000), 1000) == [1000]


def test_scales_and_interruption(photo_file: Path, painting: Tensor, vgg16: nn.Module) -> None:
    options: dict[str, Any] = {"size": 64, "scales": [32, 64], "steps": 4}
    stylizer = Stylizer(images.load(photo_file), [painting], model=vgg16, **options)
    sizes: list[tuple[int, int]] = []
    done: list[tuple[int, float]] = []
    whole = stylizer.run(
        listeners=[
            lambda step: sizes.append((step.image.shape[2], step.number)),
            lambda step: done.append((step.steps, step.done)),
        ]
    )
    few, many = (side**2 + stylizer_module.CONSTANT_WORK for side in (32, 64))
    counts = [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
    work = few + 4 * many
    assert done == [(5, pytest.approx((small * few + large * many) / work)) for small, large in counts]
    assert sizes == [(32, 1), (64, 2), (64, 3), (64, 4), (64, 5)]
    assert [len(losses) for losses in whole.history] == [1, 4]
    assert whole.stopped == "finished"

    def interrupted(number: int) -> Stylized:
        def interrupt(step: Step) -> None:
            if step.number == number:
                raise StopRun

        return stylizer.run(listeners=[interrupt])

    for number, lengths in ((1, [1]), (3, [1, 2])):
        part = interrupted(number)
        assert part.stopped == "interrupted"
        assert part.image.shape == whole.image.shape
        assert [len(losses) for losses in part.history] == lengths


def test_ctrl_c_between_two_scales_keeps_the_first(
    photo_file: Path, painting: Tensor, vgg16: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is pressed while the targets of the second scale are computed, before that scale has an image."""
    made: list[Tensor] = []

    class Interrupted(GramLoss):
        """A style loss whose target is ready for the first scale only."""

        LAYERS: ClassVar[dict[str, float]] = {"relu2_1": 1.0}

        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self.target)
            if len(made) == 2:
                raise KeyboardInterrupt

    monkeypatch.setitem(STYLE_LOSSES, "interrupted", Interrupted)
    options: dict[str, Any] = {"size": 64, "scales": [32, 64], "steps": 3, "style_loss": "interrupted"}
    part = stylize(images.load(photo_file), [painting], model=vgg16, **options)
    assert len(made) == 2
    assert part.stopped == "interrupted"
    assert part.image.shape == (1, 3, 64, 55)
    assert [len(losses) for losses in part.history] == [1]


class Passes:
    """A counter of the forward passes that compute activations."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        run = Reader._run

        def counted(reader: Reader, image: Tensor, *tensors: Tensor) -> list[Tensor]:
            self.count += 1
            return run(reader, image, *tensors)

        monkeypatch.setattr(Reader, "_run", counted)

    def during(self, stylizer: Stylizer) -> tuple[Tensor, int]:
        """Run ``stylizer`` and return the image and the number of passes that captured targets.

        One pass per step is not counted.
        """
        before = self.count
        result = stylizer.run()
        return result.image, self.count - before - sum(map(len, result.history))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    return Passes(monkeypatch)


TWO_SCALES: dict[str, Any] = {
    **{"size": 32, "scales": [24, 32], "steps": 4, "init": "noise", "plan": [WHOLE, WHOLE]},
    **{"content_layers": {"relu3_1": 1}, "style_layers": {"relu1_1": 1, "relu2_1": 1}},  # which are quick
}


def test_a_stylizer_runs_twice_to_the_same_picture(
    photo: Tensor, painting: Tensor, vgg16: nn.Module, passes: Passes
) -> None:
    stylizer = Stylizer(photo, [painting], model=vgg16, **TWO_SCALES)
    first, captured = passes.during(stylizer)
    assert captured == 5  # the photo and the painting at each scale, and once the photo to find what stands out
    again, captured = passes.during(stylizer)
    assert captured == 0
    assert torch.equal(first, again)
    assert torch.equal(first, stylize(photo, [painting], model=vgg16, **TWO_SCALES).image)


def test_a_changed_stylizer_captures_only_what_is_new(
    photo: Tensor, painting: Tensor, vgg16: nn.Module, passes: Passes
) -> None:
    stylizer = Stylizer(photo, [painting], model=vgg16, **TWO_SCALES)
    stylizer.run()
    other = painting.flip(3)  # of the same size
    for changes, expected in (
        ({"style_weight": 3}, 0),
        ({"tv_weight": 9, "seed": 1}, 0),
        ({"paintings": [other]}, 2),
        ({"paintings": [painting, other]}, 0),
        ({"style_loss": "gram"}, 2),
        ({"style_scale": 1.5}, 2),
        ({"focus": 0.5}, 0),
        ({"precision": "float32"}, 5),
        ({"photo": 1 - photo}, 3),
        ({"colors": "luminance"}, 5),
    ):
        image, captured = passes.during(stylizer.change(**changes))
        assert captured == expected, changes
        if changes.keys() & {"style_weight", "style_scale", "photo"}:
            arguments = {"photo": photo, "paintings": [painting], "model": vgg16, **TWO_SCALES, **changes}
            assert torch.equal(image, stylize(**arguments).image), changes
    assert passes.during(stylizer)[1] == 3  # only one photo is remembered


def test_two_paintings_of_the_same_size_are_never_mixed_up(
    photo: Tensor, painting: Tensor, vgg16: nn.Module, passes: Passes
) -> None:
    other = painting.flip(3)
    stylizer = Stylizer(photo, [painting], model=vgg16, **TWO_SCALES)
    first = stylizer.run().image
    for paintings in ([other], [painting, other]):
        image = stylizer.change(paintings=paintings).run().image
        assert torch.equal(image, stylize(photo, paintings, model=vgg16, **TWO_SCALES).image)
    assert torch.equal(stylizer.run().image, first)
    # A mask changes which part of a painting is used.
    mask = torch.zeros_like(photo)
    mask[:, :, 30:] = 1
    style_mask = mask[:, :, :, :1].expand(1, 3, 64, 64)
    image, captured = passes.during(stylizer.change(content_mask=mask, style_masks=[style_mask]))
    assert captured == 2  # the painting at both scales
    assert not torch.equal(image, first)


def test_a_change_keeps_the_other_arguments(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    stylizer = Stylizer(photo, [painting], model=vgg16, **{**TWO_SCALES, "init": 1 - photo})
    changed = stylizer.change(optimizer="adam").change(seed=3)
    assert changed.options == stylizer.options.change(optimizer="adam", seed=3)
    assert changed.scales == [24, 32]
    given = {**TWO_SCALES, "init": 1 - photo, "optimizer": "adam", "seed": 3}
    assert torch.equal(changed.run().image, stylize(photo, [painting], model=vgg16, **given).image)


def test_an_optimizer_of_your_own(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    made: list[tuple[float, float]] = []

    def optimizer(leaf: Tensor, bounds: tuple[float, float]) -> Adam:
        made.append(bounds)
        return Adam(leaf, bounds, learning_rate=0.02)

    stylizer = Stylizer(photo, [painting], model=vgg16, optimizer=optimizer, **TWO_SCALES)
    own = stylizer.change(steps=3).run().image
    assert len(made) == 2
    assert torch.equal(own, stylizer.change(optimizer="adam", steps=3).run().image)
    assert len(made) == 2


def test_a_run_is_resumed_from_a_state(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    stylizer = Stylizer(photo, [painting], model=vgg16, **TWO_SCALES)
    states: list[State] = []
    whole = stylizer.run(
        listeners=[lambda step: states.append({name: each.clone() for name, each in step.state().items()})]
    )
    fresh = Stylizer(photo, [painting], model=vgg16, **TWO_SCALES)
    assert torch.equal(fresh.run(state=states[2]).image, whole.image)
    assert torch.equal(fresh.run().image, whole.image)  # the state is not kept for the next run


def test_tiles_where_memory_runs_out(
    photo: Tensor, painting: Tensor, vgg16: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second scale needs too much memory until the image is divided into tiles."""
    how: dict[str, Any] = {**TWO_SCALES, "scales": [64, 128], "size": 128, "plan": None, **SHALLOW}
    expected = stylize(photo, [painting], model=vgg16, **how)
    sides: list[int] = []
    whole_run = stylizer_module.optimize

    def optimize(image: PixelImage, loss: TotalLoss, **settings: Any) -> Run:
        sides.append(max(image.leaf.shape))
        if sides[-1] == 128 and len(loss.tiles) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return whole_run(image, loss, **settings)

    monkeypatch.setattr(stylizer_module, "smallest_tile", lambda *_: 32)
    monkeypatch.setattr(stylizer_module, "optimize", optimize)
    made = stylize(photo, [painting], model=vgg16, **how)
    assert sides == [64, 128, 128]
    assert made.plan[0].side > 128 > made.plan[1].side
    assert torch.equal(made.image, stylize(photo, [painting], model=vgg16, **{**how, "plan": made.plan}).image)
    assert len(made.history) == 2
    states: list[State] = []
    calm = partial(stylize, photo, [painting], model=vgg16, **{**how, "plan": expected.plan})
    monkeypatch.setattr(stylizer_module, "optimize", whole_run)
    calm(listeners=[lambda step: states.append({name: each.clone() for name, each in step.state().items()})])
    monkeypatch.setattr(stylizer_module, "optimize", optimize)
    resumed = stylize(photo, [painting], model=vgg16, **how, state=states[2])
    assert torch.equal(resumed.image, made.image)  # the scale was started again
    monkeypatch.setattr(stylizer_module, "smallest_tile", lambda *_: 128)
    for plan in (None, expected.plan):  # the tiles would be too small, or the user wants none
        with pytest.raises(torch.OutOfMemoryError):
            stylize(photo, [painting], model=vgg16, **{**how, "plan": plan})


def test_unknown_arguments(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    stylizer = Stylizer(photo, [painting], model=vgg16)
    for name, nearest in (("styleweight", "style_weight"), ("fotos", "photo"), ("style_mask", "style_masks")):
        for make in (stylizer.change, partial(Stylizer, photo, [painting], model=vgg16)):
            with pytest.raises(
                ValueError, match=rf"no argument '{name}'; did you mean '{nearest}'\? there are photo, paintings"
            ):
                make(**{name: 1})


def test_same_seed_same_picture_bit_for_bit(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    first, second = (stylize(photo, [painting], model=vgg16, size=40, steps=4, init="noise").image for _ in range(2))
    assert torch.equal(first, second)


def test_errors(photo: Tensor, painting: Tensor, vgg16: nn.Module, digits: nn.Module) -> None:
    def message(*styles: Tensor, content: Tensor = photo, **settings: Any) -> str:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            stylize(content, styles, **{"model": vgg16, "size": 32, "steps": 1, **settings})
        return str(error.value)

    assert message() == "no style given"
    assert message(painting, blend=[1, 2]) == "1 style but 2 blend weights; give one for each"
    assert message(painting, painting, blend=[0, 0]) == "blend weights must be 0 or more and not all 0, not 0.0, 0.0"
    assert message(painting, blend=[float("inf")]) == "blend must be a finite number, not inf"
    assert " pixels and a painting of 841,000,000,000,000,000,000: about" in message(painting, style_scale=1e9)
    assert (
        message(painting, preset="gatis") == "preset must be 'default' or 'gatys', not 'gatis'; did you mean 'gatys'?"
    )
    assert message(painting, style_weight=-1) == "style_weight must be at least 0, not -1.0"
    assert message(painting, tv_weight=float("nan")) == "tv_weight must be a finite number, not nan"
    assert message(painting, init="nois") == "init must be 'content', 'noise' or an image, not 'nois'"
    assert message(painting, size=-5) == "size must be at least 1, not -5"
    assert message(painting, size=7) == "the photo at its final size has 6x7 pixels; VGG needs 8 each way"
    assert message(painting, content=photo[:, :, :7]) == "the photo has 55x7 pixels; VGG needs 8 each way"
    assert message(painting, painting[:, :, :, :7]) == "the style 2 has 7x64 pixels; VGG needs 8 each way"
    assert "no layer 'relu3_1'" in message(painting, model=digits)
    assert message(painting, size=20, optimizer="x") == f"optimizer {must_be('x', OPTIMIZERS)}"


def test_bfloat16_comes_to_the_loss_of_float32(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    def loss_after(precision: Precision) -> float:
        image = stylize(photo, [painting], model=vgg16, size=64, steps=30, preset="gatys", precision=precision).image
        return our_loss(image, photo, painting, vgg16).item()

    exact, low = loss_after("float32"), loss_after("bfloat16")
    assert exact < 0.1 * our_loss(photo, photo, painting, vgg16).item()
    assert low == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("loss", STYLE_LOSSES)
def test_low_precision_stays_finite(loss: str, photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    """The photos include an all-black photo and, as the other extreme, a photo of only black and white pixels."""
    hard = (photo > 0.5).float()
    for content in (photo, 0 * photo, hard):
        how: dict[str, Any] = {"model": vgg16, "size": 32, "steps": 4, "style_loss": loss}
        exact = stylize(content, [painting], **how, precision="float32")
        for precision in ("bfloat16", "float16"):
            low = stylize(content, [painting], **how, precision=precision)
            assert low.image.isfinite().all()
            assert low.history[0][0].item() == pytest.approx(exact.history[0][0].item(), rel=0.05)
            assert low.history[0].min() < 1.5 * exact.history[0].min()  # rounding soon makes the runs differ


def test_a_stylizer_is_shown_in_one_line(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    how: dict[str, Any] = {"model": vgg16, "size": 32, "steps": 3}
    assert repr(Stylizer(photo, [painting], **how)) == "Stylizer(28x32 pixels, 1 painting, 3 steps, cpu)"
    assert "2 paintings" in repr(Stylizer(photo, [painting] * 2, **how))


def test_a_notebook_shows_the_picture(photo: Tensor) -> None:
    png = Stylized(photo, [], "finished")._repr_png_()
    assert png is not None
    assert Image.open(BytesIO(png)).size == (photo.shape[3], photo.shape[2])


def test_paintings_that_are_not_used_any_more_are_forgotten(
    photo: Tensor, painting: Tensor, vgg16: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a limit, the oldest is forgotten first; the network sees a forgotten painting once more."""
    one = 65 * 64 * 4  # bytes of the moments of relu1_1
    monkeypatch.setattr("dreamgram.style_transfer.targets.KEPT", 2 * one)
    how: dict[str, Any] = {"model": vgg16, "size": 32, "steps": 1, "style_layers": {"relu1_1": 1}, "style_margin": 0}
    stylizer = Stylizer(photo, [painting], **how)
    stylizer.run()
    sizes: list[Sequence[int]] = []

    def is_forgotten(number: int) -> bool:
        """Return whether the network has to see the painting again."""
        nonlocal stylizer
        stylizer = stylizer.change(paintings=[painting.roll(number, 3)])
        sizes.clear()
        stylizer.run()
        return (32, 32) in sizes  # the painting is square, and the photo is not

    first = next(module for module in vgg16.modules() if isinstance(module, nn.Conv2d))
    with first.register_forward_hook(lambda _, given, __: sizes.append(tuple(given[0].shape[2:]))):
        assert [is_forgotten(number) for number in (1, 2, 3)] == [True] * 3  # they are new
        assert [is_forgotten(number) for number in (3, 2, 1)] == [False] * 3
        assert is_forgotten(0)  # the first one was forgotten when the fourth came


def test_a_stylizer_is_freed_without_a_search_for_cycles(painting: Tensor, vgg16: nn.Module) -> None:
    """A folder of photos takes one stylizer for each photo, and Python looks for cycles only now and then."""
    stylizer = Stylizer(torch.rand(1, 3, 32, 32), [painting], model=vgg16, size=32, steps=1, **SHALLOW)
    stylizer.run()
    gc.collect()
    gc.disable()
    try:
        later = stylizer.change(photo=torch.rand(1, 3, 32, 32))
        later.run()
        seen = weakref.ref(later)
        del later
        assert seen() is None
    finally:
        gc.enable()


def test_wrong_listeners_are_told_at_once(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    stylizer = Stylizer(photo, [painting], model=vgg16, size=32, steps=1, **SHALLOW)
    with pytest.raises(TypeError, match="listeners must be a function of a Step, or a list of them, not str"):
        stylizer.run(listeners="text")  # type: ignore[arg-type]
    seen: list[Step] = []
    stylizer.run(listeners=seen.append)
    assert [step.number for step in seen] == [1]


def test_pictures_in_other_forms(vgg16: nn.Module, photo: Tensor, painting: Tensor, tmp_path: Path) -> None:
    how: dict[str, Any] = {"model": vgg16, "size": 32, "steps": 2, **SHALLOW}
    close: dict[str, float] = {"rtol": 0, "atol": 2e-3}  # the pictures differ by rounding errors
    photo, painting = ((255 * each).round() / 255 for each in (photo, painting))
    half = (torch.arange(64) < 32).float().expand(1, 3, 64, 64)
    mask = half[:, :1, :, :55] > 0
    regions = {"content_mask": mask.float().expand(1, 3, -1, -1), "style_masks": [half, half]}
    expected = stylize(photo, [painting, 1 - painting], init=1 - photo, **regions, **how).image
    images.save(1 - photo, tmp_path / "init.png")
    arrays = [np.asarray(images.to_pillow(each)) for each in (photo, painting, 1 - painting)]
    same = {"content_mask": mask[0, 0].numpy(), "style_masks": [np.asarray(half[0, 0].bool())] * 2}
    for given in (arrays, [torch.tensor(each) for each in arrays], [Image.fromarray(each) for each in arrays]):
        made = stylize(given[0], given[1:], init=str(tmp_path / "init.png"), **same, **how)
        torch.testing.assert_close(made.image, expected, **close)
    clear = np.dstack([arrays[0], np.zeros(arrays[0].shape[:2], np.uint8)])
    white = stylize(torch.ones_like(photo), [painting], **how).image
    torch.testing.assert_close(stylize(clear, painting, **how).image, white, **close)  # a single painting needs no list
    both = torch.cat([painting, 1 - painting])
    assert torch.equal(stylize(photo, both, **how).image, stylize(photo, [painting, 1 - painting], **how).image)
    gray = stylize(arrays[0][..., 0], Image.fromarray(arrays[1]), **how).image
    torch.testing.assert_close(gray, stylize(photo[:, :1].expand(1, 3, -1, -1), [painting], **how).image, **close)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("photo", lambda photo: photo * 255, r"photo must be in \[0, 1\], but goes from \S+ to 255"),
        ("photo", lambda photo: photo.expand(2, -1, -1, -1), "photo must be one image, not a batch of 2"),
        ("paintings", lambda photo: [photo, photo / 0], "painting 2 must be in .* infinite or not a number"),
        ("paintings", lambda photo: (photo * 255).long(), "painting must hold fractions .* uint8, .* not int64"),
        ("content_mask", lambda photo: photo[:, :2], "content mask must be .* 1, 3 or 4 channels"),
        ("style_masks", lambda photo: [[photo]], "style mask must be an image, .* not list"),
        ("init", lambda photo: photo - 1, r"init must be in \[0, 1\]"),
        ("init", lambda photo: "nosie", "init must be 'content', 'noise' or an image, not 'nosie'"),
    ],
)
def test_pictures_that_are_not_clear(
    name: str, given: Callable[[Tensor], Any], message: str, vgg16: nn.Module, photo: Tensor
) -> None:
    arguments: dict[str, Any] = {"photo": photo, "paintings": [photo], "model": vgg16, name: given(photo)}
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        Stylizer(**arguments)
    assert "\n" not in str(raised.value)


def test_options_in_other_forms(vgg16: nn.Module, photo: Tensor, painting: Tensor) -> None:
    how: dict[str, Any] = {"model": vgg16, "seed": 3, **SHALLOW}
    expected = stylize(photo, [painting] * 2, size=32, steps=2, blend=[2, 1], style_weight=3, scales=[32], **how).image
    for number in (np.float32, torch.tensor):
        given = {"size": number(32), "steps": number(2), "style_weight": number(3), "scales": number(32)}
        blend = np.array([2.0, 1]) if number is np.float32 else torch.tensor([2.0, 1])
        paintings = iter([painting] * 2)
        made = stylize(photo, paintings, blend=blend, style_masks=None, listeners=None, **given, **how)  # type: ignore[arg-type]
        assert torch.equal(made.image, expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"photo": ["a"]}, "photo must be an image, .* not list"),
        ({"paintings": None}, "painting must be an image, .* not NoneType"),
        ({"paintings": {"a": 1}}, "painting must be an image, .* not dict"),
        ({"options": {"size": 32}}, "options must be StyleOptions, not dict; give single options by name"),
        ({"options": nn.Flatten()}, "options must be StyleOptions, not Flatten"),
        ({"model": "vgg16"}, "model must be a torch.nn.Module, .* not str"),
        ({"model": {}}, "model is a state_dict"),
        ({"optimizer": torch.optim.LBFGS}, "optimizer must be 'adam', 'lbfgs' or 'uniform', .* not the class LBFGS"),
        ({"optimizer": 3}, "optimizer must be .* not int"),
        ({"scales": "32"}, "scales must be a whole number, not '32'"),
        ({"scales": [16.5]}, "scales must be a whole number, not 16.5"),
        ({"scales": [-3]}, "scales must be at least 1, not -3"),
        ({"plan": 3}, "plan must be a list of budgets, as in Stylized.plan, not 3"),
        ({"plan": [3]}, r"plan must be a list of budgets, as in Stylized.plan, not \[3\]"),
        ({"previous": torch.rand(1, 3, 32, 32)}, "previous must be a Previous, as follow returns it, not Tensor"),
        ({"init": None}, "init must be an image, .* not NoneType"),
        ({"size": (32, 32)}, r"size must be a whole number, not \(32, 32\)"),
        ({"style_weight": {"relu1_1": 3}}, "style_weight must be a number"),
    ],
)
def test_arguments_that_are_not_clear(
    given: dict[str, Any], message: str, vgg16: nn.Module, photo: Tensor, painting: Tensor
) -> None:
    arguments: dict[str, Any] = {"photo": photo, "paintings": [painting], "model": vgg16, **given}
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        Stylizer(**arguments)
    assert "\n" not in str(raised.value)


def test_a_state_is_a_dictionary(vgg16: nn.Module, photo: Tensor) -> None:
    with pytest.raises(TypeError, match=r"state must be a dictionary of tensors, .* not int"):
        stylize(photo, photo, model=vgg16, size=32, state=3)
