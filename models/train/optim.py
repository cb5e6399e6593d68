"""Optimisers and learning-rate schedules of a phase."""

from __future__ import annotations

import math

import torch
from torch import nn

from models.train.recipe import PhaseSpec


def make_optimizer(network: nn.Module, spec: PhaseSpec) -> torch.optim.Optimizer:
    """Optimiser over the phase's trainable parameters; with ``batchnorm_only`` the others are frozen.

    Weight decay applies only to tensors of two or more dimensions (not to BatchNorm and biases).

    ``batchnorm_only`` freezes the classifier too. The paper's second step (Sec. 4.1) sets the learning rate "in all
    convolutional layers" to 0 and re-trains BatchNorm to absorb the scaling factor. It does not mention the linear
    classifier, which has no such factor, so we train BatchNorm alone. The 1-bit weights keep their scale, where the
    paper sets them to -1 and +1; BatchNorm's output is the same (Eq. 20).

    Raises:
        ValueError: unknown optimiser.
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
    """Learning rate at ``step`` of a phase with ``steps`` steps; for the schedules see `PhaseSpec`.

    ``cosine-head`` is the first half of a cosine, for a phase that another phase continues.
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
