"""Bi-Real Net (paper Sec. 3.2, 3.3, Fig. 2): one 1-bit convolution a block, real-valued shortcuts around each.

The real-valued parts are as in the paper: 7x7 stem, BatchNorm, 2x2 average-pool + 1x1 downsampling, classifier.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.arch.config import ArchConfig
from models.arch.resnet import conv_bn
from models.binarize import get_method
from models.binarize.base import Method
from models.binarize.bireal import leaky_clip


def avg_pool2(x: Tensor) -> Tensor:
    """2x2 average pool, stride 2; an odd last row or column is averaged over what exists."""
    return F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)


class BinaryConvBn(nn.Module):
    """sign -> 1-bit convolution -> BatchNorm: [N,C,H,W] -> [N,O,ceil(H/s),ceil(W/s)]; the caller adds the shortcut."""

    def __init__(self, method: Method, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.sign = method.activation(in_channels)
        self.conv = method.conv(in_channels, out_channels, kernel, stride)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(self.sign(x)))
        return y


class Downsample(nn.Module):
    """Real-valued shortcut between stages: average-pool 2x2 (if strided), 1x1 convolution, BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv_bn = conv_bn(in_channels, out_channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_bn(avg_pool2(x) if self.stride == 2 else x)
        return y


class BiRealBasic(nn.Module):
    """One 1-layer block of Fig. 2 (a): o = BN(B3x3(sign(x))) + shortcut(x)."""

    def __init__(self, method: Method, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = BinaryConvBn(method, in_channels, channels, 3, stride)
        changes_shape = stride > 1 or in_channels != channels
        self.downsample = Downsample(in_channels, channels, stride) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.body(x) + shortcut
        return y


class BiRealBottleneck(nn.Module):
    """Two-stream bottleneck of Fig. 2 (b) and Fig. 5: (x1 [N,C/4,..], x2 [N,C,..]) -> (o2, o3).

    o1 = BN(B1x1(sign(x2))) + x1;  o2 = BN(B3x3(sign(o1))) + o1;  o3 = BN(B1x1(sign(o2))) + x2. With stride 2, o1 is
    average-pooled before it is added to o2, x1 passes a real 1x1 that matches its channels, x2 pools and
    passes a real 1x1 and BatchNorm. In the very first block (``first``) the official code replaces the first
    binary 1x1 by a real one on leaky-clipped x2, which makes the x1 stream.
    """

    def __init__(
        self, method: Method, in_channels: int, x1_channels: int, channels: int, stride: int, first: bool
    ) -> None:
        super().__init__()
        out_channels = 4 * channels
        self.first = first
        self.stride = stride
        self.reduce = (
            conv_bn(in_channels, channels, 1, 1) if first else BinaryConvBn(method, in_channels, channels, 1, 1)
        )
        self.match = nn.Conv2d(x1_channels, channels, 1, bias=False) if not first and x1_channels != channels else None
        self.body = BinaryConvBn(method, channels, channels, 3, stride)
        self.expand = BinaryConvBn(method, channels, out_channels, 1, 1)
        changes_shape = stride > 1 or in_channels != out_channels
        self.downsample = Downsample(in_channels, out_channels, stride) if changes_shape else None

    def forward(self, streams: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x1, x2 = streams
        if self.first:
            o1 = self.reduce(leaky_clip(x2))
        else:
            o1 = self.reduce(x2) + (x1 if self.match is None else self.match(x1))
        o2 = self.body(o1) + (avg_pool2(o1) if self.stride == 2 else o1)
        o3 = self.expand(o2) + (x2 if self.downsample is None else self.downsample(x2))
        return o2, o3


class BiRealNet(nn.Module):
    """Bi-Real-18/34 (basic) or -50/152 (two-stream bottleneck) on normalised images [N,3,H,W]."""

    def __init__(self, config: ArchConfig) -> None:
        super().__init__()
        self.config = config
        method = get_method(config.method)
        self.stem = conv_bn(3, config.stem_channels, 7, 2)
        channels = config.stem_channels
        x1_channels = 0
        self.stages = nn.ModuleList()
        for index, (blocks, width, out) in enumerate(
            zip(config.blocks, config.stage_channels, config.feature_channels, strict=True)
        ):
            stage = nn.Sequential()
            for block in range(blocks):
                stride = 2 if index > 0 and block == 0 else 1
                if config.bottleneck:
                    first = index == 0 and block == 0
                    stage.append(BiRealBottleneck(method, channels, x1_channels, width, stride, first))
                    x1_channels = width
                else:
                    stage.append(BiRealBasic(method, channels, width, stride))
                    stage.append(BiRealBasic(method, width, width, 1))
                channels = out
            self.stages.append(stage)
        self.fc = nn.Linear(channels, config.num_classes) if config.task == "classify" else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> list[Tensor]:
        """Outputs of the four stages, at strides 4, 8, 16, 32, for x [N,3,H,W]."""
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        maps: list[Tensor] = []
        state: Tensor | tuple[Tensor, Tensor] = (x, x) if self.config.bottleneck else x
        for stage in self.stages:
            state = stage(state)
            maps.append(state[1] if isinstance(state, tuple) else state)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N,classes] of normalised images [N,3,H,W]."""
        assert self.fc is not None, "a depth encoder has no classifier"
        pooled = self.features(x)[-1].mean(dim=(2, 3))
        logits: Tensor = self.fc(pooled)
        return logits
