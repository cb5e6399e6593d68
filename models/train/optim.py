"""Optimisers and learning-rate schedules of a phase."""

from __future__ import annotations

import math

import torch
from torch import nn

from models.train.recipe import PhaseSpec


def make_optimizer(network: nn.Module, spec: PhaseSpec) -> torch.optim.Optimizer:
    """Optimiser over the phase's trainable parameters; freezes the others if ``batchnorm_only``.

    Weight decay is put on tensors of two or more dimensions only (not on BatchNorm and biases).

    With ``batchnorm_only`` the classifier stands still with the convolutions. The paper's second step (Sec. 4.1) sets
    the rate "in all convolutional layers" to 0 and says of BatchNorm alone that it is trained again, to absorb the
    scaling factor; of the last linear layer, which is no convolution and has no such factor, it says nothing. Read so,
    what the step changes is what it is there to change. The 1-bit weights stay at their scale times -1 and +1, where
    the paper puts -1 and +1: BatchNorm's output is the same (Eq. 20).

    Raises:
        ValueError: the phase names no optimiser that there is.
    """
    batchnorm = {id(p) for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters(recurse=False)}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in network.parameters():
        parameter.requires_grad_(not spec.batchnorm_only or id(parameter) in batchnorm)
        if parameter.requires_grad:
            (decayed if parameter.ndim >= 2 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if spec.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=spec.lr, momentum=0.9, nesterov=spec.nesterov)
    if spec.optimizer == "adam":
        return torch.optim.Adam(groups, lr=spec.lr, fused=True)
    raise ValueError(f"unknown optimizer {spec.optimizer!r}: use 'sgd' or 'adam'")


def learning_rate(spec: PhaseSpec, step: int, steps: int, steps_per_epoch: int) -> float:
    """Learning rate at ``step`` of a phase of ``steps``.

    ``cosine`` falls to zero; ``cosine-head`` is the first half of it (to half the peak), for a phase that
    another one continues; ``linear`` falls to zero; ``constant`` stays; ``step`` multiplies by 0.1 at each milestone.
    """
    warm = int(spec.warmup * steps)
    if step < warm:
        return spec.lr * (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    if spec.schedule == "cosine":
        return spec.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
    if spec.schedule == "cosine-head":
        return spec.lr * 0.5 * (1.0 + math.cos(math.pi * 0.5 * progress))
    if spec.schedule == "linear":
        return spec.lr * (1.0 - progress)
    if spec.schedule == "constant":
        return spec.lr
    if spec.schedule == "step":
        return spec.lr * 0.1 ** sum(step >= m * steps_per_epoch for m in spec.milestones)
    raise ValueError(f"unknown schedule {spec.schedule!r}: use cosine, cosine-head, linear, constant or step")
