"""Train the digit networks on MNIST: ``python -m models.train_digits --model cnn --data DIR``.

With ``--adversarial`` against noise made to mislead them: ``digits-robust``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from torch import Tensor, nn

CHUNKS = 16
"""Each mini-batch is augmented in this many parts: torchvision draws one transformation per call."""

ATTACK_STEPS = 7
"""Of the noise made for each mini-batch."""


def mnist(folder: Path, train: bool) -> tuple[Tensor, Tensor]:
    """MNIST's images (N, 1, 28, 28) in [0, 1] and labels (N,), downloaded into ``folder`` if they are not there."""
    from torchvision.datasets import MNIST

    try:
        data = MNIST(folder, train=train, download=False)
    except RuntimeError:  # it is not there
        try:
            data = MNIST(folder, train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise typer.BadParameter(f"no MNIST in {folder}, and it could not be downloaded: {error}") from error
    return data.data.unsqueeze(1) / 255.0, data.targets


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of ``images`` (N, 1, 28, 28) whose largest logit is the label's, in [0, 1]."""
    import torch

    model.eval()
    with torch.inference_mode():
        answers = torch.cat([model(some).argmax(1) for some in images.split(1000)])
    return float((answers == labels).float().mean())


def attack(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, steps: int = ATTACK_STEPS) -> Tensor:
    """``images`` (N, 1, H, W) in [0, 1] with the noise, up to ``epsilon`` a pixel, that misleads ``model`` most.

    Projected gradient ascent on the cross-entropy from a random start: Madry et al., "Towards Deep Learning Models
    Resistant to Adversarial Attacks", arXiv:1706.06083. A step is 2.5 / ``steps`` of ``epsilon``, so that every noise
    that is allowed can be reached and left again.
    """
    import torch
    from torch.nn.functional import cross_entropy

    seen = (images + torch.empty_like(images).uniform_(-epsilon, epsilon)).clamp(0, 1)
    for _ in range(steps):
        seen.requires_grad_()
        [gradient] = torch.autograd.grad(cross_entropy(model(seen), labels), seen)
        noise = seen.detach() - images + 2.5 / steps * epsilon * gradient.sign()
        seen = (images + noise.clamp(-epsilon, epsilon)).clamp(0, 1)
    return seen


def train(
    model: Annotated[Literal["cnn", "mlp"], typer.Option(help="Which network.")] = "cnn",
    data: Annotated[Path, typer.Option(help="Folder of torchvision's MNIST; downloaded there if missing.")] = Path(
        "data"
    ),
    output: Annotated[
        Path | None, typer.Option(help="By default outputs/digits.safetensors, with -mlp or -robust.")
    ] = None,
    adversarial: Annotated[bool, typer.Option("--adversarial", help="Against noise made to mislead it.")] = False,
    epsilon: Annotated[float, typer.Option(min=0.0, max=1.0, help="Largest such change of a pixel.")] = 0.2,
    epochs: Annotated[int, typer.Option(min=1)] = 40,
    batch: Annotated[int, typer.Option(min=CHUNKS, help="Digits per step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Peak of the one-cycle schedule.")] = 0.05,
    seed: int = 0,
) -> None:
    """Minimize the total cross-entropy of MNIST's training set by gradient descent on mini-batches.

    Nesterov momentum, one cycle of the learning rate, weight decay 1e-5; every digit is slightly turned, moved,
    scaled and sheared each time it is seen, and with ``--adversarial`` then changed for the worse. The total that is
    printed is that of the batches as they were seen. The weights are those of the last epoch: the test set chooses
    nothing.
    """
    import torch
    from safetensors.torch import save_file
    from torch.nn.functional import cross_entropy
    from torchvision.transforms import v2
    from tqdm import tqdm

    from models.digits import DigitCNN, DigitMLP

    name = "digits" + "-mlp" * (model == "mlp") + "-robust" * adversarial
    output = output or Path("outputs", f"{name}.safetensors")
    if output.exists():
        raise typer.BadParameter(f"{output} exists; choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    images, labels = mnist(data, train=True)
    test_images, test_labels = mnist(data, train=False)
    if batch > len(images):
        raise typer.BadParameter(f"a batch of {batch} is more than the {len(images)} training digits")
    net: nn.Module = DigitCNN() if model == "cnn" else DigitMLP()
    net.to(memory_format=torch.channels_last)  # in which pooling takes a fraction of the time
    augment = v2.RandomAffine(
        12, translate=(0.08, 0.08), scale=(0.88, 1.12), shear=8, interpolation=v2.InterpolationMode.BILINEAR
    )
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.2)
    progress = tqdm(total=steps, unit="batch", mininterval=1)
    hit_rate = 0.0
    for epoch in range(1, epochs + 1):
        net.train()
        total = torch.zeros(())
        for chosen in torch.randperm(len(images)).split(batch):
            if len(chosen) < batch:
                continue
            seen = torch.cat([augment(part) for part in images[chosen].chunk(CHUNKS)])
            if adversarial:
                # From little to all in a quarter of the time: all at once, and it never learns to tell digits apart.
                seen = attack(net, seen, labels[chosen], epsilon * min(1, 4 * progress.n / steps))
            loss = cross_entropy(net(seen), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * batch
            progress.update()
        hit_rate = accuracy(net, test_images, test_labels)
        progress.write(f"epoch {epoch:3d}  total cross-entropy {total.item():9.1f}  test accuracy {hit_rate:.2%}")
    progress.close()
    settings = {"model": model, "epochs": epochs, "batch": batch, "learning_rate": learning_rate, "seed": seed}
    metadata = {"test_accuracy": f"{hit_rate:.4f}", "data": "MNIST, 60,000 training digits"}
    result = f"test accuracy {hit_rate:.2%}"
    if adversarial:
        settings["epsilon"] = epsilon
        misleading = attack(net, test_images, test_labels, epsilon, steps=40)
        under_attack = accuracy(net, misleading, test_labels)
        metadata["test_accuracy_under_attack"] = f"{under_attack:.4f}"
        result += f", under attack {under_attack:.2%}"
    metadata["settings"] = json.dumps(settings)
    part = output.with_name(f".{output.name}.part")
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, part, metadata)
    part.replace(output)
    typer.echo(f"{output}: {result}")


if __name__ == "__main__":
    typer.run(train)
