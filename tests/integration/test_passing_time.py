"""Hours of a worker in seconds: silence, closed markets and clocks that jump, over real sockets to the simulator."""

from __future__ import annotations

import asyncio
import io
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from daemon import market_calendar
from daemon.alerts import RecordingAlerts
from daemon.config import Account, Config, Feed, Ingest
from daemon.ingest.ring_history import newest_receive_times
from daemon.ingest.surroundings import Outside
from daemon.market_hours import MarketHours
from daemon.simulator.journal import events_path
from tests.integration.test_worker import (
    APP_KEY,
    APP_SECRET,
    REGISTRATIONS,
    SYMBOLS,
    Bench,
    bench,
    config_for,
    lines,
    on_uvloop,
    simulating,
    wait_until,
)

__all__ = ["bench", "lines"]  # fixtures

SEOUL, NEW_YORK = ZoneInfo("Asia/Seoul"), ZoneInfo("America/New_York")
SPEED = 100.0
LONGEST_LOOK_S = 0.04  # between two looks at the clock, but for a machine that does something else meanwhile
HOUR_NS = 3600 * 10**9
# The thresholds of silence are those of production; what the machine has to be quick for is not.
PATIENT = Ingest(subscribe_interval_ms=100, subscribe_timeout_s=1000.0, link_timeout_s=2000.0, connect_timeout_s=20.0)


class Clocks:
    """Monotonic and wall clock of a worker, faster than real ones; the wall clock can be set."""

    def __init__(self, wall: datetime | None = None) -> None:
        self._began_s = self._looked_s = time.monotonic()
        self._passed_s = 0.0
        self._wall_ns = time.time_ns() if wall is None else int(wall.timestamp()) * 10**9

    def clock(self) -> float:
        """The time; of a pause of the machine only the beginning passes, as it would be no pause of the venue."""
        now_s = time.monotonic()
        self._passed_s += min(now_s - self._looked_s, LONGEST_LOOK_S) * SPEED
        self._looked_s = now_s
        return self._began_s + self._passed_s

    def wall_ns(self) -> int:
        return self._wall_ns + int((self.clock() - self._began_s) * 1e9)

    def jump(self, ns: int) -> None:
        self._wall_ns += ns

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        until_s = self.clock() + seconds
        while not event.is_set() and (left_s := until_s - self.clock()) > 0:
            try:
                async with asyncio.timeout(min(left_s / SPEED, LONGEST_LOOK_S / 4)):
                    await event.wait()
            except TimeoutError:
                pass

    async def after(self, seconds: float) -> None:
        """Until *seconds* of these clocks have passed."""
        until_s = self.clock() + seconds
        await wait_until(lambda: self.clock() >= until_s)


class TimedAlerts(RecordingAlerts):
    """Also when, by the worker's clock."""

    def __init__(self, clocks: Clocks) -> None:
        super().__init__()
        self._clocks = clocks
        self.at_s: list[float] = []

    def send(self, level: Any, code: str, message: str, *, subject: str = "") -> None:
        super().send(level, code, message, subject=subject)
        self.at_s.append(self._clocks.clock())


def around(clocks: Clocks, alerts: RecordingAlerts, is_open: Any) -> Outside:
    return Outside(
        alerts=alerts,
        is_open=is_open,
        streams=newest_receive_times,
        wall_ns=clocks.wall_ns,
        clock=clocks.clock,
        wait=clocks.wait,
    )


def requests(journal: Path) -> list[dict[str, Any]]:
    """What the venue was asked for."""
    found = [msgspec.json.decode(line) for line in events_path(journal).read_bytes().splitlines()]
    return [event for event in found if "tr_key" in event]


@pytest.mark.requirement("F04")
@on_uvloop
async def test_a_symbol_that_is_silent_in_its_session_is_told_in_time_and_registered_anew_alone(
    bench: Bench, lines: io.StringIO, tmp_path: Path
) -> None:
    clocks = Clocks()
    alerts, journal = TimedAlerts(clocks), tmp_path / "journal"
    async with simulating(
        faults=(f"silent:{SYMBOLS[1]}",), journal=str(journal), pingpong_interval_s=0.1, start_after=REGISTRATIONS
    ) as simulator:
        config = config_for(simulator, ingest=PATIENT)
        async with bench.working(config, outside=around(clocks, alerts, lambda *_place: True)):
            await wait_until(lambda: bench.value("records_received") > 0)
            began_s = clocks.clock()
            await wait_until(lambda: len(alerts.sent) >= 2)
            await wait_until(lambda: bench.value("subscriptions_confirmed") == REGISTRATIONS)
            await clocks.after(60.0)

    assert set(alerts.codes()) == {"subscription_suspected"}
    assert {subject.split()[-1] for *_, subject in alerts.sent} == {SYMBOLS[1]}
    assert all(300.0 - 10.0 <= at_s - began_s <= 300.0 + 60.0 for at_s in alerts.at_s[:2])
    asked = requests(journal)
    assert len(asked) >= REGISTRATIONS + 4  # off and on again, trades and books
    assert {event["tr_key"] for event in asked[REGISTRATIONS:]} == {SYMBOLS[1]}
    assert bench.value("connections_opened") == 1


@pytest.mark.requirement("F05")
@on_uvloop
async def test_hours_of_silence_while_the_market_is_closed_are_nothing_to_worry_about(
    bench: Bench, lines: io.StringIO, tmp_path: Path
) -> None:
    clocks = Clocks()
    alerts, journal = TimedAlerts(clocks), tmp_path / "journal"
    async with simulating(faults=("pingpong_only",), journal=str(journal), pingpong_interval_s=0.1) as simulator:
        config = config_for(simulator, ingest=PATIENT)
        async with bench.working(config, outside=around(clocks, alerts, lambda *_place: False)):
            await wait_until(lambda: bench.has("subscriptions_confirmed", REGISTRATIONS))
            await clocks.after(300.0)  # far more than what ends a session whose market is open

    assert alerts.sent == []
    assert len(requests(journal)) == REGISTRATIONS
    assert (bench.value("connections_opened"), bench.value("connections_lost")) == (1, 0)
    assert bench.of_kind("gap") == []


@pytest.mark.requirement("F58")
@on_uvloop
async def test_a_wall_clock_that_jumps_moves_no_deadline_and_touches_no_connection(
    bench: Bench, lines: io.StringIO, tmp_path: Path
) -> None:
    clocks = Clocks()
    alerts, journal = TimedAlerts(clocks), tmp_path / "journal"
    async with simulating(journal=str(journal), pingpong_interval_s=0.1) as simulator:
        config = config_for(simulator, ingest=PATIENT)
        async with bench.working(config, outside=around(clocks, alerts, lambda *_place: True)):
            await wait_until(lambda: bench.has("subscriptions_confirmed", REGISTRATIONS))
            for jump_ns in (HOUR_NS, -2 * HOUR_NS, HOUR_NS, 10**9, -(10**9), 24 * HOUR_NS, -24 * HOUR_NS):
                clocks.jump(jump_ns)
                received = bench.value("records_received")
                await clocks.after(25.0)
                await wait_until(lambda: bench.value("records_received") > received)  # noqa: B023
            assert alerts.sent == []
            assert len(requests(journal)) == REGISTRATIONS
            assert (bench.value("connections_opened"), bench.value("connections_lost")) == (1, 0)
            assert bench.of_kind("gap") == []

            flagged = [r for kind in ("trade", "orderbook", "ledger") for r in bench.of_kind(kind) if r["flags"] & 64]
            assert len(flagged) >= 4, "the first record behind a jump"

            clocks.jump(-HOUR_NS)  # an interruption ends, by its clock, before it began
            simulator.inject("abort")
            await wait_until(lambda: bench.value("connections_opened") == 2)
            await wait_until(lambda: len(bench.of_kind("gap")) == REGISTRATIONS)

    assert alerts.sent == []
    assert all(record["started_ns"] <= record["ended_ns"] for record in bench.of_kind("gap"))
    assert bench.value("connections_lost") == 1


@pytest.fixture(scope="module")
def hours(tmp_path_factory: pytest.TempPathFactory) -> MarketHours:
    """The real calendar of November 2026."""
    path = tmp_path_factory.mktemp("hours") / "hours.json"
    path.write_bytes(msgspec.json.encode(market_calendar.build(datetime(2026, 11, 1, tzinfo=SEOUL), {})))
    return MarketHours.load(path)


@pytest.mark.requirement("F59", "F05")
@pytest.mark.parametrize(
    ("market", "moment", "is_silence_told"),
    [
        ("kr", datetime(2026, 11, 20, 10, 0, tzinfo=SEOUL), True),  # a Friday
        ("kr", datetime(2026, 11, 20, 23, 58, tzinfo=SEOUL), False),  # midnight passes
        ("kr", datetime(2026, 11, 21, 10, 0, tzinfo=SEOUL), False),  # Saturday
        ("kr", datetime(2026, 11, 30, 23, 58, tzinfo=SEOUL), False),  # the month ends
        ("us", datetime(2026, 11, 26, 11, 0, tzinfo=NEW_YORK), False),  # Thanksgiving
        ("us", datetime(2026, 11, 27, 11, 0, tzinfo=NEW_YORK), True),  # the day after ends at 13:00,
        ("us", datetime(2026, 11, 27, 17, 30, tzinfo=NEW_YORK), False),  # and what follows it at 17:00
        ("us", datetime(2026, 11, 2, 9, 30, tzinfo=NEW_YORK), True),  # the first day of winter time
    ],
)  # fmt: skip
def test_whether_silence_is_told_depends_on_the_session_of_that_day(
    bench: Bench, lines: io.StringIO, hours: MarketHours, market: Any, moment: datetime, is_silence_told: bool
) -> None:
    alerts = RecordingAlerts()

    async def scenario() -> None:
        clocks = Clocks(moment)
        async with simulating(faults=("pingpong_only",), pingpong_interval_s=0.1) as simulator:
            config = Config(
                workers=1, ingest=PATIENT,
                accounts=(Account(name="main", venue="kis", app_key=APP_KEY, app_secret=APP_SECRET,
                                  ws_url=simulator.ws_url, rest_url=simulator.rest_url),),
                feeds=(Feed(account="main", market=market, kinds=("trade",),
                            symbols=SYMBOLS[:1] if market == "kr" else ("DNASAAPL",)),),
            )  # fmt: skip
            async with bench.working(config, outside=around(clocks, alerts, hours.is_open)):
                await wait_until(lambda: bench.has("subscriptions_confirmed", 1))
                await clocks.after(90.0)

    on_uvloop(scenario)()
    assert alerts.codes() == (["data_silent"] if is_silence_told else [])
    assert bench.value("connections_opened") == 1
