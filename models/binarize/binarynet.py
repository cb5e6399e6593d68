"""BinaryNet (Hubara et al. 2016, the paper's [16]): sign weights and activations, clip gradient, no scales.

The latent real weights are kept in [-1, 1]: outside that range a weight gets no gradient and could not return.
Its networks have one shortcut around two convolutions, i.e. ``structure="res"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from models.binarize.base import BinaryLayer, Method
from models.binarize.bireal import ApproxSign, OriginalConv2d
from models.binarize.layer import SignConvBn


class BinaryNetConv2d(OriginalConv2d):
    """Convolution with weights sign(W_r); W_r is clipped to [-1, 1] before each use in training."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.weights_are_binary:
            # BinaryNet clips after the optimiser step; clipping before the next use is equivalent.
            with torch.no_grad():
                self.weight.clamp_(-1.0, 1.0)
        return super().forward(x)


@dataclass(frozen=True)
class BinaryNet(Method):
    """BinaryNet; it has no options."""

    name: ClassVar[str] = "binarynet"

    def layer(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> BinaryLayer:
        """See `Method.layer`."""
        return SignConvBn(ApproxSign("clip"), BinaryNetConv2d(in_channels, out_channels, kernel, stride))


METHOD = BinaryNet
