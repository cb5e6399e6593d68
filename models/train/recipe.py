"""Recipes: everything that decides a training run, frozen."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.arch.config import ArchConfig
from models.binarize.base import Phase


@dataclass(frozen=True)
class PhaseSpec:
    """One phase of a run: a network state, an optimiser and a length.

    Attributes:
        phase: what the 1-bit layers compute (ignored by full-precision networks).
        epochs: passes over the training part.
        lr: peak learning rate.
        optimizer: ``sgd`` (momentum 0.9) or ``adam``.
        schedule: after the warm-up: ``cosine`` to zero, ``cosine-head`` to half, ``linear`` to zero, ``constant``, or
            ``step`` (times 0.1 at the ``milestones``).
        milestones: epochs at which ``step`` decays.
        weight_decay: on weights with two or more dimensions only.
        warmup: share of the phase's steps with linearly rising learning rate.
        size: training resolution in pixels (classification), 0 = the recipe's.
        distill: weight of the teacher's loss (0 = labels only).
        batchnorm_only: freeze all but BatchNorm (paper Sec. 4.1, second step), see `make_optimizer`.
        nesterov: ``sgd``'s momentum looks ahead (Nesterov); the paper's does not.
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
        """Whether a network of this phase is what a run that ends with the phase ``last`` is to make.

        An epoch for BatchNorm alone is part of the result (paper Sec. 4.1): a better one before it is not.
        """
        return self.phase is last.phase and self.batchnorm_only == last.batchnorm_only


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        name: of the recipe and of the model that it makes.
        arch: the network.
        phases: in order.
        batch: images a step.
        source: where the hyper-parameters are from.
        data: which data, for the model card.
        terms: under which terms the weights may be used, for the model card.
        init: recipe whose checkpoint starts this run (``--init``, refused without), empty for fresh weights.
        twin: full-precision model that a binary one's card names, empty: the one that it starts from.
        teacher: recipe whose checkpoint is distilled from (``--teacher``), empty for none.
        soft_labels: distilled from the labels that `models.train.teacher` wrote (``--soft-labels``): a crop is one of
            the labelled views of its image.
        views: labelled views of an image.
        temperature: by which the teacher's and the network's logits are divided before they are compared.
        seed: of initialisation, order and augmentation.
        size: classification: training resolution in pixels, square.
        serve_size: classification: resolution of the exported network and of the held-out figures, 0 = ``size``.
        decode_size: classification: side that whole images are decoded to before crops are cut, 0 = 64, and not below
            ``size`` without soft labels.
        resize_shorter: classification: shorter side that the service scales images to before it cuts the centre, for
            an input of ``size``; 0 = the input's side.
        epoch_steps: steps that count as an epoch, 0 = what the data make of it.
        min_scale: classification: smallest share of the area in a random crop.
        label_smoothing: classification.
        hold_out_per_class: classification: training images a class set aside to choose by.
        bf16: autocast convolutions to bfloat16 (weights stay float32), where the device has instructions for it.
        depth: depth network: weights of the loss terms.
    """

    name: str
    arch: ArchConfig
    phases: tuple[PhaseSpec, ...]
    batch: int
    source: str
    data: str
    terms: str
    init: str = ""
    twin: str = ""
    teacher: str = ""
    soft_labels: bool = False
    views: int = 2
    temperature: float = 1.0
    seed: int = 1
    size: int = 64
    serve_size: int = 0
    decode_size: int = 0
    resize_shorter: int = 0
    epoch_steps: int = 0
    min_scale: float = 0.35
    label_smoothing: float = 0.1
    hold_out_per_class: int = 25
    bf16: bool = True
    depth: DepthLoss = field(default_factory=lambda: DepthLoss())


@dataclass(frozen=True)
class DepthLoss:
    """Depth training: terms of the loss and the random crop.

    Attributes:
        lidar: weight of the supervised term, L1 between log depths where LiDAR or ground-truth disparity exists.
        photometric: weight of mean |warp(right, d) - left| (Garg et al. 2016), on frames with a right image.
        scales: sizes, each half of the one before, at which the photometric and smoothness terms are averaged.
        smooth: weight of the edge-aware smoothness of the log disparity.
        crop_width: width in pixels of the training crop (the height is the network's).
        mirror: mirror half of the crops.
        swap: half of the mirrored pairs swap their images, so that they stay pairs.
        teacher_mirrored: the teacher is asked about the mirrored crop, too, and the geometric mean is the target.
        max_zoom: largest random magnification (it scales the apparent disparity with it).
        colour: strength of the colour jitter.
        repeats: passes over the frames that count as one epoch.
        diverse: drives whose frames each show another place, and are seen ``diverse_repeats`` times in a pass.
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
    diverse: tuple[str, ...] = ("kitti2015", "sfnd_2011_09_26")
    diverse_repeats: int = 3
