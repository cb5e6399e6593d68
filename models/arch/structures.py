"""Structures ``res`` and ``plain`` (paper Fig. 10 (c), (d)), the baselines of Bi-Real Net's structure.

Blocks use ReLU-only pre-activation (He et al. 2016, the paper's [12]): non-linearity -> convolution -> BatchNorm, two
or three times, then the shortcut's addition with nothing after it. A plain block has no shortcut.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.arch.layers import Downsample, LayerMaker


class PreActivationBlock(nn.Module):
    """Consecutive layers with at most one shortcut around them: [N,C,H,W] -> [N,O,ceil(H/s),ceil(W/s)].

    Args:
        method: makes the layers.
        in_channels: C.
        shapes: (output channels, kernel, stride) of each layer.
        shortcut: whether there is a shortcut; it is a `Downsample` where the shape changes.
    """

    def __init__(
        self, method: LayerMaker, in_channels: int, shapes: list[tuple[int, int, int]], *, shortcut: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        channels, total_stride = in_channels, 1
        for out_channels, kernel, stride in shapes:
            self.layers.append(method.layer(channels, out_channels, kernel, stride))
            channels, total_stride = out_channels, total_stride * stride
        self.shortcut = shortcut
        changes_shape = total_stride > 1 or channels != in_channels
        self.downsample = Downsample(in_channels, channels, total_stride) if shortcut and changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = layer(y)
        if not self.shortcut:
            return y
        return y + (x if self.downsample is None else self.downsample(x))


def pre_activation_block(
    method: LayerMaker, in_channels: int, channels: int, stride: int, *, bottleneck: bool, shortcut: bool
) -> PreActivationBlock:
    """Two 3x3 layers, or a 1x1, 3x3, 1x1 bottleneck to four times the channels; the first 3x3 has the stride."""
    shapes = [(channels, 3, stride), (channels, 3, 1)]
    if bottleneck:
        shapes = [(channels, 1, 1), (channels, 3, stride), (4 * channels, 1, 1)]
    return PreActivationBlock(method, in_channels, shapes, shortcut=shortcut)
