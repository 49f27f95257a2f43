"""Try 230 networks of torchvision and timm, with random weights: ``python -m benchmarks.sweep``.

Each network is tried with an early, a middle and a late layer. A layer works if three conditions hold: all pixels of
the pictures that ``maximize`` makes of up to four units are finite; at least one unit passes back a gradient, and the
objective rises for each such unit; and a deep comparison shows that the network has not changed. The table has one
line for each network. For each layer that does not work, a line with the error follows. To try only some networks, give
parts of their names, such as ``resnet vit``. With ``--every 10 --start 3``, every tenth network is tried, from index 3
on.
"""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import time
import warnings
from contextlib import suppress
from types import FrameType
from typing import Annotated, Any

import torch
import typer
from torch import nn

import dreamgram as dg
from dreamgram.image_optimization.layers import Layer, list_layers
from tests.same_model import differences, portrait

TORCHVISION = """
alexnet convnext_base convnext_large convnext_small convnext_tiny deeplabv3_mobilenet_v3_large deeplabv3_resnet101
deeplabv3_resnet50 densenet121 densenet161 densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2
efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m
efficientnet_v2_s fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_mobilenet_v3_large_fpn fasterrcnn_resnet50_fpn
fasterrcnn_resnet50_fpn_v2 fcn_resnet101 fcn_resnet50 fcos_resnet50_fpn googlenet inception_v3
keypointrcnn_resnet50_fpn lraspp_mobilenet_v3_large maskrcnn_resnet50_fpn maskrcnn_resnet50_fpn_v2 maxvit_t mnasnet0_5
mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf
regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_16gf regnet_y_1_6gf regnet_y_3_2gf regnet_y_400mf
regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d resnext101_64x4d
resnext50_32x4d retinanet_resnet50_fpn retinanet_resnet50_fpn_v2 shufflenet_v2_x0_5 shufflenet_v2_x1_0
shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 ssd300_vgg16 ssdlite320_mobilenet_v3_large swin_b
swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16
vit_b_32 wide_resnet101_2 wide_resnet50_2
"""
"""Names of torchvision's networks for pictures, without the largest ones."""

TIMM = """
beit_base_patch16_224 beitv2_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 cait_xxs36_224 coat_lite_tiny
coat_tiny convit_small convit_tiny convmixer_1536_20 convmixer_768_32 convnext_atto convnextv2_atto cpubone_nano
cpubone_s0 crossvit_small_240 crossvit_tiny_240 cs3darknet_focus_s cs3darknet_s csatv2 csatv2_21m cspnext_s
cspnext_tiny davit_small davit_tiny deepseek_vit_412m deepseek_vit_412m_enc deit_tiny_distilled_patch16_224
deit_tiny_patch16_224 densenet121 densenet264d dla34 dla60 dpn68 dpn92 edgenext_small edgenext_xx_small
efficientformer_l1 efficientformer_l3 efficientformerv2_s0 efficientformerv2_s1 efficientvim_m1 efficientvim_m2
efficientvit_b0 efficientvit_b1 efficientvit_m0 efficientvit_m1 ese_vovnet19b_slim eva02_tiny_patch14_224
eva02_tiny_patch14_336 fasternet_s fasternet_t0 fastvit_s12 fastvit_sa12 focalnet_tiny_lrf focalnet_tiny_srf
gcvit_tiny gcvit_xtiny gemma4_vit_167m gemma4_vit_570m gernet_s ghostnet_050 ghostnetv3_050 gmlp_s16_224 halonet26t
hardcorenas_a hardcorenas_b hgnet_small hgnet_tiny hiera_small_224 hiera_tiny_224 hieradet_small hrnet_w18_small
hrnet_w18_small_v2 iformer_s iformer_t inception_next_atto inception_next_tiny inception_resnet_v2 inception_v3
inception_v4 lcnetv2_small legacy_senet154 legacy_xception levit_128 lowformer_b0 mambaout_femto maxvit_nano_rw_256
mobilenetv5_300m mobileone_s0 mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_siglip nasnetalarge nest_tiny
nextvit_small nf_seresnet26 pit_xs_224 pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnety_040_sgn
repghostnet_050 repvit_m1 res2net50_26w_4s resnest26d resnet18 resnetv2_18 rexnet_100 sam2_hiera_tiny
samvit_base_patch16 selecsls42 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_s3_tiny_224
swinv2_cr_tiny_224 swinv2_tiny_window8_256 tf_mobilenetv3_small_minimal_100 tiny_vit_5m_224 tinynet_a tinynet_b
tnt_s_patch16_224 tresnet_l twins_svt_small vgg11 visformer_tiny vit_relpos_small_patch16_224 vit_tiny_patch16_224
vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 xception41 xcit_nano_12_p8_224
"""
"""Names of timm's networks: up to two small ones of most families."""

NETWORKS = [*(f"torchvision:{name}" for name in TORCHVISION.split()), *(f"timm:{name}" for name in TIMM.split())]

DEPTHS = {"early": 0.1, "middle": 0.5, "late": 0.9}
"""Positions of the layers to try in the list of layers, as fractions of the length of the list."""

SMALL = 64
"""Side of the images, in pixels, for networks that take images of this size."""

DETECTED = 160
"""Side, in pixels, to which networks that detect objects enlarge all images. The default of 800 pixels takes 20 GB of
memory."""

RATES = 0.02, 0.001, 0.00001, 0.0000001
"""Learning rates to try in turn. Deep networks with random weights can be so sensitive that the objective rises only
with tiny steps."""

SECONDS = 600
"""Time in seconds after which the trial of a network is given up."""


def main(
    parts: Annotated[list[str] | None, typer.Argument(help="Parts of the names of the networks to try.")] = None,
    every: Annotated[int, typer.Option(help="Try every n-th network.")] = 1,
    start: Annotated[int, typer.Option(help="Index of the first network to try.")] = 0,
    steps: Annotated[int, typer.Option(help="Number of steps for each picture.")] = 4,
) -> None:
    """Try layers at three depths of each network, and print a table of the results."""
    warnings.simplefilter("ignore")
    logging.getLogger("dreamgram").setLevel(logging.ERROR)
    signal.signal(signal.SIGALRM, _give_up)
    chosen = [name for name in NETWORKS[start::every] if not parts or any(part in name for part in parts)]
    working = 0
    for number, name in enumerate(chosen, 1):
        begin = time.perf_counter()
        signal.alarm(SECONDS)
        try:
            found = _try(name, steps)
        except _TooSlow:
            found = dict.fromkeys(DEPTHS, f"not done after {SECONDS} s")
        finally:
            signal.alarm(0)
        works = all(line == "works" for line in found.values())
        working += works
        marks = "  ".join(f"{depth} {'yes' if line == 'works' else 'NO'}" for depth, line in found.items())
        print(f"{number:3d}/{len(chosen)}  {name:56s}  {marks}  {time.perf_counter() - begin:5.1f} s", flush=True)
        for depth, line in found.items():
            if line != "works":
                print(f"      {depth}: {line}", flush=True)
    print(f"{working} of {len(chosen)} networks work in all depths")
    sys.exit(working < len(chosen))


class _TooSlow(BaseException):
    """The error raised if a network takes too long. As a BaseException, it is not caught with other errors."""


def _give_up(number: int, frame: FrameType | None) -> None:
    raise _TooSlow


def _try(name: str, steps: int) -> dict[str, str]:
    """Try the network called ``name``, and return "works" or what went wrong for each depth."""
    try:
        model, sizes = _build(name)
        layers, size = _list(model, sizes)
        _enliven(model, size)
    except Exception as error:  # networks may raise anything
        return {depth: _line(error) for depth in DEPTHS}
    return {depth: _make(model, _at(model, layers, place, size), size, steps) for depth, place in DEPTHS.items()}


def _build(name: str) -> tuple[nn.Module, list[int]]:
    """Return the network called ``name`` with random weights, and sides of images to try, in pixels."""
    torch.manual_seed(0)
    source, _, rest = name.partition(":")
    if source == "timm":
        timm: Any = importlib.import_module("timm")
        model: nn.Module = timm.create_model(rest).eval()
        return model, [SMALL, timm.data.resolve_model_data_config(model)["input_size"][-1]]
    zoo: Any = importlib.import_module("torchvision.models")
    more: dict[str, Any] = {}
    if any(part in rest for part in ("rcnn", "net_", "ssd", "fcos", "fcn", "deep")):
        more = {"weights_backbone": None}
    if any(part in rest for part in ("rcnn", "retinanet", "fcos")):
        more |= {"min_size": DETECTED, "max_size": 2 * DETECTED}
    try:
        return zoo.get_model(rest, weights=None, **more).eval(), [SMALL, 224, 299]
    except TypeError:
        return zoo.get_model(rest, weights=None).eval(), [SMALL, 224, 299]


def _enliven(model: nn.Module, size: int) -> None:
    """Change the random weights so that signals pass through the network, as with trained weights.

    Before training, many networks multiply the results of some branches by 0, and their batch normalization lacks the
    statistics that it needs. Their units would then not depend on the image.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and not weight.any():
                if weight.ndim == 1:
                    weight.fill_(1)
                else:
                    weight.normal_(std=weight[0].numel() ** -0.5)
        for norm in norms:
            norm.train().momentum = None
        with suppress(Exception):  # some networks only run without such statistics for a single image
            model(torch.rand(4, 3, size, size))
        for norm in norms:
            norm.eval()


def _list(model: nn.Module, sizes: list[int]) -> tuple[list[Layer], int]:
    """Return the layers with at least two units, and the first of ``sizes`` at which ``model`` runs without error."""
    for size in sizes:
        try:
            found = list_layers(model, (3, size, size))
        except ValueError:
            if size == sizes[-1]:
                raise
            continue
        break
    return [layer for layer in found if layer.channels > 1], size


def _at(model: nn.Module, layers: list[Layer], place: float, size: int) -> Layer:
    """Return the first layer, from ``place`` in ``layers`` on, whose units depend on the image.

    If there is no such layer, return the last layer. ``place`` is a position in the list, as a fraction of its length.
    The units of some layers do not depend on the image. For example, some modules only compute a table of distances
    between positions. After a softmax over the positions, the mean of a unit is also the same for all images.
    """
    images = torch.rand(2, 1, 3, size, size)
    for layer in layers[int(len(layers) * place) :]:
        with suppress(Exception):  # the error comes again when a picture is made
            objective = dg.channel(layer.name, range(min(4, layer.channels)))
            one, other = (dg.evaluate(model, objective, image.expand(objective.images, -1, -1, -1)) for image in images)
            if torch.allclose(one, other, rtol=1e-6, atol=1e-8):
                continue
        return layer
    return layers[-1]


def _make(model: nn.Module, layer: Layer, size: int, steps: int) -> str:
    """Make pictures of a few units, and return "works" or what is wrong.

    Several learning rates are tried; see :data:`RATES`.
    """
    before = portrait(model)
    objective = dg.channel(layer.name, range(min(4, layer.channels)))
    how: dict[str, Any] = {"size": size, "steps": steps, "transform": "none", "precision": "float32"}
    rises = []
    for rate in RATES:
        try:
            dreams = dg.maximize(model, objective, learning_rate=rate, **how)
        except Exception as error:  # networks may raise anything
            return f"{layer.name}: {_line(error)}"
        changed = differences(before, portrait(model))
        if not dreams.images.isfinite().all():
            return f"{layer.name}: the pictures are not finite"
        if changed:
            return f"{layer.name}: changed {', '.join(changed[:3])}"
        loud = [number for number in range(len(dreams.images)) if number not in dreams.silent]
        rises.append((dreams.history.amax(0) - dreams.history[0])[loud])
        if loud and (torch.stack(rises).amax(0) > 0).all():
            return "works"
    return f"{layer.name}: the objective did not rise ({rises[-1].tolist()}, silent {list(dreams.silent)})"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


if __name__ == "__main__":
    typer.run(main)
