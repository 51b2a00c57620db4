"""Rows that are there already, beside bad ones: the same row is stored once, another of the same key is refused."""

from typing import Any

import psycopg
import pytest

from daemon.sinks import isolation
from daemon.sinks.database import FailureKind, Fenced, Isolated
from daemon.sinks.isolation import new_batch
from tests.integration import poison_rig
from tests.integration.cutting_proxy import CuttingProxy
from tests.integration.poison_rig import (
    BAD_VOLUME,
    COUNT_COPIES,
    EVERY_KIND,
    MANY_BAD,
    NO_BAD_VOLUME,
    Bench,
    every_third_bad,
    ten_thousand,
)
from tests.reference.packed_records import Book, Event, Gap, Ledger, Record, Trade

make_bench, bench, poor = poison_rig.make_bench, poison_rig.bench, poison_rig.poor


@pytest.mark.requirement("F51", "F52")
def test_among_many_bad_rows_those_stored_already_and_those_of_a_taken_key_are_told_apart(bench: Bench) -> None:
    seqs = bench.put(*every_third_bad(), Trade(price=(2, 0)))
    with psycopg.connect(bench.dsn) as connection:
        batch = new_batch()
        for row in (700, MANY_BAD - 1):  # of different parts
            batch.append_block(bench.block(), row, row + 1)
        isolation.copy_rows(connection, "market_ticks", batch)
    bench.execute("CREATE UNIQUE INDEX ON market_ticks (time, symbol, price)", NO_BAD_VOLUME)

    isolated = bench.store_isolated()

    assert (isolated.refused, isolated.already_stored) == (len(seqs[:MANY_BAD:3]) + 1, 2)
    assert bench.seqs() == [seq for row, seq in enumerate(seqs[:MANY_BAD]) if row % 3]
    assert [row["seq"] for row in bench.refused()] == [*seqs[:MANY_BAD:3], seqs[-1]]


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


@pytest.mark.requirement("F52", "DLP-02")
def test_rows_stored_already_are_counted_in_every_part_of_a_batch(bench: Bench) -> None:
    seqs = bench.put(Trade(price=(1, 0)), Trade(volume=(BAD_VOLUME, 0)), Trade(price=(2, 0)))
    with psycopg.connect(bench.dsn) as connection:
        batch = new_batch()
        for row in (0, 2):
            batch.append_block(bench.block(), row, row + 1)
        isolation.copy_rows(connection, "market_ticks", batch)
    bench.execute("CREATE UNIQUE INDEX ON market_ticks (time, symbol, price)", NO_BAD_VOLUME)

    isolated = bench.store_isolated()

    assert (isolated.refused, isolated.already_stored) == (1, 2)
    assert bench.seqs() == [seqs[0], seqs[2]]


@pytest.mark.requirement("DLP-03")
def test_a_quarantined_frame_that_is_stored_already_is_no_row_that_was_refused(bench: Bench) -> None:
    bench.put(*EVERY_KIND)
    claim = bench.claim()
    bench.database.store(bench.batch(), claim)
    bench.execute(f"UPDATE ingest_cursor SET seq = {bench.cursor}")

    assert bench.database.store_missing(bench.block(), claim) == Isolated(already_stored=len(EVERY_KIND))

    assert len(bench.seqs("quarantine")) == 1


@pytest.mark.requirement("DLP-03", "F51")
def test_of_many_bad_rows_among_stored_ones_that_nobody_knows_of_none_comes_twice(bench: Bench) -> None:
    seqs = bench.put(*every_third_bad())
    good = [row for row in range(MANY_BAD) if row % 3]
    with psycopg.connect(bench.dsn) as connection:
        batch = new_batch()
        block = bench.block()
        for row in good[::2]:
            batch.append_block(block, row, row + 1)
        isolation.copy_rows(connection, "market_ticks", batch)
    bench.execute(NO_BAD_VOLUME)

    found = bench.database.store_missing(bench.block(), bench.claim())

    assert bench.seqs() == [seqs[row] for row in good]
    assert [row["seq"] for row in bench.refused()] == seqs[::3]
    assert (found.refused, found.already_stored) == (len(seqs[::3]), len(good[::2]))


@pytest.mark.requirement("F52", "DLP-01")
def test_a_taken_key_behind_a_bad_row_is_refused_as_the_row_that_it_is(bench: Bench) -> None:
    seqs = bench.put(Trade(volume=(BAD_VOLUME, 0)), Trade(price=(1, 0)), Trade(price=(2, 0)), Trade(price=(1, 0)))
    bench.execute("CREATE UNIQUE INDEX ON market_ticks (time, symbol, price)", NO_BAD_VOLUME)

    assert bench.store_isolated().refused == 2

    assert bench.seqs() == seqs[1:3]
    assert [row["seq"] for row in bench.refused()] == [seqs[0], seqs[3]]
