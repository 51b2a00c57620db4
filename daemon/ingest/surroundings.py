"""What a worker and its sessions are given: ring and counters, the network, clocks, and where they report to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from daemon.alerts import Alerts, NullAlerts
from daemon.ingest.venues import venue_named

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.config import Config
    from daemon.config import Ingest as IngestSettings
    from daemon.ingest.connector import Connector
    from daemon.ingest.gaps import Gaps, Place, Stream
    from daemon.ingest.governor import Governor
    from daemon.ingest.venues.venue import Venue
    from daemon.shard_plan import WorkerPlan
    from native_pipeline.counters import CountersBlock
    from native_pipeline.ring_writer import RingWriter


def _never_open(_market: str, _exchange: str, _wall_ns: int) -> bool:
    return False


def _nothing_seen() -> Mapping[Place, int]:
    return {}


def _never_redundant(_streams: Iterable[Stream]) -> bool:
    return False


def _no_transits() -> Mapping[Place, tuple[int, int]]:
    return {}


def _learn_nothing(_account: str, _limit: int) -> None:
    pass


def _decline_nothing(_account: str, _reasons: Mapping[tuple[str, str], str]) -> bool:
    return False


def _nothing_lapses(_accounts: Iterable[str]) -> int:
    return 0


def _nothing_to_do() -> None:
    pass


def _nothing_of(_ring: RingWriter) -> Mapping[Place, int]:
    return {}


def _no_history(_worker: int) -> Mapping[Place, tuple[int, int]]:
    return {}


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """Passed to each session. The last ones may be left out: no alerts, no market hours, no view of the data."""

    ring: RingWriter
    counters: CountersBlock
    connector: Connector
    settings: IngestSettings
    clock: Callable[[], float]  # monotonic, seconds
    wall_ns: Callable[[], int]
    random: Callable[[], float]
    wake_timer: Callable[[], None]  # a deadline may have come nearer
    log: Any  # structlog's bound loggers have no common static type
    gaps: Gaps
    governor: Governor
    alerts: Alerts = NullAlerts()
    is_open: Callable[[str, str, int], bool] = _never_open  # (market, exchange, wall ns)
    streams: Callable[[], Mapping[Place, int]] = _nothing_seen  # -> newest receive ns
    transits: Callable[[], Mapping[Place, tuple[int, int]]] = _no_transits  # -> newest receipt and its exchange time
    learn_limit: Callable[[str, int], None] = _learn_nothing  # (account, registrations that one session takes)
    # (account, reasons by channel and key) -> is any of it new? Another session may have more luck with them.
    decline: Callable[[str, Mapping[tuple[str, str], str]], bool] = _decline_nothing
    is_redundant: Callable[[Iterable[Stream]], bool] = _never_redundant  # does another session bring one of these?
    raw: RingWriter | None = None  # where messages are kept as they came


class Outside(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has around it, and a test may replace. connector None: the network.

    changes: settings and plans to apply while running. status_path None: no status is written. raw: the ring of the
    recorder, None: nothing is recorded.
    """

    connector: Connector | None = None
    alerts: Alerts = NullAlerts()
    flush_alerts: Callable[[], object] = _nothing_to_do
    is_open: Callable[[str, str, int], bool] = _never_open
    streams: Callable[[RingWriter], Mapping[Place, int]] = _nothing_of
    # what is in the ring of another worker; called in a thread
    history: Callable[[int], Mapping[Place, tuple[int, int]]] = _no_history
    learn_limit: Callable[[str, int], None] = _learn_nothing
    decline: Callable[[str, Mapping[tuple[str, str], str]], bool] = _decline_nothing
    lapses: Callable[[Iterable[str]], int] = _nothing_lapses  # how many limits of these accounts have come to their end
    venues: Callable[[str], Venue] = venue_named
    changes: AsyncIterator[tuple[Config, WorkerPlan]] | None = None
    status_path: Path | None = None
    raw: RingWriter | None = None
    wall_ns: Callable[[], int] = time.time_ns
    clock: Callable[[], float] = time.monotonic  # of every deadline, seconds
    wait: Callable[[asyncio.Event, float], Awaitable[None]] = _wait  # until it is set, or for seconds of that clock
