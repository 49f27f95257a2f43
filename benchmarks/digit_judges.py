"""Can anyone but the network read the digits that it dreams? ``python -m benchmarks.digit_judges --data DIR``.

Ten dreams for each of five seeds are read by judges that they were not made for: the fully connected network, five
nearest neighbours among MNIST's training digits, and the other convolutional network. Beside it the distance of a dream
from the nearest training digit, over that of real test digits from theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from activation_maximization import logit, maximize, sparing
from models import load
from models.digits import digit_sample
from models.train_digits import mnist

SEEDS = range(5)
NEIGHBOURS = 5
CLASSES = torch.arange(10)

Judge = Callable[[Tensor], Tensor]


def main(data: Annotated[Path, typer.Option(help="Folder of torchvision's MNIST.")] = Path("data")) -> None:
    images, labels = mnist(data, train=True)
    known = images.flatten(1)

    def nearest(digits: Tensor) -> tuple[Tensor, Tensor]:
        """The distances and labels of the training digits that are nearest, (N, 5) each."""
        found = torch.cdist(digits.flatten(1), known).topk(NEIGHBOURS, largest=False)
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
