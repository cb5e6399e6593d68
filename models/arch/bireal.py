"""Networks of 1-bit layers: Bi-Real Net (paper Sec. 3.2, 3.3, Fig. 2) and its counterparts with other structures.

In Bi-Real Net a real-valued shortcut bypasses every 1-bit convolution. As in the paper, the stem, BatchNorm, the
downsampling (2x2 average pool + 1x1 convolution) and the classifier are real-valued.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.arch.config import ArchConfig
from models.arch.layers import Downsample, LayerMaker, RealLayers, avg_pool2, classify, conv_bn, draw_convolutions
from models.arch.structures import pre_activation_block
from models.binarize import get_method
from models.binarize.functional import leaky_clip


class BiRealBasic(nn.Module):
    """One 1-layer block of Fig. 2 (a): o = BN(B3x3(sign(x))) + shortcut(x)."""

    def __init__(self, method: LayerMaker, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = method.layer(in_channels, channels, 3, stride)
        changes_shape = stride > 1 or in_channels != channels
        self.downsample = Downsample(in_channels, channels, stride) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.body(x) + shortcut
        return y


class BiRealBottleneck(nn.Module):
    """Two-stream bottleneck of Fig. 2 (b) and Fig. 5: (x1 [N,C/4,..], x2 [N,C,..]) -> (o2, o3).

    o1 = BN(B1x1(sign(x2))) + x1;  o2 = BN(B3x3(sign(o1))) + o1;  o3 = BN(B1x1(sign(o2))) + x2. With stride 2, o1 is
    average-pooled before it is added to o2, x1 passes a real 1x1 convolution that matches its channels, and x2 passes
    an average pool, a real 1x1 convolution and BatchNorm. The first block of the network (``first``) has no x1: o1 is
    the output of its first 1x1. With ``first_real`` that 1x1 is real-valued and reads leaky-clipped x2, as in the
    official code.
    """

    def __init__(
        self,
        method: LayerMaker,
        in_channels: int,
        x1_channels: int,
        channels: int,
        stride: int,
        *,
        first: bool,
        first_real: bool,
    ) -> None:
        super().__init__()
        out_channels = 4 * channels
        self.first = first
        self.real_reduce = first and first_real
        self.stride = stride
        self.reduce = (
            conv_bn(in_channels, channels, 1, 1) if self.real_reduce else method.layer(in_channels, channels, 1, 1)
        )
        self.match = nn.Conv2d(x1_channels, channels, 1, bias=False) if not first and x1_channels != channels else None
        self.body = method.layer(channels, channels, 3, stride)
        self.expand = method.layer(channels, out_channels, 1, 1)
        changes_shape = stride > 1 or in_channels != out_channels
        self.downsample = Downsample(in_channels, out_channels, stride) if changes_shape else None

    def forward(self, streams: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x1, x2 = streams
        o1: Tensor = self.reduce(leaky_clip(x2) if self.real_reduce else x2)
        if not self.first:
            o1 = o1 + (x1 if self.match is None else self.match(x1))
        o2 = self.body(o1) + (avg_pool2(o1) if self.stride == 2 else o1)
        o3 = self.expand(o2) + (x2 if self.downsample is None else self.downsample(x2))
        return o2, o3


class BiRealNet(nn.Module):
    """A network of 1-bit layers, 18/34 (basic) or 50/152 (bottleneck), on normalised images [N,3,H,W].

    ``config.structure`` places the shortcuts. With method ``none`` and an activation it is the real-valued counterpart.
    """

    def __init__(self, config: ArchConfig) -> None:
        super().__init__()
        self.config = config
        method: LayerMaker = (
            get_method(config.method, config.options) if config.binary else RealLayers(config.activation)
        )
        self.stem = conv_bn(3, config.stem_channels, config.stem_kernel, config.stem_stride)
        channels = config.stem_channels
        x1_channels = 0
        self.stages = nn.ModuleList()
        for index, (blocks, width, out) in enumerate(
            zip(config.blocks, config.stage_channels, config.feature_channels, strict=True)
        ):
            stage = nn.Sequential()
            for block in range(blocks):
                stride = 2 if index > 0 and block == 0 else 1
                if config.structure != "bireal":
                    shortcut = config.structure == "res"
                    stage.append(
                        pre_activation_block(
                            method, channels, width, stride, bottleneck=config.bottleneck, shortcut=shortcut
                        )
                    )
                elif config.bottleneck:
                    first = index == 0 and block == 0
                    stage.append(
                        BiRealBottleneck(
                            method,
                            channels,
                            x1_channels,
                            width,
                            stride,
                            first=first,
                            first_real=config.first_1x1_real,
                        )
                    )
                    x1_channels = width
                else:
                    stage.append(BiRealBasic(method, channels, width, stride))
                    stage.append(BiRealBasic(method, width, width, 1))
                channels = out
            self.stages.append(stage)
        self.fc = nn.Linear(channels, config.num_classes) if config.task == "classify" else None
        draw_convolutions(self)

    def features(self, x: Tensor) -> list[Tensor]:
        """Outputs of the four stages for x [N,3,H,W], at strides 4, 8, 16, 32 with the ImageNet stem."""
        x = self.stem(x)
        if self.config.stem_pool:
            x = F.max_pool2d(x, 3, 2, 1)
        maps: list[Tensor] = []
        two_streams = self.config.bottleneck and self.config.structure == "bireal"
        state: Tensor | tuple[Tensor, Tensor] = (x, x) if two_streams else x
        for stage in self.stages:
            state = stage(state)
            maps.append(state[1] if isinstance(state, tuple) else state)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N,classes] of normalised images [N,3,H,W]."""
        return classify(self.features(x)[-1], self.fc)
