"""Test whether other classifiers can read dreamed digits: ``python -m benchmarks.digit_judges --data DIR``.

Each of the three digit networks dreams ten digits with each of five seeds: without a regularizer, with the regularizer
``sparing``, and with the objective of ``dream digits``. The digits are read by classifiers that were not used to make
them: the other two networks, and a vote of the five nearest neighbors among MNIST's training digits. The last column of
the printed table is the mean distance of a dreamed digit from the nearest training digit, divided by the same distance
for real test digits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from dreamgram.activation_maximization.commands import readable_digits
from dreamgram.activation_maximization.gradient_ascent import maximize
from dreamgram.activation_maximization.objectives import logit
from dreamgram.activation_maximization.options import DigitsOptions
from dreamgram.activation_maximization.regularizers import sparing
from dreamgram.models import load
from dreamgram.models.digits import digit_sample
from dreamgram.models.train_digits import mnist

NEIGHBORS = 5
"""Number of nearest training digits that vote on the class of a dreamed digit."""

CLASSES = torch.arange(10)

Judge = Callable[[Tensor], Tensor]
"""Classifier: a function from digits (N, 1, 28, 28) to their classes (N,)."""


def main(
    data: Annotated[Path, typer.Option(help="Folder with MNIST, which is downloaded if missing.")] = Path("data"),
    first_seed: Annotated[int, typer.Option(help="First of five seeds. Ten digits are made with each seed.")] = 0,
) -> None:
    """Test whether other classifiers can read dreamed digits."""
    images, labels = mnist(data, train=True)
    known = images.flatten(1)

    def nearest(digits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances and labels, (N, 5) each, of the five training digits nearest to each digit."""
        found = torch.cdist(digits.flatten(1), known).topk(NEIGHBORS, largest=False)
        return found.values, labels[found.indices]

    networks = {name: load(name) for name in ("digits", "digits-robust", "digits-mlp")}
    judges: dict[str, Judge] = {
        name: lambda dreams, network=network: network(dreams).argmax(1)  # type: ignore[misc]
        for name, network in networks.items()
    }
    judges["5 nearest"] = lambda dreams: nearest(dreams)[1].mode(1).values
    real = torch.cat([nearest(part)[0][:, 0] for part in digit_sample()[0].split(200)]).mean()
    objectives = {
        "none": logit(range(10)),
        "sparing()": logit(range(10)) - sparing(),
        "dream digits": readable_digits(DigitsOptions(), range(10)),
    }
    seeds = range(first_seed, first_seed + 5)
    print(f"{'read right, of 10: mean (worst seed)':<36}", *(f"{name:>14}" for name in judges), f"{'distance':>9}")
    for name, network in networks.items():
        for regularizer, objective in objectives.items():
            dreams = [maximize(network, objective, seed=seed).images for seed in seeds]
            cells = []
            for judge, classes_of in judges.items():
                right = [int((classes_of(each) == CLASSES).sum()) for each in dreams]
                cells.append("" if judge == name else f"{sum(right) / len(seeds):.1f} ({min(right)})")
            distance = torch.cat([nearest(each)[0][:, 0] for each in dreams]).mean() / real
            print(f"{f'{name}, {regularizer}':<36}", *(f"{cell:>14}" for cell in cells), f"{distance:>9.2f}")


if __name__ == "__main__":
    typer.run(main)
