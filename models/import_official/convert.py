"""A foreign state dict to one of our networks, or an error that says what does not fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.arch import BiRealNet, ResNet, build
from models.binarize.base import BinaryConv2d
from models.import_official.layouts import layout_for, recognise

SHOWN = 20  # names a kind of mismatch that a message spells out
COUNTER = ".num_batches_tracked"  # BatchNorm's counter: older checkpoints lack it and inference ignores it


class MismatchError(ValueError):
    """A checkpoint does not have the tensors of the network that it is said to be.

    Attributes:
        missing: names that the network needs and the checkpoint lacks.
        unexpected: names that the network does not have.
        misshapen: sentences on tensors of another shape.
    """

    def __init__(self, what: str, missing: list[str], unexpected: list[str], misshapen: list[str]) -> None:
        self.missing, self.unexpected, self.misshapen = missing, unexpected, misshapen
        parts = [
            f"{len(names)} {kind}: {_listed(names)}"
            for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
            if names
        ]
        super().__init__(f"the checkpoint is not {what}; " + "; ".join(parts))


@dataclass(frozen=True)
class Imported:
    """A network with a checkpoint's weights.

    Attributes:
        network: in eval mode.
        kind: the code that the checkpoint is of.
        zero_weights: 1-bit weights that are exactly zero: +1 here (paper Eq. 1), 0 in the official code's torch.sign.
    """

    network: BiRealNet | ResNet
    kind: str
    zero_weights: int


def to_network(state: dict[str, Tensor], depth: int) -> Imported:
    """Build the network of ``depth`` layers that ``state`` belongs to, with those weights.

    Args:
        state: tensors by name, without prefixes (`reading.read_state_dict`).
        depth: layers, as the family counts them.

    Raises:
        MismatchError: tensors are missing, unexpected or of another shape.
        ValueError: the names are of no known network, the depth does not exist, or a value is not finite.
    """
    kind = recognise(set(state))
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
        raise MismatchError(f"{kind} of {depth} layers", missing, unexpected, misshapen)
    broken = [n for n in layout.names if n in state and not torch.isfinite(state[n]).all()]
    if broken:
        raise ValueError(f"the checkpoint has values that are not finite in {_listed(broken)}")

    network = build(layout.arch)
    assert isinstance(network, BiRealNet | ResNet)
    own = network.state_dict()
    fitted = {ours: state[n].reshape(own[ours].shape) for n, ours in layout.names.items() if n in state}
    network.load_state_dict(own | fitted)
    network.eval()
    zeros = sum(int((m.weight == 0).sum()) for m in network.modules() if isinstance(m, BinaryConv2d))
    return Imported(network, kind, zeros)


def _listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
