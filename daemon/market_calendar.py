"""Write `run/market_hours.json`: when each market trades in the next weeks. A short-lived process.

`python -m daemon.market_calendar DATA_DIR`, with the days that the operator declares closed on standard input, as JSON:
`{"kr": ["2027-06-02"]}`. Exchange holidays and unusual hours come from the calendar library, which takes tens of
megabytes: only this process imports it, and ends. Everything else asks `daemon/market_hours.py`.
"""

import os
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from importlib.metadata import version
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

from daemon.market_hours import FILE, FORMAT_VERSION, HoursFile, Interval
from daemon.supervision.directory_lock import write_atomically

DAYS_BEHIND = 4  # a clock that is wrong by a day, or a record from before midnight, is still answered
DAYS_AHEAD = 35  # a daemon that cannot renew the file for a month still knows its holidays
REFRESH_INTERVAL_S = 12 * 3600.0  # holidays are declared at days' notice; the library is updated with the daemon
NICENESS = 19  # two seconds of work that nobody waits for
NS_PER_S = 1_000_000_000

SEOUL = ZoneInfo("Asia/Seoul")
NEW_YORK = ZoneInfo("America/New_York")
CALENDARS = {"kr": ("XKRX", SEOUL), "us": ("XNYS", NEW_YORK)}


@dataclass(frozen=True, slots=True)
class TradingDay:
    """The regular session of one day: local times, from the opening to the end of the closing auction."""

    day: date
    opens: clock_time
    closes: clock_time


# What exchange_calendars 4.13 does not know.
CLOSED = {
    "kr": frozenset(
        {
            date(2026, 6, 3),  # local elections
            date(2026, 7, 17),  # Constitution Day, a public holiday again since 2026
            date(2027, 5, 3),  # substitute for Labour Day, a public holiday since 2026, on a Saturday
            date(2027, 7, 19),  # substitute for Constitution Day on a Saturday
        }
    ),
    "us": frozenset[date](),
}
# The days of the university entrance examination: everything an hour later.
EXAMINATION_DAYS = frozenset({date(2026, 11, 19), date(2027, 11, 18)})
EXAMINATION_HOURS = (clock_time(10, 0), clock_time(16, 30))

KRX_OPENS, KRX_CLOSES = clock_time(9, 0), clock_time(15, 30)
CLOSING_AUCTION = timedelta(minutes=10)  # nothing is traded meanwhile
AFTER_MARKET_SINCE = date(2026, 9, 14)
AFTER_MARKET_DELAY = timedelta(minutes=30)  # from the close of the regular session
NXT_PRE_MARKET = (clock_time(8, 0), clock_time(8, 50))
NXT_MAIN_DELAY = timedelta(seconds=30)  # from the opening at the main exchange
NXT_AFTER_DELAY = timedelta(minutes=10)
EVENING_END = clock_time(20, 0)  # also on days that begin late

US_PRE_MARKET_OPENS = clock_time(4, 0)
US_AFTER_MARKET = timedelta(hours=4)  # 20:00, and 17:00 after a half day

Hours = tuple[datetime, datetime]


def korean_hours(day: TradingDay) -> dict[str, list[Hours]]:
    """Return the hours of the main exchange, of the alternative one (`kr.nxt`), and of either (`kr.sor`).

    A late opening or close moves what is bound to it by as much; the evening ends at its usual time.
    """
    opens, closes = (datetime.combine(day.day, moment, SEOUL) for moment in (day.opens, day.closes))
    late_by = opens - datetime.combine(day.day, KRX_OPENS, SEOUL)
    evening_end = datetime.combine(day.day, EVENING_END, SEOUL)
    before_auction = closes - CLOSING_AUCTION
    main = [(opens, before_auction)]
    if day.day >= AFTER_MARKET_SINCE:
        main.append((closes + AFTER_MARKET_DELAY, evening_end))
    pre_opens, pre_closes = (datetime.combine(day.day, moment, SEOUL) + late_by for moment in NXT_PRE_MARKET)
    alternative = [
        (pre_opens, pre_closes),
        (opens + NXT_MAIN_DELAY, before_auction),
        (closes + NXT_AFTER_DELAY, evening_end),
    ]
    return {"kr": main, "kr.nxt": alternative, "kr.sor": merge([*main, *alternative])}


def american_hours(day: TradingDay) -> dict[str, list[Hours]]:
    """Return the hours from the start of the pre-market to the end of the after-market.

    The day session in Korean office hours, which has registrations of its own, is not in them: for all others it is
    night then.
    """
    opens = datetime.combine(day.day, US_PRE_MARKET_OPENS, NEW_YORK)
    closes = datetime.combine(day.day, day.closes, NEW_YORK) + US_AFTER_MARKET
    return {"us": [(opens, closes)]}


HOURS = {"kr": korean_hours, "us": american_hours}


def merge(hours: Iterable[Hours]) -> list[Hours]:
    """Return the union of *hours*, in order."""
    merged: list[Hours] = []
    for opens, closes in sorted(hours):
        if merged and opens <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(closes, merged[-1][1]))
        else:
            merged.append((opens, closes))
    return merged


def corrected(market: str, days: Iterable[TradingDay], closed: Iterable[date] = ()) -> Iterator[TradingDay]:
    """Yield *days* without those that are closed, with the hours that the library does not know."""
    closed_days = CLOSED[market] | frozenset(closed)
    for day in days:
        if day.day in closed_days:
            continue
        is_ordinary = (day.opens, day.closes) == (KRX_OPENS, KRX_CLOSES)
        if market == "kr" and day.day in EXAMINATION_DAYS and is_ordinary:
            yield replace(day, opens=EXAMINATION_HOURS[0], closes=EXAMINATION_HOURS[1])
        else:
            yield day


def hours_file(
    days: Mapping[str, Iterable[TradingDay]],
    *,
    last: date,
    written_ns: int = 0,
    closed: Mapping[str, Iterable[date]] | None = None,
) -> HoursFile:
    """Return the file for the trading *days* of each market, in order, which are known up to and with *last*."""
    sessions: dict[str, list[Interval]] = {}
    for market, listed in days.items():
        for day in listed:
            for key, hours in HOURS[market](day).items():
                sessions.setdefault(key, []).extend((_ns(opens), _ns(closes)) for opens, closes in hours)
    return HoursFile(
        version=FORMAT_VERSION,
        written_ns=written_ns,
        closed=_sorted_days(closed or {}),
        until_ns=_ns(datetime.combine(last, clock_time(), UTC)),  # the next day has begun nowhere yet
        sessions=sessions,
    )


def _ns(moment: datetime) -> int:
    return round(moment.timestamp()) * NS_PER_S


def library_days(market: str, first: date, last: date) -> list[TradingDay]:
    """Return the trading days of *market* as the calendar library knows them. Takes a second or two, and 40 MB."""
    import exchange_calendars  # type: ignore[import-untyped] # noqa: PLC0415 - why this is a process of its own

    name, zone = CALENDARS[market]
    calendar = exchange_calendars.get_calendar(name, start=first.isoformat(), end=last.isoformat())
    return [
        TradingDay(opens.date(), opens.time(), closes.time())
        for opens, closes in (
            (row.open.to_pydatetime().astimezone(zone), row.close.to_pydatetime().astimezone(zone))
            for row in calendar.schedule.itertuples()
        )
    ]


def build(now: datetime, closed: Mapping[str, Iterable[date]]) -> HoursFile:
    """Return the file for the days around *now*; *closed*: what the operator added."""
    first, last = now.date() - timedelta(days=DAYS_BEHIND), now.date() + timedelta(days=DAYS_AHEAD)
    content = hours_file(
        {market: corrected(market, library_days(market, first, last), closed.get(market, ())) for market in CALENDARS},
        last=last,
        written_ns=_ns(now),
        closed=closed,
    )
    return msgspec.structs.replace(content, made_by=made_by())


def path_in(data_dir: Path) -> Path:
    """Return where the file of the daemon on *data_dir* is."""
    return data_dir / FILE


def command(data_dir: Path) -> tuple[str, ...]:
    """Return the command line that writes the file; it expects closed_days() on its standard input."""
    return (sys.executable, "-m", "daemon.market_calendar", str(data_dir))


def closed_days(closed: Mapping[str, Iterable[date]]) -> bytes:
    """Return *closed* as the process expects it on its standard input."""
    return msgspec.json.encode(_sorted_days(closed))


def _sorted_days(closed: Mapping[str, Iterable[date]]) -> dict[str, list[date]]:
    return {market: sorted(days) for market, days in sorted(closed.items())}


def is_fresh(path: Path, *, closed: Mapping[str, Iterable[date]], wall_ns: int) -> bool:
    """Return whether the file at *path* is of today, and made for the same *closed* days."""
    try:
        content = msgspec.json.decode(path.read_bytes(), type=HoursFile)
    except (OSError, msgspec.DecodeError):
        return False
    age_s = (wall_ns - content.written_ns) / NS_PER_S
    is_ours = content.version == FORMAT_VERSION and content.made_by == made_by()
    is_ours = is_ours and content.closed == _sorted_days(closed)
    return is_ours and 0 <= age_s < REFRESH_INTERVAL_S


def made_by() -> str:
    """Return what the content of the file depends on, besides the day: the library's version, and this module."""
    return f"{version('exchange_calendars')} {zlib.crc32(Path(__file__).read_bytes()):08x}"


def main() -> None:
    """Write the file unless it is fresh. A failure (exit code 1) leaves the old one, which is good for weeks."""
    os.nice(NICENESS)
    text = sys.stdin.buffer.read() if not sys.stdin.isatty() else b""
    closed = msgspec.json.decode(text, type=dict[str, list[date]]) if text.strip() else {}
    path = path_in(Path(sys.argv[1]))
    now = datetime.fromtimestamp(time.time(), UTC)
    if not is_fresh(path, closed=closed, wall_ns=_ns(now)):
        write_atomically(path, msgspec.json.encode(build(now, closed)))


if __name__ == "__main__":
    main()
