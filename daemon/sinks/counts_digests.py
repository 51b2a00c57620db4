"""A digest of everything that a minute's comparison depends on: the same digest, the same outcome.

Counting a minute by symbol, and looking for rows that are there twice, costs the database several times what it costs
to read its rows once. So a minute that was found equal is looked at again by this digest only.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
import redis

from daemon.sinks.count_queries import PUBLISHED_KEY
from daemon.sinks.counts import minute_of, time_of
from native_pipeline.records import MARKET_DATA

# Of each row what it is counted by, mixed so that two rows never make up for each other.
ROWS = """
SELECT date_bin('1 minute', recv_time, TIMESTAMPTZ 'epoch'), '{table}', count(*),
    bit_xor(hashtextextended(symbol, hashtextextended(market, hashint8extended(seq, source))))
FROM {table} WHERE recv_time >= %(first)s AND recv_time < %(behind_last)s GROUP BY 1"""
LEDGER = """
SELECT minute, 'ingest_ledger', count(*), bit_xor(hashtextextended(symbol, hashtextextended(market || '|' || kind,
    hashint8extended(through_seq, source * 4294967296 + received))))
FROM ingest_ledger WHERE minute >= %(first)s AND minute < %(behind_last)s GROUP BY 1"""
REFUSED = """
SELECT date_bin('1 minute', recv_time, TIMESTAMPTZ 'epoch'), 'quarantine', count(*),
    bit_xor(hashint8extended(seq, source))
FROM quarantine
WHERE recv_time >= %(first)s AND recv_time < %(behind_last)s AND kind = ANY(%(kinds)s) AND replayed_at IS NULL
GROUP BY 1"""
QUERY = " UNION ALL ".join([*(ROWS.format(table=table) for _, _, table, _ in MARKET_DATA), LEDGER, REFUSED]).encode()
# Nobody but a person removes or changes rows of these tables: the server counts that. Transactions that were rolled
# back count too, and a table that was emptied or written anew has another file.
CHANGES = """
SELECT coalesce(sum(n_tup_del + n_tup_upd), 0), coalesce(sum(relfilenode::int8), 0)
FROM pg_class LEFT JOIN pg_stat_user_tables ON relid = oid
WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = ANY(%s::regclass[]))"""

Connection = psycopg.Connection[tuple[Any, ...]]


class Digest(NamedTuple):
    """One minute."""

    rows: int  # of the market tables
    database: frozenset[tuple[str, int, int]]  # table, rows and digest of each that has any
    published: int | None  # of the counts of Redis; None: not known, or not kept any more

    def is_same(self, other: "Digest") -> bool:
        """Whether nothing has changed, as far as both know."""
        is_known = self.published is not None and other.published is not None
        return self.database == other.database and (not is_known or self.published == other.published)


NOTHING = Digest(0, frozenset(), None)


def read_digests(
    connection: Connection, client: redis.Redis | None, first: int, behind: int, *, published_from: int
) -> dict[int, Digest]:
    """Return the digest of each minute from *first* up to *behind*: the rows in one snapshot.

    published_from: first minute that Redis still counts. A Redis that does not answer is left out.
    """
    values = {
        "first": time_of(first), "behind_last": time_of(behind), "kinds": [data.name for data in MARKET_DATA],
    }  # fmt: skip
    market_tables = {data.table for data in MARKET_DATA}
    found: dict[int, list[tuple[str, int, int]]] = {}
    for minute, table, count, digest in connection.execute(QUERY, values):
        found.setdefault(minute_of(minute), []).append((table, count, digest))
    published = _read_published(client, range(max(first, published_from), behind))
    return {
        minute: Digest(
            sum(count for table, count, _ in parts if table in market_tables), frozenset(parts), published.get(minute)
        )
        for minute in range(first, behind)
        for parts in [found.get(minute, [])]
    }


def read_changes(connection: Connection) -> tuple[int, ...]:
    """Return numbers that are others once rows of the market tables were removed or changed."""
    row = connection.execute(CHANGES.encode(), [[data.table for data in MARKET_DATA]]).fetchone()
    return tuple(int(number) for number in row or ())


def _read_published(client: redis.Redis | None, minutes: range) -> Mapping[int, int]:
    if client is None or not minutes:
        return {}
    pipeline = client.pipeline(transaction=False)
    for minute in minutes:
        pipeline.hgetall(PUBLISHED_KEY.format(minute=minute))
    try:
        counts = pipeline.execute()
    except redis.RedisError:
        return {}
    return {minute: hash(frozenset(found.items())) for minute, found in zip(minutes, counts, strict=True)}


class DigestReader:
    """Reads digests over one connection, each statement in a transaction of its own."""

    def __init__(
        self, connection: Connection, client: redis.Redis, *, statement_timeout_s: float, published_from: int
    ) -> None:
        self._connection = connection
        self._client = client
        self._timeout = f"{statement_timeout_s * 1000:.0f}ms"
        self._published_from = published_from

    def read(self, first: int, behind: int) -> Mapping[int, Digest]:
        """Return the digests of the minutes from *first* up to *behind*."""
        with self._bounded():
            return read_digests(
                self._connection, self._client, first, behind, published_from=self._published_from
            )  # fmt: skip

    def changes(self) -> tuple[int, ...]:
        """Return numbers that are others once rows of the market tables were removed or changed."""
        with self._bounded():
            return read_changes(self._connection)

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        with self._connection.transaction():  # local to it: a pool may give the session to somebody else afterwards
            self._connection.execute("SELECT set_config('statement_timeout', %s, true)", [self._timeout])
            yield
