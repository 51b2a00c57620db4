"""The schema on the real TimescaleDB: its WebAssembly build, from npm, in a node process."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from daemon.sinks import schema

HERE = Path(__file__).parent
FILES = ("package.json", "package-lock.json", ".npmrc", "server.mjs")
INSTALL_TIMEOUT_S = 110
MINUTE = datetime(2026, 11, 20, 3, 30, tzinfo=UTC)


def installed() -> Path:
    """Return a directory with the packages, installed once per version of the lock file into the user's cache."""
    version = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in FILES)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sise-tests"
    cache.mkdir(parents=True, exist_ok=True)
    directory = cache / f"timescale-{version}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test workers
        if not (directory / "installed").exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            for name in FILES:
                shutil.copy(HERE / name, directory)
            command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run(
                command, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                timeout=INSTALL_TIMEOUT_S,
            )  # fmt: skip
            if done.returncode != 0:
                pytest.skip(f"npm cannot install TimescaleDB's WebAssembly build: {done.stderr.strip()[-300:]}")
            (directory / "installed").touch()
    return directory


@contextmanager
def timescaledb(*, preloaded: bool) -> Iterator[schema.Connection]:
    """A fresh server, and its one connection."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: TimescaleDB's WebAssembly build needs it")
    command = ["node", "server.mjs", "preload" if preloaded else ""]
    with subprocess.Popen(command, cwd=installed(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = json.loads(server.stdout.readline())["port"]
            dsn = f"postgresql://postgres:postgres@127.0.0.1:{port}/postgres?sslmode=disable"
            with psycopg.connect(dsn, autocommit=True) as connection:
                yield connection
        finally:
            server.kill()


@pytest.fixture
def connection() -> Iterator[schema.Connection]:
    with timescaledb(preloaded=True) as connection:
        yield connection


def insert_ticks(
    connection: schema.Connection,
    *,
    first_seq: int,
    prices: list[float],
    time: datetime,
    received: datetime | None = None,
) -> None:
    for number, price in enumerate(prices):
        connection.execute(
            "INSERT INTO market_ticks (time, symbol, price, volume, market, venue, recv_time, flags, source, seq)"
            " VALUES (%s, '005930', %s, 2, 'kr', 'kis', %s, 0, 0, %s)",
            [time, price, received or time, first_seq + number],
        )


def policies(connection: schema.Connection) -> dict[tuple[object, object], object]:
    rows = connection.execute(
        "SELECT hypertable_name, proc_name, coalesce(config ->> 'compress_after', config ->> 'drop_after')"
        " FROM timescaledb_information.jobs WHERE hypertable_name = ANY(%s)",
        [list(schema.MARKET_TABLES)],
    ).fetchall()
    return {(table, policy): interval for table, policy, interval in rows}


def test_the_schema_on_timescaledb(connection: schema.Connection) -> None:
    """One test of several steps: the server takes seconds to start and serves one connection."""
    applied = schema.migrate(connection, retention_days=365, columnstore_after_days=7)
    again = schema.migrate(connection, retention_days=365, columnstore_after_days=7)

    expected = [
        "0001_tables", "0002_market_tables_by_day.timescaledb", "0003_minute_bars.timescaledb",
        "0004_events_and_exchanges", "0005_market_events_by_day.timescaledb",
        "0006_minute_bars_by_exchange.timescaledb", "0007_spill", "0008_quarantine_replay", "0009_replayed_captures",
        "0010_gap_exchange",
    ]  # fmt: skip
    assert applied == expected
    assert again == []

    # hypertables with chunks of a day, compressed by symbol
    hypertables = connection.execute(
        "SELECT h.hypertable_name, h.compression_enabled, d.time_interval, s.segmentby, s.orderby"
        " FROM timescaledb_information.hypertables AS h"
        " JOIN timescaledb_information.dimensions AS d USING (hypertable_name)"
        " JOIN timescaledb_information.hypertable_columnstore_settings AS s"
        "   ON s.hypertable = h.hypertable_name::regclass WHERE h.hypertable_name LIKE 'market%' ORDER BY 1"
    ).fetchall()
    day = timedelta(days=1)
    assert hypertables == [
        ("market_events", True, day, "symbol", '"time" DESC'),
        ("market_orderbook", True, day, "symbol", '"time" DESC'),
        ("market_ticks", True, day, "symbol", '"time" DESC'),
    ]

    # the policy follows the setting, also when it changes; none drops by the exchange's time, as earlier ones did
    markets = ("market_ticks", "market_orderbook", "market_events")
    assert policies(connection) == {(table, "policy_compression"): "7 days" for table in markets}
    connection.execute("SELECT add_retention_policy('market_ticks', INTERVAL '365 days')")
    schema.migrate(connection, retention_days=365, columnstore_after_days=3)
    assert policies(connection) == {(table, "policy_compression"): "3 days" for table in markets}

    # retention counts from receipt, in a compressed chunk too
    long_ago = MINUTE - timedelta(days=1000)
    insert_ticks(connection, first_seq=1, prices=[100.0], time=long_ago, received=MINUTE)
    insert_ticks(connection, first_seq=2, prices=[100.0], time=long_ago - timedelta(days=1))
    connection.execute("SELECT compress_chunk(chunk) FROM show_chunks('market_ticks') AS chunk")
    schema.maintain(connection, MINUTE.date(), retention_days=365)
    assert connection.execute("SELECT time FROM market_ticks").fetchall() == [(long_ago,)]
    schema.maintain(connection, MINUTE.date() + timedelta(days=366), retention_days=365)
    assert connection.execute("SELECT * FROM show_chunks('market_ticks')").fetchall() == []

    # bars of a minute, in the order of receipt; rows newer than the last refresh included
    aggregates = connection.execute(
        "SELECT view_name, materialized_only FROM timescaledb_information.continuous_aggregates"
    ).fetchall()
    assert aggregates == [("market_ticks_1m", False)]
    insert_ticks(connection, first_seq=7, prices=[100.0, 130.0, 90.0], time=MINUTE)
    connection.execute("CALL refresh_continuous_aggregate('market_ticks_1m', NULL, NULL)")
    insert_ticks(connection, first_seq=10, prices=[95.0], time=MINUTE + timedelta(minutes=1))
    bars = connection.execute("SELECT * FROM market_ticks_1m ORDER BY bucket").fetchall()
    assert bars == [
        ("005930", "kr", MINUTE, 100.0, 130.0, 90.0, 90.0, 6.0, 3, None),
        ("005930", "kr", MINUTE + timedelta(minutes=1), 95.0, 95.0, 95.0, 95.0, 2.0, 1, None),
    ]

    # a compressed chunk still answers, and the checks hold
    connection.execute("SELECT compress_chunk(chunk) FROM show_chunks('market_ticks') AS chunk")
    assert connection.execute("SELECT count(*), max(price) FROM market_ticks").fetchone() == (4, 130.0)
    with pytest.raises(psycopg.errors.CheckViolation):
        insert_ticks(connection, first_seq=20, prices=[0.0], time=MINUTE)

    # what is not old stays
    schema.maintain(connection, MINUTE.date(), retention_days=1)
    assert connection.execute("SELECT count(*) FROM market_ticks").fetchone() == (4,)


def test_a_timescaledb_of_the_version_before_events_keeps_its_rows(connection: schema.Connection) -> None:
    earlier = [migration for migration in schema.packaged_migrations() if migration.version <= 3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "packaged_migrations", lambda: earlier)
        patch.setattr(schema, "MARKET_TABLES", ("market_ticks", "market_orderbook"))
        assert len(schema.migrate(connection, retention_days=0)) == 3
    insert_ticks(connection, first_seq=1, prices=[100.0, 130.0], time=MINUTE)
    connection.execute("SELECT compress_chunk(chunk) FROM show_chunks('market_ticks') AS chunk")
    connection.execute("CALL refresh_continuous_aggregate('market_ticks_1m', NULL, NULL)")
    insert_ticks(connection, first_seq=3, prices=[90.0], time=MINUTE + timedelta(days=1))
    before = connection.execute("SELECT * FROM market_ticks ORDER BY seq").fetchall()
    bars = connection.execute("SELECT * FROM market_ticks_1m ORDER BY bucket").fetchall()

    assert len(schema.migrate(connection, retention_days=0)) == 7
    assert schema.migrate(connection, retention_days=0) == []

    assert connection.execute("SELECT * FROM market_ticks ORDER BY seq").fetchall() == [(*row, None) for row in before]
    for _ in range(2):  # from the rows alone, and kept by the aggregate
        found = connection.execute("SELECT * FROM market_ticks_1m ORDER BY bucket").fetchall()
        assert found == [(*row, None) for row in bars]
        connection.execute("CALL refresh_continuous_aggregate('market_ticks_1m', NULL, NULL)")
    connection.execute("UPDATE market_ticks SET exchange = 'nxt' WHERE seq IN (2, 3)")  # of a compressed chunk too
    connection.execute(
        "SELECT compress_chunk(chunk, if_not_compressed => true) FROM show_chunks('market_ticks') AS chunk"
    )
    assert connection.execute("SELECT exchange FROM market_ticks ORDER BY seq").fetchall() == [
        (None,), ("nxt",), ("nxt",),
    ]  # fmt: skip

    # events: stored, compressed, dropped with their day of receipt
    insert = (
        "INSERT INTO market_events (time, symbol, type, market, venue, detail, recv_time, flags, source, seq)"
        " VALUES (%s, '', 'status', 'kr', 'kis', '\ufffd', %s, 0, 0, %s)"
    )
    for number in range(2):
        time = MINUTE + timedelta(days=number)
        connection.execute(insert, [time, time, number])
    connection.execute("SELECT compress_chunk(chunk) FROM show_chunks('market_events') AS chunk")
    schema.maintain(connection, MINUTE.date() + timedelta(days=2), retention_days=1)
    assert connection.execute("SELECT seq, detail FROM market_events").fetchall() == [(1, "\ufffd")]


def test_an_extension_that_arrives_later_changes_nothing() -> None:
    with timescaledb(preloaded=False) as connection:
        assert "0002_market_tables_by_day.plain" in schema.migrate(connection), "CREATE EXTENSION would end the session"
        connection.execute("CREATE EXTENSION timescaledb")

        assert schema.migrate(connection) == []
        hypertables = connection.execute("SELECT count(*) FROM timescaledb_information.hypertables").fetchone()
        assert hypertables == (0,)
