"""No step waits for an accelerator or copies to it. The steps run on a pretended device, in another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dreamgram.activation_maximization.expressions import PARAMETERIZATIONS
from dreamgram.activation_maximization.objectives import OBJECTIVES
from dreamgram.activation_maximization.regularizers import REGULARIZERS
from dreamgram.image_optimization.optimize import OPTIMIZERS
from dreamgram.style_transfer.losses import STYLE_LOSSES

DREAMS = [
    *OBJECTIVES,
    *REGULARIZERS,
    *(f"optimizer {name}" for name in OPTIMIZERS),
    *(f"parameterization {name}" for name in PARAMETERIZATIONS),
]
STYLE_TRANSFERS = [f"{loss}, {kind}" for loss in STYLE_LOSSES for kind in ("plain", "two styles", "masks", "tiles")]


@pytest.fixture(scope="module")
def events() -> dict[str, dict[str, int]]:
    """The events in the loop of each run, counted over 15 steps."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.waits"], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert not result.returncode, result.stderr[-3000:]
    return {case["name"]: case["events"] for case in map(json.loads, result.stdout.splitlines())}


@pytest.mark.parametrize("name", [*STYLE_TRANSFERS, "adam"])
def test_style_transfer_only_reads_the_losses(name: str, events: dict[str, dict[str, int]]) -> None:
    found = dict(events[name])
    assert found.pop("operations") > 1000
    assert found == {"wait: tolist": 1}


@pytest.mark.parametrize("name", DREAMS)
def test_activation_maximization_also_copies_the_random_views(name: str, events: dict[str, dict[str, int]]) -> None:
    found = dict(events[name])
    assert found.pop("operations") > 500
    assert found == {"wait: tolist": 1, "copy: to the device": 1}
