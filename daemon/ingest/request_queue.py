"""Which registrations the next request is for.

Pure. What has waited longest goes first; the parts of a refused or unanswered batch are requests of their own, so that
one bad symbol is found and a repeated request is the same request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from daemon.ingest.subscription_states import LIVE_STATES, Entry, Habits, State
from daemon.ingest.venues.venue import Registration

Batch = tuple[Registration, ...]


class RequestQueue:
    """Looks at the entries of one session; changes none."""

    def __init__(self, entries: Mapping[Registration, Entry], habits: Habits) -> None:
        self._entries = entries
        self._habits = habits
        self.limit = habits.limit  # registrations that the session takes, 0: not known; a new setting may change it
        self._parts: list[Batch] = []

    def batches(self, now: float) -> Iterator[tuple[bool, Batch]]:
        """Yield (is a release, batch): what makes room first, then what is wanted, then what is made anew."""
        yield True, self._waiting(State.LEAVING, now, is_wanted=False)
        yield False, self._wanted_batch(now)
        yield True, self._waiting(State.LEAVING, now, is_wanted=True)

    def has_part(self, batch: Batch) -> bool:
        """Return whether *batch* is one that has to be repeated as it was."""
        return batch in self._parts

    def put_first(self, *parts: Batch) -> None:
        """Let each of *parts* be a request of its own, before anything else that is wanted."""
        self._parts[:0] = [part for part in parts if part]

    def put_halves_first(self, batch: Batch) -> None:
        """Let each half of *batch* be a request of its own."""
        half = (len(batch) + 1) // 2
        self.put_first(batch[:half], batch[half:])

    def remove(self, batch: Batch) -> None:
        """*batch* has been sent."""
        if batch in self._parts:
            self._parts.remove(batch)

    def clear(self) -> None:
        """Forget the parts."""
        self._parts.clear()

    def room(self) -> int:
        """Return how many more registrations the session takes."""
        if not self.limit:
            return len(self._entries)
        return self.limit - sum(entry.state in LIVE_STATES for entry in self._entries.values())

    def deadlines(self, send_at: float, *, is_waiting: bool) -> Iterator[float]:
        """Yield when entries have something to do. send_at: when the next request may be sent; is_waiting: not yet."""
        has_room = self.room() > 0
        for entry in self._entries.values():
            if entry.due_at is None:
                continue
            if entry.state not in (State.DESIRED, State.LEAVING):
                yield entry.due_at
            elif not is_waiting and (has_room or entry.state is State.LEAVING):
                yield max(entry.due_at, send_at)

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
        room = max(0, self.room())
        live = (tuple(r for r in part if self._is_waiting(r)) for part in self._parts)
        self._parts = [part for part in live if part]
        for part in self._parts:
            if all((self._entries[registration].due_at or 0.0) <= now for registration in part):
                return part[:room]
        return self._waiting(State.DESIRED, now)[:room]

    def _is_waiting(self, registration: Registration) -> bool:
        entry = self._entries.get(registration)
        return entry is not None and entry.state is State.DESIRED
