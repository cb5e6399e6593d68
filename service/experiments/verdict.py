"""Verdicts: an experiment's results in plain sentences, and whether the candidate is good enough."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.experiments.results import IntervalInfo

#: What is said of a variant that is compared with itself.
SAME = "the same variant twice: differences are noise"

Conclusion = Literal["better", "good_enough", "worse", "undecided", "no_labels", "no_data"]


class Verdict(BaseModel):
    """A conclusion and the findings that support it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    conclusion: Conclusion = Field(
        description="`better`: more accurate; `good_enough`: not worse by more than the margin; `worse`: worse by more "
        "than the margin; `undecided`: needs more labels; `no_labels`: only agreement is known; `no_data`: no images."
    )
    summary: str = Field(description="The conclusion as a sentence.")
    sentences: list[str] = Field(description="The findings that support it, one sentence each.")


def decide(difference: IntervalInfo | None, margin: float) -> Conclusion:
    """Compares the interval of the accuracy difference, candidate minus baseline, with the accepted loss."""
    if difference is None or difference.lower is None or difference.upper is None:
        return "undecided"
    if difference.lower > 0:
        return "better"
    if difference.lower > -margin:
        return "good_enough"
    if difference.upper < -margin:
        return "worse"
    return "undecided"


def verdict(
    *,
    candidate: str,
    baseline: str,
    depth: bool,
    margin: float,
    images: int,
    agreement: IntervalInfo | None,
    latency_ratio: IntervalInfo | None,
    accuracies: tuple[IntervalInfo | None, IntervalInfo | None],
    labelled: int,
    difference: IntervalInfo | None,
    watched: bool,
    split: bool = False,
    same: bool = False,
) -> Verdict:
    """Writes the verdict on results.

    Args:
        candidate: Name of the arm that is judged.
        baseline: Name of the arm that it is compared with.
        depth: Whether accuracy is the share of points within a factor of 1.25 of the truth, not that of right classes.
        margin: Accepted loss of accuracy, a fraction.
        images: Number of images that can be compared, with or without labels.
        agreement: Share of the images on which the arms agree.
        latency_ratio: Inference time of the candidate / the baseline.
        accuracies: Accuracies of candidate and baseline.
        labelled: Number of labelled images that count (for the arm that has fewer).
        difference: Accuracy of the candidate minus the baseline, with the interval to decide by.
        watched: Whether that interval is anytime-valid.
        split: Whether the arms have different subjects, of each of which only one image counts.
        same: Whether both arms are one variant, so that nothing but chance makes them differ.
    """
    sentences = []
    if agreement is not None:
        kind = "agree (at least 90 % of the pixels within a factor of 1.25)" if depth else "give the same best class"
        sentences.append(f"{candidate} and {baseline} {kind} on {_share(agreement)} of {counted(images, 'image')}.")
    if latency_ratio is not None and latency_ratio.estimate is not None and not same:
        sentences.append(_speed(candidate, baseline, latency_ratio))
    own, other = accuracies
    if own is not None and other is not None:
        sentences.append(_accuracy((candidate, own), (baseline, other), labelled, depth=depth, split=split))
    if difference is not None and difference.estimate is not None:
        sentences.append(_difference(difference, watched=watched))
    conclusion: Conclusion
    if not images:
        conclusion = "no_data"
    elif difference is None:
        conclusion = "no_labels"
    else:
        conclusion = decide(difference, margin)
    less = difference is not None and difference.upper is not None and difference.upper < 0
    more = f"more than {counted(labelled, 'labelled image')}"
    if split:
        more = f"labels of more than {counted(labelled, 'subject')} per arm"
    summary = _summary(conclusion, candidate, baseline, margin=margin, more=more, less=less)
    if same and images:
        summary = f"{candidate} and {baseline} are {SAME}."
    return Verdict(conclusion=conclusion, summary=summary, sentences=sentences)


def _summary(conclusion: Conclusion, candidate: str, baseline: str, *, margin: float, more: str, less: bool) -> str:
    """Writes a conclusion as a sentence; `more`: what is needed to decide; `less`: whether the interval is below 0."""
    points = f"{100 * margin:g} point{'' if margin == 0.01 else 's'}"
    doubt = f"it takes {more} to tell whether {candidate} loses less than {points} of accuracy to {baseline}"
    if less:
        doubt = f"{candidate} is less accurate than {baseline}; it takes {more} to tell whether by less than {points}"
    return {
        "better": f"Yes: {candidate} is more accurate than {baseline} on these images.",
        "good_enough": f"Yes: {candidate} is good enough; it loses less than {points} of accuracy to {baseline}.",
        "worse": f"No: {candidate} loses more than {points} of accuracy to {baseline}.",
        "undecided": f"Not decided yet: {doubt}.",
        "no_labels": f"Unknown: without labels, only the agreement of {candidate} and {baseline} is known.",
        "no_data": "There are no images to compare yet.",
    }[conclusion]


def _accuracy(
    candidate: tuple[str, IntervalInfo],
    baseline: tuple[str, IntervalInfo],
    labelled: int,
    *,
    depth: bool,
    split: bool,
) -> str:
    (name, own), (other_name, other) = candidate, baseline
    each = ", the first of each subject," if split else ""
    if depth:
        on = counted(labelled, "image")
        return (
            f"On {on} with ground truth{each} {name} puts {_share(own)} of the points within a factor of 1.25 of "
            f"the truth, and {other_name} {_share(other)}."
        )
    of = counted(labelled, "labelled image")
    return f"Of {of}{each} {name} gets {_share(own)} right, and {other_name} {_share(other)}."


def _difference(found: IntervalInfo, *, watched: bool) -> str:
    assert found.estimate is not None
    text = f"The difference is {100 * found.estimate:+.1f} points"
    if found.lower is None or found.upper is None:
        return f"{text}; there are too few labels for an interval."
    when = "valid at every look" if watched else "valid for one look"
    return f"{text} (95 % interval {100 * found.lower:+.1f} to {100 * found.upper:+.1f}, {when})."


def _speed(candidate: str, baseline: str, ratio: IntervalInfo) -> str:
    assert ratio.estimate is not None
    faster = ratio.estimate < 1
    factor = 1 / ratio.estimate if faster else ratio.estimate
    ends = [end for end in (ratio.lower, ratio.upper) if end]
    between = " (too few images for an interval)"
    if len(ends) == 2:
        low, high = sorted(1 / end if faster else end for end in ends)
        between = f" (95 % interval {low:.2f} to {high:.2f})"
    how = f"is {factor:.2f} times as fast as" if faster else f"takes {factor:.2f} times as long as"
    return f"{candidate} {how} {baseline}{between}."


def _share(found: IntervalInfo) -> str:
    assert found.estimate is not None
    text = f"{100 * found.estimate:.1f} %"
    if found.lower is not None and found.upper is not None:
        text += f" ({100 * found.lower:.1f} to {100 * found.upper:.1f})"
    return text


def counted(count: int, what: str) -> str:
    """Returns a count with its noun: 1 image, 2 images."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
