"""The database's tables: numbered migrations, applied once each in a transaction of its own, and their daily upkeep.

With TimescaleDB the tables of market data are hypertables, whose chunks a job compresses. Without it they are
partitioned by UTC day, and `maintain` makes partitions ahead. In both it drops old ones. Which of the two a database
has is decided by its first migration: an extension that is installed later changes nothing.

Retention counts from receipt: a row whose exchange time is years old is kept as long as every other.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from typing import Literal

import psycopg
from psycopg import sql

from daemon.errors import ConfigError
from native_pipeline.records import MARKET_DATA

Connection = psycopg.Connection[tuple[object, ...]]
Variant = Literal["timescaledb", "plain"]

FILE_NAME = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)(?:\.(?P<variant>timescaledb|plain))?\.sql")
MARKET_TABLES = tuple(data.table for data in MARKET_DATA)
# Small tables and the column that says how old a row is.
SMALL_TABLES: Mapping[str, str] = {
    "quarantine": "recv_time",
    "feed_gaps": "ended",
    "ingest_ledger": "minute",
    "system_metrics": "time",
    "spilled_batches": "stored_at",  # NULL of those that wait, and of lost ones: both are kept
}
LOCK_ID = 0x73697365  # "sise": no other program should use this advisory lock
# Whatever a venue writes can be stored. In every other encoding one character could hold up all that follows it.
ENCODING = "UTF8"
DAYS_AHEAD = 7  # a daemon that cannot reach the database for a week has other problems
LOCK_TIMEOUT = "5s"  # a long query of somebody else must not hold up the writer; maintain() is tried again later

MIGRATIONS_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    int         PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


def over_market_tables(query: str, select: str) -> str:
    """Return *query* with the rows of *select* for every kind of market data in the place of its {union}.

    select: {table} and {kind} in it are the table and the name of the kind.
    """
    selects = [select.format(table=data.table, kind=data.name) for data in MARKET_DATA]
    return query.format(union=" UNION ALL ".join(selects))


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file."""

    version: int
    name: str  # file name without the number and `.sql`; ends in the variant, if the file is for one only
    variant: Variant | None
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_migrations(files: Mapping[str, str]) -> list[Migration]:
    """Return the migrations of *files* (name -> text) by version. ConfigError: a name that is none, or a gap."""
    migrations = []
    for file_name, text in files.items():
        found = FILE_NAME.fullmatch(file_name)
        if found is None:
            raise ConfigError(f"migration {file_name}: expected NNNN_name.sql, .timescaledb.sql or .plain.sql")
        variant: Variant | None = None
        if found["variant"] is not None:
            variant = "timescaledb" if found["variant"] == "timescaledb" else "plain"
        name = found["name"] if variant is None else f"{found['name']}.{variant}"
        migrations.append(Migration(int(found["version"]), name, variant, text))
    migrations.sort(key=lambda migration: (migration.version, migration.name))
    for kind in ("timescaledb", "plain"):
        versions = [m.version for m in migrations if m.variant in (None, kind)]
        if versions != list(range(1, len(versions) + 1)):
            raise ConfigError(f"migrations for {kind}: expected 1, 2, 3 ... each once, found {versions}")
    return migrations


def packaged_migrations() -> list[Migration]:
    """Return the migrations that this version of Sise comes with."""
    folder = resources.files("daemon.sinks.migrations")
    return read_migrations({f.name: f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".sql")})


def pending(migrations: Iterable[Migration], applied: Mapping[int, tuple[str, str]]) -> list[Migration]:
    """Return those of *migrations* not in *applied* (version -> name, checksum).

    ConfigError: an applied file has changed, or the database is newer than this program.
    """
    known = {migration.version: migration for migration in migrations}
    for version, (name, checksum) in sorted(applied.items()):
        if version not in known:
            raise ConfigError(
                f"database.dsn: the database has migration {version:04} ({name}), this version of Sise does not"
            )
        if known[version].checksum != checksum:
            raise ConfigError(f"migration {version:04}_{known[version].name}.sql differs from the one that was applied")
    return [known[version] for version in sorted(known) if version not in applied]


def check_version(connection: Connection) -> None:
    """Raise ConfigError if another version of Sise has made the tables, and this one cannot bring them up to date."""
    if connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL").fetchone() == (True,):
        variant = _variant_of(connection)
        pending([m for m in packaged_migrations() if m.variant in (None, variant)], _applied(connection))


def migrate(database: str | Connection, *, retention_days: int = 365, columnstore_after_days: int = 7) -> list[str]:
    """Bring the database up to date and return the names of the migrations applied now; nothing to do is no error.

    database: a DSN, or a connection in autocommit mode. retention_days 0 keeps everything.
    """
    if isinstance(database, str):
        with psycopg.connect(
            database,
            autocommit=True,
            application_name="sise migrate",
            prepare_threshold=None,  # a pool in front of the server may give each transaction to another session
        ) as connection:
            return migrate(connection, retention_days=retention_days, columnstore_after_days=columnstore_after_days)
    connection = database
    done = _apply(connection)
    if _variant_of(connection) == "timescaledb":
        with _alone(connection):
            _set_policies(connection, columnstore_after_days)
    maintain(connection, datetime.now(UTC).date(), retention_days=retention_days)
    return done


@contextlib.contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """A transaction that no other process migrates beside; its lock ends with it, on whichever server of a pooler."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_ID])
        yield


def _apply(connection: Connection) -> list[str]:
    _check_encoding(connection)
    with _alone(connection):
        connection.execute(MIGRATIONS_TABLE)
        variant = _variant_of(connection) or _choose_variant(connection)
    done = []
    migrations = [m for m in packaged_migrations() if m.variant in (None, variant)]
    for migration in pending(migrations, _applied(connection)):
        with _alone(connection):
            if migration.version in _applied(connection):
                continue  # by somebody else, since we looked
            connection.execute(migration.text.encode())
            connection.execute(
                "INSERT INTO schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
                [migration.version, migration.name, migration.checksum],
            )
        done.append(f"{migration.version:04}_{migration.name}")
    return done


def _check_encoding(connection: Connection) -> None:
    found = connection.info.parameter_status("server_encoding")
    if found != ENCODING:
        raise ConfigError(f"database.dsn: expected a database with encoding {ENCODING}, found {found}")


def _applied(connection: Connection) -> dict[int, tuple[str, str]]:
    rows = connection.execute("SELECT version, name, checksum FROM schema_migrations").fetchall()
    return {int(str(version)): (str(name), str(checksum)) for version, name, checksum in rows}


def _variant_of(connection: Connection) -> Variant | None:
    """Return what the first variant-specific migration decided; None: none was applied yet."""
    for name, _ in _applied(connection).values():
        if name.endswith(".timescaledb"):
            return "timescaledb"
        if name.endswith(".plain"):
            return "plain"
    return None


def _choose_variant(connection: Connection) -> Variant:
    """Create the extension if this server can; its Apache-only edition has neither columnstore nor policies."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')"
        " OR EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')"
        # Without preloading CREATE EXTENSION would end the session; this setting exists only if the library is loaded.
        " AND EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.disable_load')"
    ).fetchone()
    if row != (True,):
        return "plain"
    connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    row = connection.execute("SELECT current_setting('timescaledb.license', true)").fetchone()
    return "timescaledb" if row == ("timescale",) else "plain"


def _set_policies(connection: Connection, columnstore_after_days: int) -> None:
    """Make the jobs' intervals those of the settings; a job whose interval is right is left alone."""
    for table in MARKET_TABLES:
        after = timedelta(days=columnstore_after_days)
        if _columnstore_interval(connection, table) != after:
            connection.execute("CALL remove_columnstore_policy(%s::regclass, if_exists => true)", [table])
            connection.execute("CALL add_columnstore_policy(%s::regclass, after => %s::interval)", [table, after])
        # Retention is maintain()'s: drop_after counts from the exchange's time, and drop_created_before fails in
        # hypertables over time before TimescaleDB 2.27 (its issue 9446).
        connection.execute("SELECT remove_retention_policy(%s::regclass, if_exists => true)", [table])


def _columnstore_interval(connection: Connection, table: str) -> object:
    row = connection.execute(
        "SELECT (config ->> 'compress_after')::interval FROM timescaledb_information.jobs"
        " WHERE hypertable_name = %s AND proc_name IN ('policy_compression', 'policy_columnstore')",
        [table],
    ).fetchone()
    return None if row is None else row[0]


def maintain(connection: Connection, today: date, *, retention_days: int) -> None:
    """The hourly upkeep: partitions ahead, old partitions and old rows of the small tables dropped."""
    cutoff = today - timedelta(days=retention_days) if retention_days else None
    variant = _variant_of(connection)
    if variant == "plain":
        ensure_partitions(connection, today)
    if cutoff is not None:
        if variant == "timescaledb":
            _drop_chunks(connection, cutoff)
        else:
            _drop_partitions(connection, cutoff)
        for table in _existing(connection, SMALL_TABLES):
            query = sql.SQL("DELETE FROM {} WHERE {} < {}").format(
                sql.Identifier(table), sql.Identifier(SMALL_TABLES[table]), _start_of(cutoff)
            )
            connection.execute(query)


def _existing(connection: Connection, tables: Iterable[str]) -> list[str]:
    """Return those of *tables* that the database has: one of an earlier version has not all of them yet."""
    rows = connection.execute(
        "SELECT name FROM unnest(%s::text[]) AS wanted (name) WHERE to_regclass(name) IS NOT NULL", [list(tables)]
    ).fetchall()
    return [str(name) for (name,) in rows]


def ensure_partitions(connection: Connection, today: date) -> list[str]:
    """Make the missing partitions from yesterday to a week ahead and return their names.

    connection: in autocommit mode. Rows that reached the default partition before move to the new one.
    """
    made = []
    days = [today + timedelta(days=offset) for offset in range(-1, DAYS_AHEAD + 1)]
    for table in MARKET_TABLES:
        existing = _partitions(connection, table)
        for day in days:
            if day not in existing:
                made.append(_make_partition(connection, table, day))
    return made


def _make_partition(connection: Connection, table: str, day: date) -> str:
    name = f"{table}_p{day:%Y%m%d}"
    names = {
        "table": sql.Identifier(table),
        "partition": sql.Identifier(name),
        "rest": sql.Identifier(f"{table}_default"),
        "start": _start_of(day),
        "end": _start_of(day + timedelta(days=1)),
    }
    statements: Sequence[str] = (
        "CREATE TABLE {partition} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)",
        "WITH moved AS (DELETE FROM {rest} WHERE time >= {start} AND time < {end} RETURNING *)"
        " INSERT INTO {partition} SELECT * FROM moved",
        "ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ({start}) TO ({end})",
    )
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        # Nobody may add a row of that day to the default partition between the move and the attachment.
        connection.execute(sql.SQL("LOCK TABLE ONLY {rest} IN ACCESS EXCLUSIVE MODE").format(**names))
        if day in _partitions(connection, table):
            return name  # made by somebody else, since we looked
        for statement in statements:
            connection.execute(sql.SQL(statement).format(**names))
    return name


def _drop_partitions(connection: Connection, cutoff: date) -> None:
    """Drop what was received before *cutoff*, by whole partitions where there is one.

    A partition of an old day to which anything was received since then stays as a whole.
    """
    for table in MARKET_TABLES:
        for day, partition in _partitions(connection, table).items():
            name = sql.Identifier(partition)
            if day < cutoff and not _has_receipts_since(connection, name, cutoff):
                with connection.transaction():
                    _lock_for_drop(connection, table)
                    if not _has_receipts_since(connection, name, cutoff):
                        connection.execute(sql.SQL("DROP TABLE {}").format(name))
        query = sql.SQL("DELETE FROM {} WHERE time < {start} AND recv_time < {start}").format(
            sql.Identifier(f"{table}_default"), start=_start_of(cutoff)
        )
        connection.execute(query)


def _drop_chunks(connection: Connection, cutoff: date) -> None:
    """Do what `_drop_partitions` does, with the chunks of hypertables."""
    for table in MARKET_TABLES:
        query = sql.SQL(
            "SELECT chunk_schema, chunk_name, range_start, range_end FROM timescaledb_information.chunks"
            " WHERE hypertable_name = {} AND range_end <= {}"
        )
        for schema, chunk, start, end in connection.execute(query.format(table, _start_of(cutoff))).fetchall():
            name = sql.Identifier(str(schema), str(chunk))
            if not _has_receipts_since(connection, name, cutoff):
                with connection.transaction():
                    _lock_for_drop(connection, table)
                    if not _has_receipts_since(connection, name, cutoff):
                        connection.execute(
                            "SELECT drop_chunks(%s::regclass, older_than => %s::timestamptz,"
                            " newer_than => %s::timestamptz)",
                            [table, end, start],
                        )


def _lock_for_drop(connection: Connection, table: str) -> None:
    """The table before its parts, in the order that inserts take them: nothing arrives after the second look."""
    connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    connection.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table)))


def _has_receipts_since(connection: Connection, part: sql.Identifier, cutoff: date) -> bool:
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE recv_time >= {})")
    return connection.execute(query.format(part, _start_of(cutoff))).fetchone() == (True,)


def _partitions(connection: Connection, table: str) -> dict[date, str]:
    """Return the day partitions of *table*: day -> name."""
    rows = connection.execute(
        "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = %s::regclass",
        [table],
    ).fetchall()
    found = {}
    for (name,) in rows:
        match = re.fullmatch(rf"{table}_p(\d{{8}})", str(name))
        if match is not None:
            found[datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC).date()] = str(name)
    return found


def _start_of(day: date) -> sql.Literal:
    """Midnight UTC, as a literal: partition bounds take no parameters."""
    return sql.Literal(datetime(day.year, day.month, day.day, tzinfo=UTC))
