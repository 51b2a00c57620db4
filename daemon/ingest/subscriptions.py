"""The subscriptions of one connection: what is wanted against what the venue has confirmed, and what to send next.

Pure: times are passed in, frames are not known here; methods return the actions that the driver performs. A request
that was sent is not a subscription: only the venue's reply, or the data itself, confirms it. Nothing here grows: there
is one entry per registration from construction on, whatever the venue answers, late, twice or never.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

import msgspec

from daemon.errors import InvariantBroken
from daemon.ingest.venues.venue import Refusal, Registration, RegistrationRefused

# After the venue's own trouble (Refusal.RETRY) the next request waits this long, times the attempts so far.
RETRY_DELAY_S = 1.0
# A registration that failed is tried again, one round of attempts at a time: a venue that was deaf for a quarter of a
# minute must not cost a symbol its day. Slow enough to stay clear of the venues' rules against subscribe loops.
REVIVE_AFTER_S = 60.0


class State(Enum):
    """Where one registration stands."""

    DESIRED = "desired"  # wanted, to be requested when its turn comes
    PENDING = "pending"  # requested, not answered yet
    CONFIRMED = "confirmed"  # the venue said so, or data arrived
    REJECTED = "rejected"  # refused for good, with the reason; a reconnect does not ask again
    FAILED = "failed"  # every attempt went unanswered or met trouble; alerted
    CAPPED = "capped"  # this session takes no more registrations


class Event(Enum):
    """What can happen to one registration."""

    REQUESTED = "requested"
    CONFIRMED = "confirmed"
    RETRY = "retry"
    EXHAUSTED = "exhausted"
    REJECTED = "rejected"
    CAP_REACHED = "cap reached"
    CONNECTION_LOST = "connection lost"
    REVIVED = "revived"


# A reply may be late: the answer to a request that had timed out counts, and what is confirmed stays confirmed when the
# answer to a repeated request comes after it.
TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.DESIRED: {
        Event.REQUESTED: State.PENDING,
        Event.CONFIRMED: State.CONFIRMED,
        Event.RETRY: State.DESIRED,
        Event.REJECTED: State.REJECTED,
        Event.CAP_REACHED: State.CAPPED,
        Event.CONNECTION_LOST: State.DESIRED,
    },
    State.PENDING: {
        Event.CONFIRMED: State.CONFIRMED,
        Event.RETRY: State.DESIRED,
        Event.EXHAUSTED: State.FAILED,
        Event.REJECTED: State.REJECTED,
        Event.CAP_REACHED: State.CAPPED,
        Event.CONNECTION_LOST: State.DESIRED,
    },
    State.CONFIRMED: {
        Event.CONFIRMED: State.CONFIRMED,
        Event.RETRY: State.CONFIRMED,
        Event.REJECTED: State.CONFIRMED,
        Event.CAP_REACHED: State.CONFIRMED,
        Event.CONNECTION_LOST: State.DESIRED,
    },
    State.REJECTED: {
        Event.CONFIRMED: State.CONFIRMED,
        Event.RETRY: State.REJECTED,
        Event.REJECTED: State.REJECTED,
        Event.CAP_REACHED: State.REJECTED,
        Event.CONNECTION_LOST: State.REJECTED,
    },
    State.FAILED: {
        Event.CONFIRMED: State.CONFIRMED,
        Event.RETRY: State.FAILED,
        Event.REJECTED: State.REJECTED,
        Event.CAP_REACHED: State.CAPPED,
        Event.CONNECTION_LOST: State.DESIRED,
        Event.REVIVED: State.DESIRED,
    },
    State.CAPPED: {
        Event.CONFIRMED: State.CONFIRMED,
        Event.RETRY: State.CAPPED,
        Event.REJECTED: State.REJECTED,
        Event.CAP_REACHED: State.CAPPED,
        Event.CONNECTION_LOST: State.DESIRED,
    },
}


class Send(msgspec.Struct, frozen=True):
    """Send the request for *registration* now."""

    registration: Registration
    attempt: int


class Confirmed(msgspec.Struct, frozen=True):
    """*registration* has just become confirmed."""

    registration: Registration


class Rejected(msgspec.Struct, frozen=True):
    """*registration* is refused for good: alert."""

    registration: Registration
    reason: str


class Failed(msgspec.Struct, frozen=True):
    """*registration* could not be confirmed in *attempts* requests: alert, the shard is degraded."""

    registration: Registration
    attempts: int
    reason: str


class Capped(msgspec.Struct, frozen=True):
    """The session is full: *left_out* registrations will not be collected on it: alert."""

    confirmed: int
    left_out: int


Action = Send | Confirmed | Rejected | Failed | Capped


class SubscriptionStatistics(msgspec.Struct, frozen=True):
    """How many registrations are in each state; unanswered: requests whose reply may still come."""

    desired: int
    pending: int
    confirmed: int
    rejected: int
    failed: int
    capped: int
    unanswered: int


class SubscriptionStatus(msgspec.Struct, frozen=True):
    """What is known of one registration."""

    state: State
    attempts: int
    reason: str


class _Entry:
    """State of one registration. due_at: when it is sent, times out or is revived, by its state; None: never."""

    __slots__ = ("attempts", "due_at", "reason", "state")

    def __init__(self) -> None:
        self.state = State.DESIRED
        self.attempts = 0
        self.due_at: float | None = None
        self.reason = ""

    def apply(self, event: Event) -> None:
        """Follow the table; the only place that assigns the state."""
        target = TRANSITIONS[self.state].get(event)
        if target is None:
            raise InvariantBroken(f"subscription: no transition for {event} in {self.state}")
        self.state = target


class Subscriptions:
    """Reconciles the wanted registrations of one connection with what the venue confirms."""

    def __init__(
        self, registrations: Iterable[Registration], *, interval_s: float, timeout_s: float, attempts: int
    ) -> None:
        """interval_s: between two requests. timeout_s: for one answer. attempts: requests before giving up."""
        self._entries = {registration: _Entry() for registration in registrations}
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._is_ready = False
        self._is_capped = False
        self._next_send_at = 0.0
        # Requests whose answer may still come, those that timed out included: while there is more than one, a reply
        # that names no registration could belong to any of them.
        self._unanswered: set[Registration] = set()

    def on_ready(self, now: float) -> None:
        """Start requesting: the connection is ready for it."""
        self._is_ready = True
        self._is_capped = False
        self._next_send_at = now
        for entry in self._entries.values():
            if entry.state is State.DESIRED:
                entry.due_at = now

    def on_lost(self) -> None:
        """Forget what the venue confirmed: registrations end with their session. Nothing is sent until `on_ready`."""
        self._is_ready = False
        self._unanswered.clear()
        for entry in self._entries.values():
            entry.apply(Event.CONNECTION_LOST)
            entry.attempts = 0
            entry.due_at = None

    def on_confirmed(self, registration: Registration | None) -> list[Action]:
        """Take a positive reply (None: it names no registration), or the first data of *registration*."""
        registration = registration if registration is not None else self._only_unanswered()
        if registration is None or registration not in self._entries or not self._is_ready:
            return []
        entry = self._entries[registration]
        was_confirmed = entry.state is State.CONFIRMED
        self._unanswered.discard(registration)
        entry.apply(Event.CONFIRMED)
        entry.due_at = None
        entry.reason = ""
        return [] if was_confirmed else [Confirmed(registration)]

    def on_refused(self, refused: RegistrationRefused, now: float) -> list[Action]:
        """Take a negative reply."""
        if not self._is_ready:
            return []
        registration = refused.registration if refused.registration is not None else self._only_unanswered()
        if registration not in self._entries:
            registration = None
        if registration is not None:
            self._unanswered.discard(registration)
        if refused.refusal is Refusal.CAP_REACHED:
            return self._cap(registration)
        if registration is None:
            return []  # nobody knows whose it is: the timeout decides
        reason = f"{refused.code} {refused.text}".rstrip()
        if refused.refusal is not Refusal.RETRY:
            return self._reject(registration, reason)
        entry = self._entries[registration]
        if entry.state is State.PENDING:
            return self._try_again(registration, now, reason, delay_s=RETRY_DELAY_S * entry.attempts)
        entry.apply(Event.RETRY)  # late: the next request is planned already, or none is needed
        return []

    def due(self, now: float) -> list[Action]:
        """Return what time has brought: requests to send (paced), requests to give up."""
        if not self._is_ready:
            return []
        actions: list[Action] = []
        for registration, entry in self._entries.items():
            if entry.due_at is None or entry.due_at > now:
                continue
            if entry.state is State.PENDING:
                reason = f"no reply within {self._timeout_s:g} s"
                actions += self._try_again(registration, now, reason, delay_s=0.0)
            elif entry.state is State.FAILED:
                self._revive(entry, now)
        while self._next_send_at <= now:
            wanted = self._next_to_send(now)
            if wanted is None:
                break
            actions.append(self._send(wanted, now))
        return actions

    def next_deadline(self) -> float | None:
        """Return when `due` has something to do; None: not before another event."""
        if not self._is_ready:
            return None
        deadlines = [
            max(entry.due_at, self._next_send_at) if entry.state is State.DESIRED else entry.due_at
            for entry in self._entries.values()
            if entry.due_at is not None
        ]
        return min(deadlines, default=None)

    def status(self, registration: Registration) -> SubscriptionStatus:
        """Return what is known of *registration*."""
        entry = self._entries[registration]
        return SubscriptionStatus(entry.state, entry.attempts, entry.reason)

    def registrations(self) -> tuple[Registration, ...]:
        """Return all of them, in the order of the plan."""
        return tuple(self._entries)

    def in_state(self, state: State) -> tuple[Registration, ...]:
        """Return the registrations that are in *state*, in the order of the plan."""
        return tuple(registration for registration, entry in self._entries.items() if entry.state is state)

    def statistics(self) -> SubscriptionStatistics:
        """Return the number of registrations in each state."""
        counts = {state.value: 0 for state in State}
        for entry in self._entries.values():
            counts[entry.state.value] += 1
        return SubscriptionStatistics(**counts, unanswered=len(self._unanswered))

    def _next_to_send(self, now: float) -> Registration | None:
        """Return the wanted registration that has waited longest."""
        waiting = [
            (entry.due_at, number, registration)
            for number, (registration, entry) in enumerate(self._entries.items())
            if entry.state is State.DESIRED and entry.due_at is not None and entry.due_at <= now
        ]
        return min(waiting)[2] if waiting else None

    def _send(self, registration: Registration, now: float) -> Send:
        entry = self._entries[registration]
        entry.apply(Event.REQUESTED)
        entry.attempts += 1
        entry.due_at = now + self._timeout_s
        self._unanswered.add(registration)
        self._next_send_at = now + self._interval_s
        return Send(registration, entry.attempts)

    def _try_again(self, registration: Registration, now: float, reason: str, delay_s: float) -> list[Action]:
        """The request of a pending registration came to nothing: plan the next one, or give up."""
        entry = self._entries[registration]
        entry.reason = reason
        if self._is_capped:
            entry.apply(Event.CAP_REACHED)
            entry.due_at = None
            return []
        if entry.attempts < self._attempts:
            entry.apply(Event.RETRY)
            entry.due_at = now + delay_s
            return []
        entry.apply(Event.EXHAUSTED)
        entry.due_at = now + REVIVE_AFTER_S
        self._unanswered.discard(registration)
        return [Failed(registration, entry.attempts, reason)]

    def _reject(self, registration: Registration, reason: str) -> list[Action]:
        entry = self._entries[registration]
        before = entry.state
        entry.apply(Event.REJECTED)
        if entry.state is before:
            return []
        entry.due_at = None
        entry.reason = reason
        return [Rejected(registration, reason)]

    def _revive(self, entry: _Entry, now: float) -> None:
        if self._is_capped:
            entry.apply(Event.CAP_REACHED)
            entry.due_at = None
            return
        entry.apply(Event.REVIVED)
        entry.attempts = 0
        entry.due_at = now

    def _cap(self, refused: Registration | None) -> list[Action]:
        """Stop registering on this session. What is pending still waits for its own reply."""
        is_first = not self._is_capped
        self._is_capped = True
        for registration, entry in self._entries.items():
            if registration == refused or entry.state is State.DESIRED:
                entry.apply(Event.CAP_REACHED)
                if entry.state is State.CAPPED:
                    entry.due_at = None
                    entry.reason = "the session takes no more registrations"
        statistics = self.statistics()
        return [Capped(statistics.confirmed, statistics.capped)] if is_first else []

    def _only_unanswered(self) -> Registration | None:
        """Return the registration that a reply without a name must belong to, if there is exactly one candidate."""
        if len(self._unanswered) != 1:
            return None
        return next(iter(self._unanswered))
