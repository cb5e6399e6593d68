"""Real-valued parts shared by the networks, and the real-valued counterpart of a 1-bit layer.

A structure gets its layers from a *layer maker*: a binarisation method (models.binarize) or `RealLayers`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from models.binarize.base import BinaryLayer
from models.export.fold import batchnorm_affine, conv_weight

if TYPE_CHECKING:
    from models.export.float_ops import FloatOps
    from models.export.graph import After, Stream


def conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution without bias, then BatchNorm: [N,C,H,W] -> [N,O,ceil(H/s),ceil(W/s)]."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out_channels)
    )


def avg_pool2(x: Tensor) -> Tensor:
    """2x2 average pool, stride 2; windows that overlap the border average only the pixels inside."""
    return F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)


def draw_convolutions(network: nn.Module) -> None:
    """Draw the weights of every convolution anew, as He et al. do for ReLU: zero mean, variance 2 / fan-out."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def classify(features: Tensor, fc: nn.Linear | None) -> Tensor:
    """Logits [N,classes] from the mean over all positions of the last stage's output [N,C,H,W]."""
    assert fc is not None, "a depth encoder has no classifier"
    logits: Tensor = fc(features.mean(dim=(2, 3)))
    return logits


class Downsample(nn.Module):
    """Real-valued shortcut between stages: average-pool 2x2 (if strided), 1x1 convolution, BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv_bn = conv_bn(in_channels, out_channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_bn(avg_pool2(x) if self.stride == 2 else x)
        return y


class RealLayer(nn.Module):
    """ReLU or clip -> convolution -> BatchNorm: [N,C,H,W] -> [N,O,ceil(H/s),ceil(W/s)].

    Args:
        activation: ``relu`` or ``clip``.
        in_channels: C.
        out_channels: O.
        kernel: 1 or 3.
        stride: 1 or 2.
    """

    def __init__(self, activation: str, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.activation = activation
        # The names of a 1-bit layer's modules, so that a 1-bit layer can start from these weights (paper Sec. 3.4.3).
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(F.relu(x) if self.activation == "relu" else x.clamp(-1.0, 1.0)))
        return y

    def export(self, ops: FloatOps, x: Stream, after: After, hint: str) -> Stream:
        """Write the layer into a graph of standard operators, BatchNorm folded; see `BinaryLayer.export`."""
        scale, bias = batchnorm_affine(self.bn)
        weight = conv_weight(self.conv) * scale[:, None, None, None]
        active = ops.relu(x.values) if self.activation == "relu" else ops.clip(x.values)
        y = ops.conv(active, weight, bias + after.bias, self.conv.stride[0], hint)
        return ops.add(y, replace(after, bias=0.0), f"{hint}_sum")


class LayerMaker(Protocol):
    """The interface that a structure needs from a binarisation method."""

    def layer(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> BinaryLayer | RealLayer:
        """Make a layer with random weights."""


class RealLayers:
    """Makes real-valued layers.

    Args:
        activation: ``relu`` or ``clip``.
    """

    def __init__(self, activation: str) -> None:
        self._activation = activation

    def layer(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> RealLayer:
        """See `LayerMaker.layer`."""
        return RealLayer(self._activation, in_channels, out_channels, kernel, stride)
