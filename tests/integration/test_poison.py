"""A real server refuses rows: the good ones are stored, the bad ones kept with its reason, once; the rest waits."""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from daemon.alerts import RecordingAlerts
from daemon.config import Database as DatabaseSettings
from daemon.sinks import isolation
from daemon.sinks.database import Advance, CursorAdvances, Database, FailureKind, Fenced, Isolated, classify
from daemon.sinks.isolation import new_batch
from native_pipeline.copy_encoder import CopyBatch
from native_pipeline.record_block import RecordBlock
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.conftest import PostgresFactory
from tests.integration.cutting_proxy import CuttingProxy
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


@pytest.mark.requirement("F51", "DLP-01")
@pytest.mark.parametrize("bad", [0, 6_789, ROWS - 1])
def test_one_bad_row_of_ten_thousand_is_kept_with_the_reason_and_all_others_are_stored(bench: Bench, bad: int) -> None:
    seqs = bench.put(*ten_thousand(bad))
    bench.execute(NO_BAD_VOLUME, COUNT_COPIES)
    assert bench.failure() == ("23514", FailureKind.DATA)
    bench.copies()

    isolated = bench.store_isolated()

    assert (isolated.refused, isolated.already_stored) == (1, 0)
    assert bench.copies() <= 4, "the server names the row"
    assert bench.seqs() == seqs[:bad] + seqs[bad + 1 :]
    assert bench.stored_cursor() == seqs[-1]
    [row] = bench.refused()
    assert (row["source"], row["seq"], row["kind"], row["symbol"]) == (RING, seqs[bad], "trade", f"{bad % 100:06}")
    assert (row["venue"], row["market"]) == ("kis", "kr")
    assert row["reason"].startswith("refused by the database: 23514 ")
    assert "no_bad_volume" in row["reason"]
    assert row["original_bytes"] == len(row["frame"]) == 120


@pytest.mark.requirement("F51")
def test_a_bad_row_that_the_server_does_not_name_is_found_by_halving(bench: Bench) -> None:
    bad = 6_789
    seqs = bench.put(*[Trade(symbol=b"STRANGE" if row == bad else b"KNOWN") for row in range(ROWS)])
    bench.execute(
        "CREATE TABLE listed (symbol text PRIMARY KEY)",
        "INSERT INTO listed VALUES ('KNOWN')",
        "ALTER TABLE market_ticks ADD CONSTRAINT is_listed FOREIGN KEY (symbol) REFERENCES listed",
        COUNT_COPIES,
    )
    assert bench.failure() == ("23503", FailureKind.DATA)
    bench.copies()

    assert bench.store_isolated().refused == 1

    assert bench.copies() <= 1 + 2 * 14, "14 halvings of 10,000 rows"
    assert bench.seqs() == seqs[:bad] + seqs[bad + 1 :]
    assert [row["symbol"] for row in bench.refused()] == ["STRANGE"]


@pytest.mark.requirement("F51")
def test_several_bad_rows_leave_all_others_stored_in_their_order(bench: Bench) -> None:
    bad = {0, 1, 17, 4_000, 4_001, 9_999, *range(5_000, 5_020)}
    seqs = bench.put(*ten_thousand(*bad))
    bench.execute(NO_BAD_VOLUME)

    isolated = bench.store_isolated()

    assert isolated.refused == len(bad)
    assert len(isolated.reasons) == 1
    assert isolated.reasons[0].endswith(f"({len(bad)} rows)")
    assert bench.seqs() == [seq for row, seq in enumerate(seqs) if row not in bad]
    assert [row["seq"] for row in bench.refused()] == [seqs[row] for row in sorted(bad)]


@pytest.mark.requirement("F51")
def test_a_batch_of_bad_rows_only_ends_in_quarantine_as_a_whole(bench: Bench) -> None:
    seqs = bench.put(*[Trade(volume=(BAD_VOLUME, 0))] * 300)
    bench.execute(NO_BAD_VOLUME)

    assert bench.store_isolated().refused == 300

    assert bench.seqs() == []
    assert [row["seq"] for row in bench.refused()] == seqs
    assert bench.stored_cursor() == seqs[-1]


@pytest.mark.requirement("F51")
def test_each_table_loses_only_its_own_bad_rows(bench: Bench) -> None:
    seqs = bench.put(*EVERY_KIND, *EVERY_KIND)
    bench.execute(
        "ALTER TABLE market_orderbook ADD CHECK (false) NOT VALID",
        "ALTER TABLE feed_gaps ADD CHECK (false) NOT VALID",
        "ALTER TABLE ingest_ledger ADD CHECK (false) NOT VALID",
        "ALTER TABLE quarantine ADD CHECK (reason LIKE 'refused%') NOT VALID",
    )

    isolated = bench.store_isolated()

    assert isolated.refused == 8
    assert bench.seqs() == seqs[0::6]
    assert bench.seqs("market_events") == seqs[2::6]
    refused = bench.refused()
    assert [row["kind"] for row in refused] == ["orderbook", "quarantine", "gap", "ledger"] * 2
    assert [row["seq"] for row in refused] == [seq for row, seq in enumerate(seqs) if row % 6 not in (0, 2)]
    assert refused[1]["symbol"] is None
    assert refused[3]["recv_time"].year >= 2025, "retention counts from it"


@pytest.mark.requirement("F51", "DLP-01")
def test_the_kept_record_becomes_the_row_once_the_server_takes_it(bench: Bench) -> None:
    seqs = bench.put(*ten_thousand(5)[:10])
    bench.execute(NO_BAD_VOLUME)
    bench.store_isolated()
    bench.execute("ALTER TABLE market_ticks DROP CONSTRAINT no_bad_volume")

    [row] = bench.refused()
    block, batch = RecordBlock(), new_batch()
    block.append_bytes(row["frame"], ring=row["source"])
    batch.append_block(block)
    with psycopg.connect(bench.dsn) as connection:
        isolation.copy_rows(connection, "market_ticks", batch)

    assert bench.seqs() == seqs
    assert query(bench.dsn, f"SELECT volume, source FROM market_ticks WHERE seq = {seqs[5]}") == [(BAD_VOLUME, RING)]


INCOMPRESSIBLE = random.Random(1).randbytes(8_000).hex().encode()
BAD_ROWS = [
    ("23514", Trade(price=(0, 0)), []),
    ("23514", Trade(symbol=b""), []),
    ("22021", Trade(symbol=b"\xff\xfe"), []),
    ("22021", Trade(symbol=b"\xed\xa0\x80"), []),
    ("22003", Trade(volume=(10**18, 0)), [trigger("PERFORM NEW.volume::int4;")]),
    ("22012", Trade(volume=(0, 0)), [trigger("PERFORM 1 / NEW.volume::int4;")]),
    ("22001", Event(text=b"x" * 11), ["ALTER TABLE market_events ALTER detail TYPE varchar(10)"]),
    ("23502", Trade(), ["ALTER TABLE market_ticks ALTER cum_volume SET NOT NULL"]),
    ("23514", Trade(side=2), ["ALTER TABLE market_ticks ADD CHECK (side IN ('buy'))"]),
    ("P0001", Trade(volume=(BAD_VOLUME, 0)), [trigger(f"IF NEW.volume = {BAD_VOLUME} THEN RAISE 'no'; END IF;")]),
    ("P0004", Trade(volume=(BAD_VOLUME, 0)), [trigger(f"ASSERT NEW.volume <> {BAD_VOLUME};")]),
    ("54000", Event(text=INCOMPRESSIBLE), ["CREATE INDEX ON market_events (detail)"]),
    ("23P01", Trade(flags=1), ["ALTER TABLE market_ticks_default ADD EXCLUDE (flags WITH =) WHERE (flags = 1)"]),
]


@pytest.mark.requirement("F51", "SCH-01")
@pytest.mark.parametrize(
    ("state", "bad", "preparation"), BAD_ROWS, ids=[f"{row[0]}-{i}" for i, row in enumerate(BAD_ROWS)]
)
def test_a_row_that_is_refused_for_a_value_is_kept_with_its_sqlstate(
    bench: Bench, state: str, bad: Record, preparation: list[str]
) -> None:
    good = Trade(cum_volume=(5, 0), side=1, volume=(1, 0))
    if state == "23P01":
        bench.put(bad)
        bench.store()
    seqs = bench.put(good, good, bad, good)
    bench.execute(*preparation)
    assert bench.failure() == (state, FailureKind.DATA)

    isolated = bench.store_isolated()

    assert isolated.refused == 1
    assert [seq for seq in bench.seqs() if seq >= seqs[0]] == [seqs[0], seqs[1], seqs[3]]
    [row] = bench.refused()
    assert row["seq"] == seqs[2]
    assert row["reason"].startswith(f"refused by the database: {state} ")


NOT_ABOUT_A_ROW = [
    (
        "42703",
        "ALTER TABLE market_ticks RENAME cum_volume TO total",
        "ALTER TABLE market_ticks RENAME total TO cum_volume",
    ),
    ("42P01", "ALTER TABLE market_ticks RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO market_ticks"),
    ("42883", trigger("PERFORM is_not_there();"), "DROP TRIGGER judge ON market_ticks"),
    ("42501", trigger("RAISE insufficient_privilege;"), "DROP TRIGGER judge ON market_ticks"),
    (None, trigger(result="NULL"), "DROP TRIGGER judge ON market_ticks"),
    (
        "23502",
        "ALTER TABLE market_ticks ADD desk text; ALTER TABLE market_ticks ADD CHECK (true);"
        " UPDATE market_ticks SET desk = ''; ALTER TABLE market_ticks ALTER desk SET NOT NULL",
        "ALTER TABLE market_ticks DROP desk",
    ),
    (
        "22P03",
        "DROP VIEW market_ticks_1m; ALTER TABLE market_ticks ALTER price TYPE int4 USING price::int4",
        "ALTER TABLE market_ticks ALTER price TYPE float8",
    ),
    ("0A000", trigger("RAISE feature_not_supported;"), "DROP TRIGGER judge ON market_ticks"),
    ("XX000", trigger("RAISE internal_error;"), "DROP TRIGGER judge ON market_ticks"),
    ("TS001", trigger("RAISE SQLSTATE 'TS001';"), "DROP TRIGGER judge ON market_ticks"),
]


@pytest.mark.requirement("F53")
@pytest.mark.parametrize(("state", "damage", "repair"), NOT_ABOUT_A_ROW, ids=[str(row[0]) for row in NOT_ABOUT_A_ROW])
def test_what_concerns_every_row_is_never_taken_apart_and_stored_after_the_repair(
    bench: Bench, state: str | None, damage: str, repair: str
) -> None:
    seqs = bench.put(*[Trade()] * 100)
    bench.execute(damage)
    if state != "42P01":
        bench.execute(COUNT_COPIES)

    assert bench.failure() == (state, FailureKind.SETUP)
    refused_before_copy = state == "22P03"  # by the look at the columns that each new connection has: no SQLSTATE
    again = None if refused_before_copy else state
    assert bench.failure(bench.store_isolated) == (again, FailureKind.SETUP)

    if state not in {"42P01", "42703"}:
        assert bench.copies() == (1 if refused_before_copy else 2), "one for each attempt"
    assert bench.stored_cursor() == bench.cursor
    assert bench.refused() == []
    bench.execute(repair)
    bench.store()
    assert bench.seqs() == seqs


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


@pytest.mark.requirement("F53")
def test_a_role_without_the_right_to_write_stores_after_it_was_granted(bench: Bench, poor: str) -> None:
    seqs = bench.put(Trade())
    bench.connect(poor)

    assert bench.failure() == ("42501", FailureKind.SETUP)

    bench.execute("GRANT INSERT ON market_ticks TO poor")
    bench.store()
    assert bench.seqs() == seqs


@pytest.mark.requirement("F51")
def test_many_bad_rows_need_no_right_to_make_temporary_tables(bench: Bench, poor: str) -> None:
    seqs = bench.put(*every_third_bad()[:300])
    bench.execute(
        NO_BAD_VOLUME,
        f"REVOKE TEMPORARY ON DATABASE {urlsplit(bench.dsn).path[1:]} FROM PUBLIC",
        "GRANT INSERT ON market_ticks, quarantine TO poor",
    )
    bench.connect(poor)

    assert bench.store_isolated().refused == 100

    assert bench.seqs() == [seq for row, seq in enumerate(seqs) if row % 3]


MANY_BAD = 2_000  # far more than are looked for in parts


def every_third_bad(*last: int) -> list[Record]:
    """Rows of which every third is bad, and at the end one for each volume of *last*."""
    volumes = [*(BAD_VOLUME if row % 3 == 0 else 1 for row in range(MANY_BAD)), *last]
    return [Trade(price=(row + 1, 0), volume=(volume, 0)) for row, volume in enumerate(volumes)]


@pytest.mark.requirement("F51")
@pytest.mark.parametrize(
    "rule",
    [
        NO_BAD_VOLUME,
        trigger(f"IF NEW.volume = {BAD_VOLUME} THEN RAISE 'no'; END IF;"),
        trigger("ASSERT NEW.volume = 1;"),
    ],
    ids=["check", "raise", "assert"],
)
def test_many_bad_rows_are_told_from_the_good_ones(bench: Bench, rule: str) -> None:
    seqs = bench.put(*every_third_bad())
    bench.execute(rule)

    isolated = bench.store_isolated()

    assert isolated.refused == len(seqs[::3])
    assert bench.seqs() == [seq for row, seq in enumerate(seqs) if row % 3]
    assert [row["seq"] for row in bench.refused()] == seqs[::3]


@pytest.mark.requirement("F51", "F52")
def test_among_many_bad_rows_those_stored_already_and_those_of_a_taken_key_are_told_apart(bench: Bench) -> None:
    seqs = bench.put(*every_third_bad(), Trade(price=(2, 0)))
    with psycopg.connect(bench.dsn) as connection:
        batch = new_batch()
        batch.append_block(bench.block(), MANY_BAD - 1, MANY_BAD)
        isolation.copy_rows(connection, "market_ticks", batch)
    bench.execute("CREATE UNIQUE INDEX ON market_ticks (time, symbol, price)", NO_BAD_VOLUME)

    isolated = bench.store_isolated()

    assert (isolated.refused, isolated.already_stored) == (len(seqs[:MANY_BAD:3]) + 1, 1)
    assert bench.seqs() == [seq for row, seq in enumerate(seqs[:MANY_BAD]) if row % 3]
    assert [row["seq"] for row in bench.refused()] == [*seqs[:MANY_BAD:3], seqs[-1]]


@pytest.mark.requirement("F53")
@pytest.mark.parametrize(
    ("what", "state"),
    [("RAISE insufficient_privilege;", "42501"), ("RETURN NULL;", None), ("RAISE disk_full;", "53100")],
)
def test_what_concerns_every_row_is_seen_behind_many_bad_ones_too(bench: Bench, what: str, state: str | None) -> None:
    bench.put(*every_third_bad(777))
    bad = f"IF NEW.volume = {BAD_VOLUME} THEN RAISE 'no'; END IF; IF NEW.volume = 777 THEN {what} END IF;"
    bench.execute(trigger(bad))

    kind = FailureKind.AWAY if state == "53100" else FailureKind.SETUP
    assert bench.failure(bench.store_isolated) == (state, kind)

    assert bench.seqs() == []
    assert bench.refused() == []


@pytest.mark.requirement("F51")
def test_a_constraint_that_is_looked_at_only_at_the_commit_refuses_rows_like_any_other(bench: Bench) -> None:
    seqs = bench.put(Trade(symbol=b"KNOWN"), Trade(symbol=b"STRANGE"), Trade(symbol=b"KNOWN"))
    bench.execute(
        "CREATE TABLE listed (symbol text PRIMARY KEY)",
        "INSERT INTO listed VALUES ('KNOWN')",
        "ALTER TABLE market_ticks ADD FOREIGN KEY (symbol) REFERENCES listed DEFERRABLE INITIALLY DEFERRED",
    )
    assert bench.failure() == ("23503", FailureKind.DATA)

    assert bench.store_isolated().refused == 1

    assert bench.seqs() == [seqs[0], seqs[2]]


@pytest.mark.requirement("F52")
def test_rows_that_a_unique_index_has_already_are_counted_and_not_stored_again(bench: Bench) -> None:
    seqs = bench.put(*ten_thousand()[:100])
    with psycopg.connect(bench.dsn) as connection:  # as if somebody had restored them
        block, batch = bench.block(), new_batch()
        batch.append_block(block, 20, 60)
        isolation.copy_rows(connection, "market_ticks", batch)
    bench.execute("CREATE UNIQUE INDEX ON market_ticks (time, source, seq)", COUNT_COPIES)
    assert bench.failure() == ("23505", FailureKind.DATA)
    bench.copies()

    assert bench.store_isolated() == Isolated(already_stored=40)

    assert bench.copies() == 2, "COPY, then INSERT ... ON CONFLICT DO NOTHING"
    assert bench.seqs() == seqs
    assert bench.refused() == []


@pytest.mark.requirement("F52", "DLP-01")
def test_another_row_with_the_key_of_a_unique_index_is_refused_and_not_taken_for_the_same(bench: Bench) -> None:
    seqs = bench.put(Trade(price=(1, 0)), Trade(price=(2, 0)), Trade(price=(1, 0)), Trade(price=(3, 0)))
    bench.execute("CREATE UNIQUE INDEX ON market_ticks (time, symbol, price)")

    isolated = bench.store_isolated()

    assert (isolated.refused, isolated.already_stored) == (1, 0)
    assert bench.seqs() == [seqs[0], seqs[1], seqs[3]]
    assert [row["seq"] for row in bench.refused()] == [seqs[2]]


@pytest.mark.requirement("F52")
def test_rows_of_both_sorts_are_told_apart_beside_a_bad_one(bench: Bench) -> None:
    bench.put(Trade(price=(1, 0)))
    bench.store()
    seqs = bench.put(
        Trade(price=(1, 0)), Trade(price=(2, 0)), Trade(price=(3, 0), volume=(BAD_VOLUME, 0)), Trade(price=(4, 0))
    )
    with psycopg.connect(bench.dsn) as connection:
        batch = new_batch()
        batch.append_block(bench.block(), 1, 2)
        isolation.copy_rows(connection, "market_ticks", batch)
    bench.execute("CREATE UNIQUE INDEX ON market_ticks (time, symbol, price)", NO_BAD_VOLUME)

    isolated = bench.store_isolated()

    assert (isolated.refused, isolated.already_stored) == (2, 1)
    assert [row["seq"] for row in bench.refused()] == [seqs[0], seqs[2]]
    assert bench.seqs()[1:] == [seqs[1], seqs[3]]


@pytest.mark.requirement("F49", "F51")
@pytest.mark.parametrize("cut", ["request", "answer"])
def test_a_batch_whose_commit_was_cut_off_is_taken_apart_once(bench: Bench, cut: Any) -> None:
    seqs = bench.put(*ten_thousand(5)[:10])
    bench.execute(NO_BAD_VOLUME)
    with CuttingProxy(bench.dsn) as proxy:
        bench.connect(proxy.dsn)
        proxy.cut = cut
        assert bench.failure(bench.store_isolated)[1] is FailureKind.AWAY

        assert bench.store_isolated().refused == (0 if cut == "answer" else 1)
        assert bench.store_isolated() == Isolated()
        bench.database.close()

    assert proxy.cuts == 1
    assert bench.seqs() == seqs[:5] + seqs[6:]
    assert [row["seq"] for row in bench.refused()] == [seqs[5]]


@pytest.mark.requirement("F51")
def test_a_batch_is_not_taken_apart_for_a_writer_that_was_overtaken(bench: Bench) -> None:
    seqs = bench.put(Trade(volume=(BAD_VOLUME, 0)), Trade())
    bench.execute(f"UPDATE ingest_cursor SET seq = {seqs[0]}")

    with pytest.raises(Fenced):
        bench.store_isolated()

    assert bench.seqs() == []
    assert bench.refused() == []


@pytest.mark.requirement("F51", "F53")
def test_a_quarantine_that_refuses_too_keeps_the_batch_where_it_is(bench: Bench) -> None:
    seqs = bench.put(Trade(volume=(BAD_VOLUME, 0)), Trade())
    bench.execute(NO_BAD_VOLUME, "ALTER TABLE quarantine ADD CONSTRAINT closed CHECK (false)")

    assert bench.failure(bench.store_isolated) == (None, FailureKind.SETUP)

    assert bench.seqs() == []
    assert bench.stored_cursor() == bench.cursor
    bench.execute("ALTER TABLE quarantine DROP CONSTRAINT closed")
    assert bench.store_isolated().refused == 1
    assert bench.seqs() == seqs[1:]


@pytest.mark.requirement("F50")
def test_a_deadlock_is_tried_again(bench: Bench) -> None:
    seqs = bench.put(Trade())
    # A session looks once, so long after it began to wait: the writer does so when there is one, and gives way.
    bench.execute(f"ALTER DATABASE {urlsplit(bench.dsn).path[1:]} SET deadlock_timeout = '2s'")
    bench.connect()
    with psycopg.connect(bench.dsn) as other:
        other.execute("SET deadlock_timeout = '1min'")
        other.execute("LOCK TABLE market_ticks IN EXCLUSIVE MODE")
        caught: list[tuple[str | None, FailureKind]] = []
        thread = threading.Thread(target=lambda: caught.append(bench.failure()))
        thread.start()
        wait_for_lock(bench.dsn)
        other.execute("SELECT FROM ingest_cursor FOR UPDATE")
        thread.join(30)
        other.rollback()

    assert caught == [("40P01", FailureKind.AWAY)]
    bench.store()
    assert bench.seqs() == seqs


@pytest.mark.requirement("F50")
def test_a_table_that_somebody_locks_is_given_up_in_time_and_tried_again(bench: Bench) -> None:
    seqs = bench.put(Trade())
    bench.connect(statement_timeout_s=1)
    with psycopg.connect(bench.dsn) as other:
        other.execute("LOCK TABLE market_ticks")
        assert bench.failure() == ("57014", FailureKind.AWAY)
        assert bench.failure(bench.store_isolated) == ("57014", FailureKind.AWAY)
    bench.store()
    assert bench.seqs() == seqs


@pytest.mark.nightly
@pytest.mark.requirement("F50")
def test_a_lock_of_ten_seconds_is_given_up_before_the_statement_times_out(bench: Bench) -> None:
    bench.put(Trade())
    with psycopg.connect(bench.dsn) as other:
        other.execute("LOCK TABLE market_ticks")
        assert bench.failure() == ("55P03", FailureKind.AWAY)


@pytest.mark.requirement("F53")
def test_a_replica_that_is_not_promoted_yet_is_waited_for(bench: Bench) -> None:
    name = urlsplit(bench.dsn).path[1:]
    seqs = bench.put(Trade())
    bench.connect()
    bench.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")

    assert bench.failure() == ("25006", FailureKind.AWAY)
    assert bench.failure(bench.store_isolated) == ("25006", FailureKind.AWAY)

    with psycopg.connect(bench.dsn, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
    bench.store()
    assert bench.seqs() == seqs


@pytest.mark.requirement("F48")
@pytest.mark.parametrize("isolated", [False, True])
def test_a_session_that_is_ended_in_the_middle_of_a_copy_stores_nothing_twice(bench: Bench, isolated: bool) -> None:
    seqs = bench.put(Trade(), Trade())
    bench.execute(trigger("PERFORM pg_sleep(30);"))
    caught: list[tuple[str | None, FailureKind]] = []
    thread = threading.Thread(target=lambda: caught.append(bench.failure(bench.store_isolated if isolated else None)))
    thread.start()
    wait_until(lambda: query(bench.dsn, f"SELECT pg_terminate_backend(pid) {ASLEEP}"))
    thread.join(30)

    assert caught == [("57P01", FailureKind.AWAY)]
    bench.execute("DROP TRIGGER judge ON market_ticks")
    bench.store()
    assert bench.seqs() == seqs


@pytest.mark.requirement("F55")
def test_a_server_whose_connections_are_used_up_is_waited_for(
    own_postgres: PostgresFactory, make_bench: Callable[[str], Bench]
) -> None:
    bench = make_bench(own_postgres().dsn)
    seqs = bench.put(Trade())
    bench.connect()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(psycopg.connect(bench.dsn))
        assert bench.failure()[1] is FailureKind.AWAY
        assert bench.failure()[1] is FailureKind.AWAY
    wait_until(
        lambda: (
            query(bench.dsn, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'") == [(1,)]
        )
    )

    bench.store()

    assert bench.seqs() == seqs


@pytest.mark.requirement("F55")
def test_a_transaction_relies_on_nothing_that_was_set_in_the_session_before_it(bench: Bench) -> None:
    bench.connect(statement_timeout_s=7)
    shown = ("statement_timeout", "lock_timeout", "synchronous_commit")
    bench.execute(
        "CREATE TABLE seen (value text)",
        trigger(
            f"INSERT INTO seen VALUES ({' || $q$ $q$ || '.join(f'current_setting($q${name}$q$)' for name in shown)});"
        ),
        "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),"
        " set_config('synchronous_commit', 'off', false); RETURN NULL; END $$",
        "CREATE TRIGGER forget AFTER INSERT ON market_ticks FOR EACH STATEMENT EXECUTE FUNCTION forget()",
    )
    for _ in range(2):  # the second transaction finds the session as a pooler may hand it out
        bench.put(Trade())
        bench.store()

    assert query(bench.dsn, "SELECT value FROM seen") == [("7s 10s on",)] * 2
    assert query(bench.dsn, "SELECT count(*) FROM pg_prepared_statements") == [(0,)]


@pytest.mark.requirement("F51")
def test_refused_rows_are_counted_and_people_are_told() -> None:
    counters: dict[str, int] = {}

    class Counters:
        def increment(self, name: str, n: int = 1, /) -> None:
            counters[name] = counters.get(name, 0) + n

        def set(self, name: str, value: int, /) -> None:
            raise AssertionError(name)

    alerts = RecordingAlerts()
    isolation.report(Isolated(), Counters(), alerts)
    assert (counters, alerts.sent) == ({}, [])

    isolation.report(Isolated(3, 2, ("market_ticks: 23514 no (3 rows)",)), Counters(), alerts)

    assert counters == {"rows_refused": 3, "rows_already_stored": 2}
    assert alerts.codes() == ["rows_refused"]


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


@pytest.mark.requirement("DLP-03", "F51")
@pytest.mark.parametrize("many", [1, 90], ids=["few_bad", "many_bad"])
def test_a_block_of_which_nobody_knows_what_is_stored_is_completed_and_nothing_of_it_comes_twice(
    bench: Bench, many: int
) -> None:
    bench.execute(NO_BAD_VOLUME)
    records: list[Record] = []
    for i in range(many):
        records += [Trade(volume=(BAD_VOLUME, 0)), Trade(), Book(), Event(), Gap(missing=i), Ledger(count=1)]
    bench.put(*records)
    assert bench.store_isolated().refused == many
    tables = ("market_ticks", "market_orderbook", "market_events", "feed_gaps", "ingest_ledger")
    stored = {table: bench.seqs(table) for table in tables}
    for table in tables:
        bench.execute(f"DELETE FROM {table} WHERE seq = (SELECT min(seq) FROM {table})")
    bench.execute(f"UPDATE ingest_cursor SET seq = {bench.cursor}")

    found = bench.database.store_missing(bench.block(), bench.claim())

    assert {table: bench.seqs(table) for table in tables} == stored
    assert found.already_stored == 5 * (many - 1)
    assert len(bench.refused()) == many, "what is in quarantine is there once"
