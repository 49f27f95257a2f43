from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from image_optimization.capture import capture
from image_optimization.images import load
from image_optimization.layers import list_layers
from image_optimization.lbfgs import HISTORY
from style_transfer import PRESETS, Cache, Stylized, stylize
from style_transfer.budget import VECTORS, Budget, bytes_of_a_pixel, memory, plan
from style_transfer.tiling import smallest_side, split
from tests.conftest import Command

GIGA = 10**9
LAYERS = PRESETS["default"].layers


def test_what_fits_is_one_piece(vgg16: nn.Module) -> None:
    budget = plan(4 * GIGA, GIGA // 2, 512 * 512, 2000, "lbfgs")
    assert budget.pairs == HISTORY
    assert len(budget.tiles(vgg16, LAYERS, torch.zeros(1, 3, 512, 512))) == 1


def test_less_memory_smaller_tiles_and_a_shorter_past(vgg16: nn.Module) -> None:
    pixels = 3840 * 2160
    generous, tight = (plan(limit, GIGA // 2, pixels, 2000, "lbfgs") for limit in (20 * GIGA, 4 * GIGA))
    assert generous.pairs > tight.pairs >= 3
    assert generous.side > tight.side
    assert plan(4 * GIGA, GIGA // 2, pixels, 2000, "adam").side > tight.side
    # All that is planned for stays below the limit.
    assert GIGA // 2 + 12 * pixels * (VECTORS + 2 * tight.pairs) + tight.side**2 * 2000 <= 4 * GIGA
    assert len(tight.tiles(vgg16, LAYERS, torch.zeros(1, 3, 1100, 1000))) > 1


def test_what_a_pixel_costs(vgg16: nn.Module) -> None:
    costs = []
    for dtype in (torch.bfloat16, torch.float32):
        with capture(vgg16, LAYERS, dtype) as read:
            costs.append(bytes_of_a_pixel(read, torch.device("cpu")))
    low, exact = costs
    # All activations up to relu5_1, once: 266 numbers a pixel.
    assert 266 * 2 < low < 5 * 266 * 2
    assert 266 * 4 < exact < 5 * 266 * 4
    assert 1.5 * low < exact


def test_the_limit_is_most_of_what_is_free() -> None:
    limit, taken = memory(torch.device("cpu"), None)
    assert 10**7 < taken < limit
    assert memory(torch.device("cpu"), 10**9)[0] == 10**9


def test_memory_is_measured_once_for_photos_one_after_the_other(
    photo: Tensor, painting: Tensor, vgg16: nn.Module
) -> None:
    """What the first took and keeps would be counted again for the next."""
    cache = Cache()
    how: dict[str, Any] = {"model": vgg16, "size": 40, "steps": 1, "cache": cache}
    taken = memory(torch.device("cpu"), None)[1]
    stylize(photo, [painting], max_memory=taken + GIGA, **how)
    assert list(cache.budgets) == [(40, 34)]
    stylize(photo, [painting], **{**how, "size": 48})
    assert list(cache.budgets) == [(40, 34), (48, 41)]
    assert cache.measured is not None
    assert cache.measured[0] == taken + GIGA
    with pytest.raises(ValueError, match="GB are too little for a picture of 1,360 pixels and a"):
        stylize(photo, [painting], max_memory=taken // 2, **{**how, "cache": None})


def test_tiles_make_the_same_picture(
    photo_file: Path, painting: Tensor, vgg16: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> Stylized:
        how: dict[str, Any] = {"model": vgg16, "size": 300, "steps": 2, "optimizer": "adam", "precision": "float32"}
        return stylize(load(photo_file), [painting], **how)

    monkeypatch.setattr("style_transfer.transfer.COARSEST", 300)
    whole = made()
    monkeypatch.setattr("style_transfer.budget.plan", lambda *arguments: Budget(pairs=20, side=256))
    tiled = made()
    assert (whole.image - tiled.image).abs().mean() < 1e-3
    torch.testing.assert_close(whole.history[-1], tiled.history[-1], rtol=1e-3, atol=0)


MEASURED = """
from pathlib import Path
from style_transfer.cli import main
try:
    main()
finally:
    [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(int(peak.split()[1]) * 1024)  # resource.getrusage would count the memory of the process that began this one
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_limit_holds(photo_file: Path, tmp_path: Path) -> None:
    """For two photos one after the other, a large painting, and a loss that looks at every position."""
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
    """Of a deeper layer more is needed around a tile: that much has to fit."""
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
    run = command("stylize", photo_file, "--style", "marbling", "--max-memory", "lots")
    assert (run.code, run.err) == (2, "error: memory is given as 4G or 800M, not 'lots'\n")


@pytest.mark.parametrize(("text", "size"), [("4G", 4e9), ("800M", 8e8), ("1.5 GB", 1.5e9), ("2gb", 2e9)])
def test_how_memory_is_written(text: str, size: float) -> None:
    from style_transfer.cli import _bytes

    assert _bytes(text) == size
