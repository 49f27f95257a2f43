"""Train the digit networks on MNIST: ``python -m dreamgram.models.train_digits --model cnn --data DIR``.

With ``--adversarial``, the network is trained on digits with adversarial noise, as the network ``digits-robust`` was.
"""

# torchvision and tqdm are imported where they are used, because ``load`` also imports this module, but needs neither.
from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dreamgram.models.digits import DigitCNN, DigitMLP

CHUNKS = 16
"""Number of chunks into which each mini-batch is divided for augmentation.

torchvision applies one random transform to all images of a call, so each chunk is transformed in a call of its own.
"""

ATTACK_STEPS = 7
"""Number of gradient steps in which :func:`attack` computes the adversarial noise for each mini-batch in training."""

Digits = tuple[Tensor, Tensor]
"""Type of a set of digits: images (N, 1, 28, 28) in [0, 1] and their labels (N,)."""


def mnist(folder: Path, train: bool) -> Digits:
    """Load the images (N, 1, 28, 28) in [0, 1] and the labels (N,) of MNIST.

    The digits are the training set if ``train`` is True, and otherwise the test set. If the files are missing from
    ``folder``, they are downloaded into it.

    Raises:
        OSError: the files are missing and cannot be downloaded.
    """
    from torchvision.datasets import MNIST

    try:
        data = MNIST(folder, train=train, download=False)
    except RuntimeError:  # The files are missing.
        try:
            data = MNIST(folder, train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise OSError(f"there is no MNIST in {folder}, and it could not be downloaded: {error}") from error
    return data.data.unsqueeze(1) / 255.0, data.targets


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the fraction, from 0 to 1, of ``images`` (N, 1, 28, 28) that ``model`` classifies correctly."""
    model.eval()
    with torch.inference_mode():
        answers = torch.cat([model(some).argmax(1) for some in images.split(1000)])
    return float((answers == labels).float().mean())


def attack(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, steps: int = ATTACK_STEPS) -> Tensor:
    """Return ``images`` (N, 1, H, W) in [0, 1] with added noise that is optimized to mislead ``model``.

    The noise changes each pixel by at most ``epsilon``. It is found by projected gradient ascent on the cross-entropy
    from a random start, the method of Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks",
    arXiv:1706.06083. The step size is 2.5 ``epsilon`` / ``steps``, so that all steps together can reach any allowed
    noise from any start.
    """
    seen = (images + torch.empty_like(images).uniform_(-epsilon, epsilon)).clamp(0, 1)
    for _ in range(steps):
        seen.requires_grad_()
        [gradient] = torch.autograd.grad(cross_entropy(model(seen), labels), seen)
        noise = seen.detach() - images + 2.5 / steps * epsilon * gradient.sign()
        seen = (images + noise.clamp(-epsilon, epsilon)).clamp(0, 1)
    return seen


def train(
    net: nn.Module,
    digits: Digits,
    test: Digits,
    *,
    epochs: int,
    batch: int,
    learning_rate: float,
    epsilon: float | None = None,
) -> float:
    """Train ``net`` to minimize the cross-entropy on ``digits`` by stochastic gradient descent.

    The optimizer uses Nesterov momentum and a weight decay of 1e-5. The learning rate follows a one-cycle schedule.
    Every time a digit is used, it is slightly rotated, shifted, scaled and sheared at random. The weights of the last
    epoch are kept, even if the test accuracy was higher after an earlier epoch, because the test set must not be used
    to select weights.

    Args:
        net: network to train in place.
        digits: the training set.
        test: the test set. The accuracy on this set is printed after each epoch.
        epochs: number of passes through the training set.
        batch: number of digits per step. If the last batch of an epoch is smaller, it is skipped.
        learning_rate: largest learning rate of the schedule.
        epsilon: largest change, in [0, 1], that the adversarial noise of :func:`attack` makes to a pixel value; None to
            train without this noise.

    Returns:
        The accuracy on the test set after the last epoch, in [0, 1].
    """
    from tqdm import tqdm

    images, labels = digits
    augment = augmentation()
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.2)
    progress = tqdm(total=steps, unit="batch", mininterval=1)
    test_accuracy = 0.0
    for epoch in range(1, epochs + 1):
        net.train()
        total = torch.zeros(())
        for chosen in torch.randperm(len(images)).split(batch):
            if len(chosen) < batch:
                continue
            seen = torch.cat([augment(part) for part in images[chosen].chunk(CHUNKS)])
            if epsilon is not None:
                # The noise grows in the first quarter of the steps. At full strength from the start, training fails.
                seen = attack(net, seen, labels[chosen], epsilon * min(1, 4 * progress.n / steps))
            loss = cross_entropy(net(seen), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * batch
            progress.update()
        test_accuracy = accuracy(net, *test)
        progress.write(f"epoch {epoch:3d}  total cross-entropy {total.item():9.1f}  test accuracy {test_accuracy:.2%}")
    progress.close()
    return test_accuracy


def augmentation() -> Callable[[Tensor], Tensor]:
    """Return a function that slightly rotates, shifts, scales and shears images (N, 1, H, W), all in the same way."""
    from torchvision.transforms import v2

    bilinear = v2.InterpolationMode.BILINEAR
    augment: Callable[[Tensor], Tensor] = v2.RandomAffine(
        12, translate=(0.08, 0.08), scale=(0.88, 1.12), shear=8, interpolation=bilinear
    )
    return augment


def _save(net: nn.Module, output: Path, metadata: dict[str, str]) -> None:
    """Write the weights of ``net`` to the safetensors file ``output``. If writing fails, ``output`` is not changed."""
    from safetensors.torch import save

    part = output.with_name(f".{output.name}.part")
    try:
        # Unlike save_file, this raises OSError if writing fails.
        part.write_bytes(save({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, metadata))
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train a digit network on MNIST and save its weights.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", choices=["cnn", "mlp"], default="cnn", help="Network to train: a CNN or a fully connected MLP.")
    add("--data", type=Path, default="data", help="Folder with the MNIST files, which are downloaded if missing.")
    add(
        "--output", type=Path, default=argparse.SUPPRESS, help="Weights file to save. (default: a new file in outputs/)"
    )
    add("--adversarial", action="store_true", help="Train on digits with adversarial noise.")
    add("--epsilon", type=float, default=0.2, help="Largest change that the noise makes to a pixel value in [0, 1].")
    add("--epochs", type=int, default=40, help="Number of passes through the training set.")
    add("--batch", type=int, default=128, help=f"Number of digits per step, at least {CHUNKS}.")
    add("--learning-rate", type=float, default=0.05, help="Largest learning rate of the one-cycle schedule.")
    add("--seed", type=int, default=0, help="Random seed.")
    return parser


def _run(given: argparse.Namespace) -> None:
    """Train and save the network that the command-line arguments specify.

    Raises:
        ValueError: an option is out of its range, or the output file already exists.
        OSError: MNIST is missing and cannot be downloaded, or the weights cannot be written.
    """
    name = "digits" + "-mlp" * (given.model == "mlp") + "-robust" * given.adversarial
    output = getattr(given, "output", Path("outputs", f"{name}.safetensors"))
    if output.exists():
        raise ValueError(f"{output} exists; choose another --output")
    if given.epochs < 1 or given.batch < CHUNKS or not 0 <= given.epsilon <= 1:
        raise ValueError(f"--epochs must be at least 1, --batch at least {CHUNKS}, and --epsilon from 0 to 1")
    torch.manual_seed(given.seed)
    digits, test = mnist(given.data, train=True), mnist(given.data, train=False)
    if given.batch > len(digits[0]):
        raise ValueError(f"a batch of {given.batch} is more than the {len(digits[0])} training digits")
    output.parent.mkdir(parents=True, exist_ok=True)
    net: nn.Module = DigitCNN() if given.model == "cnn" else DigitMLP()
    net.to(memory_format=torch.channels_last)  # In this format pooling takes a fraction of the time.
    how = {"epochs": given.epochs, "batch": given.batch, "learning_rate": given.learning_rate}
    test_accuracy = train(net, digits, test, **how, epsilon=given.epsilon if given.adversarial else None)
    settings = {"model": given.model, **how, "seed": given.seed}
    metadata = {"test_accuracy": f"{test_accuracy:.4f}", "data": "MNIST, 60,000 training digits"}
    result = f"test accuracy {test_accuracy:.2%}"
    if given.adversarial:
        settings["epsilon"] = given.epsilon
        misleading = attack(net, *test, given.epsilon, steps=40)
        under_attack = accuracy(net, misleading, test[1])
        metadata["test_accuracy_under_attack"] = f"{under_attack:.4f}"
        result += f", under attack {under_attack:.2%}"
    metadata["settings"] = json.dumps(settings)
    _save(net, output, metadata)
    print(f"{output}: {result}")


def main() -> None:
    """Train the network that the command line specifies, and save its weights.

    If an option is invalid, or a file cannot be downloaded or written, the program prints an error message and exits
    with code 2.
    """
    parser = _parser()
    try:
        _run(parser.parse_args())
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
