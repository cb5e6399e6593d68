"""The three checks of parity; each takes outputs or images and says how far the two sides are apart."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.backends import backend_for
from service.backends.audit import Audit
from service.card import Card
from service.evaluation import depth_agreement
from service.experiments.trial import DEPTH_AGREEMENT

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class OutputParity:
    """Two outputs for one image.

    Attributes:
        agree: Whether the best class is the same; for depth whether 90 % of the pixels are within a factor of 1.25.
        difference: Largest difference as a share of the range of the reference's output. Rounding alone gives some
            1e-7; an activation within rounding of zero, whose sign fell the other way, up to some 1e-2.
    """

    agree: bool
    difference: float


def compare_outputs(task: str, binary: Floats, reference: Floats) -> OutputParity:
    """Compares logits [classes], or maps [H, W] in metres."""
    spread = max(float(reference.max() - reference.min()), float(np.finfo(np.float32).tiny))
    difference = float(np.abs(binary.astype(np.float64) - reference).max()) / spread
    if task == "classify":
        return OutputParity(bool(binary.argmax() == reference.argmax()), difference)
    return OutputParity(depth_agreement(binary, reference)[0] >= DEPTH_AGREEMENT, difference)


@dataclass(frozen=True, slots=True)
class LayerFinding:
    """One layer on one image.

    Attributes:
        layer: Its name in the graph.
        exact: Alone, fed the same values: whether all integers are equal and all real values are within rounding.
        sign_agreement: In free runs from the image on: share of the integer sums that have the reference's sign, 0..1;
            None for layers without sums.
    """

    layer: str
    exact: bool
    sign_agreement: float | None


class LayerCheck:
    """Layer by layer, in audit graphs of the model's file (service/backends/audit.py): slow, and takes memory.

    Args:
        card: A binary model's.
    """

    def __init__(self, card: Card) -> None:
        self._audit = Audit.of_card(card)

    def run(self, image: npt.NDArray[np.uint8]) -> list[LayerFinding]:
        """Checks every layer on uint8 [H, W, 3]. Blocks, for seconds where the network is large.

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


class Probe:
    """A fixed image and what the network makes of it, bit for bit, when it is loaded from an intact file.

    A bit-packed network is deterministic, so whatever changes its weights in memory changes this output; unlike a
    comparison with the reference it needs no tolerance, under which the last layers of a deep network could hide.

    Args:
        card: A binary model's. Its file is verified and loaded once more, and let go of again.
        intra_op_threads: Threads of that run.

    Raises:
        ServiceError: The file is not intact, or does not load.
    """

    def __init__(self, card: Card, *, intra_op_threads: int) -> None:
        card.verify_file()
        seed = int.from_bytes(hashlib.sha256(card.name.encode()).digest()[:4])
        shape = (card.input.height, card.input.width, 3)
        self.image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        fresh = backend_for("binary").load(card, "binary", intra_op_threads=intra_op_threads)
        try:
            self._expected = fresh.run(self.image[None])[0].tobytes()
        finally:
            fresh.close()

    def same(self, output: Floats) -> bool:
        """Whether an output for the probe's image is what an intact network gives."""
        return bool(output.tobytes() == self._expected)
