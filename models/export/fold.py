"""Folding of BatchNorm and input normalisation into weights, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from models.data.normalise import MEAN, STD

Array = NDArray[np.float64]


def batchnorm_affine(bn: nn.BatchNorm2d) -> tuple[Array, Array]:
    """BatchNorm in eval mode as y = scale * x + bias: (scale [C], bias [C])."""
    assert bn.running_mean is not None and bn.running_var is not None
    mean = bn.running_mean.double().numpy()
    deviation = np.sqrt(bn.running_var.double().numpy() + bn.eps)
    scale = bn.weight.detach().double().numpy() / deviation
    return scale, bn.bias.detach().double().numpy() - scale * mean


def conv_weight(conv: nn.Conv2d) -> Array:
    """Weights as float64 [O,C,K,K]."""
    return np.asarray(conv.weight.detach().double().numpy())


def fold_conv_bn(conv_bn: nn.Sequential) -> tuple[Array, Array]:
    """Convolution and BatchNorm as one convolution: (weight [O,C,K,K], bias [O])."""
    conv, bn = conv_bn[0], conv_bn[1]
    assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
    scale, bias = batchnorm_affine(bn)
    return conv_weight(conv) * scale[:, None, None, None], bias


def fold_stem(conv_bn: nn.Sequential) -> tuple[Array, Array, Array]:
    """Stem on raw pixels: (weight [O,K,K,3], bias [O], mean [3]) with y = weight * (pixel - mean) + bias.

    The zero padding comes after the normalisation, so it adds nothing to the sum over (pixel - mean).
    """
    weight, bias = fold_conv_bn(conv_bn)
    weight = weight / np.asarray(STD)[None, :, None, None]
    return weight.transpose(0, 2, 3, 1), bias, np.asarray(MEAN)
