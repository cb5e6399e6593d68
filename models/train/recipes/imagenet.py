"""Classifiers on ImageNet-1k by the paper's hyper-parameters (Sec. 4.1)."""

from __future__ import annotations

from models.arch.config import ArchConfig
from models.binarize.base import Phase
from models.train.recipe import PhaseSpec, Recipe

_IMAGENET_TERMS = "ImageNet's terms: non-commercial research"
_PAPER = "paper Sec. 4.1 (ImageNet)"


def _paper(depth: int, batch: int, epochs: int, lr: float, milestones: tuple[int, int]) -> Recipe:
    """Paper Sec. 4.1; bottlenecks take the two-step scheme, each sub-step of ``epochs``."""
    binary = PhaseSpec(Phase.BINARY, epochs, lr, "sgd", "step", milestones)
    first = (PhaseSpec(Phase.BINARY_1X1, epochs, lr, "sgd", "step", milestones),) if depth >= 50 else ()
    retrain = PhaseSpec(Phase.BINARY, 1, lr * 0.01, "sgd", "step", batchnorm_only=True)
    pretrain = (
        PhaseSpec(Phase.LEAKY_CLIP, epochs, lr, "sgd", "step", milestones),
        PhaseSpec(Phase.CLIP, epochs, lr, "sgd", "step", milestones),
    )
    return Recipe(
        name=f"paper-bireal{depth}-imagenet",
        arch=ArchConfig(depth=depth),
        phases=(*pretrain, *first, binary, retrain),
        batch=batch,
        source=_PAPER,
        data="ImageNet-1k, 1.28 million training images",
        terms=_IMAGENET_TERMS,
        size=224,
        min_scale=0.75,
        label_smoothing=0.0,
        bf16=False,
    )


IMAGENET = (
    _paper(18, 128, 20, 0.01, (10, 15)),
    _paper(34, 1024, 40, 0.08, (20, 30)),
    _paper(50, 800, 100, 0.064, (50, 75)),
    _paper(152, 4000, 120, 0.1, (60, 90)),
)
