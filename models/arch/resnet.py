"""Full-precision ResNet (He et al. 2016), the paper's baseline; the variant `full`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.arch.config import ArchConfig
from models.arch.layers import classify, conv_bn, draw_convolutions


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N,C,H,W] -> [N,O,ceil(H/s),ceil(W/s)]."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv_bn(in_channels, channels, 3, stride), conv_bn(channels, channels, 3, 1)])
        self.downsample = conv_bn(in_channels, channels, 1, stride) if stride > 1 or in_channels != channels else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.convs[0](x))
        return F.relu(self.convs[1](y) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 convolutions, the last to four times the channels, and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * channels
        self.convs = nn.ModuleList(
            [
                conv_bn(in_channels, channels, 1, 1),
                conv_bn(channels, channels, 3, stride),
                conv_bn(channels, out_channels, 1, 1),
            ]
        )
        self.downsample = (
            conv_bn(in_channels, out_channels, 1, stride) if stride > 1 or in_channels != out_channels else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.convs[0](x))
        y = F.relu(self.convs[1](y))
        return F.relu(self.convs[2](y) + shortcut)


class ResNet(nn.Module):
    """ResNet-18/34/50/152 on normalised images [N,3,H,W]."""

    def __init__(self, config: ArchConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = conv_bn(3, config.stem_channels, config.stem_kernel, config.stem_stride)
        channels = config.stem_channels
        block_type = Bottleneck if config.bottleneck else BasicBlock
        self.stages = nn.ModuleList()
        for index, (blocks, width, out) in enumerate(
            zip(config.blocks, config.stage_channels, config.feature_channels, strict=True)
        ):
            stage = nn.Sequential()
            for block in range(blocks):
                stride = 2 if index > 0 and block == 0 else 1
                stage.append(block_type(channels, width, stride))
                channels = out
            self.stages.append(stage)
        self.fc = nn.Linear(channels, config.num_classes) if config.task == "classify" else None
        draw_convolutions(self)

    def features(self, x: Tensor) -> list[Tensor]:
        """Outputs of the four stages for x [N,3,H,W], at strides 4, 8, 16, 32 with the ImageNet stem."""
        x = F.relu(self.stem(x))
        if self.config.stem_pool:
            x = F.max_pool2d(x, 3, 2, 1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N,classes] of normalised images [N,3,H,W]."""
        return classify(self.features(x)[-1], self.fc)
