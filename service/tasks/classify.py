"""Classification: scaling of the shorter side, centre crop (paper, section 4.1), softmax."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from service.card import Card, TaskName
from service.errors import BadOutputError, BadParameterError
from service.imaging import DecodedImage
from service.tasks.base import Agreement, Geometry, Prepared, resize_region

#: Number of classes that feedback needs for `top5`.
_MOST_BEST = 5


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """Options of a classification request.

    Attributes:
        top_k: Number of classes in the answer, at least 1; all classes if the model has fewer.
        min_probability: The answer is marked as uncertain if its best probability is below this, 0..1.

    Raises:
        BadParameterError: A value is out of range.
    """

    top_k: int = 5
    min_probability: float = 0.0

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise BadParameterError(
                "top_k", f"top_k is {self.top_k}; it must be at least 1.", remedy="Leave it out for the default."
            )
        if not 0 <= self.min_probability <= 1:  # also refuses NaN
            raise BadParameterError(
                "min_probability",
                f"min_probability is {self.min_probability}; it must be between 0 and 1.",
                remedy="Leave it out, or send a fraction such as 0.5.",
            )


@dataclass(slots=True)
class Prediction:
    """One class of an answer: its position in the network's output, its names and its probability."""

    index: int
    wnid: str
    name: str
    probability: float


class ClassifyResult(NamedTuple):
    """The answer: classes by decreasing probability.

    Attributes:
        predictions: The best `top_k` classes; equal probabilities are in the card's order.
        uncertain: Whether the best probability is below `min_probability`.
        min_probability: The threshold of the request.
        probabilities: float64 [classes], of all classes in the card's order.
    """

    predictions: tuple[Prediction, ...]
    uncertain: bool
    min_probability: float
    probabilities: npt.NDArray[np.float64]


class ClassifyTask:
    """See `service.tasks.base.Task`."""

    name: TaskName = "classify"
    main_score = "top1"
    slow_answer = False  # a list of classes costs less than handing it to a thread
    measured_again = False

    def decode_hint(self, card: Card) -> tuple[int, int]:
        """Returns `resize_shorter` for both sides, because the shorter one is scaled to it."""
        shorter = _resize_shorter(card)
        return shorter, shorter

    def preprocess(self, image: DecodedImage, card: Card) -> Prepared:
        """Scales the shorter side to `card.input.resize_shorter` and crops height x width from the centre.

        Both are done in one step: the crop is mapped back to the picture, and only that region is resampled (bilinear,
        with antialiasing). The centre is exact; scaling to whole pixels first would shift it by up to half a pixel.

        Args:
            image: A decoded image, possibly at a reduced size.
            card: The model's card.

        Returns:
            uint8 [height, width, 3], and the region of the picture that it shows.
        """
        width, height = image.report.width, image.report.height
        scale = _resize_shorter(card) / min(width, height)  # network pixels per picture pixel
        crop_width, crop_height = card.input.width / scale, card.input.height / scale
        geometry = Geometry(
            picture_width=width,
            picture_height=height,
            left=(width - crop_width) / 2,
            top=(height - crop_height) / 2,
            width=crop_width,
            height=crop_height,
            input_width=card.input.width,
            input_height=card.input.height,
        )
        return Prepared(resize_region(image, geometry), geometry)

    def postprocess(
        self,
        output: npt.NDArray[np.float32],
        prepared: Prepared | None,  # noqa: ARG002  part of the protocol; the crop does not affect the classes
        card: Card,
        options: ClassifyOptions,
    ) -> ClassifyResult:
        """Turns logits into the best classes.

        Args:
            output: Logits, float32 [classes].
            prepared: The input that they were computed from.
            card: The model's card.
            options: Options of the request.

        Returns:
            The answer.

        Raises:
            BadOutputError: The output is not one finite logit per class.
        """
        logits = output.astype(np.float64)
        if logits.shape != (len(card.classes),):
            raise BadOutputError(f"{card.name}: the logits have shape {logits.shape} for {len(card.classes)} classes.")
        # Ufuncs are called directly, because the overhead of NumPy's methods equals the work for about 100 classes.
        most, least = np.maximum.reduce(logits), np.minimum.reduce(logits)
        if not (math.isfinite(most) and math.isfinite(least)):  # a NaN propagates to both
            raise BadOutputError(f"{card.name}: the logits are not all finite.")
        probabilities = np.exp(logits - most)
        probabilities /= np.add.reduce(probabilities)
        order = (-logits).argsort(kind="stable")[: options.top_k].tolist()
        classes, share = card.classes, probabilities.item
        predictions = tuple([Prediction(i, (one := classes[i]).wnid, one.name, share(i)) for i in order])
        uncertain = predictions[0].probability < options.min_probability
        return ClassifyResult(predictions, uncertain, options.min_probability, probabilities)

    def agree(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Agreement:
        """Compares the best classes of two networks' logits, [classes] each."""
        return Agreement(bool(a.argmax() == b.argmax()))

    def best(self, output: npt.NDArray[Any]) -> tuple[int, ...]:
        """Returns the indices of the best of [classes] logits or probabilities, best first, at most five."""
        return tuple(int(index) for index in np.argsort(-output, kind="stable")[:_MOST_BEST])


def _resize_shorter(card: Card) -> int:
    shorter = card.input.resize_shorter
    if shorter is None:
        raise ValueError(f"{card.name} is not a classifier: its card has no input.resize_shorter")
    return shorter
