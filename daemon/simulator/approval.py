"""Keys that open a session: who has which, which are refused, and which session holds each app key."""

import uuid
from collections.abc import Callable

from daemon.simulator.faults import Countdown, Faults

REFUSED = "wrong"  # as app key or secret: refused, so that a bad credential can be rehearsed


class Approvals:
    """Which key belongs to which app key, and which session holds each app key."""

    def __init__(self, faults: Faults, venue: str, clock_s: Callable[[], float]) -> None:
        self._faults = faults
        self._venue = venue
        self._clock_s = clock_s
        self._app_keys: dict[str, str] = {}  # key -> app key
        self._expired: set[str] = set()
        self._holders: dict[str, int] = {}  # app key -> session number
        self._held: dict[str, tuple[float, Countdown]] = {}  # app key -> until when, or for how many attempts
        self.counts = {"issued": 0, "rejected": 0, "refused": 0, "throttled": 0}

    def issue(self, app_key: str) -> str:
        """Return a new key; earlier ones of the same app key stay valid."""
        key = str(uuid.uuid4())
        if self._faults.plan(app_key, self._venue).expire_key and app_key not in self._app_keys.values():
            self._expired.add(key)
        self._app_keys[key] = app_key
        return key

    def expire(self, tag: str | None = None) -> None:
        """Refuse every key issued so far, or every one of the app key *tag*; sessions that are open go on."""
        self._expired |= {key for key, app_key in self._app_keys.items() if tag in (None, app_key, self._venue)}

    def app_key_of(self, key: str) -> str | None:
        """Return the app key that *key* stands for, or None if it is unknown or expired."""
        return None if key in self._expired else self._app_keys.get(key)

    def claim(self, app_key: str, session: int) -> bool:
        """Let *session* hold *app_key*; False if another session does, or did and dropped without a goodbye."""
        if app_key in self._held:
            until_s, attempts = self._held[app_key]
            if self._clock_s() < until_s and attempts.take():
                return False
            del self._held[app_key]
        return self._holders.setdefault(app_key, session) == session

    def holder(self, app_key: str) -> int | None:
        """Return the number of the session that holds *app_key*."""
        return self._holders.get(app_key)

    def release(self, session: int, *, held_s: float = 0.0, held_attempts: int = 0) -> None:
        """Free whatever *session* holds: at once, or only after so many seconds (or attempts, if not 0)."""
        for app_key in [app_key for app_key, holder in self._holders.items() if holder == session]:
            del self._holders[app_key]
            if held_s:
                self._held[app_key] = (self._clock_s() + held_s, Countdown(held_attempts or None))
