"""The tables and queries of the store, and its write transactions."""

# ruff: noqa: S608 - statements are composed from constants of this package

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import FeedbackStoreError

#: `subject` contains the subjects with a counted label in a split, and the id of that feedback (`first`). `again`
#: contains further feedback of these subjects, which is also in `feedback`. Both are separate tables, not columns, so
#: that older versions of the service, which do not know them, can still use the file. For the same reason, the
#: column of `FeedbackRecord.content` is still called `said`.
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
    """Returns a query of labelled pairs: whether each arm was right on an image with a known class.

    In `shadow`, the candidate runs after the answer, so its class is in the observation, not in the token.

    Args:
        source: The table of feedback with the alias `f`, and optionally an index to override the query planner.
    """
    return f"""
        SELECT f.experiment AS experiment, f.revision AS revision, f.at AS at, f.id AS id, f.top1 AS baseline,
               COALESCE(f.other_top1, o.candidate_class = f.label) AS candidate
        FROM {source} LEFT JOIN observation o ON o.id = f.id
        WHERE f.experiment IS NOT NULL AND f.top1 IS NOT NULL
          AND (f.other_top1 IS NOT NULL OR o.candidate_class IS NOT NULL)
    """


def judged(source: str) -> str:
    """Returns the end of a query that counts an experiment's classifications: those that were right, and all.

    Args:
        source: `feedback`, or `again` for further feedback of a counted subject; may name an index.
    """
    return f"sum(top1) AS top1, count(top1) AS n FROM {source} WHERE experiment IS NOT NULL AND top1 IS NOT NULL"


# Depth scores are not kept as counts when their rows are removed. Only the first stored map of each subject counts,
# and when it is removed, the next one takes its place.
#: Subjects whose counted map is about to be removed.
LOSING_THEIR_MAP = """
    SELECT s.experiment, s.revision, s.subject
    FROM feedback AS f INDEXED BY feedback_at JOIN subject AS s ON s.first = f.id WHERE f.at < ? AND f.task = 'depth'
"""
#: The next stored map of one of these subjects.
NEXT_MAP = """
    SELECT id FROM again WHERE experiment = ? AND revision = ? AND subject = ? AND top1 IS NULL ORDER BY at, id LIMIT 1
"""


@contextmanager
def transaction(connection: sqlite3.Connection, lock: threading.RLock) -> Iterator[sqlite3.Connection]:
    """Runs a write transaction. It takes the file's write lock at the start, so that it cannot fail halfway for it.

    Raises:
        FeedbackStoreError: The transaction failed, and nothing was written.
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
