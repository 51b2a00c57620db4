"""When markets trade: the real calendar library's days, the file that is written from them, and who reads it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import market_calendar
from daemon.market_calendar import CALENDARS, TradingDay, corrected, hours_file, library_days
from daemon.market_hours import FORMAT_VERSION, HoursFile, MarketHours, market_key

pytestmark = [pytest.mark.requirement("EDGE-01"), pytest.mark.requirement("F59")]

SEOUL, NEW_YORK = ZoneInfo("Asia/Seoul"), ZoneInfo("America/New_York")
ROOT = Path(__file__).parents[2]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Log:
    def __init__(self) -> None:
        self.events: list[str] = []

    def warning(self, event: str, **_fields: object) -> None:
        self.events.append(event)


def write(path: Path, content: HoursFile) -> Path:
    path.write_bytes(msgspec.json.encode(content))
    return path


@pytest.fixture(scope="module")
def hours(tmp_path_factory: pytest.TempPathFactory) -> MarketHours:
    """All of June 2026 to December 2027, from the real library with our corrections."""
    first, last = date(2026, 6, 1), date(2027, 12, 31)
    days = {market: corrected(market, library_days(market, first, last)) for market in CALENDARS}
    path = tmp_path_factory.mktemp("hours") / "market_hours.json"
    return MarketHours.load(write(path, hours_file(days, last=last)))


def is_open(hours: MarketHours, market: str, local: str, zone: ZoneInfo, exchange: str = "") -> bool:
    return hours.is_open(market, exchange, datetime.fromisoformat(local).replace(tzinfo=zone))


def korea(hours: MarketHours, local: str, exchange: str = "") -> bool:
    return is_open(hours, "kr", local, SEOUL, exchange)


def america(hours: MarketHours, local: str) -> bool:
    return is_open(hours, "us", local, NEW_YORK)


@pytest.mark.parametrize(
    ("moment", "main", "nxt", "sor"),
    [
        ("07:59:59", False, False, False),
        ("08:00:00", False, True, True),
        ("08:49:59", False, True, True),
        ("08:50:00", False, False, False),
        ("08:59:59", False, False, False),
        ("09:00:00", True, False, True),
        ("09:00:30", True, True, True),
        ("15:19:59", True, True, True),
        ("15:20:00", False, False, False),  # the closing auction: ten minutes without a trade are no fault
        ("15:39:59", False, False, False),
        ("15:40:00", False, True, True),
        ("16:00:00", True, True, True),
        ("19:59:59", True, True, True),
        ("20:00:00", False, False, False),
        ("23:59:59", False, False, False),
    ],
)
def test_an_ordinary_day_in_korea(hours: MarketHours, moment: str, main: bool, nxt: bool, sor: bool) -> None:
    at = f"2026-11-23T{moment}"

    assert (korea(hours, at), korea(hours, at, "nxt"), korea(hours, at, "sor")) == (main, nxt, sor)


def test_the_korean_after_market_exists_since_14_september_2026(hours: MarketHours) -> None:
    assert not korea(hours, "2026-09-11T17:00")
    assert korea(hours, "2026-09-14T17:00")


@pytest.mark.requirement("F05")
@pytest.mark.parametrize(
    "day",
    [
        "2026-06-03",  # local elections
        "2026-07-17",  # Constitution Day
        "2026-08-17",  # substitute for Liberation Day on a Saturday
        "2026-09-24",
        "2026-09-25",  # Chuseok
        "2026-10-05",  # substitute for National Foundation Day on a Saturday
        "2026-10-09",
        "2026-12-25",
        "2026-12-31",  # the exchange's own
        "2027-01-01",
        "2027-02-09",  # substitute for Lunar New Year
        "2027-05-03",
        "2026-11-21",  # a Saturday
        "2026-11-22",
    ],
)
def test_holidays_and_weekends_in_korea_are_closed_all_day(hours: MarketHours, day: str) -> None:
    for exchange in ("", "nxt", "sor"):
        assert not any(korea(hours, f"{day}T{hour:02}:30", exchange) for hour in range(24))


@pytest.mark.parametrize("day", ["2026-06-02", "2026-10-06", "2026-12-30", "2027-01-04"])
def test_the_days_beside_holidays_are_open(hours: MarketHours, day: str) -> None:
    assert korea(hours, f"{day}T11:00")


@pytest.mark.parametrize(
    ("moment", "expected"),
    [("09:30", False), ("10:00", True), ("16:15", True), ("16:20", False), ("16:45", False), ("17:00", True)],
)
def test_on_the_day_of_the_entrance_examination_everything_is_an_hour_later(
    hours: MarketHours, moment: str, expected: bool
) -> None:
    assert korea(hours, f"2026-11-19T{moment}") is expected
    assert korea(hours, "2026-11-19T08:30", "nxt") is False
    assert korea(hours, "2026-11-19T19:59", "sor") is True
    assert korea(hours, "2026-11-19T20:00", "sor") is False


def test_the_first_day_of_the_year_opens_an_hour_late_and_closes_as_usual(hours: MarketHours) -> None:
    assert [korea(hours, f"2027-01-04T{moment}") for moment in ("09:59", "10:00", "15:19", "15:20")] == [
        False, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("2026-11-23T03:59:59", False),
        ("2026-11-23T04:00:00", True),
        ("2026-11-23T19:59:59", True),
        ("2026-11-23T20:00:00", False),
        ("2026-11-26T12:00:00", False),  # Thanksgiving
        ("2026-11-27T16:59:59", True),  # the half day after it
        ("2026-11-27T17:00:00", False),
        ("2026-12-24T17:00:00", False),  # half day
        ("2026-12-25T12:00:00", False),
        ("2027-07-05T12:00:00", False),  # Independence Day, on a Sunday
        ("2026-11-28T12:00:00", False),
    ],
)
def test_days_in_new_york(hours: MarketHours, local: str, expected: bool) -> None:
    assert america(hours, local) is expected


@pytest.mark.parametrize(
    ("day", "opens_utc"),
    [
        ("2026-10-30", 8),
        ("2026-11-02", 9),  # summer time ended on the first Sunday of November
        ("2027-03-12", 9),
        ("2027-03-15", 8),
    ],
)
def test_summer_time_moves_new_york_and_not_seoul(hours: MarketHours, day: str, opens_utc: int) -> None:
    at = datetime.fromisoformat(day).replace(tzinfo=UTC)
    second = timedelta(seconds=1)

    assert not hours.is_open("us", "", at + timedelta(hours=opens_utc) - second)
    assert hours.is_open("us", "", at + timedelta(hours=opens_utc))
    assert not hours.is_open("kr", "", at - second)
    assert hours.is_open("kr", "", at)  # 00:00 UTC is 09:00 in Seoul, on every day of the year


def test_new_york_trades_across_midnight_in_seoul(hours: MarketHours) -> None:
    for moment in ("2026-11-24T23:59:59", "2026-11-25T00:00:00", "2026-11-25T09:59:59"):
        assert is_open(hours, "us", moment, SEOUL)
    assert not is_open(hours, "us", "2026-11-25T10:00:00", SEOUL)


def test_next_change_is_the_end_of_what_is_open_or_the_next_opening(hours: MarketHours) -> None:
    def change(local: str, exchange: str = "") -> str:
        found = hours.next_change("kr", exchange, datetime.fromisoformat(local).replace(tzinfo=SEOUL))
        assert found is not None
        return datetime.fromtimestamp(found / 1e9, SEOUL).isoformat(timespec="minutes")[:16]

    assert change("2026-11-23T10:00") == "2026-11-23T15:20"
    assert change("2026-11-23T15:20") == "2026-11-23T16:00"
    assert change("2026-11-20T21:00") == "2026-11-23T09:00"  # over a weekend
    assert change("2026-12-30T21:00") == "2027-01-04T10:00"  # over the end of the year
    assert change("2026-11-23T08:55", "nxt") == "2026-11-23T09:00"  # 09:00:30


def test_opened_at_is_the_beginning_of_what_is_open(hours: MarketHours) -> None:
    opening = datetime(2026, 11, 23, 9, 0, tzinfo=SEOUL)

    assert hours.opened_at("kr", "", opening + timedelta(hours=1)) == int(opening.timestamp()) * 10**9
    assert hours.opened_at("kr", "", opening - timedelta(hours=1)) is None


@pytest.mark.parametrize("path", ["missing.json", "."])
def test_without_a_file_everything_with_hours_is_closed(tmp_path: Path, path: str) -> None:
    hours = MarketHours.load(tmp_path / path)
    noon = datetime(2026, 11, 23, 12, tzinfo=SEOUL)

    assert [hours.is_open(market, "", noon) for market in ("kr", "us", "crypto")] == [False, False, True]
    assert hours.next_change("kr", "", noon) is None
    assert hours.next_change("crypto", "", noon) is None
    assert hours.opened_at("crypto", "", noon) is None


def test_an_exchange_or_market_that_nobody_listed_is_closed(hours: MarketHours) -> None:
    assert not korea(hours, "2026-11-23T12:00", "elsewhere")
    assert not is_open(hours, "mars", "2026-11-23T12:00", SEOUL)


def content_of(*intervals: tuple[int, int], version: int = FORMAT_VERSION, until_ns: int = 1000) -> HoursFile:
    return HoursFile(version=version, written_ns=0, until_ns=until_ns, sessions={"kr": list(intervals)})


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 1}',
        b"\xff\xfe",
        msgspec.json.encode(content_of((10, 20), version=2)),
        msgspec.json.encode(content_of((20, 10))),
        msgspec.json.encode(content_of((10, 20), (15, 30))),
        msgspec.json.encode(content_of((30, 40), (10, 20))),
    ],
)
def test_a_damaged_file_is_closed_and_said_once(tmp_path: Path, damaged: bytes) -> None:
    path, clock, log = tmp_path / "hours.json", Clock(), Log()
    path.write_bytes(damaged)
    hours = MarketHours(path, clock=clock, logger=log)

    for _ in range(10):
        clock.now_s += 5
        assert not hours.is_open("kr", "", 15)

    assert log.events == ["market_hours_unreadable"]


def test_a_file_that_is_replaced_is_read_and_a_damaged_one_leaves_the_old_hours(tmp_path: Path) -> None:
    path, clock, log = tmp_path / "hours.json", Clock(), Log()
    hours = MarketHours(write(path, content_of((10, 20))), clock=clock, logger=log)
    assert hours.is_open("kr", "", 15)

    path.write_bytes(b"{")
    clock.now_s += 2
    assert hours.is_open("kr", "", 15)
    path.unlink()
    clock.now_s += 2
    assert hours.is_open("kr", "", 15)
    write(path, content_of((30, 40)))
    clock.now_s += 2
    assert not hours.is_open("kr", "", 15)
    assert hours.is_open("kr", "", 35)
    assert log.events == ["market_hours_unreadable"] * 2


def test_a_file_that_a_first_start_has_yet_to_write_is_not_missed_for_two_minutes(tmp_path: Path) -> None:
    path, clock, log = tmp_path / "hours.json", Clock(), Log()
    hours = MarketHours(path, clock=clock, logger=log)

    for _ in range(11):
        assert not hours.is_open("kr", "", 15)
        clock.now_s += 10
    assert log.events == []
    write(path, content_of((10, 20)))
    assert hours.is_open("kr", "", 15)
    path.unlink()
    clock.now_s += 2
    assert hours.is_open("kr", "", 15)
    assert log.events == ["market_hours_unreadable"]  # now it is missed at once


def test_a_file_that_never_comes_is_missed_once(tmp_path: Path) -> None:
    clock, log = Clock(), Log()
    hours = MarketHours(tmp_path / "hours.json", clock=clock, logger=log)

    for _ in range(20):
        assert not hours.is_open("kr", "", 15)
        clock.now_s += 10

    assert log.events == ["market_hours_unreadable"]


def test_the_file_is_looked_at_once_a_second_at_most(tmp_path: Path) -> None:
    path, clock = tmp_path / "hours.json", Clock()
    hours = MarketHours(write(path, content_of((10, 20))), clock=clock)
    assert hours.is_open("kr", "", 15)

    write(path, content_of((30, 40)))

    assert hours.is_open("kr", "", 15)
    clock.now_s += 1
    assert not hours.is_open("kr", "", 15)


def test_beyond_the_end_of_the_file_everything_is_closed_and_that_is_said_once(tmp_path: Path) -> None:
    path, log = tmp_path / "hours.json", Log()
    hours = MarketHours(write(path, content_of((10, 2000), until_ns=1000)), logger=log, clock=Clock())

    assert hours.is_open("kr", "", 999)
    assert not hours.is_open("kr", "", 1000)
    assert not hours.is_open("kr", "", 1001)
    assert log.events == ["market_hours_expired"]


def test_a_time_without_an_offset_is_refused(hours: MarketHours) -> None:
    with pytest.raises(ValueError, match="offset"):
        hours.is_open("kr", "", datetime(2026, 11, 23, 12))


@given(
    bounds=st.lists(st.integers(0, 10_000), unique=True, max_size=20).map(sorted),
    at=st.integers(-10, 10_010),
)
def test_open_is_inside_an_interval_and_next_change_is_where_it_ends(
    tmp_path_factory: pytest.TempPathFactory, bounds: list[int], at: int
) -> None:
    intervals = list(zip(bounds[::2], bounds[1::2], strict=False))
    path = write(tmp_path_factory.mktemp("given") / "h", content_of(*intervals, until_ns=20_000))
    hours = MarketHours.load(path)

    assert hours.is_open("kr", "", at) == any(opens <= at < closes for opens, closes in intervals)
    changes = [moment for interval in intervals for moment in interval if moment > at]
    assert hours.next_change("kr", "", at) == min(changes, default=None)


# ---- the calendar process ------------------------------------------------------------------------------------


# The same process at our own priority: behind the other tests it would be the slowest of all.
IN_TIME = "from daemon import market_calendar; market_calendar.NICENESS = 0; market_calendar.main()"


def run_calendar(data_dir: Path, text: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", IN_TIME, os.fspath(data_dir)],
        input=text,
        capture_output=True,
        cwd=ROOT,
        timeout=100,
    )


def test_the_calendar_process_writes_a_private_file_for_the_next_weeks(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    now = datetime.now(UTC)
    closed: dict[str, Iterable[date]] = {"kr": [now.date() + timedelta(days=n) for n in range(-4, 36)]}
    text = market_calendar.closed_days(closed)

    done = run_calendar(tmp_path, text)

    assert (done.returncode, done.stderr) == (0, b"")
    path = market_calendar.path_in(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    content = msgspec.json.decode(path.read_bytes(), type=HoursFile)
    assert timedelta(days=33) < datetime.fromtimestamp(content.until_ns / 1e9, UTC) - now <= timedelta(days=35)
    assert len(content.sessions["us"]) > 20
    assert content.sessions.get("kr", []) == []  # every day of it is closed, says the operator
    wall_ns = int(now.timestamp() * 1e9)
    assert market_calendar.is_fresh(path, closed=closed, wall_ns=wall_ns + 10**10)
    assert not market_calendar.is_fresh(path, closed={}, wall_ns=wall_ns + 10**10)
    before = path.stat()
    assert run_calendar(tmp_path, text).returncode == 0
    assert path.stat() == before  # it was fresh
    assert not market_calendar.is_fresh(path, closed=closed, wall_ns=wall_ns + 13 * 3600 * 10**9)
    assert not market_calendar.is_fresh(tmp_path / "nothing", closed={}, wall_ns=wall_ns)


def test_a_calendar_process_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = market_calendar.path_in(tmp_path)
    path.parent.mkdir()
    path.write_bytes(b"old")

    done = run_calendar(tmp_path, b'{"kr": ["no date"]}')

    assert done.returncode == 1
    assert path.read_bytes() == b"old"


@pytest.mark.nightly
def test_a_calendar_process_that_cannot_write_fails(tmp_path: Path) -> None:
    assert run_calendar(tmp_path / "nowhere", b"").returncode == 1


def test_the_operators_days_are_closed_too() -> None:
    ordinary = TradingDay(date(2027, 6, 2), market_calendar.KRX_OPENS, market_calendar.KRX_CLOSES)

    assert list(corrected("kr", [ordinary])) == [ordinary]
    assert list(corrected("kr", [ordinary], [date(2027, 6, 2)])) == []


@pytest.mark.requirement("LEAK-02")
@pytest.mark.parametrize(
    "module",
    [
        "daemon.ingest.worker",
        "daemon.sinks.writer_process",
        "daemon.sinks.publisher",
        "daemon.watching.monitor",
        "daemon.supervision.supervisor",
        "daemon.topology",
        "daemon.market_hours",
        "daemon.market_calendar",
    ],
)
def test_no_lasting_process_imports_the_calendar_library(module: str) -> None:
    program = f"import sys, json, {module}; json.dump(sorted(m.partition('.')[0] for m in sys.modules), sys.stdout)"

    loaded: list[Any] = json.loads(
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT).stdout
    )

    assert {"exchange_calendars", "pandas", "numpy"} & set(loaded) == set()


def test_keys_of_the_file() -> None:
    assert [market_key("kr", ""), market_key("kr", "nxt")] == ["kr", "kr.nxt"]
    assert os.fspath(market_calendar.path_in(Path("/x"))) == "/x/run/market_hours.json"
