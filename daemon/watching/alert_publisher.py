"""The monitor's line to Redis, on which alerts leave: its own connection, its own patience.

Redis that is away costs nobody anything: alerts wait at the desk, and one line a minute says so in the log. An alert
whose fate is unknown, because the connection broke over it, is published again: heard twice is better than not at all.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from daemon.alerts import Alert, encode
from daemon.config import Redis as RedisSettings
from daemon.errors import first_line
from daemon.watching.alert_desk import AlertDesk

CHANNEL = "system:alerts"
CLIENT_NAME = "sise-monitor"
INTERVAL_S = 0.25  # between two looks at the desk
RETRY_FIRST_S = 0.5
AWAY_LOG_INTERVAL_S = 60.0


class Line(Protocol):
    """Something that publishes."""

    def publish(self, channel: str, message: bytes) -> Awaitable[Any]:
        """Publish; raises RedisError, OSError or TimeoutError."""

    def aclose(self) -> Awaitable[None]:
        """Disconnect."""


def connect(settings: RedisSettings) -> Line:
    """Return a line; it connects when it is first used, and again after an error."""
    line: Line = redis.asyncio.Redis.from_url(
        settings.url,
        client_name=CLIENT_NAME,
        retry=Retry(NoBackoff(), 0),
        single_connection_client=False,
        max_connections=1,
        socket_timeout=settings.timeout_s,
        socket_connect_timeout=settings.timeout_s,
    )
    return line


class AlertPublisher:
    """Empties the desk onto the line, for as long as it runs."""

    def __init__(
        self,
        desk: AlertDesk,
        settings: RedisSettings,
        *,
        logger: Any,  # structlog's bound logger
        on_published: Callable[[], None],
        connect: Callable[[RedisSettings], Line] = connect,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._desk = desk
        self._settings = settings
        self._log = logger
        self._on_published = on_published
        self._connect = connect
        self._clock = clock
        self._sleep = sleep
        self._line: Line | None = None
        self._retry_s = RETRY_FIRST_S
        self._away_since_s: float | None = None
        self._away_logged_s = 0.0
        self._lost_reported = 0

    @property
    def is_away(self) -> bool:
        """True from the first failure until something was published again."""
        return self._away_since_s is not None

    async def run(self) -> None:
        """Publish until cancelled."""
        try:
            while True:
                self._desk.tick(self._clock())
                self._report_lost()
                is_well = await self._publish_due()
                await self._sleep(INTERVAL_S if is_well else self._next_retry_s())
        finally:
            await self._hang_up()

    async def publish_rest(self, within_s: float) -> int:
        """Publish everything that waits, the rate notwithstanding; return how many were left behind."""
        rest = self._desk.drain()
        published = 0
        try:
            async with asyncio.timeout(within_s):
                for alert in rest:
                    if not await self._publish(alert):
                        break
                    published += 1
                await self._hang_up()
        except TimeoutError:
            pass
        if published < len(rest):
            self._log.warning("alerts_not_published", alerts=len(rest) - published)
        return len(rest) - published

    async def _publish_due(self) -> bool:
        while (alert := self._desk.next_due(self._clock())) is not None:
            if not await self._publish(alert):
                return False
            self._desk.on_published(alert)
        return True

    async def _publish(self, alert: Alert) -> bool:
        try:
            if self._line is None:
                self._line = self._connect(self._settings)
            await self._line.publish(CHANNEL, encode(alert))
        except (RedisError, OSError, TimeoutError) as exc:
            self._note_away(exc)
            await self._hang_up()
            return False
        self._on_published()
        self._note_back()
        return True

    async def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            try:
                await line.aclose()
            except (RedisError, OSError, TimeoutError):  # it was broken anyway
                return

    def _next_retry_s(self) -> float:
        delay_s, self._retry_s = self._retry_s, min(self._retry_s * 2, self._settings.retry_max_s)
        return delay_s

    def _note_away(self, exc: Exception) -> None:
        now_s = self._clock()
        if self._away_since_s is None:
            self._away_since_s = now_s
        elif now_s - self._away_logged_s < AWAY_LOG_INTERVAL_S:
            return
        self._away_logged_s = now_s
        self._log.warning(
            "alerts_wait",
            error=f"{type(exc).__name__}: {first_line(exc)}",
            waiting=self._desk.waiting,
            for_s=round(now_s - self._away_since_s),
        )

    def _note_back(self) -> None:
        if self._away_since_s is not None:
            self._log.info("alerts_published_again", after_s=round(self._clock() - self._away_since_s, 1))
            self._away_since_s = None
        self._retry_s = RETRY_FIRST_S

    def _report_lost(self) -> None:
        if self._desk.lost > self._lost_reported:
            self._log.warning("alerts_lost", alerts=self._desk.lost - self._lost_reported, reason="too many wait")
            self._lost_reported = self._desk.lost
