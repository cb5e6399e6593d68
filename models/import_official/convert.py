"""Converts another code's state dict to one of our networks, or reports exactly what does not match."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.arch import BiRealNet, ResNet, build
from models.binarize.base import BinaryConv2d
from models.command_line import listed
from models.import_official.layouts import DEPTHS, depth_of, layout_for, recognise

SHOWN = 20  # maximum number of names listed per kind of mismatch
COUNTER = ".num_batches_tracked"  # BatchNorm's counter: older checkpoints lack it, and inference ignores it
VARIANCE = ".running_var"  # BatchNorm's, in every layout


class MismatchError(ValueError):
    """A checkpoint does not have the tensors of the expected network.

    The message lists them, unless there is a ``remedy`` to say instead.

    Attributes:
        missing: names that the checkpoint lacks.
        unexpected: names that the network does not have.
        misshapen: descriptions of tensors with the wrong shape.
    """

    def __init__(
        self, what: str, missing: list[str], unexpected: list[str], misshapen: list[str], remedy: str = ""
    ) -> None:
        self.missing, self.unexpected, self.misshapen = missing, unexpected, misshapen
        parts = [
            f"{len(names)} {kind}: {listed(names, SHOWN)}"
            for kind, names in (("missing", missing), ("unexpected", unexpected), ("with another shape", misshapen))
            if names
        ]
        super().__init__(f"the checkpoint does not match {what}: " + (remedy or "; ".join(parts)))


@dataclass(frozen=True)
class Imported:
    """A network with a checkpoint's weights.

    Attributes:
        network: the network, in eval mode.
        kind: the code that wrote the checkpoint.
        zero_weights: number of 1-bit weights that are exactly zero, whose sign is +1 here (paper Eq. 1) but 0 in the
            official code (torch.sign).
    """

    network: BiRealNet | ResNet
    kind: str
    zero_weights: int


def to_network(state: dict[str, Tensor], depth: int) -> Imported:
    """Build the network with ``depth`` layers that ``state`` belongs to, and load its weights.

    Args:
        state: tensors by name, without prefixes (`reading.read_state_dict`).
        depth: nominal number of layers, such as 18.

    Raises:
        MismatchError: tensors are missing, unexpected or have another shape.
        ValueError: the names match no known network, the depth does not exist, a value is not finite, or a variance is
            negative.
    """
    kind = recognise(set(state))
    if (found := depth_of(kind, set(state))) not in (depth, None):
        instead = f"it looks like a {found}-layer checkpoint: try --depth {found}"
    else:
        instead = ""
    if depth not in DEPTHS[kind]:
        depths = ", ".join(map(str, DEPTHS[kind]))
        raise ValueError(
            f"the checkpoint is of {kind}, which has {depths} layers, not {depth}: {instead or 'check --depth'}"
        )
    classifier = state.get("fc.weight")
    layout = layout_for(kind, depth, 1000 if classifier is None or classifier.ndim != 2 else classifier.shape[0])
    missing = [n for n in layout.names if n not in state and not n.endswith(COUNTER)]
    unexpected = [n for n in state if n not in layout.names and n not in layout.unused]
    misshapen = [
        f"{n} {list(state[n].shape)}, expected {list(shape)}"
        for n, shape in layout.shapes.items()
        if n in state and tuple(state[n].shape) != shape
    ]
    if missing or unexpected or misshapen:
        raise MismatchError(f"{kind} with {depth} layers", missing, unexpected, misshapen, instead)
    # some types, such as float8, cannot be tested or compared, and what overflows float32 would be infinite here
    state = {n: value.float() if value.is_floating_point() else value for n, value in state.items()}
    broken = [n for n in layout.names if n in state and not torch.isfinite(state[n]).all()]
    if broken:
        raise ValueError(f"the checkpoint has non-finite values in {listed(broken, SHOWN)}")
    negative = [n for n in layout.names if n in state and n.endswith(VARIANCE) and (state[n] < 0).any()]
    if negative:
        raise ValueError(f"the checkpoint has negative variances in {listed(negative, SHOWN)}")

    network = build(layout.arch)
    assert isinstance(network, BiRealNet | ResNet)
    own = network.state_dict()
    fitted = {ours: state[n].reshape(own[ours].shape) for n, ours in layout.names.items() if n in state}
    network.load_state_dict(own | fitted)
    network.eval()
    zeros = sum(int((m.weight == 0).sum()) for m in network.modules() if isinstance(m, BinaryConv2d))
    return Imported(network, kind, zeros)
