"""``python -m models.train.recover MODEL_DIR --data DIR --out FILE``: from a served model, a checkpoint to train on.

An exported graph holds no BatchNorm and a packed one only signs. The network that is written computes what the graph
does, with BatchNorms whose statistics are those of real images, so that training can go on without a jump. The
magnitudes behind the signs, which are lost, are those of the full-precision twin's weights where a twin is given.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from models.arch import ArchConfig, BiRealNet, ResNet, build
from models.arch.bireal import BiRealBasic
from models.command_line import Parser
from models.data.folder import load_split
from models.data.normalise import MEAN, STD, normalise
from models.train import checkpoint
from models.train.initialise import initialise_from
from service.backends.bits import unpack_signs
from service.card import Card
from service.errors import ServiceError

CALIBRATION_IMAGES = 1024


class Weights:
    """Initialisers of a graph by the start of their names (the exporter numbers them at the end)."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._values = {t.name.rsplit("_", 1)[0]: numpy_helper.to_array(t) for t in model.graph.initializer}

    def __call__(self, name: str) -> Tensor:
        """Float32 tensor called ``name``, stored as float32, as float16, or in 8 bit with a scale a column."""
        value = self._values.get(f"{name}_f16", self._values.get(name))
        if value is None:
            raise ValueError(f"the graph has no {name!r}: only graphs of models.export with basic blocks are read")
        stored = np.array(value, np.float32)
        if value.dtype == np.int8:
            stored *= self._values[name.removesuffix("_weight") + "_scale"]
        return torch.from_numpy(stored)

    def scale(self, name: str) -> Tensor | float:
        """Factors of the weights beside it that are not in them yet, 1 in graphs that store none."""
        weight = self._values.get(name.removesuffix("_scale") + "_weight")
        applied = weight is not None and weight.dtype == np.int8
        return self(name) if name in self._values and not applied else 1.0

    def signs(self, name: str, channels: int) -> Tensor:
        """Packed weights as -1/+1 [O,C,K,K]."""
        words: NDArray[np.int32] = self._values[name].astype(np.int32, copy=False)  # [O,K,K,words]
        return torch.from_numpy(unpack_signs(words, channels)).permute(0, 3, 1, 2).contiguous()


def set_affine(bn: nn.BatchNorm2d, scale: Tensor | float, bias: Tensor | float) -> None:
    """Make an eval-mode BatchNorm compute scale * x + bias."""
    assert bn.running_mean is not None and bn.running_var is not None
    with torch.no_grad():
        bn.running_mean.zero_()
        bn.running_var.fill_(1.0 - bn.eps)
        bn.weight.copy_(torch.as_tensor(scale).expand_as(bn.weight))
        bn.bias.copy_(torch.as_tensor(bias).expand_as(bn.bias))


def set_conv_bn(conv_bn: nn.Sequential, weight: Tensor, bias: Tensor | float) -> None:
    """A folded convolution into convolution and BatchNorm, the weights at the size of fresh ones."""
    conv, bn = conv_bn[0], conv_bn[1]
    assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
    factor = fresh_deviation(conv) / weight.std()
    with torch.no_grad():
        conv.weight.copy_(weight * factor)
    set_affine(bn, 1.0 / factor, bias)


def fresh_deviation(conv: nn.Conv2d) -> float:
    """Standard deviation of a fresh convolution's weights (He et al. 2015, fan-out)."""
    return float((2.0 / (conv.out_channels * conv.kernel_size[0] ** 2)) ** 0.5)


def fill_resnet(network: ResNet, get: Weights) -> None:
    """Weights of an exported full-precision network with basic blocks."""
    set_conv_bn(network.stem, get("stem_weight"), get("stem_bias"))
    for s, stage in enumerate(network.stages):
        for b, block in enumerate(stage):  # type: ignore[arg-type]  # a Sequential of blocks
            hint = f"stage{s + 1}_{b}"
            if block.downsample is not None:
                set_conv_bn(block.downsample, get(f"{hint}_down_weight"), get(f"{hint}_down_bias"))
            for i, conv_bn in enumerate(block.convs):
                set_conv_bn(conv_bn, get(f"{hint}_conv{i + 1}_weight"), get(f"{hint}_conv{i + 1}_bias"))


def fill_bireal(network: BiRealNet, get: Weights, magnitudes: BiRealNet | None) -> None:
    """Weights of an exported Bi-Real net with basic blocks; ``magnitudes`` lends |W| to the signs."""
    std = torch.tensor(STD).view(1, 3, 1, 1)
    # the stem reads pixels minus a mean; ours reads them normalised
    weight = get("stem_weight").permute(0, 3, 1, 2) * get("stem_scale")[:, None, None, None] * std
    offset = (get("stem_mean") - torch.tensor(MEAN)).abs().max()
    assert offset < 1.0, "the stem's mean is not the normalisation's"
    set_conv_bn(network.stem, weight, get("stem_bias"))
    for s, stage in enumerate(network.stages):
        for b, block in enumerate(stage):  # type: ignore[arg-type]  # a Sequential of blocks
            assert isinstance(block, BiRealBasic)
            hint = f"stage{s + 1}_{b}"
            conv = block.body.conv
            signs = get.signs(f"{hint}_weight", conv.in_channels)
            size = torch.ones_like(signs)
            if magnitudes is not None:
                twin = magnitudes.stages[s][b].body.conv.weight.detach().abs()  # type: ignore[index,union-attr]
                size = (twin / twin.mean(dim=(1, 2, 3), keepdim=True)).clamp(min=1e-3)
            latent = signs * size * fresh_deviation(conv) * 0.8
            with torch.no_grad():
                conv.weight.copy_(latent)
            alpha = latent.abs().mean(dim=(1, 2, 3))
            assert isinstance(block.body.bn, nn.BatchNorm2d)
            set_affine(block.body.bn, get(f"{hint}_scale") / alpha, get(f"{hint}_bias"))
            if block.downsample is not None:
                weight = get(f"{hint}_down_weight") * get.scale(f"{hint}_down_scale")  # [C,O]
                set_conv_bn(block.downsample.conv_bn, weight.T[:, :, None, None], 0.0)


@torch.no_grad()
def fill_fc(fc: nn.Linear, get: Weights) -> None:
    """The last layer of an exported network."""
    weight = get("fc_weight") * get.scale("fc_scale")
    fc.weight.copy_(weight if weight.shape == fc.weight.shape else weight.T)
    fc.bias.copy_(get("fc_bias"))


@torch.no_grad()
def calibrate(network: nn.Module, images: Tensor) -> None:
    """Give every BatchNorm the statistics of its input over ``images`` [N,3,H,W], the function kept."""
    network.eval()
    sums: dict[nn.BatchNorm2d, list[Tensor]] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        x = inputs[0].double()
        entry = sums.setdefault(module, [torch.zeros(x.shape[1]).double(), torch.zeros(x.shape[1]).double()])
        entry[0] += x.mean(dim=(0, 2, 3))
        entry[1] += x.square().mean(dim=(0, 2, 3))

    hooks = [m.register_forward_pre_hook(record) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    batches = images.split(128)
    for batch in batches:
        network(normalise(batch))
    for hook in hooks:
        hook.remove()
    for bn, (first, second) in sums.items():
        assert bn.running_mean is not None and bn.running_var is not None
        mean, var = first / len(batches), second / len(batches)
        var = (var - mean.square()).clamp(min=1e-12)
        slope = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        offset = bn.bias - slope * bn.running_mean
        bn.running_mean.copy_(mean)
        bn.running_var.copy_(var)
        bn.weight.copy_(slope.double() * torch.sqrt(var + bn.eps))
        bn.bias.copy_(offset.double() + slope.double() * mean)


def main() -> int:
    """Read a model directory, write a checkpoint."""
    parser = Parser(prog="python -m models.train.recover", description=__doc__)
    parser.add_argument("model", type=Path, help="folder with card.yaml and model.onnx")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, for the statistics")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--twin", type=Path, help="checkpoint of the full-precision twin, for the magnitudes")
    args = parser.parse_args()
    try:
        recovered(args)
    except (FileNotFoundError, ValueError, ServiceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def recovered(args: argparse.Namespace) -> None:
    """Write the checkpoint that the arguments ask for.

    Raises:
        FileNotFoundError, ValueError, ServiceError: the model or the data cannot be used; the message says why.
    """
    card = Card.load(args.model)
    binary = card.precision == "binary"
    arch = ArchConfig(
        depth=card.network.depth, method="bireal" if binary else "none", num_classes=len(card.classes or ())
    )
    network = build(arch)
    get = Weights(onnx.load(args.model / card.file))
    if isinstance(network, BiRealNet):
        magnitudes = None
        if args.twin:
            magnitudes = BiRealNet(arch)
            initialise_from(magnitudes, args.twin)
        fill_bireal(network, get, magnitudes)
    else:
        assert isinstance(network, ResNet)
        fill_resnet(network, get)
    assert isinstance(network.fc, nn.Linear)
    fill_fc(network.fc, get)
    data = load_split(args.data, "train", card.input.width)
    pick = np.random.default_rng(0).choice(len(data), CALIBRATION_IMAGES, replace=False)
    calibrate(network, torch.from_numpy(data.images[pick]).permute(0, 3, 1, 2).float())
    checkpoint.save(args.out, network, arch, card.name, checkpoint.Progress())


if __name__ == "__main__":
    sys.exit(main())
