"""Rows whose exchange time is long ago, and whose part of the table is being compressed: live ones do not wait.

While TimescaleDB compresses a chunk for the first time it lets nobody write to it, for as long as that takes. On a
PostgreSQL without it the same lock on the partition stands in.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg
import pytest

from daemon.sinks import put_aside
from daemon.sinks.database import Claim, Database, Isolated
from daemon.sinks.quarantine_replay import Replay, Result
from native_pipeline.record_block import RecordBlock
from native_pipeline.ring_reader import GatingReader
from tests.integration import writer_rig
from tests.integration.writer_rig import Rings, RunningWriter, query, settings_for, stored, wait_until
from tests.reference.packed_records import Book, Trade

make_rings = writer_rig.make_rings
LATE_NS = 1_763_596_801_000_000_000  # 2025-11-20
LATE = Trade(exchange_ns=LATE_NS)
LATE_BOOK = Book(exchange_ns=LATE_NS, asks=[((71300, 0), (5, 0))])
PUT_ASIDE = "SELECT count(*) FROM quarantine WHERE replayed_at IS NULL"
REPLAYED = "SELECT count(*) FROM quarantine WHERE replayed_at IS NOT NULL"
LIVE = "SELECT count(*), count(DISTINCT (source, seq)) FROM market_ticks WHERE time > now() - INTERVAL '1 day'"
PATIENCE_S = 5.0  # far less than a lock is waited for, and than one compression takes


def live_trade() -> Trade:
    return Trade(exchange_ns=time.time_ns())


def has_live(dsn: str, rows: int) -> bool:
    return query(dsn, LIVE) == [(rows, rows)]


def part_of(dsn: str, table: str = "market_ticks") -> str:
    """The chunk or partition that the late rows are in."""
    moment = datetime.fromtimestamp(LATE_NS / 1e9, UTC)
    ((name,),) = query(dsn, f"SELECT DISTINCT tableoid::regclass::text FROM {table} WHERE time = %s", [moment])
    return str(name)


@contextmanager
def being_compressed(dsn: str, *parts: str) -> Iterator[None]:
    """What a compression holds from its beginning to its end."""
    with psycopg.connect(dsn) as connection:
        for part in parts:
            connection.execute(f"LOCK TABLE {part} IN EXCLUSIVE MODE".encode())
        yield


@pytest.mark.requirement("F54", "F50", "DLP-02")
def test_live_rows_do_not_wait_for_a_chunk_that_late_rows_beside_them_have_to_wait_for(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    with RunningWriter(rings, settings_for(postgres_dsn)) as running:
        rings.fill(2, mixture=[LATE, LATE_BOOK])
        wait_until(lambda: rings.counters.get("rows_committed") == 2)
        with being_compressed(postgres_dsn, part_of(postgres_dsn), part_of(postgres_dsn, "market_orderbook")):
            for live in (20, 40, 60, 80, 100):
                before = time.monotonic()
                rings.fill(40, mixture=[LATE, live_trade(), LATE_BOOK, live_trade()])
                wait_until(partial(has_live, postgres_dsn, live))
                assert time.monotonic() - before < PATIENCE_S
            assert query(postgres_dsn, PUT_ASIDE) == [(100,)]
        wait_until(lambda: query(postgres_dsn, PUT_ASIDE) == [(0,)])
        assert running.stop() is True

    assert stored(postgres_dsn, "market_ticks", "market_orderbook") == (202, 202)
    assert query(postgres_dsn, LIVE) == [(100, 100)]
    assert query(postgres_dsn, REPLAYED) == [(100,)]
    assert rings.counters.get("batches_spilled") == rings.counters.get("commit_retries") == 0
    assert running.alerts.codes() == []


@pytest.mark.requirement("F54", "DLP-03")
def test_rows_put_aside_when_the_daemon_stops_are_stored_by_the_next(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    with RunningWriter(rings, settings_for(postgres_dsn)) as running:
        rings.fill(1, mixture=[LATE])
        wait_until(lambda: rings.counters.get("rows_committed") == 1)
        with being_compressed(postgres_dsn, part_of(postgres_dsn)):
            rings.fill(4, mixture=[LATE, live_trade()])
            wait_until(lambda: query(postgres_dsn, PUT_ASIDE) == [(2,)])
            assert running.stop() is True
    assert stored(postgres_dsn) == (3, 3)

    with RunningWriter(rings, settings_for(postgres_dsn)) as running:
        wait_until(lambda: stored(postgres_dsn) == (5, 5))
        assert running.stop() is True
    assert query(postgres_dsn, PUT_ASIDE) == [(0,)]


@pytest.mark.requirement("F49", "F54", "DLP-03")
def test_rows_put_aside_are_stored_by_the_same_daemon_also_if_the_answer_to_their_commit_was_lost(
    make_rings: Callable[..., Rings], postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rings = make_rings()
    lost: list[int] = []

    def store_and_lose_the_answer(
        self: Database, block: RecordBlock, claim: Claim, *, puts_aside: bool = False
    ) -> Isolated:
        found = store_isolated(self, block, claim, puts_aside=puts_aside)
        if not lost:
            lost.append(found.put_aside)
            self.close()
            raise psycopg.OperationalError("the answer got lost")
        return found

    store_isolated = Database.store_isolated
    monkeypatch.setattr(Database, "store_isolated", store_and_lose_the_answer)
    with RunningWriter(rings, settings_for(postgres_dsn)) as running:
        rings.fill(1, mixture=[LATE])
        wait_until(lambda: rings.counters.get("rows_committed") == 1)
        with being_compressed(postgres_dsn, part_of(postgres_dsn)):
            rings.fill(4, mixture=[LATE, live_trade()])
            wait_until(lambda: rings.counters.get("rows_committed") == 5)
            assert lost == [2]
            assert query(postgres_dsn, PUT_ASIDE) == [(2,)]
        wait_until(lambda: query(postgres_dsn, PUT_ASIDE) == [(0,)], timeout_s=10.0)
        assert running.stop() is True
    assert stored(postgres_dsn) == (5, 5)


class Free:
    """A claim that nobody else has."""

    part = "test"

    def take(self, _connection: object, /) -> bool:
        return True

    def is_taken(self, _connection: object, /) -> bool:
        return False


def block_of(rings: Rings, records: int, *, behind: int = 0) -> RecordBlock:
    """So many records of the ring *behind* so many others."""
    with closing(GatingReader(rings.paths[0], "writer")) as reader:
        first, block = reader.first_seq, RecordBlock()
        assert block.append_from(reader, first + behind - 1) == behind
        block.clear()
        assert block.append_from(reader, first + behind + records - 1) == records
    return block


@pytest.fixture
def database(postgres_dsn: str) -> Iterator[Database]:
    with closing(Database(settings_for(postgres_dsn))) as database:
        yield database


@pytest.mark.requirement("F49", "F54", "DLP-03")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_batch_whose_answer_was_lost_stores_nothing_of_what_it_had_put_aside_again(
    make_rings: Callable[..., Rings], database: Database, postgres_dsn: str, moment: str
) -> None:
    rings = make_rings()
    rings.fill(6, mixture=[LATE, live_trade(), LATE_BOOK])
    block = block_of(rings, 6)
    assert database.store_isolated(block, Free(), puts_aside=True).put_aside == 4
    assert stored(postgres_dsn, "market_ticks", "market_orderbook") == (2, 2)

    if moment == "before":
        assert database.store_put_aside().stored == 4
    database.store_missing(block, Free())
    if moment == "after":
        assert database.store_put_aside().stored == 4

    assert stored(postgres_dsn, "market_ticks", "market_orderbook") == (6, 6)
    assert database.store_put_aside().stored == 0


@pytest.mark.requirement("F54", "DLP-03")
def test_rows_put_aside_that_somebody_replays_meanwhile_are_stored_once_and_end_nothing(
    make_rings: Callable[..., Rings], database: Database, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rings = make_rings()
    rings.fill(4, mixture=[LATE, live_trade()])
    assert database.store_isolated(block_of(rings, 4), Free(), puts_aside=True).put_aside == 2

    class Overtaken(Replay):
        def run(self, *args: Any, **kwargs: Any) -> Iterator[Result]:
            monkeypatch.undo()
            with psycopg.connect(postgres_dsn, autocommit=True) as other, Replay(None, other) as replay:
                assert len(list(replay.run(args[0][:1]))) == 1
            return super().run(*args, **kwargs)

    monkeypatch.setattr(put_aside, "Replay", Overtaken)
    assert database.store_put_aside().stored == 1
    assert stored(postgres_dsn) == (4, 4)
    assert query(postgres_dsn, PUT_ASIDE) == [(0,)]


@pytest.mark.requirement("F51", "F54")
def test_of_rows_that_were_put_aside_those_that_the_table_refuses_stay_in_quarantine_for_that(
    make_rings: Callable[..., Rings], database: Database, postgres_dsn: str
) -> None:
    rings = make_rings()
    rings.fill(3, mixture=[LATE, Trade(exchange_ns=LATE_NS, volume=(777, 0)), LATE])
    database.store_isolated(block_of(rings, 3), Free(), puts_aside=True)
    query(postgres_dsn, "ALTER TABLE market_ticks ADD CONSTRAINT no_bad_volume CHECK (volume <> 777)")

    done = database.store_put_aside()

    assert (done.stored, len(done.refused), done.is_waiting) == (2, 1, False)
    assert stored(postgres_dsn) == (2, 2)
    ((reason,),) = query(postgres_dsn, "SELECT reason FROM quarantine WHERE replayed_at IS NULL")
    assert reason.startswith("refused by the database: 23514")
    assert database.store_put_aside().stored == 0


@pytest.mark.requirement("F54")
def test_rows_put_aside_wait_as_long_as_their_part_of_the_table_is_locked(
    make_rings: Callable[..., Rings], database: Database, postgres_dsn: str
) -> None:
    rings = make_rings()
    rings.fill(4, mixture=[LATE])
    database.store_isolated(block_of(rings, 2), Free())
    database.store_isolated(block_of(rings, 2, behind=2), Free(), puts_aside=True)
    with being_compressed(postgres_dsn, part_of(postgres_dsn)):
        found = database.store_put_aside()

    assert (found.stored, found.is_waiting) == (0, True)
    assert query(postgres_dsn, PUT_ASIDE) == [(2,)]


@pytest.mark.requirement("F54", "DLP-03")
def test_rows_that_come_late_to_a_compressed_chunk_are_stored_once_while_it_is_compressed_anew(
    make_rings: Callable[..., Rings], timescale_dsn: str
) -> None:
    compress = "SELECT compress_chunk(chunk) FROM show_chunks('market_ticks', older_than => INTERVAL '7 days') AS chunk"
    rings = make_rings()
    sent = 0
    with RunningWriter(rings, settings_for(timescale_dsn)) as running:
        for _ in range(5):
            rings.fill(400, mixture=[LATE, live_trade()])
            sent += 400
            query(timescale_dsn, compress)
        wait_until(lambda: stored(timescale_dsn) == (sent, sent))
        wait_until(lambda: query(timescale_dsn, PUT_ASIDE) == [(0,)])
        assert running.stop() is True

    query(timescale_dsn, compress)
    assert stored(timescale_dsn) == (sent, sent)
    assert query(timescale_dsn, LIVE) == [(sent // 2, sent // 2)]
    ((chunks,),) = query(timescale_dsn, "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed")
    assert chunks == 1
    assert rings.counters.get("batches_spilled") == 0


@pytest.mark.requirement("F49", "F51", "DLP-03")
def test_a_refused_row_of_a_batch_whose_answer_was_lost_waits_in_quarantine_and_nowhere_else(
    make_rings: Callable[..., Rings], database: Database, postgres_dsn: str
) -> None:
    rings = make_rings()
    rings.fill(3, mixture=[live_trade(), Trade(exchange_ns=time.time_ns(), volume=(777, 0)), live_trade()])
    block = block_of(rings, 3)
    query(postgres_dsn, "ALTER TABLE market_ticks ADD CONSTRAINT no_bad_volume CHECK (volume <> 777)")
    assert database.store_isolated(block, Free()).refused == 1
    query(postgres_dsn, "ALTER TABLE market_ticks DROP CONSTRAINT no_bad_volume")

    database.store_missing(block, Free())  # the repaired table would take it, and the replay store it again

    assert stored(postgres_dsn) == (2, 2)
    assert query(postgres_dsn, PUT_ASIDE) == [(1,)]
