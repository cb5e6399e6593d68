"""The page of the ablation grid: it says what the results say, and only what they can say."""

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from models.ablation.grid import (
    COMBINATIONS,
    OTHERS,
    Budget,
    Cell,
    binary,
    combination,
    extras,
    other,
    real,
    scaled,
    third_order,
)
from models.ablation.orderings import Claim, stated
from models.ablation.paper import printed
from models.ablation.report import page
from models.binarize.base import Phase

ROOT = Path(__file__).resolve().parents[2]


def shown(top1: dict[Cell, float]) -> str:
    """The page of a grid of which these cells were run."""
    found = {cell.key: {"cpu_s": 1.0, "top5": 1.0, "fresh": 0, "top1": value} for cell, value in top1.items()}
    return page({"budget": asdict(Budget()), "cells": found})


def verdict(text: str, what: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("- ") and what in line]
    return line


BEST = combination(18, "bireal", "clip", "magnitude", "approxsign")
RES = combination(18, "res", "clip", "magnitude", "approxsign")


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (0.5, 0.40, "Reproduces:"),
        (0.5, 0.485, "**Not told apart**"),
        (0.5, 0.515, "**Not told apart**"),
        (0.5, 0.60, "**Does not reproduce** with this budget and one seed:"),
        (0.10, 0.128, "**Both at chance**"),
        (0.10, 0.20, "**Does not reproduce**"),
    ],
)
def test_orderings_are_read_from_the_figures(ours: float, theirs: float, said: str) -> None:
    text = shown({BEST: ours, RES: theirs})
    assert said in verdict(text, "the Bi-Real structure beats the ResNet's at 18 layers")
    assert "Not run: Bi-Real-50 beats BinaryNet." in text
    count = sum(1 for _ in stated())
    of_one = {
        "Repr": "1 reproduces,",
        "**Do": "1 does not,",
        "**No": "1 cannot be told apart,",
        "**Bo": "1 compares networks",
    }
    summary = text.splitlines()[2]
    assert summary.startswith(f"Of {count} orderings of the paper's figures, ")
    assert of_one[said[:4]] in summary
    assert summary.endswith(f" and {count - 1} were not run.")


def test_one_ordering_that_was_not_run_was_not() -> None:
    run = {cell for ordering in stated() for cell in (ordering.first, ordering.second)} - {third_order()}
    assert shown(dict.fromkeys(run, 0.5)).splitlines()[2].endswith(" 0 compare networks at chance and 1 was not run.")


def test_seeds_are_averaged_and_their_spread_is_noise() -> None:
    again = replace(BEST, seed=2)
    text = shown({BEST: 0.5, again: 0.44, RES: 0.42})
    assert "| Clip | magnitude-aware | ApproxSign | 10 | 47.0% / 56.4 % | 42.0% / 45.7 % |" in text
    assert "clip/magnitude/approxsign 50.0% and 44.0%" in text
    assert "differ by up to\n6.0 points (1 pair of seeds)." in text
    assert "**Not told apart**" in verdict(text, "the Bi-Real structure beats the ResNet's at 18 layers")
    text = shown({BEST: 0.5, again: 0.49, RES: 0.6})
    told = "with this budget and one seed of one network and two of the other: the Bi-Real structure"
    assert told in verdict(text, "the Bi-Real structure beats the ResNet's at 18 layers")
    base = combination(18, "bireal", *COMBINATIONS[0])
    text = shown({BEST: 0.5, again: 0.49, base: 0.6, replace(base, seed=2): 0.6})
    assert "budget and two seeds:" in verdict(text, "all three together help Bi-Real-18")
    assert "differ by up to\n1.0 points (2 pairs of seeds)." in text
    smoothed = extras()[0]
    text = shown({BEST: 0.5, RES: 0.44, smoothed: 0.5, replace(smoothed, seed=2): 0.4})
    assert "Reproduces" in verdict(text, "the Bi-Real structure beats the ResNet's at 18 layers"), "extras are no noise"
    assert "have one seed so far: how far two seeds of one differ is not known" in text
    assert "The two seeds differ by 10.0 points with label smoothing." in text
    plain, streams = scaled(34, "relu")
    text = shown({plain: 0.4, replace(plain, seed=2): 0.42, streams: 0.5})
    assert "| Bi-Real-34 | ReLU | 8 | 40.0%, 42.0% | 50.0% | +9.0 points | - |" in text
    assert "Seeds of Bi-Real-34 separately: relu/magnitude/approxsign 40.0% and 42.0%." in text
    assert "have one seed so far" not in text
    assert "Seeds of Bi-Real-18 separately: only one." in text
    assert "differ by up to\n2.0 points (1 pair of seeds)." in text
    deep, res = (combination(34, structure, *COMBINATIONS[-1]) for structure in ("bireal", "res"))
    text = shown({deep: 0.5, replace(deep, seed=2): 0.47, res: 0.51, BEST: 0.5, replace(BEST, seed=2): 0.5})
    assert "differ by up to\n3.0 points (2 pairs of seeds)." in text
    told = verdict(text, "the Bi-Real structure beats the ResNet's at 34 layers")
    assert "**Not told apart**" in told, "its own seeds differ by more"
    relu = real(18, "bireal", Phase.RELU)
    text = shown({relu: 0.6, replace(relu, seed=2): 0.62})
    assert "| ReLU | real-valued network | | 4 | 61.0% / - |" in text
    assert "Seeds of Bi-Real-18 separately: relu/real-valued 60.0% and 62.0%." in text
    assert "| Bi-Real-50 | Clip | 10 | not run | not run | - | - |" in text


def test_some_orderings_are_of_equals() -> None:
    ours, theirs = binary(50), other(50, "xnornet")
    for difference, said in ((0.01, "Reproduces"), (-0.03, "Does not"), (0.03, "Does not reproduce** with")):
        assert said in verdict(shown({ours: 0.5 + difference, theirs: 0.5}), "about equal to XNOR-Net")
    for difference, said in ((0.1, "Reproduces"), (-0.01, "Reproduces"), (-0.03, "Does not reproduce")):
        assert said in verdict(shown({third_order(): 0.5 + difference, BEST: 0.5}), "the third order is about")


def test_the_papers_printed_figures_have_every_ordering() -> None:
    figures = printed()
    for ordering in stated():
        first, second = figures[ordering.first.key], figures[ordering.second.key]
        if ordering.claim is Claim.EQUAL:
            assert abs(first - second) <= 0.5
        elif ordering.claim is Claim.AT_LEAST:
            assert first >= second, ordering.what
        else:
            assert first > second, ordering.what
    told = [ordering.what for ordering in stated()]
    assert len(set(told)) == len(told)
    assert not any("Plain-34" in what or "plain one at 34" in what for what in told), "not legible in our copy"
    assert "clip initialisation alone helps Plain-18" not in told, "3.2 against 3.3"
    assert {f"{what} Plain-18" for what in ("ApproxSign alone helps", "all three together help")} <= set(told)


def test_every_two_methods_with_printed_figures_are_compared() -> None:
    """Leaving out those that come out badly would make the count of what reproduces worthless."""
    networks = [binary(50), *(combination(depth, "bireal", *COMBINATIONS[-1]) for depth in (18, 34))]
    networks += [other(depth, method) for depth in (18, 34, 50) for method in OTHERS]
    networks = [cell for cell in networks if cell.key in printed()]
    compared = {frozenset((ordering.first.key, ordering.second.key)) for ordering in stated()}
    pairs = list(itertools.combinations(networks, 2))
    assert all(frozenset((a.key, b.key)) in compared for a, b in pairs if a.depth == b.depth)
    for method in ("bireal", *OTHERS):
        depths = sorted((cell for cell in networks if cell.method == method), key=lambda cell: cell.depth)
        assert all(frozenset((a.key, b.key)) in compared for a, b in itertools.pairwise(depths)), method


def test_a_network_that_is_not_in_the_grid_is_not_called_missing() -> None:
    text = shown({BEST: 0.5})
    assert "| 50 | not run / 62.6 % | - | not run / 9.4 % | not run / 63.1 % | - |" in text


def test_the_page_says_how_often_equal_networks_would_be_told_apart() -> None:
    assert "Student" not in shown({BEST: 0.5})
    # one pair of seeds, 1 point apart: a difference of 2 points is 2 of its standard deviations
    assert "would be told apart in\n30% of such comparisons" in shown({BEST: 0.5, replace(BEST, seed=2): 0.49})


def test_the_page_compares_the_real_valued_networks() -> None:
    text = shown({real(18, "bireal", Phase.RELU): 0.6, real(18, "res", Phase.RELU): 0.55})
    assert "Ours, Bi-Real-18 against Res-18: 60.0% against 55.0% with ReLU." in text
    assert "Bi-Real-34 against Res-34" not in text


def test_the_page_says_how_many_epochs_each_network_has() -> None:
    """A network from clip has the two of clip's pre-training more than a baseline, which starts from ReLU."""
    budget, relu = Budget(), combination(18, "bireal", "relu", "magnitude", "approxsign")
    assert [cell.epochs(budget) for cell in (BEST, relu, other(18, "xnornet"), binary(50))] == [10, 8, 8, 10]
    assert [real(18, "res", phase).epochs(budget) for phase in (Phase.RELU, Phase.CLIP)] == [4, 6]
    text = shown({BEST: 0.5, relu: 0.46, other(18, "xnornet"): 0.4, other(18, "abcnet"): 0.45, real_relu(): 0.6})
    assert "10 epochs in all from Clip, 8 from ReLU, which every baseline" in text
    assert "| ReLU | magnitude-aware | ApproxSign | 8 | 46.0% / 47.5 % |" in text
    assert "| ReLU | real-valued network | | 4 | 60.0% / - |" in text
    assert "| layers | Bi-Real Net (10 epochs) | Bi-Real Net from ReLU (8 epochs) | BinaryNet (8 epochs) |" in text
    assert "| 18 | 50.0% / 56.4 % | 46.0% / 47.5 % | not run / 42.2 % | 40.0% / 51.2 % | 45.0% / 42.7 % |" in text
    beaten = verdict(text, "Bi-Real-18 beats XNOR-Net")
    assert "(50.0% against 40.0% after 10 and 8 epochs). With 8 epochs each (from ReLU," in beaten
    assert "magnitude-aware, ApproxSign): above as well (46.0% against 40.0%)." in beaten
    assert "ApproxSign): not told apart (46.0% against 45.0%)." in verdict(text, "Bi-Real-18 beats ABC-Net")
    assert "In 2 of those that reproduce, the better network starts from clip" in text
    base = combination(18, "bireal", *COMBINATIONS[0])
    clip = combination(18, "bireal", "clip", "original", "clip")
    text = shown({clip: 0.5, base: 0.4, combination(18, "bireal", "relu", "magnitude", "clip"): 0.45})
    assert "after 10 and 8 epochs" in verdict(text, "clip initialisation alone helps Bi-Real-18")
    assert "epochs" not in verdict(text, "magnitude-aware update alone helps Bi-Real-18")


def real_relu() -> Cell:
    return real(18, "bireal", Phase.RELU)


def test_the_page_says_at_which_commits_its_cells_were_computed() -> None:
    def said(*commits: str | None) -> str:
        cells_ = [BEST, RES, third_order()][: len(commits)]
        found = {
            cell.key: {"cpu_s": 1.0, "top1": 0.5} | ({} if at is None else {"commit": at})
            for cell, at in zip(cells_, commits, strict=True)
        }
        text = page({"budget": asdict(Budget()), "cells": found, "commit": "bbb"})
        (line,) = [line for line in text.splitlines() if "computed at" in line]
        return line

    assert said("bbb", "bbb").endswith("All cells were computed at commit bbb.")
    assert said("aaa", "bbb", "aaa").endswith("at several commits, the last at bbb (2 at aaa, 1 at bbb).")
    assert said(None, "bbb", None).endswith("the last at bbb (1 at bbb, 2 at commits that were not recorded).")


def test_the_page_says_what_starts_fresh() -> None:
    cell = other(18, "xnornet")
    record = {"cpu_s": 1.0, "top5": 1.0, "fresh": 80, "top1": 0.5}
    text = page({"budget": asdict(Budget()), "cells": {cell.key: record}})
    assert "80 of 122 tensors of XNOR-Net-18, whose BatchNorms precede the sign." in text
    assert "| | full precision | | 4 | | not run / 69.3 % | |" in text


@pytest.mark.parametrize("name", ["ablation", "ablation-small"])
def test_the_pages_in_docs_are_those_of_the_results_in_docs(name: str) -> None:
    results = ROOT / "docs" / f"{name}.json"
    assert results.with_suffix(".md").read_text() == page(json.loads(results.read_text()), results.name)
