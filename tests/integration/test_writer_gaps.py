"""What a ring does not have, or not whole, is counted, told and a gap of each of its streams."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from daemon.sinks.database import Fenced
from native_pipeline.ring_creation import create_ring
from native_pipeline.ring_writer import RingWriter
from tests.integration import writer_rig
from tests.integration.writer_rig import (
    MIXTURE,
    Rings,
    RunningWriter,
    drain,
    execute,
    query,
    settings_for,
    stored,
    wait_until,
)
from tests.reference.packed_records import Ledger, append

make_rings = writer_rig.make_rings


def lose_ring(rings: Rings) -> None:
    """Ring 0 is an empty file from now on."""
    rings.producers[0].close()
    rings.paths[0].unlink()
    create_ring(rings.paths[0], ring=0, capacity_bytes=1 << 20)
    rings.producers[0] = RingWriter(rings.paths[0], wake_fds={"writer": rings.wake_fd})


def test_a_writer_that_was_overtaken_by_another_is_fenced(make_rings: Callable[..., Rings], postgres_dsn: str) -> None:
    rings = make_rings()

    with RunningWriter(rings, settings_for(postgres_dsn)) as running:
        rings.fill(5)
        wait_until(lambda: stored(postgres_dsn)[0] == 5)
        execute(postgres_dsn, "UPDATE ingest_cursor SET seq = seq + 1")
        rings.fill(5)
        running.wait_for_end()

    assert isinstance(running.error, Fenced)
    assert stored(postgres_dsn) == (5, 5)


def test_a_database_older_than_the_ring_is_reported_with_the_number_of_missing_records(
    make_rings: Callable[..., Rings], postgres_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rings = make_rings()
    rings.fill(50)
    drain(rings, postgres_dsn)
    execute(postgres_dsn, "UPDATE ingest_cursor SET seq = seq - 20")  # restored from a backup
    rings.fill(10)

    drain(rings, postgres_dsn)

    assert rings.counters.get("writer_lapped") == 20
    assert "records_missing_in_ring" in "".join(capsys.readouterr())
    assert stored(postgres_dsn) == (60, 60)


KNOWN_GAPS = """
SELECT symbol, kind, source, started = (SELECT max(recv_time) FROM market_ticks WHERE seq <= {seq}), ended > started
FROM feed_gaps WHERE reason = '{reason}' AND seq = 0 ORDER BY 1, 2"""


@pytest.mark.requirement("DLP-01")
def test_what_a_ring_lacks_for_an_older_database_is_a_gap_of_each_of_its_streams(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    rings.fill(50)
    for symbol in (b"005930", b"000660"):
        append(rings.producers[0], Ledger(symbol=symbol, minute_ns=time.time_ns(), through_seq=5))
    rings.producers[0].publish()
    drain(rings, postgres_dsn)
    newest = rings.producers[0].last_seq
    execute(postgres_dsn, "UPDATE ingest_cursor SET seq = seq - 20")  # restored from a backup

    for _ in range(2):  # once, however often it starts
        drain(rings, postgres_dsn)

    expected = [("000660", "trade", 0, True, True), ("005930", "trade", 0, True, True)]
    assert query(postgres_dsn, KNOWN_GAPS.format(seq=newest, reason="ring lapped")) == expected


@pytest.mark.requirement("DLP-01")
def test_a_ring_that_was_replaced_is_a_gap_of_each_of_its_streams(
    make_rings: Callable[..., Rings], postgres_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rings = make_rings(2)
    rings.fill(50)
    rings.fill(50, ring=1)
    append(rings.producers[0], Ledger(symbol=b"005930", minute_ns=time.time_ns(), through_seq=5))
    append(rings.producers[1], Ledger(symbol=b"000660", minute_ns=time.time_ns(), through_seq=5))
    for producer in rings.producers:
        producer.publish()
    drain(rings, postgres_dsn)
    newest, old_epoch = rings.producers[0].last_seq, rings.producers[0].epoch
    assert "ring_lost" not in "".join(capsys.readouterr())

    lose_ring(rings)
    rings.fill(10)
    for _ in range(2):
        drain(rings, postgres_dsn)

    assert query(postgres_dsn, KNOWN_GAPS.format(seq=newest, reason="ring lost").replace(
        "WHERE seq <=", "WHERE source = 0 AND seq <=")) == [("005930", "trade", 0, True, True)]  # fmt: skip
    lines = [line for line in "".join(capsys.readouterr()).splitlines() if "ring_lost" in line]
    assert len(lines) == 1
    assert str(old_epoch) in lines[0]
    assert str(rings.producers[0].epoch) in lines[0]


def test_a_ring_that_is_lost_before_its_first_checkpoint_is_a_gap_of_the_streams_that_have_rows(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    rings.fill(50, mixture=MIXTURE)
    drain(rings, postgres_dsn)

    lose_ring(rings)
    drain(rings, postgres_dsn)

    gaps = "SELECT venue, market, symbol, kind FROM feed_gaps WHERE reason = 'ring lost' ORDER BY 3, 4"
    streams = [("", "event"), ("005930", "event"), ("005930", "orderbook"), ("005930", "trade")]
    assert query(postgres_dsn, gaps) == [("kis", "kr", symbol, kind) for symbol, kind in streams]


@pytest.mark.requirement("DLP-01", "F43")
def test_a_ring_that_is_lost_before_anything_was_stored_is_a_gap_of_the_streams_that_it_was_to_carry(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    rings.planned = [("kis", "kr", "005930", "trade"), ("kis", "kr", "005930", "event")]
    made = datetime.fromtimestamp(rings.producers[0].epoch // 1_000_000, UTC)
    drain(rings, postgres_dsn)
    lose_ring(rings)
    drain(rings, postgres_dsn)

    gaps = "SELECT venue, market, symbol, kind, date_trunc('second', started) FROM feed_gaps ORDER BY 4"
    assert query(postgres_dsn, gaps) == [("kis", "kr", "005930", kind, made) for kind in ("event", "trade")]


@pytest.mark.requirement("DLP-01", "F43")
def test_a_ring_that_is_lost_before_any_of_it_was_stored_makes_the_gap_of_its_predecessor_longer(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    rings.fill(50)
    drain(rings, postgres_dsn)

    for records in (10, 0):  # what the second ring takes is never stored
        rings.producers[0].close()
        rings.paths[0].unlink()
        create_ring(rings.paths[0], ring=0, capacity_bytes=1 << 20)
        rings.producers[0] = RingWriter(rings.paths[0], wake_fds={"writer": rings.wake_fd})
        drain(rings, postgres_dsn)
        if records:
            rings.fill(records)
            received = datetime.now(UTC)

    gaps = "SELECT symbol, count(*), max(ended) FROM feed_gaps WHERE reason = 'ring lost' GROUP BY 1"
    ((symbol, rows, ended),) = query(postgres_dsn, gaps)
    assert (symbol, rows) == ("005930", 1)
    assert ended > received


def test_a_replaced_ring_without_stored_rows_is_a_gap_since_its_cursor_moved(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    execute(postgres_dsn, "INSERT INTO ingest_cursor VALUES (0, 1, 9, now() - INTERVAL '2 hours')")
    execute(postgres_dsn, "INSERT INTO ingest_ledger VALUES (now() - INTERVAL '3 hours', 'kr', 'kis', '005930',"
                          " 'orderbook', 1, 1, 0, 2)")  # fmt: skip

    drain(rings, postgres_dsn)

    gaps = "SELECT kind, reason, started = (SELECT updated_at FROM ingest_cursor WHERE epoch = 1) FROM feed_gaps"
    assert query(postgres_dsn, gaps) == [("orderbook", "ring lost", True)]


@pytest.mark.requirement("DLP-01")
def test_damaged_records_are_counted_and_the_others_stored(
    make_rings: Callable[..., Rings], postgres_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rings = make_rings()
    rings.fill(50)
    with rings.paths[0].open("r+b") as ring:
        ring.seek(8192 + 20 * 120 + 70)  # behind the header, in the price of the 21st trade
        ring.write(b"\xff\xff")

    drain(rings, postgres_dsn)

    assert stored(postgres_dsn) == (49, 49)
    assert rings.counters.get("corrupt_records") == 1
    (line,) = [line for line in "".join(capsys.readouterr()).splitlines() if "records_damaged" in line]
    after_seq = int(line.partition("after_seq=")[2].split()[0])
    assert 0 <= after_seq + 1 - rings.producers[0].first_seq <= 20
