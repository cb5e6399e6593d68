"""Networks: full-precision ResNets, Bi-Real nets of the same sizes, and the depth network on top of either."""

from __future__ import annotations

from models.arch.bireal import BiRealNet
from models.arch.config import ArchConfig
from models.arch.depth import DepthNet
from models.arch.resnet import ResNet

__all__ = ["ArchConfig", "BiRealNet", "DepthNet", "ResNet", "build"]


def build(config: ArchConfig) -> BiRealNet | ResNet | DepthNet:
    """Build the network that ``config`` describes, with fresh weights."""
    encoder: BiRealNet | ResNet = BiRealNet(config) if config.binary else ResNet(config)
    return DepthNet(encoder, config) if config.task == "depth" else encoder
