"""The three parity checks: of outputs, of single layers, and of fixed test images."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.backends import backend_for
from service.backends.audit import Audit
from service.card import Card
from service.tasks import TASKS

Floats = npt.NDArray[np.float32]

#: Largest difference that is distinguished, as a share of the range of the reference's output. One flipped exponent bit
#: gives 1e30, which would swallow all other values in the metric's sum for good.
LARGEST_DIFFERENCE = 1000.0


@dataclass(frozen=True, slots=True)
class OutputParity:
    """Comparison of two outputs for one image.

    Attributes:
        agree: Whether they agree, by `Task.agree`; false if a value is not finite.
        difference: Largest difference as a share of the range of the reference's output, at most `LARGEST_DIFFERENCE`,
            which also stands for values that are not finite. Rounding alone causes about 1e-7; an activation within
            rounding of zero whose sign is flipped, up to about 1e-2.
    """

    agree: bool
    difference: float


def compare_outputs(task: str, binary: Floats, reference: Floats) -> OutputParity:
    """Compares logits [classes], or depth maps [H, W] in metres."""
    if not (np.isfinite(binary).all() and np.isfinite(reference).all()):
        return OutputParity(agree=False, difference=LARGEST_DIFFERENCE)
    spread = max(float(reference.max()) - float(reference.min()), float(np.finfo(np.float32).tiny))
    difference = float(np.abs(binary.astype(np.float64) - reference).max()) / spread
    return OutputParity(TASKS[task].agree(binary, reference).agree, min(difference, LARGEST_DIFFERENCE))


@dataclass(frozen=True, slots=True)
class LayerFinding:
    """Result of the check of one layer on one image.

    Attributes:
        layer: The layer's name in the graph.
        exact: Whether, on the same input values, all integers are equal and all real values agree within rounding.
        sign_agreement: Share of the integer sums, 0..1, that have the reference's sign when both networks run freely
            from the image on; None for layers without sums.
    """

    layer: str
    exact: bool
    sign_agreement: float | None


class LayerCheck:
    """Checks every layer in audit graphs of the model's file (service/backends/audit.py). Slow, and takes memory.

    Args:
        card: Card of a binary model.
    """

    def __init__(self, card: Card) -> None:
        self._audit = Audit.of_card(card)

    def run(self, image: npt.NDArray[np.uint8]) -> list[LayerFinding]:
        """Checks every layer on an image, uint8 [H, W, 3]. Blocks, for seconds if the network is large.

        Raises:
            ModelBrokenError: A graph does not load or fails.
            OpUnavailableError: The operator cannot be loaded.
        """
        batch = image[None]
        binary, reference = (self._audit.integer_sums(batch, side) for side in ("binary", "reference"))
        signs = {layer: float(np.mean((sums >= 0) == (reference[layer] >= 0))) for layer, sums in binary.items()}
        return [
            LayerFinding(parity.layer, parity.exact, signs.get(parity.layer)) for parity in self._audit.compare(batch)
        ]


#: Patch sizes in pixels of the probe's random images: noise, and patches large enough to reach deep layers.
_PATCHES = (1, 1, 1, 1, 4, 8, 16, 32)


class Probe:
    """Fixed test images with the exact outputs of a network that is loaded from an intact file.

    A bit-packed network is deterministic, so weights that change in memory change its outputs. Unlike a comparison with
    the reference, this check needs no tolerance, which could hide errors in the last layers of a deep network. Several
    images are used because one flipped bit can vanish in later rounding, especially in rounding to 8 bits.

    Args:
        card: Card of a binary model. Its file is verified, loaded once more, and released.
        intra_op_threads: Number of threads for that run.

    Attributes:
        images: The test images, uint8 [H, W, 3] each.

    Raises:
        ServiceError: The file is not intact, or does not load.
    """

    def __init__(self, card: Card, *, intra_op_threads: int) -> None:
        card.verify_file()
        drawn = np.random.default_rng(int.from_bytes(hashlib.sha256(card.name.encode()).digest()[:4]))
        height, width = card.input.height, card.input.width
        self.images = []
        for side in _PATCHES:
            patches = drawn.integers(0, 256, (-(-height // side), -(-width // side), 3), dtype=np.uint8)
            whole = patches.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]
            self.images.append(np.ascontiguousarray(whole))
        fresh = backend_for("binary").load(card, "binary", intra_op_threads=intra_op_threads)
        try:
            card.verify_file()  # again, because it may have been replaced while it was loaded
            self._expected = [fresh.run(image[None])[0].tobytes() for image in self.images]
        finally:
            fresh.close()

    def same(self, outputs: Sequence[Floats]) -> bool:
        """Whether the outputs for the probe's images, in order, are bit-identical to those of the intact network."""
        return [output.tobytes() for output in outputs] == self._expected
