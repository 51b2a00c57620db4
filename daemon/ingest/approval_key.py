"""The access key of one account: fetched once however many ask, cached below its life time, not refreshed in a loop.

The key lives in this process's memory only. It is not logged, stored or shown. An account belongs to one worker, so
that one provider for each account is one for the whole daemon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from daemon.errors import Refused, Retryable
from daemon.ingest.venues.venue import AccessKey

# A key that has lived this part of its time is not used to start a session; running sessions keep it.
USABLE_FRACTION = 0.9
# Between two requests, successful or not: venues answer one a second at most, and a key that is refused right after its
# issue is not cured by another one. Doubled with each failure, up to the setting.
COOLDOWN_S = 2.0
# Between two requests of any accounts to one key endpoint.
ENDPOINT_INTERVAL_S = 1.0
MAX_DOUBLINGS = 16


class KeyProvider(Protocol):
    """Where a connection gets its access key."""

    async def get(self, *, refused: str | None = None) -> str:
        """Return the key; *refused* is the one that the venue has just refused, if it has."""

    def forget(self) -> None:
        """Do not hand out the cached key again: the credentials have changed."""


class KeyEndpoint:
    """Paces the requests of all accounts to one key endpoint; its trouble slows all of them down."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        cooldown_max_s: float = 60.0,
    ) -> None:
        """clock: monotonic seconds. cooldown_max_s: the longest pause after failures in a row."""
        self.clock = clock
        self.sleep = sleep
        self._cooldown_max_s = cooldown_max_s
        self._failures = 0  # in a row, of any account
        self._next_at: float | None = None
        self._lock = asyncio.Lock()

    def cooldown_s(self, failures: int) -> float:
        """Return the pause behind the last of so many *failures* in a row."""
        return max(COOLDOWN_S, min(self._cooldown_max_s, COOLDOWN_S * 2.0 ** min(failures, MAX_DOUBLINGS)))

    async def call(self, fetch: Callable[[], Awaitable[AccessKey]]) -> AccessKey:
        """Make one request when its turn comes. Raises what *fetch* raises."""
        async with self._lock:
            if self._next_at is not None and (wait_s := self._next_at - self.clock()) > 0.0:
                await self.sleep(wait_s)
            try:
                key = await fetch()
            except Retryable:
                self._failures += 1
                self._next_at = self.clock() + self.cooldown_s(self._failures - 1)
                raise
            except BaseException:
                self._next_at = self.clock() + ENDPOINT_INTERVAL_S
                raise
            self._failures = 0
            self._next_at = self.clock() + ENDPOINT_INTERVAL_S
            return key


class AccessKeyProvider:
    """Hands out one account's access key; concurrent callers share one request."""

    def __init__(self, fetch: Callable[[], Awaitable[AccessKey]], *, endpoint: KeyEndpoint) -> None:
        """fetch: one request to the venue; raises Refused or Retryable."""
        self._fetch = fetch
        self._endpoint = endpoint
        self._key: str | None = None
        self._usable_until = 0.0
        self._asked_at: float | None = None
        self._failures = 0  # in a row
        self._lock = asyncio.Lock()

    async def get(self, *, refused: str | None = None) -> str:
        """Return the cached key, or a new one if that is too old or *refused*; wait out the cool-down first.

        Raises Refused if the credentials are wrong, Retryable if the venue is away.
        """
        clock = self._endpoint.clock
        async with self._lock:  # whoever waited here finds the key that the first one fetched
            if self._key is not None and self._key != refused and clock() < self._usable_until:
                return self._key
            self._key = None
            cooldown_s = self._endpoint.cooldown_s(max(0, self._failures - 1))
            if self._asked_at is not None and (wait_s := self._asked_at + cooldown_s - clock()) > 0.0:
                await self._endpoint.sleep(wait_s)
            self._asked_at = clock()
            try:
                key = await self._endpoint.call(self._fetch)
            except (Refused, Retryable):
                self._failures += 1
                raise
            finally:
                self._asked_at = clock()
            self._failures = 0
            self._key, self._usable_until = key.key, clock() + USABLE_FRACTION * key.valid_for_s
            return key.key

    def forget(self) -> None:
        """Do not hand out the cached key again."""
        self._key = None


class NoAccessKey:
    """For venues that need none."""

    async def get(self, *, refused: str | None = None) -> str:
        """Return the empty key. Raises Refused if the venue refused even that."""
        if refused is not None:
            raise Refused("the venue refuses the session and issues no access keys")
        return ""

    def forget(self) -> None:
        """There is nothing to forget."""
