"""Declarations: what a file may hold, and who gets which arm."""

import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import yaml

from service.errors import SettingsError
from service.experiments.assignment import gets_candidate, position
from service.experiments.declaration import Change, Declaration, read_declarations

DOCS = Path(__file__).resolve().parents[2] / "docs"
GOOD = {
    "name": "e",
    "task": "classify",
    "mode": "split",
    "baseline": {"variant": "full"},
    "candidate": {"variant": "binary"},
}


@pytest.mark.parametrize("write", [yaml.safe_dump, json.dumps])
def test_a_file_of_yaml_or_json(tmp_path, write):
    file = tmp_path / "experiments"
    file.write_text(write({"experiments": [GOOD, {**GOOD, "name": "f", "task": "depth", "mode": "paired"}]}))
    first, second = read_declarations(file)
    assert first.weights() == {"full": 0.5, "binary": 0.5}
    assert second.weights() == {"full": 1.0, "binary": 1.0}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "neither YAML nor JSON"),
        ("experiments: 2024-13-45", "neither YAML nor JSON: a value cannot be read"),
        ("[]", "is not a valid experiments file"),
        ("experiments: [{name: e}]", "experiments.0.task"),
        (yaml.safe_dump({"experiments": [{**GOOD, "weight": 2}]}), "experiments.0.weight"),
        (yaml.safe_dump({"experiments": [{**GOOD, "wieght": 1}]}), "experiments.0.wieght"),
        (yaml.safe_dump({"experiments": [{**GOOD, "name": "A b"}]}), "experiments.0.name"),
        (yaml.safe_dump({"experiments": [{**GOOD, "candidate": {"variant": "full"}}]}), "both arms"),
        (
            yaml.safe_dump({"experiments": [{**GOOD, "candidate": {"variant": "full", "name": "again"}}]}),
            "same variant of the same model",
        ),
        (yaml.safe_dump({"experiments": [{**GOOD, "sample": 0.1}]}), "`sample` has no effect in mode `split`"),
        (yaml.safe_dump({"experiments": [{**GOOD, "mode": "shadow", "weight": 0.05}]}), "`weight` has no effect"),
        (yaml.safe_dump({"experiments": [GOOD, GOOD]}), "declared twice"),
        (yaml.safe_dump({"experiments": [GOOD, {**GOOD, "name": "f"}]}), "pause one"),
    ],
)
def test_files_that_cannot_be(tmp_path, document, said):
    file = tmp_path / "experiments.yaml"
    file.write_text(document)
    with pytest.raises(SettingsError, match=said):
        read_declarations(file)


def test_what_the_documentation_declares_is_valid(tmp_path):
    text = "\n".join((DOCS / page).read_text() for page in ("experiments.md", "operations.md"))
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "experiments:" in block]
    assert len(blocks) == 2
    for block in blocks:
        file = tmp_path / "experiments.yaml"
        file.write_text(textwrap.dedent(block))
        assert read_declarations(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SettingsError, match="No such file"):
        read_declarations(tmp_path / "none.yaml")


def test_two_arms_may_be_two_models(tmp_path):
    arms = {"baseline": {"variant": "binary", "model": "m@1", "name": "old"}}
    made = Declaration.model_validate(
        {**GOOD, **arms, "candidate": {"variant": "binary", "model": "m@2", "name": "new"}}
    )
    assert [arm.label for arm in made.arms] == ["old", "new"]


def test_data_of_what_is_compared_otherwise_are_kept_apart():
    made = Declaration.model_validate(GOOD)
    revision = made.revision(("1", "1"))
    assert made.revision(("1", "2")) != revision
    assert made.model_copy(update={"salt": "x"}).revision(("1", "1")) != revision
    assert made.model_copy(update={"mode": "paired"}).revision(("1", "1")) != revision
    for change in (Change(state="paused"), Change(margin=0.1)):
        assert change.apply(made).revision(("1", "1")) == revision
    sampled = made.model_copy(update={"mode": "paired"})
    assert sampled.revision(("1", "1")) == "bae66c453cbf", "as earlier versions named it: their data are found"
    assert Change(sample=0.1).apply(sampled).revision(("1", "1")) == sampled.revision(("1", "1"))


def test_periods_of_a_split_with_different_weights_are_kept_apart():
    """Put together they deceive: here the arms are equally good in each period, and far apart in the sum."""
    right = {"easy": 0.9, "hard": 0.5}
    weights = {"easy": 0.1, "hard": 0.9}
    of_candidate = sum(weights[period] * right[period] for period in right) / sum(weights.values())
    of_baseline = sum((1 - weights[period]) * right[period] for period in right) / sum(1 - w for w in weights.values())
    assert of_candidate - of_baseline < -0.3
    made = Declaration.model_validate(GOOD)
    changed = Change(weight=0.9).apply(made)
    assert changed.revision(("1", "1")) != made.revision(("1", "1"))
    assert Change(weight=0.5).apply(changed).revision(("1", "1")) == made.revision(("1", "1"))


def test_positions_are_uniform_and_unrelated_between_experiments(seed):
    subjects = [f"{seed}-{number}" for number in range(20_000)]
    one = np.array([position("", "one", subject) for subject in subjects])
    other = np.array([position("", "other", subject) for subject in subjects])
    salted = np.array([position("salt", "one", subject) for subject in subjects])
    assert np.histogram(one, 10, (0, 1))[0] == pytest.approx(np.full(10, 2000), abs=5 * np.sqrt(1800))
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(20_000)
    assert abs(np.corrcoef(one, salted)[0, 1]) < 5 / np.sqrt(20_000)


def test_a_larger_weight_moves_subjects_one_way_only(seed):
    subjects = [f"{seed}-{number}" for number in range(2000)]
    before = {subject for subject in subjects if gets_candidate("", "e", subject, 0.2)}
    after = {subject for subject in subjects if gets_candidate("", "e", subject, 0.4)}
    assert before < after
    assert not any(gets_candidate("", "e", subject, 0.0) for subject in subjects)
    assert all(gets_candidate("", "e", subject, 1.0) for subject in subjects)
