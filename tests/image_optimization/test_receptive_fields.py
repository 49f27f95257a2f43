"""Receptive fields, checked by trial: a row or column of pixels changes all positions that depend on it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from dreamgram.image_optimization.layers import find_layer, list_layers
from dreamgram.image_optimization.receptive_fields import Field, Line
from dreamgram.image_optimization.trial import try_out

SIZE = 26, 38
"""Height and width of the images, which differ so that rows and columns cannot be confused."""


class Ends(nn.Module):
    """A network whose only layer, ``end``, returns the result of a function of the image, or of its features."""

    def __init__(self, run: Callable[..., Tensor], *before: nn.Module, weight: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.before = nn.Sequential(*before) if before else nn.Conv2d(3, 4, 3, padding=1)
        self.weights = nn.ParameterList([nn.Parameter(torch.rand(weight))] if weight else [])
        self.run = run
        self.end = nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.end(self.run(self.before(image), *self.weights))
        return result


def same(x: Tensor) -> Tensor:
    return x


def followed(network: nn.Module, size: tuple[int, int] = SIZE) -> Field:
    """Return the receptive fields that are claimed for the layer ``end``."""
    trial = try_out(network.float().eval(), torch.zeros(1, 3, *size), "shapes", follow_fields=True)
    assert trial.failure is None
    field = trial.seen[-1].field
    assert field is not None
    return field


def observed(network: nn.Module, axis: int, size: tuple[int, int] = SIZE) -> Tensor:
    """Find out which positions a row (axis 0) or column (axis 1) of pixels changes, with positive weights.

    Returns:
        Booleans, (pixels along the axis, positions...), one for each row or column of pixels and each position.
    """
    network = network.double().eval()
    for parameter in network.parameters():
        parameter.data.uniform_(0.1, 1.0).div_(parameter[0].numel() if parameter.ndim > 1 else 1)
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    images = image.repeat(1 + size[axis], 1, 1, 1)
    for place in range(size[axis]):
        line = images[1 + place].select(1 + axis, place)
        line += 1000 + torch.rand_like(line)
    with torch.no_grad():
        # One at a time, because a network may treat images differently that run together.
        outputs = torch.stack([network(each[None])[0] for each in images])
    changed = (outputs[1:] - outputs[:1]).abs() > 1e-9 * (1e-3 + outputs[:1].abs())
    return changed.any(1)


def check(line: Line, changed: Tensor, along: int, tight: bool) -> None:
    """Compare the claims ``line`` with the positions that each row or column of pixels changes.

    ``changed`` has the shape (pixels, rows, columns), and ``along`` is 1 for rows and 2 for columns.
    """
    changed = changed.movedim(along, 1)
    pixels = torch.arange(len(changed))[:, None, None]
    seen = changed.any(0)
    first, last = pixels.where(changed, 10**6).amin(0), pixels.where(changed, -1).amax(0)
    claimed = [torch.from_numpy(each)[:, None].expand(first.shape) for each in (line.real.first, line.real.last)]
    assert (first >= claimed[0])[seen].all()
    assert (last <= claimed[1])[seen].all()
    if tight:
        inside = claimed[0] <= claimed[1]
        assert (first == claimed[0])[inside & seen].all()
        assert (last == claimed[1])[inside & seen].all()
    regular = line.regular()
    if regular is not None:
        start = regular.start + regular.stride * torch.arange(first.shape[0])[:, None].expand(first.shape)
        end = start + regular.side - 1
        assert (first >= start)[seen].all()
        assert (last <= end)[seen].all()
        # The field reaches beyond what is seen only at borders: those of the image, and those where it was cropped.
        middle = len(first) // 2
        if tight and seen[middle].all() and start[middle, 0] >= 0 and end[middle, 0] < len(changed):
            assert (first == start)[middle].all()
            assert (last == end)[middle].all()


def check_network(network: nn.Module, tight: bool = True, size: tuple[int, int] = SIZE) -> Field:
    """Compare what is claimed for ``network`` with what is observed, at all positions, and return the claims."""
    field = followed(network, size)
    changes = [observed(network, axis, size) for axis in (0, 1)]
    if field.whole:
        assert all(bool(each.any()) for each in changes)
        # Each position sees the whole image, or the positions see it together with the padding's zeros.
        assert all(bool(each[0].all() and each[-1].all()) for each in changes)
    elif field.lines is not None:
        assert field.axes in [(2, 3), (3, 2)]
        for line, axis, changed in zip(field.lines, field.axes, changes, strict=True):
            check(line, changed, axis - 1, tight)
    return field


def branches(x: Tensor) -> Tensor:
    return torch.cat([functional.max_pool2d(x, 5, 1, 2), x], 1)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def picture(x: Tensor) -> Tensor:
    return x.transpose(dim0=2, dim1=1).unflatten(2, SIZE)


KNOWN: dict[str, nn.Module] = {
    "nothing": Ends(same),
    "pooling": Ends(lambda x: functional.avg_pool2d(x, 3, 2, 1)),
    "kernels by axis": Ends(same, nn.Conv2d(3, 4, (1, 7), padding=(0, 3)), nn.Conv2d(4, 4, (7, 1), padding=(3, 0))),
    "branches": Ends(branches),
    "sum of branches": Ends(lambda x: x[:, :, 2:-2, 2:-2] + functional.max_pool2d(x, 5, 1)),
    "pixel unshuffle": Ends(lambda x: functional.pixel_unshuffle(x, 2)),
    "unshuffled and convolved": Ends(same, nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3)),
    "slices": Ends(lambda x: x[:, :, 1:, 1:][..., ::2, ::2]),
    "crop": Ends(lambda x: functional.pad(x, (-3, -2, -1, -4))),
    "channels last": Ends(lambda x: functional.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)),
    "rows and columns swapped twice": Ends(lambda x: functional.avg_pool2d(x.mT, (2, 2)).swapaxes(axis0=3, axis1=2)),
    "tokens and back": Ends(lambda x, w: picture(functional.linear(tokens(x), w)), weight=(5, 4)),
    "upsampled and pooled": Ends(lambda x: functional.max_pool2d(functional.interpolate(x, scale_factor=2), 4, 2)),
    "bilinear and pooled": Ends(
        lambda x: functional.max_pool2d(functional.interpolate(x, scale_factor=2, mode="bilinear"), 4, 2)
    ),
    "transposed convolution and stride": Ends(same, nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)),
    "normalized along channels": Ends(lambda x: functional.normalize(x, dim=1)),
    "dilated": Ends(same, nn.Conv2d(3, 4, 3, dilation=3)),
    "same padding": Ends(same, nn.Conv2d(3, 4, 4, padding="same")),
    "reflection": Ends(same, nn.Conv2d(3, 4, 5, padding=2, padding_mode="reflect")),
    "replication": Ends(same, nn.Conv2d(3, 4, 5, padding=2, padding_mode="replicate")),
    "grouped channels": Ends(lambda x: x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)),
    "batch norm and glu": Ends(lambda x: functional.glu(x, dim=-3), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)),
    "instance norm with known statistics": Ends(
        same, nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)
    ),
    "stacked and summed": Ends(lambda x: torch.stack([x, x.relu()], 1).sum(1)),
    "split": Ends(lambda x: x.chunk(2, dim=1)[1] + x.split(2, -3)[0]),
    "channels chosen": Ends(lambda x: x[:, [2, 0]]),
    "largest along channels": Ends(lambda x: torch.max(x, dim=1, keepdim=True)[0] + x.amin(1, keepdim=True)),
    "written in place as a whole": Ends(lambda x: x.clone().relu_().add_(1).mul_(x)),
    "round up": Ends(lambda x: functional.max_pool2d(x, 3, 2, ceil_mode=True)),
    "response norm": Ends(lambda x: functional.local_response_norm(x, 3)),
    "3-d": Ends(lambda x: x[:, :, 0], nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, (3, 3, 5), 1, (0, 1, 3))),
    "1-d over tokens": Ends(lambda x, w: functional.conv1d(x.flatten(2), w).unflatten(2, SIZE), weight=(5, 4, 1)),
}
LOOSE = {"reflection", "replication", "response norm", "3-d", "channels last", "normalized along channels"}
"""Networks in which two influences may cancel each other, or whose fields are not square."""

WHOLE: dict[str, nn.Module] = {
    "mean": Ends(lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 3, 3) + 0),
    "one mean after the other": Ends(lambda x: x.mean(3, keepdim=True).mean(dim=-2, keepdim=True)),
    "gate": Ends(lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True) / 1e3)),
    "instance norm": Ends(same, nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4)),
    "group norm": Ends(same, nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)),
    "layer norm over positions": Ends(same, nn.Conv2d(3, 4, 3, padding=1), nn.LayerNorm((4, *SIZE))),
    "softmax over positions": Ends(lambda x: (x.flatten(2) / 1e3).softmax(-1).unflatten(2, SIZE)),
    "linear over positions": Ends(
        lambda x, w: functional.linear(x.flatten(2), w).unflatten(2, (2, 2)), weight=(4, SIZE[0] * SIZE[1])
    ),
    "attention": Ends(lambda x: picture(functional.scaled_dot_product_attention(*[tokens(x) / 1e3] * 3))),
    "attention by hand": Ends(lambda x: picture((tokens(x) @ tokens(x).mT / 1e6).softmax(-1) @ tokens(x))),
    "global pooling": Ends(lambda x: functional.adaptive_avg_pool2d(x, 1)),
    "largest of all": Ends(lambda x: x.flatten(2).max(dim=2, keepdim=True)[0][..., None]),
    "class token": Ends(
        lambda x, w: functional.scaled_dot_product_attention(*[torch.cat([w, tokens(x) / 1e3], 1)] * 3)[..., None],
        weight=(1, 1, 4),
    ),
}

INDEX = torch.arange(0, SIZE[1], 2)
GRID = torch.rand(1, *SIZE, 2)
MASK = torch.rand(SIZE[0] * SIZE[1], SIZE[0] * SIZE[1]) > 0.5


def written(write: Callable[[Tensor], object]) -> Ends:
    """Return a network that changes a part of its features in place."""

    def run(x: Tensor) -> Tensor:
        x = x.clone()
        write(x)
        return x

    return Ends(run)


def windows(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    cut = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
    cut = functional.scaled_dot_product_attention(cut, cut, cut)
    return cut.view(n, h // 2, w // 2, 2, 2, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


def attention(x: Tensor, **options: object) -> Tensor:
    return picture(functional.scaled_dot_product_attention(*[tokens(x)] * 3, **options))  # type: ignore[arg-type]


def masked_attention(x: Tensor) -> Tensor:
    return picture((tokens(x) @ tokens(x).mT).masked_fill(MASK, -torch.inf).softmax(-1) @ tokens(x))


UNKNOWN: dict[str, nn.Module] = {
    "pixel shuffle": Ends(lambda x: functional.pixel_shuffle(x, 2)),
    "upsampled": Ends(lambda x: functional.interpolate(x, scale_factor=2)),
    "uneven": Ends(lambda x: functional.interpolate(x, size=(31, 31), mode="bilinear")),
    "kernel of rows": Ends(same, nn.Conv2d(3, 4, (1, 7))),
    "roll": Ends(lambda x: x.roll(5, 3)),
    "flip": Ends(lambda x: x.flip(3)),
    "turned": Ends(lambda x: torch.rot90(x, 1, (2, 3))),
    "rows and columns swapped": Ends(lambda x: torch.transpose(x, dim0=2, dim1=3)),
    "columns moved": Ends(lambda x: torch.movedim(x, source=3, destination=2)),
    "warp": Ends(lambda x: functional.grid_sample(x, GRID, align_corners=False)),
    "circular": Ends(same, nn.Conv2d(3, 4, 5, padding=2, padding_mode="circular")),
    "reflection alone": Ends(lambda x: functional.pad(x, (2, 2, 2, 2), "reflect")),
    "reflection with a small kernel": Ends(lambda x: functional.max_pool2d(functional.pad(x, [4] * 4, "reflect"), 2)),
    "cumulative sum": Ends(lambda x: x.cumsum(3)),
    "cumulative largest": Ends(lambda x: x.cummax(dim=2)[0]),
    "logarithm of a cumulative sum": Ends(lambda x: x.logcumsumexp(-1)),
    "softmax over columns": Ends(lambda x: x.softmax(3)),
    "largest in a row": Ends(lambda x: x + torch.max(x, dim=3, keepdim=True)[0]),
    "smallest in a column": Ends(lambda x: x - x.amin(-2, keepdim=True)),
    "range of a row": Ends(lambda x: x / torch.aminmax(x, dim=3, keepdim=True).max),
    "deviation of a row": Ends(lambda x: x / x.std(3, keepdim=True)),
    "norm of a row": Ends(lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)),
    "rows layer norm": Ends(lambda x: functional.layer_norm(x, (SIZE[1],))),
    "linear over columns": Ends(lambda x, w: functional.linear(x, w), weight=(7, SIZE[1])),
    "product with rows": Ends(lambda x, w: torch.einsum("nchw,hv->ncvw", x, w), weight=(SIZE[0], 5)),
    "a constant matrix": Ends(lambda x: (x.flatten(2) @ MASK.to(x)).unflatten(2, SIZE)),
    "gated linear unit of rows": Ends(lambda x: functional.glu(x, dim=-2)),
    "columns split": Ends(lambda x: x.split(19, dim=3)[1]),
    "rows unbound": Ends(lambda x: torch.stack(x.unbind(2)[:5], dim=3)),
    "fft": Ends(lambda x: torch.fft.fft2(x).real),
    "unfold": Ends(lambda x: functional.unfold(x, 2, stride=2).unflatten(2, (13, 19))),
    "windows": Ends(windows),
    "causal attention": Ends(lambda x: attention(x, is_causal=True)),
    "attention with a mask": Ends(lambda x: attention(x, attn_mask=MASK)),
    "attention with a mask by hand": Ends(masked_attention),
    "space to depth by hand": Ends(lambda x: x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))),
    "a mask": Ends(lambda x: x[..., torch.arange(SIZE[1]) % 2 == 0]),
    "columns chosen": Ends(lambda x: x.index_select(3, INDEX)),
    "written in place": written(lambda x: x.index_copy_(3, torch.tensor([3]), x[..., :1].clone())),
    "view written": written(lambda x: x[:, :, ::2].add_(x[:, :, 1::2])),
    "part copied": written(lambda x: x[..., :8].copy_(x[..., 8:16].clone())),
    "set by index": written(lambda x: x.__setitem__((slice(None), slice(None), INDEX[:5]), x[:, :, :5].clone())),
    "given memory": written(lambda x: torch.cumsum(x.clone(), 3, out=x)),
    "zeros written": Ends(lambda x: written_into_zeros(x) + x),
    "a view of what was written": Ends(lambda x: view_of_written(x.clone())),
    "a value elsewhere": Ends(lambda x: x + x[:, :, :1, :1]),
    "elements of another tensor": Ends(lambda x: with_the_elements_of_another(x)),
    "sorted": Ends(lambda x: x.sort(3)[0]),
    "largest three": Ends(lambda x: x.topk(3, dim=2)[0]),
    "places of the largest": Ends(lambda x: x.argmax(3, keepdim=True) + x),
    "tokens beside others": Ends(lambda x: torch.cat([x, x], -1)),
    "moves only by two": Ends(
        lambda x: (
            functional.avg_pool2d(x, 9, 1, 4) + functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2)
        )
    ),
    "scaled by a number": Ends(lambda x: x / x.max().item()),
    "scaled by a list": Ends(lambda x: x / x.amax((0, 1, 3)).tolist()[0]),
}


def written_into_zeros(x: Tensor) -> Tensor:
    zeros = torch.zeros_like(x)
    zeros[..., 4:] = x[..., :-4]
    return zeros


def with_the_elements_of_another(x: Tensor) -> Tensor:
    y = x.clone()
    y.data = x.flip(2)
    return y


def view_of_written(x: Tensor) -> Tensor:
    view = x[:, :2]
    x.copy_(x.flip(3))
    return view + 0


@pytest.mark.parametrize("name", KNOWN)
def test_known_fields_are_exact(name: str) -> None:
    field = check_network(KNOWN[name], tight=name not in LOOSE)
    assert field.lines is not None
    if name not in ("3-d", "crop"):  # whose fields are not squares that begin at the same row and column
        told = find_layer("end", list_layers(KNOWN[name].float(), (3, *SIZE)))
        regular = field.lines[0].regular()
        assert regular is not None
        assert (told.receptive_field, told.stride, told.start) == regular


def places(x: Tensor) -> Tensor:
    """Return a map (1, 1, rows, columns) whose elements count the columns."""
    return torch.arange(x.shape[3]).to(x).expand(1, 1, *x.shape[2:])


def matrix_of_each_position(x: Tensor) -> Tensor:
    matrices = torch.rand(SIZE[0] * SIZE[1], 4, 5)
    return picture(torch.bmm(tokens(x).transpose(0, 1), matrices.to(x)).transpose(0, 1))


def map_and_product(x: Tensor) -> Tensor:
    return picture(torch.baddbmm(places(x).flatten(2).mT, tokens(x), torch.ones(1, 4, 4).to(x)))


def normalized_rows(x: Tensor) -> Tensor:
    statistics = torch.zeros(SIZE[0]).to(x), torch.arange(1, 1 + SIZE[0]).to(x)
    return functional.batch_norm(x.transpose(1, 2), *statistics).transpose(1, 2)


def filled_and_written(x: Tensor) -> Tensor:
    zeros = torch.zeros_like(x)
    zeros[..., ::2] = 1
    return x + zeros


PLACED: dict[str, nn.Module] = {
    "map added": Ends(lambda x: x + places(x)),
    "map of one column": Ends(lambda x: x - places(x)[:, :, :1]),
    "map as a factor": Ends(lambda x: x * places(x)),
    "map as a mask": Ends(lambda x: x.masked_fill(places(x) > 9, 0)),
    "map beside": Ends(lambda x: torch.cat([places(x), x], 1)),
    "map stacked": Ends(lambda x: torch.stack([x[:, :1], places(x)], 2)[:, :, 0]),
    "map before others": Ends(lambda x: functional.avg_pool2d((x + places(x)).relu(), 3, 2)[:, :2] + 1),
    "map in one branch": Ends(lambda x: x + (x + places(x)).sigmoid()),
    "noise": Ends(lambda x: x + torch.randn_like(x)),
    "weights": Ends(lambda x, w: x + w[..., : x.shape[3]], weight=(4, SIZE[0], 99)),
    "matrix of each position": Ends(matrix_of_each_position),
    "map and product": Ends(map_and_product),
    "normalized rows": Ends(normalized_rows),
    "zeros that are written": Ends(filled_and_written),
    "windows of the image's size": Ends(lambda x: functional.adaptive_avg_pool2d(x, (13, 19))),
    "crop": Ends(lambda x: functional.avg_pool2d(x[:, :, 1:-1, 1:-1], 3, 1, 1), nn.Conv2d(3, 4, 1)),
    "end removed": Ends(lambda x: x[:, :, :-2, :-2], nn.Conv2d(3, 4, 3, padding=1)),
    "start removed": Ends(lambda x: x[:, :, 2:, 2:], nn.Conv2d(3, 4, 3, padding=1)),
    "negative padding": Ends(lambda x: functional.pad(x, [-1] * 4), nn.Conv2d(3, 4, 1)),
    "transposed convolution with a crop": Ends(same, nn.ConvTranspose2d(3, 4, 1, 1, 1)),
    "transposed convolution with gaps": Ends(same, nn.ConvTranspose2d(3, 4, 1, 2), nn.Conv2d(4, 4, 3, 2, 1)),
    "crop in one branch": Ends(lambda x: x[:, :, 2:-2, 2:-2] + functional.max_pool2d(x, 5, 1), nn.Conv2d(3, 4, 1)),
}

LOCAL: dict[str, nn.Module] = {
    "zeros": Ends(lambda x: torch.where(x > 0, x, torch.zeros_like(x))),
    "zeros beside": Ends(lambda x: torch.cat([x, x.new_zeros(1, 2, *x.shape[2:])], 1)),
    "channels expanded": Ends(lambda x, w: x * w[:, None, None].expand_as(x), weight=(4,)),
    "table of channels": Ends(lambda x: x + torch.arange(4).to(x)[:, None, None]),
    "every second": Ends(lambda x: x[:, :, 1::2, 1::2]),
    "product": Ends(lambda x, w: picture(tokens(x) @ w), weight=(4, 5)),
    "transposed convolution": Ends(same, nn.ConvTranspose2d(3, 4, 3, 2, 1, 1), nn.MaxPool2d(2)),
    "no padding": Ends(same, nn.Conv2d(3, 4, 5, 3), nn.Conv2d(4, 4, 3, padding=1)),
}


@pytest.mark.parametrize("name", PLACED)
def test_what_differs_in_a_part_of_the_image(name: str) -> None:
    told = find_layer("end", list_layers(PLACED[name].eval(), (3, *SIZE)))
    assert told.receptive_field is not None
    assert not told.local


@pytest.mark.parametrize("name", LOCAL)
def test_what_is_the_same_in_a_part_of_the_image(name: str) -> None:
    assert find_layer("end", list_layers(LOCAL[name].eval(), (3, *SIZE))).local


@pytest.mark.parametrize("name", WHOLE)
def test_what_sees_the_whole_image(name: str) -> None:
    told = find_layer("end", list_layers(WHOLE[name].float().eval(), (3, *SIZE)))
    assert told.whole_image
    assert (told.receptive_field, told.stride, told.start) == (None, None, None)
    for axis in (0, 1):
        changed = observed(WHOLE[name], axis)
        assert changed.all() if "largest" not in name else changed.any(0).all()


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_unknown(name: str) -> None:
    """These fields are of several sizes, or not known to be right, so that nothing is said about them."""
    told = find_layer("end", list_layers(UNKNOWN[name].eval(), (3, *SIZE)))
    assert (told.receptive_field, told.stride, told.start, told.whole_image) == (None, None, None, False)


@pytest.mark.parametrize(("rows", "whole"), [(26, True), (21, True), (20, False), (19, False)])
def test_an_unseen_border_is_narrower_than_a_stride(rows: int, whole: bool) -> None:
    """A convolution of 7 rows sees 21 of 26 rows; without some of the last rows, it sees only 14."""
    network = Ends(lambda x: x[:, :, :rows].mean((2, 3), keepdim=True), nn.ZeroPad2d(0))
    windows = Ends(lambda x: x.mean((2, 3), keepdim=True), nn.ZeroPad2d((0, 0, 0, rows - 26)), nn.Conv2d(3, 4, 7, 7))
    assert followed(network).whole == (rows == 26)
    assert followed(windows).whole == whole
    assert not observed(windows, 0)[rows // 7 * 7 :].any()


def random_block(draw: random.Random, channels: int) -> tuple[nn.Module, int]:
    """Return a random module for ``channels`` channels, and its number of output channels."""

    def two(least: int, most: int) -> tuple[int, int]:
        return draw.randint(least, most), draw.randint(least, most)

    kernel, step, padding, dilation = two(1, 4), two(1, 2), two(0, 2), two(1, 2)
    half = (min(padding[0], kernel[0] // 2), min(padding[1], kernel[1] // 2))
    sides = [draw.randint(-1, 3) for _ in range(4)]
    blocks: list[Callable[[], tuple[nn.Module, int]]] = [
        lambda: (nn.Conv2d(channels, 4, kernel, step, padding, dilation), 4),
        lambda: (nn.Conv2d(channels, 3, kernel, padding=two(0, 2), padding_mode="reflect"), 3),
        lambda: (nn.ConvTranspose2d(channels, 4, kernel, step, half, (0, 0), dilation=dilation), 4),
        lambda: (nn.MaxPool2d(kernel, step, half, dilation, ceil_mode=draw.random() < 0.5), channels),
        lambda: (nn.AvgPool2d(kernel, step, half, ceil_mode=draw.random() < 0.5), channels),
        lambda: (nn.Upsample(scale_factor=two(1, 3), mode=draw.choice(["nearest", "bilinear"])), channels),
        lambda: (nn.ZeroPad2d(sides), channels),
        lambda: (nn.ReflectionPad2d([abs(side) for side in sides]), channels),
        lambda: (nn.ReplicationPad2d([abs(side) for side in sides]), channels),
        lambda: (nn.BatchNorm2d(channels), channels),
        lambda: (nn.ReLU(inplace=True), channels),
        lambda: (Ends(lambda x: x[:, :, sides[0] % 3 :: step[0], : -1 - padding[0]], nn.Identity()), channels),
        lambda: (Ends(lambda x: x.mT, nn.Identity()), channels),
        lambda: (Ends(lambda x: torch.cat([x, functional.max_pool2d(x, 3, 1, 1)], 1), nn.Identity()), 2 * channels),
        lambda: (Ends(lambda x: x + functional.avg_pool2d(x, (1, 3), 1, (0, 1)), nn.Identity()), channels),
        lambda: (Ends(lambda x: x.flatten(2).relu().view(x.shape), nn.Identity()), channels),
    ]
    return draw.choice(blocks)()


def random_network(seed: int) -> nn.Module:
    draw = random.Random(seed)
    channels, blocks = 3, list[nn.Module]()
    for _ in range(draw.randint(2, 5)):
        block, channels = random_block(draw, channels)
        blocks.append(block)
    return Ends(same, *blocks)


def check_random_networks(seeds: range) -> int:
    """Compare claims with observations for networks of random layers, and return how many of them were compared."""
    compared = 0
    for seed in seeds:
        network = random_network(seed)
        try:
            network.eval()(torch.zeros(1, 3, *SIZE))
        except RuntimeError:  # a window is larger than its input
            continue
        print(f"seed {seed}: {network.before}")
        compared += check_network(network).lines is not None
    return compared


def test_random_networks() -> None:
    """``check_random_networks(range(1000, 1200))`` compares more of them."""
    assert check_random_networks(range(20)) >= 15


def sizes_by_hand(windows: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Compute side, stride and start of the fields after windows (kernel, step, padding), one after the other."""
    side, stride, start = 1, 1, 0
    for kernel, step, padding in windows:
        side, start, stride = side + (kernel - 1) * stride, start - padding * stride, stride * step
    return side, stride, start


@pytest.mark.parametrize(
    ("build", "layer", "windows"),
    [
        (
            torchvision.models.vgg16,
            "features.29",
            [*[(3, 1, 1)] * 2, (2, 2, 0)] * 2 + [*[(3, 1, 1)] * 3, (2, 2, 0)] * 2 + [(3, 1, 1)] * 3,
        ),
        (
            torchvision.models.resnet50,
            "layer4",
            [(7, 2, 3), (3, 2, 1)]
            + [(3, 1, 1)] * 3
            + [window for blocks in (4, 6, 3) for window in [(3, 2, 1), *[(3, 1, 1)] * (blocks - 1)]],
        ),
    ],
)
def test_fields_computed_by_hand(
    build: Callable[[], nn.Module], layer: str, windows: list[tuple[int, int, int]]
) -> None:
    told = find_layer(layer, list_layers(build().eval(), (3, 224, 224)))
    assert (told.receptive_field, told.stride, told.start) == sizes_by_hand(windows)
    assert told.receptive_field == {"features.29": 196, "layer4": 427}[layer]


@pytest.mark.parametrize(
    ("build", "fields"),
    [
        (torchvision.models.resnet18, {"layer1": 43, "layer2": 99, "layer4": 435, "fc": None}),
        (torchvision.models.squeezenet1_1, {"features.4.squeeze": 15}),
        (lambda: torchvision.models.inception_v3(init_weights=False), {"Mixed_5b": 63, "Mixed_7c": 1311}),
    ],
)
def test_fields_of_known_networks(build: Callable[[], nn.Module], fields: dict[str, int | None]) -> None:
    """The sizes are those that the literature gives, or that follow from the kernels."""
    layers = {layer.name: layer for layer in list_layers(build().eval(), (3, 224, 224))}
    assert {name: layers[name].receptive_field for name in fields} == fields
