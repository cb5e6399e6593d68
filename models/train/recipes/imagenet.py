"""Classifiers on ImageNet-1k by the paper's hyper-parameters (Sec. 4.1), and the networks that they start from.

What Sec. 4.1 prints is taken as printed: batch, epochs, learning rates and milestones of each depth, SGD with plain
momentum 0.9, no weight decay, all the epochs for each step of the two-step scheme, one epoch of BatchNorm alone at the
end. What it does not print is ours:

- the leaky clip and the clip take the epochs and rates of the 1-bit step each;
- BatchNorm is trained again at a hundredth of the first rate, and nothing else with it (see `make_optimizer`);
- the network with ReLU is trained as He et al. 2016 do.

Departures: 25 training images a class are held out to choose ``best.pt`` by (the paper names no such part). The whole
image is scaled to a square of 256x256, and a crop, which has 3/4 to all of its area and a side ratio of 3/4 to 4/3, to
224x224; the paper cuts 224x224 out of an image whose shorter side is 256 (0.77 of a square one's area). Served is its
centre crop. The very first 1x1 of the bottlenecks
is real-valued, as in the official code and against the text (``ArchConfig.first_1x1_real``).
"""

from __future__ import annotations

from models.arch.config import ArchConfig
from models.binarize.base import Phase
from models.train.recipe import PhaseSpec, Recipe

_DATA = "ImageNet-1k, 1.28 million training images, 25 a class held out to choose by"
_TERMS = "ImageNet's terms: non-commercial research"
_PAPER = (
    "paper Sec. 4.1 (ImageNet); not printed there and ours: lengths and rates of clip pre-training, the rate of "
    "BatchNorm's re-training; crops are of the whole image scaled to 256x256"
)
_HE = "He et al. 2016; the paper (Sec. 4.1) prints nothing of the network with ReLU that it fine-tunes"


def _imagenet(name: str, arch: ArchConfig, phases: tuple[PhaseSpec, ...], batch: int, source: str, init: str) -> Recipe:
    return Recipe(
        name=name,
        arch=arch,
        phases=phases,
        batch=batch,
        source=source,
        data=_DATA,
        terms=_TERMS,
        init=init,
        size=224,
        decode_size=256,
        resize_shorter=256,
        min_scale=0.75,
        label_smoothing=0.0,
        bf16=False,
    )


def _sgd(phase: Phase, epochs: int, lr: float, milestones: tuple[int, ...], weight_decay: float = 0.0) -> PhaseSpec:
    return PhaseSpec(phase, epochs, lr, "sgd", "step", milestones, weight_decay, nesterov=False)


def _paper_real(depth: int) -> Recipe:
    """The Bi-Real net's real-valued counterpart with ReLU: the paper's "corresponding network", weight for weight."""
    return _imagenet(
        f"paper-real{depth}-imagenet",
        ArchConfig(depth=depth, method="none", activation="relu"),
        (_sgd(Phase.RELU, 90, 0.1, (30, 60), 1e-4),),
        256,
        _HE,
        "",
    )


def _paper(depth: int, batch: int, epochs: int, lr: float, milestones: tuple[int, int]) -> Recipe:
    """Paper Sec. 4.1; bottlenecks take the two-step scheme, each sub-step of ``epochs``."""
    steps = [Phase.LEAKY_CLIP, Phase.CLIP, *([Phase.BINARY_1X1] if depth >= 50 else []), Phase.BINARY]
    retrain = PhaseSpec(Phase.BINARY, 1, lr * 0.01, "sgd", "step", batchnorm_only=True, nesterov=False)
    return _imagenet(
        f"paper-bireal{depth}-imagenet",
        ArchConfig(depth=depth),
        (*(_sgd(phase, epochs, lr, milestones) for phase in steps), retrain),
        batch,
        _PAPER,
        f"paper-real{depth}-imagenet",
    )


IMAGENET = (
    *(_paper_real(depth) for depth in (18, 34, 50, 152)),
    _paper(18, 128, 20, 0.01, (10, 15)),
    _paper(34, 1024, 40, 0.08, (20, 30)),
    _paper(50, 800, 100, 0.064, (50, 75)),
    _paper(152, 4000, 120, 0.1, (60, 90)),
)
