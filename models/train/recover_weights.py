"""Copies the weights of an exported graph back into a network, before BatchNorm statistics are calibrated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from models.arch import ArchConfig, BiRealNet, DepthNet, ResNet
from models.arch.bireal import BiRealBasic, BiRealBottleneck
from models.arch.resnet import BasicBlock, Bottleneck
from models.binarize.layer import SignConvBn
from models.data.normalise import MEAN, STD
from service.backends.bits import unpack_signs
from service.backends.dialect import STEM


class Weights:
    """Initialisers of a graph by name, without the number that the exporter appends."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._values: dict[str, NDArray[np.generic]] = {}
        #: Score weights of a depth network, which share one name; in graph order, from coarse to fine.
        self.scores: list[Tensor] = []
        for tensor in model.graph.initializer:
            name, value = tensor.name.rsplit("_", 1)[0], numpy_helper.to_array(tensor)
            if name == "score_weight":
                self.scores.append(torch.from_numpy(value.astype(np.float32)).flatten())
            self._values.setdefault(name, value)

    def __call__(self, name: str) -> Tensor:
        """The float32 tensor ``name``, stored as float32, as float16, or as int8 with a scale per column."""
        value = self._values.get(f"{name}_f16", self._values.get(name))
        if value is None:
            raise ValueError(f"the graph has no {name!r}: only graphs written by models.export can be read")
        stored = np.array(value, np.float32)
        if value.dtype == np.int8:
            stored *= self._values[name.removesuffix("_weight") + "_scale"].astype(np.float32)
        return torch.from_numpy(stored)

    def scale(self, name: str) -> Tensor | float:
        """Scale of the weights that `__call__` has not applied yet; 1 if the graph stores none."""
        weight = self._values.get(name.removesuffix("_scale") + "_weight")
        applied = weight is not None and weight.dtype == np.int8
        return self(name) if name in self._values and not applied else 1.0

    def pointwise(self, hint: str) -> Tensor:
        """Weights of a real-valued 1x1 convolution in a packed graph, [O,C,1,1]."""
        weight = self(f"{hint}_weight") * self.scale(f"{hint}_scale")  # [C,O]
        return weight.T[:, :, None, None]

    def signs(self, name: str, channels: int) -> Tensor:
        """Packed weights as -1/+1 [O,C,K,K]."""
        stored = self._values.get(name)
        if stored is None or stored.dtype != np.int32:
            raise ValueError(f"the graph has no packed {name!r}: only graphs written by models.export can be read")
        words: NDArray[np.int32] = stored.astype(np.int32, copy=False)  # [O,K,K,words]
        return torch.from_numpy(unpack_signs(words, channels)).permute(0, 3, 1, 2).contiguous()


def complete_arch(arch: ArchConfig, model: onnx.ModelProto) -> ArchConfig:
    """``arch`` with what a card does not state, read from the graph: the stem, and the type of the first 1x1.

    Raises:
        ValueError: the graph has no first convolution, or one that no network has.
    """
    stem = next((node for node in model.graph.node if node.op_type in (STEM, "Conv")), None)
    if stem is None:
        raise ValueError("the graph has no first convolution: only graphs written by models.export can be read")
    kinds = {tensor.name: tensor for tensor in model.graph.initializer}
    attributes = {one.name: helper.get_attribute_value(one) for one in stem.attribute}
    if stem.op_type == STEM:  # weight [O,K,K,3]
        kernel, stride, pool = kinds[stem.input[1]].dims[1], attributes["stride"], bool(attributes["pool"])
    else:
        kernel, stride = attributes["kernel_shape"][0], attributes["strides"][0]
        pool = any(node.op_type == "MaxPool" for node in model.graph.node)
    packed = any(
        name.startswith("stage1_0_reduce_weight_") and tensor.data_type == TensorProto.INT32
        for name, tensor in kinds.items()
    )
    return replace(arch, stem_kernel=int(kernel), stem_stride=int(stride), stem_pool=pool, first_1x1_real=not packed)


def set_affine(bn: nn.BatchNorm2d, scale: Tensor | float, bias: Tensor | float) -> None:
    """Make an eval-mode BatchNorm compute scale * x + bias."""
    assert bn.running_mean is not None and bn.running_var is not None
    with torch.no_grad():
        bn.running_mean.zero_()
        bn.running_var.fill_(1.0 - bn.eps)
        bn.weight.copy_(torch.as_tensor(scale).expand_as(bn.weight))
        bn.bias.copy_(torch.as_tensor(bias).expand_as(bn.bias))


def set_conv_bn(conv_bn: nn.Sequential, weight: Tensor, bias: Tensor | float) -> None:
    """Split a folded convolution into convolution and BatchNorm, with weights scaled as after initialisation."""
    conv, bn = conv_bn[0], conv_bn[1]
    assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
    factor = fresh_deviation(conv) / weight.std()
    with torch.no_grad():
        conv.weight.copy_(weight * factor)
    set_affine(bn, 1.0 / factor, bias)


def fresh_deviation(conv: nn.Conv2d) -> float:
    """Standard deviation of a convolution's initial weights (He et al. 2015, fan-out)."""
    return float((2.0 / (conv.out_channels * conv.kernel_size[0] ** 2)) ** 0.5)


def fill_resnet(network: ResNet, get: Weights) -> None:
    """Load the weights of an exported full-precision network, except its last layer."""
    set_conv_bn(network.stem, get("stem_weight"), get("stem_bias"))
    for s, stage in enumerate(network.stages):
        for b, block in enumerate(cast("Iterable[BasicBlock | Bottleneck]", stage)):
            hint = f"stage{s + 1}_{b}"
            if block.downsample is not None:
                set_conv_bn(block.downsample, get(f"{hint}_down_weight"), get(f"{hint}_down_bias"))
            for i, conv_bn in enumerate(cast("Iterable[nn.Sequential]", block.convs)):
                set_conv_bn(conv_bn, get(f"{hint}_conv{i + 1}_weight"), get(f"{hint}_conv{i + 1}_bias"))


def fill_bireal(network: BiRealNet, get: Weights, magnitudes: BiRealNet | None) -> None:
    """Load the weights of an exported Bi-Real net, except its last layer; |W| is taken from ``magnitudes``."""
    std = torch.tensor(STD).view(1, 3, 1, 1)
    # the graph's stem reads pixels minus a mean, the network's stem reads normalised pixels
    weight = get("stem_weight").permute(0, 3, 1, 2) * get("stem_scale")[:, None, None, None] * std
    offset = (get("stem_mean") - torch.tensor(MEAN)).abs().max()
    assert offset < 1.0, "the stem's mean differs from that of the normalisation"
    set_conv_bn(network.stem, weight, get("stem_bias"))
    for s, stage in enumerate(network.stages):
        for b, block in enumerate(cast("Iterable[BiRealBasic | BiRealBottleneck]", stage)):
            hint = f"stage{s + 1}_{b}"
            twin = None if magnitudes is None else magnitudes.stages[s][b]  # type: ignore[index]  # likewise
            for name, layer in block.named_children():
                if isinstance(layer, SignConvBn):
                    lender = None if twin is None else getattr(twin, name)
                    fill_layer(layer, get, hint if isinstance(block, BiRealBasic) else f"{hint}_{name}", lender)
            if block.downsample is not None:
                set_conv_bn(block.downsample.conv_bn, get.pointwise(f"{hint}_down"), 0.0)
            if isinstance(block, BiRealBottleneck):
                if block.real_reduce:
                    assert isinstance(block.reduce, nn.Sequential)
                    set_conv_bn(block.reduce, get.pointwise(f"{hint}_reduce"), get(f"{hint}_reduce_bias"))
                if block.match is not None:
                    block.match.weight.data.copy_(get.pointwise(f"{hint}_match"))


def fill_layer(layer: SignConvBn, get: Weights, hint: str, lender: SignConvBn | None) -> None:
    """Load the signs, scale and bias of one 1-bit convolution; the weight magnitudes come from ``lender``."""
    signs = get.signs(f"{hint}_weight", layer.conv.in_channels)
    size = torch.ones_like(signs)
    if lender is not None:
        lent = lender.conv.weight.detach().abs()
        size = (lent / lent.mean(dim=(1, 2, 3), keepdim=True)).clamp(min=1e-3)
    latent = signs * size * fresh_deviation(layer.conv) * 0.8
    with torch.no_grad():
        layer.conv.weight.copy_(latent)
    alpha = latent.abs().mean(dim=(1, 2, 3))
    set_affine(layer.bn, get(f"{hint}_scale") / alpha, get(f"{hint}_bias"))


@torch.no_grad()
def fill_fc(fc: nn.Linear, get: Weights) -> None:
    """Load the last layer of an exported classifier."""
    weight = get("fc_weight") * get.scale("fc_scale")
    fc.weight.copy_(weight if weight.shape == fc.weight.shape else weight.T)
    fc.bias.copy_(get("fc_bias"))


@torch.no_grad()
def fill_scores(network: DepthNet, get: Weights) -> None:
    """Load the score convolutions of an exported depth network, into which its BatchNorms are folded."""
    for norm, score, weight in zip(network.norms, network.scores, reversed(get.scores), strict=True):
        assert isinstance(norm, nn.BatchNorm2d) and isinstance(score, nn.Conv2d) and score.bias is not None
        set_affine(norm, 1.0, 0.0)
        score.weight.copy_(weight.view_as(score.weight))
        score.bias.zero_()
    # upsampling preserves constants, so the graph's single bias can be added to any of the maps
    last = network.scores[0]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    last.bias.copy_(get("score_bias"))


@torch.no_grad()
def move_into_scores(network: DepthNet) -> None:
    """Move the scale of calibrated BatchNorms into the score weights, so that it is 1 as at the start of training."""
    for norm, score in zip(network.norms, network.scores, strict=True):
        assert isinstance(norm, nn.BatchNorm2d) and isinstance(score, nn.Conv2d)
        score.weight.mul_(norm.weight[None, :, None, None])
        norm.bias.div_(norm.weight)
        norm.weight.fill_(1.0)
