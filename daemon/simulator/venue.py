"""What all sessions of one simulator share: options, faults, market, keys, journal, and the counts of what happened."""

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from daemon.simulator.approval import Approvals
from daemon.simulator.faults import parse_faults
from daemon.simulator.journal import Journal
from daemon.simulator.market import ExchangeTime, Market
from daemon.simulator.options import SimulatorOptions

if TYPE_CHECKING:
    from daemon.simulator.session import Registration, Session

KST_OFFSET_S = 9 * 3600
NS_PER_S = 1_000_000_000


class Venue:
    """The state of one run. Only the event loop's thread touches it."""

    def __init__(self, options: SimulatorOptions, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self.options = options
        self.wall_ns = wall_ns
        self.faults = parse_faults(options.faults)
        self.market = Market(options.seed)
        self.approvals = Approvals(expire_first=self.faults.expire_key)
        self.journal = Journal(options.journal) if options.journal else None
        self.draw = random.Random(f"{options.seed}:framing")  # noqa: S311 - a market, not a secret
        self.sessions: dict[int, Session] = {}
        self.registrations: list[Registration] = []
        self.registrations_version = 0  # goes up with each change, so that the offer knows when to look again
        self.is_stalled = False
        self.replies: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.garbage: Counter[str] = Counter()
        self.approval_counts = {"issued": 0, "rejected": 0, "refused": 0}
        self.pingpong_echo_max_ms = 0.0
        self._second = -1
        self._now = ExchangeTime("", "")
        limit = self.faults.limit
        self.max_registrations = options.max_registrations if limit is None else min(limit, options.max_registrations)

    def exchange_time(self) -> ExchangeTime:
        """Return the exchange's clock; the same object within a second."""
        second = self.wall_ns() // NS_PER_S
        if second != self._second:
            korean = time.gmtime(second + KST_OFFSET_S)
            self._second = second
            self._now = ExchangeTime(time.strftime("%H%M%S", korean), time.strftime("%Y%m%d", korean))
        return self._now

    def new_session_number(self) -> int:
        """Return the next number; the first session is 1."""
        self.counts["sessions"] += 1
        return self.counts["sessions"]

    def refresh_registrations(self) -> None:
        """Gather the registrations of all sessions again, after one of them changed."""
        self.registrations = [r for session in self.sessions.values() for r in session.registrations.values()]
        self.registrations_version += 1

    def note(self, event: str, session: int, **fields: Any) -> None:
        """Put an event into the journal, if there is one."""
        if self.journal is not None:
            self.journal.event(event=event, time_ns=self.wall_ns(), session=session, **fields)
