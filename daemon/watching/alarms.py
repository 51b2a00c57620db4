"""What the monitor itself raises alarm about, from readings alone: pure.

A condition that holds for as long as its rule asks is told once, again every *repeat_s* while it lasts, and its end is
told as `<code>_ended`. A count that grows is told for as long as it does.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from daemon.alerts import Alerts, Level
from daemon.watching import health
from daemon.watching.readings import NS_PER_S, Reading

NO_DATA_S = 300.0  # in trading hours
AWAY_S = 10.0  # a server that restarts is back sooner
LAG_S = 30.0  # beyond what makes the daemon unready: a batch tried again does not wake anybody
GROWTH_WINDOW_S = 60.0


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong at this moment. `hold_s`: how long it must last; `has_end`: its end is news."""

    level: Level
    code: str
    message: str
    subject: str = ""
    hold_s: float = 0.0
    has_end: bool = True


class Growth(msgspec.Struct, frozen=True):
    """A counter that should stand still, or nearly: told when it grew by *at_least* within a minute."""

    counter: str
    level: Level
    code: str
    at_least: int
    message: str  # with {n}


GROWTHS = (
    Growth("volume_gaps", "WARNING", "volume_gaps", 1, "{n} holes in the venue's stream in the last minute"),
    Growth("records_quarantined", "WARNING", "quarantine", 1, "{n} records could not be parsed in the last minute"),
    Growth("duplicates_dropped", "WARNING", "duplicates", 100, "{n} trades arrived twice in the last minute"),
    Growth("records_late", "INFO", "records_late", 100, "{n} trades arrived out of order in the last minute"),
    Growth("ring_full_waits", "WARNING", "ring_full", 1, "the ring was full {n} times in the last minute"),
    Growth("publish_lapped", "WARNING", "messages_not_published", 1, "{n} messages were never published on Redis"),
    Growth("records_dropped_on_redis", "WARNING", "messages_dropped", 1, "{n} messages given up: Redis away or slow"),
    Growth("corrupt_records", "CRITICAL", "records_damaged", 1, "{n} records had a wrong checksum"),
    Growth("writer_lapped", "CRITICAL", "records_missing", 1, "{n} records were no longer in the ring"),
    Growth("attempts_withheld", "INFO", "attempts_withheld", 10, "{n} attempts were put off by the governor"),
    Growth("alerts_lost", "WARNING", "alerts_lost", 1, "{n} alerts are only in the log"),
)
NORMAL_WITH_REDUNDANCY = frozenset({"duplicates_dropped", "records_late"})  # the slower of two sessions is always late


def conditions(
    history: Sequence[Reading], silences_s: Mapping[str, float], *, silence_limit_s: float, is_redundant: bool
) -> Iterator[Condition]:
    """Yield what is wrong now. *history*: in order of time, the last is the present; *silences_s*: of each market."""
    now = history[-1]
    yield from _no_data(silences_s)
    yield from _processes(now, silence_limit_s)
    yield from _servers(now)
    for reason in health.lag_reasons(history):
        subject = reason.partition(":")[0]
        yield Condition(level="WARNING", code="writer_lag", message=reason, subject=subject, hold_s=LAG_S)
    yield from _growths(history, is_redundant=is_redundant)


def _no_data(silences_s: Mapping[str, float]) -> Iterator[Condition]:
    for market, silence_s in silences_s.items():
        if silence_s >= NO_DATA_S:
            minutes = NO_DATA_S / 60
            message = f"no data of market {market} for more than {minutes:g} minutes of its trading hours"
            yield Condition(level="CRITICAL", code="no_data", message=message, subject=market)


def _processes(now: Reading, silence_limit_s: float) -> Iterator[Condition]:
    for process in now.processes:
        if process.silent_for_s > silence_limit_s and process.state != health.STOPPED:
            message = f"{process.name} has given no heartbeat for more than {silence_limit_s:g} s"
            yield Condition(level="CRITICAL", code="process_silent", message=message, subject=process.name)


def _servers(now: Reading) -> Iterator[Condition]:
    for process in now.processes:
        if process.state != health.RUNNING:
            continue
        if process.role == "writer" and process.values["database_connected"] != 1:
            message = "the database is away: records wait in rings and spill files"
            yield Condition(level="CRITICAL", code="database_away", message=message, hold_s=AWAY_S)
        if process.role == "publisher" and process.values["redis_connected"] != 1:
            message = "Redis is away: nothing is published, storing goes on"
            yield Condition(level="WARNING", code="redis_away", message=message, hold_s=AWAY_S)


def _growths(history: Sequence[Reading], *, is_redundant: bool) -> Iterator[Condition]:
    now = history[-1]
    since_ns = now.mono_ns - GROWTH_WINDOW_S * NS_PER_S
    then = next(reading for reading in history if reading.mono_ns >= since_ns or reading is now)
    before = {process.name: process.values for process in then.processes}
    for process in now.processes:
        for rule in GROWTHS:
            if is_redundant and rule.counter in NORMAL_WITH_REDUNDANCY:
                continue
            value = process.values[rule.counter]
            grown = value - before.get(process.name, process.values)[rule.counter]
            if grown >= rule.at_least:
                yield Condition(
                    level=rule.level,
                    code=rule.code,
                    message=rule.message.format(n=grown),
                    subject=process.name,
                    has_end=False,
                )


class _Standing(msgspec.Struct):
    """A condition that was seen at the last update."""

    condition: Condition
    since_s: float
    told_s: float | None = None


class Alarms:
    """Turns conditions into alerts."""

    def __init__(self, alerts: Alerts, *, repeat_s: float) -> None:
        self._alerts = alerts
        self._repeat_s = repeat_s
        self._standing: dict[tuple[str, str], _Standing] = {}

    def update(self, now_s: float, found: Iterable[Condition]) -> None:
        """Compare what is wrong now with what was; *now_s*: monotonic."""
        present = {(condition.code, condition.subject): condition for condition in found}
        for key in [key for key in self._standing if key not in present]:
            standing = self._standing.pop(key)
            if standing.told_s is not None and standing.condition.has_end:
                self._tell_end(standing, now_s)
        for key, condition in present.items():
            standing = self._standing.setdefault(key, _Standing(condition, now_s))
            is_due = standing.told_s is None or now_s - standing.told_s >= self._repeat_s
            if is_due and now_s - standing.since_s >= condition.hold_s:
                standing.told_s = now_s
                self._alerts.send(condition.level, condition.code, condition.message, subject=condition.subject)

    def _tell_end(self, standing: _Standing, now_s: float) -> None:
        condition = standing.condition
        message = f"over after {now_s - standing.since_s:.0f} s: {condition.message}"
        self._alerts.send("INFO", f"{condition.code}_ended", message, subject=condition.subject)
