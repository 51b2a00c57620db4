"""The approval key of one account: fetched once however many ask, cached below its life time, not refreshed in a loop.

The key lives in this process's memory only. It is not logged, stored or shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from daemon.errors import Refused

# The venue honours a key for 24 h, so one that is older than this is not used to start a session.
MAX_AGE_S = 23 * 3600.0
# Between two requests, successful or not: venues answer one a second at most, and a key that is refused right after its
# issue is not cured by another one.
COOLDOWN_S = 2.0


class KeyProvider(Protocol):
    """Where a connection gets its approval key."""

    async def get(self, *, refused: str | None = None) -> str:
        """Return the key; *refused* is the one that the venue has just refused, if it has."""


class ApprovalKeyProvider:
    """Hands out one account's approval key; concurrent callers share one request."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[str]],
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """fetch: one request to the venue; raises Refused or Retryable. clock: monotonic seconds."""
        self._fetch = fetch
        self._clock = clock
        self._sleep = sleep
        self._key: str | None = None
        self._obtained_at = 0.0
        self._asked_at: float | None = None
        self._lock = asyncio.Lock()

    async def get(self, *, refused: str | None = None) -> str:
        """Return the cached key, or a new one if that is too old or *refused*; wait out the cool-down first.

        Raises Refused if the credentials are wrong, Retryable if the venue is away.
        """
        async with self._lock:  # whoever waited here finds the key that the first one fetched
            if self._key is not None and self._key != refused and self._clock() - self._obtained_at < MAX_AGE_S:
                return self._key
            self._key = None
            if self._asked_at is not None and (wait_s := self._asked_at + COOLDOWN_S - self._clock()) > 0.0:
                await self._sleep(wait_s)
            self._asked_at = self._clock()
            key = await self._fetch()
            self._key, self._obtained_at = key, self._clock()
            return key


class NoApprovalKey:
    """For venues that need none."""

    async def get(self, *, refused: str | None = None) -> str:
        """Return the empty key. Raises Refused if the venue refused even that."""
        if refused is not None:
            raise Refused("the venue refuses the session and issues no approval keys")
        return ""
