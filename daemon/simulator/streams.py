"""Streams: one kind of data of one symbol, the same for everyone who registered it.

That everybody hears the same records is what lets an A/B pair of sessions be merged and checked: the journal has one
line a record, however many sessions got it.
"""

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from daemon.simulator.market import ExchangeTime

if TYPE_CHECKING:
    from daemon.simulator.session import Session

# What a producer returns: the payload (a text, or what the venue's session makes its text of), the key that tells the
# record from all others of the stream, a price and a size. See `market.Record`. Any: each venue has its own payload.
Record = tuple[Any, int, Any, Any]
Producer = Callable[[ExchangeTime], Record]


class Fate(StrEnum):
    """What became of a record, the better one first where sessions differ."""

    SENT = "sent"
    DAMAGED = "damaged"  # travelled in a frame that says or holds something wrong
    DROPPED = "dropped"  # left out on purpose
    UNHEARD = "unheard"  # nobody was connected


RANKS = {fate: rank for rank, fate in enumerate(Fate)}


class Subject(NamedTuple):
    """What a stream is about."""

    market: str
    exchange: str  # "" for the main one
    symbol: str
    kind: str  # trade, orderbook, or one that comes by the clock


class MovingMarket(Protocol):
    """What the faults of the market need of an instrument."""

    def prepare_corrections(self) -> None:
        """Get ready for `correct()`."""

    def correct(self) -> None:
        """Let the cumulative volume go down."""

    def settle(self) -> None:
        """Go on after the trade that shows the correction."""

    def roll(self) -> None:
        """Begin a new session with the next second."""


class Stream:
    """One stream. `sessions` are those that hear it now; `only` is set if that is one, which needs no care."""

    __slots__ = (
        "channel", "instrument", "keeps_last", "key", "only", "others", "place", "produce", "recent",
        "sent", "sent_tail", "sessions", "subject", "tails",
    )  # fmt: skip

    def __init__(
        self, venue: str, place: tuple[str, str], subject: Subject, produce: Producer, instrument: Any = None
    ) -> None:
        self.place = place
        self.channel, self.key = place  # in the venue's own words
        self.subject = subject
        self.produce = produce
        self.instrument: MovingMarket | None = instrument
        self.sessions: list[Session] = []
        self.only: Registration | None = None
        self.keeps_last = False
        self.recent: deque[Record] = deque(maxlen=1)
        self.sent = 0  # records of that fate: apart, because the hash of an enum's member is slow
        self.others: dict[Fate, int] = {fate: 0 for fate in Fate if fate is not Fate.SENT}
        self.tails = {fate: f",{venue},{subject.market},{subject.exchange},{fate.value}\n" for fate in Fate}
        self.sent_tail = self.tails[Fate.SENT]

    @property
    def is_trade(self) -> bool:
        """Whether its records are trades."""
        return self.subject.kind == "trade"

    @property
    def counts(self) -> dict[Fate, int]:
        """Return how many records had which fate."""
        return {Fate.SENT: self.sent, **self.others}

    def line(self, session: int, record: Record, fate: Fate) -> str:
        """Return the journal's line of *record*, with a NUL where the time of sending goes."""
        if fate is Fate.SENT:
            self.sent += 1
        else:
            self.others[fate] += 1
        _, key, price, size = record
        return f"{session},{self.subject.kind},{self.subject.symbol},{key},{price},{size},\0{self.tails[fate]}"


class Registration:
    """One stream as one session asked for it, and what the faults do to it."""

    __slots__ = ("count", "held", "how", "journal_head", "session", "skip_next", "stream", "swap_next")

    def __init__(self, session: "Session", stream: Stream, how: Any = None) -> None:
        self.session = session
        self.stream = stream
        self.how = how  # what the venue's session needs to write a frame
        self.journal_head = f"{session.number},{stream.subject.kind},{stream.subject.symbol},"
        self.count = 0
        self.held: Record | None = None
        self.skip_next = self.swap_next = False

    def meddle(self, record: Record) -> tuple[list[Record], Fate]:
        """Return what goes out instead of *record*, and its fate; a record that is held comes with the next one."""
        plan, symbol = self.session.plan, self.stream.subject.symbol
        self.count += 1
        if self.held is not None:
            out, self.held = [record, self.held], None
            return out, Fate.SENT
        every = plan.drop_every.get(symbol)
        if self.skip_next or (every and self.count % every == 0):
            self.skip_next = False
            return [], Fate.DROPPED
        every = plan.reorder_every.get(symbol)
        if self.swap_next or (every and self.count % every == 0):
            self.swap_next = False
            self.held = record
            return [], Fate.SENT
        return [record], Fate.SENT


def with_corrections(stream: Stream, every: int) -> Producer:
    """Return the stream's producer, with the cumulative volume going down at each *every*th trade."""
    produce, instrument = stream.produce, stream.instrument
    assert instrument is not None
    instrument.prepare_corrections()
    count = 0

    def corrected(now: ExchangeTime) -> Record:
        nonlocal count
        count += 1
        if count % every:
            return produce(now)
        instrument.correct()
        record = produce(now)
        instrument.settle()
        return record

    return corrected
