"""The tables of the store, and a write to them from begin to commit."""

# ruff: noqa: S608 - statements are put together from constants of this package

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import FeedbackStoreError

#: `subject`: whose label was counted in a split, and which (`first`). `again`: feedback of a subject that was counted
#: before, which is in `feedback` as well. Both are tables of their own and no columns, so that a file can be shared
#: with, and given back to, a version of the service that does not know them.
SCHEMA = """
CREATE TABLE IF NOT EXISTS feedback (
    id TEXT PRIMARY KEY, at REAL NOT NULL, task TEXT NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL,
    variant TEXT NOT NULL, said TEXT NOT NULL, top1 INTEGER, top5 INTEGER, abs_rel REAL, delta1 REAL, label INTEGER,
    experiment TEXT, revision TEXT, arm TEXT,
    other_top1 INTEGER, other_top5 INTEGER, other_abs_rel REAL, other_delta1 REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS feedback_at ON feedback (at);
CREATE INDEX IF NOT EXISTS feedback_experiment ON feedback (experiment, revision);
CREATE TABLE IF NOT EXISTS spent (id TEXT PRIMARY KEY, at REAL NOT NULL, said TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS spent_at ON spent (at);
CREATE TABLE IF NOT EXISTS observation (
    id TEXT PRIMARY KEY, at REAL NOT NULL, experiment TEXT NOT NULL, revision TEXT NOT NULL, arm TEXT NOT NULL,
    baseline_s REAL, candidate_s REAL, agree INTEGER, within REAL, abs_rel REAL, candidate_class INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS observation_at ON observation (at);
CREATE INDEX IF NOT EXISTS observation_experiment ON observation (experiment, revision, at);
CREATE TABLE IF NOT EXISTS declaration (name TEXT PRIMARY KEY, document TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tally (
    experiment TEXT NOT NULL, revision TEXT NOT NULL, baseline INTEGER NOT NULL, candidate INTEGER NOT NULL,
    pairs INTEGER NOT NULL, PRIMARY KEY (experiment, revision, baseline, candidate)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS arm_tally (
    experiment TEXT NOT NULL, revision TEXT NOT NULL, arm TEXT NOT NULL, top1 INTEGER NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (experiment, revision, arm)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS subject (
    experiment TEXT NOT NULL, revision TEXT NOT NULL, subject TEXT NOT NULL, at REAL NOT NULL, first TEXT NOT NULL,
    PRIMARY KEY (experiment, revision, subject)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS subject_at ON subject (at);
CREATE INDEX IF NOT EXISTS subject_first ON subject (first);
CREATE TABLE IF NOT EXISTS again (
    id TEXT PRIMARY KEY, at REAL NOT NULL, experiment TEXT NOT NULL, revision TEXT NOT NULL, arm TEXT NOT NULL,
    top1 INTEGER, subject TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS again_at ON again (at);
CREATE INDEX IF NOT EXISTS again_subject ON again (experiment, revision, subject, at, id) WHERE top1 IS NULL;
CREATE INDEX IF NOT EXISTS again_experiment ON again (experiment, revision);
CREATE TABLE IF NOT EXISTS again_tally (
    experiment TEXT NOT NULL, revision TEXT NOT NULL, arm TEXT NOT NULL, top1 INTEGER NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (experiment, revision, arm)
) WITHOUT ROWID;
"""


def labelled_pairs(source: str = "feedback f") -> str:
    """A query of labelled pairs: what both arms said of an image whose class is known.

    In `shadow` the candidate ran after the answer, so its class is in the observation and not in the token.

    Args:
        source: The table of feedback, called `f`; with an index for a query that the planner would give another.
    """
    return f"""
        SELECT f.experiment AS experiment, f.revision AS revision, f.at AS at, f.id AS id, f.top1 AS baseline,
               COALESCE(f.other_top1, o.candidate_class = f.label) AS candidate
        FROM {source} LEFT JOIN observation o ON o.id = f.id
        WHERE f.experiment IS NOT NULL AND f.top1 IS NOT NULL
          AND (f.other_top1 IS NOT NULL OR o.candidate_class IS NOT NULL)
    """


def judged(source: str) -> str:
    """The end of a query of classifications in an experiment: how many were right, and how many there are.

    Args:
        source: `feedback`, or `again` for those whose subject was counted before; see `labelled_pairs`.
    """
    return f"sum(top1) AS top1, count(top1) AS n FROM {source} WHERE experiment IS NOT NULL AND top1 IS NOT NULL"


# Of depth no sums outlive the maps: of each subject the first map that is kept counts, and where that goes the next one
# takes its place.
#: Subjects whose map that counts is about to go.
BEREAVED = """
    SELECT s.experiment, s.revision, s.subject
    FROM feedback AS f INDEXED BY feedback_at JOIN subject AS s ON s.first = f.id WHERE f.at < ? AND f.task = 'depth'
"""
#: The next map of one of them.
HEIR = """
    SELECT id FROM again WHERE experiment = ? AND revision = ? AND subject = ? AND top1 IS NULL ORDER BY at, id LIMIT 1
"""


@contextmanager
def transaction(connection: sqlite3.Connection, lock: threading.RLock) -> Iterator[sqlite3.Connection]:
    """A write from begin to commit. Takes the file's lock at once: it cannot fail half-way for another's.

    Raises:
        FeedbackStoreError: It failed, and nothing was written.
    """
    with lock:
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise FeedbackStoreError(f"The feedback store cannot be written: {error}.") from error
