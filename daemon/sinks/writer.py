"""Step 4 of 6 in the life of a tick: the writer takes records out of every ring and commits them in batches.

Before: `native_pipeline/ring.pyx`. Next: `native_pipeline/copy_encoder.pyx`, which turns them into rows, and
`database.py`, which stores rows and ring cursors in one transaction. Only then is the rings' space given back, so
that whatever happens to this process or to the database, nothing is lost and nothing is stored twice.

The database is spoken to from a second thread: this one goes on beating and notices a stop, however long the server
takes to answer. It never runs ahead: at any moment one thread works and the other waits.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psycopg

from daemon import log
from daemon.config import Database as DatabaseSettings
from daemon.ingest.venues import MARKET_NAMES, VENUE_NAMES
from daemon.rings import ring_paths
from daemon.sinks.background import BackgroundThread
from daemon.sinks.database import Advance, Batch, Database, FailureKind, Ring, classify
from daemon.sinks.host import Clock, Counters, DrainDeadline, Host, host_of
from daemon.supervision import process
from native_pipeline.copy_encoder import CopyBatch
from native_pipeline.counters import CountersBlock
from native_pipeline.records import GAP_REASONS, QUARANTINE_REASONS
from native_pipeline.ring import GatingReader

CONSUMER = "writer"  # name of its slot in every ring
AGE_HISTOGRAM = 0
IDLE_WAIT_S = 1.0  # the heartbeat's pace when nothing arrives
BEAT_S = 0.25  # the heartbeat's pace while the database works
# While a batch fills up the rings are looked at ten times: a burst reaches batch_rows before a ring can fill up, and
# the cost of encoding spreads over the interval.
GATHERS_PER_INTERVAL = 10
MAINTENANCE_INTERVAL_S = 3600.0
DEADLINE_MARGIN_S = 0.5  # of the time to drain, for closing the connection

T = TypeVar("T")


class Reader(Protocol):
    """What `native_pipeline.ring.GatingReader` offers to the writer."""

    @property
    def ring(self) -> int:
        """Number of the ring."""

    @property
    def epoch(self) -> int:
        """Epoch of the ring file."""

    @property
    def first_seq(self) -> int:
        """Seq of the epoch's first record."""

    @property
    def last_seq(self) -> int:
        """Seq of the newest record that was read."""

    @property
    def lag_bytes(self) -> int:
        """Published and not committed."""

    @property
    def corrupt_records(self) -> int:
        """Records skipped because they were damaged."""

    def seek_after(self, seq: int, /) -> int:
        """Go behind *seq*; return how many of the following records are gone."""

    def commit(self) -> None:
        """Give back the space of everything read."""

    def prepare_sleep(self) -> bool:
        """Ask the producer for a wake-up; False if there is something to read."""

    def cancel_sleep(self) -> None:
        """Ask for no wake-up any more."""

    def close(self) -> None:
        """Give the consumer's slot back."""


class RowBatch(Batch, Protocol):
    """What `native_pipeline.copy_encoder.CopyBatch` offers to the writer."""

    @property
    def records(self) -> int:
        """Records taken since clear()."""

    def append_from(self, reader: Any, max_records: int, /) -> int:  # Any: the native batch takes the native reader
        """Encode up to *max_records* of *reader*; return how many."""

    def observe_ages(self, counters: Any, histogram: int, now_ns: int, /) -> None:
        """Count how old each record was at *now_ns*."""

    def clear(self) -> None:
        """Forget all rows."""


class Store(Protocol):
    """What `database.Database` offers to the writer."""

    def start_cursors(self, first: Mapping[Ring, int], /) -> dict[Ring, int]:
        """Return the stored cursor of each ring, made if there was none."""

    def add_lapped_gaps(self, ring: Ring, /) -> None:
        """Note that what follows the ring's cursor is missing."""

    def store(self, batch: Batch, advances: Sequence[Advance], /) -> None:
        """Store the rows and move the cursors."""

    def maintain(self, today: date, /) -> None:
        """Do the hourly upkeep."""

    def cancel(self) -> None:
        """End a running statement, from another thread."""

    def close(self) -> None:
        """Close the connection."""


class Writer:
    """The loop: gather, commit, give back. `run` returns when it was asked to stop and has drained the rings."""

    def __init__(
        self,
        *,
        readers: Sequence[Reader],
        batch: RowBatch,
        database: Store,
        settings: DatabaseSettings,
        counters: Counters,
        host: Host,
        clock: Clock = time,
    ) -> None:
        self._readers = readers
        self._batch = batch
        self._database = database
        self._settings = settings
        self._counters = counters
        self._host = host
        self._clock = clock
        self._cursors: dict[Ring, int] = {}
        self._reached: dict[Ring, int] = {}  # cursors after the current batch, of the rings that are in it
        self._damaged: dict[Ring, int] = {}  # records skipped so far, of the rings that have any
        self._turn = 0
        self._trouble: FailureKind | None = None
        self._drain_deadline: float | None = None
        self._maintenance_due = 0.0
        self._background = BackgroundThread("database")
        self._record_bytes = 1.0  # mean size of a record in the last batch
        self._log = log.get()

    def run(self) -> bool:
        """Move records from the rings to the database; True if the rings were empty at the end.

        Raises Fenced if another writer is active.
        """
        self._counters.set("database_connected", 0)
        try:
            self._position_readers()
            while not (self._host.stopping() and self._is_drained()):
                self._step()
        except DrainDeadline:
            self._log.warning("writer_drain_deadline", lag_bytes=self._count_lag())
            self._database.cancel()
            return False
        finally:
            self._background.close(self._database.close, DEADLINE_MARGIN_S)
            self._counters.set("database_connected", 0)
        return True

    def _position_readers(self) -> None:
        """Resume behind the newest record that the database holds, whatever the rings believe."""
        first = {_ring_of(reader): reader.first_seq - 1 for reader in self._readers}
        self._cursors = self._until_it_works(lambda: self._database.start_cursors(first))
        for reader in self._readers:
            ring = _ring_of(reader)
            cursor = self._cursors[ring]
            missing = reader.seek_after(cursor)
            if missing > 0:
                self._counters.increment("writer_lapped", missing)
                self._log.critical("records_missing_in_ring", ring=reader.ring, after_seq=cursor, missing=missing)
                self._until_it_works(partial(self._database.add_lapped_gaps, ring))

    def _is_drained(self) -> bool:
        return not self._gather(limit=1)

    def _step(self) -> None:
        """Commit one batch, or wait for one."""
        if not self._gather():
            self._count_lag()
            self._maintain_hourly()
            self._wait_for_records()
            return
        due = self._clock.monotonic() + self._settings.flush_interval_ms / 1000
        while self._batch.records < self._settings.batch_rows and not self._host.stopping():
            remaining = due - self._clock.monotonic()
            if remaining <= 0:
                break
            self._host.wait(min(remaining, self._settings.flush_interval_ms / 1000 / GATHERS_PER_INTERVAL))
            self._gather()
        self._commit()

    def _gather(self, limit: int | None = None) -> int:
        """Encode what the rings hold, up to a full batch, and return how much the batch then has.

        The rings take turns and share the room evenly, so that a busy one cannot starve the others.
        """
        limit = limit or self._settings.batch_rows
        self._turn += 1
        order = [self._readers[(self._turn + i) % len(self._readers)] for i in range(len(self._readers))]
        before = {**self._cursors, **self._reached}
        progress = True
        while progress and self._batch.records < limit:
            progress = False
            for reader in order:
                share = max(1, (limit - self._batch.records) // len(order))
                if self._batch.records < limit and self._batch.append_from(reader, share):
                    self._reached[_ring_of(reader)] = reader.last_seq
                    progress = True
        self._note_damage(before)
        return self._batch.records

    def _note_damage(self, before: Mapping[Ring, int]) -> None:
        """Report what the readers have skipped since the last look; *before*: the newest record read until then."""
        for reader in self._readers:
            ring, total = _ring_of(reader), reader.corrupt_records
            grown = total - self._damaged.get(ring, 0)
            if grown > 0:
                self._damaged[ring] = total
                self._counters.increment("corrupt_records", grown)
                self._log.critical("records_damaged", ring=reader.ring, records=grown, after_seq=before[ring])

    def _wait_for_records(self) -> None:
        """Sleep until a producer publishes; an idle daemon costs one wake-up a second."""
        if self._host.stopping():
            return
        asleep = [reader.prepare_sleep() for reader in self._readers]
        if all(asleep):
            self._host.wait(IDLE_WAIT_S)
        for reader in self._readers:
            reader.cancel_sleep()

    def _commit(self) -> None:
        """Store the batch, however often it takes, and give the space in the rings back."""
        advances = [Advance(ring, self._cursors[ring], new) for ring, new in self._reached.items()]
        self._until_it_works(lambda: self._database.store(self._batch, advances))
        now_ns = self._clock.time_ns()
        self._cursors.update(self._reached)
        lag_bytes = self._count_lag()
        for reader in self._readers:
            if _ring_of(reader) in self._reached:
                reader.commit()
        self._record_bytes = max(1.0, (lag_bytes - self._count_lag()) / self._batch.records)
        self._counters.increment("rows_committed", sum(self._batch.rows.values()))
        self._counters.increment("batches_committed")
        self._counters.set("last_commit_ns", now_ns)
        self._batch.observe_ages(self._counters, AGE_HISTOGRAM, now_ns)
        self._batch.clear()
        self._reached.clear()

    def _maintain_hourly(self) -> None:
        """Only between batches. A failure is no reason to stop storing: the default partition takes every row."""
        if self._clock.monotonic() < self._maintenance_due or self._trouble is not None:
            return
        self._maintenance_due = self._clock.monotonic() + MAINTENANCE_INTERVAL_S
        today = datetime.fromtimestamp(self._clock.time_ns() / 1e9, UTC).date()
        try:
            self._in_background(lambda: self._database.maintain(today))
        except psycopg.Error as exc:
            self._log.warning("maintenance_failed", sqlstate=exc.sqlstate, error=str(exc))

    def _until_it_works(self, action: Callable[[], T]) -> T:
        """Call *action* until the database does it: 1, 2, 4 s apart, then as long as it takes at the last pace."""
        for attempt in itertools.count():
            try:
                result = self._in_background(action)
            except psycopg.Error as exc:
                self._note_failure(exc)
            else:
                self._note_success()
                return result
            self._counters.increment("commit_retries")
            self._pause(self._settings.retry_delays_s[min(attempt, len(self._settings.retry_delays_s) - 1)])
        raise AssertionError("unreachable")

    def _note_failure(self, error: psycopg.Error) -> None:
        """One log line when the kind of trouble changes, none while it lasts."""
        kind = classify(error)
        self._counters.set("database_connected", int(kind is FailureKind.DATA))
        if kind is self._trouble:
            return
        self._trouble = kind
        fields = {"sqlstate": error.sqlstate, "error": str(error).strip(), "batch_records": self._batch.records}
        if kind is FailureKind.AWAY:
            self._log.error("database_away", **fields)
        else:  # the batch is kept and tried again: nothing is ever skipped
            self._log.critical("database_refuses_batch", kind=kind.value, rows=dict(self._batch.rows), **fields)

    def _note_success(self) -> None:
        self._counters.set("database_connected", 1)
        if self._trouble is not None:
            self._log.info("database_back", after=self._trouble.value)
            self._trouble = None

    def _pause(self, seconds: float) -> None:
        end = self._clock.monotonic() + seconds
        while (remaining := end - self._clock.monotonic()) > 0:
            self._check_deadline()
            self._count_lag()
            self._host.wait(min(remaining, IDLE_WAIT_S))

    def _in_background(self, action: Callable[[], T]) -> T:
        """Run *action* in the database thread; beat meanwhile, and give up when the time to drain is over."""
        self._background.submit(action)
        while not self._background.wait(BEAT_S):
            self._host.beat()
            self._check_deadline()
        result: T = self._background.result()
        return result

    def _check_deadline(self) -> None:
        if not self._host.stopping():
            return
        now = self._clock.monotonic()
        if self._drain_deadline is None:
            self._drain_deadline = now + self._host.drain_s - DEADLINE_MARGIN_S
        if now >= self._drain_deadline:
            raise DrainDeadline

    def _count_lag(self) -> int:
        lag = sum(reader.lag_bytes for reader in self._readers)
        self._counters.set("writer_lag_bytes", lag)
        self._counters.set("writer_lag_records", round(lag / self._record_bytes))
        return lag


def _ring_of(reader: Reader) -> Ring:
    return reader.ring, reader.epoch


def run(
    settings: DatabaseSettings,
    ring_paths: Sequence[Path],
    counters: CountersBlock,
    host: Host,
    *,
    on_ready: Callable[[], object],
) -> bool:
    """Be the writer of the rings at *ring_paths*; see `Writer.run` for the result.

    on_ready is called when the rings are open: a database that is away is waited for, a broken ring is not.
    Raises RingError if a ring is not what it says or has a writer already, Fenced if another daemon writes its rows.
    """
    batch = CopyBatch(
        venues=VENUE_NAMES, markets=MARKET_NAMES, quarantine_reasons=QUARANTINE_REASONS, gap_reasons=GAP_REASONS
    )
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(contextlib.closing(GatingReader(path, CONSUMER))) for path in ring_paths]
        on_ready()
        database = Database(settings)
        writer = Writer(
            readers=readers, batch=batch, database=database, settings=settings, counters=counters, host=host
        )
        return writer.run()


def main(child: process.Child) -> None:
    """Be the writer process until asked to stop."""
    host = host_of(child, CONSUMER)
    run(child.config.database, ring_paths(child.data_dir), child.counters, host, on_ready=child.running)


if __name__ == "__main__":
    process.main(main)
