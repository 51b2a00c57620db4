"""The schema on a PostgreSQL without TimescaleDB: partitions by day, made ahead; retention by dropping them."""

import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from daemon.embedded import EmbeddedPostgres
from daemon.errors import ConfigError
from daemon.sinks import schema
from native_pipeline.copy_encoder import COLUMNS
from tests import servers

pytestmark = servers.plain_only

TODAY = date(2026, 11, 20)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def connection(postgres_dsn: str) -> Iterator[schema.Connection]:
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        yield connection


def insert_tick(
    connection: schema.Connection,
    time: datetime,
    *,
    symbol: str = "005930",
    price: float = 71200.0,
    volume: float = 1.0,
    seq: int = 1,
    received: datetime | None = None,
) -> None:
    connection.execute(
        "INSERT INTO market_ticks (time, symbol, price, volume, market, venue, recv_time, flags, source, seq)"
        " VALUES (%s, %s, %s, %s, 'kr', 'kis', %s, 0, 0, %s)",
        [time, symbol, price, volume, received or time, seq],
    )


def partition_of(connection: schema.Connection, time: datetime) -> object:
    row = connection.execute("SELECT tableoid::regclass::text FROM market_ticks WHERE time = %s", [time]).fetchone()
    assert row is not None
    return row[0]


def partitions(connection: schema.Connection, table: str = "market_ticks") -> list[str]:
    rows = connection.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass ORDER BY 1", [table]
    ).fetchall()
    return [str(name) for (name,) in rows]


def test_migrating_twice_applies_everything_once(empty_postgres_dsn: str) -> None:
    first = schema.migrate(empty_postgres_dsn)
    second = schema.migrate(empty_postgres_dsn)

    assert first == [
        "0001_tables", "0002_market_tables_by_day.plain", "0003_minute_bars.plain", "0004_events_and_exchanges",
        "0005_market_events_by_day.plain", "0006_minute_bars_by_exchange.plain",
        "0007_spill", "0008_quarantine_replay", "0009_replayed_captures", "0010_gap_exchange",
    ]  # fmt: skip
    assert second == []


def test_two_migrations_at_once_do_not_disturb_each_other(empty_postgres_dsn: str) -> None:
    done: list[list[str]] = []
    threads = [threading.Thread(target=lambda: done.append(schema.migrate(empty_postgres_dsn))) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(done) == 4
    applied = [name for names in done for name in names]
    assert sorted(applied) == [
        f"{migration.version:04}_{migration.name}"
        for migration in schema.packaged_migrations()
        if migration.variant in (None, "plain")
    ], "each by one of them, which may share the work"


def test_a_migration_that_fails_leaves_nothing_of_itself(
    empty_postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = schema.read_migrations({"0001_a.sql": "CREATE TABLE half (x int); SELECT 1/0"})
    monkeypatch.setattr(schema, "packaged_migrations", lambda: broken)

    with pytest.raises(psycopg.errors.DivisionByZero):
        schema.migrate(empty_postgres_dsn)

    with psycopg.connect(empty_postgres_dsn) as connection:
        assert connection.execute(
            "SELECT to_regclass('half'), (SELECT count(*) FROM schema_migrations)"
        ).fetchone() == (None, 0)


def migrate_to(dsn: str, version: int, tables: tuple[str, ...]) -> list[str]:
    """Do what an earlier Sise did, which knew the migrations up to *version* and the market tables *tables*."""
    migrations = [migration for migration in schema.packaged_migrations() if migration.version <= version]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "packaged_migrations", lambda: migrations)
        patch.setattr(schema, "MARKET_TABLES", tables)
        return schema.migrate(dsn)


def test_a_database_of_the_version_before_events_keeps_its_rows(empty_postgres_dsn: str) -> None:
    assert len(migrate_to(empty_postgres_dsn, 3, ("market_ticks", "market_orderbook"))) == 3
    far = datetime(2031, 1, 1, 9, tzinfo=UTC)
    now = datetime.now(UTC)
    with psycopg.connect(empty_postgres_dsn, autocommit=True) as connection:
        insert_tick(connection, now, seq=1)  # in a partition, and in the default one
        insert_tick(connection, far, seq=2)
        connection.execute(
            "INSERT INTO market_orderbook (time, symbol, bid_vol10, market, venue, recv_time, flags, source, seq)"
            " VALUES (%s, '005930', 7, 'kr', 'kis', %s, 0, 0, 3)",
            [now, now],
        )
        columns = {table: columns_of(connection, table) for table in ("market_ticks", "market_orderbook")}
        rows = {table: connection.execute(select_all(table)).fetchall() for table in columns}

        assert len(schema.migrate(empty_postgres_dsn)) == 7
        assert schema.migrate(empty_postgres_dsn) == []

        for table, before in columns.items():
            assert columns_of(connection, table) == [*before, "exchange"], "in their order, and one behind them"
            assert connection.execute(select_all(table)).fetchall() == [(*row, None) for row in rows[table]]
        connection.execute("UPDATE market_ticks SET exchange = 'nxt' WHERE seq = 2")
        schema.ensure_partitions(connection, far.date())
        assert partition_of(connection, far) == "market_ticks_p20310101"
        assert connection.execute("SELECT exchange FROM market_ticks_p20310101").fetchall() == [("nxt",)]
        assert connection.execute("SELECT count(*) FROM market_ticks_1m").fetchone() == (2,)


def test_a_migration_that_was_interrupted_goes_on_where_it_was(empty_postgres_dsn: str) -> None:
    migrate_to(empty_postgres_dsn, 4, ("market_ticks", "market_orderbook"))

    assert schema.migrate(empty_postgres_dsn)[0] == "0005_market_events_by_day.plain"


def select_all(table: str) -> sql.Composed:
    return sql.SQL("SELECT * FROM {} ORDER BY seq").format(sql.Identifier(table))


def columns_of(connection: schema.Connection, table: str) -> list[str]:
    description = connection.execute(select_all(table)).description
    assert description is not None
    return [column.name for column in description]


@pytest.mark.requirement("EDGE-01")
@pytest.mark.parametrize("encoding", ["EUC_KR", "LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_text_is_refused(
    postgres_server: EmbeddedPostgres, empty_postgres_dsn: str, encoding: str
) -> None:
    name = f"encoded_{encoding.lower()}"
    with psycopg.connect(empty_postgres_dsn, autocommit=True) as connection:
        create = "CREATE DATABASE {} ENCODING {} LOCALE 'C' TEMPLATE template0"
        connection.execute(sql.SQL(create).format(sql.Identifier(name), sql.Literal(encoding)))
        try:
            with pytest.raises(ConfigError, match=f"expected a database with encoding UTF8, found {encoding}"):
                schema.migrate(postgres_server.dsn_for(name))
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_events_of_any_kind_are_kept_and_dropped_with_their_day(connection: schema.Connection) -> None:
    schema.ensure_partitions(connection, date(2026, 11, 1))
    insert = (
        "INSERT INTO market_events (time, symbol, type, market, venue, detail, recv_time, flags, source, seq)"
        " VALUES (%s, '', 'status', 'kr', 'kis', '', %s, 0, 0, 1)"
    )
    for time in (datetime(2020, 1, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC), NOON):
        connection.execute(insert, [time, time])

    schema.maintain(connection, TODAY, retention_days=10)

    assert connection.execute("SELECT time FROM market_events").fetchall() == [(NOON,)]
    assert "market_events_p20261101" not in partitions(connection, "market_events")


def test_a_changed_checksum_is_a_clear_error(connection: schema.Connection) -> None:
    connection.execute("UPDATE schema_migrations SET checksum = 'x' WHERE version = 1")

    with pytest.raises(ConfigError, match=r"0001_tables\.sql differs"):
        schema.migrate(connection)


@pytest.mark.parametrize("table", COLUMNS)
def test_the_columns_are_those_that_the_encoder_writes(connection: schema.Connection, table: str) -> None:
    cursor = connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))

    assert cursor.description is not None
    found = [column.name for column in cursor.description]
    assert found[: len(COLUMNS[table])] == list(COLUMNS[table]), "what others fill in stands behind"


def test_migrating_makes_partitions_from_yesterday_to_a_week_ahead(connection: schema.Connection) -> None:
    today = datetime.now(UTC).date()

    days = {today + timedelta(days=offset) for offset in range(-1, 8)}
    for table in schema.MARKET_TABLES:
        assert {f"{table}_p{day:%Y%m%d}" for day in days} <= set(partitions(connection, table))


def test_partitions_are_made_once_and_a_row_lands_in_its_day(connection: schema.Connection) -> None:
    made = schema.ensure_partitions(connection, TODAY)
    insert_tick(connection, NOON)

    assert "market_ticks_p20261120" in made
    assert schema.ensure_partitions(connection, TODAY) == []
    assert partition_of(connection, NOON) == "market_ticks_p20261120"


def test_days_are_cut_at_midnight_utc_whatever_the_session_says(connection: schema.Connection) -> None:
    connection.execute("SET timezone = 'Asia/Seoul'")
    schema.ensure_partitions(connection, TODAY)
    last = datetime(2026, 11, 20, 23, 59, 59, 999_999, tzinfo=UTC)
    next_day = datetime(2026, 11, 21, tzinfo=UTC)

    insert_tick(connection, last)
    insert_tick(connection, next_day)

    assert partition_of(connection, last) == "market_ticks_p20261120"
    assert partition_of(connection, next_day) == "market_ticks_p20261121"


@pytest.mark.requirement("EDGE-01")
def test_a_row_of_any_other_day_is_kept_and_moves_when_its_partition_is_made(connection: schema.Connection) -> None:
    far = datetime(2031, 1, 1, 9, tzinfo=UTC)

    insert_tick(connection, far)
    assert partition_of(connection, far) == "market_ticks_default"

    schema.ensure_partitions(connection, far.date())
    assert partition_of(connection, far) == "market_ticks_p20310101"


SPILLED = """
INSERT INTO spilled_batches (batch, rings, epochs, after_seqs, through_seqs, records, first_recv, last_recv, stored_at)
VALUES (gen_random_uuid(), '{0}', '{1}', '{0}', '{9}', 9, %(first)s, %(first)s, %(stored_at)s)"""


def test_retention_drops_whole_days_and_old_rows_of_the_small_tables(connection: schema.Connection) -> None:
    schema.ensure_partitions(connection, date(2026, 11, 1))
    very_old = datetime(2020, 1, 1, tzinfo=UTC)
    for time in (very_old, datetime(2026, 11, 1, tzinfo=UTC), NOON):
        insert_tick(connection, time)
        connection.execute("INSERT INTO quarantine VALUES (%s, 'kis', 'r', 0, '', 0, 0, 1)", [time])
        connection.execute("INSERT INTO system_metrics VALUES (%s, 'cpu', 1)", [time])
        connection.execute(SPILLED, {"first": time, "stored_at": time})
    connection.execute(SPILLED, {"first": very_old, "stored_at": None})  # its file waits, however long

    schema.maintain(connection, TODAY, retention_days=10)

    for query in (
        "SELECT time FROM market_ticks",
        "SELECT recv_time FROM quarantine",
        "SELECT time FROM system_metrics",
    ):
        assert connection.execute(query).fetchall() == [(NOON,)], query
    assert set(connection.execute("SELECT stored_at FROM spilled_batches").fetchall()) == {(NOON,), (None,)}
    assert "market_ticks_p20261101" not in partitions(connection)
    assert "market_ticks_p20261119" in partitions(connection)


@pytest.mark.requirement("EDGE-01")
def test_retention_counts_from_receipt_whatever_the_exchange_time_is(connection: schema.Connection) -> None:
    schema.ensure_partitions(connection, date(2026, 11, 1))
    old_day, very_old = datetime(2026, 11, 1, 3, tzinfo=UTC), datetime(2023, 5, 1, tzinfo=UTC)
    for time in (old_day, very_old):
        insert_tick(connection, time, received=NOON)
    insert_tick(connection, datetime(2031, 1, 1, tzinfo=UTC), received=very_old)

    schema.maintain(connection, TODAY, retention_days=10)
    kept = connection.execute("SELECT time FROM market_ticks ORDER BY time").fetchall()
    schema.maintain(connection, TODAY + timedelta(days=11), retention_days=10)

    assert kept[:2] == [(very_old,), (old_day,)]
    assert connection.execute("SELECT count(*) FROM market_ticks WHERE recv_time = %s", [NOON]).fetchone() == (0,)
    assert "market_ticks_p20261101" not in partitions(connection)


def test_the_ledger_ends_where_the_rows_end(connection: schema.Connection) -> None:
    for minute in (datetime(2026, 11, 9, 23, 59, tzinfo=UTC), datetime(2026, 11, 10, tzinfo=UTC)):
        connection.execute(
            "INSERT INTO ingest_ledger VALUES (%s, 'kr', 'kis', '005930', 'trade', 1, 1, 0, 2)", [minute]
        )

    schema.maintain(connection, TODAY, retention_days=10)

    assert connection.execute("SELECT minute FROM ingest_ledger").fetchall() == [(datetime(2026, 11, 10, tzinfo=UTC),)]


def test_retention_of_zero_days_keeps_everything(connection: schema.Connection) -> None:
    insert_tick(connection, datetime(2020, 1, 1, tzinfo=UTC))

    schema.maintain(connection, TODAY, retention_days=0)

    assert connection.execute("SELECT count(*) FROM market_ticks").fetchone() == (1,)


@pytest.mark.requirement("SCH-01")
@pytest.mark.parametrize(
    "values",
    [
        {"price": 0.0},
        {"price": -1.0},
        {"price": float("nan")},
        {"price": float("inf")},
        {"volume": -1.0},
        {"volume": float("nan")},
        {"volume": float("inf")},
        {"symbol": ""},
    ],
)
def test_the_table_itself_refuses_impossible_values(connection: schema.Connection, values: dict[str, object]) -> None:
    schema.ensure_partitions(connection, TODAY)

    with pytest.raises(psycopg.errors.CheckViolation):
        insert_tick(connection, NOON, **values)  # type: ignore[arg-type]


def test_every_market_table_is_indexed_by_symbol_and_time(connection: schema.Connection) -> None:
    for table in schema.MARKET_TABLES:
        rows = connection.execute("SELECT indexdef FROM pg_indexes WHERE tablename = %s", [table]).fetchall()
        assert any('(symbol, "time" DESC)' in str(definition) for (definition,) in rows)


def test_minute_bars_follow_the_order_of_receipt(connection: schema.Connection) -> None:
    insert_tick(connection, NOON, price=100.0, volume=1.0, seq=7)
    insert_tick(connection, NOON, price=130.0, volume=2.0, seq=8)
    insert_tick(connection, NOON + timedelta(seconds=59), price=90.0, volume=3.0, seq=9)
    insert_tick(connection, NOON + timedelta(seconds=60), price=95.0, volume=4.0, seq=10)

    bars = connection.execute("SELECT * FROM market_ticks_1m ORDER BY bucket").fetchall()

    assert [
        ("005930", "kr", NOON, 100.0, 130.0, 90.0, 90.0, 6.0, 3, None),
        ("005930", "kr", NOON + timedelta(minutes=1), 95.0, 95.0, 95.0, 95.0, 4.0, 1, None),
    ] == bars


def test_every_exchange_has_its_own_minute_bars(connection: schema.Connection) -> None:
    insert_tick(connection, NOON, price=100.0, volume=1.0, seq=7)
    insert_tick(connection, NOON, price=101.0, volume=2.0, seq=8)
    connection.execute("UPDATE market_ticks SET exchange = 'sor' WHERE seq = 8")

    bars = connection.execute("SELECT exchange, close, volume FROM market_ticks_1m ORDER BY close").fetchall()

    assert bars == [(None, 100.0, 1.0), ("sor", 101.0, 2.0)]
