"""Store the good rows of a batch that the server refuses, and keep the bad ones in `quarantine` with its reason.

Inside one transaction of `database.py`. Each table is copied under a savepoint; only a table of which the server
refuses a value (FailureKind.DATA) is taken apart. Every other failure ends the transaction as a whole.

A row that is late may have to wait for a part of its table that nobody may write to for minutes, because it is being
compressed. Such rows are put aside: kept in `quarantine` too, from where `put_aside.py` stores them.

A row that breaks a unique index is looked for: only a row of the same source and seq is the same row, and needs not be
stored again. Another row that happens to have the same key is refused like any other.
"""

import re
import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import psycopg
from psycopg import errors, sql

from daemon import log
from daemon.alerts import Alerts
from daemon.failpoints import reach
from daemon.ingest.venues import MARKET_NAMES, VENUE_NAMES
from daemon.sinks.bisection import Refusal, RefusedRow, store_parts
from daemon.sinks.failures import UNIQUE_VIOLATION, FailureKind, RefusalNotKept, RowsSwallowed, classify, kind_of
from daemon.sinks.host import Counters
from native_pipeline.copy_encoder import COLUMNS, TABLE_OF_KIND, CopyBatch
from native_pipeline.record_block import RecordBlock
from native_pipeline.records import GAP_REASONS, MARKET_DATA, QUARANTINE_REASONS

Connection = psycopg.Connection[tuple[object, ...]]

MAX_REASON_CHARS = 500  # a message may quote the row
MAX_REASONS = 5  # of a batch, in log and alert
NAMED_LINE = re.compile(r"COPY [^,]+, \S+ (\d+)")  # the context of an error; other languages have another word
CHUNK = re.compile(r"_hyper_\d+_\d+_chunk")  # TimescaleDB names it in messages: one reason, whatever the day
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REFUSED = "refused by the database: "
PUT_ASIDE = "put aside: its part of the table was locked"  # the reason of rows that are stored as soon as it is not
_SEQ = struct.Struct("<8xQ")
_EXCHANGE_NS = struct.Struct("<56xq")  # of every market record: the header's 32 bytes, the symbol's 24, then the time
INCOMING = "sise_incoming"
REFUSED_ROWS = "sise_refused"
MANY_REFUSALS = 64  # of parts of one table; after that the server goes through the rows by itself

KEEP = """
INSERT INTO quarantine (recv_time, venue, reason, detail, frame, original_bytes, source, seq, kind, market, symbol)
VALUES (%s, %s, %s, 0, %s, %s, %s, %s, %s, %s, %s)"""
KEPT = """
SELECT source, seq FROM quarantine JOIN unnest(%s::int2[], %s::int8[]) AS asked (source, seq) USING (source, seq)
WHERE kind IS NOT NULL"""


MARKET_TABLES = {data.table for data in MARKET_DATA}
# What finds a row with the help of an index or a partition, besides the source and seq that identify it.
FOUND_BY: Mapping[str, Sequence[str]] = {
    **{data.table: ("symbol", "time") for data in MARKET_DATA},
    "quarantine": ("recv_time",),
    "feed_gaps": ("ended",),
    "ingest_ledger": ("minute",),
}
MAKE_INCOMING = """
CREATE TEMPORARY TABLE {incoming} (LIKE {table}, incoming_row int4 GENERATED ALWAYS AS IDENTITY) ON COMMIT DROP"""
# Row by row: a plan over whole tables, which may be years long, is never worth it. Until the end of the transaction.
BY_INDEX = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off"
TAKE_KNOWN = "DELETE FROM {incoming} AS incoming USING {table} AS stored WHERE {same} RETURNING incoming_row"
INSERT_NEW = """
INSERT INTO {table} ({columns}) SELECT {columns} FROM {incoming} ORDER BY incoming_row ON CONFLICT DO NOTHING"""
# Row by row on the server, each under a savepoint of its own: many bad rows cost no questions. OTHERS leaves out a
# cancelled statement, which must end everything, and a failed assertion, which must not.
MAKE_REFUSED = "CREATE TEMPORARY TABLE {refused} (incoming_row int4, state text, message text) ON COMMIT DROP"
INSERT_EACH = """
DO $$
DECLARE incoming record;
BEGIN
    FOR incoming IN SELECT * FROM {incoming} ORDER BY incoming_row LOOP
        BEGIN
            INSERT INTO {table} ({columns}) VALUES ({values});
            IF NOT FOUND THEN
                INSERT INTO {refused} VALUES (incoming.incoming_row, '', 'swallowed');
            END IF;
        EXCEPTION WHEN OTHERS OR assert_failure THEN
            INSERT INTO {refused} VALUES (incoming.incoming_row, SQLSTATE, SQLERRM);
        END;
    END LOOP;
END $$"""
TAKE_KNOWN_OF_REFUSED = """
DELETE FROM {refused} AS refused USING {incoming} AS incoming, {table} AS stored
WHERE refused.state = {unique} AND incoming.incoming_row = refused.incoming_row AND {same}
RETURNING refused.incoming_row"""
FIND_REFUSED = "SELECT incoming_row, state, message FROM {refused} ORDER BY incoming_row"
FIND_LEFT = """
SELECT incoming_row FROM {incoming} AS incoming WHERE NOT EXISTS (SELECT FROM {table} AS stored WHERE {same})"""


class Batch(Protocol):
    """What `native_pipeline.copy_encoder.CopyBatch` offers to the database."""

    @property
    def rows(self) -> Mapping[str, int]:
        """Rows by table; a table without rows is left out."""

    def block(self, table: str, /) -> memoryview:
        """Return the complete COPY stream of *table*."""


@dataclass(frozen=True, slots=True)
class Isolated:
    """What became of the rows of a batch that was taken apart."""

    refused: int = 0  # kept in quarantine
    already_stored: int = 0  # the table had them, with the same source and seq
    reasons: Sequence[str] = field(default=())  # "table: SQLSTATE message (rows)", the most frequent first
    put_aside: int = 0  # late ones, in quarantine until their part of the table can be written to


def new_batch() -> CopyBatch:
    """Return an empty batch that knows the names of all ids in records."""
    return CopyBatch(
        venues=VENUE_NAMES, markets=MARKET_NAMES, quarantine_reasons=QUARANTINE_REASONS, gap_reasons=GAP_REASONS
    )


def report(isolated: Isolated, counters: Counters, alerts: Alerts) -> None:
    """Count, log and tell people what `store` found; nothing if every row went in."""
    if isolated.already_stored:
        counters.increment("rows_already_stored", isolated.already_stored)
        log.get().warning("rows_already_stored", rows=isolated.already_stored)
    if isolated.put_aside:
        log.get().info("rows_put_aside", rows=isolated.put_aside)
    if isolated.refused:
        counters.increment("rows_refused", isolated.refused)
        log.get().error("rows_refused", rows=isolated.refused, reasons=list(isolated.reasons))
        message = f"{isolated.refused} rows are in quarantine; {isolated.reasons[0]}"
        alerts.send("WARNING", "rows_refused", message, subject="database")


def store(
    connection: Connection, block: RecordBlock, *, is_doubtful: bool = False, late_before: datetime | None = None
) -> Isolated:
    """Store what the server takes of *block* and keep the rest in `quarantine`, inside the caller's transaction.

    is_doubtful: each row may be in its table already, or in quarantine, and is looked for first. late_before: market
    data with an earlier exchange time are put aside.

    Raises psycopg.Error for every failure that is not about a value of a row, RefusalNotKept if `quarantine` refuses.
    """
    connection.execute("SET CONSTRAINTS ALL IMMEDIATE")  # none is to refuse everything at the commit
    tables: dict[str, list[int]] = {}
    for record, kind in enumerate(block.kinds):
        if kind in TABLE_OF_KIND:
            tables.setdefault(TABLE_OF_KIND[kind], []).append(record)
    put_aside = set() if late_before is None else _put_aside(connection, block, tables, late_before)
    already_stored = 0
    reasons: Counter[str] = Counter()
    batch = new_batch()
    for table in (table for table in COLUMNS if table in tables):
        left_out = _find_kept(connection, block, tables[table]) if is_doubtful else put_aside
        rows = _TableRows(connection, table, block, tables[table], batch, is_doubtful=is_doubtful, left_out=left_out)
        refused = rows.store()
        _keep(connection, block, [(rows.records[each.row], REFUSED + _text_of(each.refusal)) for each in refused])
        reasons.update(f"{table}: {CHUNK.sub(table, _text_of(each.refusal))}" for each in refused)
        already_stored += rows.already_stored
    named = [f"{reason} ({rows} rows)" for reason, rows in reasons.most_common(MAX_REASONS)]
    return Isolated(reasons.total(), already_stored, tuple(named), len(put_aside))


def _put_aside(
    connection: Connection, block: RecordBlock, tables: Mapping[str, Sequence[int]], late_before: datetime
) -> set[int]:
    """Keep the late records of *tables* in `quarantine` and return them."""
    limit_ns = (late_before - EPOCH) // timedelta(microseconds=1) * 1000
    market = sorted(record for table in MARKET_TABLES & tables.keys() for record in tables[table])
    late = [record for record in market if _EXCHANGE_NS.unpack_from(block.record_bytes(record))[0] < limit_ns]
    _keep(connection, block, [(record, PUT_ASIDE) for record in late])
    return set(late)


def copy_rows(
    connection: Connection, table: str, batch: Batch, *, into: sql.Composable | None = None, is_live: bool = False
) -> None:
    """COPY the rows that *batch* has for *table* into it, or into another one with the same columns.

    is_live: the batch comes from the rings. Raises RowsSwallowed if the server takes fewer without an error.
    """
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        into or sql.Identifier(table), _columns_of(table)
    )
    with connection.cursor() as cursor, batch.block(table) as stream:
        with cursor.copy(statement) as copy:
            copy.write(stream)
            if is_live:
                reach("writer.in_copy")
        if cursor.rowcount != batch.rows[table]:
            raise RowsSwallowed(f"{table}: sent {batch.rows[table]} rows, the server took {cursor.rowcount}")


class _TableRows:
    """The rows of one table in a block, and how they get there."""

    def __init__(
        self,
        connection: Connection,
        table: str,
        block: RecordBlock,
        records: Sequence[int],
        batch: CopyBatch,
        *,
        is_doubtful: bool,
        left_out: Collection[int],
    ) -> None:
        self._connection = connection
        self._table = table
        self._block = block
        self._left_out = sorted(left_out)
        self.records = [record for record in records if record not in left_out]  # of the rows, in the block
        self._batch = batch
        self._is_doubtful = is_doubtful
        self._conflicts: list[RefusedRow] = []
        self._refusals = 0
        self.already_stored = 0

    def store(self) -> list[RefusedRow]:
        """Store all rows but those that the server refuses, and return these."""
        refused = store_parts(len(self.records), self._attempt)
        return sorted([*refused, *self._conflicts], key=lambda each: each.row)

    def _attempt(self, begin: int, end: int) -> Refusal | None:
        """Store the rows [begin, end), or none of them and say why."""
        self._encode(begin, end)
        refusal = self._merge(begin) if self._is_doubtful else self._copy()
        if refusal is None:
            return None
        self._refusals += 1
        if refusal.state == UNIQUE_VIOLATION and not self._is_doubtful:
            return self._merge(begin)
        if self._refusals > MANY_REFUSALS and end - begin > 1:
            return self._store_each(begin, refusal)
        return refusal

    def _encode(self, begin: int, end: int) -> None:
        """Encode the records of these rows, and those of other tables in between, which nobody asks for."""
        self._batch.clear()
        first, behind = self.records[begin], self.records[end - 1] + 1
        for each in self._left_out[bisect_left(self._left_out, first) : bisect_left(self._left_out, behind)]:
            if first < each:
                self._batch.append_block(self._block, first, each)
            first = each + 1
        self._batch.append_block(self._block, first, behind)

    def _copy(self) -> Refusal | None:
        try:
            with self._connection.transaction():
                copy_rows(self._connection, self._table, self._batch)
        except psycopg.Error as exc:
            return _refusal(exc)
        return None

    def _merge(self, first_row: int) -> Refusal | None:
        """Store what no unique index has yet; of the others, tell the same rows from different ones."""
        names = self._names()
        try:
            with self._connection.transaction():
                self._execute(MAKE_INCOMING, names)
                copy_rows(self._connection, self._table, self._batch, into=names["incoming"])
                self._execute(BY_INDEX, names)
                known = self._execute(TAKE_KNOWN, names).fetchall()
                self._execute(INSERT_NEW, names)
                left = self._execute(FIND_LEFT, names).fetchall()
                self._execute("DROP TABLE {incoming}", names)
        except psycopg.Error as exc:
            return _refusal(exc)
        self.already_stored += len(known)
        why = Refusal(UNIQUE_VIOLATION, "another row has the same key of a unique index")
        self._conflicts += [RefusedRow(first_row + int(str(row)) - 1, why) for (row,) in left]
        return None

    def _store_each(self, first_row: int, refusal: Refusal) -> Refusal | None:
        """Let the server store row by row and say which it refuses; *refusal* as it is if that is not possible."""
        names = self._names()
        try:
            with self._connection.transaction():
                self._execute(MAKE_INCOMING, names)
                self._execute(MAKE_REFUSED, names)
                copy_rows(self._connection, self._table, self._batch, into=names["incoming"])
                self._execute(BY_INDEX, names)
                known = self._execute(TAKE_KNOWN, names).fetchall() if self._is_doubtful else []
                self._execute(INSERT_EACH, names)
                known += self._execute(TAKE_KNOWN_OF_REFUSED, names).fetchall()
                found = self._execute(FIND_REFUSED, names).fetchall()
                refused = [
                    _refused_row(first_row + int(str(row)) - 1, str(state), str(why)) for row, state, why in found
                ]
                self._execute("DROP TABLE {incoming}, {refused}", names)
        except psycopg.errors.InsufficientPrivilege:
            return refusal  # no right to make temporary tables: slower, in parts
        except psycopg.Error as exc:
            return _refusal(exc)
        self.already_stored += len(known)
        self._conflicts += refused
        return None

    def _names(self) -> Mapping[str, sql.Composable]:
        same = sql.SQL(" AND ").join(
            sql.SQL("stored.{column} = incoming.{column}").format(column=sql.Identifier(column))
            for column in (*FOUND_BY[self._table], "source", "seq")
        )
        return {
            "table": sql.Identifier(self._table),
            "incoming": sql.Identifier(f"{INCOMING}_{self._table}"),
            "refused": sql.Identifier(f"{REFUSED_ROWS}_{self._table}"),
            "columns": _columns_of(self._table),
            "values": sql.SQL(", ").join(sql.Identifier("incoming", column) for column in COLUMNS[self._table]),
            "same": same,
            "unique": sql.Literal(UNIQUE_VIOLATION),
        }

    def _execute(self, query: str, names: Mapping[str, sql.Composable]) -> psycopg.Cursor[tuple[object, ...]]:
        return self._connection.execute(sql.SQL(query).format(**names))


def _find_kept(connection: Connection, block: RecordBlock, records: Sequence[int]) -> set[int]:
    """Return which of *records* an earlier attempt has put into quarantine: they wait there, or were stored since."""
    ids = [(block.ring_of(record), _SEQ.unpack_from(block.record_bytes(record))[0]) for record in records]
    kept = set(connection.execute(KEPT, [[ring for ring, _ in ids], [seq for _, seq in ids]]).fetchall())
    return {record for record, one in zip(records, ids, strict=True) if one in kept}


def _keep(connection: Connection, block: RecordBlock, records: Sequence[tuple[int, str]]) -> None:
    """Add the records with these numbers to `quarantine`, with a reason each: the whole record, as the ring had it."""
    values = []
    for record, reason in records:
        said = block.describe(record)
        frame = block.record_bytes(record)
        # a gap or ledger record has no time of receipt, and retention counts from it
        recv_time = EPOCH + timedelta(microseconds=said["recv_ns"] // 1000) if said["recv_ns"] else datetime.now(UTC)
        values.append([
            recv_time, _name(VENUE_NAMES, said["venue"]), reason[:MAX_REASON_CHARS], frame,
            len(frame), block.ring_of(record), said["seq"], said["kind"], _name(MARKET_NAMES, said["market"]),
            said.get("symbol"),
        ])  # fmt: skip
    if not values:
        return
    try:
        with connection.cursor() as cursor:
            cursor.executemany(KEEP, values)
    except psycopg.Error as exc:
        if classify(exc) is FailureKind.DATA:
            raise RefusalNotKept(f"quarantine: {_text_of(_refusal(exc))}") from exc
        raise


def _refusal(error: psycopg.Error) -> Refusal:
    """Return what the server says of a row. Raises *error* again if it is not about one."""
    if classify(error) is not FailureKind.DATA or error.sqlstate is None:
        raise error
    line = NAMED_LINE.search(error.diag.context or "")
    return Refusal(error.sqlstate, error.diag.message_primary or "", int(line[1]) - 1 if line else None)


def _refused_row(row: int, state: str, message: str) -> RefusedRow:
    """Return that the server refused *row*. Raises psycopg.Error if the state is not about a row."""
    if not state:
        raise RowsSwallowed("the server took a row without storing it")
    if kind_of(state) is not FailureKind.DATA:
        raise errors.lookup(state)(message)
    return RefusedRow(row, Refusal(state, message))


def _text_of(refusal: Refusal) -> str:
    return f"{refusal.state} {refusal.message}"


def _columns_of(table: str) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, COLUMNS[table]))


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) else "unknown"
