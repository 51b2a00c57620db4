"""The database as the writer sees it: rows and ring cursors are stored in one transaction, or not at all.

Exactly once rests on `ingest_cursor`. Each transaction moves the cursor of every ring in it from the seq that the
writer knows to the new one. If that hits no row, either an earlier attempt of the same batch was committed although
its answer got lost, or another writer is active; reading the cursor tells which.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from daemon import log
from daemon.config import Database as DatabaseSettings
from daemon.errors import Refused
from daemon.sinks import schema
from daemon.sinks.schema import over_market_tables
from native_pipeline.copy_encoder import COLUMNS

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

ADVANCE = """
UPDATE ingest_cursor AS cursor SET seq = advance.new, updated_at = now()
FROM unnest(%s::int2[], %s::int8[], %s::int8[], %s::int8[]) AS advance (ring, epoch, old, new)
WHERE cursor.ring = advance.ring AND cursor.epoch = advance.epoch AND cursor.seq = advance.old"""

START_CURSOR = "INSERT INTO ingest_cursor (ring, epoch, seq) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
PREDECESSOR = """
SELECT epoch, updated_at FROM ingest_cursor WHERE ring = %s AND epoch < %s ORDER BY epoch DESC LIMIT 1"""
# Both searches are bounded, so that a start does not read years: a cursor is never older than its rows by more than the
# time that a batch takes to get stored, and a symbol that was silent for days has nothing to miss.
NEWEST_RECEIPT = over_market_tables(
    "SELECT coalesce(max(newest), %(updated_at)s) FROM ({union}) AS by_table (newest)",
    "SELECT max(recv_time) FROM {table} WHERE source = %(ring)s AND recv_time >= %(updated_at)s - INTERVAL '1 hour'",
)
# The streams are those of the ledger and, before its first checkpoint, of the newest rows.
# Once, however often it is tried: until a row of that ring is stored, `started` stays what it is.
ADD_GAPS = over_market_tables(
    """
INSERT INTO feed_gaps (venue, market, symbol, kind, started, ended, reason, missing, source, seq)
SELECT venue, market, symbol, kind, %(started)s::timestamptz, now(), %(reason)s, NULL::float8, source, 0
FROM (
    SELECT venue, market, symbol, kind, source FROM ingest_ledger
    WHERE source = %(ring)s AND minute >= %(updated_at)s - INTERVAL '3 days'
    UNION ({union})
) AS known
WHERE %(started)s < now() AND NOT EXISTS (
    SELECT FROM feed_gaps AS gap
    WHERE gap.ended >= %(started)s AND gap.started = %(started)s AND gap.reason = %(reason)s
    AND (gap.source, gap.venue, gap.market, gap.symbol, gap.kind)
        = (known.source, known.venue, known.market, known.symbol, known.kind)
)""",
    """
SELECT venue, market, symbol, '{kind}', source FROM {table}
WHERE source = %(ring)s AND recv_time >= %(updated_at)s - INTERVAL '1 hour'""",
)

Ring = tuple[int, int]  # number, epoch


class Fenced(Refused):
    """Another writer has stored records of the same rings: this one must not write again."""


class FailureKind(enum.Enum):
    """What a failed transaction means for the batch."""

    AWAY = "away"  # connection lost, server stopping, full or busy: the same batch will go in later
    DATA = "data"  # the server refuses a value of the batch
    SETUP = "setup"  # table, permission or edition is wrong: needs the operator


# SQLSTATE classes and codes; the first match decides, what is not listed needs the operator.
FAILURE_KINDS: Sequence[tuple[str, FailureKind]] = (
    ("08", FailureKind.AWAY),  # connection exception
    ("57", FailureKind.AWAY),  # operator intervention: shutdown, cannot connect now, statement timeout
    ("40", FailureKind.AWAY),  # serialization failure, deadlock
    ("53", FailureKind.AWAY),  # disk full, out of memory, too many connections
    ("55P03", FailureKind.AWAY),  # lock not available
    ("25006", FailureKind.AWAY),  # read-only: a replica that has not been promoted yet
    ("22", FailureKind.DATA),  # data exception
    ("23", FailureKind.DATA),  # integrity constraint
)


def classify(error: psycopg.Error) -> FailureKind:
    """Return what *error* means; without a SQLSTATE it never reached a working server."""
    if error.sqlstate is None:
        return FailureKind.AWAY
    for prefix, kind in FAILURE_KINDS:
        if error.sqlstate.startswith(prefix):
            return kind
    return FailureKind.SETUP


class Batch(Protocol):
    """What `native_pipeline.copy_encoder.CopyBatch` offers to the database."""

    @property
    def rows(self) -> Mapping[str, int]:
        """Rows by table; a table without rows is left out."""

    def block(self, table: str, /) -> memoryview:
        """Return the complete COPY stream of *table*."""


@dataclass(frozen=True, slots=True)
class Advance:
    """One ring's cursor, before and after a batch."""

    ring: Ring
    old: int
    new: int


class _CursorMoved(Exception):
    pass


class Database:
    """One connection, made when needed and thrown away after every failure. Not for use by two threads at once."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        self._in_doubt = False  # an attempt failed, and may have been committed all the same
        self._log = log.get()

    def start_cursors(self, first: Mapping[Ring, int]) -> dict[Ring, int]:
        """Bring the schema up to date; return the stored cursor of each ring of *first*, a new one at its seq there.

        A new epoch of a ring that the database knows has replaced a file whose newest records may not be stored: that
        is logged, and noted in `feed_gaps`.
        """
        connection = self._connected()
        with self._discarding_on_failure(connection):
            schema.migrate(
                connection,
                retention_days=self._settings.retention_days,
                columnstore_after_days=self._settings.columnstore_after_days,
            )
            with connection.transaction():
                for ring, seq in first.items():
                    if connection.execute(START_CURSOR, [*ring, seq]).rowcount:
                        self._note_replaced(connection, ring)
        return self._cursors(first)

    def add_lapped_gaps(self, ring: Ring) -> None:
        """Note in `feed_gaps` that *ring* no longer holds what follows the database's cursor."""
        connection = self._connected()
        with self._discarding_on_failure(connection), connection.transaction():
            query = "SELECT updated_at FROM ingest_cursor WHERE ring = %s AND epoch = %s"
            row = connection.execute(query, ring).fetchone()
            if row is not None:
                self._add_gaps(connection, ring[0], row[0], "ring lapped")

    def store(self, batch: Batch, advances: Sequence[Advance]) -> None:
        """Store *batch* and move the cursors; returns when that is so, also if an earlier attempt had done it.

        Raises Fenced if the cursors are neither where *advances* start nor where they end, psycopg.Error if the
        transaction failed: then call again with the same arguments, and with no others before.
        """
        if self._in_doubt and self._is_stored(advances):
            self._in_doubt = False
            return
        connection = self._connected()
        self._in_doubt = True
        try:
            with self._discarding_on_failure(connection), connection.transaction():
                self._advance(connection, advances)
                for table in batch.rows:
                    self._copy(connection, table, batch)
        except _CursorMoved:
            if not self._is_stored(advances):
                raise Fenced(f"ingest_cursor: expected {_describe(advances)}: another writer is active") from None
        self._in_doubt = False

    def maintain(self, today: date) -> None:
        """Make partitions ahead, drop what is past its retention; see `schema.maintain`."""
        connection = self._connected()
        with self._discarding_on_failure(connection):
            schema.maintain(connection, today, retention_days=self._settings.retention_days)

    def cancel(self) -> None:
        """End the statement that another thread waits for."""
        if self._connection is not None:
            self._connection.cancel_safe(timeout=1.0)

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> psycopg.Connection[tuple[object, ...]]:
        if self._connection is None:
            address = make_conninfo(
                self._settings.dsn,
                application_name=APPLICATION_NAME,
                connect_timeout=self._settings.connect_timeout_s,
                client_encoding="UTF8",
                **KEEPALIVE,
            )
            connection = psycopg.connect(address, autocommit=True)
            with self._discarding_on_failure(connection):
                connection.execute(
                    "SELECT set_config('synchronous_commit', 'on', false),"
                    " set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false)",
                    [f"{self._settings.statement_timeout_s}s", LOCK_TIMEOUT],
                )
            self._connection = connection
        return self._connection

    def _discarding_on_failure(self, connection: psycopg.Connection[tuple[object, ...]]) -> "_Discarding":
        return _Discarding(self, connection)

    def _note_replaced(self, connection: psycopg.Connection[tuple[object, ...]], ring: Ring) -> None:
        """Before the commit: twice in the log if that fails is better than never if only its answer is lost."""
        number, epoch = ring
        row = connection.execute(PREDECESSOR, ring).fetchone()
        if row is None:
            return
        old_epoch, updated_at = row
        started = self._add_gaps(connection, number, updated_at, "ring lost")
        self._log.critical("ring_lost", ring=number, old_epoch=old_epoch, new_epoch=epoch, started=started.isoformat())

    def _add_gaps(
        self, connection: psycopg.Connection[tuple[object, ...]], number: int, updated_at: object, reason: str
    ) -> datetime:
        """Add a row for each stream of ring *number*, from its newest row until now; return when they start."""
        values = {"ring": number, "updated_at": updated_at, "reason": reason}
        row = connection.execute(NEWEST_RECEIPT, values).fetchone()
        assert row is not None
        started = row[0]
        assert isinstance(started, datetime)
        connection.execute(ADD_GAPS, {**values, "started": started})
        return started

    def _advance(self, connection: psycopg.Connection[tuple[object, ...]], advances: Sequence[Advance]) -> None:
        """Before the rows: a writer that was overtaken finds out at once, and two never copy side by side."""
        columns = [
            [advance.ring[0] for advance in advances],
            [advance.ring[1] for advance in advances],
            [advance.old for advance in advances],
            [advance.new for advance in advances],
        ]
        if connection.execute(ADVANCE, columns).rowcount != len(advances):
            raise _CursorMoved

    def _copy(self, connection: psycopg.Connection[tuple[object, ...]], table: str, batch: Batch) -> None:
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, COLUMNS[table]))
        )
        with connection.cursor() as cursor, batch.block(table) as block:
            with cursor.copy(statement) as copy:
                copy.write(block)
            if cursor.rowcount != batch.rows[table]:
                raise psycopg.DataError(f"{table}: sent {batch.rows[table]} rows, the server took {cursor.rowcount}")

    def _is_stored(self, advances: Sequence[Advance]) -> bool:
        """Tell whether all of *advances* have been made; Fenced if some were and some were not, or others."""
        found = self._cursors([advance.ring for advance in advances])
        if all(found.get(advance.ring) == advance.new for advance in advances):
            return True
        if all(found.get(advance.ring) == advance.old for advance in advances):
            return False
        raise Fenced(f"ingest_cursor: expected {_describe(advances)}, found {found}: another writer is active")

    def _cursors(self, rings: Sequence[Ring] | Mapping[Ring, int]) -> dict[Ring, int]:
        connection = self._connected()
        with self._discarding_on_failure(connection):
            rows = connection.execute("SELECT ring, epoch, seq FROM ingest_cursor").fetchall()
        found = {(int(str(ring)), int(str(epoch))): int(str(seq)) for ring, epoch, seq in rows}
        return {ring: found[ring] for ring in rings if ring in found}


class _Discarding:
    """After a failure nobody knows what state a connection is in: close it, the next call makes a new one."""

    def __init__(self, database: Database, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        self._database = database
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        if isinstance(value, psycopg.Error):
            self._connection.close()
            self._database.close()


def _describe(advances: Sequence[Advance]) -> str:
    return ", ".join(f"ring {a.ring[0]} epoch {a.ring[1]} at {a.old} or {a.new}" for a in advances)
