"""README's table of models says what the cards say."""

import pytest

from models.report import README, cards, render, table


def test_readme_shows_the_cards_figures() -> None:
    text = README.read_text()
    assert render(text, cards()) == text, "run `python -m models.report --write`"


def test_every_card_has_been_evaluated() -> None:
    rows = table(cards())
    for card in cards():
        assert {metric.variant for metric in card.metrics} == set(card.variants), card.name
        assert f"`{card.name}`" in rows
        assert card.training.wall_time_s > 0
        assert "models.train" in card.training.command


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the markers"):
        render("# title", [])
