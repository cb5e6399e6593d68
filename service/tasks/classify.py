"""Classification: shorter side scaled, centre crop (paper, section 4.1), softmax."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.card import Card, TaskName
from service.imaging import DecodedImage
from service.tasks.base import Prepared


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """What a client asks of a classification.

    Attributes:
        top_k: Number of classes in the answer, 1 .. number of classes.
        min_probability: The answer is marked uncertain when its best probability is below this, 0..1.
    """

    top_k: int = 5
    min_probability: float = 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class of an answer: its position in the network's output, its names and its probability."""

    index: int
    wnid: str
    name: str
    probability: float


@dataclass(frozen=True, slots=True)
class ClassifyResult:
    """The answer: classes by falling probability.

    Attributes:
        predictions: The best `top_k`.
        uncertain: Whether the best probability is below `min_probability`.
        min_probability: That threshold.
        probabilities: float64 [classes], all of them, in the order of the card.
    """

    predictions: tuple[Prediction, ...]
    uncertain: bool
    min_probability: float
    probabilities: npt.NDArray[np.float64]


class ClassifyTask:
    """See `service.tasks.base.Task`."""

    name: TaskName = "classify"

    def decode_hint(self, card: Card) -> tuple[int, int]:
        """Both sides at least `resize_shorter`."""
        raise NotImplementedError

    def preprocess(self, image: DecodedImage, card: Card) -> Prepared:
        """Scales the shorter side to `card.input.resize_shorter` and cuts the centre."""
        raise NotImplementedError

    def postprocess(
        self, output: npt.NDArray[np.float32], prepared: Prepared, card: Card, options: ClassifyOptions
    ) -> ClassifyResult:
        """Turns logits, float32 [classes], into the best classes."""
        raise NotImplementedError
