"""Whether received, published and stored agree, minute for minute, while the daemon runs: what to look at, and what to
make of it. Pure; `reconcile_thread` asks the servers.

Each look compares the minutes that have settled since the last one, and a few of the hour before again: rows can be
removed later. A difference is believed when a second look finds it too. While something is on its way (in the rings, in
spill files) or a server is away, the minutes concerned wait, and it is said why.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from daemon.sinks.counts import Difference, Key, time_of
from daemon.watching.alarms import Condition

MINUTE_S = 60
CATCH_UP_MINUTES = 30  # in one look, after an outage: bounds its time
HOUR_MINUTES = 60  # looked at again, in turn
AGAIN_MINUTES = 2  # of these in one look: the hour is through in half an hour
CONFIRM_S = 5.0  # a batch that is being committed is through by then
MAX_NAMED = 8
MAX_KEPT = 1000  # differences that are remembered
MAX_CONDITIONS = 10  # minutes told one by one; what is beyond is a number


class Unavailable(Exception):
    """Nothing can be compared now; the text says why."""


class Measurement(msgspec.Struct, frozen=True):
    """What the servers say about some minutes."""

    differences: Sequence[Difference]
    unsettled_from: int | None = None  # first minute of which something is on its way; None: nothing is
    on_the_way: str = ""  # what
    unpublished: str = ""  # why the counts of Redis were not compared; empty: they were
    replayed: int = 0  # quarantined frames that were replayed since the last measurement


Measure = Callable[[Sequence[int]], Measurement]


class Counter(Protocol):
    """The part of a counters block that is needed here."""

    def increment(self, name: str, n: int = 1, /) -> None:
        """Add *n* to the counter called *name*."""


class ReconcileState(msgspec.Struct, frozen=True, kw_only=True):
    """For the status: `through` is the end of the last minute that was compared, None: none was yet."""

    through: str | None = None
    waiting: str = ""
    differences: int = 0
    named: tuple[str, ...] = ()


class Reconciler:
    """look() now and then; conditions() and state() may be called by another thread."""

    def __init__(
        self, measure: Measure, counters: Counter, *, settle_s: float, interval_s: float, clock: Callable[[], float]
    ) -> None:
        self._measure = measure
        self._counters = counters
        self._settle_s = settle_s
        self._interval_s = interval_s
        self._clock = clock  # wall clock, seconds
        self._first = self._settled_minute() - 1
        self._stored_next = self._first  # every earlier minute has been compared with the tables
        self._published_next = self._first  # and with Redis
        self._again_next = 0
        self._is_stuck = False  # the last look got no further
        self._is_unpublished = False
        self._suspects: frozenset[Key] = frozenset()
        self._confirmed: dict[Key, Difference] = {}
        self._conditions: tuple[Condition, ...] = ()
        self._state = ReconcileState()

    def look(self) -> float:
        """Compare what is due; return after how many seconds to look again. Never raises for a server."""
        settled = self._settled_minute()
        minutes = self._due(settled)
        try:
            found = self._measure(minutes)
        except Unavailable as exc:
            self._publish_state(f"{exc}")
            return self._interval_s
        if found.replayed:
            self._counters.increment("quarantine_replayed", found.replayed)
        if found.unsettled_from is not None:
            settled = min(settled, found.unsettled_from)
        self._judge([minute for minute in minutes if minute < settled], found.differences)
        self._advance(minutes, settled, is_published=not found.unpublished)
        self._publish_state("; ".join(filter(None, [found.on_the_way if self._is_stuck else "", found.unpublished])))
        return min(CONFIRM_S, self._interval_s) if self._suspects else self._interval_s

    def conditions(self) -> tuple[Condition, ...]:
        """Return what is wrong now, for the alarms."""
        return self._conditions

    def state(self) -> ReconcileState:
        """Return where we are."""
        return self._state

    def _settled_minute(self) -> int:
        """Return the first minute that has not settled yet."""
        return int((self._clock() - self._settle_s) // MINUTE_S)

    def _due(self, settled: int) -> list[int]:
        due = {key.minute for key in self._suspects}
        due |= set(
            range(self._stored_next, min(settled, self._stored_next + (1 if self._is_stuck else CATCH_UP_MINUTES)))
        )
        if not self._is_unpublished:
            due |= set(range(self._published_next, min(settled, self._published_next + CATCH_UP_MINUTES)))
        begin = settled - HOUR_MINUTES
        for _ in range(AGAIN_MINUTES):
            self._again_next = max(self._again_next, begin)
            if self._again_next >= self._stored_next:
                self._again_next = begin
            if self._again_next < self._stored_next:
                due.add(self._again_next)
                self._again_next += 1
        return sorted(due)

    def _judge(self, minutes: Sequence[int], differences: Sequence[Difference]) -> None:
        """Confirm what was found before, forget what is no more, and what is too old to be looked at again."""
        looked_at = set(minutes)
        found = {one.key: one for one in differences if one.key.minute in looked_at}
        oldest = min([*minutes, self._stored_next]) - HOUR_MINUTES
        kept = {
            key: found.get(key, one)
            for key, one in self._confirmed.items()
            if key.minute >= oldest and (key.minute not in looked_at or key in found)
        }
        new = [key for key in found if key in self._suspects and key not in kept]
        self._confirmed = kept | {key: found[key] for key in new[: max(0, MAX_KEPT - len(kept))]}
        self._suspects = frozenset([key for key in found if key not in kept and key not in new][:MAX_KEPT])
        if new:
            self._counters.increment("reconcile_differences", len(new))
        self._conditions = tuple(conditions_of(self._confirmed))

    def _advance(self, minutes: Sequence[int], settled: int, *, is_published: bool) -> None:
        done = min(self._stored_next, self._published_next)
        before = self._stored_next
        looked_at = set(minutes)
        while self._stored_next in looked_at and self._stored_next < settled:
            self._stored_next += 1
        while is_published and self._published_next in looked_at and self._published_next < settled:
            self._published_next += 1
        self._is_unpublished = not is_published
        self._is_stuck = before == self._stored_next and before < self._settled_minute()
        if advanced := min(self._stored_next, self._published_next) - done:
            self._counters.increment("minutes_reconciled", advanced)

    def _publish_state(self, waiting: str) -> None:
        done = min(self._stored_next, self._published_next)
        self._state = ReconcileState(
            through=time_of(done).isoformat() if done > self._first else None,
            waiting=waiting,
            differences=len(self._confirmed),
            named=tuple(one.as_text() for one in list(self._confirmed.values())[:MAX_NAMED]),
        )


def conditions_of(differences: Mapping[Key, Difference]) -> list[Condition]:
    """Return one condition for each minute with differences, the newest first; the oldest of many in one."""
    by_minute: dict[int, list[Key]] = {}
    for key in sorted(differences, key=lambda key: (-key.minute, *key)):
        by_minute.setdefault(key.minute, []).append(key)
    minutes = list(by_minute)
    found = [
        Condition(
            level="CRITICAL",
            code="counts_differ",
            message=f"received, stored and published are not the same for {_named(by_minute[minute])}",
            subject=f"{time_of(minute):%Y-%m-%dT%H:%MZ}",
            has_end=False,
        )
        for minute in minutes[:MAX_CONDITIONS]
    ]
    if len(minutes) > MAX_CONDITIONS:
        message = f"received, stored and published are not the same in {len(minutes) - MAX_CONDITIONS} more minutes"
        found.append(
            Condition(level="CRITICAL", code="counts_differ", message=message, subject="earlier", has_end=False)
        )
    return found


def _named(keys: Sequence[Key]) -> str:
    names = [f"{key.market} {key.symbol} {key.kind}" for key in keys[:MAX_NAMED]]
    more = len(keys) - len(names)
    return ", ".join(names) + (f" and {more} more; `sise verify` lists them" if more else "")
