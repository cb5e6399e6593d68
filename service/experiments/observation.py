"""What is kept of one image in an experiment, what a client's feedback adds, and their sums: no image among them."""

from dataclasses import dataclass
from typing import NamedTuple

from service.card import TaskName


@dataclass(frozen=True, slots=True)
class Observation:
    """One image that an experiment saw.

    Attributes:
        id: Of the answer, the same as in its feedback token.
        at: Seconds since 1970.
        experiment: Its name.
        revision: Of the experiment: see `Declaration.revision`.
        arm: What answered.
        baseline_s: Inference time of the baseline, seconds; None where it did not run.
        candidate_s: Likewise of the candidate.
        agree: Whether the arms agreed; None where only one ran.
        within: Depth: share of the pixels within a factor of 1.25.
        abs_rel: Depth: mean of |candidate - baseline| / baseline.
        candidate_class: Classification: the candidate's best class, where it ran beside the baseline.
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
    """How good one prediction was.

    Attributes:
        top1: Classification: whether the best class was right.
        top5: Whether the right class was among the best five (or as many as were answered).
        abs_rel: Depth: mean of |prediction - truth| / truth.
        delta1: Depth: share of the points within a factor of 1.25 of the truth.
    """

    top1: bool | None = None
    top5: bool | None = None
    abs_rel: float | None = None
    delta1: float | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A client's feedback on one answer.

    Attributes:
        id: Of the answer.
        at: Seconds since 1970, of the feedback.
        task: Of the answer, as are the next three.
        model: What answered.
        version: Its version.
        variant: Its variant.
        said: What the client said, to tell a repetition from a contradiction: `class:3`, or a digest of the truth.
        score: Of the prediction that was answered.
        label: Classification: index of the right class.
        experiment: That the answer was part of, as are the next two; None where it was not.
        revision: Of the experiment.
        arm: What answered.
        other: Score of the arm that ran beside it, where that is known.
        subject: In a split, whose image it was: a keyed hash; None counts as a subject of its own.
    """

    id: str
    at: float
    task: TaskName
    model: str
    version: str
    variant: str
    said: str
    score: Score
    label: int | None = None
    experiment: str | None = None
    revision: str | None = None
    arm: str | None = None
    other: Score | None = None
    subject: str | None = None


class Live(NamedTuple):
    """Feedback on one variant of a model: counts for classification, errors image by image for depth."""

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
    """Classifications of one arm that were judged.

    Attributes:
        right: How many were right, of those that count.
        counted: How many count: in a split the first of each subject, else all.
        labelled: How many there are.
    """

    right: int
    counted: int
    labelled: int
