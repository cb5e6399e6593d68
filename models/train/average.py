"""Exponential moving average of a network's weights over the steps of a run.

The average of the weights along a run lies in a flatter region of the loss than its last step, and generalises better,
also to data unlike the training data (P. Izmailov et al., 2018; J. Cha et al., "SWAD", 2021).
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.binarize.base import Phase, set_phase


class WeightAverage:
    """A network's averaged weights, BatchNorm statistics included; without a decay, the network itself.

    Of a 1-bit layer, the real-valued weights are averaged, and their signs are then the average's own.

    Args:
        network: the network that is trained.
        decay: share of the average that stays at a step, 0..1; 0 averages nothing.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._now = network
        self._model = AveragedModel(network, multi_avg_fn=average, use_buffers=True) if decay else None

    @property
    def network(self) -> nn.Module:
        """The network to evaluate and to keep."""
        return self._now if self._model is None else self._model.module

    def update(self) -> None:
        """Take in the weights after a step."""
        if self._model is not None:
            self._model.update_parameters(self._now)

    def set_phase(self, phase: Phase) -> None:
        """Put the averaged network in the trained one's phase."""
        set_phase(self.network, phase)

    def state(self) -> dict[str, Any] | None:
        """What `restore` needs to continue; None without a decay."""
        return None if self._model is None else self._model.state_dict()

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from a `state`."""
        if self._model is not None and state is not None:
            self._model.load_state_dict(state)
