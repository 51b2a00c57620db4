"""How old the newest data of each market is, and whether the market is open: from readings, pure."""

from collections.abc import Iterable
from typing import Protocol

import msgspec

from daemon.config import Feed
from daemon.market_hours import market_key
from daemon.supervision.supervisor import NAME as SUPERVISOR
from daemon.watching.readings import NS_PER_S, WORKER, Reading


class Hours(Protocol):
    """The part of MarketHours that is needed here."""

    def is_open(self, market: str, exchange: str, at: int) -> bool:
        """Return whether there is continuous trading at *at*, wall clock ns."""

    def opened_at(self, market: str, exchange: str, at: int) -> int | None:
        """Return since when it is open at *at*; None: it is closed, or has no hours."""

    def next_change(self, market: str, exchange: str, at: int) -> int | None:
        """Return when it opens or closes next."""


class MarketReading(msgspec.Struct, frozen=True, kw_only=True):
    """One market at one moment."""

    name: str
    is_open: bool
    last_data_ns: int  # 0: none ever
    expected_since_ns: int  # since when there should have been data, wall clock; 0: it should not
    changes_at_ns: int | None


def collected_markets(feeds: Iterable[Feed]) -> tuple[str, ...]:
    """Return the markets of *feeds*, in their order: `kr`, `kr.nxt`, ..."""
    return tuple(dict.fromkeys(market_key(feed.market, feed.exchange) for feed in feeds))


def market_readings(reading: Reading, markets: Iterable[str], hours: Hours) -> list[MarketReading]:
    """Return every market of *markets*, and those that a worker collects since a reload, as *reading* finds them."""
    now_ns = reading.wall_ns
    started_ns = min((one.started_ns for one in reading.processes if one.name == SUPERVISOR), default=now_ns)
    said = _newest_said(reading)
    of_all = max((one.values["last_data_ns"] for one in reading.processes if one.role == WORKER), default=0)
    found = []
    for name in dict.fromkeys([*markets, *sorted(said)]):
        market, _, exchange = name.partition(".")
        last_ns = said.get(name, of_all) if any(said.values()) else of_all  # until more is said, all stand for it
        is_open = hours.is_open(market, exchange, now_ns)
        since_ns = max(last_ns, hours.opened_at(market, exchange, now_ns) or 0, started_ns) if is_open else 0
        found.append(
            MarketReading(
                name=name,
                is_open=is_open,
                last_data_ns=last_ns,
                expected_since_ns=since_ns,
                changes_at_ns=hours.next_change(market, exchange, now_ns),
            )
        )
    return found


def _newest_said(reading: Reading) -> dict[str, int]:
    """Return {market: receive time of its newest record}, as far as the workers have written it down."""
    newest: dict[str, int] = {}
    for status in reading.workers.values():
        for session in status.sessions:
            for market, wall_ns in session.markets.items():
                newest[market] = max(newest.get(market, 0), wall_ns)
    return newest


class Silences:
    """For how long each market has been without data in trading hours.

    Counted by the monotonic clock from the moment at which the newest record changed, so that a wall clock that is set
    raises no alarm. Only the first look has nothing but the wall clock.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}  # expected_since_ns, and the monotonic second it stands for

    def update(self, reading: Reading, markets: Iterable[MarketReading]) -> dict[str, float]:
        """Return {market: seconds} for those in which data are expected."""
        now_s = reading.mono_ns / NS_PER_S
        found = {}
        for market in markets:
            if market.expected_since_ns == 0:
                continue  # its next opening is another moment, from which a new count begins
            since_ns, since_s = self._seen.get(market.name, (0, 0.0))
            if since_ns == 0:
                since_s = now_s - max(0, reading.wall_ns - market.expected_since_ns) / NS_PER_S
            elif since_ns != market.expected_since_ns:
                since_s = now_s
            self._seen[market.name] = (market.expected_since_ns, since_s)
            found[market.name] = now_s - since_s
        return found
