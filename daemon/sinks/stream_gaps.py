"""Rows of `feed_gaps` for what a ring or a spill file no longer holds: one for each stream that may have lost some.

Nobody can read in what is lost whose records it held. So these are the streams of the ledger around that time and,
before its first checkpoint (one a minute), of the newest rows; and, as nothing at all may have been stored of a stream
in the first seconds of a ring, those that the plan gives to the ring's worker.
"""

from collections.abc import Callable, Collection
from datetime import datetime

import psycopg

from daemon import log
from daemon.sinks.schema import over_market_tables

Connection = psycopg.Connection[tuple[object, ...]]
Ring = tuple[int, int]  # number, epoch
PlannedStream = tuple[str, str, str, str]  # venue, market, symbol, and its kind in the tables: trade, orderbook, event

# A cursor that has not moved yet is as old as its ring, whose epoch is the microsecond of its creation: what is lost
# before the first commit may be as old as that. Not older than the days that the ledger is looked through.
START_CURSOR = """
INSERT INTO ingest_cursor (ring, epoch, seq, updated_at)
VALUES (%(ring)s, %(epoch)s, %(seq)s,
    least(now(), greatest(now() - INTERVAL '3 days', to_timestamp(%(epoch)s / 1e6)))) ON CONFLICT DO NOTHING"""
PREDECESSOR = """
SELECT epoch, seq, updated_at FROM ingest_cursor WHERE ring = %s AND epoch < %s ORDER BY epoch DESC LIMIT 1"""
# The searches are bounded, so that a start does not read years: a cursor is never older than its rows by more than the
# time that a batch takes to get stored, and a symbol that was silent for days has nothing to miss.
# An hour of a busy market is many millions of rows: the next stretch is only read where a shorter one has none.
STRETCHES = ("10 seconds", "5 minutes", "1 hour")
NEWEST_WITHIN = over_market_tables(
    "(SELECT max(newest) FROM ({union}) AS by_table (newest))",
    """
SELECT max(recv_time) FROM {table} WHERE source = %(ring)s
AND recv_time BETWEEN %(updated_at)s - INTERVAL 'STRETCH' AND %(updated_at)s + INTERVAL '10 seconds'""",
)
NEWEST_RECEIPT = "SELECT coalesce({found})".format(
    found=", ".join(NEWEST_WITHIN.replace("STRETCH", stretch) for stretch in STRETCHES)
)
# What is behind a registered batch was received after that began, however late the cursor moved over it.
SPILLED_UNTIL = """
SELECT first_recv FROM spilled_batches, unnest(rings, epochs, through_seqs) AS one (ring, epoch, through)
WHERE one.ring = %(ring)s AND one.epoch = %(epoch)s AND one.through = %(seq)s"""
PLANNED = """
SELECT venue, market, symbol, kind, source
FROM unnest(%(venues)s::text[], %(markets)s::text[], %(symbols)s::text[], %(kinds)s::text[], %(sources)s::int2[])
    AS planned (venue, market, symbol, kind, source)"""
# Once, however often it is tried: until a row of that ring is stored, `started` stays what it is. A ring that is lost
# before any of it was stored makes the gap of the one before it longer.
EXTEND = """
UPDATE feed_gaps SET ended = greatest(ended, coalesce(%(ended)s::timestamptz, now()))
WHERE ended >= %(started)s AND started = %(started)s AND reason = %(reason)s AND source = %(ring)s AND seq = 0"""
ADD = over_market_tables(
    """
INSERT INTO feed_gaps (venue, market, symbol, kind, started, ended, reason, missing, source, seq, exchange)
SELECT venue, market, symbol, kind, %(started)s::timestamptz, coalesce(%(ended)s::timestamptz, now()), %(reason)s,
    NULL::float8, source, 0, NULL::text
FROM (
    SELECT venue, market, symbol, kind, source FROM ingest_ledger
    WHERE source = %(ring)s AND minute >= %(updated_at)s - INTERVAL '3 days'
    UNION ({union})
    UNION (PLANNED)
) AS known
WHERE %(started)s < coalesce(%(ended)s::timestamptz, now()) AND NOT EXISTS (
    SELECT FROM feed_gaps AS gap
    WHERE gap.ended >= %(started)s AND gap.started = %(started)s AND gap.reason = %(reason)s
    AND (gap.source, gap.venue, gap.market, gap.symbol, gap.kind)
        = (known.source, known.venue, known.market, known.symbol, known.kind)
)""",
    """
SELECT DISTINCT venue, market, symbol, '{kind}', source FROM {table}
WHERE source = %(ring)s
AND recv_time BETWEEN %(started)s - INTERVAL '2 minutes' AND %(started)s + INTERVAL '2 minutes'""",
).replace("PLANNED", PLANNED)
# The ledger's checkpoint may be in the lost batch itself.
ADD_LOST = over_market_tables(
    """
INSERT INTO feed_gaps (venue, market, symbol, kind, started, ended, reason, missing, source, seq, exchange)
SELECT venue, market, symbol, kind, %(first)s::timestamptz, %(last)s::timestamptz, 'spill file lost',
    NULL::float8, source, 0, NULL::text
FROM (
    SELECT venue, market, symbol, kind, source FROM ingest_ledger
    WHERE source = ANY(%(rings)s) AND minute BETWEEN %(first)s::timestamptz - INTERVAL '3 days'
        AND %(last)s::timestamptz + INTERVAL '1 hour'
    UNION ({union})
    UNION (PLANNED)
) AS known""",
    """
SELECT DISTINCT venue, market, symbol, '{kind}', source
FROM {table} JOIN (VALUES (%(first)s::timestamptz), (%(last)s::timestamptz)) AS edge (moment)
    ON recv_time BETWEEN moment - INTERVAL '2 minutes' AND moment + INTERVAL '2 minutes'
WHERE source = ANY(%(rings)s)""",
).replace("PLANNED", PLANNED)


class StreamGaps:
    """Notes such gaps, in the caller's transaction."""

    def __init__(self, planned: Callable[[int], Collection[PlannedStream]] = lambda ring: ()) -> None:
        """planned: what the worker of a ring collects, by the ring's number."""
        self._planned = planned

    def start_cursor(self, connection: Connection, ring: Ring, seq: int) -> None:
        """Make the cursor of *ring* at *seq*, if the database does not know the ring.

        A ring of that number that it does know was replaced, and its newest records may not be stored: that is logged,
        and a gap. Before the commit, as twice in the log if that fails is better than never if only its answer is lost.
        """
        number, epoch = ring
        if not connection.execute(START_CURSOR, {"ring": number, "epoch": epoch, "seq": seq}).rowcount:
            return
        row = connection.execute(PREDECESSOR, ring).fetchone()
        if row is None:
            return
        old_epoch, old_seq, updated_at = row
        replaced = number, int(str(old_epoch))
        started = self.add_from_cursor(connection, replaced, old_seq, updated_at, "ring lost")
        log.get().critical("ring_lost", ring=number, old_epoch=old_epoch, new_epoch=epoch, started=started.isoformat())

    def add_from_cursor(
        self, connection: Connection, ring: Ring, seq: object, updated_at: object, reason: str
    ) -> datetime:
        """Add a row for each stream of *ring*, from what its cursor is behind until now; return when they start."""
        started = self.whole_until(connection, ring, seq, updated_at)
        self.add(connection, ring[0], reason, updated_at=updated_at, started=started)
        return started

    def whole_until(self, connection: Connection, ring: Ring, seq: object, updated_at: object) -> datetime:
        """Return the receipt of what is up to the cursor of *ring*, at *seq*, which rows made move at *updated_at*.

        By the newest row: one more than an hour older than that is not looked for. Where the cursor is at the end of a
        spilled batch, none of that may be stored yet, and its beginning holds. With neither, the cursor's time.
        """
        values = {"ring": ring[0], "epoch": ring[1], "seq": seq, "updated_at": updated_at}
        newest = _moment(connection.execute(NEWEST_RECEIPT, values).fetchone())
        spilled = _moment(connection.execute(SPILLED_UNTIL, values).fetchone())
        moved_at = updated_at
        assert isinstance(moved_at, datetime)
        stored = min(newest or moved_at, moved_at)  # a clock that was ahead does not make it later
        return max(stored, spilled or stored)  # a file may begin with what another of its rings had left over

    def add(
        self,
        connection: Connection,
        ring: int,
        reason: str,
        *,
        updated_at: object,
        started: datetime,
        ended: datetime | None = None,
    ) -> None:
        """Add a row for each stream of *ring*, from *started* until *ended*, or now; a row that is there gets longer.

        updated_at: when rows made the ring's cursor move last.
        """
        values = {"ring": ring, "reason": reason, "updated_at": updated_at, "started": started, "ended": ended}
        connection.execute(EXTEND, values)
        connection.execute(ADD, {**values, **self._columns([ring])})

    def add_lost(self, connection: Connection, rings: object, first: object, last: object) -> None:
        """Add a row for each stream of *rings*, from *first* until *last*, for a spill file that is lost."""
        assert isinstance(rings, list)
        connection.execute(ADD_LOST, {"rings": rings, "first": first, "last": last, **self._columns(rings)})

    def _columns(self, rings: list[int]) -> dict[str, list[str | int]]:
        """Return the parameters of PLANNED."""
        planned = [(*stream, ring) for ring in set(rings) for stream in self._planned(ring)]
        names = ("venues", "markets", "symbols", "kinds", "sources")
        return {name: [row[place] for row in planned] for place, name in enumerate(names)}


def _moment(row: tuple[object, ...] | None) -> datetime | None:
    moment = row[0] if row else None
    assert moment is None or isinstance(moment, datetime)
    return moment
