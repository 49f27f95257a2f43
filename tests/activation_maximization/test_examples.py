from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from dreamgram.activation_maximization.examples import Example, top_examples
from dreamgram.image_optimization.images import save, to_pillow
from dreamgram.models.digits import DigitCNN, digit_sample


def digits_by_name() -> list[tuple[str, Tensor]]:
    return [(str(number), digit[None]) for number, digit in enumerate(digit_sample()[0][::20])]


def test_a_patch_alone_excites_the_unit_as_much(digits: nn.Module) -> None:
    """Independent of how patches are cut: conv2's filters see 8 x 8 pixels, and give one number for just that patch."""
    assert isinstance(digits, DigitCNN)
    found = top_examples(digits, "conv2", [3, 30], digits_by_name(), count=4)
    for unit, best in zip([3, 30], found, strict=True):
        assert len(best) == 4
        for example in best:
            assert example.patch.shape == (1, 8, 8)
            alone = digits.conv2(torch.relu(digits.pool1(digits.conv1(example.patch[None]))))
            assert alone.shape == (1, 50, 1, 1)
            assert alone[0, unit].item() == pytest.approx(example.activation, rel=1e-4)


def test_the_best_are_found_among_all(digits: nn.Module) -> None:
    assert isinstance(digits, DigitCNN)
    pictures = digits_by_name()
    batch = torch.cat([picture for _, picture in pictures])
    answers = digits.conv2(torch.relu(digits.pool1(digits.conv1(batch)))).detach()
    values, order = answers[:, 7].flatten(1).max(1).values.sort(descending=True)
    [best] = top_examples(digits, "conv2", [7], pictures, count=5)
    assert [example.name for example in best] == [str(number) for number in order[:5].tolist()]
    assert [example.activation for example in best] == pytest.approx(values[:5].tolist(), rel=1e-4)


def test_neurons_see_whole_pictures(digits: nn.Module) -> None:
    pictures = digits_by_name()
    found = top_examples(digits, "logits", range(10), pictures, count=3)
    labels = digit_sample()[1][::20]
    for unit, best in enumerate(found):
        assert all(labels[int(example.name)] == unit for example in best)
        assert torch.equal(best[0].patch, dict(pictures)[best[0].name][0])


def test_examples_share_their_pictures_and_patches_are_new(digits: nn.Module) -> None:
    found = top_examples(digits, "conv2", range(50), digits_by_name()[:3], count=3)
    assert len({id(example.picture) for best in found for example in best}) == 3
    first = found[3][0]
    first.patch.zero_()
    assert first.patch.any()


def test_a_patch_at_the_border_is_gray_outside() -> None:
    """The unit fires in the top left corner, where padding is half of what it sees."""
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
    nn.init.ones_(network[0].weight)
    picture = torch.zeros(1, 1, 9, 9)
    picture[:, :, 0, 0] = 1
    picture[:, :, 1, 1] = 0.5
    [[example]] = top_examples(network, "0", [0], [("corner", picture)], count=9)
    half = [[0.5, 0.5, 0.5], [0.5, 1.0, 0.0], [0.5, 0.0, 0.5]]
    assert example.patch.tolist() == [half]


def test_a_field_larger_than_the_picture_shows_the_whole_picture() -> None:
    """A field that is larger in one direction only still has a border."""
    network = nn.Sequential(nn.Conv2d(1, 1, 21, padding=10))
    pictures = [torch.rand(1, 20, 20), torch.rand(1, 12, 30), torch.rand(1, 21, 8)]
    for picture, shape in zip(pictures, [(1, 20, 20), (1, 21, 21), (1, 21, 21)], strict=True):
        [[example]] = top_examples(network, "0", [0], [picture])
        assert example.patch.shape == shape
        assert torch.equal(example.patch, picture) or shape == (1, 21, 21)


def test_a_patch_outside_the_picture_is_gray() -> None:
    for box in ((-6, -6, -3, -3), (2, 20, 5, 23), (20, -9, 23, -6)):
        assert torch.equal(Example(torch.ones(3, 16, 16), 1, "", box).patch, torch.full((3, 3, 3), 0.5))


class Root(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.sqrt()


def test_activations_that_are_not_numbers_are_ignored() -> None:
    """The activation is the square root of a negative number where the picture is dark."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1), Root())
    nn.init.ones_(network[0].weight)
    nn.init.constant_(network[0].bias, -0.5)
    dark, half, bright = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), torch.full((1, 4, 4), 0.6)
    half[0, 1, 2] = 0.75
    [found] = top_examples(network, "1", [0], [dark, half, bright, dark], count=4)
    assert [example.name for example in found] == ["#1", "#2"]
    assert [example.activation for example in found] == pytest.approx([0.5, 0.1**0.5])
    assert found[0].patch.tolist() == [[[0.75]]]


def test_tokens_are_not_cropped() -> None:
    network = torchvision.models.VisionTransformer(64, 32, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32)
    pictures = [(str(number), torch.rand(1, 3, 64, 64)) for number in range(3)]
    [best] = top_examples(network, "encoder.layers.encoder_layer_0.ln_1", [7], pictures)
    assert torch.equal(best[0].patch, dict(pictures)[best[0].name][0])


class Digits(Dataset[tuple[Tensor, int]]):
    """A data set as people write them: a length and items, and no error at the end."""

    classes = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    def __init__(self) -> None:
        self.images, self.labels = (each[::20] for each in digit_sample())

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index % len(self)], int(self.labels[index % len(self)])


def test_pictures_of_a_data_set(digits: nn.Module) -> None:
    data = Digits()
    [expected] = top_examples(digits, "conv2", [7], digits_by_name(), count=5)
    labeled = [f"{Digits.classes[data[int(example.name)][1]]} #{example.name}" for example in expected]
    plain = TensorDataset(data.images, data.labels)
    numbered = [f"{data[int(example.name)][1]} #{example.name}" for example in expected]
    unlabeled = [f"#{example.name}" for example in expected]
    forms: list[tuple[Any, list[str]]] = [
        (data, labeled),
        (DataLoader(data, batch_size=7), labeled),
        (plain, numbered),
        (DataLoader(plain, batch_size=7), numbered),
        (list(data.images), unlabeled),
        (data.images.split(7), unlabeled),
        (((image, image.mean()) for image in data.images), unlabeled),  # what follows an image need not be a label
        (((image, Digits.classes[label]) for image, label in (data[i] for i in range(len(data)))), labeled),
    ]
    for other in (10, "abc", {"a": 0}):  # what is called classes need not be a list of their names
        counted = TensorDataset(data.images, data.labels)
        counted.classes = other  # type: ignore[attr-defined]
        forms.append((counted, numbered))
    named = TensorDataset(data.images, data.labels)
    named.classes = np.array(Digits.classes)  # type: ignore[attr-defined]
    forms.append((named, labeled))
    everything = range(len(data))
    half = len(data) // 2
    parts = [Subset(data, everything[:half]), Subset(data, everything[half:])]
    forms.append((DataLoader(Subset(Subset(data, everything), everything), batch_size=7), labeled))
    forms.append((ConcatDataset(parts), labeled))
    forms.append((ConcatDataset([parts[0], TensorDataset(data.images[half:], data.labels[half:])]), numbered))
    for pictures, names in forms:
        [found] = top_examples(digits, "conv2", [7], pictures, count=5)
        assert [example.name for example in found] == names
        assert [example.activation for example in found] == pytest.approx([e.activation for e in expected], rel=1e-4)
        assert all(torch.equal(mine.patch, other.patch) for mine, other in zip(found, expected, strict=True))


def test_pictures_in_other_forms(digits: nn.Module) -> None:
    """A data set without a transform gives Pillow images, and one of video frames gives channels last."""
    levels = (255 * Digits().images).round().byte()
    [expected] = top_examples(digits, "conv2", [7], levels / 255, count=5)
    frames = DataLoader(TensorDataset(levels.movedim(1, 3)), batch_size=7)
    for pictures in ([to_pillow(each / 255).convert("RGB") for each in levels], frames, list(levels[:, 0].numpy())):
        [found] = top_examples(digits, "conv2", [7], pictures, count=5)
        assert [example.name for example in found] == [example.name for example in expected]
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine.patch, other.patch, rtol=0, atol=1e-6)


def test_pictures_of_several_sizes(digits: nn.Module) -> None:
    """Together they give what each gives alone."""
    pictures = [(f"{number}", torch.rand(1, 1, side, side)) for number, side in enumerate([28, 28, 40, 33, 33, 33, 28])]
    [found] = top_examples(digits, "conv2", [7], pictures)
    alone = [top_examples(digits, "conv2", [7], [picture])[0][0] for picture in pictures]
    alone.sort(key=lambda example: -example.activation)
    assert [example.name for example in found] == [example.name for example in alone]
    assert all(torch.equal(mine.patch, other.patch) for mine, other in zip(found, alone, strict=True))


def test_of_equal_pictures_the_first_are_kept(digits: nn.Module) -> None:
    picture = digit_sample()[0][0]
    [found] = top_examples(digits, "logits", [0], [picture] * 150, count=4)
    assert [example.name for example in found] == ["#0", "#1", "#2", "#3"]


def test_pictures_that_a_network_is_not_to_be_shown(digits: nn.Module) -> None:
    data = Digits()
    normalized = [((image - 0.13) / 0.31, label) for image, label in (data[i] for i in range(3))]
    with pytest.raises(ValueError, match=r"picture 0 must be in \[0, 1\].* do not normalize"):
        top_examples(digits, "conv2", [0], normalized)
    with pytest.raises(TypeError, match=r"picture 'a' must hold fractions .* uint8, .* not int64"):
        top_examples(digits, "conv2", [0], [("a", (255 * data[0][0]).long())])
    with pytest.raises(TypeError, match=r"picture 0 must be an image, .* not dict"):
        top_examples(digits, "conv2", [0], [{"image": data[0][0]}])


def test_errors(digits: nn.Module) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        top_examples(digits, "conv2", [0], [])
    with pytest.raises(ValueError, match="no unit 50 in layer 'conv2'"):
        top_examples(digits, "conv2", [50], digits_by_name())
    with pytest.raises(ValueError, match="did you mean 'conv2'"):
        top_examples(digits, "conv3", [0], digits_by_name())


def test_several_layers_in_one_pass(digits: nn.Module) -> None:
    """The pictures can be read only once. The result is that of one layer after the other."""
    units = {"conv1": range(25), "conv2": [3, 7], "logits": range(10)}
    found = top_examples(digits, list(units), units, iter(digits_by_name()), count=3)
    assert list(found) == list(units)
    for layer, chosen in units.items():
        alone = top_examples(digits, layer, chosen, digits_by_name(), count=3)
        assert [[each.name for each in best] for best in found[layer]] == [[e.name for e in best] for best in alone]
        assert all(torch.equal(a.patch, b.patch) for a, b in zip(found[layer][1], alone[1], strict=True))
    modules = {digits.get_submodule(layer): chosen for layer, chosen in units.items()}
    same = top_examples(digits, list(modules), modules, digits_by_name(), count=3)
    names = [
        {layer: [[e.name for e in best] for best in each] for layer, each in all_.items()} for all_ in (same, found)
    ]
    assert list(same) == list(found)
    assert names[0] == names[1]
    both = top_examples(digits, ["conv1", "conv2"], [7], digits_by_name(), count=3)
    assert [each.name for each in both["conv2"][0]] == [each.name for each in found["conv2"][1]]


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_all_units_against_a_slow_search(digits: nn.Module, batch: int) -> None:
    assert isinstance(digits, DigitCNN)
    pictures = digit_sample()[0][::20]
    maps = digits.conv2(torch.relu(digits.pool1(digits.conv1(pictures)))).detach()
    found = top_examples(digits, "conv2", range(50), DataLoader(TensorDataset(pictures), batch_size=batch), count=4)
    for unit, best in enumerate(found):
        ranked = sorted(range(len(pictures)), key=lambda number: -maps[number, unit].max().item())[:4]
        assert [example.name for example in best] == [f"#{number}" for number in ranked]
        for example, number in zip(best, ranked, strict=True):
            row, column = divmod(int(maps[number, unit].argmax()), 11)
            assert torch.equal(example.patch, pictures[number, :, 2 * row : 2 * row + 8, 2 * column : 2 * column + 8])


def test_pictures_without_activation_are_no_examples() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        network[0].bias.copy_(torch.tensor([-0.5, 0.0]))
    pictures = [torch.full((1, 4, 4), value) for value in (0.2, 0.9, 0.4, 0.7)]
    first, second = top_examples(network, "1", [0, 1], pictures)
    assert [example.name for example in first] == ["#1", "#3"]
    assert second == []


def test_the_memory_does_not_grow_with_the_pictures(digits: nn.Module) -> None:
    alive: list[int] = []

    def pictures() -> Iterator[Tensor]:
        for number in range(1500):
            yield torch.rand(1, 28, 28)
            if number % 250 == 249:
                alive.append(sum(type(each) is Tensor and each.shape == (1, 28, 28) for each in gc.get_objects()))

    top_examples(digits, "conv2", range(10), pictures(), count=3)
    assert max(alive) <= 2 * 10 * 3 + 64


def test_pictures_of_a_folder(digits: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "seven").mkdir()
    pictures = dict(digits_by_name()[:6])
    for name, picture in pictures.items():
        save(picture, tmp_path / "seven" / f"{name}.png")
    (tmp_path / "broken.png").write_text("no picture")
    for folder in (tmp_path, str(tmp_path)):
        [found] = top_examples(digits, "conv2", [7], folder, count=4)
        assert re.search(r"skipped: .*broken\.png", caplog.text)
        caplog.clear()
        [expected] = top_examples(digits, "conv2", [7], list(pictures.items()), count=4)
        assert [example.name for example in found] == [f"seven/{example.name}" for example in expected]
    with pytest.raises(ValueError, match=r"no folder .*none"):
        top_examples(digits, "conv2", [7], tmp_path / "none")


def test_unknown_fields_are_cropped_to_what_has_a_gradient() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, (1, 5)))
    picture = torch.rand(3, 20, 20)
    image = picture[None].clone().requires_grad_()
    activation = network(image)[0, 1]
    activation.max().backward()
    assert image.grad is not None
    rows, columns = (image.grad[0].abs().sum(axes).nonzero()[:, 0] for axes in ((0, 2), (0, 1)))
    [[found]] = top_examples(network, "2", [1], [picture], count=1)
    assert torch.equal(found.patch, picture[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    assert found.patch.shape[1] == 3
    assert found.patch.shape[2] in (5, 6)
