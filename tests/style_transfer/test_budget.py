from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn

from dreamgram.image_optimization.adam import Adam
from dreamgram.image_optimization.capture import capture
from dreamgram.image_optimization.images import load
from dreamgram.image_optimization.layers import list_layers
from dreamgram.image_optimization.lbfgs import HISTORY, LBFGS
from dreamgram.style_transfer import budget
from dreamgram.style_transfer.budget import MORE_VECTORS, VECTORS, WHOLE, Budget, bytes_of_a_pixel, memory, plan
from dreamgram.style_transfer.presets import PRESETS
from dreamgram.style_transfer.stylizer import Stylizer
from dreamgram.style_transfer.tiling import smallest_side, split
from tests.conftest import Command

GIGA = 10**9
LAYERS = PRESETS["default"].layers


def test_what_fits_is_one_piece(vgg16: nn.Module) -> None:
    found = plan(4 * GIGA, GIGA // 2, 512 * 512, 2000, LBFGS.VECTORS_PER_PAIR)
    assert found.pairs == HISTORY
    assert len(found.tiles(vgg16, LAYERS, torch.zeros(1, 3, 512, 512))) == 1


def test_less_memory_smaller_tiles_and_a_shorter_past(vgg16: nn.Module) -> None:
    pixels, per_pair = 3840 * 2160, LBFGS.VECTORS_PER_PAIR
    generous, tight = (plan(limit, GIGA // 2, pixels, 2000, per_pair) for limit in (20 * GIGA, 4 * GIGA))
    assert generous.pairs > tight.pairs >= 3
    assert generous.side > tight.side
    assert plan(4 * GIGA, GIGA // 2, pixels, 2000, Adam.VECTORS_PER_PAIR).side > tight.side
    # The planned memory stays below the limit.
    assert (
        GIGA // 2 + 12 * pixels * (VECTORS + MORE_VECTORS + per_pair * tight.pairs) + tight.side**2 * 2000 <= 4 * GIGA
    )
    assert len(tight.tiles(vgg16, LAYERS, torch.zeros(1, 3, 1100, 1000))) > 1
    # What the command has in use before it paints a picture of 3840 x 2160 pixels leaves enough of 4 GB.
    assert plan(4_000_000_000, 950_000_000, pixels, 2400, per_pair).pairs >= 3


def test_the_memory_of_a_pixel(vgg16: nn.Module) -> None:
    costs = []
    for dtype in (torch.bfloat16, torch.float32):
        with capture(vgg16, LAYERS, dtype) as activations_of:
            costs.append(bytes_of_a_pixel(activations_of, torch.device("cpu")))
    low, exact = costs
    # A pass saves all activations up to relu4_2 once: 256 numbers per pixel.
    assert 256 * 2 < low < 5 * 256 * 2
    assert 256 * 4 < exact < 5 * 256 * 4
    assert 1.5 * low < exact


def test_the_limit_is_most_of_what_is_free() -> None:
    limit, taken = memory(torch.device("cpu"), None)
    assert 10**7 < taken < limit
    assert memory(torch.device("cpu"), 10**9)[0] == 10**9


def test_memory_is_measured_once_for_photos_one_after_the_other(
    photo: Tensor, painting: Tensor, vgg16: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, the memory that the first photo allocated and keeps would be counted again for the second photo."""
    in_use = [GIGA]

    def measure(device: torch.device, limit: int | None) -> tuple[int, int]:
        return limit or 0, in_use[0]

    monkeypatch.setattr(budget, "memory", measure)
    first = Stylizer(photo, [painting], model=vgg16, size=40, steps=1, max_memory=2 * GIGA)
    assert first.run().plan == [WHOLE]
    in_use[0] = 2 * GIGA
    for changes in ({"photo": 1 - photo}, {"size": 48}, {"style_weight": 2}):
        assert first.change(**changes).run().plan == [WHOLE]
    with pytest.raises(ValueError, match="2 GB are too little for a picture of 1,360 pixels"):
        first.change(max_memory=2 * GIGA + 1).run()  # a different limit is planned anew
    with pytest.raises(ValueError, match="and a painting of"):  # the budget for a smaller painting is not reused
        first.change(style_scale=1e5).run()


@pytest.mark.parametrize("turned", [False, True])
def test_tiles_make_the_same_picture(turned: bool, photo_file: Path, painting: Tensor, vgg16: nn.Module) -> None:
    """The tiles of the deep layers are large. Strips of the pictures have several of them, but few pixels."""
    options: dict[str, Any] = {"size": 256, "scales": [256], "steps": 2, "optimizer": "adam", "precision": "float32"}
    strips = [load(photo_file)[:, :, 100:228], painting[:, :, 24:40]]
    photo, style = (strip.mT if turned else strip for strip in strips)
    shape = (1, 3, 256, 64) if turned else (1, 3, 64, 256)
    stylizer = Stylizer(photo, [style], model=vgg16, plan=[WHOLE], **options)
    tiles = Budget(pairs=20, side=120)
    assert len(tiles.tiles(vgg16, LAYERS, torch.zeros(shape))) > 3
    whole, tiled = stylizer.run(), stylizer.change(plan=[tiles]).run()
    assert whole.image.shape == shape
    assert not torch.equal(whole.image, tiled.image)  # they differ by rounding errors
    assert (whole.image - tiled.image).abs().mean() < 1e-3
    torch.testing.assert_close(whole.history[-1], tiled.history[-1], rtol=1e-3, atol=0)


MEASURED = """
from pathlib import Path
from dreamgram.style_transfer.cli import main
try:
    main()
finally:
    [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(int(peak.split()[1]) * 1024)  # resource.getrusage would count the memory of the parent process
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_limit_holds(photo_file: Path, tmp_path: Path) -> None:
    """The limit holds for two photos in a row, a large painting, and a loss that uses all positions."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(photo_file, photos / name)
    options = "--style marbling --style-scale 3 --style-loss nearest --size 400 --steps 1 --max-memory 1400M -o out"
    line = [sys.executable, "-c", MEASURED, str(photos), *options.split()]
    run = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.splitlines()[-1]) < 1.4e9


def test_a_tile_is_larger_than_what_it_depends_on(vgg16: nn.Module) -> None:
    """A deeper layer needs more pixels around a tile's own part, and these pixels must fit into the tile."""
    layers = {layer.name: layer for layer in list_layers(vgg16, (3, 128, 128))}
    assert smallest_side([layers["relu5_3"]]) > smallest_side([layers["relu4_1"]])
    for name in ("relu4_1", "relu5_3"):
        side = smallest_side([layers[name]])
        tiles = split([layer for layer in list_layers(vgg16, (3, 700, 700)) if layer.name == name], (700, 700), side)
        assert max(part.stop - part.start for tile in tiles for part in tile.pixels) <= side


def test_too_little_memory_as_typed(command: Command, photo_file: Path) -> None:
    run = command("stylize", photo_file, "--style", "marbling", "--size", 300, "--max-memory", "100M", "--steps", 1)
    assert run.code == 2
    assert "0.1 GB are too little for a picture of" in run.err
    assert "; the optimizer adam needs less" in run.err


def test_the_measured_passes_free_their_memory(vgg16: nn.Module) -> None:
    """A graph whose tensors are packed as themselves is never freed: each measurement would leave 15 MB."""
    process = psutil.Process()
    with capture(vgg16, ["relu1_1", "relu1_2"]) as activations_of:
        bytes_of_a_pixel(activations_of, torch.device("cpu"))
        before = process.memory_info().rss
        for _ in range(10):
            bytes_of_a_pixel(activations_of, torch.device("cpu"))
    assert process.memory_info().rss - before < 40e6


def test_a_picture_that_is_too_small_for_deeper_layers_can_have_tiles(vgg16: nn.Module) -> None:
    """VGG's last pooling needs 32 pixels each way, but the losses do not use it."""
    narrow = torch.zeros(1, 3, 28, 400)
    assert len(Budget(pairs=20, side=60).tiles(vgg16, ["relu2_1"], narrow)) > 1
