"""What a backend is: it loads a variant of a model, and what it loaded runs batches of images."""

from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from service.card import Card


class Description(TypedDict):
    """What a loaded model says about itself; figures are in bytes.

    Attributes:
        variant: `binary`, `reference` or `full`.
        kernel: what computes the convolutions: the operator's instruction set, or `onnxruntime` for a float variant.
        binary_weight_bytes: the 1-bit weights, counted once. The operator lays out a copy for its kernel; that and what
            the runtime keeps of the file's are both part of `session_bytes`.
        real_weight_bytes: the real-valued parameters, as they run; in a float variant these are all of them.
        artefact_bytes: the model's file.
        session_bytes: by how much the process's resident memory grew while the model was loaded and warmed up: the
            weights, the runtime's copies of them, and the activations of one image. None where the system does not say.
            Another load, or traffic, at the same moment is counted too.
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
            batch: uint8 [N, H, W, 3] RGB, N >= 1, of the size that the model's card names.

        Returns:
            float32 [N, classes] of logits, or [N, H, W] of metres.

        Raises:
            BadParameterError: the batch has another shape or type.
            ModelBrokenError: the network failed, or the model is closed.
        """
        ...

    def warm_up(self) -> None:
        """Runs one image of zeros, so that the first request finds its memory allocated."""
        ...

    def describe(self) -> Description:
        """What runs where, and how much memory it takes."""
        ...

    def close(self) -> None:
        """Lets go of the weights; runs in progress finish first, later ones fail. Closing twice is allowed."""
        ...


class Backend(Protocol):
    """A way to run models."""

    def load(self, card: Card, variant: str, *, intra_op_threads: int) -> LoadedModel:
        """Loads a variant of a model.

        Args:
            card: the card of the model whose file holds the weights; for `full`, the full-precision model's own.
            variant: which way to run it.
            intra_op_threads: threads that one run may use, at least 1.

        Raises:
            VariantNotServedError: the card's file does not run as this variant.
            ModelBrokenError: the file is missing, damaged, or not what the card says.
            OpUnavailableError: the custom operator is needed and cannot be loaded here.
        """
        ...
