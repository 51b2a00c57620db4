"""What can be seen of the subscriptions of one connection. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from daemon.ingest.correspondence import Correspondence
from daemon.ingest.subscription_states import (
    Entry,
    Habits,
    State,
    SubscriptionStatistics,
    SubscriptionStatus,
    count_states,
)
from daemon.ingest.venues.venue import Registration


class SubscriptionView:
    """Registrations and where they stand; `Subscriptions` is what changes them."""

    def __init__(self, registrations: Iterable[Registration], habits: Habits) -> None:
        self._entries = {registration: Entry() for registration in registrations}
        self._habits = habits
        self._replies = Correspondence(self._entries, is_serial=habits.is_serial)
        self._is_capped = False

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
        return count_states(self._entries.values(), unanswered=len(self._replies))

    @property
    def is_capped(self) -> bool:
        """True from the venue's refusal of one registration too many until there may be room, or the session ends."""
        return self._is_capped
