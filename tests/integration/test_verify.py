"""`sise verify` on a real PostgreSQL and a real Redis."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import redis

from daemon.config import Config, Database, Redis
from daemon.sinks import publisher, writer_process
from daemon.sinks.counts import Key
from daemon.sinks.host import Host
from daemon.sinks.segment import Range, encode
from daemon.sinks.verify import GapSum, Report, verify
from native_pipeline.counters import CountersBlock, create_counters_file
from native_pipeline.records import MARKET_DATA
from native_pipeline.ring_accounts import flush_ledger
from native_pipeline.ring_creation import GATING, LOSSY, create_ring
from native_pipeline.ring_writer import RingWriter
from tests.reference.packed_records import Book, Event, Trade, append

NOW = datetime.now(UTC)
MINUTE = NOW.replace(second=0, microsecond=0) - timedelta(hours=1)
UNIX_MINUTE = int(MINUTE.timestamp()) // 60
SEQ = 1_795_000_000_000_000
KINDS = [data.name for data in MARKET_DATA]
TABLES = {data.name: data.table for data in MARKET_DATA}
# What the columns that only one of the tables has must hold.
INSERTS = {
    "trade": ("price, volume, ", "1, 1, "),
    "orderbook": ("", ""),
    "event": ("type, detail, ", "'expected', '', "),
}


class Bench:
    """Writes what worker, writer and publisher would have left behind."""

    def __init__(self, dsn: str, redis_url: str) -> None:
        self.config = Config(database=Database(dsn=dsn), redis=Redis(url=redis_url))
        self._dsn = dsn
        self._redis_url = redis_url

    def begin_epoch(self, seq: int) -> None:
        with psycopg.connect(self._dsn) as connection:
            connection.execute("INSERT INTO ingest_cursor VALUES (0, %s, %s)", [SEQ + seq, SEQ + seq])

    def delete(self, seq: int, *, kind: str = "trade") -> None:
        with psycopg.connect(self._dsn) as connection:
            connection.execute(f"DELETE FROM {TABLES[kind]} WHERE seq = %s".encode(), [SEQ + seq])

    def store(
        self, count: int, *, first_seq: int, symbol: str = "005930", minute: datetime = MINUTE, kind: str = "trade"
    ) -> None:
        columns, values = INSERTS[kind]
        with psycopg.connect(self._dsn) as connection:
            connection.execute(
                f"INSERT INTO {TABLES[kind]} (time, symbol, {columns} market, venue, recv_time, flags, source, seq)"
                f" SELECT %(minute)s, %(symbol)s, {values} 'kr', 'kis', %(minute)s + interval '59.999999 s', 0, 0, seq"
                " FROM generate_series(%(first)s::int8, %(last)s::int8) AS seq".encode(),
                {"minute": minute, "symbol": symbol, "first": SEQ + first_seq, "last": SEQ + first_seq + count - 1},
            )

    def ledger(
        self, count: int, *, through: int, symbol: str = "005930", minute: datetime = MINUTE, kind: str = "trade"
    ) -> None:
        with psycopg.connect(self._dsn) as connection:
            connection.execute(
                "INSERT INTO ingest_ledger VALUES (%s, 'kr', 'kis', %s, %s, %s, %s, 0, %s)",
                [minute, symbol, kind, count, SEQ + through, SEQ + through + 1],
            )

    def publish(self, count: int, *, symbol: str = "005930", minute: int = UNIX_MINUTE, kind: str = "trade") -> None:
        with redis.Redis.from_url(self._redis_url) as client:
            client.hincrby(f"published:minute:{minute}", f"kr|{symbol}|{kind}", count)

    def gap(
        self,
        started: datetime,
        seconds: float,
        *,
        symbol: str,
        reason: str,
        missing: float | None = None,
        exchange: str | None = None,
    ) -> None:
        with psycopg.connect(self._dsn) as connection:
            connection.execute(
                "INSERT INTO feed_gaps VALUES ('kis', 'kr', %s, 'trade', %s, %s, %s, %s, 0, 1, %s)",
                [symbol, started, started + timedelta(seconds=seconds), reason, missing, exchange],
            )

    def spill(
        self, after: int, through: int, *, records: int, is_stored: bool = False, epoch: int = 0, is_lost: bool = False
    ) -> None:
        """Note what the writer notes when it has moved the cursor over a spill file."""
        with psycopg.connect(self._dsn) as connection:
            connection.execute(
                "INSERT INTO spilled_batches (batch, rings, epochs, after_seqs, through_seqs, records, first_recv,"
                " last_recv, stored_at, lost_at) VALUES (gen_random_uuid(), '{0}', ARRAY[%s::int8], ARRAY[%s::int8],"
                " ARRAY[%s::int8], %s, %s, %s, CASE WHEN %s THEN now() END, CASE WHEN %s THEN now() END)",
                [SEQ + epoch, SEQ + after, SEQ + through, records, MINUTE, MINUTE, is_stored, is_lost],
            )

    def refuse(self, seq: int, *, symbol: str = "005930", kind: str = "trade", is_replayed: bool = False) -> None:
        with psycopg.connect(self._dsn) as connection:
            connection.execute(
                "INSERT INTO quarantine (recv_time, venue, reason, detail, frame, original_bytes, source, seq, kind,"
                " market, symbol, replayed_at) VALUES (%s, 'kis', 'refused by the database: 23514', 0, '', 0, 0, %s,"
                " %s, 'kr', %s, CASE WHEN %s THEN now() END)",
                [MINUTE, SEQ + seq, kind, symbol, is_replayed],
            )

    def verify(self, since: datetime | None = None) -> Report:
        return verify(self.config, since, sleep=lambda _seconds: None)


@pytest.fixture
def bench(postgres_dsn: str, redis_url: str) -> Bench:
    return Bench(postgres_dsn, redis_url)


@pytest.mark.requirement("E2E-OBS-01", "DLP-02")
def test_a_spill_file_that_is_lost_is_never_complete_even_if_no_ledger_row_knew_its_records(bench: Bench) -> None:
    bench.store(10, first_seq=0)
    bench.ledger(10, through=9)
    bench.publish(10)
    bench.spill(20, 30, records=10, is_lost=True)

    report = bench.verify()

    assert (report.lost_batches, report.lost_records, report.is_complete) == (1, 10, False)
    assert "10 records were in 1 spill files that are damaged or gone" in report.as_text()
    assert bench.verify(MINUTE + timedelta(minutes=1)).lost_batches == 0, "older than what was asked for"


@pytest.mark.requirement("E2E-OBS-01")
def test_equal_counts_are_complete(bench: Bench) -> None:
    bench.store(10, first_seq=0)
    bench.ledger(10, through=9)
    bench.publish(10)

    report = bench.verify()

    assert report.is_complete, report.as_text()
    assert (report.received, report.stored, report.published, report.published_expected) == (10, 10, 10, 10)


@pytest.mark.requirement("E2E-OBS-01")
@pytest.mark.parametrize("removed", KINDS)
def test_a_row_that_was_removed_is_found_in_the_stream_of_its_kind(bench: Bench, removed: str) -> None:
    for number, kind in enumerate(KINDS):
        bench.store(10, first_seq=10 * number, kind=kind)
        bench.ledger(10, through=29, kind=kind)
        bench.publish(10, kind=kind)
    complete = bench.verify()
    assert complete.is_complete, complete.as_text()
    assert (complete.received, complete.stored, complete.published, complete.open) == (30, 30, 30, 0)

    bench.delete(10 * KINDS.index(removed) + 4, kind=removed)

    report = bench.verify()
    found = [(d.key, d.received, d.stored, d.published) for d in report.differences]
    assert found == [(Key(UNIX_MINUTE, "kr", "005930", removed), 10, 9, 10)]
    assert (report.lost, report.duplicated) == (1, 0)


@pytest.mark.requirement("E2E-OBS-01")
def test_events_that_are_the_newest_of_all_are_compared_too(bench: Bench) -> None:
    bench.store(10, first_seq=0)
    bench.ledger(10, through=9)
    bench.publish(10)
    later = MINUTE + timedelta(minutes=5)
    bench.store(2, first_seq=10, minute=later, kind="event")
    bench.store(1, first_seq=11, minute=later, kind="event")
    bench.publish(2, minute=UNIX_MINUTE + 5, kind="event")

    report = bench.verify()

    assert [(d.key.kind, d.duplicated) for d in report.differences] == [("event", 1)]
    assert report.open == 3


@pytest.mark.requirement("E2E-OBS-01")
def test_a_symbol_with_a_row_missing_is_named_and_the_others_are_not(bench: Bench) -> None:
    for first, symbol in ((0, "005930"), (10, "000660")):
        bench.store(10, first_seq=first, symbol=symbol)
        bench.ledger(10, through=19, symbol=symbol)
        bench.publish(10, symbol=symbol)
    bench.ledger(1, through=19, symbol="000660")

    report = bench.verify()

    assert [difference.key for difference in report.differences] == [Key(UNIX_MINUTE, "kr", "000660", "trade")]
    assert (report.lost, report.received, report.stored) == (1, 21, 20)


def test_rows_that_no_ledger_row_covers_are_open_not_wrong(bench: Bench) -> None:
    bench.store(10, first_seq=0)
    bench.ledger(6, through=5)
    bench.publish(10)

    report = bench.verify()

    assert report.is_complete, report.as_text()
    assert (report.received, report.stored, report.open) == (6, 6, 4)


def test_rows_without_any_ledger_are_open(bench: Bench) -> None:
    bench.store(10, first_seq=0)

    assert (bench.verify().open, bench.verify().is_complete) == (10, True)


def test_a_row_stored_twice_is_counted_as_duplicated(bench: Bench) -> None:
    bench.store(10, first_seq=0)
    bench.store(2, first_seq=8)
    bench.ledger(12, through=9)
    bench.publish(12)

    report = bench.verify()

    assert (report.duplicated, report.is_complete) == (2, False)


@pytest.mark.requirement("E2E-OBS-01")
def test_a_row_that_is_missing_and_another_that_is_there_twice_name_the_symbol(bench: Bench) -> None:
    for first, symbol in ((0, "005930"), (10, "000660")):
        bench.store(10, first_seq=first, symbol=symbol)
        bench.ledger(10, through=19, symbol=symbol)
        bench.publish(10, symbol=symbol)
    bench.delete(13)
    bench.store(1, first_seq=15, symbol="000660")

    report = bench.verify()

    assert [(d.key.symbol, d.received, d.stored, d.duplicated) for d in report.differences] == [("000660", 10, 10, 1)]
    assert (report.lost, report.duplicated) == (1, 1)
    assert "000660 trade: received 10 stored 10 published 10 duplicated 1" in report.as_text()


def test_an_open_row_that_is_there_twice_is_named_too(bench: Bench) -> None:
    bench.store(10, first_seq=0)
    bench.store(1, first_seq=9)

    assert [(d.stored, d.duplicated) for d in bench.verify().differences] == [(0, 1)]


@pytest.mark.requirement("E2E-OBS-01")
def test_the_ledger_of_a_new_ring_does_not_cover_the_rows_of_the_lost_one(bench: Bench) -> None:
    bench.begin_epoch(0)
    bench.begin_epoch(1_000)
    bench.store(10, first_seq=0)
    bench.ledger(6, through=5)  # what covers the other four was lost with the ring
    bench.store(7, first_seq=1_000)
    bench.ledger(7, through=1_006)
    bench.publish(17)

    report = bench.verify()

    assert report.is_complete, report.as_text()
    assert (report.received, report.stored, report.open, report.lost) == (13, 13, 4, 0)


def test_a_row_missing_in_an_earlier_epoch_is_still_found(bench: Bench) -> None:
    bench.begin_epoch(0)
    bench.begin_epoch(1_000)
    bench.store(9, first_seq=0)
    bench.ledger(10, through=9)
    bench.store(7, first_seq=1_000)
    bench.ledger(7, through=1_006)
    bench.publish(17)

    assert [(d.received, d.stored) for d in bench.verify().differences] == [(17, 16)]


@pytest.mark.requirement("E2E-OBS-01")
def test_what_was_published_and_is_nowhere_else_is_reported(bench: Bench) -> None:
    bench.store(10, first_seq=0)
    bench.ledger(10, through=9)
    bench.publish(10)
    bench.publish(3, symbol="000660")
    for minutes in (-30, 30):  # before and behind everything that the database knows
        bench.publish(1, symbol="035420", minute=UNIX_MINUTE + minutes)

    report = bench.verify()

    found = [(d.key.minute - UNIX_MINUTE, d.key.symbol, d.stored, d.published) for d in report.differences]
    assert found == [(-30, "035420", 0, 1), (0, "000660", 0, 3), (30, "035420", 0, 1)]
    assert bench.verify(MINUTE + timedelta(minutes=31)).is_complete


@pytest.mark.requirement("E2E-OBS-01")
def test_a_message_too_many_is_found_in_the_minute_that_runs_too(bench: Bench) -> None:
    now = datetime.now(UTC)
    minute = now.replace(second=0, microsecond=0)
    bench.store(10, first_seq=0, minute=minute)
    bench.ledger(10, through=9, minute=minute)
    bench.publish(11, minute=int(minute.timestamp()) // 60)

    assert [(d.received, d.stored, d.published) for d in bench.verify().differences] == [(10, 10, 11)]


def test_a_message_that_was_not_published_is_a_difference(bench: Bench) -> None:
    bench.store(10, first_seq=0)
    bench.ledger(10, through=9)
    bench.publish(9)

    report = bench.verify()

    assert [(d.received, d.stored, d.published) for d in report.differences] == [(10, 10, 9)]
    assert report.lost == 0


def test_a_publisher_a_moment_behind_is_waited_for(bench: Bench) -> None:
    bench.store(10, first_seq=0)
    bench.ledger(10, through=9)
    bench.publish(9)

    report = verify(bench.config, sleep=lambda _seconds: bench.publish(1))

    assert report.is_complete, report.as_text()


def test_counts_older_than_redis_keeps_them_are_not_expected_there(bench: Bench) -> None:
    old = MINUTE - timedelta(days=10)
    bench.store(10, first_seq=0, minute=old)
    bench.ledger(10, through=9, minute=old)

    report = bench.verify()

    assert report.is_complete, report.as_text()
    assert (report.received, report.published_expected) == (10, 0)


def test_since_leaves_out_what_was_received_before(bench: Bench) -> None:
    bench.store(5, first_seq=0, minute=MINUTE - timedelta(minutes=1))
    bench.ledger(9, through=4, minute=MINUTE - timedelta(minutes=1))
    bench.store(5, first_seq=10)
    bench.ledger(5, through=20)
    bench.publish(5)

    report = bench.verify(MINUTE + timedelta(seconds=30))

    assert report.is_complete, report.as_text()
    assert report.received == 5


def test_days_are_compared_one_at_a_time_and_summed(bench: Bench) -> None:
    for day in range(4):
        minute = MINUTE - timedelta(days=10 + day)
        bench.store(3, first_seq=10 * day, minute=minute)
        bench.ledger(3, through=1_000, minute=minute)

    assert (bench.verify().received, bench.verify().stored) == (12, 12)


def test_quarantine_and_gaps_are_counted(bench: Bench, postgres_dsn: str) -> None:
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute("INSERT INTO quarantine VALUES (%s, 'kis', 'r', 0, '', 0, 0, 1)", [NOW])
        connection.execute(
            "INSERT INTO feed_gaps VALUES ('kis', 'kr', '005930', 'trade', %s, %s, 'r', NULL, 0, 1)", [NOW, NOW]
        )

    assert (bench.verify().quarantined, bench.verify().gaps) == (1, 1)


@pytest.mark.requirement("E2E-OBS-01")
def test_gaps_are_listed_by_stream_and_reason_and_are_no_difference(bench: Bench) -> None:
    bench.gap(MINUTE - timedelta(hours=1), 60, symbol="005930", reason="connection lost")  # ended before
    bench.gap(MINUTE - timedelta(seconds=2), 3, symbol="005930", reason="connection lost")
    bench.gap(MINUTE + timedelta(seconds=10), 0.5, symbol="005930", reason="connection lost")
    for missing in (120, 7):
        bench.gap(MINUTE, 1, symbol="005930", reason="cumulative volume does not add up", missing=missing)
    bench.gap(MINUTE, 0, symbol="000660", reason="worker restarted")
    bench.gap(MINUTE, 4, symbol="005930", reason="connection lost", exchange="nxt")

    report = bench.verify(MINUTE)

    def second(seconds: float) -> datetime:
        return MINUTE + timedelta(seconds=seconds)

    assert report.gap_sums == [
        GapSum("kr", "000660", None, "trade", "worker restarted", 1, 0.0, None, MINUTE, MINUTE),
        GapSum("kr", "005930", None, "trade", "connection lost", 2, 3.5, None, second(-2), second(10.5)),
        GapSum("kr", "005930", None, "trade", "cumulative volume does not add up", 2, 2.0, 127.0, MINUTE, second(1)),
        GapSum("kr", "005930", "nxt", "trade", "connection lost", 1, 4.0, None, MINUTE, second(4)),
    ]
    assert (report.gaps, report.is_complete) == (6, True)
    assert "kr 005930 nxt trade: connection lost: 1 x, 4.000 s (" in report.as_text()
    assert "kr 005930 trade: connection lost: 2 x, 3.500 s (" in report.as_text()
    assert "does not add up: 2 x, 2.000 s, 127 shares missing (" in report.as_text()
    as_json = json.loads(json.dumps(report.as_dict()))
    assert (as_json["gaps"], as_json["complete"]) == (6, True)
    assert as_json["feed_gaps"][2] == {
        "market": "kr", "symbol": "005930", "exchange": None, "kind": "trade",
        "reason": "cumulative volume does not add up", "gaps": 2, "seconds": 2.0,
        "missing": 127.0, "first_started": MINUTE.isoformat(), "last_ended": second(1).isoformat(),
    }  # fmt: skip


@pytest.mark.requirement("E2E-OBS-01", "QG-IT-01")
def test_every_kind_of_market_data_is_received_published_and_stored_alike(
    bench: Bench, tmp_path: Path, postgres_dsn: str, redis_url: str
) -> None:
    now_ns = int(MINUTE.timestamp()) * 1_000_000_000
    path = tmp_path / "worker-0.ring"
    create_ring(path, ring=0, capacity_bytes=1 << 20, consumers=(("writer", GATING), ("publisher", LOSSY)))
    ring = RingWriter(path)
    for number in range(30):
        kind = (Trade, Book, Event)[number % 3]
        append(ring, kind(recv_ns=now_ns + number, symbol=b"%06d" % (number % 2), flags=16 * (number % 2)))
    for event_type in range(1, 7):  # a status may be of no symbol
        append(ring, Event(recv_ns=now_ns, symbol=b"", type=event_type, text=b"\0\xff"))
    flush_ledger(ring, now_ns, force=True)
    ring.close()
    create_counters_file(tmp_path / "counters", 1)
    counters = CountersBlock(tmp_path / "counters", 0)
    counters.take("sinks")
    host = Host(wait=lambda _s: None, beat=lambda: None, stopping=lambda: True, drain_s=30.0)

    database = Database(dsn=postgres_dsn, retention_days=0)
    assert writer_process.run(
        database, path.parent, counters, host, on_ready=lambda: None, spill_directory=tmp_path / "spill"
    )
    assert publisher.run(Redis(url=redis_url), path.parent, counters, host, on_ready=lambda: None)

    report = bench.verify()
    assert report.is_complete, report.as_text()
    assert (report.received, report.stored, report.published, report.open) == (36, 36, 36, 0)
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute("DELETE FROM market_events WHERE symbol = '' AND type = 'nav'")
    found = [(d.key, d.received, d.stored, d.published) for d in bench.verify().differences]
    assert found == [(Key(UNIX_MINUTE, "kr", "", "event"), 6, 5, 6)]


def test_a_redis_that_does_not_answer_makes_the_result_incomplete_but_compares_the_rest(postgres_dsn: str) -> None:
    bench = Bench(postgres_dsn, "redis://127.0.0.1:1/0")
    bench.store(10, first_seq=0)
    bench.ledger(11, through=9)

    report = bench.verify()

    assert not report.is_complete
    assert report.redis_problem
    assert [(d.received, d.stored, d.published) for d in report.differences] == [(11, 10, None)]


@pytest.mark.requirement("E2E-OBS-01", "DLP-01")
def test_what_waits_in_spill_files_is_not_lost_and_what_was_stored_before_it_is_compared(bench: Bench) -> None:
    bench.begin_epoch(0)
    bench.store(10, first_seq=0)
    bench.ledger(10, through=9)
    # 10 is that ledger row, 11 a gap; 12 to 41, among them a ledger row, are in a spill file; live went on behind it
    bench.spill(11, 41, records=30)
    bench.ledger(29 + 5, through=46)
    bench.store(5, first_seq=42)
    bench.publish(44)

    report = bench.verify()

    assert report.is_complete, report.as_text()
    assert (report.received, report.stored, report.open, report.lost) == (10, 10, 5, 0)
    assert (report.waiting, report.waiting_missing, report.spilled_batches, report.spilled_records) == (34, 29, 1, 30)
    assert "complete: nothing is missing, what waits will be compared later" in report.as_text()
    assert "not compared: 34 received behind what waits in spill files" in report.as_text()

    bench.delete(4)  # what was stored before is compared exactly all the while
    assert [(d.received, d.stored) for d in bench.verify().differences] == [(10, 9)]


@pytest.mark.requirement("E2E-OBS-01", "DLP-01")
def test_more_missing_than_the_spill_files_hold_is_told(bench: Bench) -> None:
    bench.begin_epoch(0)
    bench.store(10, first_seq=0)
    bench.ledger(10, through=9)
    bench.spill(11, 41, records=27)
    bench.ledger(29 + 5, through=46)
    bench.store(5, first_seq=42)
    bench.publish(44)

    report = bench.verify()

    assert (report.is_complete, report.too_few_spilled) == (False, 2)
    assert "of these 2 are in no spill file" in report.as_text()


@pytest.mark.requirement("E2E-OBS-01", "DLP-01")
@pytest.mark.parametrize("end", ["stored", "lost"])
def test_when_a_spill_file_is_stored_or_lost_everything_is_compared_again(bench: Bench, end: str) -> None:
    bench.begin_epoch(0)
    bench.store(10, first_seq=0)
    bench.ledger(10, through=9)
    bench.spill(10, 40, records=30, is_stored=end == "stored", is_lost=end == "lost")
    bench.store(29 if end == "stored" else 0, first_seq=12)
    bench.ledger(29 + 5, through=45)
    bench.store(5, first_seq=41)
    bench.publish(44)

    report = bench.verify()

    assert (report.waiting, report.spilled_records, report.open) == (0, 0, 0)
    assert (report.received, report.lost) == (44, 0 if end == "stored" else 29)
    assert report.is_complete == (end == "stored"), report.as_text()


@pytest.mark.requirement("E2E-OBS-01")
def test_a_flush_of_the_ledger_that_a_spill_file_cuts_in_two_is_not_compared(bench: Bench) -> None:
    bench.begin_epoch(0)
    bench.store(10, first_seq=0)
    bench.store(10, first_seq=10, symbol="000660")
    bench.ledger(10, through=19)  # its other row, of 000660, is the first record of the spill file
    bench.spill(20, 40, records=20)
    bench.publish(10)
    bench.publish(10, symbol="000660")

    report = bench.verify()

    assert report.is_complete, report.as_text()
    assert (report.received, report.stored, report.open) == (0, 0, 20)


@pytest.mark.requirement("E2E-OBS-01", "F51")
def test_rows_that_the_database_refused_are_counted_as_such(bench: Bench) -> None:
    bench.store(8, first_seq=2)
    bench.refuse(0)
    bench.refuse(1)
    bench.ledger(10, through=9)
    bench.publish(10)

    report = bench.verify()
    assert report.is_complete, report.as_text()
    assert (report.received, report.stored, report.refused, report.lost, report.quarantined) == (10, 8, 2, 0, 0)

    bench.refuse(2)  # both stored and refused
    assert [(d.received, d.stored, d.refused) for d in bench.verify().differences] == [(10, 8, 3)]


@pytest.mark.requirement("E2E-OBS-01", "F51")
def test_a_refused_row_that_was_replayed_counts_where_it_is_now(bench: Bench) -> None:
    bench.store(9, first_seq=1)
    bench.refuse(0, is_replayed=True)
    bench.ledger(10, through=9)
    bench.publish(10)
    assert [(d.received, d.stored, d.refused) for d in bench.verify().differences] == [(10, 9, 0)]

    bench.store(1, first_seq=0)

    assert bench.verify().is_complete


@pytest.mark.requirement("E2E-OBS-01", "DLP-01")
def test_files_and_rings_that_the_database_knows_nothing_of_are_shown(bench: Bench, tmp_path: Path) -> None:
    bench.config = Config(data_dir=str(tmp_path), database=bench.config.database, redis=bench.config.redis)
    bench.begin_epoch(0)
    bench.store(10, first_seq=0)
    bench.ledger(10, through=9)
    bench.publish(30)  # 20 of these are on the way
    assert not bench.verify().is_complete
    (tmp_path / "rings").mkdir()
    create_ring(tmp_path / "rings" / "worker-0.ring", ring=0, capacity_bytes=1 << 20, consumers=(("writer", GATING),))
    ring = RingWriter(tmp_path / "rings" / "worker-0.ring")
    append(ring, Trade())
    ring.publish()
    waiting_bytes = ring.head
    ring.close()
    directory = tmp_path / "failed_batches"
    directory.mkdir()
    one = Range(0, SEQ, SEQ + 10, SEQ + 30, 20, 4, int(MINUTE.timestamp()) * 10**9, int(NOW.timestamp()) * 10**9)
    header, content = encode(uuid.uuid4(), [one], b"data", created_ns=1)
    (directory / f"batch_20261120T000000.000000Z_{header.batch.hex}.spill").write_bytes(content)
    (directory / "batch_other.spill").write_bytes(b"damaged")

    report = bench.verify()

    assert report.is_complete, report.as_text()
    assert (report.spilled_batches, report.spilled_records, report.ring_bytes) == (1, 20, waiting_bytes)
