"""Spilled batches find their way into the database: registered first, so that live ones go on, then stored.

Both can be done by the writer or by `sise recover`, twice or at the same time: `spill_ledger.py` says why each batch is
stored once. Files go oldest first, and only after the commit that stored them.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg

from daemon import log
from daemon.alerts import Alerts, NullAlerts
from daemon.errors import RingError
from daemon.failpoints import reach
from daemon.sinks import isolation
from daemon.sinks.database import Batch, Claim, FailureKind, Fenced, Isolated, Ring, classify
from daemon.sinks.host import Counters
from daemon.sinks.put_aside import Aside
from daemon.sinks.segment import Range, SegmentDamaged
from daemon.sinks.spill import SpillDirectory, SpillFile
from daemon.sinks.spill_ledger import (
    Cursors,
    Known,
    KnownBatches,
    LostBatches,
    NoRows,
    Reached,
    RegisterClaim,
    RegisterPassed,
    SegmentClaim,
    WaitingBatches,
)
from daemon.sinks.stream_gaps import StreamGaps
from native_pipeline.record_block import RecordBlock

REGISTERED_TOGETHER = 50  # batches in one transaction: a commit costs a disk sync


class Store(Protocol):
    """What `database.Database` offers to the recovery."""

    def start_cursors(self, first: Mapping[Ring, int], /) -> dict[Ring, int]:
        """Return the stored cursor of each ring, made if there was none."""

    def store(self, batch: Batch, claim: Claim, /) -> None:
        """Store the rows under the claim."""

    def store_isolated(self, block: RecordBlock, claim: Claim, /) -> Isolated:
        """Store the rows that the server takes, the others in quarantine."""

    def store_missing(self, block: RecordBlock, claim: Claim, /) -> Isolated:
        """Store what is not there yet of the rows that the server takes."""

    def store_put_aside(self) -> Aside:
        """Store what was put aside, as far as that is possible now."""

    def cancel(self) -> None:
        """End a running statement, from another thread."""

    def close(self) -> None:
        """Close the connection."""


class BlockBatch(Batch, Protocol):
    """What `native_pipeline.copy_encoder.CopyBatch` offers to the recovery."""

    def append_block(self, block: Any, begin: int = 0, end: int | None = None, /) -> int:  # Any: the native block
        """Encode those records of *block*."""

    def clear(self) -> None:
        """Forget all rows."""


def ask(database: Store, batches: Sequence[uuid.UUID]) -> dict[uuid.UUID, Known]:
    """Return what the database knows of *batches*. Raises psycopg.Error."""
    question = KnownBatches(batches)
    database.store(NoRows(), question)
    return question.found


class Registrar:
    """Moves the cursors over what was spilled."""

    def __init__(
        self,
        *,
        directory: SpillDirectory,
        database: Store,
        counters: Counters,
        first: Mapping[Ring, int],
        gaps: StreamGaps | None = None,
    ) -> None:
        self._directory = directory
        self._database = database
        self._gaps = gaps or StreamGaps()
        self._counters = counters
        self._first = first  # seq before the first record of each ring that is there
        self._registered: set[uuid.UUID] = set()
        self._moved: dict[Ring, set[int]] = {}  # where we may have moved the cursors since we last said where they are
        self._is_prepared = False
        self._log = log.get()

    def bring_up_to_date(self, possible: Mapping[Ring, Sequence[int]] | None = None) -> dict[Ring, int]:
        """Register every file that is not registered; return the cursors then.

        possible: where the cursors can be if nobody else moved them; None: nobody knows.
        Raises psycopg.Error, and Fenced if a cursor is elsewhere.
        """
        cursors = self._cursors()
        files = self._directory.files()
        if possible is not None:
            self._refuse_strangers(cursors, possible, files)
        new = [file for file in files if file.header.batch not in self._registered]
        if new:
            known = ask(self._database, [file.header.batch for file in new])
            self._registered |= known.keys()
            self._register([file for file in new if file.header.batch not in known])
            cursors = self._cursors()
        self._moved.clear()
        return cursors

    def _cursors(self) -> dict[Ring, int]:
        """Return those of our rings; the schema is brought up to date where one is missing, or the first time."""
        if self._is_prepared:
            question = Cursors()
            self._is_prepared = False  # unless it answers
            self._database.store(NoRows(), question)
            if self._first.keys() <= question.found.keys():
                self._is_prepared = True
                return {ring: question.found[ring] for ring in self._first}
        cursors = self._database.start_cursors(self._first)
        self._is_prepared = True
        return cursors

    def has_unregistered(self) -> bool:
        """Whether a file came since. For the thread that spills."""
        return any(file.header.batch not in self._registered for file in self._directory.files())

    def _refuse_strangers(
        self, cursors: Mapping[Ring, int], possible: Mapping[Ring, Sequence[int]], files: Sequence[SpillFile]
    ) -> None:
        for ring, seq in cursors.items():
            spilled = {one.through_seq for file in files for one in file.header.ranges if (one.ring, one.epoch) == ring}
            spilled |= self._moved.get(ring, set())  # and `sise recover` has stored and removed the files meanwhile
            if ring in possible and seq not in possible[ring] and seq not in spilled:
                raise Fenced(f"ingest_cursor: ring {ring} is at {seq}, which we never stored: another writer is active")

    def _register(self, files: Sequence[SpillFile]) -> None:
        reached: dict[Ring, Reached] = {}
        for begin in range(0, len(files), REGISTERED_TOGETHER):
            group = files[begin : begin + REGISTERED_TOGETHER]
            claim = RegisterClaim([file.header for file in group], self._gaps, reached)
            for one in (one for file in group for one in file.header.ranges):
                self._moved.setdefault((one.ring, one.epoch), set()).add(one.through_seq)
            self._database.store(NoRows(), claim)
            reached = claim.reached
            reach("recovery.registered")
            self._counters.increment("writer_lapped", claim.missing)
            self._registered |= {file.header.batch for file in group}


@dataclass(frozen=True, slots=True)
class Pass:
    """What one look at every file has come to."""

    stored: int = 0  # files
    records: int = 0
    lost: int = 0  # batches whose file was missing or damaged
    unregistered: int = 0  # files that wait for the writer to register them
    is_complete: bool = True  # False: told to stop before the last file
    unreadable: int = 0  # files that are left where they are


class Replayer:
    """Stores registered files, oldest first. Not for use by two threads at once."""

    def __init__(
        self,
        *,
        directory: SpillDirectory,
        database: Store,
        batch: BlockBatch,
        counters: Counters,
        alerts: Alerts | None = None,
        gaps: StreamGaps | None = None,
    ) -> None:
        self._directory = directory
        self._database = database
        self._gaps = gaps or StreamGaps()
        self._batch = batch
        self._counters = counters
        self._alerts = alerts or NullAlerts()
        self._told: set[str] = set()  # names of what could not be read
        self.records = 0  # stored so far
        self._block = RecordBlock()
        self._log = log.get()

    def replay(
        self,
        *,
        is_stopping: Callable[[], bool] = lambda: False,
        after_each: Callable[[SpillFile], object] = lambda _: None,
    ) -> Pass:
        """Store every registered file. Raises psycopg.Error: what is stored until then stays so."""
        waiting = WaitingBatches()
        self._database.store(NoRows(), waiting)  # before the look at the files: what has one now cannot seem lost
        files = self._directory.files()
        known = ask(self._database, [file.header.batch for file in files])
        known |= self._register_passed([file for file in files if file.header.batch not in known])
        stored = records = unregistered = 0
        for file in files:
            if is_stopping():
                return Pass(stored, records, 0, unregistered, is_complete=False)
            fact = known.get(file.header.batch)
            if fact is None:
                unregistered += 1
                continue
            if fact.is_stored:  # its unlink was not reached, or a power loss undid it
                self._log.debug("spill_was_stored", file=file.path.name)
                self._directory.remove(file)
            elif self._store(file, fact):
                stored += 1
                records += file.header.records
            self.show_size()
            after_each(file)
        unreadable = self._tell_unreadable()
        return Pass(stored, records, self._note_lost(waiting.found), unregistered, unreadable=unreadable)

    def _register_passed(self, strangers: Sequence[SpillFile]) -> dict[uuid.UUID, Known]:
        """Of the files that nobody has registered, register those that were away while their rings went on."""
        if not strangers:
            return {}
        claim = RegisterPassed([file.header for file in strangers])
        self._database.store(NoRows(), claim)
        if claim.registered:
            self._log.info("spill_files_found", files=len(claim.registered))
        return ask(self._database, [file.header.batch for file in strangers])

    def store_put_aside(self) -> bool:
        """Store the late rows that live batches have put aside; False if some still have to wait. psycopg.Error."""
        aside = self._database.store_put_aside()
        if aside.stored:
            self._log.info("rows_put_aside_stored", rows=aside.stored)
        isolation.report(Isolated(len(aside.refused), reasons=aside.refused), self._counters, self._alerts)
        return not aside.is_waiting

    def show_size(self) -> None:
        """Set the gauges."""
        files, size_bytes = self._directory.size()
        self._counters.set("spill_files", files)
        self._counters.set("spill_bytes", size_bytes)

    def _store(self, file: SpillFile, fact: Known) -> bool:
        """False if the file is gone, or not what was written."""
        try:
            parts = self._directory.read(file)
            self._encode(parts)
        except (OSError, SegmentDamaged):
            # Another process has stored it, or somebody removed it: the ledger tells. Or the disk cannot read it now,
            # or it was moved aside: the directory tells.
            return False
        except RingError as exc:
            self._directory.move_aside(file.path, SegmentDamaged(str(exc)))
            return False
        isolated = self._store_block(SegmentClaim(file.header.batch), is_doubtful=fact.is_doubtful(file.header))
        isolation.report(isolated, self._counters, self._alerts)
        reach("recovery.after_commit")
        self._log.debug("spill_stored", file=file.path.name, records=self._block.records)
        self._directory.remove(file)
        reach("recovery.removed")
        self.records += self._block.records
        self._counters.increment("batches_recovered")
        self._counters.increment("records_recovered", self._block.records)
        self._counters.increment("rows_committed", sum(self._batch.rows.values()) - isolated.already_stored)
        return True

    def _store_block(self, claim: SegmentClaim, *, is_doubtful: bool) -> Isolated:
        if is_doubtful:
            return self._database.store_missing(self._block, claim)
        try:
            self._database.store(self._batch, claim)
        except psycopg.Error as exc:
            if classify(exc) is not FailureKind.DATA:
                raise
            return self._database.store_isolated(self._block, claim)
        return Isolated()

    def _encode(self, parts: Sequence[tuple[Range, bytes]]) -> None:
        """Put the records and their rows into block and batch. Raises RingError for a record that cannot be."""
        self._batch.clear()
        self._block.clear()
        for one, raw in parts:
            self._block.append_bytes(raw, ring=one.ring)
        self._batch.append_block(self._block)

    def _tell_unreadable(self) -> int:
        """Alert once for each file that is left where it is because it cannot be read; return how many there are."""
        unreadable = self._directory.unreadable
        for name in sorted(unreadable.keys() - self._told):
            message = f"{name} cannot be read: what it holds is not stored, and tried again: {unreadable[name]}"
            self._alerts.send("CRITICAL", "spill_file_unreadable", message, subject=name)
        self._told = set(unreadable)
        return len(unreadable)

    def _note_lost(self, waiting: Sequence[uuid.UUID]) -> int:
        try:
            present = self._directory.batches()
        except OSError:  # nobody can say what is there
            return 0
        if all(batch in present for batch in waiting):
            return 0
        claim = LostBatches(present, waiting, self._gaps)
        self._database.store(NoRows(), claim)
        for batch, records in claim.lost:
            self._log.critical("spilled_batch_lost", batch=str(batch), records=records)
        return len(claim.lost)
