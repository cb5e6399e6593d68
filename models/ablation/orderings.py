"""The orderings that the paper states, and whether the grid reproduces them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from models.ablation.figures import METHODS, NAMES, Figures
from models.ablation.grid import OTHERS, Cell, binary, combination, other, third_order
from models.arch.config import STRUCTURES

NOISE = 0.02  # lower bound: with 4,000 test images, the difference of two top-1 near 50 % has a standard error of 0.011
CHANCE = 0.13  # chance is 0.10 for ten classes; the margin covers sampling noise and networks that barely learn


class Claim(Enum):
    """How the paper's first figure compares with its second."""

    ABOVE = "above"
    AT_LEAST = "at least"
    EQUAL = "equal"


class Verdict(Enum):
    """What our results say about a claim."""

    REPRODUCES = "Reproduces"
    DOES_NOT = "**Does not reproduce**"
    NOT_TOLD = "**Not told apart**"
    CHANCE = "**Both at chance**"
    NOT_RUN = "Not run"


@dataclass(frozen=True)
class Ordering:
    """One statement of the paper.

    Attributes:
        what: the statement.
        first: the cell stated to be above, at least as good as, or equal to the second.
        second: the other cell.
        claim: which of the three.
    """

    what: str
    first: Cell
    second: Cell
    claim: Claim = Claim.ABOVE


def stated() -> Iterator[Ordering]:
    """All orderings of Tables 1 to 4 and of Sec. 4.2 and 4.3 between cells of the grid."""

    def best(depth: int, structure: str = "bireal") -> Cell:
        return combination(depth, structure, "clip", "magnitude", "approxsign")

    for depth in (18, 34):
        yield Ordering(f"the Bi-Real structure beats the ResNet's at {depth} layers", best(depth), best(depth, "res"))
        yield Ordering(
            f"the ResNet's structure beats the plain one at {depth} layers", best(depth, "res"), best(depth, "plain")
        )
        for structure in STRUCTURES:
            name = f"{NAMES[structure]}-{depth}"
            base = combination(depth, structure, "relu", "original", "clip")
            for what, row in (
                ("magnitude-aware update alone helps", ("relu", "magnitude", "clip")),
                ("ApproxSign alone helps", ("relu", "original", "approxsign")),
                ("clip initialisation alone helps", ("clip", "original", "clip")),
                ("all three together help", ("clip", "magnitude", "approxsign")),
            ):
                yield Ordering(f"{what} {name}", combination(depth, structure, *row), base)
    update = combination(18, "bireal", "relu", "magnitude", "clip")
    for what, row in (
        ("ApproxSign", ("relu", "original", "approxsign")),
        ("clip initialisation", ("clip", "original", "clip")),
    ):
        yield Ordering(f"the update helps Bi-Real-18 more than {what}", update, combination(18, "bireal", *row))
    yield Ordering("the third order is about as good as the second, or better", third_order(), best(18), Claim.AT_LEAST)
    yield Ordering("Bi-Real-34 beats Bi-Real-18", best(34), best(18))
    yield Ordering("Res-34 beats Res-18", best(34, "res"), best(18, "res"))
    yield Ordering("ABC-Net-34 beats ABC-Net-18", other(34, "abcnet"), other(18, "abcnet"))
    yield Ordering("Bi-Real-50 is about as good as Bi-Real-34, or better", binary(50), best(34), Claim.AT_LEAST)
    for method in OTHERS:
        yield Ordering(f"Bi-Real-18 beats {METHODS[method]}", best(18), other(18, method))
    yield Ordering("XNOR-Net beats ABC-Net at 18 layers", other(18, "xnornet"), other(18, "abcnet"))
    yield Ordering("ABC-Net beats BinaryNet at 18 layers", other(18, "abcnet"), other(18, "binarynet"))
    yield Ordering("Bi-Real-34 beats ABC-Net", best(34), other(34, "abcnet"))
    yield Ordering("Bi-Real-50 beats BinaryNet", binary(50), other(50, "binarynet"))
    yield Ordering("Bi-Real-50 is about equal to XNOR-Net", binary(50), other(50, "xnornet"), Claim.EQUAL)


def noise(figures: Figures) -> float:
    """Differences up to this fraction count as noise: at least the spread between two seeds of one network."""
    return max(NOISE, figures.spread())


def judge(figures: Figures, ordering: Ordering) -> Verdict:
    """What our results say about one statement."""
    first, second = figures.ours(ordering.first), figures.ours(ordering.second)
    if first is None or second is None:
        return Verdict.NOT_RUN
    if max(first, second) < CHANCE:
        return Verdict.CHANCE
    difference, least = first - second, noise(figures)
    if ordering.claim is Claim.EQUAL:
        return Verdict.REPRODUCES if abs(difference) <= least else Verdict.DOES_NOT
    if difference < -least:
        return Verdict.DOES_NOT
    if ordering.claim is Claim.AT_LEAST or difference > least:
        return Verdict.REPRODUCES
    return Verdict.NOT_TOLD


def sentence(figures: Figures, ordering: Ordering) -> str:
    """The verdict on one statement, with the two figures it is based on."""
    verdict = judge(figures, ordering)
    if verdict is Verdict.NOT_RUN:
        return f"Not run: {ordering.what}."
    told = " against ".join(f"{figures.ours(cell) or 0.0:.1%}" for cell in (ordering.first, ordering.second))
    if verdict is Verdict.NOT_TOLD:
        return f"{verdict.value}: {ordering.what}; the difference is below {noise(figures) * 100:.1f} points ({told})."
    if verdict is Verdict.DOES_NOT:
        first, second = (len(figures.seeds(cell)) for cell in (ordering.first, ordering.second))
        alike = {1: "one seed", 2: "two seeds"}.get(first)
        trained = alike if first == second and alike else "one seed of one network and two of the other"
        other_way = "they differ" if ordering.claim is Claim.EQUAL else "the order is reversed"
        return f"{verdict.value} with this budget and {trained}: {ordering.what}; {other_way} ({told})."
    return f"{verdict.value}: {ordering.what} ({told})."


def summary(figures: Figures) -> str:
    """How many of the statements reproduce, in one sentence."""
    verdicts = [judge(figures, ordering) for ordering in stated()]
    counted = {verdict: verdicts.count(verdict) for verdict in Verdict}

    def having(verdict: Verdict, one: str, several: str) -> str:
        return f"{counted[verdict]} {one if counted[verdict] == 1 else several}"

    return (
        f"Of {len(verdicts)} orderings that the paper states, {having(Verdict.REPRODUCES, 'reproduces', 'reproduce')}, "
        f"{having(Verdict.DOES_NOT, 'does not', 'do not')}, {counted[Verdict.NOT_TOLD]} cannot be told apart, "
        f"{having(Verdict.CHANCE, 'compares', 'compare')} networks at chance and "
        f"{having(Verdict.NOT_RUN, 'was', 'were')} not run."
    )
