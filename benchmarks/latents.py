"""Train a sparse autoencoder on the digit network, and show its latents: ``python -m benchmarks.latents``.

It is trained on varied copies of four fifths of the digits that come with the package, and judged by the others. In
each row of the contact sheet, the first image was optimized to activate a latent, and the other images are the digits
that activate it most. A latent is called dead if no digit activates it; dead latents are left out.
"""

from __future__ import annotations

from pathlib import Path

import torch
import typer
from safetensors.torch import save_file

import dreamgram as dg
from dreamgram.activation_maximization.session import draw_examples
from dreamgram.models.digits import digit_sample
from dreamgram.models.sparse_autoencoder import train_sparse_autoencoder
from dreamgram.models.train_digits import augmentation

LAYER, ACTIVE, EXAMPLES_SHOWN = "hidden", 8, 8
"""Layer of the digit network, largest number of active latents for a digit, and digits in a row."""


def main(
    latents: int = 256, steps: int = 4000, copies: int = 40, shown: int = 12, output: Path = Path("outputs/latents.png")
) -> None:
    """Train a sparse autoencoder on several copies of each digit, and draw a contact sheet of some latents.

    The latents with the largest mean activation are shown. The weights are saved beside the contact sheet.
    """
    torch.manual_seed(0)
    net, augment = dg.load("digits"), augmentation()
    images, labels = digit_sample()
    judging = torch.arange(len(images)) % 5 == 0
    seen = []
    for _ in range(copies):
        varied = torch.cat([augment(some) for some in images[~judging].split(10)])
        seen.append(dg.activations(net, varied, LAYER)[LAYER])
    sae = train_sparse_autoencoder(torch.cat(seen), latents, ACTIVE, steps=steps)
    activations = dg.activations(net, images, LAYER)[LAYER]
    with torch.no_grad():
        answers = sae.encode(activations)
        error = (sae.decoder(answers) - activations)[judging].square().sum()
    share = error / (activations[judging] - activations[judging].mean(0)).square().sum()
    print(f"{share:.1%} of the variance is not explained by {ACTIVE} of {latents} latents, for {judging.sum()} digits")
    alive = (answers > 0).any(0)
    print(f"{latents - alive.sum()} of {latents} latents are dead")
    chosen = answers.sum(0).argsort(descending=True)[: min(shown, int(alive.sum()))].tolist()
    digits = [(f"a {label}", image) for image, label in zip(images, labels.tolist(), strict=True)]
    best = dg.top_examples(net, LAYER, chosen, digits, EXAMPLES_SHOWN, encoder=sae.encode)
    objective = dg.feature(LAYER, sae, chosen)
    dreams = dg.maximize(net, objective - dg.sparing()).images
    title = f"digits  {LAYER}  latents of a sparse autoencoder, and the digits that activate them most"
    names, values = [f"latent {unit}" for unit in chosen], dg.evaluate(net, objective, dreams).tolist()
    sheet = draw_examples(dreams, names, best, values, columns=1 + max(map(len, best)), title=title)
    output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(output)
    save_file(sae.state_dict(), output.with_suffix(".safetensors"))
    print(f"wrote {output}")


if __name__ == "__main__":
    typer.run(main)
