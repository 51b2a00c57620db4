"""The database as the writer sees it: rows and ring cursors are stored in one transaction, or not at all.

Exactly once rests on a claim, the first statement of each transaction. That of a live batch is `ingest_cursor`: the
cursor of every ring in it moves from the seq that the writer knows to the new one. If that hits no row, either an
earlier attempt of the same batch was committed although its answer got lost, or another writer is active; reading the
cursor tells which. `spill_ledger.py` has the claim of a spilled batch.

No state of a session is relied on, so that a pooler may give every transaction another server: settings are local to
the transaction, nothing is prepared, and no lock outlives it.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import ClassVar, Protocol, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from daemon import log
from daemon.config import Database as DatabaseSettings
from daemon.errors import ConfigError, Refused
from daemon.failpoints import reach
from daemon.identity import Owner
from daemon.sinks import column_types, isolation, owner, put_aside, schema
from daemon.sinks.failures import FailureKind, classify
from daemon.sinks.isolation import Batch, Connection, Isolated, copy_rows
from daemon.sinks.stream_gaps import StreamGaps
from native_pipeline.record_block import RecordBlock

__all__ = [
    "Advance",
    "Batch",
    "Claim",
    "Connection",
    "CursorAdvances",
    "Database",
    "FailureKind",
    "Fenced",
    "Isolated",
    "Ring",
    "classify",
]

APPLICATION_NAME = "sise writer"
# A lost peer (power, cable, firewall) is noticed within half a minute, not after the kernel's two hours.
KEEPALIVE: Mapping[str, int] = {
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
# Longer than a sane lock, shorter than statement_timeout: a predecessor whose host vanished may hold the cursor's row.
LOCK_TIMEOUT = "10s"
# Of the first attempt of a live batch: where a late row in it has to wait, all others would.
FIRST_LOCK_TIMEOUT = "300ms"
CANCEL_S = 1.0
# For a session, where the upkeep's statements have no transaction of their own, and again for every transaction.
SETTINGS = """
SELECT set_config('synchronous_commit', 'on', local), set_config('statement_timeout', statement, local),
    set_config('lock_timeout', lock, local)
FROM (VALUES (%s::text, %s::text, %s::bool)) AS setting (statement, lock, local)"""

ADVANCE = """
UPDATE ingest_cursor AS cursor SET seq = advance.new, updated_at = now()
FROM unnest(%s::int2[], %s::int8[], %s::int8[], %s::int8[]) AS advance (ring, epoch, old, new)
WHERE cursor.ring = advance.ring AND cursor.epoch = advance.epoch AND cursor.seq = advance.old"""

Ring = tuple[int, int]  # number, epoch
T = TypeVar("T")


class UnknownSchema(psycopg.ProgrammingError):
    """The tables are those of another version of Sise, which this one does not know."""


class Fenced(Refused):
    """Another writer has stored records of the same rings: this one must not write again."""


class Claim(Protocol):
    """The right to store one batch: taken by the transaction that stores it, so that no other can store it again."""

    @property
    def part(self) -> str:
        """Whose it is, in the names of failpoints."""

    def take(self, connection: Connection, /) -> bool:
        """Take it, as the first statement of the transaction; False if somebody has it already."""

    def is_taken(self, connection: Connection, /) -> bool:
        """Tell whether the batch is stored. Raises Fenced if another writer has stored something else."""


@dataclass(frozen=True, slots=True)
class Advance:
    """One ring's cursor, before and after a batch."""

    ring: Ring
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class CursorAdvances:
    """The claim of a live batch: its rings' cursors are where the writer knows them, and move over it."""

    part: ClassVar[str] = "writer"
    advances: Sequence[Advance]

    def take(self, connection: Connection, /) -> bool:
        """Move the cursors; False if one of them is elsewhere."""
        columns = [
            [advance.ring[0] for advance in self.advances],
            [advance.ring[1] for advance in self.advances],
            [advance.old for advance in self.advances],
            [advance.new for advance in self.advances],
        ]
        return connection.execute(ADVANCE, columns).rowcount == len(self.advances)

    def is_taken(self, connection: Connection, /) -> bool:
        """Tell whether all cursors have moved; Fenced if some have and some have not, or elsewhere."""
        found = _cursors(connection, [advance.ring for advance in self.advances])
        if all(found.get(advance.ring) == advance.new for advance in self.advances):
            return True
        if all(found.get(advance.ring) == advance.old for advance in self.advances):
            return False
        raise Fenced(f"ingest_cursor: expected {self}, found {found}: another writer is active")

    def __str__(self) -> str:
        return ", ".join(f"ring {a.ring[0]} epoch {a.ring[1]} at {a.old} or {a.new}" for a in self.advances)


class _ClaimTaken(Exception):
    pass


class Database:
    """One connection, made when needed and thrown away after every failure. Not for use by two threads at once."""

    def __init__(self, settings: DatabaseSettings, owner: Owner | None = None, gaps: StreamGaps | None = None) -> None:
        """owner: the data directory that must own the database; None: whose it is does not matter."""
        self._settings = settings
        self._owner = owner
        self._gaps = gaps or StreamGaps()
        self._connection: Connection | None = None
        self._cancelled: Connection | None = None  # that a statement was cancelled on
        self._log = log.get()

    def start_cursors(self, first: Mapping[Ring, int]) -> dict[Ring, int]:
        """Bring the schema up to date; return the stored cursor of each ring of *first*, a new one at its seq there.

        A new epoch of a ring that the database knows has replaced a file whose newest records may not be stored: that
        is logged, and noted in `feed_gaps`. Raises UnknownSchema if another version of Sise has made the tables.
        """
        connection = self._connected()
        with self._discarding_on_failure(connection):
            try:
                schema.migrate(
                    connection,
                    retention_days=self._settings.retention_days,
                    columnstore_after_days=self._settings.columnstore_after_days,
                )
            except ConfigError as exc:
                raise UnknownSchema(str(exc)) from exc
            with self._transaction(connection):
                for ring, seq in first.items():
                    self._gaps.start_cursor(connection, ring, seq)
            return _cursors(connection, first)

    def add_lapped_gaps(self, ring: Ring) -> None:
        """Note in `feed_gaps` that *ring* no longer holds what follows the database's cursor."""
        connection = self._connected()
        with self._discarding_on_failure(connection), self._transaction(connection):
            query = "SELECT seq, updated_at FROM ingest_cursor WHERE ring = %s AND epoch = %s"
            row = connection.execute(query, ring).fetchone()
            if row is not None:
                self._gaps.add_from_cursor(connection, ring, row[0], row[1], "ring lapped")

    def store(self, batch: Batch, claim: Claim, *, lock_timeout: str = LOCK_TIMEOUT) -> None:
        """Store *batch* under *claim*; returns when that is so, also if an earlier attempt had done it.

        Raises Fenced if the claim is taken and the batch not stored, psycopg.Error if the transaction failed: then it
        may have been committed all the same, and the same call finds out.
        """

        def copy(connection: Connection) -> None:
            for table in batch.rows:
                copy_rows(connection, table, batch, is_live=claim.part == CursorAdvances.part)

        self._claimed(claim, copy, lock_timeout)

    def store_isolated(self, block: RecordBlock, claim: Claim, *, puts_aside: bool = False) -> Isolated:
        """Store the rows of *block* that the server takes, and keep the others in `quarantine`, under *claim*.

        For a batch that `store` failed with FailureKind.DATA. puts_aside: or because a lock was not to be had; rows so
        old that their chunk may be compressed are then put aside. Everything is one transaction. If an earlier attempt
        had stored it, nothing is known about its rows, and the result says none. Raises as `store` does.
        """
        late_before = None
        if puts_aside:
            late_before = datetime.now(UTC) - timedelta(days=self._settings.columnstore_after_days)
        return self._claimed(claim, partial(isolation.store, block=block, late_before=late_before)) or Isolated()

    def store_missing(self, block: RecordBlock, claim: Claim) -> Isolated:
        """Do what `store_isolated` does for a block of which nobody knows what is stored: nothing of it twice."""
        return self._claimed(claim, partial(isolation.store, block=block, is_doubtful=True)) or Isolated()

    def store_put_aside(self) -> put_aside.Aside:
        """Store what was put aside, as far as it can be written to its place now. Raises psycopg.Error."""
        connection = self._connected()
        with self._discarding_on_failure(connection):
            return put_aside.store_waiting(connection)

    def _claimed(self, claim: Claim, work: Callable[[Connection], T], lock_timeout: str = LOCK_TIMEOUT) -> T | None:
        """Take *claim* and do *work*, in one transaction; None if that was done before."""
        connection = self._connected()
        try:
            return self._in_transaction(connection, claim, work, lock_timeout)
        except _ClaimTaken:
            with self._discarding_on_failure(connection):
                if claim.is_taken(connection):
                    return None
            raise Fenced(f"{claim}: another writer is active") from None

    def _in_transaction(
        self, connection: Connection, claim: Claim, work: Callable[[Connection], T], lock_timeout: str
    ) -> T:
        with self._discarding_on_failure(connection), self._transaction(connection, lock_timeout):
            if not claim.take(connection):
                raise _ClaimTaken
            result = work(connection)
            reach(f"{claim.part}.before_commit")
            return result

    def maintain(self, today: date) -> None:
        """Make partitions ahead, drop what is past its retention; see `schema.maintain`."""
        connection = self._connected()
        with self._discarding_on_failure(connection):
            schema.maintain(connection, today, retention_days=self._settings.retention_days)

    def keep_owner(self) -> None:
        """Say that our data directory still owns the database. Raises owner.OwnedByAnother."""
        if self._owner is not None:
            connection = self._connected()
            with self._discarding_on_failure(connection), self._transaction(connection):
                owner.take(connection, self._owner)

    def give_up_owner(self) -> None:
        """Let another data directory have the database from now on; without a connection it has to wait for that."""
        if self._owner is not None and self._connection is not None:
            with self._discarding_on_failure(self._connection), self._transaction(self._connection):
                owner.give_up(self._connection, self._owner)

    def cancel(self) -> None:
        """End the statement that another thread waits for. Never raises, and takes CANCEL_S at most.

        Where the server does not take that request, or did once and nothing came of it, the connection is cut: a
        server that hangs with a living kernel, or a cable that lets nothing through, would hold it for ever.
        """
        connection = self._connection
        if connection is None:
            return
        if self._cancelled is not connection:
            self._cancelled = connection
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=CANCEL_S)
                return
        _cut(connection)

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> Connection:
        if self._connection is None:
            address = make_conninfo(
                self._settings.dsn,
                application_name=APPLICATION_NAME,
                connect_timeout=self._settings.connect_timeout_s,
                client_encoding="UTF8",
                **KEEPALIVE,
            )
            # never prepared: the next transaction may be on another server of a pooler
            connection = psycopg.connect(address, autocommit=True, prepare_threshold=None)
            self._connection = connection  # from now on it can be cut
            with self._discarding_on_failure(connection):
                connection.execute(SETTINGS, [f"{self._settings.statement_timeout_s}s", LOCK_TIMEOUT, False])
                if self._owner is not None:
                    with self._transaction(connection):
                        owner.take(connection, self._owner)
                column_types.check(connection)
            return connection
        return self._connection

    @contextlib.contextmanager
    def _transaction(self, connection: Connection, lock_timeout: str = LOCK_TIMEOUT) -> Iterator[None]:
        """A transaction that survives a crash of the server once it is committed, and that never waits for ever."""
        with connection.transaction() as transaction:
            connection.execute(SETTINGS, [f"{self._settings.statement_timeout_s}s", lock_timeout, True])
            yield
        if transaction.status is not transaction.Status.COMMITTED:  # psycopg leaves a lost connection silently
            raise psycopg.OperationalError("the connection was lost before the commit")

    def _discarding_on_failure(self, connection: Connection) -> "_Discarding":
        return _Discarding(self, connection)


def _cut(connection: Connection) -> None:
    """Shut the socket down: the thread that waits for it finds the connection lost. Nothing else of it is touched."""
    with contextlib.suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def _cursors(connection: Connection, rings: Iterable[Ring]) -> dict[Ring, int]:
    rows = connection.execute("SELECT ring, epoch, seq FROM ingest_cursor").fetchall()
    found = {(int(str(ring)), int(str(epoch))): int(str(seq)) for ring, epoch, seq in rows}
    return {ring: found[ring] for ring in rings if ring in found}


class _Discarding:
    """After a failure nobody knows what state a connection is in: close it, the next call makes a new one."""

    def __init__(self, database: Database, connection: Connection) -> None:
        self._database = database
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        if isinstance(value, psycopg.Error):
            self._connection.close()
            self._database.close()
