"""`sise verify`: received = published = stored, for every symbol, kind and minute of receipt.

*Received* is what the workers counted where records enter the ring (`ingest_ledger`), *stored* are the rows of the
market tables, *published* the counts that Redis keeps beside its messages. A ledger row covers its source up to a
seq; rows behind the newest one are *open*: in flight, and not compared yet. The comparison is exact: no tolerance.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
import redis

from daemon.config import Config

APPLICATION_NAME = "sise verify"
TABLE_KINDS: Mapping[str, str] = {"market_ticks": "trade", "market_orderbook": "orderbook"}
PUBLISHED_KEY = (
    "published:minute:{minute}"  # hash: market|symbol|kind -> messages; see native_pipeline/redis_encoder.pyx
)
WINDOW_MINUTES = 24 * 60  # a day at a time bounds the memory, however much is compared
GROWING_MINUTES = 2  # the newest minutes may still get messages that no ledger row covers yet
SETTLE_ATTEMPTS = 5  # a publisher that runs is milliseconds behind the writer: look again before calling it a loss
SETTLE_S = 0.5
MAX_SHOWN = 50
UTC_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

CHECKPOINTS = "SELECT source, max(through_seq) FROM ingest_ledger WHERE minute >= %s GROUP BY source"
RECEIVED = """
SELECT minute, market, symbol, kind, sum(received) FROM ingest_ledger
WHERE minute >= %s AND minute < %s GROUP BY 1, 2, 3, 4"""
STORED = """
SELECT date_bin('1 minute', recv_time, TIMESTAMPTZ 'epoch') AS minute, market, symbol,
    count(*) FILTER (WHERE seq <= checkpoint), count(*) FILTER (WHERE seq > coalesce(checkpoint, 0))
FROM {table} LEFT JOIN unnest(%s::int2[], %s::int8[]) AS known (source, checkpoint) USING (source)
WHERE recv_time >= %s AND recv_time < %s GROUP BY 1, 2, 3"""
DUPLICATED = """
SELECT coalesce(sum(rows - different), 0) FROM (
    SELECT count(*) AS rows, count(DISTINCT seq) AS different FROM {table}
    WHERE recv_time >= %s AND recv_time < %s GROUP BY source
) AS by_source"""
LEDGER_BOUNDS = "SELECT min(minute), max(minute) FROM ingest_ledger WHERE minute >= %s"
ROW_BOUNDS = """
SELECT min(first), max(last) FROM (
    SELECT min(recv_time) AS first, max(recv_time) AS last FROM market_ticks WHERE recv_time >= %s
    UNION ALL SELECT min(recv_time), max(recv_time) FROM market_orderbook WHERE recv_time >= %s
) AS bounds"""


class Key(NamedTuple):
    """What is counted together."""

    minute: int  # since 1970, of receipt
    market: str
    symbol: str
    kind: str


Counts = Mapping[Key, int]


@dataclass(frozen=True, slots=True)
class Difference:
    """One key whose counts are not the same."""

    key: Key
    received: int
    stored: int
    published: int | None  # None: not compared

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
        }


@dataclass(slots=True)
class Report:
    """The result, summed over everything that was compared."""

    received: int = 0
    stored: int = 0
    published: int = 0
    published_expected: int = 0  # received, where Redis still has its counts
    open: int = 0  # stored, not covered by a ledger row yet
    lost: int = 0
    duplicated: int = 0
    quarantined: int = 0
    gaps: int = 0
    differences: list[Difference] = field(default_factory=list)
    redis_problem: str | None = None

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
            "redis_problem": self.redis_problem,
            "differences": [difference.as_dict() for difference in self.differences],
        }

    def as_text(self) -> str:
        """Return a few lines for a terminal; at most 50 differences."""
        lines = [
            f"received    {self.received:>12,}",
            f"stored      {self.stored:>12,}   and {self.open:,} more that no ledger row covers yet",
            f"published   {self.published:>12,}   of {self.published_expected:,} that Redis still counts",
            f"lost        {self.lost:>12,}",
            f"duplicated  {self.duplicated:>12,}",
            f"quarantined {self.quarantined:>12,}",
            f"feed gaps   {self.gaps:>12,}",
        ]
        if self.redis_problem is not None:
            lines.append(f"published could not be compared: {self.redis_problem}")
        for difference in self.differences[:MAX_SHOWN]:
            minute, market, symbol, kind = difference.key
            published = "-" if difference.published is None else difference.published
            lines.append(
                f"{_time_of(minute):%Y-%m-%d %H:%M}Z {market} {symbol} {kind}: "
                f"received {difference.received} stored {difference.stored} published {published}"
            )
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


def compare(window: Window) -> Iterator[Difference]:
    """Yield each key of *window* whose counts differ."""
    for key in sorted(window.received.keys() | window.stored.keys()):
        received = window.received.get(key, 0)
        stored = window.stored.get(key, 0)
        published = window.published.get(key, 0) if key.minute >= window.published_from else None
        if stored != received or not _is_published(key, received, published, window):
            yield Difference(key, received, stored, published)


def _is_published(key: Key, received: int, published: int | None, window: Window) -> bool:
    if published is None:
        return True
    expected = received + window.open.get(key, 0)
    if key.minute >= window.growing_from or key in window.open:  # what is open may not be stored yet, or be published
        return published >= received
    return published == expected


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
        # One snapshot: a ledger row is never seen without the rows that it counts.
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        start = UTC_EPOCH if since is None else _time_of(_minute_of(since))
        checkpoints = connection.execute(CHECKPOINTS, [start]).fetchall()
        for first, behind in _windows(connection, start):
            _add_window(report, _Sources(connection, client, config, checkpoints), first, behind, sleep)
        report.quarantined = _count(connection, "SELECT count(*) FROM quarantine WHERE recv_time >= %s", [start])
        report.gaps = _count(connection, "SELECT count(*) FROM feed_gaps WHERE ended >= %s", [start])
    return report


@dataclass(slots=True)
class _Sources:
    """Where the counts come from."""

    connection: psycopg.Connection[tuple[Any, ...]]
    client: redis.Redis
    config: Config
    checkpoints: Sequence[tuple[Any, ...]]


def _add_window(report: Report, sources: _Sources, first: int, behind: int, sleep: Callable[[float], None]) -> None:
    bounds = [_time_of(first), _time_of(behind)]
    received = {
        Key(_minute_of(minute), market, symbol, kind): int(count)
        for minute, market, symbol, kind, count in sources.connection.execute(RECEIVED, bounds)
    }
    stored: Counter[Key] = Counter()
    still_open: Counter[Key] = Counter()
    for table, kind in TABLE_KINDS.items():
        known = [[row[column] for row in sources.checkpoints] for column in (0, 1)]
        query = STORED.format(table=table).encode()
        for minute, market, symbol, closed, beyond in sources.connection.execute(query, [*known, *bounds]):
            key = Key(_minute_of(minute), market, symbol, kind)
            stored[key] += closed
            still_open[key] += beyond
        report.duplicated += _count(sources.connection, DUPLICATED.format(table=table), bounds)
    stored, still_open = +stored, +still_open  # without zeros

    for attempt in range(SETTLE_ATTEMPTS):
        window = _with_published(report, sources, received, stored, still_open)
        differences = list(compare(window))
        if attempt == SETTLE_ATTEMPTS - 1 or not any(d.stored == d.received for d in differences):
            break
        sleep(SETTLE_S)
    report.differences += differences
    report.received += sum(received.values())
    report.stored += stored.total()
    report.open += still_open.total()
    report.lost += sum(max(0, received[key] - stored[key]) for key in received)
    compared = [key for key in received if key.minute >= window.published_from]
    report.published += sum(window.published.get(key, 0) for key in compared)
    report.published_expected += sum(received[key] for key in compared)


def _with_published(report: Report, sources: _Sources, received: Counts, stored: Counts, still_open: Counts) -> Window:
    """Add what Redis counts now, for the minutes that it keeps."""
    now = _minute_of(datetime.now(UTC))
    published_from = now - sources.config.redis.minute_counts_kept_h * 60 + 1
    minutes = sorted({key.minute for key in received.keys() | stored.keys() if key.minute >= published_from})
    try:
        published = read_published(sources.client, minutes)
    except redis.RedisError as exc:
        report.redis_problem = str(exc)
        published, published_from = {}, now + 1_000_000
    else:
        report.redis_problem = None
    return Window(received, stored, still_open, published, published_from, now - GROWING_MINUTES + 1)


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


def _windows(connection: psycopg.Connection[tuple[Any, ...]], start: datetime) -> Iterator[tuple[int, int]]:
    """Yield (first minute, minute behind the last) of each stretch that has a ledger row, or rows without one."""
    first, last = connection.execute(LEDGER_BOUNDS, [start]).fetchone() or (None, None)
    # Only the newest rows can be without a ledger row: a scan of everything is needed only if there is no ledger.
    rows = connection.execute(ROW_BOUNDS, [last or start] * 2).fetchone() or (None, None)
    known = [moment for moment in (first, last, *rows) if moment is not None]
    if not known:
        return
    minute, behind = _minute_of(min(known)), _minute_of(max(known)) + 1
    while minute < behind:
        yield minute, min(minute + WINDOW_MINUTES, behind)
        minute += WINDOW_MINUTES


def _count(connection: psycopg.Connection[tuple[Any, ...]], query: str, parameters: Sequence[object]) -> int:
    row = connection.execute(query.encode(), parameters).fetchone()
    return 0 if row is None else int(row[0])


def _minute_of(moment: datetime) -> int:
    return (moment - UTC_EPOCH) // timedelta(minutes=1)


def _time_of(minute: int) -> datetime:
    return UTC_EPOCH + timedelta(minutes=minute)
