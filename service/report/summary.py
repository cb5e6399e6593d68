"""Scores of a folder comparison with confidence intervals, and the verdict. All intervals are valid for one look."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from service import statistics as st
from service.experiments.results import interval
from service.experiments.verdict import Design, Estimates, verdict
from service.experiments.wire import IntervalInfo
from service.report.pairs import Pair, Side

_DEPTH_FIGURES = ("abs_rel", "rmse", "delta1")


def summarise(pairs: Sequence[Pair], design: Design) -> dict[str, Any]:
    """Computes all results over the images for the report.

    Args:
        pairs: Results on each image, at least one; `a` is the candidate, `b` the baseline.
        design: What is compared, and by how much the candidate may be worse.

    Returns:
        JSON-ready: `n`, `agreement`, `agreement_interval`, `latency`, `margin`, `labelled` and `verdict`; with labels
        also `accuracy`, `pairs` and the tests; for depth also `within_1_25`, `abs_rel` and, with truth, `depth`.
    """
    agreeing = sum(pair.agree for pair in pairs)
    times = {side: np.array([getattr(pair, side).inference_s for pair in pairs]) for side in ("a", "b")}
    agreement = interval(st.proportion(agreeing, len(pairs)))
    ratio = interval(st.latency_ratio(times["a"], times["b"]))
    document: dict[str, Any] = {
        "n": len(pairs),
        "agreement": agreeing / len(pairs),
        "agreement_interval": agreement.model_dump(),
        "latency": {
            "ratio": ratio.model_dump(),
            **{side: _latency(values) for side, values in times.items()},
        },
        "margin": design.margin,
    }
    if design.task == "depth":
        document["within_1_25"] = float(np.mean([pair.within for pair in pairs]))
        document["abs_rel"] = float(np.mean([pair.abs_rel for pair in pairs]))
    scored = _depth(pairs) if design.task == "depth" else _labels(pairs)
    document |= scored.document
    estimates = Estimates(
        images=len(pairs),
        agreement=agreement,
        latency_ratio=ratio,
        accuracies=(scored.a, scored.b),
        labelled=(scored.labelled, scored.labelled),
        difference=scored.difference,
    )
    document["verdict"] = verdict(design, estimates).model_dump()
    return document


class _Scored(NamedTuple):
    """Results with labels or ground truth."""

    document: dict[str, Any]
    labelled: int = 0
    a: IntervalInfo | None = None
    b: IntervalInfo | None = None
    difference: IntervalInfo | None = None


def _labels(pairs: Sequence[Pair]) -> _Scored:
    labelled = [pair for pair in pairs if pair.a.right is not None and pair.b.right is not None]
    if not labelled:
        return _Scored({"labelled": 0})
    n = len(labelled)
    a, b = (interval(st.proportion(sum(bool(side.right) for side in sides), n)) for sides in _sides(labelled))
    only_a = sum(bool(pair.a.right and not pair.b.right) for pair in labelled)
    only_b = sum(bool(pair.b.right and not pair.a.right) for pair in labelled)
    both = sum(bool(pair.a.right and pair.b.right) for pair in labelled)
    difference = interval(st.paired_difference(only_a, only_b, n))
    document = {
        "labelled": n,
        "accuracy": {"a": a.model_dump(), "b": b.model_dump(), "difference": difference.model_dump()},
        "pairs": {"both": both, "only_a": only_a, "only_b": only_b, "neither": n - both - only_a - only_b},
        "mcnemar_p": st.mcnemar(only_a, only_b),
        "e_value": st.e_value(only_a, only_b),
    }
    return _Scored(document, n, a, b, difference)


def _depth(pairs: Sequence[Pair]) -> _Scored:
    scored = [(pair.a.errors, pair.b.errors) for pair in pairs if pair.a.errors and pair.b.errors]
    if not scored:
        return _Scored({"labelled": 0})
    figures: dict[str, dict[str, IntervalInfo]] = {}
    for name in _DEPTH_FIGURES:
        a, b = (np.array([errors[name] for errors in side]) for side in zip(*scored, strict=True))
        figures[name] = {"a": _over_frames(a), "b": _over_frames(b), "difference": _over_frames(a - b)}
    delta1 = figures["delta1"]
    return _Scored(
        {
            "labelled": len(scored),
            "depth": {name: {key: found.model_dump() for key, found in one.items()} for name, one in figures.items()},
        },
        len(scored),
        delta1["a"],
        delta1["b"],
        delta1["difference"],
    )


def _over_frames(values: npt.NDArray[np.float64]) -> IntervalInfo:
    """Mean over frames in order, with an interval that allows for similar neighbours (docs/adr/0043)."""
    return interval(st.mean_of_sequence(values, st.BLOCK_FRAMES))


def _latency(times_s: Any) -> dict[str, float]:
    """Quantiles of the inference time, milliseconds."""
    quantiles = np.percentile(1000 * times_s, (50, 90, 99))
    return {name: round(float(value), 4) for name, value in zip(("p50_ms", "p90_ms", "p99_ms"), quantiles, strict=True)}


def _sides(pairs: Sequence[Pair]) -> tuple[list[Side], list[Side]]:
    return [pair.a for pair in pairs], [pair.b for pair in pairs]
