"""Hints: an encoder's feature maps learn to contain those of an ImageNet-pretrained network (Romero et al. 2015).

A class label is one number per image; feature maps give a target at every position, which a short training run on few
images can learn much more from. An *adapter* per stage maps its channels to the pretrained network's. Adapters are
trained with the network, as its encoder's submodule ``hints``, and are in its checkpoints, but not in what is exported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.arch.bireal import BiRealNet
from models.arch.depth import DepthNet
from models.arch.resnet import ResNet
from models.train.pretrained import taps


def encoder_of(network: nn.Module) -> BiRealNet | ResNet:
    """The encoder of a depth network, or the network itself."""
    encoder = network.encoder if isinstance(network, DepthNet) else network
    assert isinstance(encoder, BiRealNet | ResNet)
    return encoder


def add_hints(network: nn.Module, pretrained: nn.Module) -> None:
    """Add adapters for the feature maps of ``pretrained``; to be called before an optimiser is made."""
    encoder = encoder_of(network)
    encoder.hints = Hints(encoder, list(taps(pretrained).values()))


def hints_of(network: nn.Module) -> Hints:
    """The adapters that `add_hints` added."""
    found = encoder_of(network).get_submodule("hints")
    assert isinstance(found, Hints)
    return found


class Hints(nn.Module):
    """The adapters and the loss of one encoder, whose stage outputs are captured by hooks during training.

    Args:
        encoder: a network with four stages at strides 4, 8, 16 and 32.
        channels: numbers of channels of the pretrained network's maps at these strides.
    """

    def __init__(self, encoder: BiRealNet | ResNet, channels: list[int]) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(
            nn.Conv2d(ours, theirs, 1, bias=False)
            for ours, theirs in zip(encoder.config.feature_channels, channels, strict=True)
        )
        self._maps: list[Tensor] = []
        for stage in encoder.stages:
            stage.register_forward_hook(self._capture)

    def _capture(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, Tensor]) -> None:
        if torch.is_grad_enabled():
            self._maps.append(output[1] if isinstance(output, tuple) else output)

    def forward(self, theirs: list[Tensor]) -> Tensor:
        """1 minus the mean correlation of all channels and stages, for the encoder's last forward pass.

        Args:
            theirs: `feature_maps` of the images of that pass.

        Returns:
            A scalar between 0 and 2.
        """
        ours, self._maps = self._maps, []
        total = torch.zeros((), device=theirs[0].device)
        for x, y, adapter in zip(ours, theirs, self.adapters, strict=True):
            total = total + 1.0 - correlation(adapter(x.float()), y.float()).mean()
        return total / len(theirs)


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation [C] of every channel of x and y [B,C,H,W], over images and positions."""
    x = x - x.mean(dim=(0, 2, 3), keepdim=True)
    y = y - y.mean(dim=(0, 2, 3), keepdim=True)
    spread = x.square().mean(dim=(0, 2, 3)) * y.square().mean(dim=(0, 2, 3))
    return (x * y).mean(dim=(0, 2, 3)) / (spread + 1e-12).sqrt()
