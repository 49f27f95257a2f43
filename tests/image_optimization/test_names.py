from __future__ import annotations

import pytest

from dreamgram.image_optimization.names import LISTED, did_you_mean, must_be, unknown


def test_an_unknown_name_is_told_what_there_is() -> None:
    assert unknown("preset", "gatis", ["default", "gatys"]) == (
        "no preset 'gatis'; did you mean 'gatys'? there are default, gatys"
    )
    assert unknown("device", "tpu", ["cuda"], "this machine has") == "no device 'tpu'; this machine has cuda"
    many = [f"layer{number}" for number in range(LISTED + 5)]
    assert unknown("layer", "zzz", iter(many)).endswith(f"layer{LISTED - 1} and 5 more")
    assert did_you_mean("zzz", many) == ""


@pytest.mark.parametrize(
    ("choices", "listed"),
    [(["adam"], "'adam'"), (["adam", "lbfgs"], "'adam' or 'lbfgs'"), (["a", "b", "c"], "'a', 'b' or 'c'")],
)
def test_a_choice_is_listed_with_or(choices: list[str], listed: str) -> None:
    assert must_be("momentum", choices) == f"must be {listed}, not 'momentum'"


def test_a_choice_that_is_nearly_right() -> None:
    assert must_be("bfgs", ["adam", "lbfgs"]) == "must be 'adam' or 'lbfgs', not 'bfgs'; did you mean 'lbfgs'?"
