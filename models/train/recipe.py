"""Recipes: frozen descriptions of everything that determines a training run."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.arch.config import ArchConfig
from models.binarize.base import Phase

# Limits of every classifier, and of every depth network trained on KITTI's cameras.
CLASSES_LIMIT = (
    "Knows its {classes} classes only; for anything else it names the nearest of them: read the probability."
)
CAMERA_LIMIT = (
    "Metric depth holds for KITTI's camera; for another one give its focal length (fx), and expect more error."
)


@dataclass(frozen=True)
class PhaseSpec:
    """One phase of a run: a network state, an optimiser, a learning-rate schedule and a length.

    Attributes:
        phase: what the 1-bit layers compute (ignored by full-precision networks).
        epochs: number of epochs.
        lr: peak learning rate.
        optimizer: ``sgd`` (momentum 0.9) or ``adam``.
        schedule: learning-rate schedule after the warm-up: ``cosine`` to zero, ``cosine-head`` to half the peak,
            ``linear`` to zero, ``constant``, or ``step`` (times 0.1 at each of the ``milestones``).
        milestones: epochs at which ``step`` decays.
        weight_decay: applied only to weights with two or more dimensions.
        warmup: fraction of the phase's steps with a linear warm-up.
        size: training resolution in pixels (classification), 0 = the recipe's.
        distill: weight of the teacher's loss (0 = labels only).
        batchnorm_only: freeze everything but BatchNorm (paper Sec. 4.1, second step), see `make_optimizer`.
        nesterov: use Nesterov momentum with ``sgd`` (the paper uses plain momentum).
    """

    phase: Phase
    epochs: int
    lr: float
    optimizer: str = "adam"
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    weight_decay: float = 0.0
    warmup: float = 0.0
    size: int = 0
    distill: float = 0.0
    batchnorm_only: bool = False
    nesterov: bool = True

    def final_form(self, last: PhaseSpec) -> bool:
        """Whether networks of this phase qualify as the result (best.pt) of a run whose final phase is ``last``.

        If the run ends with re-training BatchNorm (paper Sec. 4.1), networks before that step do not qualify.
        """
        return self.phase is last.phase and self.batchnorm_only == last.batchnorm_only


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        name: name of the recipe, and default name of its model.
        arch: the network.
        phases: the phases, in order.
        batch: batch size.
        source: where the hyper-parameters come from.
        data: the training data, for the model card.
        terms: terms of use of the weights, for the model card.
        limits: what the network cannot be relied on for, for the model card; ``{classes}`` and ``{calibration}`` are
            filled in. Empty for what holds for every network of the task (`models.export.card.LIMITS`).
        init: recipe whose checkpoint provides the initial weights (``--init`` is then required); empty for random ones.
        twin: full-precision twin named on a binary model's card; empty for the ``init`` model.
        teacher: recipe whose checkpoint is the teacher (``--teacher``); empty for none.
        soft_labels: distil from labels written by `models.train.teacher` (``--soft-labels``); crops are then the
            labelled views of each image.
        views: number of labelled views per image.
        first_view: number of the first of them; a network that is trained on sees other crops than before.
        hints: weight of the hint loss (models.train.hints); 0 = none. Training sizes are then multiples of 32. The maps
            are an ImageNet network's, or those of the pretrained depth teacher if that is the ``teacher``.
        stream_rms: scale a Bi-Real Net's streams to this RMS before the first step (models.train.streams); 0 = do not.
        mosaics: classification: learn nothing but the hints, on mosaics of photos (models.train.mosaic).
        temperature: divides the logits of teacher and network in the distillation loss.
        seed: seed of initialisation, data order and augmentation.
        size: classification: training resolution in pixels, square.
        serve_size: classification: resolution of the exported network and of held-out metrics, 0 = ``size``.
        shorter_sides: classification: the paper's crops (`models.data.shorter_side`): an image is scaled to a shorter
            side from this range, in pixels for an input of ``size``, both ends included; empty for crops of any aspect
            by ``min_scale``.
        resize_shorter: classification: shorter side that the service scales images to before the centre crop, for an
            input of ``size``; 0 = the input size.
        epoch_steps: steps per epoch, 0 = determined by the data.
        min_scale: classification: smallest fraction of the area in a random crop.
        label_smoothing: classification: label smoothing of the cross-entropy.
        hold_out_per_class: classification: training images per class in the held-out set, used for model selection.
        bf16: autocast convolutions to bfloat16 (weights stay float32) if the device has instructions for it.
        depth: depth: loss weights and augmentation.
    """

    name: str
    arch: ArchConfig
    phases: tuple[PhaseSpec, ...]
    batch: int
    source: str
    data: str
    terms: str
    limits: tuple[str, ...] = ()
    init: str = ""
    twin: str = ""
    teacher: str = ""
    soft_labels: bool = False
    views: int = 2
    first_view: int = 0
    hints: float = 0.0
    stream_rms: float = 0.0
    mosaics: bool = False
    temperature: float = 1.0
    seed: int = 1
    size: int = 64
    serve_size: int = 0
    shorter_sides: tuple[int, int] | tuple[()] = ()
    resize_shorter: int = 0
    epoch_steps: int = 0
    min_scale: float = 0.35
    label_smoothing: float = 0.1
    hold_out_per_class: int = 25
    bf16: bool = True
    depth: DepthLoss = field(default_factory=lambda: DepthLoss())


@dataclass(frozen=True)
class DepthLoss:
    """Loss terms and augmentation of depth training.

    Attributes:
        lidar: weight of the supervised term, L1 between log depths where LiDAR or ground-truth disparity exists.
        photometric: weight of mean |warp(right, d) - left| on frames with a right image (squared in Garg et al. 2016).
        smooth: weight of the edge-aware smoothness of the log disparity.
        scales: number of successively halved scales over which the photometric and smoothness terms are averaged.
        crop_width: width in pixels of the training crop (its height is that of the network).
        mirror: mirror half of the crops.
        swap: swap the images of half of the mirrored pairs, so that these remain valid stereo pairs.
        teacher_mirrored: the target is the geometric mean of the teacher's maps of the crop and of the mirrored crop.
        max_zoom: largest random magnification, which also scales the apparent disparity.
        colour: strength of the colour jitter.
        repeats: passes over the frames per epoch.
        diverse: folders whose frames each show a different place; they appear ``diverse_repeats`` times per pass.
            A name also stands for the folders that continue it after an underscore, such as one per camera.
        diverse_repeats: see ``diverse``.
    """

    lidar: float = 1.0
    photometric: float = 0.5
    smooth: float = 0.05
    scales: int = 1
    crop_width: int = 352
    mirror: bool = True
    swap: bool = True
    teacher_mirrored: bool = True
    max_zoom: float = 1.25
    colour: float = 0.3
    repeats: int = 2
    diverse: tuple[str, ...] = ("kitti2015",)
    diverse_repeats: int = 3
