"""Warnings that a venue may cause without end: the first of a series is logged, then one line a minute with a count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

WARN_INTERVAL_S = 60.0


class RepeatedWarnings:
    """By event."""

    def __init__(self, log: Any, clock: Callable[[], float]) -> None:  # Any: structlog's bound logger
        """clock: monotonic, seconds."""
        self._log = log
        self._clock = clock
        self._warned: dict[str, tuple[float, int]] = {}  # -> (when it was logged, how often it happened since)

    def warn(self, event: str, **fields: object) -> None:
        """Log *event* as a warning, or count it."""
        self._say(self._log.warning, event, fields)

    def fail(self, event: str, **fields: object) -> None:
        """Log *event* as an error, or count it."""
        self._say(self._log.error, event, fields)

    def _say(self, say: Callable[..., object], event: str, fields: dict[str, object]) -> None:
        now = self._clock()
        logged_at, unlogged = self._warned.get(event, (-WARN_INTERVAL_S, 0))
        if now - logged_at < WARN_INTERVAL_S:
            self._warned[event] = (logged_at, unlogged + 1)
            return
        self._warned[event] = (now, 0)
        say(event, unlogged=unlogged, **fields)
