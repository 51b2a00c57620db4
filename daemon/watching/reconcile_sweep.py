"""Which minutes that were found equal have to be compared once more: rows may be removed or doubled later. Pure.

The minutes of the last hour, and those of the last day, are read again in turn, the newest first, by a digest that is
cheap and says whether anything has changed. How much is read in one look is bounded by time, so what it costs is known
and how long a round takes follows from the load; when the server says that rows were removed or changed, the hour is
read at once.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from daemon.sinks.counts_digests import Digest

HOUR_MINUTES = 60
DAY_MINUTES = 24 * 60
# Of the interval between two looks, in seconds of waiting for the database: a tenth of one of its processors.
HOUR_SHARE = 0.07
DAY_SHARE = 0.03
URGENT_SHARE = 0.5  # when the server says that rows were removed or changed, until the hour is through
ROWS_AT_ONCE = 1_000_000  # read by one statement, roughly: about half a second
MINUTES_AT_ONCE = 30


class Source(Protocol):
    """Where digests come from; both may raise `reconcile.Unavailable`."""

    def read(self, first: int, behind: int) -> Mapping[int, Digest]:
        """Return the digests of the minutes from *first* up to *behind*."""

    def changes(self) -> tuple[int, ...]:
        """Return numbers that are others once rows were removed or changed."""


class Sweep:
    """Remembers the digests of the minutes of a day."""

    def __init__(self, interval_s: float, timer: Callable[[], float]) -> None:
        self._interval_s = interval_s
        self._timer = timer
        self._known: dict[int, Digest] = {}
        self._hour = _Round(HOUR_MINUTES)
        self._day = _Round(DAY_MINUTES)
        self._changes: tuple[int, ...] | None = None

    def note(self, minute: int, digest: Digest | None) -> None:
        """Remember what *minute* looked like when it was found equal; None: it was not, or may still grow."""
        if digest is None:
            self._known.pop(minute, None)
        else:
            self._known[minute] = digest

    def knows(self, minute: int) -> bool:
        """Whether *minute* is read by its digest."""
        return minute in self._known

    def look(self, source: Source, settled: int) -> list[int]:
        """Return the minutes before *settled* that have changed since they were found equal, within the time given."""
        for minute in [minute for minute in self._known if minute < settled - DAY_MINUTES]:
            del self._known[minute]
        changes = source.changes()
        is_urgent = self._changes is not None and changes != self._changes
        if is_urgent:
            self._hour.begin(settled)
            self._hour.is_urgent = True
        changed = self._read(source, self._hour, settled, URGENT_SHARE if self._hour.is_urgent else HOUR_SHARE)
        changed += self._read(source, self._day, settled, DAY_SHARE)
        self._changes = changes
        return sorted(set(changed))

    def _read(self, source: Source, turn: "_Round", settled: int, share: float) -> list[int]:
        """Read on where *turn* is, until its time is used up or it is through: one round at most in each look."""
        if turn.behind <= turn.oldest:
            turn.begin(settled)
        ends = self._timer() + share * self._interval_s
        changed = []
        for first, behind in turn.ranges(self._known):
            found = source.read(first, behind)
            changed += [minute for minute, digest in found.items() if not self._known[minute].is_same(digest)]
            turn.behind = first
            if self._timer() >= ends:
                break
        return changed


class _Round:
    """Goes through the known minutes of a span from the newest to the oldest."""

    def __init__(self, span_minutes: int) -> None:
        self._span_minutes = span_minutes
        self.oldest = 0
        self.behind = 0  # minutes from here on have been read in this round
        self.is_urgent = False

    def begin(self, settled: int) -> None:
        self.oldest = settled - self._span_minutes
        self.behind = settled

    def ranges(self, known: Mapping[int, Digest]) -> Iterator[tuple[int, int]]:
        """Yield (first, behind) of neighbouring known minutes, as many as one statement should read."""
        behind, rows = self.behind, 0
        for minute in range(self.behind - 1, self.oldest - 1, -1):
            if minute not in known:
                if behind > minute + 1:
                    yield minute + 1, behind
                behind, rows = minute, 0
                continue
            rows += known[minute].rows
            if rows >= ROWS_AT_ONCE or behind - minute >= MINUTES_AT_ONCE:
                yield minute, behind
                behind, rows = minute, 0
        if behind > self.oldest:
            yield self.oldest, behind
        self.behind = self.oldest
        self.is_urgent = False
