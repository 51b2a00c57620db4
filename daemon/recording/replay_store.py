"""Puts replayed rows into the tables, but only those that the tables do not have: one transaction for each file.

The rows are copied into temporary tables and compared with what was received in the same time, as multisets: a row that
comes twice has to be there twice. First by everything that a row says, but for its source and seq. Then what is left of
both sides by its content alone, without the receipt: if the capture lacks a message, what a redundant session brought a
moment later is the same trade, and must not be stored a second time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from daemon.errors import Refused
from daemon.sinks.schema import MARKET_TABLES
from native_pipeline.copy_encoder import COLUMNS, CopyBatch
from native_pipeline.records import MARKET_DATA

Connection = psycopg.Connection[tuple[Any, ...]]

TABLES = (*MARKET_TABLES, "quarantine")
KIND_OF = {data.table: data.name for data in MARKET_DATA}
OWN = frozenset({"source", "seq"})
# Of the ring's repair and of arrival, no part of what a venue said: SISE_FLAG_LATE, _CLOCK_STEP, _RESUMED of layout.h.
ARRIVAL_FLAGS = 8 | 64 | 128
LOWEST_SOURCE = -(1 << 15)  # int2; of worker 0. What comes out of quarantine has numbers far above
LOCK_ID = 0x73697372  # "sisr": two replays at once would not see each other's rows
SLACK = timedelta(seconds=60)  # around the compared time, for the second comparison

STAGE = "CREATE TEMP TABLE {staged} (LIKE {table}) ON COMMIT DROP"
# Two hashes with different seeds are 128 bits: among 10^8 rows two different ones are never the same.
OURS = """
CREATE TEMP TABLE {ours} ON COMMIT DROP AS
SELECT *, row_number() OVER (PARTITION BY row1, row2 ORDER BY source, seq) AS nth FROM (
    SELECT source, seq, recv_time, hash_record_extended({row}, 0) AS row1, hash_record_extended({row}, 1) AS row2,
        hash_record_extended({content}, 0) AS content1, hash_record_extended({content}, 1) AS content2
    FROM {staged}
) AS hashed"""
KNOWN = """
CREATE TEMP TABLE {known} ON COMMIT DROP AS
SELECT *, row_number() OVER (PARTITION BY row1, row2) AS nth FROM (
    SELECT recv_time, hash_record_extended({row}, 0) AS row1, hash_record_extended({row}, 1) AS row2,
        hash_record_extended({content}, 0) AS content1, hash_record_extended({content}, 1) AS content2
    FROM {table} WHERE recv_time >= %s AND recv_time <= %s AND venue = %s
) AS hashed"""
FRESH = """
CREATE TEMP TABLE {fresh} ON COMMIT DROP AS
SELECT source, seq FROM (
    SELECT ours.source, ours.seq, content1, content2,
        row_number() OVER (PARTITION BY content1, content2 ORDER BY ours.recv_time, ours.source, ours.seq) AS nth
    FROM {ours} AS ours WHERE NOT EXISTS (
        SELECT FROM {known} AS known
        WHERE (known.row1, known.row2, known.nth) = (ours.row1, ours.row2, ours.nth))
) AS single WHERE NOT EXISTS (
    SELECT FROM (
        SELECT content1, content2, row_number() OVER (PARTITION BY content1, content2) AS nth
        FROM {known} AS known WHERE NOT EXISTS (
            SELECT FROM {ours} AS ours
            WHERE (known.row1, known.row2, known.nth) = (ours.row1, ours.row2, ours.nth))
    ) AS spare
    WHERE (spare.content1, spare.content2, spare.nth) = (single.content1, single.content2, single.nth))"""
INSERT = """
INSERT INTO {table} ({columns})
SELECT {columns} FROM {staged} JOIN {fresh} USING (source, seq) ORDER BY source, seq"""
# What the workers had counted and the tables did not hold is what these rows make up for: it is not counted twice. The
# newest seq of a source stands in each of its ledger rows, so that they cover all of its rows.
LEDGER = """
WITH added AS (
    SELECT date_bin('1 minute', recv_time, TIMESTAMPTZ 'epoch') AS minute, market, venue, symbol,
        max(source) AS source, count(*) AS rows
    FROM {staged} JOIN {fresh} USING (source, seq) GROUP BY 1, 2, 3, 4
), bounds AS (
    SELECT min(minute) AS first, max(minute) + INTERVAL '1 minute' AS behind FROM added
), counted AS (
    SELECT minute, market, venue, symbol, sum(received) AS rows FROM ingest_ledger, bounds
    WHERE minute >= first AND minute < behind AND kind = %(kind)s GROUP BY 1, 2, 3, 4
), stored AS (
    SELECT date_bin('1 minute', recv_time, TIMESTAMPTZ 'epoch') AS minute, market, venue, symbol, count(*) AS rows
    FROM {table}, bounds WHERE recv_time >= first AND recv_time < behind GROUP BY 1, 2, 3, 4
)
INSERT INTO ingest_ledger (minute, market, venue, symbol, kind, received, through_seq, source, seq)
SELECT minute, market, venue, symbol, %(kind)s,
    greatest(0, added.rows - greatest(0, coalesce(counted.rows, 0) - (stored.rows - added.rows))),
    newest.seq, added.source, newest.seq
FROM added JOIN stored USING (minute, market, venue, symbol)
LEFT JOIN counted USING (minute, market, venue, symbol)
JOIN (SELECT source, max(seq) AS seq FROM {staged} JOIN {fresh} USING (source, seq) GROUP BY 1) AS newest
    USING (source)"""
# A source of which every row is of a key that another source stands for would not be covered by any.
COVER = """
INSERT INTO ingest_ledger (minute, market, venue, symbol, kind, received, through_seq, source, seq)
SELECT DISTINCT ON (source) date_bin('1 minute', recv_time, TIMESTAMPTZ 'epoch'), market, venue, symbol, %(kind)s, 0,
    max(seq) OVER (PARTITION BY source), source, max(seq) OVER (PARTITION BY source)
FROM {staged} JOIN {fresh} USING (source, seq) ORDER BY source, seq DESC"""
NOTE = """
INSERT INTO replayed_captures (file, venue, first_recv, last_recv, frames, inserted, known)
VALUES (%s, %s, %s, %s, %s, %s, %s)"""


class _Undo(Exception):
    """Ends a transaction that was only a trial."""


@dataclass(slots=True)
class Stored:
    """What became of the rows of one transaction."""

    inserted: dict[str, int] = field(default_factory=dict)  # by table
    known: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Stored") -> None:
        """Add the counts of *other*."""
        for mine, others in ((self.inserted, other.inserted), (self.known, other.known)):
            for table, rows in others.items():
                mine[table] = mine.get(table, 0) + rows


def require_alone(connection: Connection) -> None:
    """Keep every other replay away until the transaction of *connection* ends. Raises Refused: there is one.

    Of the transaction and not of the session, which a pooler would give to somebody else, lock and all. One after the
    other is enough: the second finds in the tables what the first has stored.
    """
    if connection.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK_ID]).fetchone() != (True,):
        raise Refused("another replay is running into this database")


class Staging:
    """The rows of one transaction, before they are compared. A context manager: what is not stored is gone."""

    def __init__(self, connection: Connection, *, venue: str, is_dry_run: bool) -> None:
        self._connection = connection
        self._venue = venue
        self._is_dry_run = is_dry_run
        self._transaction: Any = None  # psycopg's context manager
        self._staged: set[str] = set()

    def __enter__(self) -> "Staging":
        self._transaction = self._connection.transaction()
        self._transaction.__enter__()
        try:
            require_alone(self._connection)
        except BaseException as exc:
            self._transaction.__exit__(type(exc), exc, exc.__traceback__)
            raise
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        if kind is None and self._is_dry_run:
            self._transaction.__exit__(_Undo, _Undo(), None)
            return
        self._transaction.__exit__(kind, value, trace)

    def copy(self, batch: CopyBatch) -> None:
        """Take the rows of *batch*. Raises psycopg.Error."""
        for table, rows in batch.rows.items():
            if table not in TABLES:
                continue
            if table not in self._staged:
                self._connection.execute(_filled(STAGE, table))
                self._staged.add(table)
            statement = _filled("COPY {staged} ({columns}) FROM STDIN (FORMAT BINARY)", table)
            with self._connection.cursor() as cursor, batch.block(table) as block:
                with cursor.copy(statement) as copy:
                    copy.write(block)
                if cursor.rowcount != rows:
                    raise psycopg.DataError(f"{table}: sent {rows} rows, the server took {cursor.rowcount}")

    def store(self, *, file: str, frames: int, slack: timedelta = SLACK) -> Stored:
        """Insert what the tables do not have, with its ledger rows, and note *file*. Raises psycopg.Error."""
        stored = Stored()
        bounds: list[datetime] = []
        for table in sorted(self._staged):
            bounds += self._store_table(table, stored, slack)
        total = [sum(counts.values()) for counts in (stored.inserted, stored.known)]
        times = [min(bounds), max(bounds)] if bounds else [None, None]
        self._connection.execute(NOTE, [file, self._venue, *times, frames, *total])
        return stored

    def _store_table(self, table: str, stored: Stored, slack: timedelta) -> Iterable[datetime]:
        execute = self._connection.execute
        row = execute(_filled("SELECT count(*), min(recv_time), max(recv_time) FROM {staged}", table)).fetchone()
        assert row is not None
        rows, first, last = row
        if not rows:
            return ()
        execute(_filled(OURS, table))
        execute(_filled(KNOWN, table), [first - slack, last + slack, self._venue])
        execute(_filled("ANALYZE {ours}", table))
        execute(_filled("ANALYZE {known}", table))
        execute(_filled(FRESH, table))
        stored.inserted[table] = execute(_filled(INSERT, table)).rowcount
        stored.known[table] = rows - stored.inserted[table]
        if table in KIND_OF and stored.inserted[table]:
            execute(_filled(LEDGER, table), {"kind": KIND_OF[table]})
            execute(_filled(COVER, table), {"kind": KIND_OF[table]})
        return first.astimezone(UTC), last.astimezone(UTC)


def _filled(query: str, table: str) -> sql.Composed:
    """Return *query* for *table* and its temporary tables."""
    said = [column for column in COLUMNS[table] if column not in OWN]
    names: Mapping[str, sql.Composable] = {
        name: sql.Identifier(f"replay_{name}_{table}") for name in ("staged", "ours", "known", "fresh")
    }
    return sql.SQL(query).format(
        table=sql.Identifier(table),
        columns=sql.SQL(", ").join(map(sql.Identifier, COLUMNS[table])),
        row=_record(map(sql.Identifier, said)),
        content=_record(_content(column) for column in said if column != "recv_time"),
        **names,
    )


def _record(values: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL("ROW({})").format(sql.SQL(", ").join(values))


def _content(column: str) -> sql.Composable:
    """Return what *column* says apart from how the row arrived."""
    if column == "flags":
        return sql.SQL("(flags & {})").format(sql.Literal(~ARRIVAL_FLAGS & 0x7FFF))
    if column == "time":  # of an event without one, it is that of the receipt
        return sql.SQL("nullif(time, recv_time)")
    return sql.Identifier(column)
