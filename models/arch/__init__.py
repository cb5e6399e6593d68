"""Networks: full-precision ResNets, 1-bit networks of the same sizes, and the depth network on top of either."""

from __future__ import annotations

from models.arch.bireal import BiRealNet
from models.arch.config import SMALL_STEM, ArchConfig
from models.arch.depth import DepthNet
from models.arch.resnet import ResNet

__all__ = ["SMALL_STEM", "ArchConfig", "BiRealNet", "DepthNet", "ResNet", "build"]


def build(config: ArchConfig) -> BiRealNet | ResNet | DepthNet:
    """Build the network that ``config`` describes, with random weights."""
    encoder: BiRealNet | ResNet = ResNet(config) if config.standard_resnet else BiRealNet(config)
    return DepthNet(encoder, config) if config.task == "depth" else encoder
