"""Test whether other classifiers can read dreamed digits: ``python -m benchmarks.digit_judges --data DIR``.

Each of the two convolutional networks dreams ten digits with each of five seeds, without and with a regularizer. The
digits are read by three classifiers that were not used to make them: the fully connected network, a vote of the five
nearest neighbors among MNIST's training digits, and the other convolutional network. The last column of the printed
table is the mean distance of a dreamed digit from the nearest training digit, divided by the same distance for real
test digits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from dreamgram.activation_maximization.gradient_ascent import maximize
from dreamgram.activation_maximization.objectives import logit
from dreamgram.activation_maximization.regularizers import sparing
from dreamgram.models import load
from dreamgram.models.digits import digit_sample
from dreamgram.models.train_digits import mnist

SEEDS = range(5)
"""Random seeds. Ten digits are made with each seed."""

NEIGHBORS = 5
"""Number of nearest training digits that vote on the class of a dreamed digit."""

CLASSES = torch.arange(10)

Judge = Callable[[Tensor], Tensor]
"""Classifier: a function from digits (N, 1, 28, 28) to their classes (N,)."""


def main(
    data: Annotated[Path, typer.Option(help="Folder with MNIST, which is downloaded if missing.")] = Path("data"),
) -> None:
    """Test whether other classifiers can read dreamed digits."""
    images, labels = mnist(data, train=True)
    known = images.flatten(1)

    def nearest(digits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances and labels, (N, 5) each, of the five training digits nearest to each digit."""
        found = torch.cdist(digits.flatten(1), known).topk(NEIGHBORS, largest=False)
        return found.values, labels[found.indices]

    networks = {name: load(name) for name in ("digits", "digits-robust", "digits-mlp")}
    real = torch.cat([nearest(part)[0][:, 0] for part in digit_sample()[0].split(200)]).mean()
    print(
        f"{'read right, of 10: mean (worst seed)':<32} {'MLP':>12} {'5 nearest':>12} {'other CNN':>12} {'distance':>9}"
    )
    for name, other in (("digits", "digits-robust"), ("digits-robust", "digits")):
        judges: list[Judge] = [
            lambda dreams: networks["digits-mlp"](dreams).argmax(1),
            lambda dreams: nearest(dreams)[1].mode(1).values,
            lambda dreams, other=other: networks[other](dreams).argmax(1),  # type: ignore[misc]
        ]
        plain = logit(range(10))
        for row, objective in ((", plain", plain), (", regularized", plain - sparing())):
            dreams = [maximize(networks[name], objective, seed=seed).images for seed in SEEDS]
            right = [[int((judge(each) == CLASSES).sum()) for each in dreams] for judge in judges]
            cells = [f"{sum(hits) / len(SEEDS):.1f} ({min(hits)})" for hits in right]
            distance = torch.cat([nearest(each)[0][:, 0] for each in dreams]).mean() / real
            print(f"{name + row:<36} {cells[0]:>12} {cells[1]:>12} {cells[2]:>12} {distance:>9.2f}")


if __name__ == "__main__":
    typer.run(main)
