"""`sise verify`: received = published = stored, for every symbol, kind and minute of receipt.

*Received* is what the workers counted where records enter the ring (`ingest_ledger`), *stored* are the rows of the
market tables, *published* the counts that Redis keeps beside its messages. A ledger row covers its source up to a
seq; rows behind the newest one of their epoch are *open*: in flight, or the last of a ring that was lost with their
ledger rows, and not compared with it. The comparison is exact: no tolerance.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
import redis

from daemon.config import Config
from daemon.sinks.schema import over_market_tables
from native_pipeline.records import MARKET_DATA

APPLICATION_NAME = "sise verify"
PUBLISHED_KEY = (
    "published:minute:{minute}"  # hash: market|symbol|kind -> messages; see native_pipeline/redis_encoder.pyx
)
WINDOW_MINUTES = 24 * 60  # a day at a time bounds the memory, however much is compared
GROWING_MINUTES = 2  # the newest minutes may still get messages that no ledger row covers yet
SETTLE_ATTEMPTS = 5  # a publisher that runs is milliseconds behind the writer: look again before calling it a loss
SETTLE_S = 0.5
MAX_SHOWN = 50
UTC_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# An epoch owns the seqs from its number up to the next epoch of that ring: a ring that was lost took its newest ledger
# rows with it, and those of its successor do not cover its rows. What no cursor knows belongs to an epoch 0.
CHECKPOINTS = """
WITH epochs AS (
    SELECT source, epoch, coalesce(lead(epoch) OVER (PARTITION BY source ORDER BY epoch), 9223372036854775807) AS behind
    FROM (SELECT ring AS source, epoch FROM ingest_cursor
          UNION SELECT DISTINCT source, 0 FROM ingest_ledger WHERE minute >= %(start)s) AS known
)
SELECT source, epoch, behind, max(through_seq) FROM ingest_ledger JOIN epochs USING (source)
WHERE minute >= %(start)s AND seq >= epoch AND seq < behind GROUP BY 1, 2, 3"""
KNOWN = """unnest(%(source)s::int2[], %(epoch)s::int8[], %(behind)s::int8[], %(checkpoint)s::int8[])
    AS known (source, epoch, behind, checkpoint)"""
RECEIVED = """
SELECT minute, market, symbol, kind, sum(received) FROM ingest_ledger
WHERE minute >= %(first)s AND minute < %(behind_last)s GROUP BY 1, 2, 3, 4"""
STORED = """
SELECT date_bin('1 minute', recv_time, TIMESTAMPTZ 'epoch') AS minute, market, symbol,
    count(*) FILTER (WHERE seq <= checkpoint), count(*) FILTER (WHERE (seq <= checkpoint) IS NOT TRUE)
FROM {table} AS row LEFT JOIN {known} ON row.source = known.source AND seq >= epoch AND seq < behind
WHERE recv_time >= %(first)s AND recv_time < %(behind_last)s GROUP BY 1, 2, 3"""
DUPLICATED = """
SELECT date_bin('1 minute', received, TIMESTAMPTZ 'epoch') AS minute, market, symbol,
    sum(copies), coalesce(sum(copies) FILTER (WHERE seq <= checkpoint), 0)
FROM (
    SELECT source, seq, count(*) - 1 AS copies, min(recv_time) AS received, min(market) AS market, min(symbol) AS symbol
    FROM {table} WHERE recv_time >= %(first)s AND recv_time < %(behind_last)s GROUP BY 1, 2 HAVING count(*) > 1
) AS row LEFT JOIN {known} ON row.source = known.source AND seq >= epoch AND seq < behind
GROUP BY 1, 2, 3"""
LEDGER_BOUNDS = "SELECT min(minute), max(minute) FROM ingest_ledger WHERE minute >= %s"
ROW_BOUNDS = over_market_tables(
    "SELECT min(first), max(last) FROM ({union}) AS bounds (first, last)",
    "SELECT min(recv_time), max(recv_time) FROM {table} WHERE recv_time >= %(start)s",
)
GAPS = """
SELECT market, symbol, kind, reason, count(*), sum(extract(epoch FROM ended - started)), sum(missing),
    min(started), max(ended)
FROM feed_gaps WHERE ended >= %(start)s GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""


class Key(NamedTuple):
    """What is counted together."""

    minute: int  # since 1970, of receipt
    market: str
    symbol: str
    kind: str


Counts = Mapping[Key, int]


@dataclass(frozen=True, slots=True)
class Difference:
    """One key whose counts are not the same, or that has a row more than once."""

    key: Key
    received: int
    stored: int
    published: int | None  # None: not compared
    duplicated: int = 0  # rows whose seq another row has as well, open ones included

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            "minute": _time_of(self.key.minute).isoformat(),
            "market": self.key.market,
            "symbol": self.key.symbol,
            "kind": self.key.kind,
            "received": self.received,
            "stored": self.stored,
            "published": self.published,
            "duplicated": self.duplicated,
        }


@dataclass(frozen=True, slots=True)
class GapSum:
    """The gaps of one stream for one reason: known holes, stored and reported, and no difference between counts."""

    market: str
    symbol: str
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
        return (
            f"{self.market} {self.symbol} {self.kind}: {self.reason}: {self.gaps:,} x, {self.seconds:,.3f} s{missing}"
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
    lost: int = 0  # received, and not stored even once
    duplicated: int = 0
    quarantined: int = 0
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
        return not self.differences and not self.duplicated and self.redis_problem is None

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
            f"quarantined {self.quarantined:>12,}",
            f"feed gaps   {self.gaps:>12,}",
        ]
        lines += [f"  {gap_sum.as_text()}" for gap_sum in self.gap_sums[:MAX_SHOWN]]
        if len(self.gap_sums) > MAX_SHOWN:
            lines.append(f"  ... and {len(self.gap_sums) - MAX_SHOWN:,} more; --json lists them all")
        if self.redis_problem is not None:
            lines.append(f"published could not be compared: {self.redis_problem}")
        for difference in self.differences[:MAX_SHOWN]:
            minute, market, symbol, kind = difference.key
            published = "-" if difference.published is None else difference.published
            line = (
                f"{_time_of(minute):%Y-%m-%d %H:%M}Z {market} {symbol} {kind}: "
                f"received {difference.received} stored {difference.stored} published {published}"
            )
            lines.append(f"{line} duplicated {difference.duplicated}" if difference.duplicated else line)
        if len(self.differences) > MAX_SHOWN:
            lines.append(f"... and {len(self.differences) - MAX_SHOWN:,} more differences")
        lines.append("complete: nothing is missing" if self.is_complete else "NOT complete")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Window:
    """The counts of a stretch of time."""

    received: Counts
    stored: Counts
    open: Counts
    published: Counts
    published_from: int  # first minute that Redis still counts; later than every minute: compare none
    growing_from: int  # first minute that may still get messages
    published_before: Counts = field(default_factory=dict)  # of growing minutes, counted before the rows were
    duplicated: Counts = field(default_factory=dict)


def compare(window: Window) -> Iterator[Difference]:
    """Yield each key of *window* whose counts differ or that has duplicates."""
    keys = window.received.keys() | window.stored.keys() | window.duplicated.keys()
    keys |= {key for key in window.published if key.minute < window.growing_from}
    for key in sorted(keys):
        received = window.received.get(key, 0)
        stored = window.stored.get(key, 0)
        duplicated = window.duplicated.get(key, 0)
        published = window.published.get(key, 0) if key.minute >= window.published_from else None
        if stored != received or duplicated or not _is_published(key, received, published, window):
            yield Difference(key, received, stored, published, duplicated)


def _is_published(key: Key, received: int, published: int | None, window: Window) -> bool:
    """What is open was published or will be; in a growing minute also what is not stored yet."""
    if published is None:
        return True
    still_open = window.open.get(key, 0)
    if key.minute < window.growing_from:
        return received <= published <= received + still_open
    return published >= received and (still_open > 0 or window.published_before.get(key, 0) <= received)


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
        ) as connection,
        redis.Redis.from_url(config.redis.url, socket_timeout=config.redis.timeout_s) as client,
    ):
        sources = _Sources(connection, client, config, _minute_of(datetime.now(UTC)))
        if sources.count_published_before():
            sleep(SETTLE_S)  # the writer stores within its flush interval what was published by now
        # One snapshot: a ledger row is never seen without the rows that it counts.
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        start = UTC_EPOCH if since is None else _time_of(_minute_of(since))
        sources.read_checkpoints(start)
        for first, behind in _windows(sources, start):
            _add_window(report, sources, first, behind, sleep)
        report.quarantined = _count(connection, "SELECT count(*) FROM quarantine WHERE recv_time >= %s", [start])
        report.gap_sums = _read_gaps(connection, start)
    return report


@dataclass(slots=True)
class _Sources:
    """Where the counts come from."""

    connection: psycopg.Connection[tuple[Any, ...]]
    client: redis.Redis
    config: Config
    now: int  # minute in which the comparison began
    published_before: Counts = field(default_factory=dict)
    checkpoints: Mapping[str, Sequence[int]] = field(default_factory=dict)  # columns of KNOWN

    @property
    def growing_from(self) -> int:
        """First minute that may still have got messages when the comparison began."""
        return self.now - GROWING_MINUTES + 1

    @property
    def published_from(self) -> int:
        """First minute that Redis still counts, now."""
        return _minute_of(datetime.now(UTC)) - self.config.redis.minute_counts_kept_h * 60 + 1

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

    def read_checkpoints(self, start: datetime) -> None:
        """Read how far the ledger covers each epoch."""
        rows = self.connection.execute(CHECKPOINTS, {"start": start}).fetchall()
        names = ("source", "epoch", "behind", "checkpoint")
        self.checkpoints = {name: [row[column] for row in rows] for column, name in enumerate(names)}


def _add_window(report: Report, sources: _Sources, first: int, behind: int, sleep: Callable[[float], None]) -> None:
    values = {"first": _time_of(first), "behind_last": _time_of(behind), **sources.checkpoints}
    received = {
        Key(_minute_of(minute), market, symbol, kind): int(count)
        for minute, market, symbol, kind, count in sources.connection.execute(RECEIVED, values)
    }
    stored: Counter[Key] = Counter()
    still_open: Counter[Key] = Counter()
    duplicated: Counter[Key] = Counter()
    once: Counter[Key] = Counter()
    for _, kind, table, _ in MARKET_DATA:
        query = STORED.format(table=table, known=KNOWN).encode()
        for minute, market, symbol, closed, beyond in sources.connection.execute(query, values):
            key = Key(_minute_of(minute), market, symbol, kind)
            stored[key] += closed
            once[key] += closed
            still_open[key] += beyond
        query = DUPLICATED.format(table=table, known=KNOWN).encode()
        for minute, market, symbol, copies, closed in sources.connection.execute(query, values):
            key = Key(_minute_of(minute), market, symbol, kind)
            duplicated[key] += int(copies)
            once[key] -= int(closed)
    stored, still_open = +stored, +still_open  # without zeros

    for attempt in range(SETTLE_ATTEMPTS):
        published, published_from = _published(report, sources, first, behind)
        window = Window(
            received, stored, still_open, published, published_from, sources.growing_from,
            sources.published_before, duplicated,
        )  # fmt: skip
        differences = list(compare(window))
        if attempt == SETTLE_ATTEMPTS - 1 or not any(
            d.published is not None and d.published < d.received for d in differences
        ):
            break
        sleep(SETTLE_S)
    report.differences += differences
    report.received += sum(received.values())
    report.stored += stored.total()
    report.open += still_open.total()
    report.duplicated += duplicated.total()
    report.lost += sum(max(0, received[key] - once[key]) for key in received)
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


def read_published(client: redis.Redis, minutes: Sequence[int]) -> dict[Key, int]:
    """Return the counts that Redis keeps for *minutes*."""
    pipeline = client.pipeline(transaction=False)
    for minute in minutes:
        pipeline.hgetall(PUBLISHED_KEY.format(minute=minute))
    found = {}
    for minute, counts in zip(minutes, pipeline.execute(), strict=True):
        for name, count in counts.items():
            market, symbol, kind = name.decode().split("|")
            found[Key(minute, market, symbol, kind)] = int(count)
    return found


def _windows(sources: _Sources, start: datetime) -> Iterator[tuple[int, int]]:
    """Yield (first minute, minute behind the last) of each stretch that has a ledger row, rows without one, or counts.

    The minutes that Redis keeps are always among them: what was published may be all that is left of a record.
    """
    first, last = sources.connection.execute(LEDGER_BOUNDS, [start]).fetchone() or (None, None)
    # Only the newest rows can be without a ledger row: a scan of everything is needed only if there is no ledger.
    rows = sources.connection.execute(ROW_BOUNDS, {"start": last or start}).fetchone() or (None, None)
    minutes = [_minute_of(moment) for moment in (first, last, *rows) if moment is not None]
    counted = range(max(_minute_of(start), sources.published_from, sources.retained_from), sources.growing_from)
    minutes += [counted[0], counted[-1]] if counted else []
    if not minutes:
        return
    minute, behind = min(minutes), max(minutes) + 1
    while minute < behind:
        yield minute, min(minute + WINDOW_MINUTES, behind)
        minute += WINDOW_MINUTES


def _count(connection: psycopg.Connection[tuple[Any, ...]], query: str, parameters: Sequence[object]) -> int:
    row = connection.execute(query.encode(), parameters).fetchone()
    return 0 if row is None else int(row[0])


def _read_gaps(connection: psycopg.Connection[tuple[Any, ...]], start: datetime) -> list[GapSum]:
    return [
        GapSum(market, symbol, kind, reason, gaps, float(seconds), missing, started, ended)
        for market, symbol, kind, reason, gaps, seconds, missing, started, ended in connection.execute(
            GAPS, {"start": start}
        )
    ]


def _minute_of(moment: datetime) -> int:
    return (moment - UTC_EPOCH) // timedelta(minutes=1)


def _time_of(minute: int) -> datetime:
    return UTC_EPOCH + timedelta(minutes=minute)
