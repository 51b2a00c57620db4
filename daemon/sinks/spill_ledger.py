"""What the database knows of spill files: which batches wait in files, and which of them are stored.

Registering a batch moves the cursors over it, in the transaction that notes that its file waits: live batches go on
behind it at once. Storing it marks that note in the transaction of its rows. Both can be repeated as often as anybody
likes, by any process: a batch is stored once.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar, NamedTuple

import psycopg

from daemon import log
from daemon.sinks.segment import Header, Range
from daemon.sinks.stream_gaps import StreamGaps

Connection = psycopg.Connection[tuple[object, ...]]
Ring = tuple[int, int]  # number, epoch

FOLLOWS = timedelta(seconds=10)  # between the records of two files, of which nothing lies between
EPOCH = datetime.fromtimestamp(0, UTC)
BATCH_IS_KNOWN = "SELECT stored_at IS NOT NULL FROM spilled_batches WHERE batch = %s"
LOCK_CURSOR = "SELECT seq, updated_at FROM ingest_cursor WHERE ring = %s AND epoch = %s FOR UPDATE"
# `updated_at` stays: what is behind such a batch was received hours before, and gaps begin by that time.
MOVE_CURSOR = "UPDATE ingest_cursor SET seq = %s WHERE ring = %s AND epoch = %s"
REGISTER = """
INSERT INTO spilled_batches (batch, rings, epochs, after_seqs, through_seqs, records, first_recv, last_recv)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""
CLAIM = "UPDATE spilled_batches SET stored_at = now() WHERE batch = %s AND stored_at IS NULL"
KNOWN = "SELECT batch, rings, epochs, after_seqs, stored_at IS NOT NULL FROM spilled_batches WHERE batch = ANY(%s)"
WAITING = "SELECT batch FROM spilled_batches WHERE stored_at IS NULL AND lost_at IS NULL ORDER BY registered_at"
MARK_LOST = """
UPDATE spilled_batches SET lost_at = now() WHERE batch = %s AND stored_at IS NULL AND lost_at IS NULL
RETURNING rings, records, first_recv, last_recv"""


@dataclass(frozen=True, slots=True)
class Known:
    """What the database says about one batch."""

    is_stored: bool
    after_seqs: dict[Ring, int]  # of the records that are only in the file

    def is_doubtful(self, header: Header) -> bool:
        """Whether rows of it may be there: the cursors were beyond its beginning when it was registered."""
        return any(self.after_seqs.get((one.ring, one.epoch), 0) > one.after_seq for one in header.ranges)


class Hole(NamedTuple):
    """What a lost batch leaves: its rings and the time of its records."""

    rings: list[int]
    first: datetime
    last: datetime


class Reached(NamedTuple):
    """How far a batch goes in one ring."""

    seq: int
    received: datetime  # its newest record


class RegisterClaim:
    """Registers batches, oldest first, when its transaction begins; it takes no rows. For `Database.store`."""

    part: ClassVar[str] = "registration"

    def __init__(
        self, headers: Sequence[Header], gaps: StreamGaps, reached: Mapping[Ring, Reached] | None = None
    ) -> None:
        """reached: how far the batches go that were registered before."""
        self._headers = headers
        self._gaps = gaps
        self._before = reached or {}
        self.missing = 0  # records between a cursor and the batch behind it, which no file has
        self.reached: dict[Ring, Reached] = {}  # by these batches too

    def take(self, connection: Connection) -> bool:
        """Register what is not registered yet."""
        self.missing = 0
        self.reached = dict(self._before)
        for header in self._headers:
            self._register(connection, header)
            for one in header.ranges:
                self._note_reached((one.ring, one.epoch), one)
        return True

    def is_taken(self, connection: Connection) -> bool:
        """Tell whether every batch is registered."""
        query = "SELECT count(*) FROM spilled_batches WHERE batch = ANY(%s)"
        return connection.execute(query, [[header.batch for header in self._headers]]).fetchone() == (
            len(self._headers),
        )

    def _note_reached(self, ring: Ring, one: Range) -> None:
        before = self.reached.get(ring)
        if one.last_recv_ns:
            self.reached[ring] = Reached(one.through_seq, _moment(one.last_recv_ns))
        elif before is not None and before.seq == one.after_seq:
            self.reached[ring] = Reached(one.through_seq, before.received)  # it holds no record that is whole

    def _register(self, connection: Connection, header: Header) -> None:
        after_seqs = [self._effective_after(connection, one) for one in header.ranges]
        # Asked behind the locks: a killed predecessor's registration may be committed by the server only now, and
        # its moved cursor alone would look as if the batch itself had been stored.
        if connection.execute(BATCH_IS_KNOWN, [header.batch]).fetchone() is not None:
            return
        if connection.execute(REGISTER, _facts(header, after_seqs)).rowcount == 0:
            return  # by RegisterPassed, since we asked: then the cursors are beyond it
        for after, one in zip(after_seqs, header.ranges, strict=True):
            if after < one.through_seq:
                connection.execute(MOVE_CURSOR, [one.through_seq, one.ring, one.epoch])

    def _effective_after(self, connection: Connection, one: Range) -> int:
        """Return the seq behind which the records of *one* are in its file only, and lock the ring's cursor.

        Those up to it were committed before they were spilled, and the answer was lost; or the file could not be read
        for a time, and live batches went on without it. Which of the two, only the rows themselves can tell.
        """
        self._gaps.start_cursor(connection, (one.ring, one.epoch), one.epoch - 1)  # an epoch is its first seq, too
        row = connection.execute(LOCK_CURSOR, [one.ring, one.epoch]).fetchone()
        assert row is not None
        cursor = int(str(row[0]))
        if cursor < one.after_seq:
            self._note_missing(connection, one, cursor, row[1])
        elif one.after_seq < cursor:
            log.get().info("spill_in_doubt", ring=one.ring, after_seq=one.after_seq, cursor=cursor)
        return max(cursor, one.after_seq)

    def _note_missing(self, connection: Connection, one: Range, cursor: int, updated_at: object) -> None:
        """A file between the cursor and this one is gone, or the database is older than both (a restored backup)."""
        missing = one.after_seq - cursor
        self.missing += missing
        log.get().critical(
            "records_missing_before_spill", ring=one.ring, epoch=one.epoch, after_seq=cursor, missing=missing
        )
        ring = one.ring, one.epoch
        reached = self.reached.get(ring)
        if reached is not None and reached.seq == cursor:
            started = reached.received
        else:
            started = self._gaps.whole_until(connection, ring, cursor, updated_at)
        # The stream is whole again with the first record of this file, however long ago that was. A clock that went
        # backwards, or a batch without records, does not tell: until now, then.
        ended = _moment(one.first_recv_ns)
        self._gaps.add(
            connection,
            one.ring,
            "missing before spill file",
            updated_at=updated_at,
            started=started,
            ended=ended if ended > started else None,
        )


class RegisterPassed:
    """Registers those batches that the cursors are beyond already, and moves none. For `Database.store`, without rows.

    Such a file was out of reach when its rings went on (moved away and put back, copied from a backup): whether its
    rows are there, only the rows themselves can tell. Any process may do this beside the writer.
    """

    part: ClassVar[str] = "registration"

    def __init__(self, headers: Sequence[Header]) -> None:
        self._headers = headers
        self.registered: set[uuid.UUID] = set()

    def take(self, connection: Connection) -> bool:
        """Register them."""
        self.registered = set()
        cursors = Cursors()
        cursors.take(connection)  # before the question whether a batch is known: what has moved them has registered it
        for header in self._headers:
            after_seqs = [cursors.found.get((one.ring, one.epoch), -1) for one in header.ranges]
            if any(after < one.through_seq for after, one in zip(after_seqs, header.ranges, strict=True)):
                continue
            if connection.execute(BATCH_IS_KNOWN, [header.batch]).fetchone() is None:
                connection.execute(REGISTER, _facts(header, after_seqs))
                self.registered.add(header.batch)
        return True

    def is_taken(self, connection: Connection) -> bool:
        """What is registered is not registered again: try again."""
        return False


class SegmentClaim:
    """Marks one registered batch as stored; only one transaction ever can."""

    part: ClassVar[str] = "recovery"

    def __init__(self, batch: uuid.UUID) -> None:
        self.batch = batch

    def take(self, connection: Connection) -> bool:
        """Mark it; False if it is stored already. Waits for another transaction that is just storing it."""
        return connection.execute(CLAIM, [self.batch]).rowcount == 1

    def is_taken(self, connection: Connection) -> bool:
        """Tell whether it is stored."""
        return connection.execute(BATCH_IS_KNOWN, [self.batch]).fetchone() == (True,)


class KnownBatches:
    """Asks which of *batches* the database knows. For `Database.store`, without rows."""

    part: ClassVar[str] = "question"

    def __init__(self, batches: Sequence[uuid.UUID]) -> None:
        self._batches = batches
        self.found: dict[uuid.UUID, Known] = {}

    def take(self, connection: Connection) -> bool:
        """Fill `found`."""
        self.found = {}
        for batch, rings, epochs, after_seqs, is_stored in connection.execute(KNOWN, [list(self._batches)]).fetchall():
            assert isinstance(batch, uuid.UUID)
            assert isinstance(rings, list)
            assert isinstance(epochs, list)
            assert isinstance(after_seqs, list)
            after = dict(zip(zip(rings, epochs, strict=True), after_seqs, strict=True))
            self.found[batch] = Known(bool(is_stored), after)
        return True

    def is_taken(self, connection: Connection) -> bool:
        """Nothing was changed: ask again."""
        return False


class Cursors:
    """Asks where the cursors are. For `Database.store`, without rows."""

    part: ClassVar[str] = "question"

    def __init__(self) -> None:
        self.found: dict[Ring, int] = {}

    def take(self, connection: Connection) -> bool:
        """Fill `found`."""
        rows = connection.execute("SELECT ring, epoch, seq FROM ingest_cursor").fetchall()
        self.found = {(int(str(ring)), int(str(epoch))): int(str(seq)) for ring, epoch, seq in rows}
        return True

    def is_taken(self, connection: Connection) -> bool:
        """Nothing was changed: ask again."""
        return False


class LostBatches:
    """Notes the batches that wait according to the database, and that no file of *present* holds."""

    part: ClassVar[str] = "lost"

    def __init__(self, present: set[uuid.UUID], waiting: Sequence[uuid.UUID], gaps: StreamGaps) -> None:
        self._gaps = gaps
        self._gone = [batch for batch in waiting if batch not in present]
        self.lost: list[tuple[uuid.UUID, int]] = []  # batch, records

    def take(self, connection: Connection) -> bool:
        """Mark them, and note a gap of each stream that they may have had something of."""
        self.lost = []
        holes: list[Hole] = []
        for batch in self._gone:
            row = connection.execute(MARK_LOST, [batch]).fetchone()
            if row is not None:
                self.lost.append((batch, int(str(row[1]))))
                holes.append(_hole(row))
        for hole in _joined(holes):
            self._gaps.add_lost(connection, hole.rings, hole.first, hole.last)
        return True

    def is_taken(self, connection: Connection) -> bool:
        """Marked ones are not marked again: try again."""
        return False


class WaitingBatches:
    """Asks which batches wait to be stored, oldest first. For `Database.store`, without rows."""

    part: ClassVar[str] = "question"

    def __init__(self) -> None:
        self.found: list[uuid.UUID] = []

    def take(self, connection: Connection) -> bool:
        """Fill `found`."""
        self.found = [batch for (batch,) in connection.execute(WAITING).fetchall() if isinstance(batch, uuid.UUID)]
        return True

    def is_taken(self, connection: Connection) -> bool:
        """Nothing was changed: ask again."""
        return False


class NoRows:
    """A batch without rows, for transactions that only claim."""

    @property
    def rows(self) -> dict[str, int]:
        """None."""
        return {}

    def block(self, table: str, /) -> memoryview:
        """Never called."""
        raise KeyError(table)


def _hole(row: tuple[object, ...]) -> Hole:
    rings, _, first, last = row
    assert isinstance(rings, list)
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    return Hole(sorted(set(rings)), first, last)


def _joined(holes: Sequence[Hole]) -> list[Hole]:
    """Return those of the same rings that follow each other as one: a directory that is lost is no thousand gaps."""
    joined: list[Hole] = []
    for hole in sorted(holes, key=lambda hole: (hole.rings, hole.first)):
        before = joined[-1] if joined else None
        if before is not None and before.rings == hole.rings and hole.first - before.last <= FOLLOWS:
            joined[-1] = Hole(before.rings, before.first, max(before.last, hole.last))
        else:
            joined.append(hole)
    return joined


def _facts(header: Header, after_seqs: list[int]) -> list[object]:
    """Return the columns of `REGISTER`."""
    return [
        header.batch,
        [one.ring for one in header.ranges],
        [one.epoch for one in header.ranges],
        after_seqs,
        [one.through_seq for one in header.ranges],
        header.records,
        *map(_moment, header.received_ns),
    ]


def _moment(time_ns: int) -> datetime:
    return EPOCH + timedelta(microseconds=time_ns // 1000)  # as rows have it: a float would be a microsecond off
