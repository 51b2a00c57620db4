"""Which alerts are published, and when: repetitions are counted, floods are slowed down. Pure, time is passed in.

The first of its kind (code and subject) goes out at once. Repetitions within *repeat_s* are only counted; when that
time is over, one alert says how many there were. At most *per_minute* go out a minute, the heaviest first; what waits
is bounded, and what finds no room is counted as lost. Every alert is in the log of the process that raised it.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from daemon.alerts import Alert, AlertQueue, Counter, Level, heavier, log_alert, make_alert

MAX_KINDS = 4096  # remembered at a time; a flood of subjects forgets the oldest ones early
MINUTE_S = 60.0


class _Window(msgspec.Struct):
    """What happened since an alert of one kind went out."""

    ends_s: float
    level: Level
    newest: Alert
    repeats: int = 0
    repeated_level: Level = "INFO"


class AlertDesk:
    """Takes alerts from accept(), hands them out through next_due(); tick() closes what has run out."""

    def __init__(self, *, repeat_s: float, per_minute: int, queue: int) -> None:
        self._repeat_s = repeat_s
        self._per_minute = per_minute
        self._queue = AlertQueue(queue)
        self._windows: dict[tuple[str, str], _Window] = {}  # in order of their ends
        self._allowance = float(per_minute)
        self._refilled_s: float | None = None
        self.suppressed = 0
        self.lost = 0

    @property
    def waiting(self) -> int:
        """How many alerts are to be published."""
        return len(self._queue)

    def accept(self, alert: Alert, now_s: float) -> None:
        """Queue *alert*, or count it as a repetition. One of more weight than the last is no repetition."""
        self.tick(now_s)
        key = (alert.code, alert.subject)
        window = self._windows.get(key)
        if window is not None and heavier(alert.level, window.level) == window.level:
            window.repeats += 1
            window.newest = alert
            window.repeated_level = heavier(alert.level, window.repeated_level)
            self.suppressed += 1
            return
        if window is not None:
            self._end(key)
        self._put(alert)
        self._begin(key, alert, now_s)

    def tick(self, now_s: float) -> None:
        """End the windows that have run out; a kind that was repeated is summed up, and watched on."""
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if now_s < window.ends_s:
                return
            newest, repeats = window.newest, window.repeats
            self._end(key)
            if repeats:
                self._begin(key, newest, now_s)

    def next_due(self, now_s: float) -> Alert | None:
        """Return the alert to publish now; it stays in the queue until on_published(). None: nothing, or too many."""
        self._refill(now_s)
        return self._queue.first() if self._allowance >= 1.0 else None

    def on_published(self, alert: Alert) -> None:
        """*alert*, from next_due(), is out."""
        self._queue.remove(alert)
        self._allowance -= 1.0

    def drain(self) -> list[Alert]:
        """Take out everything, summaries included: the monitor ends."""
        for key in list(self._windows):
            self._end(key)
        remaining = list(self._queue)
        for alert in remaining:
            self._queue.remove(alert)
        return remaining

    def numbers(self) -> Mapping[str, int]:
        """Return what the status shows."""
        return {"waiting": self.waiting, "suppressed": self.suppressed, "lost": self.lost}

    def _begin(self, key: tuple[str, str], alert: Alert, now_s: float) -> None:
        while len(self._windows) >= MAX_KINDS:
            self._end(next(iter(self._windows)))
        self._windows[key] = _Window(ends_s=now_s + self._repeat_s, level=alert.level, newest=alert)

    def _end(self, key: tuple[str, str]) -> None:
        window = self._windows.pop(key)
        if window.repeats:
            times = "once more" if window.repeats == 1 else f"{window.repeats} times more"
            message = f"{window.newest.message} (repeated {times} within {self._repeat_s:g} s)"
            self._put(msgspec.structs.replace(window.newest, level=window.repeated_level, message=message))

    def _put(self, alert: Alert) -> None:
        if self._queue.put(alert) is not None:
            self.lost += 1

    def _refill(self, now_s: float) -> None:
        if self._refilled_s is not None:
            earned = (now_s - self._refilled_s) * self._per_minute / MINUTE_S
            self._allowance = min(float(self._per_minute), self._allowance + earned)
        self._refilled_s = now_s


class DeskAlerts:
    """The monitor's own voice: straight to the desk."""

    def __init__(
        self, desk: AlertDesk, *, source: str, logger: Any, counters: Counter, clock: Callable[[], float]
    ) -> None:  # Any: structlog's bound logger
        self._desk = desk
        self._source = source
        self._log = logger
        self._counters = counters
        self._clock = clock

    def send(self, level: Level, code: str, message: str, *, subject: str = "") -> None:
        """Log the alert and lay it on the desk."""
        alert = make_alert(level, code, message, subject=subject, source=self._source, at=datetime.now(UTC))
        log_alert(self._log, alert)
        self._counters.increment("alerts_raised")
        self._desk.accept(alert, self._clock())
