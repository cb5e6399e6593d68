"""Fig. 8: real and binary weights of a trained network. Fig. 9: activations after ReLU and after clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from models.binarize.base import BinaryActivation, BinaryConv2d, Phase, set_phase
from models.figures.style import BLUE, ORANGE

BINS = 60


@dataclass(frozen=True)
class WeightMagnitudes:
    """Weight magnitudes of one 1-bit layer.

    Attributes:
        real: mean |W_r|.
        aware: mean |W_b| with the magnitude-aware sign (Eq. 19), equal to ``real`` by construction.
        sign: |W_b| with the plain sign, i.e. 1.
        outside: fraction of weights with |W_r| > 1, which get no gradient.
    """

    real: float
    aware: float
    sign: float
    outside: float


def weight_magnitudes(network: nn.Module) -> dict[str, WeightMagnitudes]:
    """Magnitudes by layer, for a network of the method ``bireal``."""
    set_phase(network, Phase.BINARY)
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, BinaryConv2d):
            weight = module.weight.detach()
            found[name] = WeightMagnitudes(
                real=weight.abs().mean().item(),
                aware=module.binary_weight().detach().abs().mean().item(),
                sign=1.0,
                outside=(weight.abs() > 1.0).float().mean().item(),
            )
    return found


def draw_weights(network: nn.Module, layers: list[str]) -> Figure:
    """Histograms of W_r with the binary values as lines: plain sign in the top row, magnitude-aware in the bottom."""
    figure = Figure(figsize=(9, 4.4))
    axes = figure.subplots(2, len(layers))
    modules = dict(network.named_modules())
    magnitudes = weight_magnitudes(network)
    for column, name in enumerate(layers):
        conv = modules[name]
        assert isinstance(conv, BinaryConv2d)
        weight = conv.weight.detach().flatten().numpy()
        for row, (what, value) in enumerate((("sign", 1.0), ("magnitude-aware", magnitudes[name].aware))):
            ax = axes[row, column]
            reach = 1.15 if row == 0 else max(float(np.quantile(np.abs(weight), 0.995)), 1.5 * value)
            ax.hist(weight, BINS, range=(-reach, reach), density=True, color=BLUE, histtype="stepfilled")
            for side in (-value, value):
                ax.axvline(side, color=ORANGE, linewidth=2)
            ax.set_title(f"{name.removesuffix('.conv')}: {what}", fontsize=8)
            ax.set_yticks([])
    figure.tight_layout()
    return figure


@torch.no_grad()
def activations(network: nn.Module, x: Tensor, phase: Phase) -> dict[str, Tensor]:
    """Flattened outputs of every non-linearity in ``phase``, by layer."""
    set_phase(network, phase)
    found: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(lambda _m, _i, out: found.__setitem__(name, out.flatten()))

    hooks = [keep(n, m) for n, m in network.named_modules() if isinstance(m, BinaryActivation)]
    network.eval()(x)
    for hook in hooks:
        hook.remove()
    return found


def draw_activations(relu: dict[str, Tensor], clip: dict[str, Tensor], layers: list[str]) -> Figure:
    """Histograms of activations: after ReLU in the top row, after clip in the bottom row."""
    figure = Figure(figsize=(9, 4.2))
    axes = figure.subplots(2, len(layers))
    for column, name in enumerate(layers):
        for row, (what, values, reach) in enumerate((("ReLU", relu, (-0.5, 3.0)), ("clip", clip, (-1.2, 1.2)))):
            ax = axes[row, column]
            x = values[name].numpy().clip(*reach)
            ax.hist(x, BINS, range=reach, weights=np.full(len(x), 1.0 / len(x)), color=BLUE, histtype="stepfilled")
            ax.set_title(f"{name.removesuffix('.sign')}: {what}", fontsize=8)
            ax.set_yscale("log")
    figure.tight_layout()
    return figure
