"""Depth network (paper Sec. 4.5): Garg et al. 2016's disparity decoder on a ResNet-50 or Bi-Real-50 encoder.

A real 1x1 convolution turns each encoder stage into a one-channel score map. The maps are summed from coarse to fine
with x2 bilinear upsampling, and the sum at stride 4 is upsampled to the input size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.arch.bireal import BiRealNet
from models.arch.config import ArchConfig
from models.arch.resnet import ResNet

MIN_DISPARITY_PX = 0.5  # bounds depth = f B / d, far beyond the 80 m evaluated


class DepthNet(nn.Module):
    """Disparity in pixels of the network's input width: [N,3,H,W] normalised -> [N,H,W]; H, W multiples of 32."""

    def __init__(self, encoder: BiRealNet | ResNet, config: ArchConfig) -> None:
        super().__init__()
        if config.max_disparity_px <= MIN_DISPARITY_PX:
            raise ValueError(f"max_disparity_px must exceed {MIN_DISPARITY_PX}, not {config.max_disparity_px}")
        self.config = config
        self.encoder = encoder
        # The sigmoid spans the range in log disparity: an untrained network then predicts the geometric mean (about
        # 28 m at 160x608) instead of 4 m everywhere.
        self.log_min = math.log(MIN_DISPARITY_PX)
        self.log_span = math.log(config.max_disparity_px) - self.log_min
        # Feature scales differ widely between stages (a Bi-Real stream grows with every block), so each stage is
        # normalised. BatchNorm folds into the 1x1 convolution at export.
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in config.feature_channels)
        self.scores = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in config.feature_channels)
        for score in self.scores:
            assert isinstance(score, nn.Conv2d)
            nn.init.normal_(score.weight, std=0.1 * score.in_channels**-0.5)
            assert score.bias is not None
            nn.init.zeros_(score.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encoder.features(x))

    def decode(self, maps: list[Tensor]) -> Tensor:
        """Disparity [N,H,W] from the encoder's four stages, [N,C,h,w] each, at strides 4, 8, 16, 32."""
        total: Tensor | None = None
        for feature, norm, score in zip(reversed(maps), reversed(self.norms), reversed(self.scores), strict=True):
            scored = score(norm(feature))  # [N,1,h,w]
            if total is None:
                total = scored
            else:
                total = scored + F.interpolate(total, scale_factor=2.0, mode="bilinear", align_corners=False)
        assert total is not None
        total = F.interpolate(total, scale_factor=4.0, mode="bilinear", align_corners=False)
        return torch.exp(self.log_min + self.log_span * torch.sigmoid(total[:, 0].float()))
