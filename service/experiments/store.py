"""The store of feedback and observations: one SQLite file on a volume, or memory.

In write-ahead mode with full synchronisation: what was acknowledged is on the disk and outlives a SIGKILL, and several
processes on one machine may share the file. Images are never in it. Observations of experiments are written in batches
by the recorder, without a promise; feedback one by one, before it is acknowledged.
"""

# ruff: noqa: S608 - statements are put together from constants of this module; values are always bound

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from service.errors import FeedbackStoreError
from service.experiments.observation import Judgement, Observation, Score

Outcome = Literal["stored", "repeated", "conflicting"]

_BUSY_S = 5.0  # how long a process waits for another one's write
_OBSERVATION = tuple(field.name for field in fields(Observation))

_SCHEMA = """
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
"""

# Labelled pairs: what both arms said of an image whose class is known. In `shadow` the candidate ran after the answer,
# so its class is in the observation and not in the token.
_PAIRS = """
    SELECT f.experiment AS experiment, f.revision AS revision, f.at AS at, f.id AS id, f.top1 AS baseline,
           COALESCE(f.other_top1, o.candidate_class = f.label) AS candidate
    FROM feedback f LEFT JOIN observation o ON o.id = f.id
    WHERE f.experiment IS NOT NULL AND f.top1 IS NOT NULL
      AND (f.other_top1 IS NOT NULL OR o.candidate_class IS NOT NULL)
"""


# Classifications that were judged, as part of an experiment: how many were right, and how many there are.
_JUDGED = "sum(top1) AS top1, count(top1) AS n FROM feedback WHERE experiment IS NOT NULL AND top1 IS NOT NULL"


class Live(NamedTuple):
    """Feedback on one variant of a model: counts for classification, errors image by image for depth."""

    task: str
    model: str
    version: str
    variant: str
    n: int
    top1: int
    top5: int
    abs_rel: list[float]
    delta1: list[float]


class Store:
    """See the module's text. Every method may be called from any thread, and blocks: call it off the event loop.

    Args:
        path: The file, made where it is missing; None keeps everything in memory, for this process's life.

    Raises:
        FeedbackStoreError: The file cannot be opened or written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(
                ":memory:" if path is None else path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None
            )
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise FeedbackStoreError(f"The feedback store {path} cannot be opened: {error}.") from error

    def close(self) -> None:
        """Closes the file; what was written is in it."""
        with self._lock:
            self._connection.close()

    # ---- writing ---------------------------------------------------------------------------------------------------

    def add_feedback(self, judgement: Judgement) -> Outcome:
        """Keeps a client's feedback; it is on the disk when this returns. The first word on an answer stands.

        Raises:
            FeedbackStoreError: It could not be written, so it must not be acknowledged.
        """
        other = judgement.other or Score()
        row = (
            *(judgement.id, judgement.at, judgement.task, judgement.model, judgement.version, judgement.variant),
            *(judgement.said, *astuple(judgement.score), judgement.label),
            *(judgement.experiment, judgement.revision, judgement.arm, *astuple(other)),
        )
        with self._transaction() as connection:
            known = connection.execute(
                "SELECT said FROM feedback WHERE id = ?1 UNION ALL SELECT said FROM spent WHERE id = ?1",
                (judgement.id,),
            ).fetchone()
            if known is None:
                connection.execute(f"INSERT INTO feedback VALUES ({_marks(row)})", row)
                return "stored"
        return "repeated" if known["said"] == judgement.said else "conflicting"

    def add_observations(self, observations: Iterable[Observation]) -> None:
        """Keeps what experiments saw.

        Raises:
            FeedbackStoreError: None of it could be written.
        """
        rows = [astuple(observation) for observation in observations]
        if rows:
            with self._transaction() as connection:
                connection.executemany(f"INSERT OR REPLACE INTO observation VALUES ({_marks(_OBSERVATION)})", rows)

    def put_declaration(self, name: str, document: str | None) -> None:
        """Keeps an administrator's declaration, as JSON, over that of the file; None for one that was removed."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO declaration VALUES (?, ?)", (name, document))

    def prune(self, *, max_age_s: float, max_rows: int, now: float | None = None) -> dict[Literal["age", "count"], int]:
        """Removes what is too old, then the oldest of what is too much, in either table.

        What it says about experiments is remembered as counts: the e-value, and intervals that may be watched, rest on
        all that was ever seen, and forgetting a part of it would break their guarantee. Feedback that goes before its
        token expires is remembered as given, so that it does not count again when it is sent again.

        Returns:
            Rows removed, by reason.
        """
        removed: dict[Literal["age", "count"], int] = {"age": 0, "count": 0}
        oldest = (time.time() if now is None else now) - max_age_s
        with self._transaction() as connection:
            for table in ("feedback", "observation"):
                (kept,) = connection.execute(f"SELECT count(*) FROM {table} WHERE at >= ?", (oldest,)).fetchone()
                limits: list[tuple[Literal["age", "count"], float]] = [("age", oldest)]
                if kept > max_rows:
                    (cut,) = connection.execute(
                        f"SELECT at FROM {table} ORDER BY at DESC LIMIT 1 OFFSET ?", (max_rows - 1,)
                    ).fetchone()
                    limits.append(("count", cut))
                for reason, before in limits:
                    self._remember_counts(connection, table, before)
                    if table == "feedback" and reason == "count":
                        connection.execute(
                            "INSERT OR IGNORE INTO spent SELECT id, at, said FROM feedback WHERE at < ?", (before,)
                        )
                    removed[reason] += connection.execute(f"DELETE FROM {table} WHERE at < ?", (before,)).rowcount
            # a token is issued before its feedback is given, and lives as long as feedback is kept
            connection.execute("DELETE FROM spent WHERE at < ?", (oldest,))
        return removed

    @staticmethod
    def _remember_counts(connection: sqlite3.Connection, table: str, before: float) -> None:
        """Keeps what rows that are about to go say about labelled pairs, and about each arm.

        A pair whose feedback goes becomes a count. One whose observation goes first stays a pair: what the candidate
        said is moved to the feedback.
        """
        if table == "feedback":
            connection.execute(
                f"INSERT INTO tally SELECT experiment, revision, baseline, candidate, count(*) FROM ({_PAIRS}) "
                "WHERE at < ? GROUP BY experiment, revision, baseline, candidate "
                "ON CONFLICT DO UPDATE SET pairs = pairs + excluded.pairs",
                (before,),
            )
            connection.execute(
                f"INSERT INTO arm_tally SELECT experiment, revision, arm, {_JUDGED} AND at < ? "
                "GROUP BY experiment, revision, arm "
                "ON CONFLICT DO UPDATE SET top1 = top1 + excluded.top1, n = n + excluded.n",
                (before,),
            )
        else:
            connection.execute(
                "UPDATE feedback SET other_top1 = o.candidate_class = feedback.label FROM observation o "
                "WHERE o.id = feedback.id AND o.at < ? AND o.candidate_class IS NOT NULL AND other_top1 IS NULL "
                "AND feedback.label IS NOT NULL",
                (before,),
            )

    # ---- reading ---------------------------------------------------------------------------------------------------

    def changes(self) -> tuple[int, int]:
        """Differs from its last value when anything was written, by this process or another one."""
        with self._lock:
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            return version, self._connection.total_changes

    def declarations(self) -> dict[str, str | None]:
        """The administrator's declarations, as JSON by name; None for those removed."""
        return {row["name"]: row["document"] for row in self._rows("SELECT name, document FROM declaration")}

    def observations(self, experiment: str, revision: str, limit: int) -> list[sqlite3.Row]:
        """The newest observations of an experiment."""
        return self._rows(
            "SELECT * FROM observation WHERE experiment = ? AND revision = ? ORDER BY at DESC LIMIT ?",
            (experiment, revision, limit),
        )

    def answered(self, experiment: str, revision: str) -> dict[str, int]:
        """Images that each arm answered, as far as they are kept."""
        rows = self._rows(
            "SELECT arm, count(*) AS n FROM observation WHERE experiment = ? AND revision = ? GROUP BY arm",
            (experiment, revision),
        )
        return {row["arm"]: int(row["n"]) for row in rows}

    def agreement(self, experiment: str, revision: str) -> tuple[int, int]:
        """Pairs that are kept, and those of them that agree."""
        (row,) = self._rows(
            "SELECT count(agree), COALESCE(sum(agree), 0) FROM observation WHERE experiment = ? AND revision = ?",
            (experiment, revision),
        )
        return int(row[0]), int(row[1])

    def pairs(self, experiment: str, revision: str) -> dict[tuple[bool, bool], int]:
        """Labelled pairs ever seen, by whether the baseline and the candidate were right."""
        counts: dict[tuple[bool, bool], int] = {}
        for source in (
            f"SELECT baseline, candidate, 1 AS pairs, experiment, revision FROM ({_PAIRS})",
            "SELECT * FROM tally",
        ):
            for row in self._rows(
                f"SELECT baseline, candidate, sum(pairs) AS n FROM ({source}) WHERE experiment = ? AND revision = ? "
                "GROUP BY baseline, candidate",
                (experiment, revision),
            ):
                key = bool(row["baseline"]), bool(row["candidate"])
                counts[key] = counts.get(key, 0) + int(row["n"])
        return counts

    def right(self, experiment: str, revision: str) -> dict[str, tuple[int, int]]:
        """Classifications ever judged, by the arm that gave them: how many were right, and how many there are."""
        rows = self._rows(
            f"SELECT arm, sum(top1) AS top1, sum(n) AS n FROM (SELECT arm, {_JUDGED} AND experiment = ?1 "
            "AND revision = ?2 GROUP BY arm UNION ALL "
            "SELECT arm, top1, n FROM arm_tally WHERE experiment = ?1 AND revision = ?2) GROUP BY arm",
            (experiment, revision),
        )
        return {row["arm"]: (int(row["top1"]), int(row["n"])) for row in rows}

    def depth_scores(self, experiment: str, revision: str) -> list[sqlite3.Row]:
        """Depth maps that were judged: arm, `delta1` and `abs_rel`, and those of the arm that ran beside it."""
        return self._rows(
            "SELECT arm, delta1, abs_rel, other_delta1, other_abs_rel FROM feedback WHERE experiment = ? "
            "AND revision = ? AND delta1 IS NOT NULL",
            (experiment, revision),
        )

    def live(self) -> list[Live]:
        """Feedback by variant."""
        groups = "task, model, version, variant"
        counts = self._rows(
            f"SELECT {groups}, count(*) AS n, COALESCE(sum(top1), 0) AS top1, COALESCE(sum(top5), 0) AS top5 "
            f"FROM feedback GROUP BY {groups}"
        )
        found = []
        for row in counts:
            target = row["task"], row["model"], row["version"], row["variant"]
            errors = self._rows(
                "SELECT abs_rel, delta1 FROM feedback WHERE (task, model, version, variant) = (?, ?, ?, ?) "
                "AND abs_rel IS NOT NULL",
                target,
            )
            found.append(
                Live(
                    *target,
                    n=row["n"],
                    top1=row["top1"],
                    top5=row["top5"],
                    abs_rel=[each["abs_rel"] for each in errors],
                    delta1=[each["delta1"] for each in errors],
                )
            )
        return found

    def size(self) -> tuple[dict[str, int], int]:
        """Rows by table, and bytes on disk (0 in memory)."""
        rows = {
            "feedback": int(self._rows("SELECT count(*) FROM feedback")[0][0]),
            "observations": int(self._rows("SELECT count(*) FROM observation")[0][0]),
        }
        files = [] if self.path is None else [self.path.with_name(self.path.name + end) for end in ("", "-wal", "-shm")]
        return rows, sum(file.stat().st_size for file in files if file.exists())

    # ---- SQLite ----------------------------------------------------------------------------------------------------

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        try:
            with self._lock, closing(self._connection.execute(query, values)) as cursor:
                return cursor.fetchall()
        except sqlite3.Error as error:
            raise FeedbackStoreError(f"The feedback store cannot be read: {error}.") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A write from begin to commit. Takes the file's lock at once: it cannot fail half-way for another's."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise FeedbackStoreError(f"The feedback store cannot be written: {error}.") from error


def _marks(row: Sequence[object]) -> str:
    return ", ".join("?" * len(row))
