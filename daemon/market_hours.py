"""When a market trades: the intervals that `daemon/market_calendar.py` has written, without its calendar library.

Open means continuous trading: then silence is a reason to doubt the line. A call auction, in which nothing is traded
for ten minutes, is therefore closed. What no calendar lists (no file, a damaged one, a day beyond its end, an unknown
exchange) is closed too: a watchdog that waits does less harm than one that reconnects all night. Markets without hours
are always open.
"""

import time
from bisect import bisect_right
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec

from daemon import log

FILE = Path("run", "market_hours.json")  # in the data directory
ALWAYS_OPEN = frozenset({"crypto"})
FORMAT_VERSION = 1
CHECK_INTERVAL_S = (
    1.0  # between two looks at the file: a look costs a system call, and asking is done for every session
)
# So long after the first look a missing file is nothing to talk about: in a new data directory it is written by a
# process that starts with the daemon and needs seconds.
FIRST_FILE_S = 120.0
NS_PER_S = 1_000_000_000

Interval = tuple[int, int]  # [opening, closing), wall clock ns


class HoursFile(msgspec.Struct, frozen=True, kw_only=True):
    """Content of the file. `sessions`: by `market` or `market.exchange`, in order of time, without overlap."""

    version: int
    written_ns: int
    made_by: str = ""  # version of the calendar library and of our corrections
    closed: dict[str, list[date]] = {}  # what the operator added, by market
    until_ns: int  # from then on nothing is known
    sessions: dict[str, list[Interval]]


def market_key(market: str, exchange: str) -> str:
    """Return how the file names *exchange* ("" for the main one) of *market*."""
    return f"{market}.{exchange}" if exchange else market


class MarketHours:
    """Answers from the file at *path*, which is read again when it changes."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic, logger: Any = None) -> None:
        self._path = path
        self._clock = clock
        self._log: Any = log.get() if logger is None else logger  # structlog's bound logger
        self._checked_s: float | None = None
        self._began_s: float | None = None  # the first look
        self._identity: tuple[int, int, int] | None = None
        self._problem = ""
        self._opens: dict[str, list[int]] = {}
        self._closes: dict[str, list[int]] = {}
        self._until_ns = 0
        self._has_expired = False

    @classmethod
    def load(cls, path: str | Path, *, clock: Callable[[], float] = time.monotonic) -> "MarketHours":
        """Return the hours of the file at *path*; a damaged one, or none for long, is logged and means closed."""
        hours = cls(Path(path), clock=clock)
        hours.refresh()
        return hours

    def refresh(self) -> None:
        """Look at the file, and read it if it is another one. What a damaged one replaced stays in use."""
        self._checked_s = self._clock()
        if self._began_s is None:
            self._began_s = self._checked_s
        try:
            found = self._path.stat()
            identity = (found.st_ino, found.st_mtime_ns, found.st_size)
            if identity == self._identity:
                return
            content = msgspec.json.decode(self._path.read_bytes(), type=HoursFile)
            _check(content)
        except OSError as exc:
            self._identity = None
            is_new = not self._until_ns and self._checked_s - self._began_s < FIRST_FILE_S
            if not (is_new and isinstance(exc, FileNotFoundError)):
                self._note(exc.strerror or type(exc).__name__)
            return
        except (msgspec.DecodeError, ValueError) as exc:
            self._identity = identity
            self._note(str(exc))
            return
        self._identity = identity
        self._problem = ""
        self._opens = {key: [start for start, _ in listed] for key, listed in content.sessions.items()}
        self._closes = {key: [end for _, end in listed] for key, listed in content.sessions.items()}
        self._until_ns = content.until_ns
        self._has_expired = False

    def is_open(self, market: str, exchange: str, at: int | datetime) -> bool:
        """Return whether there is continuous trading; *at* is a wall clock in ns, or a datetime with its offset."""
        if market in ALWAYS_OPEN:
            return True
        at_ns = _to_ns(at)
        self._refresh_if_due()
        if at_ns >= self._until_ns:
            self._note_expired()
            return False
        key = market_key(market, exchange)
        place = bisect_right(self._opens.get(key, ()), at_ns) - 1
        return place >= 0 and at_ns < self._closes[key][place]

    def opened_at(self, market: str, exchange: str, at: int | datetime) -> int | None:
        """Return since when the market is open at *at*, in wall clock ns; None: it is closed, or never closes."""
        if market in ALWAYS_OPEN or not self.is_open(market, exchange, at):
            return None
        opens = self._opens[market_key(market, exchange)]
        return opens[bisect_right(opens, _to_ns(at)) - 1]

    def next_change(self, market: str, exchange: str, at: int | datetime) -> int | None:
        """Return when the answer of is_open() changes after *at*, in wall clock ns; None: not within the file."""
        if market in ALWAYS_OPEN:
            return None
        at_ns = _to_ns(at)
        self._refresh_if_due()
        key = market_key(market, exchange)
        times = (
            listed[place]
            for listed in (self._opens.get(key, []), self._closes.get(key, []))
            if (place := bisect_right(listed, at_ns)) < len(listed)
        )
        return min(times, default=None)

    def _refresh_if_due(self) -> None:
        if self._checked_s is None or self._clock() - self._checked_s >= CHECK_INTERVAL_S:
            self.refresh()

    def _note(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._log.warning("market_hours_unreadable", path=str(self._path), error=problem)

    def _note_expired(self) -> None:
        if self._until_ns and not self._has_expired:
            self._has_expired = True
            self._log.warning("market_hours_expired", path=str(self._path))


def _to_ns(at: int | datetime) -> int:
    if isinstance(at, int):
        return at
    if at.tzinfo is None:
        raise ValueError(f"{at}: expected a time with its offset")
    return round(at.timestamp() * 1_000_000) * 1000


def _check(content: HoursFile) -> None:
    """Refuse what cannot be searched. Raises ValueError."""
    if content.version != FORMAT_VERSION:
        raise ValueError(f"has version {content.version}, expected {FORMAT_VERSION}")
    for key, listed in content.sessions.items():
        flat = [moment for interval in listed for moment in interval]
        if flat != sorted(set(flat)):
            raise ValueError(f"{key}: expected intervals in order of time, without overlap")
