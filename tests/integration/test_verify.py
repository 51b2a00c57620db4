"""`sise verify` on a real PostgreSQL and a real Redis."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis

from daemon.config import Config, Database, Redis
from daemon.sinks.verify import Key, Report, verify

NOW = datetime.now(UTC)
MINUTE = NOW.replace(second=0, microsecond=0) - timedelta(hours=1)
UNIX_MINUTE = int(MINUTE.timestamp()) // 60
SEQ = 1_795_000_000_000_000


class Bench:
    """Writes what worker, writer and publisher would have left behind."""

    def __init__(self, dsn: str, redis_url: str) -> None:
        self.config = Config(database=Database(dsn=dsn), redis=Redis(url=redis_url))
        self._dsn = dsn
        self._redis_url = redis_url

    def begin_epoch(self, seq: int) -> None:
        with psycopg.connect(self._dsn) as connection:
            connection.execute("INSERT INTO ingest_cursor VALUES (0, %s, %s)", [SEQ + seq, SEQ + seq])

    def delete(self, seq: int) -> None:
        with psycopg.connect(self._dsn) as connection:
            connection.execute("DELETE FROM market_ticks WHERE seq = %s", [SEQ + seq])

    def store(self, count: int, *, first_seq: int, symbol: str = "005930", minute: datetime = MINUTE) -> None:
        with psycopg.connect(self._dsn) as connection:
            connection.execute(
                "INSERT INTO market_ticks (time, symbol, price, volume, market, venue, recv_time, flags, source, seq)"
                " SELECT %(minute)s, %(symbol)s, 1, 1, 'kr', 'kis', %(minute)s + interval '59.999999 s', 0, 0, seq"
                " FROM generate_series(%(first)s::int8, %(last)s::int8) AS seq",
                {"minute": minute, "symbol": symbol, "first": SEQ + first_seq, "last": SEQ + first_seq + count - 1},
            )

    def ledger(self, count: int, *, through: int, symbol: str = "005930", minute: datetime = MINUTE) -> None:
        with psycopg.connect(self._dsn) as connection:
            connection.execute(
                "INSERT INTO ingest_ledger VALUES (%s, 'kr', 'kis', %s, 'trade', %s, %s, 0, %s)",
                [minute, symbol, count, SEQ + through, SEQ + through + 1],
            )

    def publish(self, count: int, *, symbol: str = "005930", minute: int = UNIX_MINUTE) -> None:
        with redis.Redis.from_url(self._redis_url) as client:
            client.hincrby(f"published:minute:{minute}", f"kr|{symbol}|trade", count)

    def verify(self, since: datetime | None = None) -> Report:
        return verify(self.config, since, sleep=lambda _seconds: None)


@pytest.fixture
def bench(postgres_dsn: str, redis_url: str) -> Bench:
    return Bench(postgres_dsn, redis_url)


@pytest.mark.requirement("E2E-OBS-01")
def test_equal_counts_are_complete(bench: Bench) -> None:
    bench.store(10, first_seq=0)
    bench.ledger(10, through=9)
    bench.publish(10)

    report = bench.verify()

    assert report.is_complete, report.as_text()
    assert (report.received, report.stored, report.published, report.published_expected) == (10, 10, 10, 10)


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


def test_a_redis_that_does_not_answer_makes_the_result_incomplete_but_compares_the_rest(postgres_dsn: str) -> None:
    bench = Bench(postgres_dsn, "redis://127.0.0.1:1/0")
    bench.store(10, first_seq=0)
    bench.ledger(11, through=9)

    report = bench.verify()

    assert not report.is_complete
    assert report.redis_problem
    assert [(d.received, d.stored, d.published) for d in report.differences] == [(11, 10, None)]
