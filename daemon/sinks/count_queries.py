"""Reads what is compared: counts per symbol, kind and minute out of the database, and those that Redis keeps.

A ledger row covers its source up to a seq. What lies behind the newest one of its epoch is *open*: in flight, or the
last of a ring that was lost with their ledger rows; it is not compared. While batches wait in spill files, later ones
are stored before them, ledger rows too: then a ring is compared up to the newest ledger row that covers nothing of what
waits, and what is counted behind that is *waiting*. So a comparison is exact at every moment.

Rows that came out of quarantine or of a capture have negative sources. They are stored in one transaction with ledger
rows of their own, which count what no worker had counted, and so are never open.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
import redis

from daemon.sinks.counts import Key, minute_of, time_of
from daemon.sinks.schema import over_market_tables
from native_pipeline.records import MARKET_DATA

PUBLISHED_KEY = (
    "published:minute:{minute}"  # hash: market|symbol|kind -> messages; see native_pipeline/redis_encoder.pyx
)
CURSOR_KEY = "published:cursor"  # hash: ring-{n} -> {epoch}:{seq} of the newest published record; see there

# An epoch owns the seqs from its number up to the next epoch of that ring: a ring that was lost took its newest ledger
# rows with it, and those of its successor do not cover its rows. What no cursor knows belongs to an epoch 0.
# A flush counts if it is whole: of one that reaches what waits, the rest may wait too. An hour more than is compared,
# because a flush has rows of the minute before, too.
CHECKPOINTS = """
WITH epochs AS (
    SELECT source, epoch, coalesce(lead(epoch) OVER (PARTITION BY source ORDER BY epoch), {epochs_end}) AS behind
    FROM (SELECT ring AS source, epoch FROM ingest_cursor
          UNION SELECT DISTINCT source, 0 FROM ingest_ledger WHERE minute >= %(start)s - INTERVAL '1 hour') AS known
), flushes AS (
    SELECT source, epoch, behind, through_seq, max(seq) AS last_seq, max(minute) AS minute
    FROM ingest_ledger JOIN epochs USING (source)
    WHERE minute >= %(start)s - INTERVAL '1 hour' AND seq >= epoch AND seq < behind GROUP BY 1, 2, 3, 4
), waiting AS ({waiting})
SELECT source, epoch, behind, max(through_seq) FILTER (WHERE after_seq IS NULL OR last_seq < after_seq),
    max(through_seq), max(minute) FILTER (WHERE after_seq IS NULL OR last_seq < after_seq), min(after_seq)
FROM flushes LEFT JOIN waiting USING (source, epoch) GROUP BY 1, 2, 3"""
# Registered spill files that are not stored yet: the records behind after_seq are not all in the tables.
WAITING = """
    SELECT ring AS source, epoch, min(after_seq) AS after_seq
    FROM spilled_batches, unnest(rings, epochs, after_seqs) AS range (ring, epoch, after_seq)
    WHERE stored_at IS NULL AND lost_at IS NULL GROUP BY 1, 2"""
WAITING_BATCHES = """
SELECT count(*), coalesce(sum(records), 0) FROM spilled_batches WHERE stored_at IS NULL AND lost_at IS NULL"""
# Their records were received, and are in no table and no file any more; `feed_gaps` has their streams.
LOST_BATCHES = """
SELECT count(*), coalesce(sum(records), 0) FROM spilled_batches
WHERE stored_at IS NULL AND lost_at IS NOT NULL AND last_recv >= %s"""
KNOWN = """unnest(%(source)s::int2[], %(epoch)s::int8[], %(behind)s::int8[], %(checkpoint)s::int8[],
    %(covered)s::int8[]) AS known (source, epoch, behind, checkpoint, covered)"""
RECEIVED = """
SELECT minute, market, symbol, kind,
    coalesce(sum(received) FILTER (WHERE ledger.source >= 0 AND through_seq <= checkpoint), 0),
    coalesce(sum(received) FILTER (WHERE ledger.source < 0), 0),
    coalesce(sum(received) FILTER (WHERE ledger.source >= 0 AND (through_seq <= checkpoint) IS NOT TRUE), 0)
FROM ingest_ledger AS ledger LEFT JOIN {known} ON ledger.source = known.source AND seq >= epoch AND seq < behind
WHERE minute >= %(first)s AND minute < %(behind_last)s GROUP BY 1, 2, 3, 4"""
STORED = """
SELECT date_bin('1 minute', recv_time, TIMESTAMPTZ 'epoch') AS minute, market, symbol,
    count(*) FILTER (WHERE row.source < 0 OR seq <= checkpoint),
    count(*) FILTER (WHERE (row.source < 0 OR seq <= checkpoint) IS NOT TRUE),
    count(*) FILTER (WHERE row.source >= 0 AND (seq <= checkpoint) IS NOT TRUE AND seq <= covered)
FROM {table} AS row LEFT JOIN {known} ON row.source = known.source AND seq >= epoch AND seq < behind
WHERE recv_time >= %(first)s AND recv_time < %(behind_last)s GROUP BY 1, 2, 3"""
REFUSED = """
SELECT date_bin('1 minute', recv_time, TIMESTAMPTZ 'epoch') AS minute, market, symbol, kind,
    count(*) FILTER (WHERE seq <= checkpoint),
    count(*) FILTER (WHERE (seq <= checkpoint) IS NOT TRUE AND seq <= covered)
FROM quarantine AS row LEFT JOIN {known} ON row.source = known.source AND seq >= epoch AND seq < behind
WHERE recv_time >= %(first)s AND recv_time < %(behind_last)s AND kind = ANY(%(kinds)s) AND replayed_at IS NULL
GROUP BY 1, 2, 3, 4"""
DUPLICATED = """
SELECT date_bin('1 minute', received, TIMESTAMPTZ 'epoch') AS minute, market, symbol,
    sum(copies), coalesce(sum(copies) FILTER (WHERE row.source < 0 OR seq <= checkpoint), 0)
FROM (
    SELECT source, seq, count(*) - 1 AS copies, min(recv_time) AS received, min(market) AS market, min(symbol) AS symbol
    FROM {table} WHERE recv_time >= %(first)s AND recv_time < %(behind_last)s GROUP BY 1, 2 HAVING count(*) > 1
) AS row LEFT JOIN {known} ON row.source = known.source AND seq >= epoch AND seq < behind
GROUP BY 1, 2, 3"""
EPOCHS_END = 9223372036854775807  # where the newest epoch of a ring ends
LEDGER_BOUNDS = "SELECT min(minute), max(minute) FROM ingest_ledger WHERE minute >= %s"
ROW_BOUNDS = over_market_tables(
    "SELECT min(first), max(last) FROM ({union}) AS bounds (first, last)",
    "SELECT min(recv_time), max(recv_time) FROM {table} WHERE recv_time >= %(start)s",
)

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far one epoch of a source can be compared."""

    source: int
    epoch: int
    behind: int  # the next epoch
    checkpoint: int | None  # None: nothing of it
    covered: int  # by ledger rows; more than the checkpoint while spill files wait
    newest: datetime | None  # minute of the newest ledger row that counts
    waiting_after: int | None  # seq behind which records wait in spill files

    @property
    def is_waiting(self) -> bool:
        """Whether part of it is in spill files that are registered."""
        return self.waiting_after is not None


@dataclass(slots=True)
class WindowCounts:
    """What the database says about a stretch of time."""

    received: dict[Key, int] = field(default_factory=dict)
    replayed: dict[Key, int] = field(default_factory=dict)
    waiting: dict[Key, int] = field(default_factory=dict)  # received, behind data that wait in spill files
    stored: Counter[Key] = field(default_factory=Counter)
    open: Counter[Key] = field(default_factory=Counter)  # rows
    refused: Counter[Key] = field(default_factory=Counter)
    duplicated: Counter[Key] = field(default_factory=Counter)
    once: Counter[Key] = field(default_factory=Counter)  # stored, duplicates counted once
    arrived: int = 0  # of those that are waiting: rows stored or refused already

    def lost(self) -> int:
        """Records that were received, or came out of quarantine, and are nowhere."""
        keys = {*self.received, *self.replayed}
        return sum(
            max(0, self.received.get(key, 0) + self.replayed.get(key, 0) - self.once[key] - self.refused[key])
            for key in keys
        )


def read_checkpoints(connection: Connection, start: datetime) -> list[Checkpoint]:
    """Return how far each epoch that has ledger rows since *start* can be compared."""
    rows = connection.execute(
        CHECKPOINTS.format(waiting=WAITING, epochs_end=EPOCHS_END).encode(), {"start": start}
    ).fetchall()
    return [Checkpoint(*row) for row in rows]


def as_parameters(checkpoints: Sequence[Checkpoint]) -> Mapping[str, Sequence[int | None]]:
    """Return the columns of KNOWN."""
    return {
        "source": [one.source for one in checkpoints],
        "epoch": [one.epoch for one in checkpoints],
        "behind": [one.behind for one in checkpoints],
        "checkpoint": [one.checkpoint for one in checkpoints],
        "covered": [one.covered for one in checkpoints],
    }


def read_counts(connection: Connection, checkpoints: Sequence[Checkpoint], first: int, behind: int) -> WindowCounts:
    """Return the counts of the minutes from *first* up to *behind*, out of one snapshot with *checkpoints*."""
    values = {
        "first": time_of(first), "behind_last": time_of(behind), "kinds": [data.name for data in MARKET_DATA],
        **as_parameters(checkpoints),
    }  # fmt: skip
    found = WindowCounts()
    for minute, market, symbol, kind, received, replayed, waiting in connection.execute(
        RECEIVED.format(known=KNOWN).encode(), values
    ):
        key = Key(minute_of(minute), market, symbol, kind)
        for counts, count in ((found.received, received), (found.replayed, replayed), (found.waiting, waiting)):
            if count:
                counts[key] = int(count)
    for minute, market, symbol, kind, refused, arrived in connection.execute(
        REFUSED.format(known=KNOWN).encode(), values
    ):
        if refused:
            found.refused[Key(minute_of(minute), market or "", symbol or "", kind)] += refused
        found.arrived += arrived
    for _, kind, table, _ in MARKET_DATA:
        query = STORED.format(table=table, known=KNOWN).encode()
        for minute, market, symbol, closed, beyond, arrived in connection.execute(query, values):
            key = Key(minute_of(minute), market, symbol, kind)
            found.stored[key] += closed
            found.once[key] += closed
            found.open[key] += beyond
            found.arrived += arrived
        query = DUPLICATED.format(table=table, known=KNOWN).encode()
        for minute, market, symbol, copies, closed in connection.execute(query, values):
            key = Key(minute_of(minute), market, symbol, kind)
            found.duplicated[key] += int(copies)
            found.once[key] -= int(closed)
    found.stored, found.open = +found.stored, +found.open  # without zeros
    return found


def read_published(client: redis.Redis, minutes: Sequence[int]) -> dict[Key, int]:
    """Return the counts that Redis keeps for *minutes*. Raises redis.RedisError."""
    pipeline = client.pipeline(transaction=False)
    for minute in minutes:
        pipeline.hgetall(PUBLISHED_KEY.format(minute=minute))
    found = {}
    for minute, counts in zip(minutes, pipeline.execute(), strict=True):
        for name, count in counts.items():
            market, symbol, kind = name.decode().split("|")
            found[Key(minute, market, symbol, kind)] = int(count)
    return found


def unpublished_rings(client: redis.Redis, checkpoints: Sequence[Checkpoint]) -> list[int]:
    """Return the rings of which Redis says that not everything that *checkpoints* cover is published yet."""
    cursors: Mapping[Any, Any] = client.hgetall(CURSOR_KEY)  # bytes; redis-py declares that they may be texts
    behind = set()
    for one in checkpoints:
        if one.source < 0 or one.checkpoint is None or one.behind < EPOCHS_END:  # only the newest epoch is published
            continue
        epoch, _, seq = cursors.get(b"ring-%d" % one.source, b"").partition(b":")
        if not (epoch.isdigit() and seq.isdigit()) or (int(epoch), int(seq)) < (one.epoch, one.checkpoint):
            behind.add(one.source)
    return sorted(behind)


def registered_batches(connection: Connection, batches: Sequence[UUID]) -> set[UUID]:
    """Return those of *batches* that the database knows, stored or not."""
    query = "SELECT batch FROM spilled_batches WHERE batch = ANY(%s)"
    return {batch for (batch,) in connection.execute(query, [list(batches)])}


def count_lost_batches(connection: Connection, since: datetime) -> tuple[int, int]:
    """Return the number and the records of the spill files with data received since then that were lost."""
    ((batches, records),) = connection.execute(LOST_BATCHES, [since]).fetchall()
    return int(batches), int(records)


def count_waiting_batches(connection: Connection) -> tuple[int, int]:
    """Return how many spill files are registered and not stored yet, and how many records are in them."""
    batches, records = connection.execute(WAITING_BATCHES).fetchone() or (0, 0)
    return int(batches), int(records)
