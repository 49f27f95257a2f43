from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamgram.image_optimization import parameterizations
from dreamgram.image_optimization.optimize import optimize
from dreamgram.image_optimization.parameterizations import (
    PARAMETERIZATIONS,
    FourierImage,
    Parameterization,
    PhaseImage,
    PixelImage,
    PyramidImage,
    frequencies,
    parameterization,
    spectrum_of,
)

ALL = list(PARAMETERIZATIONS.values())

RESTRICTED = {PhaseImage}
"""Parameterizations that cannot render every image, such as those with fixed magnitudes."""

FREE = [kind for kind in ALL if kind not in RESTRICTED]
"""Parameterizations that can render any image. Those that cannot belong in :data:`RESTRICTED`."""


def test_a_parameterization_is_registered_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameterizations, "PARAMETERIZATIONS", {})

    class Squares(PixelImage):
        pass

    assert parameterization("squares")(Squares) is Squares
    assert {"squares": Squares} == parameterizations.PARAMETERIZATIONS


@pytest.mark.parametrize("kind", ALL)
def test_the_leaf_requires_a_gradient(kind: type[Parameterization]) -> None:
    for image in (kind.from_noise((2, 3, 8, 8)), kind.from_image(torch.rand(2, 3, 8, 8))):
        assert image.leaf.requires_grad
        assert image.leaf.is_leaf
        assert len(image.leaf) == 2


def with_channels(photo: Tensor, channels: int) -> Tensor:
    return photo.repeat(1, 2, 1, 1)[:, :channels]


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("kind", FREE)
def test_it_can_fit_a_photo_from_noise(kind: type[Parameterization], channels: int, photo: Tensor) -> None:
    target = with_channels(photo, channels)
    image = kind.from_noise(target.shape)
    rate, optimizer = (0.1, PyramidImage.OPTIMIZER) if kind is PyramidImage else (0.05, "adam")
    optimize(image, lambda x: (x - target).square().mean(), steps=250, learning_rate=rate, optimizer=optimizer)
    assert (image.render() - target).abs().mean() < 0.02


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("kind", FREE)
def test_it_starts_from_a_photo_as_it_is(kind: type[Parameterization], channels: int, photo: Tensor) -> None:
    target = with_channels(photo, channels)[:, :, :63, :51]  # odd sizes too
    image = kind.from_image(torch.cat([target, 1 - target]))
    assert image.render().shape == (2, channels, 63, 51)
    torch.testing.assert_close(image.render(), torch.cat([target, 1 - target]), rtol=0, atol=1 / 255)


@pytest.mark.parametrize("kind", FREE)
def test_it_stays_an_image(kind: type[Parameterization]) -> None:
    image = kind.from_noise((2, 3, 9, 10))
    optimize(image, lambda x: -(x[:, :1].sum() - x[:, 1:].sum()) * 100, steps=200, learning_rate=0.2)
    rendered = image.render().detach()
    assert rendered.min() >= 0
    assert rendered.max() <= 1
    assert rendered[:, 0].mean() > 0.6 > 0.4 > rendered[:, 1:].mean()


@pytest.mark.parametrize("kind", ALL)
def test_noise_is_the_same_for_every_image_of_a_batch(kind: type[Parameterization]) -> None:
    torch.manual_seed(3)
    alone = kind.from_noise((1, 3, 16, 16)).render()
    torch.manual_seed(3)
    batch = kind.from_noise((4, 3, 16, 16)).render()
    assert alone.std() > 0
    torch.testing.assert_close(batch, alone.expand(4, 3, 16, 16))


def test_fourier_colors_are_decorrelated(photo: Tensor) -> None:
    """The photo's channels vary together; in the leaf's colors they do so much less."""

    def correlation(planes: Tensor) -> float:
        matrix = torch.corrcoef(planes.flatten(1)).abs()
        return float(matrix[0, 1] + matrix[0, 2] + matrix[1, 2])

    leaf = FourierImage.from_image(photo).leaf.detach()[0]
    assert correlation(leaf[:, 1:]) < 0.5 * correlation(photo[0])


def test_fourier_leaf_is_white(photo: Tensor) -> None:
    """A photo's spectrum falls by orders of magnitude; scaled by 1 / f it hardly does."""

    def fall(spectrum: Tensor) -> float:
        low, high = spectrum[0, 0, 2:6, 2:6].abs().mean(), spectrum[0, 0, 20:28, 20:28].abs().mean()
        return float(low / high)

    photo = photo[:, :, :54, :54]
    leaf = torch.view_as_complex(FourierImage.from_image(photo).leaf.detach())
    assert fall(leaf) < 0.3 * fall(torch.fft.rfft2(photo))


def test_a_pyramid_draws_a_form_before_it_turns_white() -> None:
    """All pixels together can have a larger gradient than a form, which must still appear first."""

    def form(image: Tensor) -> Tensor:
        return (image[..., :32] - image[..., 32:]).mean()

    image = PyramidImage.from_noise((1, 3, 64, 64))
    optimize(image, lambda x: -(x.mean() + 0.1 * form(x)), steps=10, learning_rate=0.1, optimizer=image.OPTIMIZER)
    rendered = image.render().detach()
    assert 0.5 < rendered.mean() < 0.65
    assert form(rendered) > 0.4


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 40, 40), (3, 64, 51), (5, 300, 180)])
def test_only_the_phase_moves(channels: int, height: int, width: int) -> None:
    def magnitude() -> Tensor:
        logits = torch.einsum("dc,nchw->ndhw", torch.linalg.inv(image.colors), torch.logit(image.render().detach()))
        return torch.fft.rfft2(logits, norm="ortho").abs()

    image = PhaseImage.from_noise((2, channels, height, width))
    before, start = magnitude(), image.render().detach()
    target = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    optimize(image, lambda x: (x - target).square().mean(), steps=30, learning_rate=0.02)
    assert (image.render() - start).abs().mean() > 0.02
    inside = (slice(None), slice(None), slice(1, height // 2), slice(1, width // 2))  # the others are their own mirror
    torch.testing.assert_close(magnitude()[inside], before[inside], rtol=1e-2, atol=1e-2)


def test_photos_keep_their_forms_in_their_phases(photo: Tensor) -> None:
    """Oppenheim and Lim, 1981: with other magnitudes a photo is still recognized."""
    gray = photo.mean(1, keepdim=True)
    seen = PhaseImage.from_image(gray).render().detach()
    assert torch.corrcoef(torch.stack([gray.flatten(), seen.flatten()]))[0, 1] > 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_natural_magnitudes_are_a_photos(channels: int, photo: Tensor) -> None:
    """They agree within a factor of two at every scale, for a photo that is not among those measured."""
    photo = photo if channels == 3 else photo.mean(1, keepdim=True)
    size = (photo.shape[2], photo.shape[3])
    ours = PhaseImage.from_noise((1, channels, *size)).magnitude[0]
    its = spectrum_of(photo)[0, 0].abs()
    cycles = frequencies(size) * max(size)
    for low, high in ((2, 4), (4, 8), (8, 16), (16, 24)):
        ring = (cycles >= low) & (cycles < high)
        assert 0.5 < ours[ring].mean() / its[ring].mean() < 2
