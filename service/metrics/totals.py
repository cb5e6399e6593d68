"""Totals of a model version over its variants and kernels since the start, for other reports than Prometheus'."""

from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client import Counter, Histogram

#: Model, version, variant and kernel: one key for each counting function, so that no two threads count in one.
SizesOf = tuple[str, str, str, str]


@dataclass(slots=True)
class Totals:
    """Totals of one model version.

    Attributes:
        outcomes: Images by the outcome of their request.
        images: Answered images for which a stage was timed, by stage.
        seconds: Time that they spent in it, by stage.
        batches: Runs by their exact number of images.
    """

    outcomes: Counts[str] = field(default_factory=Counts)
    images: Counts[str] = field(default_factory=Counts)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    batches: Counts[int] = field(default_factory=Counts)


def totals(
    requests: Counter, stages: Histogram, batches: Mapping[SizesOf, Counts[int]]
) -> dict[tuple[str, str], Totals]:
    """Adds up the series of all variants and kernels.

    Args:
        requests: Counter of images by outcome.
        stages: Histogram of seconds by stage.
        batches: Runs by exact number of images.

    Returns:
        Totals by name and version of the model.
    """
    found: defaultdict[tuple[str, str], Totals] = defaultdict(Totals)
    for sample in (each for family in requests.collect() for each in family.samples):
        one = found[sample.labels["model"], sample.labels["version"]]
        one.outcomes[sample.labels["outcome"]] += int(sample.value)
    for sample in (each for family in stages.collect() for each in family.samples):
        one = found[sample.labels["model"], sample.labels["version"]]
        if sample.name.endswith("_count"):
            one.images[sample.labels["stage"]] += int(sample.value)
        elif sample.name.endswith("_sum"):
            one.seconds[sample.labels["stage"]] += sample.value
    for (model, version, *_), sizes in list(batches.items()):
        found[model, version].batches += sizes.copy()  # in one step, because others count meanwhile
    return dict(found)
