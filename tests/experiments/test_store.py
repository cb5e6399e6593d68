"""The store: idempotent, shared by processes, bounded by age and count without breaking what was counted."""

import multiprocessing
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import FeedbackStoreError
from service.experiments.observation import FeedbackRecord, Observation, Score
from service.experiments.store import Store

NOW = 1_000_000.0
FOREVER = {"max_age_s": 1e9, "max_rows": 10**9}


def record(number: int, **changes) -> FeedbackRecord:
    given = FeedbackRecord(
        id=f"id-{number}",
        at=NOW + number,
        task="classify",
        model="m",
        version="1",
        variant="full",
        content="class:1",
        score=Score(top1=True, top5=True),
        label=1,
        experiment="e",
        revision="r",
        arm="full",
    )
    return replace(given, **changes)


def observation(number: int, **changes) -> Observation:
    given = Observation(f"id-{number}", NOW + number, "e", "r", "full", 0.02, 0.01, agree=True, candidate_class=1)
    return replace(given, **changes)


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    made = Store(tmp_path / "store.sqlite" if request.param == "file" else None)
    yield made
    made.close()


def test_the_first_word_stands(store):
    assert store.add_feedback(record(1)) == "stored"
    assert store.add_feedback(record(1)) == "repeated"
    assert store.add_feedback(record(1, content="class:2", label=2, score=Score(top1=False))) == "conflicting"
    (live,) = store.live()
    assert (live.n, live.top1) == (1, 1)


def test_a_shadow_pair_counts_in_whichever_order_its_halves_come(store):
    store.add_feedback(record(1))
    store.add_observations([observation(1), observation(2, candidate_class=3)])
    store.add_feedback(record(2))
    store.add_feedback(record(3))
    assert store.pairs("e", "r") == {(True, True): 1, (True, False): 1}
    assert store.pairs("e", "another revision") == {}
    assert store.agreement("e", "r") == (2, 2)


@pytest.mark.parametrize("limit", ["age", "count"])
def test_retention_forgets_rows_and_keeps_the_counts_of_pairs(store, limit):
    for number in range(10):
        store.add_observations([observation(number, candidate_class=number % 2)])
        store.add_feedback(record(number))
    before = store.pairs("e", "r")
    assert before == {(True, True): 5, (True, False): 5}
    limits = {"max_age_s": 3.5, "max_rows": 10**9} if limit == "age" else {"max_age_s": 1e9, "max_rows": 4}
    removed = store.prune(**limits, now=NOW + 9)
    assert removed == {limit: 12, ("count" if limit == "age" else "age"): 0}
    rows, _ = store.size()
    assert rows == {"feedback": 4, "observations": 4, "spent": 6 if limit == "count" else 0, "subjects": 0}
    assert store.pairs("e", "r") == before, "the e-value rests on all that was ever seen"
    assert store.prune(**limits, now=NOW + 9) == {"age": 0, "count": 0}
    assert store.pairs("e", "r") == before


@pytest.mark.parametrize("limits", [{"max_age_s": 3.5, "max_rows": 10**9}, {"max_age_s": 1e9, "max_rows": 4}])
def test_retention_keeps_how_often_each_arm_of_a_split_was_right(store, limits):
    for number in range(20):
        right = number % 4 > 0
        store.add_feedback(record(number, arm=("full", "binary")[number % 2], score=Score(top1=right)))
    store.add_feedback(record(20, experiment=None, revision=None, arm=None))
    store.add_feedback(record(21, revision="another"))
    before = store.right("e", "r")
    assert before == {"full": (5, 10, 10), "binary": (10, 10, 10)}
    for now in (NOW + 9, NOW + 21, NOW + 21):
        store.prune(**limits, now=now)
        assert store.right("e", "r") == before, "an interval that may be watched rests on all that was ever seen"
    assert store.size()[0]["feedback"] == 4
    assert store.right("e", "another") == {"full": (1, 1, 1)}


@pytest.mark.parametrize("limits", [{"max_age_s": 30, "max_rows": 10**9}, {"max_age_s": 1e9, "max_rows": 4}])
def test_of_each_subject_the_first_label_counts(store, limits):
    """Twelve labels of three subjects, the first of each right, and two of nobody in particular."""
    for number in range(12):
        store.add_feedback(record(number, subject=f"s{number % 3}", score=Score(top1=number < 3)))
    store.add_feedback(record(12, subject=None, score=Score(top1=False)))
    store.add_feedback(record(13, subject=None))
    assert store.add_feedback(record(0, subject="s0")) == "repeated"
    assert store.right("e", "r") == {"full": (4, 5, 14)}
    store.prune(**limits, now=NOW + 40)
    assert store.size()[0]["feedback"] == 4
    assert store.right("e", "r") == {"full": (4, 5, 14)}, "what is pruned stays as it was counted"
    store.add_feedback(record(14, subject="s1"))
    assert store.right("e", "r") == {"full": (4, 5, 15)}, "a subject is known longer than its label is kept"
    store.add_feedback(record(15, subject="s1", revision="another"))
    assert store.right("e", "another") == {"full": (1, 1, 1)}


def test_what_retention_frees_goes_back_to_the_disk(tmp_path):
    path = tmp_path / "s"
    store = Store(path)
    for number in range(300):
        store.add_feedback(record(number, content="x" * 2000, subject=f"s{number}"))

    def pages():
        store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.stat().st_size // 4096

    assert store.size()[0] == {"feedback": 300, "observations": 0, "spent": 0, "subjects": 300}
    assert pages() > 150
    store.prune(max_age_s=1, max_rows=10, now=NOW + 1000)
    store.shrink()
    assert not any(store.size()[0].values())
    assert pages() < 40
    store.close()


def test_a_subject_is_known_as_long_after_its_last_label_as_feedback_is_kept(store):
    store.add_feedback(record(0, subject="s"))
    store.add_feedback(record(50, subject="s"))
    store.prune(max_age_s=60, max_rows=10**9, now=NOW + 90)
    store.add_feedback(record(90, subject="s"))
    assert store.right("e", "r")["full"].counted == 1
    store.prune(max_age_s=60, max_rows=10**9, now=NOW + 200)
    store.add_feedback(record(200, subject="s"))
    assert store.right("e", "r")["full"].counted == 2


def test_of_depth_maps_of_one_subject_the_first_counts(store):
    for number in range(3):
        score = Score(abs_rel=0.1, delta1=0.9)
        store.add_feedback(record(number, task="depth", label=None, score=score, subject="s"))
    assert [row["counts"] for row in store.depth_scores("e", "r")] == [1, 0, 0]


def test_of_depth_the_next_map_of_a_subject_counts_where_the_first_has_gone(store):
    """Cameras that send a map a day for longer than feedback is kept: one of each counts at any time."""
    score = Score(abs_rel=0.1, delta1=0.9)
    for day in range(12):
        for camera in range(3):
            number = 100 * day + camera
            store.add_feedback(record(number, task="depth", label=None, score=score, subject=f"s{camera}"))
        store.prune(max_age_s=550, max_rows=10**9, now=NOW + 100 * day + 50)
        counts = [row["counts"] for row in store.depth_scores("e", "r")]
        assert len(counts) == 3 * min(day + 1, 6)
        assert sum(counts) == 3
    store.prune(max_age_s=1e9, max_rows=4, now=NOW + 1150)
    assert sum(row["counts"] for row in store.depth_scores("e", "r")) == 3
    store.prune(max_age_s=1e9, max_rows=1, now=NOW + 1150)
    assert [row["counts"] for row in store.depth_scores("e", "r")] == [1]
    store.add_feedback(record(2000, task="depth", label=None, score=score, subject="s0"))
    assert [row["counts"] for row in store.depth_scores("e", "r")] == [1, 1], "of s0 nothing was kept"


def test_a_file_of_an_earlier_version_is_read_and_written_on(tmp_path):
    """Its rows know of no subject, and count each; the earlier version can still write to it."""
    path, now = tmp_path / "store.sqlite", Store(tmp_path / "new.sqlite")
    columns = "id, at, task, model, version, variant, said, top1, label, experiment, revision, arm"
    old = sqlite3.connect(path, isolation_level=None)
    schema = [row[0] for row in now._connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
    for statement in schema:
        if not any(f" {new}" in statement for new in ("subject", "again")):
            old.execute(statement)
    for id_, right in (("a", 1), ("b", 0)):
        row = (id_, 1.0, "classify", "m", "1", "full", "class:1", right, 1, "e", "r", "full")
        old.execute(f"INSERT INTO feedback ({columns}) VALUES ({', '.join('?' * 12)})", row)
    store = Store(path)
    assert store.right("e", "r") == {"full": (1, 2, 2)}
    store.add_feedback(record(1, subject="s"))
    store.add_feedback(record(2, subject="s"))
    marks = ", ".join("?" * 19)
    old.execute(
        f"INSERT INTO feedback VALUES ({marks})", ("c", 2.0, *["x"] * 5, 1, *[None] * 4, "e", "r", "full", *[None] * 4)
    )
    assert store.right("e", "r") == {"full": (3, 4, 5)}
    for each in (store, now, old):
        each.close()


def test_feedback_that_was_pruned_by_count_does_not_count_again(store):
    for number in range(10):
        store.add_feedback(record(number))
    before = store.right("e", "r")
    store.prune(max_age_s=1e9, max_rows=4, now=NOW + 9)
    assert store.add_feedback(record(0)) == "repeated", "its token is valid still"
    assert store.add_feedback(record(0, content="other")) == "conflicting"
    assert store.add_feedback(record(10)) == "stored"
    assert store.right("e", "r")["full"].counted == before["full"].counted + 1
    store.prune(max_age_s=5, max_rows=10**9, now=NOW + 9)
    assert store.add_feedback(record(0)) == "stored", "forgotten with its token, which is checked before"


def test_a_pair_whose_observation_goes_first_stays_a_pair(store):
    store.add_observations([observation(1, at=NOW - 100, candidate_class=3), observation(2, at=NOW - 100)])
    store.add_feedback(record(1))
    store.add_feedback(record(2))
    store.prune(max_age_s=50, max_rows=10**9, now=NOW)
    assert store.size()[0] == {"feedback": 2, "observations": 0, "spent": 0, "subjects": 0}
    assert store.pairs("e", "r") == {(True, False): 1, (True, True): 1}


def test_changes_are_noticed_across_processes(tmp_path):
    one, two = Store(tmp_path / "s"), Store(tmp_path / "s")
    seen = two.changes()
    assert two.changes() == seen
    one.add_feedback(record(1))
    assert two.changes() != seen
    assert two.add_feedback(record(1)) == "repeated"
    one.put_declaration("e", "{}")
    assert two.declarations() == {"e": "{}"}
    one.close()
    two.close()


def _write(path: Path, first: int, count: int) -> None:
    store = Store(path)
    for number in range(first, first + count):
        assert store.add_feedback(record(number)) == "stored"
    store.close()


def test_several_processes_write_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    path = tmp_path / "store.sqlite"
    writers = [context.Process(target=_write, args=(path, 1000 * index, 50)) for index in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(200)  # each imports the service first, which takes its time where other work runs
        assert writer.exitcode == 0
    store = Store(path)
    assert store.size()[0]["feedback"] == 150
    store.close()


def test_it_is_written_ahead_and_synchronously(tmp_path):
    store = Store(tmp_path / "s")
    assert store._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert store._connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL: each commit is on the disk
    store.add_feedback(record(1))
    assert store.size()[1] > 0
    store.close()


def test_a_failed_transaction_leaves_nothing_behind(store):
    with pytest.raises(FeedbackStoreError):
        store.add_observations([observation(1), observation(2, experiment=None)])
    assert not any(store.size()[0].values())
    store.add_observations([observation(1)])
    assert store.size()[0]["observations"] == 1


def _in_a_thread(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(timeout=20)


def test_feedback_does_not_wait_for_what_is_being_read(tmp_path):
    """Summing up 200,000 rows takes a second, and what is read in it is of one moment."""
    store = Store(tmp_path / "s")
    store.add_feedback(record(0))
    with store.snapshot():
        assert store.right("e", "r")["full"].labelled == 1
        assert _in_a_thread(lambda: store.add_feedback(record(1))) == "stored"
        _in_a_thread(lambda: store.prune(max_age_s=1e9, max_rows=1, now=NOW))
        assert store.right("e", "r")["full"].labelled == 1
        assert store.size()[0]["feedback"] == 1
    assert store.right("e", "r")["full"].labelled == 2
    store.close()


def test_figures_are_the_same_while_retention_makes_rows_into_counts(store):
    for number in range(40):
        store.add_feedback(record(number, other=Score(top1=False), subject=f"s{number % 4}"))
    with ThreadPoolExecutor(1) as pool:
        pruning = pool.submit(lambda: [store.prune(max_age_s=1e9, max_rows=n, now=NOW) for n in range(39, 0, -1)])
        while not pruning.done():
            assert store.pairs("e", "r") == {(True, False): 40}
            assert store.right("e", "r") == {"full": (4, 4, 40)}
        pruning.result()


def test_what_reads_cannot_write(tmp_path):
    store = Store(tmp_path / "s")
    with pytest.raises(FeedbackStoreError, match="readonly"):
        store._rows("DELETE FROM feedback")
    store.close()


def test_pruning_reads_no_more_than_it_removes(store):
    """It runs each minute while feedback waits: the statements of a retention by age must take its index."""
    statements: list[str] = []
    store._connection.set_trace_callback(statements.append)
    store.add_feedback(record(1, subject="s"))
    store.add_feedback(record(2, subject="d", task="depth", label=None, score=Score(abs_rel=0.1, delta1=0.9)))
    store.prune(max_age_s=1, max_rows=10, now=NOW + 100)
    store._connection.set_trace_callback(None)
    by_age = ("INSERT INTO tally", "INSERT INTO arm", "INSERT INTO again_t", "SELECT s.experiment")
    by_subject = ("SELECT id FROM again",)
    for begins, index in ((by_age, "_at (at<?)"), (by_subject, "again_subject (experiment=? AND revision=? AND subj")):
        read = [text.strip() for text in statements if text.strip().startswith(begins)]
        assert len(read) == len(begins)
        for text in read:
            plan = [row[3] for row in store._connection.execute(f"EXPLAIN QUERY PLAN {text}")]
            assert any(index in step for step in plan), plan
            assert not any(step.startswith("SCAN") and "CONSTANT" not in step for step in plan), plan


@pytest.mark.parametrize("content", [b"this is no database, whatever its name says" * 100])
def test_what_is_no_store_is_told(tmp_path, content):
    path = tmp_path / "store.sqlite"
    path.write_bytes(content)
    with pytest.raises(FeedbackStoreError, match="not a database"):
        Store(path)
    with pytest.raises(FeedbackStoreError, match="cannot be opened"):
        Store(tmp_path / "missing" / "store.sqlite")


@pytest.mark.parametrize("replaced", [False, True])
def test_what_would_be_written_to_a_removed_file_is_not_acknowledged(tmp_path, replaced):
    """The file is still open, so that SQLite writes to it, and its content is gone when the process ends."""
    path = tmp_path / "store.sqlite"
    store = Store(path)
    store.add_feedback(record(1))
    path.rename(tmp_path / "moved")
    if replaced:
        path.write_bytes((tmp_path / "moved").read_bytes())
    with pytest.raises(FeedbackStoreError, match="removed or replaced"):
        store.add_feedback(record(2))
    path.unlink(missing_ok=True)
    (tmp_path / "moved").rename(path)
    assert store.add_feedback(record(2)) == "stored"
    store.close()


def test_a_lock_that_another_process_holds_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("service.experiments.store._BUSY_S", 0.05)
    store = Store(tmp_path / "s")
    other = sqlite3.connect(tmp_path / "s", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    with pytest.raises(FeedbackStoreError, match="locked"):
        store.add_feedback(record(1))
    assert time.monotonic() - begun < 5
    other.execute("ROLLBACK")
    assert store.add_feedback(record(1)) == "stored"
    other.close()
    store.close()
