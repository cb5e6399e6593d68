"""``python -m models.train.recover MODEL_DIR --data DIR --out FILE``: turn a served model into a trainable checkpoint.

An exported graph has no BatchNorm, and a packed graph has only the signs of its weights. The recovered network computes
the same function, which is checked, with BatchNorm statistics measured on real images so that training can continue
smoothly. The lost weight magnitudes are taken from the full-precision twin if one is given. Also lost, because no graph
has them, are the options of the binarisation method (its surrogate gradient and update rule), which become the default.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from models.arch import ArchConfig, BiRealNet, DepthNet, ResNet, build
from models.command_line import Parser, expects
from models.data.folder import split_files, training_part
from models.data.normalise import normalise
from models.export.convert import to_onnx
from models.export.verify import QUANTILE, outputs_of, smooth_images
from models.train import checkpoint
from models.train.depth import FX_BASELINE, whole_frames
from models.train.initialise import initialise_from
from models.train.provenance import copy_provenance
from models.train.recipe import Recipe
from models.train.recipes import RECIPES
from models.train.recover_weights import (
    Weights,
    complete_arch,
    fill_bireal,
    fill_fc,
    fill_resnet,
    fill_scores,
    move_into_scores,
)
from models.train.settings import CALIBRATION
from service.card import Card
from service.errors import ServiceError

CALIBRATION_IMAGES = 1024
CALIBRATION_FRAMES = 64
CHECKED_IMAGES = 4
OUTLIERS = 0.05  # of the images; 1 % of tiny100a's make activations explode in the shipped ResNet-18
# Limit on the smallest quarter of the outputs' differences, in standard deviations. Exported again, a network recovered
# correctly has the same rounded weights and differs by 1e-6, except on images where a rounding error flips a sign (by
# 0.03 in the shipped classifier). Outputs that have nothing in common differ by about 0.4.
MAX_DIFFERENCE = 0.05
RECOVERABLE = (("bireal", "bireal"), ("none", "res"))  # method and structure of the networks that `recovered` fills


@torch.no_grad()
def calibrate(network: nn.Module, images: Tensor) -> None:
    """Set every BatchNorm's statistics to those of its input on ``images`` [N,3,H,W], without changing the function.

    Every BatchNorm ignores the ``OUTLIERS`` of the images that excite it most. A full-precision network answers a few
    images (strongly saturated ones, here) with activations that are hundreds of times the others'. With their variance,
    BatchNorm would multiply a training batch without such an image by as much, and training would diverge.
    """
    network.eval()
    moments: dict[nn.BatchNorm2d, list[tuple[Tensor, Tensor]]] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        x = inputs[0].double()
        moments.setdefault(module, []).append((x.mean(dim=(2, 3)), x.square().mean(dim=(2, 3))))

    hooks = [m.register_forward_pre_hook(record) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for batch in torch.split(images, max(1, 128 * 64 * 64 // images[0, 0].numel())):
        network(normalise(batch))
    for hook in hooks:
        hook.remove()
    for bn, found in moments.items():
        assert bn.running_mean is not None and bn.running_var is not None
        first, second = (torch.cat(parts) for parts in zip(*found, strict=True))  # [N,C] each
        excitement = (second / second.median(dim=0).values.clamp(min=1e-12)).mean(dim=1)
        kept = excitement.argsort()[: max(1, round(len(images) * (1.0 - OUTLIERS)))]
        mean = first[kept].mean(dim=0)
        var = (second[kept].mean(dim=0) - mean.square()).clamp(min=1e-12)
        slope = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        offset = bn.bias - slope * bn.running_mean
        bn.running_mean.copy_(mean)
        bn.running_var.copy_(var)
        bn.weight.copy_(slope.double() * torch.sqrt(var + bn.eps))
        bn.bias.copy_(offset.double() + slope.double() * mean)


@expects(OSError, ValueError, ServiceError)
def main() -> int:
    """Read a model folder and write a checkpoint."""
    parser = Parser(prog="python -m models.train.recover", description=__doc__)
    parser.add_argument("model", type=Path, help="folder with card.yaml and model.onnx")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, for BatchNorm statistics")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--twin", type=Path, help="checkpoint of the full-precision twin, for weight magnitudes")
    args = parser.parse_args()
    recovered(args)
    return 0


def recovered(args: argparse.Namespace) -> None:
    """Recover a checkpoint as the parsed arguments say, and write ``run.json`` beside it, from the card.

    Raises:
        FileNotFoundError, ValueError, ServiceError: the model or the data is invalid; the message says why.
    """
    card = Card.load(args.model)
    card.verify_file()
    model = onnx.load(card.path)
    arch = complete_arch(arch_of(card), model)
    network = build(arch)
    get = Weights(model)
    encoder = network.encoder if isinstance(network, DepthNet) else network
    if isinstance(encoder, BiRealNet):
        magnitudes: BiRealNet | None = None
        if args.twin:
            lender = build(arch)
            initialise_from(lender, args.twin)
            lending = lender.encoder if isinstance(lender, DepthNet) else lender
            assert isinstance(lending, BiRealNet)
            magnitudes = lending
        fill_bireal(encoder, get, magnitudes)
    else:
        assert isinstance(encoder, ResNet)
        fill_resnet(encoder, get)
    if isinstance(network, DepthNet):
        fill_scores(network, get)
    else:
        assert isinstance(network.fc, nn.Linear)
        fill_fc(network.fc, get)
    calibrate(network, calibration_images(card, args.data))
    if isinstance(network, DepthNet):
        move_into_scores(network)
    check_same(network, model, card)
    # not the card's name: a recipe decides the input size, and several recipes can make models of one name
    recipe, settings = card.training.recipe, kept_settings(card, arch)
    checkpoint.save(args.out, network, arch, recipe, checkpoint.Progress(), settings=settings)
    copy_provenance(card, args.out.parent)


def check_same(network: BiRealNet | ResNet | DepthNet, model: onnx.ModelProto, card: Card) -> None:
    """Check that a recovered network, exported with the precisions of its model, computes what the model does.

    Raises:
        ValueError: it does not.
    """
    height, width = card.input.height, card.input.width
    images = smooth_images(CHECKED_IMAGES, height, width)
    again = to_onnx(
        network, height, width, stem_precision=card.stem_precision, pointwise_precision=card.pointwise_precision
    )
    theirs, ours = outputs_of(model, images), outputs_of(again, images)
    same = ours.shape == theirs.shape
    difference = float(np.quantile(np.abs(ours - theirs), QUANTILE) / theirs.std()) if same else np.inf
    if not difference <= MAX_DIFFERENCE:
        raise ValueError(
            f"the network recovered from {card.name} does not compute what the model does: its outputs differ by "
            f"{difference:.2g} standard deviations, more than {MAX_DIFFERENCE:g}. Only graphs written by models.export "
            "can be read; train others again with models.train"
        )


def kept_settings(card: Card, arch: ArchConfig) -> dict[str, Any]:
    """What `models.export` has to know of a recovered network and cannot read from its weights or its recipe."""
    settings: dict[str, Any] = {"arch": json.loads(json.dumps(asdict(arch)))}
    calibrated = [limit for limit in card.limits if limit.startswith("Probabilities are calibrated")]
    if calibrated:
        settings[CALIBRATION] = calibrated[0]
    if card.training.recipe not in RECIPES and card.depth is None:
        settings |= {"size": card.input.height, "resize_shorter": card.input.resize_shorter}
    return settings


def arch_of(card: Card) -> ArchConfig:
    """The network that a model card describes.

    Raises:
        ValueError: its weights cannot be read back.
    """
    method, structure = card.network.method, card.network.structure
    if (method, structure) not in RECOVERABLE:
        raise ValueError(
            f"{card.name} has method {method} and structure {structure}: only Bi-Real nets (bireal, bireal) and "
            "full-precision ResNets (none, res) can be recovered; train others again with models.train"
        )
    arch = ArchConfig(depth=card.network.depth, method=method, width=card.network.width)
    if card.depth is None:
        return replace(arch, num_classes=len(card.classes or ()))
    return replace(arch, task="depth", max_disparity_px=round(FX_BASELINE / card.depth.min_m, 3))


def calibration_images(card: Card, data: Path) -> Tensor:
    """Training images without the held-out ones, prepared as in the service: float32 pixels [N,3,H,W]."""
    if card.depth is not None:
        return whole_frames(data, CALIBRATION_FRAMES)
    # imported models have no recipe here, so use the default
    held_out = (RECIPES.get(card.training.recipe) or Recipe).hold_out_per_class
    size, shorter = card.input.width, card.input.resize_shorter or 0
    images = training_part(split_files(data, "train", size, shorter if shorter != size else 0), held_out, data).images
    pick = np.random.default_rng(0).choice(len(images), min(CALIBRATION_IMAGES, len(images)), replace=False)
    return torch.from_numpy(images[pick]).permute(0, 3, 1, 2).float()


if __name__ == "__main__":
    sys.exit(main())
