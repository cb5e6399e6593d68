"""The backend protocols: a `Backend` loads a variant of a model, and the `LoadedModel` runs batches of images."""

from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from service.card import Card


class Description(TypedDict):
    """Description of a loaded model; sizes are in bytes.

    Attributes:
        variant: `binary`, `reference` or `full`.
        kernel: instruction set of the operator's convolutions, or `onnxruntime` for a float variant.
        binary_weight_bytes: size of the 1-bit weights, counted once. The operator makes a copy in its kernel's layout;
            that copy and the runtime's own copy are both part of `session_bytes`.
        real_weight_bytes: size of the real-valued parameters at run time; in a float variant, of all parameters.
        artefact_bytes: size of the model's file.
        session_bytes: growth of the process's resident memory while the model was loaded and warmed up: the weights,
            the runtime's copies of them, and the activations of one image. Other loads or requests at the same time
            are included. None where the system does not report it.
    """

    variant: str
    kernel: str
    binary_weight_bytes: int
    real_weight_bytes: int
    artefact_bytes: int
    session_bytes: int | None


class LoadedModel(Protocol):
    """A variant in memory. Every method may be called from several threads at the same time."""

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Runs the network.

        Args:
            batch: uint8 [N, H, W, 3] RGB, N >= 1, of the input size in the model's card.

        Returns:
            float32 [N, classes] of logits, or [N, H, W] of metres.

        Raises:
            BadParameterError: the batch has another shape or type.
            ModelBrokenError: the network failed, or the model is closed.
        """
        ...

    def warm_up(self) -> None:
        """Runs one image of zeros, so that memory is allocated before the first request."""
        ...

    def describe(self) -> Description:
        """Returns what runs, on which kernel, and its memory use."""
        ...

    def close(self) -> None:
        """Releases the weights. Runs in progress finish first, later ones fail. May be called more than once."""
        ...


class Backend(Protocol):
    """A way to run models."""

    def load(self, card: Card, variant: str, *, intra_op_threads: int) -> LoadedModel:
        """Loads a variant of a model.

        Args:
            card: the card of the model whose file holds the weights; for `full`, that of the full-precision model.
            variant: the variant to load.
            intra_op_threads: number of threads that one run may use, at least 1.

        Raises:
            VariantNotServedError: the card does not list this variant.
            ModelBrokenError: the file is missing, damaged, or does not match the card.
            OpUnavailableError: the custom operator is needed but cannot be loaded here.
        """
        ...
