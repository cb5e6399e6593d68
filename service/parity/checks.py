"""The three checks of parity; each takes outputs or images and says how far the two sides are apart."""

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


@dataclass(frozen=True, slots=True)
class OutputParity:
    """Two outputs for one image.

    Attributes:
        agree: By `Task.agree`.
        difference: Largest difference as a share of the range of the reference's output. Rounding alone gives some
            1e-7; an activation within rounding of zero, whose sign fell the other way, up to some 1e-2.
    """

    agree: bool
    difference: float


def compare_outputs(task: str, binary: Floats, reference: Floats) -> OutputParity:
    """Compares logits [classes], or maps [H, W] in metres."""
    spread = max(float(reference.max() - reference.min()), float(np.finfo(np.float32).tiny))
    difference = float(np.abs(binary.astype(np.float64) - reference).max()) / spread
    return OutputParity(TASKS[task].agree(binary, reference).agree, difference)


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


#: Sides in pixels of the squares that the probe's images are made of: noise, and patches that deep layers see as such.
_PATCHES = (1, 1, 1, 1, 4, 8, 16, 32)


class Probe:
    """Fixed images and what the network makes of them, bit for bit, when it is loaded from an intact file.

    A bit-packed network is deterministic, so weights that change in memory change its outputs; unlike a comparison with
    the reference this needs no tolerance, under which the last layers of a deep network could hide. There are several
    images because one changed bit can vanish in the rounding of what follows it, more so where that is 8 bits wide.

    Args:
        card: A binary model's. Its file is verified and loaded once more, and let go of again.
        intra_op_threads: Threads of that run.

    Attributes:
        images: uint8 [H, W, 3] each.

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
            self._expected = [fresh.run(image[None])[0].tobytes() for image in self.images]
        finally:
            fresh.close()

    def same(self, outputs: Sequence[Floats]) -> bool:
        """Whether the outputs for the probe's images, in their order, are what an intact network gives."""
        return [output.tobytes() for output in outputs] == self._expected
