"""Which registrations of a live session bring nothing although their market is open.

Pure: monotonic times are passed in; receive times of records are only compared with each other, so that a step of the
wall clock is no silence. Each doubt of one registration waits twice as long as the one before, until data arrive: a
symbol that hardly trades is not registered anew all day.
"""

from __future__ import annotations

from collections.abc import Iterable

from daemon.ingest.venues.venue import Registration

MAX_DOUBLINGS = 6


class _Watched:
    """One registration. newest_ns: of its stream, as last seen. since: the silence counts from here; None: closed."""

    __slots__ = ("doubts", "newest_ns", "since")

    def __init__(self, newest_ns: int) -> None:
        self.newest_ns = newest_ns
        self.since: float | None = None
        self.doubts = 0


class Silence:
    """Watches the registrations of one session."""

    def __init__(self, threshold_s: float) -> None:
        self._threshold_s = threshold_s
        self._watched: dict[Registration, _Watched] = {}

    def set_threshold(self, threshold_s: float) -> None:
        """Doubt after *threshold_s* from now on."""
        self._threshold_s = threshold_s

    def keep(self, registrations: Iterable[Registration]) -> None:
        """Forget all others."""
        kept = set(registrations)
        self._watched = {r: watched for r, watched in self._watched.items() if r in kept}

    def on_requested(self, registration: Registration, newest_ns: int) -> None:
        """Whatever is newer than this answers to the request."""
        watched = self._watched.setdefault(registration, _Watched(newest_ns))
        watched.newest_ns = newest_ns
        watched.since = None

    def has_data(self, registration: Registration, newest_ns: int, now: float) -> bool:
        """Return whether the stream has brought something since this, or the request, was noted last."""
        watched = self._watched.get(registration)
        if watched is None or newest_ns == watched.newest_ns:
            return False
        watched.newest_ns = newest_ns
        watched.doubts = 0
        watched.since = now
        return True

    def silent_s(self, registration: Registration, now: float, *, is_open: bool, is_flowing: bool) -> float | None:
        """Return how long a confirmed *registration* has been silent if that is long enough to doubt it, else None.

        is_flowing: other streams of the session bring data; otherwise the session is to be doubted, not the symbol.
        """
        watched = self._watched.get(registration)
        if watched is None:
            return None
        if not is_open:
            watched.since = None
            watched.doubts = 0
            return None
        if watched.since is None:
            watched.since = now  # the market has opened, or the registration was just confirmed
            return None
        silent_s = now - watched.since
        if not is_flowing or silent_s < self._threshold_s * 2.0 ** min(watched.doubts, MAX_DOUBLINGS):
            return None
        watched.doubts += 1
        watched.since = now
        return silent_s
