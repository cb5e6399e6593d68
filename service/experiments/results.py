"""An experiment's results so far, computed from the store."""

import math
import sqlite3
from collections.abc import Sequence

import numpy as np

from service import statistics as st
from service.experiments.declaration import Declaration
from service.experiments.store import Store
from service.experiments.wire import ArmResult, Evidence, IntervalInfo, PairCounts, Results

#: Number of newest observations whose times are compared. A bootstrap of these takes about 50 ms of CPU time, which
#: requests cannot use.
_TIMES = 1000


def interval(found: st.Interval) -> IntervalInfo:
    """Converts an interval to its wire type; values that are not finite become null."""
    return IntervalInfo(**{name: (value if math.isfinite(value) else None) for name, value in found._asdict().items()})


def frames(values: Sequence[float], *, share: bool = False) -> st.Interval:
    """Mean of a score over depth maps, with an interval from blocks of consecutive maps (docs/adr/0043).

    Consecutive frames of a drive resemble each other, and clients do not say which images belong to one drive.

    Args:
        values: Scores in the order of arrival.
        share: Whether the scores are shares, so that the interval is limited to 0..1.
    """
    found = st.mean_of_sequence(values, st.BLOCK_FRAMES)
    return _share(found) if share else found


def _share(found: st.Interval) -> st.Interval:
    if not math.isfinite(found.lower):
        return found
    return st.Interval(found.estimate, max(found.lower, 0.0), min(found.upper, 1.0))


def analyse(declaration: Declaration, revision: str, store: Store) -> Results:
    """Computes an experiment's results from all of its stored data.

    Takes one or two seconds for 200,000 rows on a slow CPU: call it in a thread.

    Raises:
        FeedbackStoreError: The store cannot be read.
    """
    with store.snapshot():
        return _analyse(declaration, revision, store)


def _analyse(declaration: Declaration, revision: str, store: Store) -> Results:
    name = declaration.name
    rows = store.observations(name, revision, _TIMES)
    pairs, agreeing = store.agreement(name, revision)
    baseline, candidate = (arm.label for arm in declaration.arms)
    times = {
        baseline: np.array([row["baseline_s"] for row in rows if row["baseline_s"]], dtype=np.float64),
        candidate: np.array([row["candidate_s"] for row in rows if row["candidate_s"]], dtype=np.float64),
    }
    ratio = None
    if declaration.mode == "split":
        ratio = st.unpaired_latency_ratio(times[candidate], times[baseline])
    elif declaration.mode == "paired":  # not `shadow`: there only the baseline runs alongside other requests
        both = np.array(
            [(row["candidate_s"], row["baseline_s"]) for row in rows if row["candidate_s"] and row["baseline_s"]]
        ).reshape(-1, 2)
        ratio = st.latency_ratio(both[:, 0], both[:, 1])
    counts = store.answered(name, revision)
    scores = _Scores(declaration, revision, store)
    within = [row["within"] for row in rows if row["within"] is not None]
    return Results(
        revision=revision,
        arms=[
            ArmResult(
                name=label,
                images=counts.get(label, 0),
                inference_ms_median=round(1000 * float(np.median(times[label])), 4) if times[label].size else None,
                labelled=scores.labelled(label),
                counted=scores.counted(label),
                accuracy=scores.accuracy(label),
                abs_rel=scores.abs_rel(label),
            )
            for label in (baseline, candidate)
        ],
        pairs=pairs,
        agreement=interval(st.proportion(agreeing, pairs)) if pairs else None,
        within_1_25=interval(frames(within[::-1], share=True)) if within else None,
        latency_ratio=interval(ratio) if ratio is not None and math.isfinite(ratio.estimate) else None,
        labelled_pairs=scores.pair_counts(),
        evidence=scores.evidence(),
    )


class _Scores:
    """Scores of the arms of one experiment by feedback.

    A split assigns subjects, not images, and the images of one subject resemble each other. Only the first label of
    each subject counts, because the intervals and tests require independent observations.
    """

    def __init__(self, declaration: Declaration, revision: str, store: Store) -> None:
        self._declaration = declaration
        self._baseline, self._candidate = (arm.label for arm in declaration.arms)
        self._split = declaration.mode == "split"
        self._depth = declaration.task == "depth"
        name = declaration.name
        self._pairs = {} if self._depth or self._split else store.pairs(name, revision)
        self._right_by_arm = store.right(name, revision) if self._split and not self._depth else {}
        # Depth: (delta1, abs_rel) of every image that counts, by arm; pairs have the same images in both arms.
        self._depths: dict[str, list[tuple[float, float]]] = {self._baseline: [], self._candidate: []}
        self._depths_labelled = dict.fromkeys(self._depths, 0)
        self._differences: list[float] = []
        if self._depth:
            self._collect_depths(store.depth_scores(name, revision))

    def _collect_depths(self, rows: list[sqlite3.Row]) -> None:
        for row in rows:
            self._depths_labelled[row["arm"]] += 1
            if row["counts"]:
                self._depths[row["arm"]].append((row["delta1"], row["abs_rel"]))
            if row["other_delta1"] is not None:
                self._depths_labelled[self._candidate] += 1
                self._depths[self._candidate].append((row["other_delta1"], row["other_abs_rel"]))
                self._differences.append(row["other_delta1"] - row["delta1"])

    def _right(self, label: str) -> tuple[int, int]:
        """Number of right images of an arm, and number of images that count (for pairs, those judged on both arms)."""
        if self._split:
            judged = self._right_by_arm.get(label)
            return (judged.right, judged.counted) if judged is not None else (0, 0)
        position = 0 if label == self._baseline else 1
        return sum(n for right, n in self._pairs.items() if right[position]), sum(self._pairs.values())

    def labelled(self, label: str) -> int:
        if self._depth:
            return self._depths_labelled[label]
        judged = self._right_by_arm.get(label)
        return judged.labelled if judged is not None else self.counted(label)

    def counted(self, label: str) -> int:
        return len(self._depths[label]) if self._depth else self._right(label)[1]

    def accuracy(self, label: str) -> IntervalInfo | None:
        if not self.counted(label):
            return None
        if self._depth:
            return interval(self._mean([delta1 for delta1, _ in self._depths[label]], share=True))
        return interval(st.proportion(*self._right(label)))

    def _mean(self, values: list[float], *, share: bool = False) -> st.Interval:
        """Mean over independent images (in a split, one per subject), or over images in the order of their feedback."""
        return (_share(st.mean(values)) if share else st.mean(values)) if self._split else frames(values, share=share)

    def abs_rel(self, label: str) -> IntervalInfo | None:
        if not self._depth or not self.counted(label):
            return None
        return interval(self._mean([abs_rel for _, abs_rel in self._depths[label]]))

    def pair_counts(self) -> PairCounts | None:
        if self._depth or self._split or not self._pairs:
            return None
        return PairCounts(
            both=self._pairs.get((True, True), 0),
            baseline=self._pairs.get((True, False), 0),
            candidate=self._pairs.get((False, True), 0),
            neither=self._pairs.get((False, False), 0),
        )

    def evidence(self) -> Evidence | None:
        if self._depth:
            return self._depth_evidence()
        if self._split:
            right_c, n_c = self._right(self._candidate)
            right_b, n_b = self._right(self._baseline)
            if not n_c or not n_b:
                return None
            return Evidence(
                difference=interval(st.unpaired_difference(right_c, n_c, right_b, n_b)),
                difference_watched=interval(st.difference_sequence(right_c, n_c, right_b, n_b)),
                p_value=st.fisher(right_c, n_c, right_b, n_b),
                e_value=None,
            )
        counts = self.pair_counts()
        if counts is None:
            return None
        n = sum(self._pairs.values())
        return Evidence(
            difference=interval(st.paired_difference(counts.candidate, counts.baseline, n)),
            difference_watched=interval(st.paired_difference_sequence(counts.candidate, counts.baseline, n)),
            p_value=st.mcnemar(counts.candidate, counts.baseline),
            e_value=st.e_value(counts.candidate, counts.baseline),
        )

    def _depth_evidence(self) -> Evidence | None:
        if self._split:
            candidate, baseline = (
                [delta1 for delta1, _ in self._depths[label]] for label in (self._candidate, self._baseline)
            )
            if not candidate or not baseline:
                return None
            found = st.unpaired_mean_difference(candidate, baseline)
            if found.lower == found.upper:  # equal scores, as of a few perfect maps, say nothing of the spread
                found = found._replace(lower=-math.inf, upper=math.inf)
        elif self._differences:
            found = frames(self._differences)
        else:
            return None
        return Evidence(difference=interval(found), difference_watched=None, p_value=None, e_value=None)
