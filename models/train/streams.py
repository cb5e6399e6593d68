"""Scale of a Bi-Real Net's streams, so that gradients pass its signs.

Every layer adds a BatchNorm's output to a real-valued stream, which grows with depth. In bottlenecks the narrow stream
is never normalised: in our 50 layers its RMS rose from 0.9 to 15. ApproxSign (paper Eq. 5) passes no gradient
where |a| >= 1, so most of such a network does not learn (docs/adr/0072). Signs do not depend on the scale: with each
stage's BatchNorms multiplied by a constant, a 1-bit network computes the same, and its gradients pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.arch.bireal import BiRealBasic, BiRealBottleneck, BiRealNet
from models.arch.depth import DepthNet
from models.arch.layers import Downsample
from models.binarize.base import set_phase
from models.data.normalise import normalise
from models.train.device import device_of
from models.train.hints import encoder_of
from models.train.loop import TrainingTask
from models.train.recipe import Recipe


@dataclass(frozen=True)
class Scales:
    """What one stage's streams are multiplied by.

    Attributes:
        wide: factor of the stream that the stage returns; of basic blocks, the only one.
        narrow: factor of the stream of C/4 channels in bottlenecks; 1 for basic blocks.
    """

    wide: float = 1.0
    narrow: float = 1.0


def scale_first(network: nn.Module, recipe: Recipe, task: TrainingTask) -> None:
    """Scale the streams of a new run's network on its first batch, if its recipe has a ``stream_rms``.

    Raises:
        ValueError: see `scale_streams`.
    """
    if recipe.stream_rms > 0:
        first = recipe.phases[0]
        set_phase(network, first.phase)
        images, *_ = next(iter(task.batches(first, 0, 0)))
        scale_streams(network, normalise(images.to(device_of(network))), recipe.stream_rms)


def scale_streams(network: nn.Module, images: Tensor, rms: float) -> list[Scales]:
    """Multiply each stage's streams by a constant, so that what its signs read has a given RMS.

    In the last phase the network computes the same as before, up to rounding and BatchNorm's epsilon. In the phases
    with a clip it does not, because a clip depends on the scale.

    Args:
        network: a Bi-Real Net, or a depth network with one as its encoder; changed in place.
        images: normalised images [N,3,H,W] to measure on, in training mode and in the network's current phase.
        rms: root mean square of the inputs of a stage's 1-bit layers afterwards, per stream. Of normally distributed
            activations of RMS 1, 68 % are between -1 and 1.

    Returns:
        The factors of each stage.

    Raises:
        ValueError: the network is none whose layers read nothing but signs of such streams.
    """
    encoder = encoder_of(network)
    if not isinstance(encoder, BiRealNet) or (encoder.config.method, encoder.config.structure) != ("bireal", "bireal"):
        raise ValueError(f"no 1-bit layers that read the signs of a stream: {encoder.config}")
    found = _root_mean_squares(encoder, images)
    scales = [Scales(rms / wide, rms / narrow if narrow else 1.0) for wide, narrow in found]
    before = Scales()
    for index, (stage, scale) in enumerate(zip(encoder.stages, scales, strict=True)):
        for block in stage.children():
            _scale_block(block, scale, before)
            before = scale
        if isinstance(network, DepthNet):
            _reads(network.norms[index], scale.wide)
    if not encoder.config.bottleneck:  # the first stage's stream begins with the stem
        _multiply(encoder.stem[1], scales[0].wide)
    if encoder.fc is not None:
        encoder.fc.weight.data /= scales[-1].wide
    return scales


def _scale_block(block: nn.Module, scale: Scales, before: Scales) -> None:
    """Scale what a block adds to its stage's streams; ``before`` are the factors of its inputs."""
    if isinstance(block, BiRealBasic):
        _multiply(block.body.bn, scale.wide)
    else:
        assert isinstance(block, BiRealBottleneck)
        reduce = block.reduce[1] if block.real_reduce else block.reduce.bn  # type: ignore[index]  # a Sequential there
        _multiply(reduce, scale.narrow)
        _multiply(block.body.bn, scale.narrow)
        _multiply(block.expand.bn, scale.wide)
        if block.match is not None:
            block.match.weight.data *= scale.narrow / before.narrow
    if isinstance(block.downsample, Downsample):
        _reads(block.downsample.conv_bn[1], before.wide)
        _multiply(block.downsample.conv_bn[1], scale.wide)


def _multiply(norm: nn.Module | Tensor, factor: float) -> None:
    """Multiply the output of a BatchNorm."""
    assert isinstance(norm, nn.BatchNorm2d)
    norm.weight.data *= factor
    norm.bias.data *= factor


def _reads(norm: nn.Module, factor: float) -> None:
    """Adapt the statistics of a BatchNorm whose input has been multiplied."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean *= factor
    norm.running_var *= factor**2


@torch.no_grad()
def _root_mean_squares(encoder: BiRealNet, images: Tensor) -> list[tuple[float, float]]:
    """RMS of the inputs of the 1-bit layers that read (the wide, the narrow) stream of each stage; 0 without one."""
    copy = deepcopy(encoder).train()  # measuring in training mode changes a BatchNorm's statistics
    squares: defaultdict[tuple[int, str], list[float]] = defaultdict(list)

    def noting(stage: int, stream: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: squares[stage, stream].append(inputs[0].float().square().mean().item())

    for index, stage in enumerate(copy.stages):
        for number, block in enumerate(stage.children()):
            if isinstance(block, BiRealBottleneck):
                block.body.register_forward_pre_hook(noting(index, "narrow"))
                block.expand.register_forward_pre_hook(noting(index, "narrow"))
            reads_wide = block.body if isinstance(block, BiRealBasic) else block.get_submodule("reduce")
            if number or (
                index == 0 and isinstance(block, BiRealBasic)
            ):  # the first block of another stage reads the stage before
                reads_wide.register_forward_pre_hook(noting(index, "wide"))
    copy.features(images)

    def rms(stage: int, stream: str) -> float:
        seen = squares[stage, stream]
        return (sum(seen) / len(seen)) ** 0.5 if seen else 0.0

    return [(rms(index, "wide"), rms(index, "narrow")) for index in range(len(copy.stages))]
