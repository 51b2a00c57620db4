"""Step 4 of 6 in the life of a tick: the writer takes records out of every ring and commits them in batches.

Before: `native_pipeline/ring_reader.pyx`. Next: `native_pipeline/copy_encoder.pyx`, which turns them into rows, and
`database.py`, which stores rows and ring cursors in one transaction. Only then is the rings' space given back, so
that whatever happens to this process or to the database, nothing is lost and nothing is stored twice.

A batch that the database does not take after three more attempts is written to a file, like all that follow
(`outage.py`), until it does; then `recovery.py` stores the files beside the live batches.

The database is spoken to from a second thread: this one goes on beating and notices a stop, however long the server
takes to answer. It never runs ahead: at any moment one thread works and the other waits.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import psycopg

from daemon import log
from daemon.config import Database as DatabaseSettings
from daemon.failpoints import reach
from daemon.identity import RENEW_S
from daemon.sinks import isolation
from daemon.sinks.database import FIRST_LOCK_TIMEOUT, Advance, CursorAdvances, Isolated, Ring
from daemon.sinks.errands import IDLE_WAIT_S, Errands
from daemon.sinks.failures import FailureKind, classify
from daemon.sinks.host import Clock, Counters, DrainDeadline, Host
from daemon.sinks.outage import Outage, SpillParts, State
from daemon.sinks.owner import OwnedByAnother
from daemon.sinks.put_aside import LOCK_NOT_AVAILABLE
from daemon.sinks.recovery_thread import LiveLoad
from daemon.sinks.trouble import Trouble
from daemon.sinks.writer_ports import Reader, RowBatch, Store, ring_of
from native_pipeline.record_block import RecordBlock

CONSUMER = "writer"  # name of its slot in every ring
AGE_HISTOGRAM = 0
# While a batch fills up the rings are looked at ten times: a burst reaches batch_rows before a ring can fill up, and
# the cost of encoding spreads over the interval.
GATHERS_PER_INTERVAL = 10
MAINTENANCE_INTERVAL_S = 3600.0
PRESSED = 0.5  # of a ring: from here on nobody waits for a database that does not answer
# What a statement gets even then: a server that works is quicker, and a start with full rings is no outage. The busiest
# worker fills an eighth of its ring in that time.
PRESSED_WAIT_S = 2.0
STOP_SHARE = 0.5  # of the time to drain that a statement may take; then the batch is spilled
RECOVERY_END_S = 1.0
CANCEL_AGAIN_S = 2.0  # if a statement goes on although it was cancelled

R = TypeVar("R")


class Writer:
    """The loop: gather, commit or spill, give back. `run` returns when asked to stop, and the rings are drained."""

    def __init__(
        self,
        *,
        readers: Sequence[Reader],
        batch: RowBatch,
        database: Store,
        settings: DatabaseSettings,
        spilling: SpillParts,
        load: LiveLoad,
        counters: Counters,
        host: Host,
        clock: Clock = time,
    ) -> None:
        self._readers = readers
        self._batch = batch
        self._database = database
        self._settings = settings
        self._spilling = spilling
        self._load = load
        self._counters = counters
        self._host = host
        self._clock = clock
        self._cursors: dict[Ring, int] = {}
        self._reached: dict[Ring, int] = {}  # cursors after the current batch, of the rings that are in it
        self._damaged: dict[Ring, int] = {}  # records skipped so far, of the rings that have any
        self._told_missing: dict[Ring, int] = {}  # the cursor behind which records are missing, once that is told
        self._turn = 0
        self._trouble = Trouble(counters=counters, alerts=spilling.alerts)
        self._is_proven = True  # the database has taken a batch since the last outage
        self._maintenance_due = 0.0
        self._renewal_due = 0.0
        self._errands = Errands(host, clock)
        self._outage = Outage(
            spilling, errands=self._errands, trouble=self._trouble, counters=counters, host=host, clock=clock
        )
        self._record_bytes = 1.0  # mean size of a record in the last batch
        self._isolated = Isolated()  # what became of the present batch, if it was taken apart
        self._has_put_aside = False  # perhaps, and the recovery does not know: the answer may have got lost
        self._log = log.get()

    def run(self) -> bool:
        """Move records from the rings to the database or to files; True if the rings were empty at the end.

        Raises Fenced if another writer is active.
        """
        self._counters.set("database_connected", 0)
        self._spilling.recovery.start()
        try:
            self._start()
            while not (self._host.stopping() and self._is_drained()):
                self._step()
            cursors = self._outage.look_once_more()
            if cursors is not None:
                self._go_live(cursors)
            self._outage.drain_files(margin_s=RECOVERY_END_S)
            self._outage.tell_news()
            if self._outage.state is State.LIVE:
                self._spilling.recovery.stop(RECOVERY_END_S)  # which would take the database again
                with contextlib.suppress(psycopg.Error):
                    self._errands.run(self._errands.database, self._database.give_up_owner)
        except DrainDeadline:
            self._log.warning("writer_drain_deadline", lag_bytes=self._count_lag())
            self._database.cancel()
            return False
        finally:
            self._spilling.recovery.stop(RECOVERY_END_S)
            self._errands.close(self._database.close)
            self._counters.set("database_connected", 0)
        return True

    def _start(self) -> None:
        """Resume behind the newest record that the database or a file holds, whatever the rings believe."""
        files = []
        try:
            files = self._spilling.directory.open()
        except OSError as exc:  # then nothing can be spilled, which is no reason not to store
            self._log.critical("spill_directory_unusable", error=str(exc))
        self._outage.show_size()
        cursors = self._try(self._spilling.registrar.bring_up_to_date, self._settings.retry_delays_s)
        if cursors is not None and self._go_live(cursors):
            return
        self._outage.begin({})
        for reader in self._readers:
            ring = ring_of(reader)
            spilled = [one.through_seq for file in files for one in file.header.ranges if (one.ring, one.epoch) == ring]
            if spilled:
                self._cursors[ring] = max(spilled)
                reader.seek_after(max(spilled))
                reader.commit()

    def _go_live(self, cursors: Mapping[Ring, int]) -> bool:
        """Go on behind what is stored or registered; False if the database is away again."""
        for reader in self._readers:
            ring = ring_of(reader)
            cursor = cursors[ring]
            missing = reader.seek_after(cursor)
            if missing > 0 and self._cursors.get(ring) != cursor:
                if self._told_missing.get(ring) != cursor:
                    self._told_missing[ring] = cursor
                    self._log.critical("records_missing_in_ring", ring=reader.ring, after_seq=cursor, missing=missing)
                if self._try(partial(self._note_lapped, ring), (), is_essential=True) is None:
                    return False
                self._counters.increment("writer_lapped", missing)
            self._damaged[ring] = reader.corrupt_records
            reader.commit()  # what the database has is nobody's to read again
        self._cursors = dict(cursors)
        self._outage.fate.stored = dict(cursors)
        self._outage.end()
        self._counters.set("database_connected", 1)
        self._trouble.note_answer()
        return True

    def _note_lapped(self, ring: Ring) -> bool:
        self._database.add_lapped_gaps(ring)
        return True

    def _is_drained(self) -> bool:
        if self._outage.state is State.LIVE:
            return not self._gather(limit=1)
        return not any(reader.lag_bytes for reader in self._readers)

    def _step(self) -> None:
        """Commit or spill one batch, or wait for one."""
        self._outage.tell_news()
        if self._outage.state is not State.LIVE:
            self._step_without_database()
            return
        if not self._keep_owner():
            return
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

    def _step_without_database(self) -> None:
        cursors = self._outage.look_for_database()
        if cursors is not None and self._go_live(cursors):
            return
        taken = self._outage.step(self._cursors, self._ring_shares)
        if taken is not None:
            for ring, damaged in taken.damaged.items():
                self._report_damage(ring, damaged, self._cursors.get(ring, 0))
            self._cursors.update(taken.reached)
            for reader in self._readers:
                if ring_of(reader) in taken.reached or not taken.ranges:
                    reader.commit()
        self._count_lag()

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
                    self._reached[ring_of(reader)] = reader.last_seq
                    progress = True
        self._note_damage(before)
        return self._batch.records

    def _note_damage(self, before: Mapping[Ring, int]) -> None:
        """Report what the readers have skipped since the last look; *before*: the newest record read until then."""
        for reader in self._readers:
            ring, total = ring_of(reader), reader.corrupt_records
            grown = total - self._damaged.get(ring, 0)
            if grown > 0:
                self._damaged[ring] = total
                self._report_damage(ring, grown, before[ring])

    def _report_damage(self, ring: Ring, records: int, after_seq: int) -> None:
        self._counters.increment("corrupt_records", records)
        self._log.critical("records_damaged", ring=ring[0], records=records, after_seq=after_seq)

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
        """Store the batch and give the space in the rings back; where the database does not take it, begin to spill."""
        claim = CursorAdvances([Advance(ring, self._cursors[ring], new) for ring, new in self._reached.items()])
        began = self._clock.monotonic()
        self._load.is_waiting = True
        delays = self._settings.retry_delays_s if self._is_proven else ()
        is_stored = self._try(partial(self._store, claim), delays, on_refusal=partial(self._store_isolated, claim))
        self._load.is_waiting = False
        self._load.commit_s = self._clock.monotonic() - began
        if is_stored is None:
            self._outage.begin(self._reached)
            self._is_proven = False
        else:
            self._give_back()
        self._batch.clear()
        self._reached.clear()

    def _store(self, claim: CursorAdvances) -> bool:
        self._database.store(self._batch, claim, lock_timeout=FIRST_LOCK_TIMEOUT)
        return True

    def _store_isolated(self, claim: CursorAdvances, refusal: psycopg.Error) -> bool:
        """The server refuses a value of the batch, or a late row in it has to wait for a lock: take it row by row."""
        block = RecordBlock()
        for reader in self._readers:
            ring = ring_of(reader)
            if ring in self._reached:
                reader.seek_after(self._cursors[ring])
                block.append_from(reader, self._reached[ring])  # type: ignore[arg-type] # the native ones, together
                self._damaged[ring] = reader.corrupt_records  # seen for the second time
        puts_aside = refusal.sqlstate == LOCK_NOT_AVAILABLE
        self._has_put_aside |= puts_aside
        self._isolated = self._database.store_isolated(block, claim, puts_aside=puts_aside)
        return True

    def _give_back(self) -> None:
        reach("writer.after_commit")
        now_ns = self._clock.time_ns()
        self._is_proven = True
        self._cursors.update(self._reached)
        self._outage.fate.stored = dict(self._cursors)
        lag_bytes = self._count_lag()
        for reader in self._readers:
            if ring_of(reader) in self._reached:
                reader.commit()
        self._record_bytes = max(1.0, (lag_bytes - self._count_lag()) / self._batch.records)
        self._counters.increment("rows_committed", sum(self._batch.rows.values()))
        self._counters.increment("batches_committed")
        self._counters.set("last_commit_ns", now_ns)
        self._batch.observe_ages(self._counters, AGE_HISTOGRAM, now_ns)
        isolation.report(self._isolated, self._counters, self._spilling.alerts)
        if self._has_put_aside:
            self._has_put_aside = False
            self._spilling.recovery.store_put_aside()
        self._isolated = Isolated()

    def _keep_owner(self) -> bool:
        """Renew our ownership when it is time to; False if another daemon has the database. Other failures can wait."""
        if self._clock.monotonic() < self._renewal_due:
            return True
        self._renewal_due = self._clock.monotonic() + RENEW_S
        with contextlib.suppress(psycopg.Error):
            try:
                self._attempt(self._database.keep_owner, None)
            except OwnedByAnother as exc:
                self._trouble.note_failure(exc)
                self._batch.clear()
                self._reached.clear()
                self._outage.begin({})
                return False
        return True

    def _maintain_hourly(self) -> None:
        """Only between batches. A failure is no reason to stop storing: the default partition takes every row."""
        if self._clock.monotonic() < self._maintenance_due or self._trouble.kind is not None:
            return
        self._maintenance_due = self._clock.monotonic() + MAINTENANCE_INTERVAL_S
        today = datetime.fromtimestamp(self._clock.time_ns() / 1e9, UTC).date()
        try:
            self._errands.run(self._errands.database, lambda: self._database.maintain(today))
        except psycopg.Error as exc:
            self._log.warning("maintenance_failed", sqlstate=exc.sqlstate, error=str(exc))

    def _try(
        self,
        action: Callable[[], R],
        delays_s: Sequence[float],
        *,
        on_refusal: Callable[[psycopg.Error], R] | None = None,
        is_essential: bool = False,
    ) -> R | None:
        """Call *action* until the database does it: again after each of *delays_s*, then None.

        A batch that the server refuses for a value in it, or that waits for a lock, is given to *on_refusal* at once.
        Nobody is waited for when a stop is asked for, or a ring is half full. is_essential: a full ring is no reason,
        because nothing can be stored, and no room be made, before this is done.
        """
        for delay_s in (*delays_s, None):
            try:
                return self._attempt(action, on_refusal, is_essential=is_essential)
            except psycopg.Error as exc:
                self._trouble.note_failure(exc, records=self._batch.records, rows=self._batch.rows)
            if delay_s is None or self._is_urgent():
                break
            self._counters.increment("commit_retries")
            self._errands.pause(delay_s, self._count_lag)
        return None

    def _attempt(
        self,
        action: Callable[[], R],
        on_refusal: Callable[[psycopg.Error], R] | None,
        *,
        is_essential: bool = False,
    ) -> R:
        cancel_due = 0.0
        patient_until = self._clock.monotonic() + PRESSED_WAIT_S

        def look() -> None:
            nonlocal cancel_due
            self._count_lag()
            now = self._clock.monotonic()
            is_patient = (is_essential or now < patient_until) and not self._host.stopping()
            if self._is_urgent() and not is_patient and now >= cancel_due:  # the second time cuts the connection
                cancel_due = now + CANCEL_AGAIN_S
                self._database.cancel()

        try:
            result = self._errands.run(self._errands.database, action, look)
        except psycopg.Error as exc:
            if on_refusal is None or not (classify(exc) is FailureKind.DATA or exc.sqlstate == LOCK_NOT_AVAILABLE):
                raise
            result = self._errands.run(self._errands.database, partial(on_refusal, exc), look)
        if on_refusal is None:
            self._trouble.note_answer()
        else:
            self._trouble.note_batch()
        return result

    def _is_urgent(self) -> bool:
        """Whether a database that does not answer must not be waited for any longer."""
        if self._host.stopping():
            return self._errands.remaining_s() < self._host.drain_s * STOP_SHARE
        return any(share > PRESSED for share in self._ring_shares())

    def _ring_shares(self) -> list[float]:
        return [reader.lag_bytes / reader.capacity_bytes for reader in self._readers]

    def _count_lag(self) -> int:
        lag = sum(reader.lag_bytes for reader in self._readers)
        self._counters.set("writer_lag_bytes", lag)
        self._counters.set("writer_lag_records", round(lag / self._record_bytes))
        return lag
