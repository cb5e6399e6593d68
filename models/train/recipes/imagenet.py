"""ImageNet-1k classifiers with the paper's hyper-parameters (Sec. 4.1), and the networks that they start from.

Taken from Sec. 4.1 as printed: batch size, epochs, learning rates and milestones per depth, SGD with momentum 0.9 (not
Nesterov), no weight decay, the full number of epochs for each step of the two-step scheme, and a final epoch that
trains only BatchNorm. Sec. 4.1 does not specify the following, which is our choice:

- leaky clip and clip pre-training each use the epochs and learning rates of the 1-bit step;
- the final epoch uses a hundredth of the initial learning rate and freezes all else (see `make_optimizer`);
- the ReLU network has the batch size, learning rate, momentum and weight decay of He et al. 2016.

Images are those of the paper: the shorter side is scaled to 256 (Sec. 4.1) or, for 50 and 152 layers, to a random
length from 256 to 480 (Sec. 4.3, Table 4), and a random 224x224 square of the image or its mirror image is cropped. The
service uses the paper's centre crop.

Departures from the paper: 25 training images per class are held out for selecting ``best.pt`` (the paper does not
mention a held-out set). The first 1x1 convolution of bottleneck networks is real-valued, as in the official code but
not in the text (``ArchConfig.first_1x1_real``). The ReLU network departs from He et al. in that BatchNorm and biases
have no weight decay (see `make_optimizer`), that colours are not augmented, and in its length: 90 epochs with drops of
the rate after 30 and 60, where theirs drops when the error stops falling.
"""

from __future__ import annotations

from models.arch.config import ArchConfig
from models.binarize.base import Phase
from models.train.recipe import PhaseSpec, Recipe

_DATA = "ImageNet-1k, 1.28 million training images, 25 a class held out to choose by"
_TERMS = "ImageNet's terms: non-commercial research"
_PAPER = (
    "paper Sec. 4.1 (ImageNet); not printed there and ours: lengths and rates of clip pre-training, the rate of "
    "BatchNorm's re-training"
)
_ONE_SIDE, _RANGE_OF_SIDES = (256, 256), (256, 480)  # Sec. 4.1; Sec. 4.3 for Table 4, and He et al.
_HE = (
    "rates of He et al. 2016, length ours; the paper (Sec. 4.1) prints nothing of the network with ReLU that it "
    "fine-tunes"
)


def _imagenet(
    name: str,
    arch: ArchConfig,
    phases: tuple[PhaseSpec, ...],
    batch: int,
    source: str,
    init: str,
    shorter_sides: tuple[int, int],
) -> Recipe:
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
        shorter_sides=shorter_sides,
        resize_shorter=256,
        label_smoothing=0.0,
        bf16=False,
    )


def _sgd(phase: Phase, epochs: int, lr: float, milestones: tuple[int, ...], weight_decay: float = 0.0) -> PhaseSpec:
    return PhaseSpec(phase, epochs, lr, "sgd", "step", milestones, weight_decay, nesterov=False)


def _paper_real(depth: int) -> Recipe:
    """The Bi-Real net's real-valued counterpart with ReLU and equal weight shapes: the "corresponding network"."""
    return _imagenet(
        f"paper-real{depth}-imagenet",
        ArchConfig(depth=depth, method="none", activation="relu"),
        (_sgd(Phase.RELU, 90, 0.1, (30, 60), 1e-4),),
        256,
        _HE,
        "",
        _RANGE_OF_SIDES,
    )


def _paper(depth: int, batch: int, epochs: int, lr: float, milestones: tuple[int, int]) -> Recipe:
    """Paper Sec. 4.1; bottleneck networks use the two-step scheme with ``epochs`` epochs per step."""
    steps = [Phase.LEAKY_CLIP, Phase.CLIP, *([Phase.BINARY_1X1] if depth >= 50 else []), Phase.BINARY]
    retrain = PhaseSpec(Phase.BINARY, 1, lr * 0.01, "sgd", "step", batchnorm_only=True, nesterov=False)
    return _imagenet(
        f"paper-bireal{depth}-imagenet",
        ArchConfig(depth=depth),
        (*(_sgd(phase, epochs, lr, milestones) for phase in steps), retrain),
        batch,
        _PAPER,
        f"paper-real{depth}-imagenet",
        _RANGE_OF_SIDES if depth >= 50 else _ONE_SIDE,
    )


IMAGENET = (
    *(_paper_real(depth) for depth in (18, 34, 50, 152)),
    _paper(18, 128, 20, 0.01, (10, 15)),
    _paper(34, 1024, 40, 0.08, (20, 30)),
    _paper(50, 800, 100, 0.064, (50, 75)),
    _paper(152, 4000, 120, 0.1, (60, 90)),
)
