"""The subscriptions of one connection: what is wanted against what the venue has confirmed, and what to send next.

Pure: times are passed in, frames are not known here; methods return the actions that the driver performs. A request
that was sent is not a subscription: only the venue's reply, or the data itself, confirms it. Nothing here grows: there
is one entry per registration that is wanted or not yet given up, whatever the venue answers, late, twice or never.
"""

from __future__ import annotations

from collections.abc import Iterable

from daemon.ingest.correspondence import Flight
from daemon.ingest.request_queue import RequestQueue
from daemon.ingest.subscription_states import (
    Action,
    Capped,
    Confirmed,
    Entry,
    Event,
    Failed,
    Habits,
    Rejected,
    Release,
    Released,
    Send,
    State,
)
from daemon.ingest.subscription_view import SubscriptionView
from daemon.ingest.unexplained import Unexplained, Verdict
from daemon.ingest.venues.venue import Refusal, Registration, RegistrationRefused

# After the venue's own trouble (Refusal.RETRY) the next request waits this long, times the attempts so far.
RETRY_DELAY_S = 1.0
# A registration that failed is tried again, one round of attempts at a time: a venue that was deaf for a quarter of a
# minute must not cost a symbol its day. Slow enough to stay clear of the venues' rules against subscribe loops.
REVIVE_AFTER_S = 60.0
# A session that was full may have been so for a reason that has passed: what it left out is asked for again.
CAPPED_FOR_S = 24 * 3600.0
# What cannot be sent yet is looked at again after this at the earliest.
MIN_PAUSE_S = 0.01


class Subscriptions(SubscriptionView):
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
        super().__init__(registrations, habits)
        self.set_pace(interval_s=interval_s, timeout_s=timeout_s, attempts=attempts)
        self._is_ready = False
        self._capped_until = 0.0  # while it is
        self._unexplained = Unexplained()
        self._next_send_at = 0.0
        self._queue = RequestQueue(self._entries, habits)
        self._restate_at: float | None = None  # `replaces_all`: what the venue was told last is not what is wanted
        self._deadline: float | None = None
        self._is_stale = True  # the deadline is to be computed anew

    def set_pace(self, *, interval_s: float, timeout_s: float, attempts: int) -> None:
        """Go by these from the next request on."""
        self._interval_s, self._timeout_s, self._attempts = interval_s, timeout_s, attempts

    # -- what is wanted --------------------------------------------------------------------------------------------

    def set_desired(self, registrations: Iterable[Registration], now: float, limit: int | None = None) -> None:
        """Want exactly *registrations* from now on, *limit* at most; what is wanted already is not touched."""
        self._is_stale = True
        self._queue.limit = self._queue.limit if limit is None else limit
        self._look_at_cap(now)
        wanted = dict.fromkeys(registrations)
        for registration, entry in list(self._entries.items()):
            if registration not in wanted and entry.is_wanted:
                self._drop(registration, entry, now)
        for registration in wanted:
            entry = self._entries.setdefault(registration, Entry())
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
            entry = self._entries.get(registration) if self._is_ready else None
            if entry is None or entry.state not in (State.CONFIRMED, State.SUSPECTED):
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
        self._replies.clear()
        self._queue.clear()
        self._unexplained.clear()
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
        for answered in self._replies.answered(registration, is_release=False):
            self._unexplained.on_taken()
            entry = self._entries[answered]
            if registration is None and entry.state is not State.PENDING:
                continue  # of a batch: what was dropped or confirmed by data meanwhile
            actions += self._confirm(answered)
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
        actions = self._confirm(registration)
        if not self._habits.acknowledges and not self._replies.pending():
            self._replies.give_up_waiting(None)
        return actions

    def on_refused(self, refused: RegistrationRefused, now: float) -> list[Action]:
        """Take a negative reply."""
        if not self._is_ready:
            return []
        self._is_stale = True
        reason = f"{refused.code} {refused.text}".rstrip()
        is_release = self._replies.is_release_refused(refused.registration)
        found = self._replies.answered(refused.registration, is_release=is_release)
        if is_release:
            return self._take_refused_release(found, refused.refusal, reason, now)
        if len(found) > 1:
            return self._take_refused_batch(found, refused.refusal, reason, now)
        return self._take_refused_one(found[0] if found else None, refused.refusal, reason, now)

    def on_released(self, registration: Registration | None, now: float) -> list[Action]:
        """Take the reply that a registration is gone; none if nobody had asked for that."""
        if not self._is_ready:
            return []
        self._is_stale = True
        actions: list[Action] = []
        for answered in self._replies.answered(registration, is_release=True):
            actions += self._release(answered, now)
        return actions

    def due(self, now: float) -> list[Action]:
        """Return what time has brought: requests to send (paced), requests to give up."""
        if not self._is_ready or ((at := self.next_deadline()) is None or at > now):
            return []
        self._is_stale = True
        actions: list[Action] = []
        self._look_at_cap(now)
        flight = self._replies.flight
        if flight is not None and flight.expires_at <= now:
            actions += self._expire_flight(flight, now)
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

    # -- requests --------------------------------------------------------------------------------------------------

    def _next_request(self, now: float) -> Action | None:
        """Return the request whose turn it is: what makes room first, then what is wanted, then what is made anew."""
        if self._replies.flight is not None:
            return None
        for is_release, batch in self._queue.batches(now):
            if batch and self._replies.may_send(is_release, batch, now):
                return self._send(batch, now, is_release=is_release)
        if self._restate_at is not None and self._restate_at <= now and self._replies.may_send(False, (), now):
            if self.in_state(State.CONFIRMED, State.SUSPECTED):
                return self._send((), now, is_release=False)
            self._restate_at = None  # nothing is left to be stated
        return None

    def _send(self, batch: tuple[Registration, ...], now: float, *, is_release: bool) -> Action:
        expires_at = now + self._timeout_s
        for registration in batch:
            entry = self._entries[registration]
            entry.apply(Event.RELEASE_SENT if is_release else Event.REQUESTED)
            entry.attempts += 1
            entry.is_known = True
            entry.due_at = None if self._habits.is_serial else expires_at
        attempt = max((self._entries[registration].attempts for registration in batch), default=1)
        self._next_send_at = now + self._interval_s
        self._queue.remove(batch)
        self._replies.on_sent(batch, now, expires_at, is_release=is_release)
        if is_release:
            return Release(batch, attempt)
        if self._habits.replaces_all:
            self._restate_at = None
            batch = self.in_state(State.PENDING, State.CONFIRMED, State.SUSPECTED)
        return Send(batch, attempt)

    # -- answers ---------------------------------------------------------------------------------------------------

    def _confirm(self, registration: Registration) -> list[Action]:
        entry = self._entries[registration]
        before = entry.state
        entry.apply(Event.STILL_SILENT if entry.is_doubted else Event.CONFIRMED)
        if entry.state not in (State.CONFIRMED, State.SUSPECTED):
            return []  # it is being given up
        entry.due_at = None
        entry.is_known = True
        entry.reason = entry.reason if entry.is_doubted else ""
        self._unexplained.forget(registration)
        return [] if before in (State.CONFIRMED, State.SUSPECTED) else [Confirmed(registration)]

    def _release(self, registration: Registration, now: float, attempts: int = 0) -> list[Action]:
        """The venue no longer has *registration*, or nothing more can be done about it."""
        entry = self._entries[registration]
        if entry.state is not State.RELEASING:
            return []
        entry.is_known = False
        if not entry.is_wanted:
            self._forget(registration, entry, Event.RELEASED)
            self._make_room(now)
        else:
            entry.apply(Event.RELEASED_TO_RENEW)
            entry.attempts = 0
            entry.due_at = now
        return [Released(registration, attempts)]

    def _take_refused_one(
        self, registration: Registration | None, refusal: Refusal, reason: str, now: float
    ) -> list[Action]:
        if refusal is Refusal.CAP_REACHED:
            return self._cap(registration, now)
        if registration is None:
            return []  # nobody knows whose it is: the timeout decides
        if refusal is Refusal.UNEXPLAINED:
            return self._take_unexplained(registration, reason, now)
        if refusal is not Refusal.RETRY:
            return self._reject(registration, reason, now, refusal is Refusal.NOT_ENTITLED)
        entry = self._entries[registration]
        if entry.state is State.PENDING:
            return self._try_again(registration, now, reason, delay_s=RETRY_DELAY_S * entry.attempts)
        entry.apply(Event.RETRY)  # late: the next request is planned already, or none is needed
        return []

    def _take_unexplained(self, registration: Registration, reason: str, now: float) -> list[Action]:
        waiting = [r for r in self.in_state(State.DESIRED) if r != registration and r not in self._unexplained]
        match self._unexplained.judge(registration, len(waiting)):
            case Verdict.FULL:
                return self._cap(registration, now)
            case Verdict.BAD | Verdict.UNDECIDED as verdict:
                return self._reject(registration, reason, now, verdict is Verdict.UNDECIDED)
            case Verdict.ASK_LATER if self._entries[registration].state is State.PENDING:
                self._put_back(registration, reason, now)  # behind all that have waited longer
        return []

    def _put_back(self, registration: Registration, reason: str, now: float) -> None:
        entry = self._entries[registration]
        entry.apply(Event.RETRY)
        entry.attempts = 0
        entry.due_at = now
        entry.reason = reason

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
            self._put_back(registration, reason, now)
        self._queue.put_halves_first(pending)
        return []

    def _take_silence(self, pending: tuple[Registration, ...], now: float, *, is_release: bool) -> list[Action]:
        """A request was not answered in time: where no answer is given, that is good news."""
        if not self._habits.acknowledges:
            settled = ((self._release(r, now) if is_release else self._confirm(r)) for r in pending)
            return [action for actions in settled for action in actions]
        reason = f"no reply within {self._timeout_s:g} s"
        if is_release:
            return [a for r in pending for a in self._try_release_again(r, now, reason, delay_s=0.0)]
        return self._try_batch_again(pending, now, reason, delay_s=0.0)

    def _expire_flight(self, flight: Flight, now: float) -> list[Action]:
        pending = self._replies.pending()
        # where answers are given, this one may still come
        self._replies.give_up_waiting(now + self._timeout_s if self._habits.acknowledges else None)
        if self._habits.acknowledges and not flight.registrations:
            self._restate_at = now + REVIVE_AFTER_S
        return self._take_silence(pending, now, is_release=flight.is_release)

    def _expire(self, registration: Registration, now: float) -> list[Action]:
        is_release = self._entries[registration].state is State.RELEASING
        if not self._habits.acknowledges:
            self._replies.forget(registration, is_release=is_release)
        return self._take_silence((registration,), now, is_release=is_release)

    def _try_batch_again(
        self, pending: tuple[Registration, ...], now: float, reason: str, delay_s: float
    ) -> list[Action]:
        actions = [action for r in pending for action in self._try_again(r, now, reason, delay_s)]
        if len(again := tuple(r for r in pending if self._entries[r].state is State.DESIRED)) > 1:
            self._queue.put_first(again)
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
        self._replies.forget(registration, is_release=False)
        return [Failed(registration, entry.attempts, reason)]

    def _try_release_again(self, registration: Registration, now: float, reason: str, delay_s: float) -> list[Action]:
        entry = self._entries[registration]
        if entry.attempts < self._attempts:
            entry.apply(Event.RETRY)
            entry.due_at = now + delay_s
            return []
        entry.reason = reason
        self._replies.forget(registration, is_release=True)
        return self._release(registration, now, attempts=entry.attempts)

    def _reject(self, registration: Registration, reason: str, now: float, may_fit_elsewhere: bool) -> list[Action]:
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
        self._unexplained.forget(registration)
        return [Rejected(registration, reason, may_fit_elsewhere)]

    def _revive(self, entry: Entry, now: float) -> None:
        if self._is_capped:
            self._leave_out(entry)
            return
        entry.apply(Event.REVIVED)
        entry.attempts = 0
        entry.due_at = now

    def _drop(self, registration: Registration, entry: Entry, now: float) -> None:
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

    def _forget(self, registration: Registration, entry: Entry, event: Event = Event.FORGOTTEN) -> None:
        entry.apply(event)
        del self._entries[registration]
        self._replies.forget(registration)
        self._unexplained.forget(registration)

    def _leave_out(self, entry: Entry) -> None:
        entry.apply(Event.CAP_REACHED)
        if entry.state is State.CAPPED:
            entry.due_at = None
            entry.is_known = False
            entry.reason = "the session takes no more registrations"

    def _cap(self, refused: Registration | None, now: float) -> list[Action]:
        """Stop registering on this session. What is pending still waits for its own reply."""
        is_first = not self._is_capped
        self._is_capped = True
        self._capped_until = now + CAPPED_FOR_S
        self._queue.clear()
        self._unexplained.clear()
        for registration, entry in self._entries.items():
            if registration == refused or entry.state is State.DESIRED:
                self._leave_out(entry)
        confirmed = len(self.in_state(State.CONFIRMED, State.SUSPECTED))
        return [Capped(confirmed, len(self.in_state(State.CAPPED)))] if is_first else []

    def _look_at_cap(self, now: float) -> None:
        if self._is_capped and now >= self._capped_until:
            self._make_room(now)

    def _make_room(self, now: float) -> None:
        """One registration less: those that the limit had left out may be asked for again."""
        self._unexplained.clear()  # what was refused before tells nothing of the session as it is now
        was_capped, self._is_capped = self._is_capped, False
        for entry in self._entries.values():
            if was_capped and entry.state is State.CAPPED:
                entry.apply(Event.ROOM)
                entry.attempts = 0
                entry.due_at = now

    def _find_deadline(self) -> float | None:
        send_at = self._next_send_at
        if not self._queue.has_part(self._replies.last_batch):
            send_at = max(send_at, self._replies.blocks_until)
        times = [self._capped_until] if self._is_capped else []
        if (flight := self._replies.flight) is not None:
            times.append(flight.expires_at)
        elif self._restate_at is not None:
            times.append(max(self._restate_at, send_at))
        return min([*times, *self._queue.deadlines(send_at, is_waiting=flight is not None)], default=None)
