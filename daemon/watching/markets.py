"""How old the newest data of each market is, and whether the market is open: from readings, pure."""

from collections.abc import Iterable, Mapping
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


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A market that the settings collect, through which accounts."""

    market: str
    exchange: str
    accounts: frozenset[str]

    @property
    def key(self) -> str:
        """`kr`, `kr.nxt`."""
        return market_key(self.market, self.exchange)


class MarketReading(msgspec.Struct, frozen=True, kw_only=True):
    """One market at one moment."""

    name: str
    is_open: bool
    last_data_ns: int  # 0: none ever
    expected_since_ns: int  # since when there should have been data, wall clock; 0: it should not
    changes_at_ns: int | None


def wanted(feeds: Iterable[Feed]) -> tuple[Wanted, ...]:
    """Return the markets of *feeds*, in their order."""
    accounts: dict[tuple[str, str], set[str]] = {}
    for feed in feeds:
        accounts.setdefault((feed.market, feed.exchange), set()).update(feed.accounts or (feed.account,))
    return tuple(
        Wanted(market=market, exchange=exchange, accounts=frozenset(names))
        for (market, exchange), names in accounts.items()
    )


def market_readings(reading: Reading, markets: Iterable[Wanted], hours: Hours) -> list[MarketReading]:
    """Return every market of *markets* as *reading* finds it."""
    now_ns = reading.wall_ns
    started_ns = min((one.started_ns for one in reading.processes if one.name == SUPERVISOR), default=now_ns)
    found = []
    for one in markets:
        is_open = hours.is_open(one.market, one.exchange, now_ns)
        last_ns = last_data_ns(reading, one)
        since_ns = max(last_ns, hours.opened_at(one.market, one.exchange, now_ns) or 0, started_ns) if is_open else 0
        found.append(
            MarketReading(
                name=one.key,
                is_open=is_open,
                last_data_ns=last_ns,
                expected_since_ns=since_ns,
                changes_at_ns=hours.next_change(one.market, one.exchange, now_ns),
            )
        )
    return found


def last_data_ns(reading: Reading, market: Wanted) -> int:
    """Return the receive time of the newest record of *market*.

    A session that does not say which markets it carries is known by its account, and one that does not say when its
    newest record came stands for its whole worker.
    """
    newest, is_said = 0, False
    of_worker: Mapping[str, int] = {
        process.name: process.values["last_data_ns"] for process in reading.processes if process.role == WORKER
    }
    for worker, status in reading.workers.items():
        for session in status.sessions:
            carries = market.key in session.markets if session.markets else session.account in market.accounts
            if carries:
                is_said = True
                newest = max(newest, session.last_data_ns or of_worker.get(worker, 0))
    return newest if is_said else max(of_worker.values(), default=0)


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
                self._seen.pop(market.name, None)
                continue
            since_ns, since_s = self._seen.get(market.name, (0, 0.0))
            if since_ns == 0:
                since_s = now_s - max(0, reading.wall_ns - market.expected_since_ns) / NS_PER_S
            elif since_ns != market.expected_since_ns:
                since_s = now_s
            self._seen[market.name] = (market.expected_since_ns, since_s)
            found[market.name] = now_s - since_s
        return found
