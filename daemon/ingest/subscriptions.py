"""The subscriptions of one connection: what is wanted against what the venue has confirmed, and what to send next.

Pure: times are passed in, frames are not known here; methods return the actions that the driver performs. A request
that was sent is not a subscription: only the venue's reply, or the data itself, confirms it. Nothing here grows: there
is one entry per registration that is wanted or not yet given up, whatever the venue answers, late, twice or never.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from daemon.errors import InvariantBroken
from daemon.ingest.subscription_states import (
    LIVE_STATES,
    TRANSITIONS,
    Action,
    Capped,
    Confirmed,
    Event,
    Failed,
    Habits,
    Rejected,
    Release,
    Released,
    Send,
    State,
    SubscriptionStatistics,
    SubscriptionStatus,
)
from daemon.ingest.venues.venue import Refusal, Registration, RegistrationRefused

# After the venue's own trouble (Refusal.RETRY) the next request waits this long, times the attempts so far.
RETRY_DELAY_S = 1.0
# A registration that failed is tried again, one round of attempts at a time: a venue that was deaf for a quarter of a
# minute must not cost a symbol its day. Slow enough to stay clear of the venues' rules against subscribe loops.
REVIVE_AFTER_S = 60.0
# What cannot be sent yet is looked at again after this at the earliest.
MIN_PAUSE_S = 0.01


class _Entry:
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


class _Flight(msgspec.Struct, frozen=True):
    """The one request of a serial venue that waits for its answer."""

    is_release: bool
    registrations: tuple[Registration, ...]
    expires_at: float


class Subscriptions:
    """Reconciles the wanted registrations of one connection with what the venue confirms."""

    def __init__(
        self,
        registrations: Iterable[Registration],
        *,
        interval_s: float,
        timeout_s: float,
        attempts: int,
        habits: Habits = Habits(),  # noqa: B008 - frozen
    ) -> None:
        """interval_s: between two requests. timeout_s: for one answer. attempts: requests before giving up."""
        self._entries = {registration: _Entry() for registration in registrations}
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._habits = habits
        self._is_ready = False
        self._is_capped = False
        self._next_send_at = 0.0
        # Requests of a venue that answers each by its name. While more than one waits, those that timed out included,
        # a reply that names no registration could belong to any of them. (is a release, registration)
        self._unanswered: set[tuple[bool, Registration]] = set()
        # A serial venue: its one request, how many replies may still come for earlier ones and until when, and the
        # parts of refused or unanswered batches, each of which is a request of its own.
        self._flight: _Flight | None = None
        self._last_batch: tuple[bool, tuple[Registration, ...]] = (False, ())
        self._owed = 0
        self._owed_until = 0.0
        self._parts: list[tuple[Registration, ...]] = []
        self._restate_at: float | None = None  # `replaces_all`: what the venue was told last is not what is wanted
        self._deadline: float | None = None
        self._is_stale = True  # the deadline is to be computed anew

    # -- what is wanted --------------------------------------------------------------------------------------------

    def set_desired(self, registrations: Iterable[Registration], now: float) -> None:
        """Want exactly *registrations* from now on; what is wanted already is not touched."""
        self._is_stale = True
        wanted = dict.fromkeys(registrations)
        for registration, entry in list(self._entries.items()):
            if registration not in wanted and entry.is_wanted:
                self._drop(registration, entry, now)
        for registration in wanted:
            entry = self._entries.setdefault(registration, _Entry())
            if not entry.is_wanted:
                entry.is_wanted = True
                entry.attempts = 0
                if entry.state is State.LEAVING:
                    entry.apply(Event.WANTED_AGAIN)
            if entry.state is State.DESIRED and entry.due_at is None and self._is_ready:
                entry.due_at = now
            if entry.state is State.DESIRED and self._is_capped and not entry.is_known:
                self._leave_out(entry)

    def renew(self, registrations: Iterable[Registration], now: float) -> int:
        """Give those of *registrations* that are confirmed up and request them anew; return how many those are."""
        self._is_stale = True
        count = 0
        for registration in registrations:
            entry = self._entries.get(registration)
            if entry is None or not self._is_ready or entry.state not in (State.CONFIRMED, State.SUSPECTED):
                continue
            count += 1
            if self._habits.replaces_all:
                self._restate_at = now
                continue
            entry.apply(Event.RENEWED)
            entry.attempts = 0
            entry.due_at = now
        return count

    def on_silent(self, registration: Registration, now: float, reason: str) -> bool:
        """*registration* is confirmed and brings nothing: doubt it, and make it anew. False if it is not confirmed."""
        entry = self._entries.get(registration)
        if entry is None or not self._is_ready or entry.state not in (State.CONFIRMED, State.SUSPECTED):
            return False
        entry.apply(Event.SILENT)
        entry.is_doubted = True
        entry.reason = reason
        self.renew([registration], now)
        return True

    # -- the session -----------------------------------------------------------------------------------------------

    def on_ready(self, now: float) -> None:
        """Start requesting: the connection is ready for it."""
        self._is_stale = True
        self._is_ready = True
        self._is_capped = False
        self._next_send_at = now
        for entry in self._entries.values():
            if entry.state is State.DESIRED:
                entry.due_at = now

    def on_lost(self) -> None:
        """Forget what the venue confirmed: registrations end with their session. Nothing is sent until `on_ready`."""
        self._is_stale = True
        self._is_ready = False
        self._unanswered.clear()
        self._flight = None
        self._owed = 0
        self._parts.clear()
        self._restate_at = None
        for registration, entry in list(self._entries.items()):
            if not entry.is_wanted:
                self._forget(registration, entry)
                continue
            entry.apply(Event.CONNECTION_LOST)
            entry.attempts = 0
            entry.due_at = None
            entry.is_known = entry.is_doubted = False

    # -- what the venue says ---------------------------------------------------------------------------------------

    def on_confirmed(self, registration: Registration | None) -> list[Action]:
        """Take a positive reply; None: it names no registration."""
        if not self._is_ready:
            return []
        self._is_stale = True
        actions: list[Action] = []
        for answered in self._answered(registration, is_release=False):
            entry = self._entries[answered]
            if registration is None and entry.state is not State.PENDING:
                continue  # of a batch: what was dropped or confirmed by data meanwhile
            actions += self._confirm(answered, Event.STILL_SILENT if entry.is_doubted else Event.CONFIRMED)
        return actions

    def on_data(self, registration: Registration) -> list[Action]:
        """Take data of *registration* that are younger than its request: they confirm it, and end a suspicion."""
        entry = self._entries.get(registration)
        if entry is None or not self._is_ready or not entry.is_known:
            return []  # what is still on its way from before it was given up confirms nothing
        self._is_stale = True
        entry.is_doubted = False
        if entry.state in (State.LEAVING, State.RELEASING):
            return []
        actions = self._confirm(registration, Event.CONFIRMED)
        if self._flight is not None and not self._habits.acknowledges and not self._pending_of(self._flight):
            self._flight, self._owed = None, 0
        return actions

    def on_refused(self, refused: RegistrationRefused, now: float) -> list[Action]:
        """Take a negative reply."""
        if not self._is_ready:
            return []
        self._is_stale = True
        reason = f"{refused.code} {refused.text}".rstrip()
        is_release = self._is_release_refused(refused.registration)
        answered = self._answered(refused.registration, is_release=is_release)
        if is_release:
            return self._take_refused_release(answered, refused.refusal, reason, now)
        if len(answered) > 1:
            return self._take_refused_batch(answered, refused.refusal, reason, now)
        return self._take_refused_one(answered[0] if answered else None, refused.refusal, reason, now)

    def on_released(self, registration: Registration | None, now: float) -> list[Action]:
        """Take the reply that a registration is gone; none if nobody had asked for that."""
        if not self._is_ready:
            return []
        self._is_stale = True
        actions: list[Action] = []
        for answered in self._answered(registration, is_release=True):
            actions += self._release(answered, now)
        return actions

    # -- time ------------------------------------------------------------------------------------------------------

    def due(self, now: float) -> list[Action]:
        """Return what time has brought: requests to send (paced), requests to give up."""
        if not self._is_ready or ((at := self.next_deadline()) is None or at > now):
            return []
        self._is_stale = True
        actions: list[Action] = []
        if self._flight is not None and self._flight.expires_at <= now:
            actions += self._take_silence(self._flight, now)
        for registration, entry in list(self._entries.items()):
            if entry.due_at is None or entry.due_at > now:
                continue
            if entry.state in (State.PENDING, State.RELEASING):
                actions += self._expire(registration, now)
            elif entry.state is State.FAILED:
                self._revive(entry, now)
        while self._next_send_at <= now and (request := self._next_request(now)) is not None:
            actions.append(request)
        if not actions and (at := self.next_deadline()) is not None and at <= now:
            self._deadline = now + max(self._interval_s, MIN_PAUSE_S)  # never a busy loop
        return actions

    def next_deadline(self) -> float | None:
        """Return when `due` has something to do; None: not before another event."""
        if self._is_stale:
            self._deadline = self._find_deadline() if self._is_ready else None
            self._is_stale = False
        return self._deadline

    # -- what can be seen ------------------------------------------------------------------------------------------

    def status(self, registration: Registration) -> SubscriptionStatus:
        """Return what is known of *registration*."""
        entry = self._entries[registration]
        return SubscriptionStatus(entry.state, entry.attempts, entry.reason)

    def registrations(self) -> tuple[Registration, ...]:
        """Return all that are wanted, in the order of the plan."""
        return tuple(registration for registration, entry in self._entries.items() if entry.is_wanted)

    def in_state(self, *states: State) -> tuple[Registration, ...]:
        """Return the registrations that are in one of *states*, in the order of the plan."""
        return tuple(registration for registration, entry in self._entries.items() if entry.state in states)

    def statistics(self) -> SubscriptionStatistics:
        """Return the number of registrations in each state."""
        counts = {state.value: 0 for state in State if state is not State.GONE}
        doubted = 0
        for entry in self._entries.values():
            counts[entry.state.value] += 1
            doubted += entry.is_doubted and entry.is_wanted
        return SubscriptionStatistics(**counts, unanswered=len(self._unanswered) + self._owed, doubted=doubted)

    @property
    def is_capped(self) -> bool:
        """True from the venue's refusal of one registration too many until one is given up or the session ends."""
        return self._is_capped

    # -- requests --------------------------------------------------------------------------------------------------

    def _next_request(self, now: float) -> Action | None:
        """Return the request whose turn it is: what makes room first, then what is wanted, then what is made anew."""
        if self._flight is not None:
            return None
        for is_release, batch in (
            (True, self._waiting(State.LEAVING, now, is_wanted=False)),
            (False, self._wanted_batch(now)),
            (True, self._waiting(State.LEAVING, now, is_wanted=True)),
        ):
            if batch and self._may_send((is_release, batch), now):
                return self._send_release(batch, now) if is_release else self._send(batch, now)
        if self._restate_at is not None and self._restate_at <= now and self._may_send((False, ()), now):
            if self.in_state(State.CONFIRMED, State.SUSPECTED):
                return self._send((), now)
            self._restate_at = None  # nothing is left to be stated
        return None

    def _may_send(self, batch: tuple[bool, tuple[Registration, ...]], now: float) -> bool:
        """A reply without a name must not be taken for that of another request: wait for those that may still come."""
        return not self._owed or batch == self._last_batch or now >= self._owed_until

    def _waiting(self, state: State, now: float, *, is_wanted: bool = True) -> tuple[Registration, ...]:
        """Return those of *state* that have waited longest, as many as fit one request."""
        parted = {registration for part in self._parts for registration in part}
        waiting = [
            (entry.due_at, number, registration)
            for number, (registration, entry) in enumerate(self._entries.items())
            if entry.state is state
            and entry.due_at is not None
            and entry.due_at <= now
            and entry.is_wanted is is_wanted
            and registration not in parted
        ]
        most = len(waiting) if self._habits.replaces_all else self._habits.max_batch
        return tuple(registration for _, _, registration in sorted(waiting)[:most])

    def _wanted_batch(self, now: float) -> tuple[Registration, ...]:
        """Return the next part of a batch that was refused, else what has waited longest, if the limit allows it."""
        room = self._room()
        if room <= 0:
            return ()
        live = (tuple(r for r in part if self._is_waiting(r)) for part in self._parts)
        self._parts = [part for part in live if part]
        for part in self._parts:
            if all((self._entries[registration].due_at or 0.0) <= now for registration in part):
                return part[:room]
        return self._waiting(State.DESIRED, now)[:room]

    def _is_waiting(self, registration: Registration) -> bool:
        entry = self._entries.get(registration)
        return entry is not None and entry.state is State.DESIRED

    def _room(self) -> int:
        """Return how many more registrations the session takes."""
        if not self._habits.limit:
            return len(self._entries)
        return self._habits.limit - sum(entry.state in LIVE_STATES for entry in self._entries.values())

    def _send(self, batch: tuple[Registration, ...], now: float) -> Send:
        if batch in self._parts:
            self._parts.remove(batch)
        attempt = 1
        for registration in batch:
            entry = self._entries[registration]
            entry.apply(Event.REQUESTED)
            entry.attempts += 1
            entry.is_known = True
            attempt = max(attempt, entry.attempts)
        self._note_sent(batch, now, is_release=False)
        if self._habits.replaces_all:
            self._restate_at = None
            batch = self.in_state(State.PENDING, State.CONFIRMED, State.SUSPECTED)
        return Send(batch, attempt)

    def _send_release(self, batch: tuple[Registration, ...], now: float) -> Release:
        attempt = 1
        for registration in batch:
            entry = self._entries[registration]
            entry.apply(Event.RELEASE_SENT)
            entry.attempts += 1
            attempt = max(attempt, entry.attempts)
        self._note_sent(batch, now, is_release=True)
        return Release(batch, attempt)

    def _note_sent(self, batch: tuple[Registration, ...], now: float, *, is_release: bool) -> None:
        self._next_send_at = now + self._interval_s
        expires_at = now + self._timeout_s
        for registration in batch:
            self._entries[registration].due_at = None if self._habits.is_serial else expires_at
        if self._habits.is_serial:
            self._owed = self._owed + 1 if now < self._owed_until else 1
            self._owed_until = expires_at
            self._flight = _Flight(is_release, batch, expires_at)
            self._last_batch = (is_release, batch)
        else:
            self._unanswered |= {(is_release, registration) for registration in batch}

    # -- answers ---------------------------------------------------------------------------------------------------

    def _answered(self, registration: Registration | None, *, is_release: bool) -> tuple[Registration, ...]:
        """Return the registrations that a reply is for, and note that it has come."""
        if registration is not None:
            self._unanswered.discard((is_release, registration))
            flight = self._flight
            if (
                flight is not None
                and flight.is_release is is_release
                and self._pending_of(flight) in ((), (registration,))
            ):
                self._land()
            return (registration,) if registration in self._entries else ()
        if not self._habits.is_serial:
            if len(self._unanswered) != 1 or next(iter(self._unanswered))[0] is not is_release:
                return ()
            ((_, only),) = self._unanswered
            self._unanswered.clear()
            return (only,) if only in self._entries else ()
        flight = self._flight
        if flight is None or flight.is_release is not is_release:
            self._owed = max(0, self._owed - 1)  # late, of an earlier request
            return ()
        self._land()
        return tuple(registration for registration in flight.registrations if registration in self._entries)

    def _land(self) -> None:
        self._flight = None
        self._owed = max(0, self._owed - 1)

    def _pending_of(self, flight: _Flight) -> tuple[Registration, ...]:
        state = State.RELEASING if flight.is_release else State.PENDING
        return tuple(r for r in flight.registrations if r in self._entries and self._entries[r].state is state)

    def _is_release_refused(self, registration: Registration | None) -> bool:
        """Return whether a refusal is the answer to a request that gives something up."""
        if registration is not None:
            return registration in self._entries and self._entries[registration].state is State.RELEASING
        if self._habits.is_serial:
            return self._flight is not None and self._flight.is_release
        return len(self._unanswered) == 1 and next(iter(self._unanswered))[0]

    def _confirm(self, registration: Registration, event: Event) -> list[Action]:
        entry = self._entries[registration]
        before = entry.state
        entry.apply(event)
        if entry.state not in (State.CONFIRMED, State.SUSPECTED):
            return []  # it is being given up
        entry.due_at = None
        entry.is_known = True
        entry.reason = entry.reason if entry.is_doubted else ""
        return [] if before in (State.CONFIRMED, State.SUSPECTED) else [Confirmed(registration)]

    def _release(self, registration: Registration, now: float, attempts: int = 0) -> list[Action]:
        """The venue no longer has *registration*, or nothing more can be done about it."""
        entry = self._entries[registration]
        if entry.state is not State.RELEASING:
            return []
        entry.is_known = False
        if not entry.is_wanted:
            entry.apply(Event.RELEASED)
            self._remove(registration, now)
        else:
            entry.apply(Event.RELEASED_TO_RENEW)
            entry.attempts = 0
            entry.due_at = now
        return [Released(registration, attempts)]

    def _take_refused_one(
        self, registration: Registration | None, refusal: Refusal, reason: str, now: float
    ) -> list[Action]:
        if refusal is Refusal.CAP_REACHED:
            return self._cap(registration)
        if registration is None:
            return []  # nobody knows whose it is: the timeout decides
        if refusal is not Refusal.RETRY:
            return self._reject(registration, reason, now)
        entry = self._entries[registration]
        if entry.state is State.PENDING:
            return self._try_again(registration, now, reason, delay_s=RETRY_DELAY_S * entry.attempts)
        entry.apply(Event.RETRY)  # late: the next request is planned already, or none is needed
        return []

    def _take_refused_release(
        self, registrations: tuple[Registration, ...], refusal: Refusal, reason: str, now: float
    ) -> list[Action]:
        """Ask again after the venue's own trouble; anything else means that there is nothing to give up."""
        actions: list[Action] = []
        for registration in registrations:
            entry = self._entries[registration]
            if refusal is Refusal.RETRY and entry.state is State.RELEASING:
                actions += self._try_release_again(registration, now, reason, RETRY_DELAY_S * entry.attempts)
            else:
                actions += self._release(registration, now)
        return actions

    def _take_refused_batch(
        self, registrations: tuple[Registration, ...], refusal: Refusal, reason: str, now: float
    ) -> list[Action]:
        """Ask for the halves of a refused batch, so that one bad symbol does not cost the others."""
        pending = tuple(r for r in registrations if self._entries[r].state is State.PENDING)
        if refusal is Refusal.RETRY:
            return self._try_batch_again(pending, now, reason, delay_s=RETRY_DELAY_S)
        for registration in pending:
            entry = self._entries[registration]
            entry.apply(Event.RETRY)
            entry.attempts = 0
            entry.due_at = now
            entry.reason = reason
        half = (len(pending) + 1) // 2
        self._parts[:0] = [part for part in (pending[:half], pending[half:]) if part]
        return []

    def _take_silence(self, flight: _Flight, now: float) -> list[Action]:
        """The one request was not answered in time: where no answer is given, that is good news."""
        pending = self._pending_of(flight)
        self._flight = None
        if not self._habits.acknowledges:
            self._owed = 0
            if flight.is_release:
                return [action for registration in pending for action in self._release(registration, now)]
            return [action for r in pending for action in self._confirm(r, self._quiet_event(r))]
        reason = f"no reply within {self._timeout_s:g} s"
        self._owed_until = now + self._timeout_s  # the answer may still come
        if flight.is_release:
            return [a for r in pending for a in self._try_release_again(r, now, reason, delay_s=0.0)]
        if not pending and self._habits.replaces_all and not flight.registrations:
            self._restate_at = now + REVIVE_AFTER_S
        return self._try_batch_again(pending, now, reason, delay_s=0.0)

    def _quiet_event(self, registration: Registration) -> Event:
        return Event.STILL_SILENT if self._entries[registration].is_doubted else Event.CONFIRMED

    def _expire(self, registration: Registration, now: float) -> list[Action]:
        """The request for one registration was not answered in time."""
        entry = self._entries[registration]
        reason = f"no reply within {self._timeout_s:g} s"
        if entry.state is State.RELEASING:
            if not self._habits.acknowledges:
                self._unanswered.discard((True, registration))
                return self._release(registration, now)
            return self._try_release_again(registration, now, reason, delay_s=0.0)
        if not self._habits.acknowledges:
            self._unanswered.discard((False, registration))
            return self._confirm(registration, self._quiet_event(registration))
        return self._try_again(registration, now, reason, delay_s=0.0)

    def _try_batch_again(
        self, pending: tuple[Registration, ...], now: float, reason: str, delay_s: float
    ) -> list[Action]:
        actions = [action for r in pending for action in self._try_again(r, now, reason, delay_s)]
        again = tuple(r for r in pending if self._entries[r].state is State.DESIRED)
        if len(again) > 1:
            self._parts.insert(0, again)
        return actions

    def _try_again(self, registration: Registration, now: float, reason: str, delay_s: float) -> list[Action]:
        """The request of a pending registration came to nothing: plan the next one, or give up."""
        entry = self._entries[registration]
        entry.reason = reason
        if self._is_capped:
            self._leave_out(entry)
            return []
        if entry.attempts < self._attempts:
            entry.apply(Event.RETRY)
            entry.due_at = now + delay_s
            return []
        entry.apply(Event.EXHAUSTED)
        entry.due_at = now + REVIVE_AFTER_S
        self._unanswered.discard((False, registration))
        return [Failed(registration, entry.attempts, reason)]

    def _try_release_again(self, registration: Registration, now: float, reason: str, delay_s: float) -> list[Action]:
        entry = self._entries[registration]
        if entry.attempts < self._attempts:
            entry.apply(Event.RETRY)
            entry.due_at = now + delay_s
            return []
        entry.reason = reason
        self._unanswered.discard((True, registration))
        return self._release(registration, now, attempts=entry.attempts)

    def _reject(self, registration: Registration, reason: str, now: float) -> list[Action]:
        entry = self._entries[registration]
        before = entry.state
        entry.apply(Event.REJECTED)
        if entry.state is before:
            return []
        entry.due_at = None
        entry.reason = reason
        entry.is_known = entry.is_doubted = False
        if self._habits.replaces_all:
            self._restate_at = now
        return [Rejected(registration, reason)]

    def _revive(self, entry: _Entry, now: float) -> None:
        if self._is_capped:
            self._leave_out(entry)
            return
        entry.apply(Event.REVIVED)
        entry.attempts = 0
        entry.due_at = now

    # -- the end of an entry ---------------------------------------------------------------------------------------

    def _drop(self, registration: Registration, entry: _Entry, now: float) -> None:
        """Stop wanting *registration*; give it up at the venue if that may have it."""
        entry.is_wanted = False
        if not self._is_ready or not entry.is_known or self._habits.replaces_all:
            if entry.is_known and self._habits.replaces_all and self._is_ready:
                self._restate_at = now
            self._forget(registration, entry)
            self._make_room(now)
            return
        if entry.state is not State.RELEASING:
            entry.attempts = 0
            entry.due_at = now
        entry.apply(Event.DROPPED)

    def _forget(self, registration: Registration, entry: _Entry) -> None:
        entry.apply(Event.FORGOTTEN)
        del self._entries[registration]
        self._unanswered -= {(False, registration), (True, registration)}

    def _remove(self, registration: Registration, now: float) -> None:
        """Drop the entry that has just been released."""
        del self._entries[registration]
        self._unanswered -= {(False, registration), (True, registration)}
        self._make_room(now)

    # -- the limit -------------------------------------------------------------------------------------------------

    def _leave_out(self, entry: _Entry) -> None:
        entry.apply(Event.CAP_REACHED)
        if entry.state is State.CAPPED:
            entry.due_at = None
            entry.is_known = False
            entry.reason = "the session takes no more registrations"

    def _cap(self, refused: Registration | None) -> list[Action]:
        """Stop registering on this session. What is pending still waits for its own reply."""
        is_first = not self._is_capped
        self._is_capped = True
        self._parts.clear()
        for registration, entry in self._entries.items():
            if registration == refused or entry.state is State.DESIRED:
                self._leave_out(entry)
        statistics = self.statistics()
        return [Capped(statistics.confirmed + statistics.suspected, statistics.capped)] if is_first else []

    def _make_room(self, now: float) -> None:
        """One registration less: those that the limit had left out may be asked for again."""
        if not self._is_capped:
            return
        self._is_capped = False
        for entry in self._entries.values():
            if entry.state is State.CAPPED:
                entry.apply(Event.ROOM)
                entry.attempts = 0
                entry.due_at = now

    def _find_deadline(self) -> float | None:
        deadlines = [] if self._flight is None else [self._flight.expires_at]
        send_at = self._next_send_at
        if self._owed and self._last_batch[1] not in self._parts:
            send_at = max(send_at, self._owed_until)
        has_room = self._room() > 0
        for entry in self._entries.values():
            if entry.due_at is None:
                continue
            if entry.state not in (State.DESIRED, State.LEAVING):
                deadlines.append(entry.due_at)
            elif self._flight is None and (has_room or entry.state is State.LEAVING):
                deadlines.append(max(entry.due_at, send_at))
        if self._restate_at is not None and self._flight is None:
            deadlines.append(max(self._restate_at, send_at))
        return min(deadlines, default=None)
