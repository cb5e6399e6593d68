"""Depth network (paper Sec. 4.5): Garg et al. 2016's disparity decoder on a ResNet-50 or Bi-Real-50 encoder.

Each encoder stage gives a one-channel score map by a real 1x1 convolution; the maps are summed from coarse to
fine with x2 bilinear upsampling, and the sum at stride 4 is upsampled to the input's size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.arch.bireal import BiRealNet
from models.arch.config import ArchConfig
from models.arch.resnet import ResNet

MIN_DISPARITY_PX = 0.5  # bounds depth = f B / d; far beyond the 80 m that is evaluated


class DepthNet(nn.Module):
    """Disparity in pixels of the network's input width: [N,3,H,W] normalised -> [N,H,W]; H, W multiples of 32."""

    def __init__(self, encoder: BiRealNet | ResNet, config: ArchConfig) -> None:
        super().__init__()
        if config.max_disparity_px <= MIN_DISPARITY_PX:
            raise ValueError(f"max_disparity_px must exceed {MIN_DISPARITY_PX}, not {config.max_disparity_px}")
        self.config = config
        self.encoder = encoder
        # The range is spanned in log disparity: an untrained network then answers the geometric mean (about
        # 28 m at 160x608), not a wall at 4 m.
        self.log_min = math.log(MIN_DISPARITY_PX)
        self.log_span = math.log(config.max_disparity_px) - self.log_min
        # A score map sees features of very different scale (a Bi-Real stream grows with every block), so
        # each is normalised; the scale folds into the 1x1 convolution at export.
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in config.feature_channels)
        self.scores = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in config.feature_channels)
        for score in self.scores:
            assert isinstance(score, nn.Conv2d)
            nn.init.normal_(score.weight, std=0.1 * score.in_channels**-0.5)
            assert score.bias is not None
            nn.init.zeros_(score.bias)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.encoder.features(x)
        total: Tensor | None = None
        for feature, norm, score in zip(reversed(maps), reversed(self.norms), reversed(self.scores), strict=True):
            scored = score(norm(feature))  # [N,1,h,w]
            if total is None:
                total = scored
            else:
                total = scored + F.interpolate(total, scale_factor=2.0, mode="bilinear", align_corners=False)
        assert total is not None
        total = F.interpolate(total, scale_factor=4.0, mode="bilinear", align_corners=False)
        return torch.exp(self.log_min + self.log_span * torch.sigmoid(total[:, 0]))
