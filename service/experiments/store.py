"""The store of feedback and observations: an SQLite file on a volume, or in memory.

It uses write-ahead logging with full synchronisation. Acknowledged data are on disk and survive a SIGKILL, and several
processes on one machine may share the file. It never contains images. Feedback is written before it is acknowledged.
The recorder writes observations in batches, which may be lost. A file is read through a separate connection, so that
feedback does not wait for a long query.
"""

# ruff: noqa: S608 - statements are composed from constants of this module; values are always bound

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Literal

from service.errors import FeedbackStoreError
from service.experiments.observation import FeedbackRecord, Judged, Live, Observation, Score
from service.experiments.tables import LOSING_THEIR_MAP, NEXT_MAP, SCHEMA, judged, labelled_pairs, transaction

Stored = Literal["stored", "repeated", "conflicting"]

_BUSY_S = 5.0  # how long a process waits for another process's write
_PAGES = 2000  # maximum number of 4 kB pages that one call of `shrink` frees
_OBSERVATION = tuple(field.name for field in fields(Observation))


class Store:
    """The store; see the module's docstring. All methods are thread-safe and block: call them off the event loop.

    A store in memory has only one connection, so feedback waits while another method reads.

    Args:
        path: The file, created if missing; None keeps everything in memory until the process ends.

    Raises:
        FeedbackStoreError: The file cannot be opened or written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            self._connection = _connect(path)
            # Only has an effect on a new, empty file; files created without it never shrink.
            self._connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(SCHEMA)
            # An in-memory database is only visible to its own connection.
            self._reader, self._reading = self._connection, self._lock
            self._file = _identity(path)
            if path is not None:
                self._reader, self._reading = _connect(path), threading.RLock()
                self._reader.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise FeedbackStoreError(f"The feedback store {path} cannot be opened: {error}.") from error

    def close(self) -> None:
        """Closes the connections."""
        with self._reading, self._lock:
            self._reader.close()
            self._connection.close()

    # ---- writing ---------------------------------------------------------------------------------------------------

    def add_feedback(self, record: FeedbackRecord) -> Stored:
        """Stores a client's feedback durably. The first feedback on an answer is kept; later ones are only compared.

        Raises:
            FeedbackStoreError: The feedback could not be written, so it must not be acknowledged.
        """
        other = record.other or Score()
        row = (
            *(record.id, record.at, record.task, record.model, record.version, record.variant),
            *(record.content, *astuple(record.score), record.label),
            *(record.experiment, record.revision, record.arm, *astuple(other)),
        )
        with self._transaction() as connection:
            known = connection.execute(
                "SELECT said FROM feedback WHERE id = ?1 UNION ALL SELECT said FROM spent WHERE id = ?1",
                (record.id,),
            ).fetchone()
            if known is None:
                connection.execute(f"INSERT INTO feedback VALUES ({_marks(row)})", row)
                if record.subject is not None:
                    self._count_subject(connection, record)
                return "stored"
        return "repeated" if known["said"] == record.content else "conflicting"

    @staticmethod
    def _count_subject(connection: sqlite3.Connection, record: FeedbackRecord) -> None:
        """Records a subject's label; if the subject already has one that counts, the new one is marked as `again`."""
        key = record.experiment, record.revision, record.subject
        top1 = record.score.top1
        known = connection.execute(
            "SELECT first FROM subject WHERE (experiment, revision, subject) = (?, ?, ?)", key
        ).fetchone()
        if known is not None and top1 is None:  # for depth, only rows that are still stored count: see `NEXT_MAP`
            known = connection.execute("SELECT id AS first FROM feedback WHERE id = ?", (known["first"],)).fetchone()
        first = record.id if known is None else known["first"]
        connection.execute("INSERT OR REPLACE INTO subject VALUES (?, ?, ?, ?, ?)", (*key, record.at, first))
        if known is not None:
            row = record.id, record.at, *key[:2], record.arm, top1, key[2]
            connection.execute(f"INSERT INTO again VALUES ({_marks(row)})", row)

    def add_observations(self, observations: Iterable[Observation]) -> None:
        """Stores observations of experiments.

        Raises:
            FeedbackStoreError: The observations could not be written; none were.
        """
        rows = [astuple(observation) for observation in observations]
        if rows:
            with self._transaction() as connection:
                connection.executemany(f"INSERT OR REPLACE INTO observation VALUES ({_marks(_OBSERVATION)})", rows)

    def put_declaration(self, name: str, document: str | None) -> None:
        """Stores an administrator's declaration as JSON, which overrides the file's; None if it was removed."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO declaration VALUES (?, ?)", (name, document))

    def prune(self, *, max_age_s: float, max_rows: int, now: float | None = None) -> dict[Literal["age", "count"], int]:
        """Removes rows that are too old, then the oldest rows beyond `max_rows`, from both tables.

        Labels of experiments are kept as counts: the e-value and the anytime-valid intervals use all labels ever
        received, and dropping some would break their guarantee. The ids of feedback that is removed before its token
        expires are kept in `spent`, so that it does not count again if it is sent again.

        Returns:
            Number of removed rows by reason.
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
                    losing = connection.execute(LOSING_THEIR_MAP, (before,)).fetchall() if table == "feedback" else []
                    removed[reason] += connection.execute(f"DELETE FROM {table} WHERE at < ?", (before,)).rowcount
                    if table == "feedback":
                        connection.execute("DELETE FROM again WHERE at < ?", (before,))
                    for subject in losing:
                        self._count_next_map(connection, tuple(subject))
            # Feedback older than this has no valid token: tokens are issued earlier, and expire at the same age.
            connection.execute("DELETE FROM spent WHERE at < ?", (oldest,))
            connection.execute("DELETE FROM subject WHERE at < ?", (oldest,))
        return removed

    @staticmethod
    def _count_next_map(connection: sqlite3.Connection, subject: tuple[str, ...]) -> None:
        following = connection.execute(NEXT_MAP, subject).fetchone()
        if following is not None:
            connection.execute(
                "UPDATE subject SET first = ? WHERE (experiment, revision, subject) = (?, ?, ?)",
                (following["id"], *subject),
            )
            connection.execute("DELETE FROM again WHERE id = ?", (following["id"],))

    def shrink(self) -> None:
        """Returns space freed by retention to the disk, in small portions so that feedback hardly waits.

        Raises:
            FeedbackStoreError: The space could not be returned.
        """
        with self._lock:
            try:
                # Each step of this statement frees one page, and `execute` would only make one step without rows.
                self._connection.executescript(f"PRAGMA incremental_vacuum({_PAGES})")
            except sqlite3.Error as error:
                raise FeedbackStoreError(f"The feedback store cannot be written: {error}.") from error

    @staticmethod
    def _remember_counts(connection: sqlite3.Connection, table: str, before: float) -> None:
        """Saves the counts of labelled pairs, and of each arm's labels, before rows are removed.

        A pair whose feedback is removed becomes a count. If its observation is removed first, the pair is kept: the
        candidate's score is copied to the feedback.
        """
        if table == "feedback":
            # Force the index by age: with the planner's choice, the whole table would be read while feedback waits.
            pairs = labelled_pairs("feedback AS f INDEXED BY feedback_at")
            connection.execute(
                f"INSERT INTO tally SELECT experiment, revision, baseline, candidate, count(*) FROM ({pairs}) "
                "WHERE at < ? GROUP BY experiment, revision, baseline, candidate "
                "ON CONFLICT DO UPDATE SET pairs = pairs + excluded.pairs",
                (before,),
            )
            for tally, source in (("arm_tally", "feedback"), ("again_tally", "again")):
                counts = judged(f"{source} INDEXED BY {source}_at")
                connection.execute(
                    f"INSERT INTO {tally} SELECT experiment, revision, arm, {counts} AND at < ? "
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

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Makes all reads of a file inside the block see the same state; in memory, only those of one method do.

        Raises:
            FeedbackStoreError: The store cannot be read.
        """
        if self._reader is self._connection:
            yield
            return
        with self._reading:
            outermost = not self._reader.in_transaction
            if outermost:
                self._rows("BEGIN")
            try:
                yield
            finally:
                if outermost and self._reader.in_transaction:
                    self._rows("COMMIT")

    def changes(self) -> tuple[int, int]:
        """Returns a value that changes when this or another process writes to the store."""
        with self._reading:
            ((version,),) = self._rows("PRAGMA data_version")
            return version, self._reader.total_changes

    def declarations(self) -> dict[str, str | None]:
        """Returns the administrator's declarations as JSON by name; None for removed ones."""
        return {row["name"]: row["document"] for row in self._rows("SELECT name, document FROM declaration")}

    def observations(self, experiment: str, revision: str, limit: int) -> list[sqlite3.Row]:
        """Returns the newest observations of an experiment, newest first."""
        return self._rows(
            "SELECT * FROM observation WHERE experiment = ? AND revision = ? ORDER BY at DESC LIMIT ?",
            (experiment, revision, limit),
        )

    def answered(self, experiment: str, revision: str) -> dict[str, int]:
        """Counts the stored images that each arm answered."""
        rows = self._rows(
            "SELECT arm, count(*) AS n FROM observation WHERE experiment = ? AND revision = ? GROUP BY arm",
            (experiment, revision),
        )
        return {row["arm"]: int(row["n"]) for row in rows}

    def agreement(self, experiment: str, revision: str) -> tuple[int, int]:
        """Counts the stored pairs, and those of them that agree."""
        (row,) = self._rows(
            "SELECT count(agree), COALESCE(sum(agree), 0) FROM observation WHERE experiment = ? AND revision = ?",
            (experiment, revision),
        )
        return int(row[0]), int(row[1])

    def pairs(self, experiment: str, revision: str) -> dict[tuple[bool, bool], int]:
        """Counts all labelled pairs ever stored, by whether the baseline and the candidate were right."""
        counts: dict[tuple[bool, bool], int] = {}
        with self._reading, self.snapshot():  # retention turns rows into counts; none must be counted twice
            for source in (
                f"SELECT baseline, candidate, 1 AS pairs, experiment, revision FROM ({labelled_pairs()})",
                "SELECT * FROM tally",
            ):
                for row in self._rows(
                    f"SELECT baseline, candidate, sum(pairs) AS n FROM ({source}) WHERE experiment = ? "
                    "AND revision = ? GROUP BY baseline, candidate",
                    (experiment, revision),
                ):
                    key = bool(row["baseline"]), bool(row["candidate"])
                    counts[key] = counts.get(key, 0) + int(row["n"])
        return counts

    def right(self, experiment: str, revision: str) -> dict[str, Judged]:
        """Counts all classifications with feedback ever stored, by arm."""
        of = "experiment = ?1 AND revision = ?2"
        counts: dict[str, Judged] = {}
        with self._reading, self.snapshot():  # retention turns rows into counts; none must be counted twice
            for source, tally, sign in (("feedback", "arm_tally", 1), ("again", "again_tally", -1)):
                for row in self._rows(
                    f"SELECT arm, sum(top1) AS top1, sum(n) AS n FROM (SELECT arm, {judged(source)} AND {of} "
                    f"GROUP BY arm UNION ALL SELECT arm, top1, n FROM {tally} WHERE {of}) GROUP BY arm",
                    (experiment, revision),
                ):
                    right, counted, labelled = counts.get(row["arm"], Judged(0, 0, 0))
                    counts[row["arm"]] = Judged(
                        right + sign * row["top1"], counted + sign * row["n"], labelled + (row["n"] if sign > 0 else 0)
                    )
        return counts

    def depth_scores(self, experiment: str, revision: str) -> list[sqlite3.Row]:
        """Returns the scores of depth maps: the arm, `delta1` and `abs_rel` of it and of the other arm, and `counts`.

        `counts` is 0 if an earlier map of the same subject is stored, in a split.
        """
        return self._rows(
            "SELECT arm, delta1, abs_rel, other_delta1, other_abs_rel, id NOT IN (SELECT id FROM again) AS counts "
            "FROM feedback WHERE experiment = ? AND revision = ? AND delta1 IS NOT NULL ORDER BY at, id",
            (experiment, revision),
        )

    def live(self) -> list[Live]:
        """Returns the feedback by variant."""
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
                "AND abs_rel IS NOT NULL ORDER BY at, id",
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
        """Returns the number of rows by table, and the size on disk in bytes (0 in memory)."""
        rows = {
            "feedback": int(self._rows("SELECT count(*) FROM feedback")[0][0]),
            "observations": int(self._rows("SELECT count(*) FROM observation")[0][0]),
            "spent": int(self._rows("SELECT count(*) FROM spent")[0][0]),
            "subjects": int(self._rows("SELECT count(*) FROM subject")[0][0]),
        }
        files = [] if self.path is None else [self.path.with_name(self.path.name + end) for end in ("", "-wal", "-shm")]
        return rows, sum(file.stat().st_size for file in files if file.exists())

    # ---- SQLite ----------------------------------------------------------------------------------------------------

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        try:
            with self._reading, closing(self._reader.execute(query, values)) as cursor:
                return cursor.fetchall()
        except sqlite3.Error as error:
            raise FeedbackStoreError(f"The feedback store cannot be read: {error}.") from error

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        if _identity(self.path) != self._file:  # SQLite would write to what is gone when the process ends
            raise FeedbackStoreError(
                f"The feedback store {self.path} was removed or replaced: put the file back, or restart the service."
            )
        return transaction(self._connection, self._lock)


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Device and inode of a file; None if there is none."""
    try:
        status = None if path is None else path.stat()
    except OSError:
        return None
    return None if status is None else (status.st_dev, status.st_ino)


def _connect(path: Path | None) -> sqlite3.Connection:
    made = sqlite3.connect(
        ":memory:" if path is None else path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None
    )
    made.row_factory = sqlite3.Row
    return made


def _marks(row: Sequence[object]) -> str:
    return ", ".join("?" * len(row))
