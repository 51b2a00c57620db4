"""Which request a reply is for.

Pure. A reply that names its registration is easy. One that names none belongs to the only request that it can belong
to; where there are several, to none. A venue that answers each request as a whole is sent one at a time, and no other
one while replies to earlier ones may still come.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from daemon.ingest.subscription_states import Entry, State
from daemon.ingest.venues.venue import Registration

Batch = tuple[Registration, ...]


class Flight(msgspec.Struct, frozen=True):
    """The one request of a serial venue that waits for its answer."""

    is_release: bool
    registrations: tuple[Registration, ...]
    expires_at: float


class Correspondence:
    """Requests that wait for their replies. Looks at the entries of the session; changes none."""

    def __init__(self, entries: Mapping[Registration, Entry], *, is_serial: bool) -> None:
        self._entries = entries
        self._is_serial = is_serial
        # Of a venue that answers each registration; those that timed out are among them. (is a release, registration)
        self._unanswered: set[tuple[bool, Registration]] = set()
        # Of a serial venue: its one request, the last one, and how many replies may still come until when.
        self.flight: Flight | None = None
        self._last: tuple[bool, Batch] = (False, ())
        self._owed = 0
        self.owed_until = 0.0

    def __len__(self) -> int:
        """Return the number of replies that may still come."""
        return len(self._unanswered) + self._owed

    def clear(self) -> None:
        """The session is over: nothing comes any more."""
        self._unanswered.clear()
        self.flight = None
        self._owed = 0

    def on_sent(self, batch: Batch, now: float, expires_at: float, *, is_release: bool) -> None:
        """Wait for the reply to this request."""
        if not self._is_serial:
            self._unanswered |= {(is_release, registration) for registration in batch}
            return
        self._owed = self._owed + 1 if now < self.owed_until else 1
        self.owed_until = expires_at
        self.flight = Flight(is_release, batch, expires_at)
        self._last = (is_release, batch)

    def may_send(self, is_release: bool, batch: Batch, now: float) -> bool:
        """A reply without a name must not be taken for that of another request: wait for those that may still come."""
        return not self._owed or (is_release, batch) == self._last or now >= self.owed_until

    @property
    def blocks_until(self) -> float:
        """Until when no other request than the last one may be sent."""
        return self.owed_until if self._owed else 0.0

    @property
    def last_batch(self) -> Batch:
        """What the last request was for."""
        return self._last[1]

    def give_up_waiting(self, owed_until: float | None) -> None:
        """The flight was not answered in time; its reply may come until *owed_until*, None: never."""
        self.flight = None
        if owed_until is None:
            self._owed = 0
        else:
            self.owed_until = owed_until

    def forget(self, registration: Registration, *, is_release: bool | None = None) -> None:
        """Expect no reply for *registration*; None: to neither kind of request."""
        self._unanswered -= {(kind, registration) for kind in (False, True) if is_release in (None, kind)}

    def pending(self) -> Batch:
        """Return those of the flight that nothing else has settled."""
        if self.flight is None:
            return ()
        state = State.RELEASING if self.flight.is_release else State.PENDING
        return tuple(r for r in self.flight.registrations if r in self._entries and self._entries[r].state is state)

    def is_release_refused(self, registration: Registration | None) -> bool:
        """Return whether a refusal is the answer to a request that gives something up."""
        if registration is not None:
            return registration in self._entries and self._entries[registration].state is State.RELEASING
        if self._is_serial:
            return self.flight is not None and self.flight.is_release
        return len(self._unanswered) == 1 and next(iter(self._unanswered))[0]

    def answered(self, registration: Registration | None, *, is_release: bool) -> Batch:
        """Return the registrations that a reply is for, and note that it has come."""
        if registration is not None:
            self._unanswered.discard((is_release, registration))
            is_for_flight = self.flight is not None and self.flight.is_release is is_release
            if is_for_flight and self.pending() in ((), (registration,)):
                self._land()
            return (registration,) if registration in self._entries else ()
        if not self._is_serial:
            if len(self._unanswered) != 1 or next(iter(self._unanswered))[0] is not is_release:
                return ()
            ((_, only),) = self._unanswered
            self._unanswered.clear()
            return (only,) if only in self._entries else ()
        flight = self.flight
        if flight is None or flight.is_release is not is_release:
            self._owed = max(0, self._owed - 1)  # late, of an earlier request
            return ()
        self._land()
        return tuple(registration for registration in flight.registrations if registration in self._entries)

    def _land(self) -> None:
        self.flight = None
        self._owed = max(0, self._owed - 1)
