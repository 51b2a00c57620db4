"""What all sessions of one venue share, and what all venues of one simulator share."""

import random
import time
import zoneinfo
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from daemon.simulator.approval import Approvals
from daemon.simulator.faults import Faults
from daemon.simulator.journal import Journal
from daemon.simulator.market import ExchangeTime
from daemon.simulator.options import MAX_REGISTRATIONS, SimulatorOptions
from daemon.simulator.streams import Fate, Stream, with_corrections

if TYPE_CHECKING:
    from daemon.simulator.session import Session

KST_OFFSET_S = 9 * 3600
NS_PER_S = 1_000_000_000
NEW_YORK = zoneinfo.ZoneInfo("America/New_York")
# Where the keys of an exchange's streams begin, so that a table that holds several exchanges can tell them apart.
KEY_BASES = {"": 0, "nxt": 2 * 10**9, "sor": 4 * 10**9, "day": 6 * 10**9}
ROLL_BASE = 10**9  # where cumulative volumes begin if they are to start again from 0 later


class World:
    """What every venue of one run shares: options, faults, journal and clocks. Only the event loop touches it."""

    def __init__(self, options: SimulatorOptions, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self.options = options
        self.wall_ns = wall_ns
        self.faults = Faults(options.faults)
        self.journal = Journal(options.journal) if options.journal else None
        self.started_s = time.monotonic()
        self.registered: Callable[[], int] = lambda: 0  # how many registrations all venues have; set by who has them
        self.has_begun = False
        self._offset_ns = options.clock_offset_ns(wall_ns())
        self._second = -1
        self._now = ExchangeTime("", "")

    def exchange_ns(self) -> int:
        """Return the exchanges' clock, ns since 1970 UTC."""
        return self.wall_ns() + self._offset_ns

    def exchange_time(self) -> ExchangeTime:
        """Return the exchanges' clock as the wire has it; the same object within a second."""
        second = self.exchange_ns() // NS_PER_S
        if second != self._second:
            korean = time.gmtime(second + KST_OFFSET_S)
            here = datetime.fromtimestamp(second, NEW_YORK)
            self._second = second
            self._now = ExchangeTime(
                time.strftime("%H%M%S", korean),
                time.strftime("%Y%m%d", korean),
                here.strftime("%H%M%S"),
                here.strftime("%Y%m%d"),
            )
        return self._now

    @property
    def is_waiting(self) -> bool:
        """Whether nothing may be sent yet, because registrations are missing."""
        if not self.has_begun and self.registered() >= self.options.start_after:
            self.has_begun = True
        return not self.has_begun

    def elapsed_s(self) -> float:
        """Return how long the run has lasted."""
        return time.monotonic() - self.started_s


class Speech(Protocol):
    """What differs from venue to venue, besides its sessions."""

    name: str

    def make_stream(self, channel: str, key: str) -> Stream:
        """Return a new stream of what a client asked for in the venue's words."""

    def may_share_frame(self, first: Stream, other: Stream) -> bool:
        """Tell whether one frame can carry records of both."""

    def garbage(self) -> tuple[tuple[str, str], ...]:
        """Return (shape, message) of what no parser may take for data."""


class Venue:
    """The state of one venue in one run."""

    def __init__(self, world: World, speech: Speech) -> None:
        self.world = world
        self.options = world.options
        self.speech = speech
        self.name = speech.name
        self.approvals = Approvals(world.faults, self.name, time.monotonic)
        self.draw = random.Random(f"{self.options.seed}:{self.name}:framing")  # noqa: S311 - a market, not a secret
        self.sessions: dict[int, Session] = {}
        self.streams: dict[tuple[str, str], Stream] = {}
        self.registrations_version = 0  # goes up with each change, so that the offer knows when to look again
        self.is_stalled = False
        self.replies: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.garbage: Counter[str] = Counter()
        self.heartbeat_echo_max_ms = 0.0
        limit = self.options.max_registrations
        self.max_registrations = MAX_REGISTRATIONS[self.name] if limit is None else limit

    @property
    def registrations(self) -> int:
        """How many registrations all sessions have now."""
        return sum(len(session.registrations) for session in self.sessions.values())

    def stream(self, channel: str, key: str) -> Stream:
        """Return the one stream of *key*, made when first asked for and kept over reconnects."""
        place = (channel, key)
        if place not in self.streams:
            self.streams[place] = stream = self.speech.make_stream(channel, key)
            self._prepare(stream)
        return self.streams[place]

    def _prepare(self, stream: Stream) -> None:
        """Let the faults of the market into a new stream."""
        faults = self.world.faults
        depth = max(plan.replay for plan in (faults.general, *map(faults.own, faults.tags)))
        if depth:
            stream.keeps_last = True
            stream.recent = type(stream.recent)(maxlen=depth)
        every = faults.general.correct_every.get(stream.subject.symbol)
        if every and stream.is_trade and hasattr(stream.instrument, "correct"):
            stream.produce = with_corrections(stream, every)

    def first_keys(self, exchange: str) -> tuple[int, int]:
        """Return the cumulative volume and the number of the book at which an instrument begins."""
        base = KEY_BASES[exchange]
        return base + (ROLL_BASE if self.world.faults.general.roll_after_s else 0), base

    def roll(self) -> None:
        """Begin a new session of every instrument."""
        rolled = {id(s.instrument): s.instrument for s in self.streams.values() if hasattr(s.instrument, "roll")}
        for instrument in rolled.values():
            assert instrument is not None
            instrument.roll()
        self.note("roll", 0)

    def new_session_number(self) -> int:
        """Return the next number; the first session is 1."""
        self.counts["sessions"] += 1
        return self.counts["sessions"]

    def note_change(self) -> None:
        """Say that registrations, or what a session may hear, have changed."""
        self.registrations_version += 1

    def note(self, event: str, session: int, **fields: Any) -> None:
        """Put an event into the journal, if there is one. Any: an event has what it has."""
        if self.world.journal is not None:
            extra = {} if self.name == "kis" else {"venue": self.name}
            self.world.journal.event(event=event, time_ns=self.world.wall_ns(), session=session, **extra, **fields)

    def write_lines(self, lines: list[str]) -> None:
        """Put records into the journal, sent now."""
        if lines and self.world.journal is not None:
            self.world.journal.record_lines("".join(lines).replace("\0", str(self.world.wall_ns())))

    def sent(self, fate: Fate = Fate.SENT) -> dict[str, dict[str, int]]:
        """Return records by symbol and kind, for trades and order books."""
        found: dict[str, dict[str, int]] = {}
        for stream in self.streams.values():
            subject = stream.subject
            name = subject.symbol + (f":{subject.exchange}" if subject.exchange else "")
            kinds = found.setdefault(name, {"trade": 0, "orderbook": 0})
            kinds[subject.kind] = kinds.get(subject.kind, 0) + stream.counts[fate]
        return dict(sorted(found.items()))
