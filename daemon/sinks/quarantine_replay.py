"""`sise quarantine replay`: stores what lies in quarantine after all, once.

Entries are locked, stored and marked in one transaction for each batch: whoever comes second, at the same time or
later, finds them taken or marked. What still cannot be stored stays where it is, unchanged.

Rows that came out of a frame have a source of their own, -1 - ring (and further down by 64 for each further row of one
frame), and the number of the quarantined record: so they are unique, never confused with what the ring numbered, and in
their place among the rows of that minute. Ledger rows of that source say how many there are. A row that the database
refused keeps its ring and number: the ledger has counted it when it was received.
"""

import enum
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import psycopg
from psycopg import sql

from daemon.config import Config
from daemon.errors import ConfigError, InvariantBroken, RingError, first_line
from daemon.failpoints import reach
from daemon.ingest.venues import VENUE_CLASSES
from daemon.sinks import column_types
from daemon.sinks.isolation import new_batch
from daemon.sinks.quarantine import COLUMNS, Connection, Entry, EntryId
from daemon.sinks.reparse import ENCRYPTED, Reparser
from native_pipeline.copy_encoder import COLUMNS as TABLE_COLUMNS
from native_pipeline.copy_encoder import CopyBatch
from native_pipeline.record_block import RecordBlock
from native_pipeline.records import MARKET_DATA

BATCH_ENTRIES = 500
BATCH_BYTES = 8 << 20  # of frames: bounds the memory
RINGS = 64  # config.workers is at most this
LOWEST_SOURCE = -(1 << 15) + RINGS  # int2; the lowest are those of rows out of captures, see daemon/recording
ARRIVAL_FLAGS = 8 | 64 | 128  # SISE_FLAG_LATE, _CLOCK_STEP and _RESUMED of layout.h
DATA_ERRORS = ("22", "23")  # SQLSTATE classes: the server refuses a value
MARKET_TABLES = {data.table: data.name for data in MARKET_DATA}

WAITING = """
SELECT source, seq, octet_length(frame), recv_time FROM quarantine
WHERE replayed_at IS NULL AND (recv_time, source, seq) > (%(after_time)s, %(after_source)s, %(after_seq)s)
    AND (%(venue)s::text IS NULL OR venue = %(venue)s) AND (%(since)s::timestamptz IS NULL OR recv_time >= %(since)s)
ORDER BY recv_time, source, seq LIMIT %(limit)s"""
NAMED = """
SELECT source, seq, octet_length(frame), recv_time
FROM quarantine JOIN unnest(%(sources)s::int2[], %(seqs)s::int8[]) AS named (source, seq) USING (source, seq)
WHERE replayed_at IS NULL ORDER BY recv_time, source, seq"""
LOCK = """
SELECT {columns} FROM quarantine
WHERE (source, seq) IN (SELECT * FROM unnest(%(sources)s::int2[], %(seqs)s::int8[])) AND replayed_at IS NULL
ORDER BY recv_time, source, seq FOR UPDATE SKIP LOCKED"""
MARK = """
UPDATE quarantine SET replayed_at = now(), replayed_rows = marked.rows
FROM unnest(%s::int2[], %s::int8[], %s::int4[]) AS marked (source, seq, rows)
WHERE (quarantine.source, quarantine.seq) = (marked.source, marked.seq) AND replayed_at IS NULL"""
STAGE = "CREATE TEMP TABLE {stage} (LIKE {table}) ON COMMIT DROP"
# A trade that says how far its session has come, and is stored with all that it says, arrived by another session.
MOVE = """
INSERT INTO {table} ({columns})
SELECT {renumbered} FROM {stage} AS row
JOIN unnest(%(ring_seqs)s::int8[], %(sources)s::int2[], %(seqs)s::int8[]) AS numbered (ring_seq, source, seq)
    ON row.seq = numbered.ring_seq
WHERE {is_new} RETURNING source, seq, market, venue, symbol, date_bin('1 minute', recv_time, TIMESTAMPTZ 'epoch')"""
IS_NEW_TRADE = """ AND NOT (row.volume > 0 AND row.cum_volume >= row.volume AND EXISTS (
    SELECT FROM market_ticks AS known
    WHERE (known.symbol, known.time, known.price, known.volume, known.cum_volume, known.market, known.venue)
        = (row.symbol, row.time, row.price, row.volume, row.cum_volume, row.market, row.venue)
    AND (known.exchange, known.side, known.ask, known.bid, known.change)
        IS NOT DISTINCT FROM (row.exchange, row.side, row.ask, row.bid, row.change)))"""
# And what is there as it would be stored came out of a capture.
IS_NEW = """NOT EXISTS (
    SELECT FROM {table} AS known
    WHERE {is_same})"""
# Equal rows out of a ring are others, but for itself: each has been counted when it was received.
IS_NEW_REFUSED = """NOT EXISTS (
    SELECT FROM {table} AS known
    WHERE (known.source < 0 OR (known.source, known.seq) = (row.source, row.seq)) AND {is_same})"""
IS_SAME = """(known.symbol, known.time, known.recv_time) = (row.symbol, row.time, row.recv_time)
    AND ({known}) IS NOT DISTINCT FROM ({row})"""
LEDGER = """
INSERT INTO ingest_ledger (minute, market, venue, symbol, kind, received, through_seq, source, seq)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"""


class Outcome(enum.Enum):
    """What became of an entry."""

    STORED = "stored"
    KNOWN = "parsed, and all of it is stored already"
    FAILS = "still cannot be parsed"
    ENCRYPTED = "encrypted: cannot be replayed without its key, which the session had"
    CUT = "longer than what was kept: cannot be replayed"
    REFUSED = "refused by the database"
    TAKEN = "taken by somebody else meanwhile"


DONE = frozenset({Outcome.STORED, Outcome.KNOWN})


@dataclass(frozen=True, slots=True)
class Result:
    """One entry's outcome."""

    id: EntryId
    outcome: Outcome
    rows: int = 0
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {"id": str(self.id), "outcome": self.outcome.name.lower(), "rows": self.rows, "reason": self.reason}


def replay_source(source: int, position: int) -> int:
    """Return the source of row *position* (from 0) of a frame that ring *source* quarantined.

    A source that is negative already is that of what remained of a frame; it is kept. Raises ValueError: the row has no
    number.
    """
    is_rest = source < 0
    found = source if is_rest else -1 - source - RINGS * position
    if source >= RINGS or found < LOWEST_SOURCE or (is_rest and position):
        raise ValueError(f"row {position} of a frame of ring {source} cannot be numbered")
    return found


class Replay:
    """A context manager; run() may be called several times. Memory is bounded by one batch of frames."""

    def __init__(
        self, config: Config | None, connection: Connection, *, account: str | None = None, is_dry_run: bool = False
    ) -> None:
        self._config = config  # None: no frames are replayed
        self._connection = connection
        self._account = account
        self._is_dry_run = is_dry_run
        self._reparser: Reparser | None = None
        self._stack = ExitStack()
        self._is_doubtful = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()

    def run(
        self, ids: Sequence[EntryId] | None = None, *, venue: str | None = None, since: datetime | None = None
    ) -> Iterator[Result]:
        """Replay the entries *ids*, or (None) all that wait, the oldest first; yield what became of each.

        Raises psycopg.Error if the database does not answer: what was yielded is done, what was not can be replayed
        again. Raises ConfigError if one of *ids* is not there or was replayed.
        """
        column_types.check(self._connection)
        batches = self._waiting(venue, since) if ids is None else self._named(ids)
        for batch in batches:
            yield from self._replay(batch)

    def _waiting(self, venue: str | None, since: datetime | None) -> Iterator[list[EntryId]]:
        values: dict[str, Any] = {"venue": venue, "since": since, "limit": BATCH_ENTRIES}
        values |= {"after_time": "-infinity", "after_source": 0, "after_seq": 0}
        while rows := self._connection.execute(WAITING.encode(), values).fetchall():
            yield from _batches(rows)
            source, seq, _, recv_time = rows[-1]
            values |= {"after_time": recv_time, "after_source": source, "after_seq": seq}

    def _named(self, ids: Sequence[EntryId]) -> Iterator[list[EntryId]]:
        values = {"sources": [one.source for one in ids], "seqs": [one.seq for one in ids]}
        rows = self._connection.execute(NAMED.encode(), values).fetchall()
        missing = set(ids) - {EntryId(row[0], row[1]) for row in rows}
        if missing:
            names = ", ".join(str(one) for one in sorted(missing))
            raise ConfigError(f"{names}: no such entry in quarantine, or replayed already")
        return _batches(rows)

    def _replay(self, ids: list[EntryId]) -> list[Result]:
        """Replay *ids* together; one by one if the database refuses something among them."""
        try:
            return self._in_one_transaction(ids)
        except psycopg.Error as exc:
            self._forget()  # the parser remembers trades that were not stored
            if not (exc.sqlstate or "").startswith(DATA_ERRORS):
                raise
            if len(ids) == 1:
                return [Result(ids[0], Outcome.REFUSED, reason=f"{exc.sqlstate} {first_line(exc)}")]
        return [result for one in ids for result in self._replay([one])]

    def _in_one_transaction(self, ids: list[EntryId]) -> list[Result]:
        with self._connection.transaction(force_rollback=self._is_dry_run):
            self._connection.execute("SET LOCAL lock_timeout = '5s'")
            results = self._store(ids)
            reach("quarantine.before_commit")
        reach("quarantine.after_commit")
        return results

    def _store(self, ids: list[EntryId]) -> list[Result]:
        values = {"sources": [one.source for one in ids], "seqs": [one.seq for one in ids]}
        rows = self._connection.execute(LOCK.format(columns=COLUMNS).encode(), values).fetchall()
        entries = [Entry(*row) for row in rows]
        refused = [entry for entry in entries if entry.kind is not None]
        frames = [entry for entry in entries if entry.kind is None]
        found = {result.id: result for result in (*self._store_records(refused), *self._store_frames(frames))}
        done = [result for result in found.values() if result.outcome in DONE]
        if done:
            columns = [[one.id.source for one in done], [one.id.seq for one in done], [one.rows for one in done]]
            marked = self._connection.execute(MARK, columns).rowcount
            if marked != len(done):
                raise InvariantBroken(f"quarantine: {marked} of {len(done)} entries marked")
        return [found.get(one, Result(one, Outcome.TAKEN)) for one in ids]

    # ---- rows that the database refused --------------------------------------------------------------

    def _store_records(self, entries: Sequence[Entry]) -> Iterator[Result]:
        block, batch = RecordBlock(), new_batch()
        readable: list[EntryId] = []
        for entry in entries:
            try:
                block.append_bytes(entry.frame, ring=entry.source)
            except RingError as exc:
                yield Result(entry.id, Outcome.FAILS, reason=first_line(exc))
            else:
                readable.append(entry.id)
        batch.append_block(block)
        known: set[EntryId] = set()
        for table in batch.rows:
            known |= self._store_refused(batch, table)
        for one in readable:
            yield Result(one, Outcome.KNOWN) if one in known else Result(one, Outcome.STORED, 1)

    def _store_refused(self, batch: CopyBatch, table: str) -> set[EntryId]:
        """Store the rows of *table* in *batch*; return those that a capture has brought meanwhile."""
        if table not in MARKET_TABLES:
            self._copy(batch, table, into=table)
            return set()
        stage = f"refused_{table}"
        names = {"stage": sql.Identifier(stage), "table": sql.Identifier(table)}
        self._connection.execute(sql.SQL(STAGE).format(**names))
        self._copy(batch, table, into=stage)
        columns = sql.SQL(", ").join(map(sql.Identifier, TABLE_COLUMNS[table]))
        is_new = sql.SQL(IS_NEW_REFUSED).format(is_same=_is_same(table), **names)
        known = self._connection.execute(
            sql.SQL("DELETE FROM {stage} AS row WHERE NOT {is_new} RETURNING source, seq").format(
                is_new=is_new, **names
            )
        ).fetchall()
        self._connection.execute(
            sql.SQL("INSERT INTO {table} ({columns}) SELECT {columns} FROM {stage}").format(columns=columns, **names)
        )
        return {EntryId(source, seq) for source, seq in known}

    # ---- frames --------------------------------------------------------------------------------------

    def _store_frames(self, entries: Sequence[Entry]) -> list[Result]:
        numbers = _Numbers()
        if self._reparser is not None:
            self._reparser.batch.clear()
        results = [self._parse(entry, numbers) for entry in entries]
        if not numbers.ring_seqs or self._reparser is None:
            return results
        stored: Counter[EntryId] = Counter()
        for table, kind in MARKET_TABLES.items():
            rows = self._move(self._reparser.batch, table, numbers)
            stored.update(numbers.entry_of[(source, seq)] for source, seq, *_ in rows)
            self._add_ledger(kind, rows)
        self._move(self._reparser.batch, "quarantine", numbers)  # what remains of frames of which a part was good
        return [
            result
            if result.outcome is not Outcome.STORED
            else Result(result.id, Outcome.STORED if stored[result.id] else Outcome.KNOWN, stored[result.id])
            for result in results
        ]

    def _parse(self, entry: Entry, numbers: "_Numbers") -> Result:
        hopeless = _hopeless(entry)
        if hopeless is not None:
            return hopeless
        if self._reparser is None:
            assert self._config is not None
            self._reparser = self._stack.enter_context(Reparser(self._config, account=self._account))
        parsed = self._reparser.parse(
            venue=entry.venue, frame=entry.frame, recv_time=entry.recv_time, reason=entry.reason
        )
        if parsed.reason:
            return Result(entry.id, Outcome.FAILS, reason=parsed.reason)
        if not parsed.rows and not self._is_doubtful:
            return Result(entry.id, Outcome.KNOWN)
        try:
            numbers.add(entry.id, parsed.seqs)
        except ValueError as exc:
            self._is_doubtful = True  # what repeats these records is not stored already
            return Result(entry.id, Outcome.FAILS, reason=str(exc))
        if not parsed.rows:
            return Result(entry.id, Outcome.FAILS, reason="repeats a record that could not be numbered")
        return Result(entry.id, Outcome.STORED)

    def _move(self, batch: CopyBatch, table: str, numbers: "_Numbers") -> list[tuple[Any, ...]]:
        """Store the rows of *table* in *batch* under their new numbers; return what MOVE returns."""
        if table not in batch.rows:
            return []
        stage = f"replay_{table}"
        names = {"stage": sql.Identifier(stage), "table": sql.Identifier(table)}
        self._connection.execute(sql.SQL(STAGE).format(**names))
        self._copy(batch, table, into=stage)
        columns = TABLE_COLUMNS[table]
        renumbered = [
            sql.Identifier("numbered" if column in {"source", "seq"} else "row", column) for column in columns
        ]
        query = MOVE if table in MARKET_TABLES else MOVE.partition(" RETURNING")[0]
        statement = sql.SQL(query).format(
            **names,
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            renumbered=sql.SQL(", ").join(renumbered),
            is_new=_is_new(table),
        )
        cursor = self._connection.execute(statement, numbers.as_parameters())
        return cursor.fetchall() if table in MARKET_TABLES else []

    def _add_ledger(self, kind: str, rows: Sequence[tuple[Any, ...]]) -> None:
        counts: Counter[tuple[Any, ...]] = Counter()
        newest: dict[tuple[Any, ...], int] = {}
        for source, seq, market, venue, symbol, minute in rows:
            key = (source, minute, market, venue, symbol)
            counts[key] += 1
            newest[key] = max(newest.get(key, 0), seq)
        with self._connection.cursor() as cursor:
            cursor.executemany(
                LEDGER,
                [
                    (minute, market, venue, symbol, kind, count, newest[key], source, newest[key])
                    for key, count in counts.items()
                    for source, minute, market, venue, symbol in [key]
                ],
            )

    def _copy(self, batch: CopyBatch, table: str, *, into: str) -> None:
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
            sql.Identifier(into), sql.SQL(", ").join(map(sql.Identifier, TABLE_COLUMNS[table]))
        )
        with self._connection.cursor() as cursor, batch.block(table) as block, cursor.copy(statement) as copy:
            copy.write(block)

    def _forget(self) -> None:
        self._reparser = None
        self._stack.close()


def _is_new(table: str) -> sql.Composable:
    """Return the condition under which a row is stored."""
    if table not in MARKET_TABLES:
        return sql.SQL("true")
    condition = sql.SQL(IS_NEW + (IS_NEW_TRADE if table == "market_ticks" else ""))
    return condition.format(table=sql.Identifier(table), is_same=_is_same(table))


def _is_same(table: str) -> sql.Composable:
    """Return the condition under which `known` and `row` say the same."""
    said = [column for column in TABLE_COLUMNS[table] if column not in {"source", "seq"}]
    return sql.SQL(IS_SAME).format(
        known=sql.SQL(", ").join(_said("known", column) for column in said),
        row=sql.SQL(", ").join(_said("row", column) for column in said),
    )


def _said(row: str, column: str) -> sql.Composable:
    """Return what *column* says, without the flags of arrival, which a replay has no reason to set."""
    if column != "flags":
        return sql.Identifier(row, column)
    return sql.SQL("({} & {})").format(sql.Identifier(row, column), sql.Literal(~ARRIVAL_FLAGS & 0x7FFF))


def _hopeless(entry: Entry) -> Result | None:
    """Return why no parser can make anything of *entry*, None: it is worth a try."""
    if entry.is_truncated:
        return Result(entry.id, Outcome.CUT)
    if entry.reason == ENCRYPTED:
        return Result(entry.id, Outcome.ENCRYPTED)
    if entry.venue not in VENUE_CLASSES:
        return Result(entry.id, Outcome.FAILS, reason=f"venue {entry.venue!r} is not known")
    return None


class _Numbers:
    """Which source and seq the records of a batch get, by their number in the ring that they were parsed into."""

    def __init__(self) -> None:
        self.ring_seqs: list[int] = []
        self._sources: list[int] = []
        self._seqs: list[int] = []
        self.entry_of: dict[tuple[int, int], EntryId] = {}

    def add(self, entry_id: EntryId, ring_seqs: Sequence[int]) -> None:
        """Number the records of one entry; all or none. Raises ValueError."""
        sources = [replay_source(entry_id.source, position) for position in range(len(ring_seqs))]
        self.ring_seqs += ring_seqs
        self._sources += sources
        self._seqs += [entry_id.seq] * len(ring_seqs)
        self.entry_of |= {(source, entry_id.seq): entry_id for source in sources}

    def as_parameters(self) -> dict[str, list[int]]:
        """Return the columns of MOVE."""
        return {"ring_seqs": self.ring_seqs, "sources": self._sources, "seqs": self._seqs}


def _batches(rows: Sequence[tuple[Any, ...]]) -> Iterator[list[EntryId]]:
    """Cut *rows* (source, seq, bytes, ...) into batches."""
    batch: list[EntryId] = []
    size = 0
    for source, seq, frame_bytes, *_ in rows:
        if batch and (len(batch) >= BATCH_ENTRIES or size + frame_bytes > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(EntryId(source, seq))
        size += frame_bytes
    if batch:
        yield batch
