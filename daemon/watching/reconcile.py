"""Whether received, published and stored agree, minute for minute, while the daemon runs: what to look at, and what to
make of it. Pure; `reconcile_thread` asks the servers.

Each look compares the minutes that have settled since the last one. Those that were found equal are read again by a
cheap digest (`reconcile_sweep`), because rows can be removed or doubled later, and compared again if it has changed; of
those without a digest a few of the last hour are compared again in each look. A difference is believed when a second
look finds it too. While something is on its way (in the rings, in spill files) or a server is away, the minutes
concerned wait, and it is said why.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from daemon.sinks.counts import Difference, Key, time_of
from daemon.sinks.counts_digests import Digest
from daemon.watching.alarms import Condition
from daemon.watching.reconcile_sweep import DAY_MINUTES, HOUR_MINUTES, Source, Sweep

MINUTE_S = 60
CATCH_UP_MINUTES = 30  # in one look, after an outage: bounds its time
AGAIN_MINUTES = 2  # without a digest, in one look: the hour is through in half an hour
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
    digests: Mapping[int, Digest] = {}  # of the minutes of which everything could be compared, as they were then


OpenSource = Callable[[], AbstractContextManager[Source]]
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
        self,
        measure: Measure,
        counters: Counter,
        *,
        settle_s: float,
        interval_s: float,
        clock: Callable[[], float],
        open_source: OpenSource,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._measure = measure
        self._open_source = open_source
        self._sweep = Sweep(interval_s, timer)
        self._counters = counters
        self._settle_s = settle_s
        self._interval_s = interval_s
        self._clock = clock  # wall clock, seconds
        self._first = self._settled_minute() - 1
        self._stored_next = self._first  # every earlier minute has been compared with the tables
        self._published_next = self._first  # and with Redis
        self._again_next = 0
        self._different_turn = 0
        self._is_stuck = False  # the last look got no further
        self._is_unpublished = False
        self._suspects: frozenset[Key] = frozenset()
        self._confirmed: dict[Key, Difference] = {}
        self._told_at: dict[Key, int] = {}  # minute in which it was confirmed
        self._conditions: tuple[Condition, ...] = ()
        self._state = ReconcileState()

    def look(self) -> float:
        """Compare what is due; return after how many seconds to look again. Never raises for a server."""
        settled = self._settled_minute()
        changed, unread = self._read_again()
        minutes = sorted({*self._due(settled), *changed})
        try:
            found = self._measure(minutes)
        except Unavailable as exc:
            self._publish_state(f"{exc}")
            return self._interval_s
        if found.replayed:
            self._counters.increment("quarantine_replayed", found.replayed)
        if found.unsettled_from is not None:
            settled = min(settled, found.unsettled_from)
        compared = [minute for minute in minutes if minute < settled]
        different = self._judge(compared, found.differences)
        for minute in compared:
            self._sweep.note(minute, None if minute in different else found.digests.get(minute))
        self._advance(minutes, settled, is_published=not found.unpublished)
        waiting = [found.on_the_way if self._is_stuck else "", found.unpublished, unread]
        self._publish_state("; ".join(filter(None, waiting)))
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

    def _read_again(self) -> tuple[list[int], str]:
        """Return the newest minutes that have changed since they were found equal, and why that could not be read."""
        try:
            with self._open_source() as source:
                return self._sweep.look(source, self._stored_next)[-CATCH_UP_MINUTES:], ""
        except Unavailable as exc:
            return [], f"earlier minutes cannot be read again: {exc}"

    def _due(self, settled: int) -> list[int]:
        due = {key.minute for key in self._suspects}
        due |= set(
            range(self._stored_next, min(settled, self._stored_next + (1 if self._is_stuck else CATCH_UP_MINUTES)))
        )
        if not self._is_unpublished:
            due |= set(range(self._published_next, min(settled, self._published_next + CATCH_UP_MINUTES)))
        due |= set(self._due_again(settled - HOUR_MINUTES))
        return sorted(due)

    def _due_again(self, begin: int) -> list[int]:
        """Return the next minutes behind *begin* that no digest can speak for, and the next one with differences."""
        unknown = [minute for minute in range(begin, self._stored_next) if not self._sweep.knows(minute)]
        due = [minute for minute in unknown if minute >= self._again_next][:AGAIN_MINUTES]
        due += unknown[: AGAIN_MINUTES - len(due)]
        if due:
            self._again_next = due[-1] + 1
        different = sorted({key.minute for key in self._confirmed})
        if different:
            self._different_turn += 1
            due.append(different[self._different_turn % len(different)])
        return due

    def _judge(self, minutes: Sequence[int], differences: Sequence[Difference]) -> set[int]:
        """Confirm what was found before, forget what is no more or too old; return the minutes with differences."""
        looked_at = set(minutes)
        found = {one.key: one for one in differences if one.key.minute in looked_at}
        oldest = self._stored_next - DAY_MINUTES
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
        now = self._settled_minute()
        self._told_at = {key: self._told_at.get(key, now) for key in self._confirmed}
        fresh = {key: one for key, one in self._confirmed.items() if now - self._told_at[key] <= HOUR_MINUTES}
        self._conditions = tuple(conditions_of(fresh))
        return {key.minute for key in found}

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
