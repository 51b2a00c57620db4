"""The vocabulary of subscriptions: where a registration can stand, what can happen to it, and what follows.

Pure. The table is the only authority on states; `subscriptions.py` decides which event applies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

import msgspec

from daemon.errors import InvariantBroken
from daemon.ingest.venues.venue import Registration


class State(Enum):
    """Where one registration stands."""

    DESIRED = "desired"  # wanted, to be requested when its turn comes
    PENDING = "pending"  # requested, not answered yet
    CONFIRMED = "confirmed"  # the venue said so, or data arrived
    SUSPECTED = "suspected"  # confirmed, but silent while its market is open; alerted
    LEAVING = "leaving"  # to be given up when its turn comes: not wanted any more, or to be made anew
    RELEASING = "releasing"  # asked to be given up, not answered yet
    REJECTED = "rejected"  # refused for good, with the reason; a reconnect does not ask again
    FAILED = "failed"  # every attempt went unanswered or met trouble; alerted
    CAPPED = "capped"  # this session takes no more registrations
    GONE = "gone"  # forgotten in the same moment


class Event(Enum):
    """What can happen to one registration."""

    REQUESTED = "requested"
    CONFIRMED = "confirmed"
    STILL_SILENT = "still silent"  # the reply confirms one that was suspected: only data ends a suspicion
    SILENT = "silent"
    RETRY = "retry"
    EXHAUSTED = "exhausted"
    REJECTED = "rejected"
    CAP_REACHED = "cap reached"
    CONNECTION_LOST = "connection lost"
    REVIVED = "revived"
    ROOM = "room"  # a place on the session has become free
    DROPPED = "dropped"  # not wanted any more
    RENEWED = "renewed"  # to be given up and requested again
    WANTED_AGAIN = "wanted again"
    RELEASE_SENT = "release sent"
    RELEASED = "released"
    RELEASED_TO_RENEW = "released to renew"
    FORGOTTEN = "forgotten"  # not wanted any more, and the venue does not have it


# A reply may be late: the answer to a request that had timed out counts, and what is confirmed stays confirmed when the
# answer to a repeated request comes after it. What is being given up stays so, whatever an earlier request brings.
TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.DESIRED: {
        Event.REQUESTED: State.PENDING,
        Event.CONFIRMED: State.CONFIRMED,
        Event.STILL_SILENT: State.SUSPECTED,
        Event.RETRY: State.DESIRED,
        Event.REJECTED: State.REJECTED,
        Event.CAP_REACHED: State.CAPPED,
        Event.CONNECTION_LOST: State.DESIRED,
        Event.DROPPED: State.LEAVING,
        Event.FORGOTTEN: State.GONE,
    },
    State.PENDING: {
        Event.CONFIRMED: State.CONFIRMED,
        Event.STILL_SILENT: State.SUSPECTED,
        Event.RETRY: State.DESIRED,
        Event.EXHAUSTED: State.FAILED,
        Event.REJECTED: State.REJECTED,
        Event.CAP_REACHED: State.CAPPED,
        Event.CONNECTION_LOST: State.DESIRED,
        Event.DROPPED: State.LEAVING,
        Event.FORGOTTEN: State.GONE,
    },
    State.CONFIRMED: {
        Event.CONFIRMED: State.CONFIRMED,
        Event.SILENT: State.SUSPECTED,
        Event.RETRY: State.CONFIRMED,
        Event.REJECTED: State.CONFIRMED,
        Event.CAP_REACHED: State.CONFIRMED,
        Event.CONNECTION_LOST: State.DESIRED,
        Event.DROPPED: State.LEAVING,
        Event.RENEWED: State.LEAVING,
        Event.FORGOTTEN: State.GONE,
    },
    State.SUSPECTED: {
        Event.CONFIRMED: State.CONFIRMED,
        Event.STILL_SILENT: State.SUSPECTED,
        Event.SILENT: State.SUSPECTED,
        Event.RETRY: State.SUSPECTED,
        Event.REJECTED: State.SUSPECTED,
        Event.CAP_REACHED: State.SUSPECTED,
        Event.CONNECTION_LOST: State.DESIRED,
        Event.DROPPED: State.LEAVING,
        Event.RENEWED: State.LEAVING,
        Event.FORGOTTEN: State.GONE,
    },
    State.LEAVING: {
        Event.RELEASE_SENT: State.RELEASING,
        Event.CONFIRMED: State.LEAVING,
        Event.STILL_SILENT: State.LEAVING,
        Event.RETRY: State.LEAVING,
        Event.REJECTED: State.LEAVING,
        Event.CAP_REACHED: State.LEAVING,
        Event.CONNECTION_LOST: State.DESIRED,
        Event.DROPPED: State.LEAVING,
        Event.WANTED_AGAIN: State.DESIRED,
        Event.RELEASED: State.GONE,
        Event.RELEASED_TO_RENEW: State.DESIRED,
        Event.FORGOTTEN: State.GONE,
    },
    State.RELEASING: {
        Event.RELEASED: State.GONE,
        Event.RELEASED_TO_RENEW: State.DESIRED,
        Event.CONFIRMED: State.RELEASING,
        Event.STILL_SILENT: State.RELEASING,
        Event.RETRY: State.LEAVING,
        Event.CAP_REACHED: State.RELEASING,
        Event.CONNECTION_LOST: State.DESIRED,
        Event.DROPPED: State.RELEASING,
        Event.FORGOTTEN: State.GONE,
    },
    State.REJECTED: {
        Event.CONFIRMED: State.CONFIRMED,
        Event.STILL_SILENT: State.SUSPECTED,
        Event.RETRY: State.REJECTED,
        Event.REJECTED: State.REJECTED,
        Event.CAP_REACHED: State.REJECTED,
        Event.CONNECTION_LOST: State.REJECTED,
        Event.FORGOTTEN: State.GONE,
    },
    State.FAILED: {
        Event.CONFIRMED: State.CONFIRMED,
        Event.STILL_SILENT: State.SUSPECTED,
        Event.RETRY: State.FAILED,
        Event.REJECTED: State.REJECTED,
        Event.CAP_REACHED: State.CAPPED,
        Event.CONNECTION_LOST: State.DESIRED,
        Event.REVIVED: State.DESIRED,
        Event.DROPPED: State.LEAVING,
        Event.FORGOTTEN: State.GONE,
    },
    State.CAPPED: {
        Event.CONFIRMED: State.CONFIRMED,
        Event.STILL_SILENT: State.SUSPECTED,
        Event.RETRY: State.CAPPED,
        Event.REJECTED: State.REJECTED,
        Event.CAP_REACHED: State.CAPPED,
        Event.CONNECTION_LOST: State.DESIRED,
        Event.ROOM: State.DESIRED,
        Event.DROPPED: State.LEAVING,
        Event.FORGOTTEN: State.GONE,
    },
}
# The venue counts these against the session's limit.
LIVE_STATES = (State.PENDING, State.CONFIRMED, State.SUSPECTED, State.LEAVING, State.RELEASING)


class Send(msgspec.Struct, frozen=True):
    """Send one request for *registrations* now. The highest attempt of any of them is *attempt*."""

    registrations: tuple[Registration, ...]
    attempt: int


class Release(msgspec.Struct, frozen=True):
    """Send one request that gives *registrations* up."""

    registrations: tuple[Registration, ...]
    attempt: int


class Confirmed(msgspec.Struct, frozen=True):
    """*registration* has just become confirmed."""

    registration: Registration


class Released(msgspec.Struct, frozen=True):
    """The venue no longer has *registration*; *attempts* above 0: it never said so in so many requests."""

    registration: Registration
    attempts: int = 0


class Rejected(msgspec.Struct, frozen=True):
    """*registration* is refused for good: alert. may_fit_elsewhere: because of this session or its account."""

    registration: Registration
    reason: str
    may_fit_elsewhere: bool = False


class Failed(msgspec.Struct, frozen=True):
    """*registration* could not be confirmed in *attempts* requests: alert, the shard is degraded."""

    registration: Registration
    attempts: int
    reason: str


class Capped(msgspec.Struct, frozen=True):
    """The session is full: *left_out* registrations will not be collected on it: alert."""

    confirmed: int
    left_out: int


Action = Send | Release | Confirmed | Released | Rejected | Failed | Capped


class Habits(msgspec.Struct, frozen=True):
    """How a venue wants to be asked; see `Venue`. limit: registrations that one session takes, 0: not known."""

    acknowledges: bool = True
    replaces_all: bool = False
    max_batch: int = 1
    limit: int = 0

    @property
    def is_serial(self) -> bool:
        """True if a reply is for a whole request, so that only one may be on its way."""
        return self.max_batch > 1 or self.replaces_all


class SubscriptionStatistics(msgspec.Struct, frozen=True):
    """How many registrations are in each state; unanswered: requests whose reply may still come; doubted: silent
    while their market is open, in whatever state the attempt to cure it is.
    """

    desired: int
    pending: int
    confirmed: int
    suspected: int
    leaving: int
    releasing: int
    rejected: int
    failed: int
    capped: int
    unanswered: int
    doubted: int


class SubscriptionStatus(msgspec.Struct, frozen=True):
    """What is known of one registration."""

    state: State
    attempts: int
    reason: str


class Entry:
    """State of one registration.

    due_at: when it is sent, times out or is revived, by its state; None: never. attempts: of what the state asks for.
    is_known: the venue may have it. is_doubted: silent since it was last confirmed.
    """

    __slots__ = ("attempts", "due_at", "is_doubted", "is_known", "is_wanted", "reason", "state")

    def __init__(self) -> None:
        self.state = State.DESIRED
        self.attempts = 0
        self.due_at: float | None = None
        self.reason = ""
        self.is_wanted = True
        self.is_known = False
        self.is_doubted = False

    def apply(self, event: Event) -> None:
        """Follow the table; the only place that assigns the state."""
        target = TRANSITIONS[self.state].get(event)
        if target is None:
            raise InvariantBroken(f"subscription: no transition for {event} in {self.state}")
        self.state = target


def count_states(entries: Iterable[Entry], *, unanswered: int) -> SubscriptionStatistics:
    """Return how many of *entries* are in each state."""
    counts = {state.value: 0 for state in State if state is not State.GONE}
    doubted = 0
    for entry in entries:
        counts[entry.state.value] += 1
        doubted += entry.is_doubted and entry.is_wanted
    return SubscriptionStatistics(**counts, unanswered=unanswered, doubted=doubted)
