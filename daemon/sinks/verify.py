"""`sise verify`: received = published = stored, for every symbol, kind and minute of receipt.

*Received* is what the workers counted where records enter the ring (`ingest_ledger`), *stored* are the rows of the
market tables, *published* the counts that Redis keeps beside its messages. What is not in the tables has a name:
refused by the database, waiting in spill files, still in the rings, or lost. See `counts` for what is compared, and
`count_queries` for what a ledger row covers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import redis

from daemon.config import Config
from daemon.sinks.count_queries import (
    LEDGER_BOUNDS,
    ROW_BOUNDS,
    Checkpoint,
    Connection,
    count_lost_batches,
    count_waiting_batches,
    read_checkpoints,
    read_counts,
    read_published,
    registered_batches,
)
from daemon.sinks.counts import UTC_EPOCH, Counts, Difference, Window, compare, minute_of, time_of
from daemon.sinks.in_flight import read_in_flight, unsettled_from

APPLICATION_NAME = "sise verify"
WINDOW_MINUTES = 24 * 60  # a day at a time bounds the memory, however much is compared
GROWING_MINUTES = 2  # the newest minutes may still get messages that no ledger row covers yet
SETTLE_ATTEMPTS = 5  # a publisher that runs is milliseconds behind the writer: look again before calling it a loss
SETTLE_S = 0.5
MAX_SHOWN = 50

QUARANTINED = "SELECT count(*) FROM quarantine WHERE recv_time >= %s AND kind IS NULL AND replayed_at IS NULL"
GAPS = """
SELECT market, symbol, exchange, kind, reason, count(*), sum(extract(epoch FROM ended - started)), sum(missing),
    min(started), max(ended)
FROM feed_gaps WHERE ended >= %(start)s GROUP BY 1, 2, 3, 4, 5
ORDER BY 1, 2, 3 NULLS FIRST, 4, 5"""


@dataclass(frozen=True, slots=True)
class GapSum:
    """The gaps of one stream for one reason: known holes, stored and reported, and no difference between counts."""

    market: str
    symbol: str
    exchange: str | None  # None: the main one of the market
    kind: str
    reason: str
    gaps: int
    seconds: float  # of all together
    missing: float | None  # shares, where the venue's cumulative volume tells
    first_started: datetime
    last_ended: datetime

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return asdict(self) | {
            "first_started": self.first_started.astimezone(UTC).isoformat(),
            "last_ended": self.last_ended.astimezone(UTC).isoformat(),
        }

    def as_text(self) -> str:
        """Return one line."""
        missing = "" if self.missing is None else f", {self.missing:,.16g} shares missing"
        exchange = "" if self.exchange is None else f" {self.exchange}"
        return (
            f"{self.market} {self.symbol}{exchange} {self.kind}: {self.reason}: {self.gaps:,} x,"
            f" {self.seconds:,.3f} s{missing}"
            f" ({self.first_started.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
            f" to {self.last_ended.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z)"
        )


@dataclass(slots=True)
class Report:
    """The result, summed over everything that was compared."""

    received: int = 0
    stored: int = 0
    published: int = 0
    published_expected: int = 0  # received, where Redis still has its counts
    open: int = 0  # stored, not covered by a ledger row yet
    lost: int = 0  # received, and nowhere
    duplicated: int = 0
    refused: int = 0  # received, and kept in quarantine because the database refuses them
    replayed: int = 0  # rows of frames that came out of quarantine; not in `received`, in `stored`
    waiting: int = 0  # received, behind data that wait in spill files: compared when these are stored
    waiting_missing: int = 0  # of those, not stored yet: never more than the spill files hold
    spilled_batches: int = 0
    spilled_records: int = 0  # the daemon's own among them
    lost_batches: int = 0  # spill files that were damaged or missing before their records were stored
    lost_records: int = 0
    ring_bytes: int = 0  # published in the rings, not stored
    quarantined: int = 0  # frames that nobody could parse up to now
    gap_sums: list[GapSum] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    redis_problem: str | None = None

    @property
    def gaps(self) -> int:
        """Rows of `feed_gaps`."""
        return sum(gap_sum.gaps for gap_sum in self.gap_sums)

    @property
    def is_complete(self) -> bool:
        """Whether everything was compared and every count is the same."""
        wrong = self.differences or self.duplicated or self.too_few_spilled or self.lost_batches
        return not wrong and self.redis_problem is None

    @property
    def too_few_spilled(self) -> int:
        """Records that are said to wait in spill files, beyond all that these hold."""
        return max(0, self.waiting_missing - self.spilled_records)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            "complete": self.is_complete,
            "received": self.received,
            "stored": self.stored,
            "published": self.published,
            "published_expected": self.published_expected,
            "open": self.open,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "refused": self.refused,
            "replayed": self.replayed,
            "waiting": self.waiting,
            "spilled_batches": self.spilled_batches,
            "spilled_records": self.spilled_records,
            "lost_batches": self.lost_batches,
            "lost_records": self.lost_records,
            "ring_bytes": self.ring_bytes,
            "quarantined": self.quarantined,
            "gaps": self.gaps,
            "feed_gaps": [gap_sum.as_dict() for gap_sum in self.gap_sums],
            "redis_problem": self.redis_problem,
            "differences": [difference.as_dict() for difference in self.differences],
        }

    def as_text(self) -> str:
        """Return a few lines for a terminal; at most 50 differences and 50 streams with gaps."""
        lines = [
            f"received    {self.received:>12,}",
            f"stored      {self.stored:>12,}   and {self.open:,} more that no ledger row covers yet",
            f"published   {self.published:>12,}   of {self.published_expected:,} that Redis still counts",
            f"lost        {self.lost:>12,}",
            f"duplicated  {self.duplicated:>12,}",
            f"refused     {self.refused:>12,}   by the database, kept in quarantine",
            f"quarantined {self.quarantined:>12,}   frames; {self.replayed:,} rows came out of others",
            f"in spill    {self.spilled_records:>12,}   records in {self.spilled_batches:,} batches, not stored yet",
            f"in rings    {self.ring_bytes:>12,}   bytes, not stored yet",
            f"feed gaps   {self.gaps:>12,}",
        ]
        if self.lost_batches:
            lines.append(
                f"{self.lost_records:,} records were in {self.lost_batches:,} spill files that are damaged or gone"
            )
        if self.waiting:
            lines.append(f"not compared: {self.waiting:,} received behind what waits in spill files")
        if self.too_few_spilled:
            lines.append(f"of these {self.too_few_spilled:,} are in no spill file")
        lines += [f"  {gap_sum.as_text()}" for gap_sum in self.gap_sums[:MAX_SHOWN]]
        if len(self.gap_sums) > MAX_SHOWN:
            lines.append(f"  ... and {len(self.gap_sums) - MAX_SHOWN:,} more; --json lists them all")
        if self.redis_problem is not None:
            lines.append(f"published could not be compared: {self.redis_problem}")
        lines += [difference.as_text() for difference in self.differences[:MAX_SHOWN]]
        if len(self.differences) > MAX_SHOWN:
            lines.append(f"... and {len(self.differences) - MAX_SHOWN:,} more differences")
        in_flight = ", what waits will be compared later" if self.waiting or self.spilled_records else ""
        lines.append(f"complete: nothing is missing{in_flight}" if self.is_complete else "NOT complete")
        return "\n".join(lines)


def verify(config: Config, since: datetime | None = None, *, sleep: Callable[[float], None] = time.sleep) -> Report:
    """Compare everything received at or after *since* (default: everything); see the module's docstring.

    Raises psycopg.Error if the database does not answer. A Redis that does not is reported, and makes the result
    incomplete.
    """
    report = Report()
    with (
        psycopg.connect(
            config.database.dsn,
            application_name=APPLICATION_NAME,
            connect_timeout=config.database.connect_timeout_s,
            prepare_threshold=None,  # a pool in front of the server may give each transaction to another session
        ) as connection,
        redis.Redis.from_url(config.redis.url, socket_timeout=config.redis.timeout_s) as client,
    ):
        sources = _Sources(connection, client, config, minute_of(datetime.now(UTC)))
        if sources.count_published_before():
            sleep(SETTLE_S)  # the writer stores within its flush interval what was published by now
        # One snapshot: a ledger row is never seen without the rows that it counts.
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        start = UTC_EPOCH if since is None else time_of(minute_of(since))
        sources.checkpoints = read_checkpoints(connection, start)
        _add_in_flight(report, sources)
        report.lost_batches, report.lost_records = count_lost_batches(connection, start)
        for first, behind in _windows(sources, start):
            _add_window(report, sources, first, behind, sleep)
        report.quarantined = _count(connection, QUARANTINED, [start])
        report.gap_sums = _read_gaps(connection, start)
    return report


@dataclass(slots=True)
class _Sources:
    """Where the counts come from."""

    connection: Connection
    client: redis.Redis
    config: Config
    now: int  # minute in which the comparison began
    published_before: Counts = field(default_factory=dict)
    checkpoints: Sequence[Checkpoint] = ()
    unsettled_from: int | None = None  # first minute of what is on its way to the database

    @property
    def growing_from(self) -> int:
        """First minute of which more may have been published than the database knows."""
        growing_from = self.now - GROWING_MINUTES + 1
        return growing_from if self.unsettled_from is None else min(growing_from, self.unsettled_from)

    @property
    def published_from(self) -> int:
        """First minute that Redis still counts, now."""
        return minute_of(datetime.now(UTC)) - self.config.redis.minute_counts_kept_h * 60 + 1

    @property
    def retained_from(self) -> int:
        """First minute whose rows are kept; see `schema.maintain`."""
        days = self.config.database.retention_days
        return (self.now // (24 * 60) - days) * 24 * 60 if days else 0

    def count_published_before(self) -> bool:
        """Read the counts of the growing minutes; whether there are any."""
        try:
            self.published_before = read_published(self.client, range(self.growing_from, self.now + 1))
        except redis.RedisError:
            return False  # found again, and reported, when the counts are compared
        return bool(self.published_before)


def _add_in_flight(report: Report, sources: _Sources) -> None:
    """Count what waits, and note from when on the database knows less than was published."""
    found = read_in_flight(Path(sources.config.data_dir))
    batches, records = count_waiting_batches(sources.connection)
    known = registered_batches(sources.connection, [header.batch for header in found.spilled])
    unknown = [header for header in found.spilled if header.batch not in known]
    report.spilled_batches = batches + len(unknown)
    report.spilled_records = records + sum(header.records for header in unknown)
    report.ring_bytes = sum(found.ring_bytes.values())
    sources.unsettled_from = unsettled_from(sources.checkpoints, found)


def _add_window(report: Report, sources: _Sources, first: int, behind: int, sleep: Callable[[float], None]) -> None:
    counts = read_counts(sources.connection, sources.checkpoints, first, behind)
    for attempt in range(SETTLE_ATTEMPTS):
        published, published_from = _published(report, sources, first, behind)
        window = Window(
            counts.received, counts.stored, counts.open, published, published_from, sources.growing_from,
            sources.published_before, counts.duplicated, counts.refused, counts.replayed,
        )  # fmt: skip
        differences = list(compare(window))
        if attempt == SETTLE_ATTEMPTS - 1 or not any(
            d.published is not None and d.published < d.received for d in differences
        ):
            break
        sleep(SETTLE_S)
    received = counts.received
    report.differences += differences
    report.received += sum(received.values())
    report.stored += counts.stored.total()
    report.open += counts.open.total()
    report.duplicated += counts.duplicated.total()
    report.refused += counts.refused.total()
    report.replayed += sum(counts.replayed.values())
    report.waiting += sum(counts.waiting.values())
    report.waiting_missing += sum(counts.waiting.values()) - counts.arrived
    report.lost += counts.lost()
    compared = {key for key in {*received, *(d.key for d in differences)} if key.minute >= published_from}
    report.published += sum(published.get(key, 0) for key in compared)
    report.published_expected += sum(received.get(key, 0) for key in compared)


def _published(report: Report, sources: _Sources, first: int, behind: int) -> tuple[Counts, int]:
    """Return what Redis counts now for the minutes that it keeps, and the first of these."""
    published_from = sources.published_from
    try:
        published = read_published(sources.client, range(max(first, published_from), behind))
    except redis.RedisError as exc:
        report.redis_problem = str(exc)
        return {}, sources.now + 1_000_000
    report.redis_problem = None
    return published, published_from


def _windows(sources: _Sources, start: datetime) -> Iterator[tuple[int, int]]:
    """Yield (first minute, minute behind the last) of each stretch that has a ledger row, rows without one, or counts.

    The minutes that Redis keeps are always among them: what was published may be all that is left of a record.
    """
    first, last = sources.connection.execute(LEDGER_BOUNDS, [start]).fetchone() or (None, None)
    # Only the newest rows can be without a ledger row: a scan of everything is needed only if there is no ledger.
    rows = sources.connection.execute(ROW_BOUNDS, {"start": last or start}).fetchone() or (None, None)
    minutes = [minute_of(moment) for moment in (first, last, *rows) if moment is not None]
    counted = range(max(minute_of(start), sources.published_from, sources.retained_from), sources.growing_from)
    minutes += [counted[0], counted[-1]] if counted else []
    if not minutes:
        return
    minute, behind = min(minutes), max(minutes) + 1
    while minute < behind:
        yield minute, min(minute + WINDOW_MINUTES, behind)
        minute += WINDOW_MINUTES


def _count(connection: Connection, query: str, parameters: Sequence[object]) -> int:
    row = connection.execute(query.encode(), parameters).fetchone()
    return 0 if row is None else int(row[0])


def _read_gaps(connection: Connection, start: datetime) -> list[GapSum]:
    return [
        GapSum(market, symbol, exchange, kind, reason, gaps, float(seconds), missing, started, ended)
        for market, symbol, exchange, kind, reason, gaps, seconds, missing, started, ended in connection.execute(
            GAPS, {"start": start}
        )
    ]
