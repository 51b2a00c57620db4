"""Counts per symbol and minute by the simulator's journal, by SQL alone, beside what `sise verify` says of the same."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from daemon import config as settings
from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from daemon.sinks.quarantine import connect
from daemon.sinks.quarantine_replay import Outcome, Replay
from daemon.sinks.verify import Report, verify
from tests.rig import Rig, running

pytestmark = pytest.mark.requirement("E2E-OBS-01", "DLP-01")

RATE = 2_000.0
RECORDS = 3_000


@pytest.fixture
def rig(
    tmp_path: Path, own_postgres: Callable[[], EmbeddedPostgres], own_redis: Callable[[], EmbeddedRedis]
) -> Iterator[Rig]:
    with Rig(tmp_path, own_postgres(), own_redis(), symbols=4, workers=2) as rig:
        yield rig


def finish(rig: Rig) -> None:
    rig.wait_received(RECORDS)
    rig.stop_simulator()
    assert rig.stop_daemon() == 0, rig.tail()


def verified(rig: Rig) -> Report:
    return verify(settings.load(rig.config_path))


def by_stream(rig: Rig) -> dict[tuple[str, str], tuple[int, int, int]]:
    """{(symbol, kind): (sent, rows, refused)} by the journal."""
    found: dict[tuple[str, str], tuple[int, int, int]] = {}
    for one in rig.by_minute():
        sent, rows, refused = found.get((one.symbol, one.kind), (0, 0, 0))
        found[one.symbol, one.kind] = (sent + one.sent, rows + one.rows, refused + one.refused)
    return found


def test_journal_and_verify_agree_on_what_was_removed_and_doubled_by_hand(rig: Rig) -> None:
    with running(rig, rate=RATE):
        finish(rig)
    assert all(one.is_exact for one in rig.by_minute()), rig.by_minute()
    report = verified(rig)
    assert report.is_complete, report.as_text()
    assert report.received == sum(one.sent for one in rig.by_minute())

    lost, doubled = rig.symbols[1], rig.symbols[2]
    with psycopg.connect(rig.postgres.dsn, autocommit=True) as connection:
        connection.execute(
            "DELETE FROM market_ticks WHERE (source, seq) IN"
            " (SELECT source, seq FROM market_ticks WHERE symbol = %s ORDER BY seq LIMIT 1)",
            [lost],
        )
        connection.execute(
            "INSERT INTO market_orderbook SELECT * FROM market_orderbook WHERE symbol = %s ORDER BY seq LIMIT 2",
            [doubled],
        )

    oracle = {(one.symbol, one.kind) for one in rig.by_minute() if not one.is_exact}
    report = verified(rig)
    assert oracle == {(lost, "trade"), (doubled, "orderbook")}
    assert {(one.key.symbol, one.key.kind) for one in report.differences} == oracle
    assert (report.lost, report.duplicated) == (1, 2)


@pytest.mark.nightly
@pytest.mark.requirement("F51")
def test_rows_that_the_database_refuses_are_accounted_for_and_replayed_when_it_takes_them(rig: Rig) -> None:
    bad = rig.symbols[0]
    with psycopg.connect(rig.postgres.dsn, autocommit=True) as connection:
        connection.execute(
            f"ALTER TABLE market_ticks ADD CONSTRAINT odd CHECK (symbol <> '{bad}' OR cum_volume::int8 % 5 <> 0)"
        )
        with running(rig, rate=RATE):
            finish(rig)
        refused = by_stream(rig)[bad, "trade"][2]
        assert refused > 0
        assert all(one.is_exact for one in rig.by_minute()), rig.by_minute()
        report = verified(rig)
        assert report.is_complete, report.as_text()
        assert (report.refused, report.lost) == (refused, 0)
        assert re.search(rf"refused +{refused:,} +by the database", report.as_text())

        connection.execute("ALTER TABLE market_ticks DROP CONSTRAINT odd")
        with (
            connect(rig.postgres.dsn, timeout_s=5) as other,
            Replay(settings.load(rig.config_path), other) as replay,
        ):
            outcomes = [result.outcome for result in replay.run()]
    assert outcomes == [Outcome.STORED] * refused
    assert all(one.is_exact and one.refused == 0 for one in rig.by_minute()), rig.by_minute()
    verdict = rig.compare()
    assert verdict.is_exact, verdict
    report = verified(rig)
    assert report.is_complete, report.as_text()
    assert report.refused == 0
