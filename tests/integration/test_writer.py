"""The writer's loop on real rings and a real server: records of every kind become rows, in batches, once."""

from collections.abc import Callable

import pytest

from tests.integration import writer_rig
from tests.integration.writer_rig import Rings, RunningWriter, drain, execute, query, settings_for, stored, wait_until
from tests.reference.packed_records import EVENT, Book, Event, Gap, Ledger, Quarantine, Trade, append

make_rings = writer_rig.make_rings


def test_records_of_every_kind_reach_their_tables(make_rings: Callable[..., Rings], postgres_dsn: str) -> None:
    rings = make_rings()
    level = ((71300, 0), (5, 0))
    for record in (
        Trade(price=(7120012, 2), side=2),
        Book(asks=[level], bids=[level], flags=32),
        Event(symbol=b"0001", type=2, price=(265012, 2), text=b"0001^\0^\xff", flags=16),
        Quarantine(frame=b"\0raw\xff", reason=1),
        Gap(missing=3, reason=4),
        Ledger(count=4, through_seq=5, data_kind=EVENT),
    ):
        append(rings.producers[0], record)
    rings.producers[0].publish()

    drain(rings, postgres_dsn)

    assert query(postgres_dsn, "SELECT symbol, price, side, market, venue FROM market_ticks") == [
        ("005930", 71200.12, "sell", "kr", "kis")
    ]
    assert query(postgres_dsn, "SELECT ask_price1, ask_vol1, bid_vol2, exchange FROM market_orderbook") == [
        (71300.0, 5.0, None, "sor")
    ]
    assert query(postgres_dsn, "SELECT symbol, type, price, volume, exchange, detail FROM market_events") == [
        ("0001", "index", 2650.12, None, "nxt", "0001^\ufffd^\ufffd")
    ]
    assert query(postgres_dsn, "SELECT venue, frame FROM quarantine") == [("kis", b"\0raw\xff")]
    assert query(postgres_dsn, "SELECT kind, missing, reason FROM feed_gaps") == [
        ("trade", 3.0, "cumulative volume does not add up")
    ]
    assert query(postgres_dsn, "SELECT received, through_seq, kind FROM ingest_ledger") == [(4, 5, "event")]
    assert rings.counters.get("rows_committed") == 6
    assert rings.counters.get("writer_lag_bytes") == 0


def test_the_cursor_is_stored_with_the_rows(make_rings: Callable[..., Rings], postgres_dsn: str) -> None:
    rings = make_rings()
    rings.fill(25)

    drain(rings, postgres_dsn)

    producer = rings.producers[0]
    assert query(postgres_dsn, "SELECT ring, epoch, seq FROM ingest_cursor") == [(0, producer.epoch, producer.last_seq)]


def test_several_rings_share_a_batch_and_none_is_starved(make_rings: Callable[..., Rings], postgres_dsn: str) -> None:
    rings = make_rings(3)
    rings.fill(2_000, ring=0)
    rings.fill(10, ring=1)
    rings.fill(10, ring=2)

    with RunningWriter(rings, settings_for(postgres_dsn, batch_rows=100)) as running:
        wait_until(lambda: stored(postgres_dsn)[0] == 2_020)
        assert running.stop() is True

    first = query(postgres_dsn, "SELECT DISTINCT source FROM market_ticks WHERE xmin = (SELECT xmin FROM market_ticks"
                  " ORDER BY ctid LIMIT 1)")  # fmt: skip
    assert sorted(first) == [(0,), (1,), (2,)]


def test_a_batch_is_stored_when_it_is_full_or_when_its_time_is_up(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()

    with RunningWriter(rings, settings_for(postgres_dsn, batch_rows=100, flush_interval_ms=300_000)):
        rings.fill(100)
        wait_until(lambda: stored(postgres_dsn)[0] == 100)
    with RunningWriter(rings, settings_for(postgres_dsn, batch_rows=100, flush_interval_ms=20)):
        rings.fill(1)
        wait_until(lambda: stored(postgres_dsn)[0] == 101)


def test_an_idle_writer_sleeps_until_a_producer_wakes_it(make_rings: Callable[..., Rings], postgres_dsn: str) -> None:
    rings = make_rings()

    with RunningWriter(rings, settings_for(postgres_dsn)) as running:
        wait_until(lambda: running.longest_pause_s() > 0.9)
        wakes_before = running.wakes
        rings.fill(1)
        wait_until(lambda: stored(postgres_dsn)[0] == 1)

    assert running.wakes == wakes_before + 1


@pytest.mark.requirement("SCH-01", "F51")
def test_a_row_that_the_table_refuses_is_kept_in_quarantine_and_the_others_are_stored(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    with RunningWriter(rings, settings_for(postgres_dsn)) as running:
        append(rings.producers[0], Trade(price=(0, 0)))  # no parser lets this through
        rings.fill(4)
        wait_until(lambda: stored(postgres_dsn)[0] == 4)
        assert running.stop() is True

    assert stored(postgres_dsn, "market_ticks", "quarantine") == (5, 5)
    assert rings.counters.get("batches_spilled") == 0


def test_the_writer_makes_the_tables_of_an_empty_database(
    make_rings: Callable[..., Rings], empty_postgres_dsn: str
) -> None:
    rings = make_rings()
    rings.fill(10)

    drain(rings, empty_postgres_dsn)

    assert stored(empty_postgres_dsn) == (10, 10)


def test_a_table_that_is_not_there_is_waited_for_until_the_operator_helps(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    with RunningWriter(rings, settings_for(postgres_dsn)):
        wait_until(lambda: rings.counters.get("database_connected"))
        execute(postgres_dsn, "ALTER TABLE market_ticks RENAME TO elsewhere")
        rings.fill(10)
        wait_until(lambda: rings.counters.get("commit_retries") >= 2)
        execute(postgres_dsn, "ALTER TABLE elsewhere RENAME TO market_ticks")
        wait_until(lambda: rings.counters.get("rows_committed") == 10)
