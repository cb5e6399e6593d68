"""The orderings of the paper's printed figures, and whether the grid reproduces them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from models.ablation.figures import METHODS, NAMES, Figures
from models.ablation.grid import OTHERS, Cell, binary, combination, other, third_order
from models.ablation.paper import COLUMNS

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
    """One ordering of the paper's figures.

    Attributes:
        what: the ordering in words.
        first: the cell printed to be above, at least as good as, or equal to the second.
        second: the other cell.
        claim: which of the three.
        alike: a network like the first that has as many epochs as the second, if the first has more.
    """

    what: str
    first: Cell
    second: Cell
    claim: Claim = Claim.ABOVE
    alike: Cell | None = None


def from_relu(depth: int) -> Cell:
    """The Bi-Real net with our other two techniques, which has as many epochs as a baseline: both start from ReLU."""
    return combination(depth, "bireal", "relu", "magnitude", "approxsign")


#: Table 1's techniques: each alone, and all three, against the row with none.
TECHNIQUES = (
    ("magnitude-aware update alone helps", ("relu", "magnitude", "clip")),
    ("ApproxSign alone helps", ("relu", "original", "approxsign")),
    ("clip initialisation alone helps", ("clip", "original", "clip")),
    ("all three together help", ("clip", "magnitude", "approxsign")),
)

#: Sec. 4.2 says that every technique helps every network; Table 1 prints 3.2 with this one and 3.3 without.
CONTRADICTED = combination(18, "plain", "clip", "original", "clip")


def stated() -> Iterator[Ordering]:
    """The orderings that Sec. 4 states and the printed figures of Tables 1 to 4 have, between cells of the grid.

    Of Table 1 these are what the text says of structures and techniques; of Tables 3 and 4 also every pair of methods
    at a depth, and every method at the next printed depth. What the text states without figures that we
    have (Plain-34, real-valued networks), or against its own figures, is left out.
    """

    def best(depth: int, structure: str = "bireal") -> Cell:
        return combination(depth, structure, "clip", "magnitude", "approxsign")

    for depth in (18, 34):
        yield Ordering(f"the Bi-Real structure beats the ResNet's at {depth} layers", best(depth), best(depth, "res"))
    yield Ordering("the ResNet's structure beats the plain one at 18 layers", best(18, "res"), best(18, "plain"))
    for depth, structure in COLUMNS:
        base = combination(depth, structure, "relu", "original", "clip")
        for what, row in TECHNIQUES:
            cell = combination(depth, structure, *row)
            if cell != CONTRADICTED:
                yield Ordering(f"{what} {NAMES[structure]}-{depth}", cell, base)
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
    yield Ordering("XNOR-Net-50 beats XNOR-Net-18", other(50, "xnornet"), other(18, "xnornet"))
    yield Ordering("BinaryNet-18 beats BinaryNet-50", other(18, "binarynet"), other(50, "binarynet"))
    for method in OTHERS:
        yield Ordering(f"Bi-Real-18 beats {METHODS[method]}", best(18), other(18, method), alike=from_relu(18))
    yield Ordering("XNOR-Net beats ABC-Net at 18 layers", other(18, "xnornet"), other(18, "abcnet"))
    yield Ordering("XNOR-Net beats BinaryNet at 18 layers", other(18, "xnornet"), other(18, "binarynet"))
    yield Ordering("ABC-Net beats BinaryNet at 18 layers", other(18, "abcnet"), other(18, "binarynet"))
    yield Ordering("Bi-Real-34 beats ABC-Net", best(34), other(34, "abcnet"), alike=from_relu(34))
    yield Ordering("Bi-Real-50 beats BinaryNet", binary(50), other(50, "binarynet"))
    yield Ordering("Bi-Real-50 is about equal to XNOR-Net", binary(50), other(50, "xnornet"), Claim.EQUAL)
    yield Ordering("XNOR-Net beats BinaryNet at 50 layers", other(50, "xnornet"), other(50, "binarynet"))


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
    """The verdict on one statement, with the two figures it is based on and, if they differ, the epochs of the two."""
    verdict = judge(figures, ordering)
    if verdict is Verdict.NOT_RUN:
        return f"Not run: {ordering.what}."
    told = _told(figures, ordering) + _epochs(figures, ordering)
    last = _alike(figures, ordering)
    if verdict is Verdict.NOT_TOLD:
        below = f"the difference is below {noise(figures) * 100:.1f} points"
        return f"{verdict.value}: {ordering.what}; {below} ({told}).{last}"
    if verdict is Verdict.DOES_NOT:
        first, second = (len(figures.seeds(cell)) for cell in (ordering.first, ordering.second))
        alike = {1: "one seed", 2: "two seeds"}.get(first)
        trained = alike if first == second and alike else "one seed of one network and two of the other"
        other_way = "they differ" if ordering.claim is Claim.EQUAL else "the order is reversed"
        return f"{verdict.value} with this budget and {trained}: {ordering.what}; {other_way} ({told}).{last}"
    return f"{verdict.value}: {ordering.what} ({told}).{last}"


def _told(figures: Figures, ordering: Ordering) -> str:
    return " against ".join(f"{figures.ours(cell) or 0.0:.1%}" for cell in (ordering.first, ordering.second))


def _epochs(figures: Figures, ordering: Ordering) -> str:
    first, second = (figures.epochs(cell) for cell in (ordering.first, ordering.second))
    return "" if first == second else f" after {first} and {second} epochs"


def _alike(figures: Figures, ordering: Ordering) -> str:
    """The comparison at equal epochs, for an ordering whose first network has more than the second."""
    if ordering.alike is None:
        return ""
    same = replace(ordering, first=ordering.alike, alike=None)
    epochs = f" With {figures.epochs(same.first)} epochs each (from ReLU, magnitude-aware, ApproxSign)"
    verdict = judge(figures, same)
    words = {
        Verdict.REPRODUCES: "above as well",
        Verdict.NOT_TOLD: "not told apart",
        Verdict.DOES_NOT: "the order is reversed",
        Verdict.CHANCE: "both at chance",
    }
    return f"{epochs}: not run." if verdict not in words else f"{epochs}: {words[verdict]} ({_told(figures, same)})."


def summary(figures: Figures) -> str:
    """How many of the orderings reproduce, in one sentence."""
    verdicts = [judge(figures, ordering) for ordering in stated()]
    counted = {verdict: verdicts.count(verdict) for verdict in Verdict}

    def having(verdict: Verdict, one: str, several: str) -> str:
        return f"{counted[verdict]} {one if counted[verdict] == 1 else several}"

    return (
        f"Of {len(verdicts)} orderings of the paper's figures, "
        f"{having(Verdict.REPRODUCES, 'reproduces', 'reproduce')}, "
        f"{having(Verdict.DOES_NOT, 'does not', 'do not')}, {counted[Verdict.NOT_TOLD]} cannot be told apart, "
        f"{having(Verdict.CHANCE, 'compares', 'compare')} networks at chance and "
        f"{having(Verdict.NOT_RUN, 'was', 'were')} not run."
    )


def longer(figures: Figures) -> str:
    """In how many of the orderings that reproduce the better network had more epochs, in one sentence."""
    reproduced = [ordering for ordering in stated() if judge(figures, ordering) is Verdict.REPRODUCES]
    count = sum(figures.epochs(one.first) > figures.epochs(one.second) for one in reproduced)
    return f"In {count} of those that reproduce, the better network starts from clip and so has more epochs."
