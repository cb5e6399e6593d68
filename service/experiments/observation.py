"""Records of experiments and feedback, and their sums. They never contain an image."""

from dataclasses import dataclass
from typing import NamedTuple

from service.card import TaskName


@dataclass(frozen=True, slots=True)
class Observation:
    """Record of one image in an experiment.

    Attributes:
        id: ID of the answer, as in its feedback token.
        at: Time of the answer, seconds since 1970.
        experiment: Name of the experiment.
        revision: Revision of the experiment; see `Declaration.revision`.
        arm: Label of the arm that answered.
        baseline_s: Inference time of the baseline, seconds; None if it did not run.
        candidate_s: Inference time of the candidate, seconds; None if it did not run.
        agree: Whether the arms agreed; None if only one ran.
        within: Depth: share of the pixels within a factor of 1.25.
        abs_rel: Depth: mean of |candidate - baseline| / baseline.
        candidate_class: Classification: the candidate's best class, if both arms ran.
    """

    id: str
    at: float
    experiment: str
    revision: str
    arm: str
    baseline_s: float | None
    candidate_s: float | None
    agree: bool | None = None
    within: float | None = None
    abs_rel: float | None = None
    candidate_class: int | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Scores of one prediction.

    Attributes:
        top1: Classification: whether the best class was right.
        top5: Classification: whether the true class was among the best five (or all that were answered, if fewer).
        abs_rel: Depth: mean of |prediction - truth| / truth.
        delta1: Depth: share of the points within a factor of 1.25 of the truth.
    """

    top1: bool | None = None
    top5: bool | None = None
    abs_rel: float | None = None
    delta1: float | None = None


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    """Record of a client's feedback on one answer.

    Attributes:
        id: ID of the answer.
        at: Time of the feedback, seconds since 1970.
        task: Task of the answer.
        model: Model that answered.
        version: Version of the model.
        variant: Variant that answered.
        content: `class:3`, or a digest of the truth; distinguishes a repetition from a conflict.
        score: Score of the answered prediction.
        label: Classification: index of the true class.
        experiment: Experiment that the answer was part of; None, as the next two, if there was none.
        revision: Revision of the experiment.
        arm: Label of the arm that answered.
        other: Score of the other arm, if known.
        subject: In a split, a keyed hash of the subject; None counts as a separate subject.
    """

    id: str
    at: float
    task: TaskName
    model: str
    version: str
    variant: str
    content: str
    score: Score
    label: int | None = None
    experiment: str | None = None
    revision: str | None = None
    arm: str | None = None
    other: Score | None = None
    subject: str | None = None


class Live(NamedTuple):
    """Feedback on one variant of a model: counts for classification, errors of each image for depth."""

    task: str
    model: str
    version: str
    variant: str
    n: int
    top1: int
    top5: int
    abs_rel: list[float]
    delta1: list[float]


class Judged(NamedTuple):
    """Numbers of one arm's classifications with feedback.

    Attributes:
        right: Number of right ones among those that count.
        counted: Number that counts: in a split the first of each subject, else all.
        labelled: Number in total.
    """

    right: int
    counted: int
    labelled: int
