"""The writer's way to the database without its loop, and servers that refuse or hang."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from daemon.config import Database as DatabaseSettings
from daemon.sinks.database import Advance, CursorAdvances, Database, FailureKind, Isolated, classify
from daemon.sinks.isolation import new_batch
from native_pipeline.copy_encoder import CopyBatch
from native_pipeline.record_block import RecordBlock
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference.packed_records import Book, Event, Gap, Ledger, Quarantine, Record, Trade, append

RING = 3
ROWS = 10_000
BAD_VOLUME = 666
MANY = 1 << 30
NEWEST = 1 << 63
EVERY_KIND = (Trade(), Book(), Event(text=b"0001^5"), Quarantine(frame=b"0|X"), Gap(), Ledger(count=1))
NO_BAD_VOLUME = f"ALTER TABLE market_ticks ADD CONSTRAINT no_bad_volume CHECK (volume <> {BAD_VOLUME})"
# Counts the statements that reach the table; a sequence keeps its value when a savepoint is rolled back.
COUNT_COPIES = """
CREATE SEQUENCE copies;
CREATE FUNCTION count_copy() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM nextval('copies'); RETURN NULL; END $$;
CREATE TRIGGER count_copies BEFORE INSERT ON market_ticks FOR EACH STATEMENT EXECUTE FUNCTION count_copy();"""
TRIGGER = """
CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN {result}; END $$;
CREATE TRIGGER judge BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION judge();"""


def trigger(body: str = "", *, table: str = "market_ticks", result: str = "NEW") -> str:
    return TRIGGER.format(body=body, table=table, result=result)


class Bench:
    """A ring, and the database that its records go to: the writer without its loop."""

    def __init__(self, path: Path, dsn: str) -> None:
        create_ring(path, ring=RING, capacity_bytes=1 << 22, consumers=(("writer", GATING),))
        self.dsn = dsn
        self.producer = RingWriter(path)
        self.reader = GatingReader(path, "writer")
        self.ring = (self.reader.ring, self.reader.epoch)
        self.database = Database(DatabaseSettings(dsn=dsn, connect_timeout_s=2, retention_days=0))
        self.cursor = self.database.start_cursors({self.ring: self.reader.first_seq - 1})[self.ring]

    def connect(self, dsn: str | None = None, **settings: Any) -> None:
        """Be a writer that connects anew."""
        values = {"dsn": dsn or self.dsn, "connect_timeout_s": 2, "retention_days": 0, **settings}
        self.database.close()
        self.database = Database(DatabaseSettings(**values))

    def put(self, *records: Record) -> list[int]:
        seqs = [append(self.producer, record) for record in records]
        self.producer.publish()
        return seqs

    def batch(self) -> CopyBatch:
        """What is in the ring behind the cursor, as rows."""
        batch = new_batch()
        self.reader.seek_after(self.cursor)
        batch.append_from(self.reader, MANY)
        return batch

    def block(self) -> RecordBlock:
        """The same as records."""
        block = RecordBlock()
        self.reader.seek_after(self.cursor)
        block.append_from(self.reader, NEWEST)
        return block

    def claim(self) -> CursorAdvances:
        return CursorAdvances([Advance(self.ring, self.cursor, self.producer.last_seq)])

    def store(self) -> None:
        self.database.store(self.batch(), self.claim())
        self.cursor = self.producer.last_seq

    def store_isolated(self) -> Isolated:
        return self.database.store_isolated(self.block(), self.claim())

    def failure(self, action: Callable[[], object] | None = None) -> tuple[str | None, FailureKind]:
        """How storing fails: SQLSTATE and what it means."""
        with pytest.raises(psycopg.Error) as caught:
            (action or self.store)()
        return caught.value.sqlstate, classify(caught.value)

    def execute(self, *statements: str) -> None:
        for statement in statements:
            query(self.dsn, statement)

    def seqs(self, table: str = "market_ticks") -> list[int]:
        return [seq for (seq,) in query(self.dsn, f"SELECT seq FROM {table} ORDER BY seq")]

    def refused(self) -> list[dict[str, Any]]:
        """Rows of quarantine that the database refused."""
        columns = (
            "source",
            "seq",
            "kind",
            "market",
            "symbol",
            "venue",
            "reason",
            "frame",
            "original_bytes",
            "recv_time",
        )
        rows = query(self.dsn, f"SELECT {', '.join(columns)} FROM quarantine WHERE kind IS NOT NULL ORDER BY seq")
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def copies(self) -> int:
        """Statements that tried to add rows to market_ticks since the last look, rolled back or not."""
        [(last, is_called)] = query(self.dsn, "SELECT last_value, is_called FROM copies")
        query(self.dsn, "ALTER SEQUENCE copies RESTART")
        return int(last) if is_called else 0

    def stored_cursor(self) -> int:
        [(seq,)] = query(self.dsn, f"SELECT seq FROM ingest_cursor WHERE ring = {RING}")
        return int(seq)

    def close(self) -> None:
        self.database.close()
        self.reader.close()
        self.producer.close()


def query(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[[str], Bench]]:
    with contextlib.ExitStack() as stack:

        def make(dsn: str) -> Bench:
            return stack.enter_context(contextlib.closing(Bench(tmp_path / "worker-0.ring", dsn)))

        yield make


@pytest.fixture
def bench(make_bench: Callable[[str], Bench], postgres_dsn: str) -> Bench:
    return make_bench(postgres_dsn)


def ten_thousand(*bad: int) -> list[Record]:
    return [Trade(symbol=b"%06d" % (row % 100), volume=(BAD_VOLUME if row in bad else 1, 0)) for row in range(ROWS)]


@pytest.fixture
def poor(bench: Bench) -> Iterator[str]:
    """The address of the database for a role that may only move cursors."""
    bench.execute(
        "DROP ROLE IF EXISTS poor",
        "CREATE ROLE poor LOGIN PASSWORD 'poor'",
        "GRANT SELECT, UPDATE ON ingest_cursor TO poor",
    )
    target = urlsplit(bench.dsn)
    yield urlunsplit(target._replace(netloc=f"poor:poor@{target.netloc.rpartition('@')[2]}"))
    bench.database.close()
    bench.execute("DROP OWNED BY poor", "DROP ROLE poor")


MANY_BAD = 2_000  # far more than are looked for in parts


def every_third_bad(*last: int) -> list[Record]:
    """Rows of which every third is bad, and at the end one for each volume of *last*."""
    volumes = [*(BAD_VOLUME if row % 3 == 0 else 1 for row in range(MANY_BAD)), *last]
    return [Trade(price=(row + 1, 0), volume=(volume, 0)) for row, volume in enumerate(volumes)]


ASLEEP = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"


def wait_for_lock(dsn: str) -> None:
    """Until a session of the database waits for a lock."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    wait_until(lambda: query(dsn, waiting))


def wait_until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
