"""Verdicts: an experiment's results in plain sentences, and whether the candidate is good enough."""

from dataclasses import dataclass

from service.card import TaskName
from service.experiments.wire import Conclusion, IntervalInfo, Verdict

#: What is said of a variant that is compared with itself.
SAME = "the same variant twice: differences are noise"


@dataclass(frozen=True, slots=True)
class Design:
    """What is decided before an experiment, and does not depend on its data.

    Attributes:
        candidate: Name of the arm that is judged.
        baseline: Name of the arm that it is compared with.
        task: What accuracy is: the share of right classes, or for depth of points within a factor of 1.25 of the truth.
        margin: Accepted loss of accuracy, a fraction.
        split: Whether the arms have different subjects, of each of which only one image counts; else the same images.
        same: Whether both arms are one variant, so that nothing but chance makes them differ.
    """

    candidate: str
    baseline: str
    task: TaskName
    margin: float
    split: bool = False
    same: bool = False


@dataclass(frozen=True, slots=True)
class Estimates:
    """What was measured, with 95 % intervals; None where there are no data.

    Attributes:
        images: Number of images that can be compared, with or without labels.
        agreement: Share of the images on which the arms agree.
        latency_ratio: Inference time of the candidate / the baseline.
        accuracies: Accuracies of candidate and baseline.
        labelled: Numbers of labelled images that count, of candidate and baseline. They differ in a split.
        difference: Accuracy of the candidate minus the baseline, with the interval to decide by.
        watched: Whether that interval is anytime-valid.
    """

    images: int
    agreement: IntervalInfo | None
    latency_ratio: IntervalInfo | None
    accuracies: tuple[IntervalInfo | None, IntervalInfo | None]
    labelled: tuple[int, int]
    difference: IntervalInfo | None
    watched: bool = False


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


def verdict(design: Design, estimates: Estimates) -> Verdict:
    """Writes the verdict on an experiment: what the estimates say about what the design asks."""
    candidate, baseline, difference = design.candidate, design.baseline, estimates.difference
    sentences = []
    if estimates.agreement is not None:
        depth = design.task == "depth"
        kind = "agree (at least 90 % of the pixels within a factor of 1.25)" if depth else "give the same best class"
        images = counted(estimates.images, "image")
        sentences.append(f"{candidate} and {baseline} {kind} on {_share(estimates.agreement)} of {images}.")
    ratio = estimates.latency_ratio
    if ratio is not None and ratio.estimate is not None and not design.same:
        sentences.append(_speed(candidate, baseline, ratio))
    own, other = estimates.accuracies
    if own is not None and other is not None:
        sentences.append(_accuracy(design, own, other, estimates.labelled))
    if difference is not None and difference.estimate is not None:
        sentences.append(_difference(difference, watched=estimates.watched))
    conclusion: Conclusion
    if not estimates.images:
        conclusion = "no_data"
    elif difference is None:
        conclusion = "no_labels"
    else:
        conclusion = decide(difference, design.margin)
    summary = _summary(design, estimates)[conclusion]
    if design.same and estimates.images:
        summary = f"{candidate} and {baseline} are {SAME}."
    return Verdict(conclusion=conclusion, summary=summary, sentences=sentences)


def _summary(design: Design, estimates: Estimates) -> dict[Conclusion, str]:
    """Writes each conclusion as a sentence."""
    candidate, baseline, difference = design.candidate, design.baseline, estimates.difference
    fewest = min(estimates.labelled)
    points = f"{100 * design.margin:g} point{'' if design.margin == 0.01 else 's'}"
    more = f"more than {counted(fewest, 'labelled image')}"
    unknown = f"without labels, only the agreement of {candidate} and {baseline} is known"
    if design.split:
        more = f"labels of more than {counted(fewest, 'subject')} per arm"
        unknown = f"it takes labels of both arms to compare the accuracy of {candidate} and {baseline}"
    doubt = f"it takes {more} to tell whether {candidate} loses less than {points} of accuracy to {baseline}"
    if difference is not None and difference.upper is not None and difference.upper < 0:
        doubt = f"{candidate} is less accurate than {baseline}; it takes {more} to tell whether by less than {points}"
    return {
        "better": f"Yes: {candidate} is more accurate than {baseline} on these images.",
        "good_enough": f"Yes: {candidate} is good enough; it loses less than {points} of accuracy to {baseline}.",
        "worse": f"No: {candidate} loses more than {points} of accuracy to {baseline}.",
        "undecided": f"Not decided yet: {doubt}.",
        "no_labels": f"Unknown: {unknown}.",
        "no_data": "There are no images to compare yet.",
    }


def _accuracy(design: Design, own: IntervalInfo, other: IntervalInfo, labelled: tuple[int, int]) -> str:
    each = ", the first of each subject," if design.split else ""
    same = labelled[0] == labelled[1]  # or each arm's share is named with the number that it is of
    baseline = f"{design.baseline} {_share(other)}"
    if design.task == "depth":
        on, of = (counted(count, "image") for count in labelled)
        puts = f"{design.candidate} puts {_share(own)} of the points within a factor of 1.25 of the truth"
        if same:
            return f"On {on} with ground truth{each} {puts}, and {baseline}."
        return f"On images with ground truth{each} {puts} ({on}), and {baseline} ({of})."
    gets = f"{design.candidate} gets {_share(own)}"
    if same:
        return f"Of {counted(labelled[0], 'labelled image')}{each} {gets} right, and {baseline}."
    return f"Of the labelled images{each} {gets} of {labelled[0]} right, and {baseline} of {labelled[1]}."


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
