"""The whole writer meets rows and tables that the server refuses: live, spilled, and after the operator's help."""

from collections.abc import Callable

import pytest

from daemon.embedded import EmbeddedPostgres
from tests import servers
from tests.integration.writer_rig import (
    Rings,
    RunningWriter,
    drain,
    execute,
    make_rings,
    query,
    settings_for,
    spilled_files,
    stored,
    wait_until,
)
from tests.reference.packed_records import Book, Gap, Ledger, Trade, append

__all__ = ["make_rings"]  # the fixture

BAD = Trade(price=(0, 0))  # no parser lets this through
REFUSED = """
SELECT count(*), count(DISTINCT seq) FROM quarantine
WHERE kind = 'trade' AND starts_with(reason, 'refused by the database: 23514 ')"""


def fill_with_bad(rings: Rings, rounds: int) -> int:
    """Put *rounds* times 99 good rows and a bad one into the first ring; return how many are good."""
    for _ in range(rounds):
        rings.fill(50)
        append(rings.producers[0], BAD)
        rings.fill(49, mixture=(Book(),))
    return rounds * 99


@pytest.mark.requirement("F51", "DLP-01")
def test_bad_rows_under_way_are_kept_apart_counted_and_told(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings(capacity_bytes=1 << 24)
    with RunningWriter(rings, settings_for(postgres_dsn, batch_rows=1_000)) as running:
        wait_until(lambda: rings.counters.get("database_connected"))
        good = fill_with_bad(rings, 30)
        wait_until(lambda: stored(postgres_dsn, "market_ticks", "market_orderbook")[0] == good)
        assert running.stop() is True

    assert stored(postgres_dsn, "market_ticks", "market_orderbook") == (good, good)
    assert query(postgres_dsn, REFUSED) == [(30, 30)]
    assert rings.counters.get("rows_refused") == 30
    assert rings.counters.get("rows_committed") == good + 30, "what is in quarantine is stored too"
    assert rings.counters.get("batches_spilled") == 0
    assert "rows_refused" in running.alerts.codes()


@pytest.mark.requirement("F53", "DLP-01")
@pytest.mark.parametrize(
    ("damage", "repair"),
    [
        ("ALTER TABLE market_ticks RENAME cum_volume TO total", "ALTER TABLE market_ticks RENAME total TO cum_volume"),
        ("ALTER TABLE ingest_cursor RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO ingest_cursor"),
        pytest.param(
            "ALTER TABLE market_ticks ADD desk text NOT NULL",
            "ALTER TABLE market_ticks DROP desk",
            marks=servers.plain_only,  # a hypertable with columnstore takes no such column
        ),
    ],
    ids=["column", "table", "column_of_somebody"],
)
def test_a_table_that_takes_no_row_fills_no_ring_and_gets_everything_after_the_repair(
    make_rings: Callable[..., Rings], postgres_dsn: str, damage: str, repair: str
) -> None:
    rings = make_rings()
    with RunningWriter(rings, settings_for(postgres_dsn)) as running:
        wait_until(lambda: rings.counters.get("database_connected"))
        execute(postgres_dsn, damage)
        rings.fill(5_000)
        wait_until(lambda: rings.counters.get("records_spilled") == 5_000)
        assert rings.counters.get("writer_lag_bytes") == 0
        assert query(postgres_dsn, "SELECT count(*) FROM quarantine") == [(0,)]

        assert running.alerts.codes().count("database_needs_operator") == 1

        execute(postgres_dsn, repair)
        wait_until(lambda: stored(postgres_dsn)[0] == 5_000)
        rings.fill(1)
        wait_until(lambda: "database_needs_operator_ended" in running.alerts.codes())
        assert running.stop() is True

    assert stored(postgres_dsn) == (5_001, 5_001)
    assert rings.counters.get("rows_refused") == 0


@pytest.mark.requirement("F53", "DLP-01")
@pytest.mark.parametrize(
    ("damage", "repair"),
    [
        ("ALTER TABLE market_ticks ALTER bid TYPE int8", "ALTER TABLE market_ticks ALTER bid TYPE float8"),
        (
            "ALTER TABLE ingest_ledger ALTER through_seq TYPE float8",
            "ALTER TABLE ingest_ledger ALTER through_seq TYPE int8",
        ),
    ],
)
def test_a_column_of_another_type_and_the_same_width_is_refused_instead_of_filled_with_wrong_numbers(
    make_rings: Callable[..., Rings], postgres_dsn: str, damage: str, repair: str
) -> None:
    rings = make_rings()
    drain(rings, postgres_dsn)
    execute(postgres_dsn, damage)
    rings.fill(10, mixture=(Trade(bid=(71200, 0)), Ledger(count=1)))
    with RunningWriter(rings, settings_for(postgres_dsn)) as running:
        wait_until(lambda: rings.counters.get("records_spilled") == 10)
        assert "database_needs_operator" in running.alerts.codes()
        assert query(postgres_dsn, "SELECT count(*) FROM market_ticks") == [(0,)]

        execute(postgres_dsn, repair)
        wait_until(lambda: stored(postgres_dsn, "market_ticks", "ingest_ledger")[0] == 10)
        assert running.stop() is True

    assert query(postgres_dsn, "SELECT DISTINCT bid FROM market_ticks") == [(71200.0,)]


def test_a_text_of_a_limited_length_is_a_text(make_rings: Callable[..., Rings], postgres_dsn: str) -> None:
    rings = make_rings()
    execute(postgres_dsn, "ALTER TABLE feed_gaps ALTER symbol TYPE varchar(24)")
    rings.fill(3, mixture=(Gap(missing=3, reason=4),))

    drain(rings, postgres_dsn)

    assert stored(postgres_dsn, "feed_gaps") == (3, 3)


@pytest.mark.requirement("F51", "DLP-03")
def test_bad_rows_in_a_spilled_batch_do_not_hold_it_up(
    make_rings: Callable[..., Rings], own_postgres: Callable[[], EmbeddedPostgres]
) -> None:
    rings = make_rings()
    server = own_postgres()
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        wait_until(lambda: rings.counters.get("database_connected"))
        server.stop()
        good = fill_with_bad(rings, 20)
        wait_until(lambda: rings.counters.get("records_spilled") == 2_000)
        server.start()
        wait_until(lambda: not spilled_files(rings))
        wait_until(lambda: "rows_refused" in running.alerts.codes())
        assert running.stop() is True
    drain(rings, server.dsn)

    assert stored(server.dsn, "market_ticks", "market_orderbook") == (good, good)
    assert query(server.dsn, REFUSED) == [(20, 20)]
    assert rings.counters.get("rows_refused") == 20
