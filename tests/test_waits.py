"""No step waits for an accelerator or copies to it. The steps run on a pretended device, in another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases import DREAMS, STYLE_TRANSFERS


@pytest.fixture(scope="module")
def events() -> dict[str, dict[str, int]]:
    """The events in the loop of each run, counted from the third step to the second-to-last."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.waits"], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert not result.returncode, result.stderr[-3000:]
    return {case["name"]: case["events"] for case in map(json.loads, result.stdout.splitlines())}


@pytest.mark.parametrize("name", [*STYLE_TRANSFERS, *DREAMS])
def test_the_loop_only_reads_the_losses(name: str, events: dict[str, dict[str, int]]) -> None:
    found = dict(events[name])
    assert found.pop("operations") > 500
    assert found == {"wait: tolist": 1}
