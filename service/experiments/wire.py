"""The wire types of experiments, shared by the service and its client: what `/experiments` answers.

What an administrator sends is a `Declaration`, as in the file of experiments, or a `Change` of one
(`service.experiments.declaration`). What the answer to an image says of its experiment is `schemas.ExperimentPart`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.card import TaskName, VariantName
from service.experiments.declaration import State
from service.schemas import Mode

Conclusion = Literal["better", "good_enough", "worse", "undecided", "no_labels", "no_data"]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Wire(BaseModel):
    """Base class of the wire types."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class IntervalInfo(_Wire):
    """An estimate with its 95 % confidence interval; null where there are too few data."""

    estimate: Number | None
    lower: Number | None
    upper: Number | None


class ArmResult(_Wire):
    """Results of one arm."""

    name: str
    images: int = Field(description="Images that the arm answered, as far as they are still stored.")
    inference_ms_median: Number | None = Field(
        description="Median over the newest images. Not comparable in `shadow`, where the candidate runs when idle."
    )
    labelled: int = Field(description="Images with feedback for which the arm's answer is known.")
    counted: int = Field(
        description="Labelled images that scores and evidence use: in `split` the first of each subject, else all."
    )
    accuracy: IntervalInfo | None = Field(
        description="`top1` with its exact interval, or the mean share of points within a factor of 1.25 (delta1)."
    )
    abs_rel: IntervalInfo | None = Field(default=None, description="Depth: mean of |prediction - truth| / truth.")


class PairCounts(_Wire):
    """Labelled images that both arms ran, by which arm was right; `baseline` and `candidate` are discordant pairs."""

    both: int
    baseline: int
    candidate: int
    neither: int


class Evidence(_Wire):
    """Whether the arms' accuracies differ."""

    difference: IntervalInfo = Field(description="Candidate minus baseline; valid for one look, planned beforehand.")
    difference_watched: IntervalInfo | None = Field(
        description="The same with an anytime-valid interval, which may be looked at repeatedly. The verdict uses it."
    )
    p_value: Number | None = Field(
        description="Exact test, valid for one look: McNemar's on pairs, Fisher's on a split."
    )
    e_value: Number | None = Field(description="Pairs: anytime-valid; 20 or more is significant at 5 %.")


class Results(_Wire):
    """Results of an experiment."""

    revision: str
    arms: list[ArmResult]
    pairs: int = Field(description="Images that both arms ran, as far as they are still stored.")
    agreement: IntervalInfo | None = Field(description="Share of the pairs in which the arms agree; exact interval.")
    within_1_25: IntervalInfo | None = Field(
        default=None, description="Depth: share of pixels within a factor of 1.25, mean over pairs."
    )
    latency_ratio: IntervalInfo | None = Field(
        description="Inference time of the candidate / the baseline, geometric mean; below 1 if the candidate is "
        "faster. Null in `shadow`, where the candidate runs when idle but the baseline alongside other requests."
    )
    labelled_pairs: PairCounts | None
    evidence: Evidence | None


class Verdict(_Wire):
    """A conclusion and the findings that support it."""

    conclusion: Conclusion = Field(
        description="`better`: more accurate; `good_enough`: not worse by more than the margin; `worse`: worse by more "
        "than the margin; `undecided`: needs more labels; `no_labels`: none to compare by; `no_data`: no images."
    )
    summary: str = Field(description="The conclusion as a sentence.")
    sentences: list[str] = Field(description="The findings that support it, one sentence each.")


class ArmInfo(_Wire):
    """One arm as declared, and what runs it now."""

    name: str
    role: str = Field(description="`baseline` or `candidate`.")
    model: str | None = Field(description="The model that runs it; null if it cannot run.")
    version: str | None
    variant: VariantName
    weight: float = Field(description="Share of the images that it answers (`split`) or on which it runs.")


class ExperimentInfo(_Wire):
    """An experiment: its declaration, its results, and a verdict."""

    name: str
    task: TaskName
    mode: Mode
    state: State
    description: str
    margin: float = Field(description="Accepted loss of accuracy, a fraction.")
    arms: list[ArmInfo] = Field(description="Baseline, then candidate.")
    problem: str | None = Field(description="Why it cannot run; null if it can.")
    results: Results | None
    verdict: Verdict | None


class ExperimentChanged(ExperimentInfo):
    """An experiment after a change."""

    notice: str | None = Field(description="Why the comparison starts over; null if the data are kept.")


class ExperimentList(_Wire):
    """All experiments, sorted by name."""

    experiments: list[ExperimentInfo]
    stored: bool = Field(description="Whether feedback and observations are kept when the process ends.")
