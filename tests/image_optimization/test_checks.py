"""Numbers and networks that callers give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dreamgram.image_optimization.checks import as_model, as_number, as_whole


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float32(3), np.array(3), torch.tensor(3), torch.tensor(3.0)])
def test_numbers_in_other_forms(value: Any) -> None:
    assert as_whole(value, "steps") == as_number(value, "steps") == 3
    assert type(as_whole(value, "steps")) is int
    assert type(as_number(value, "steps")) is float


@pytest.mark.parametrize("value", ["3", None, True, np.True_, [3], np.array([3]), torch.tensor([3]), 3j, int])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^steps must be a whole number, not "):
        as_whole(value, "steps")
    with pytest.raises(TypeError, match=r"^weight must be a number, not "):
        as_number(value, "weight")


def test_numbers_that_are_out_of_range() -> None:
    assert as_number(2.5, "weight") == 2.5
    for value in (2.5, float("nan"), np.inf):
        with pytest.raises(TypeError, match=f"^steps must be a whole number, not .*{value}"):
            as_whole(value, "steps")
    for value in (float("nan"), torch.tensor(np.inf)):
        with pytest.raises(ValueError, match=r"^weight must be a finite number, not "):
            as_number(value, "weight")
    with pytest.raises(ValueError, match=r"^steps must be at least 1, not 0$"):
        as_whole(0, "steps", least=1)
    with pytest.raises(ValueError, match=r"^seed must be at most 7, not 8$"):
        as_whole(8, "seed", most=7)
    assert as_whole(-(10**400), "number") == -(10**400)
    with pytest.raises(ValueError, match=r"^steps must be at most 2147483647, not 10000000000000000\d*\.\.\.$"):
        as_whole(10**400, "steps", least=1)
    with pytest.raises(ValueError, match=r"^weight must be a finite number, not 1000"):
        as_number(10**400, "weight")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 2).state_dict(), "model is a state_dict: load it into its network"),
        (nn.Linear, r"model must be a torch.nn.Module, .* not the class Linear, which must be called"),
        (lambda: nn.Linear(2, 2), r"not the function <lambda>, which must be called"),
        ("vgg16", r"not str$"),
        (None, r"not NoneType$"),
        (np, r"not the module numpy$"),
    ],
)
def test_what_is_no_network(model: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        as_model(model)
