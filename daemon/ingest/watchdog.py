"""The data watchdog of one session: silence in market hours is warned of, then remedied. Pure, time is passed in.

Only data feeds it: heartbeats and replies of the venue say nothing about registrations. It counts from the newest of
three moments: the last data, the opening of the market, the first confirmation of a registration on a connection.
While the market is closed it does nothing at all, because venues block who reconnects for hours without need. Times are
monotonic seconds. The caller calls due() at least twice within `warn_s`, or at next_deadline().
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec

GROWTH = 2.0  # of the pause before each further reconnect
MAX_DOUBLINGS = 16  # beyond, a float would overflow one day
LATE_SHARE = 0.5  # of warn_s: who asks later than that was stopped, and so has seen no data


class State(Enum):
    """What the watchdog has done about the present silence."""

    UNSUBSCRIBED = "unsubscribed"  # nothing is confirmed, so nothing is expected
    CLOSED = "closed"  # the market sleeps
    WATCHING = "watching"
    WARNED = "warned"
    RESUBSCRIBED = "resubscribed"
    RECONNECTED = "reconnected"


class Event(Enum):
    """What happens to it."""

    SUBSCRIBED = "subscribed"  # the first registration of a connection is confirmed
    LOST = "lost"  # the connection, and all registrations with it
    OPENED = "opened"
    CLOSED = "closed"
    DATA = "data"
    WARN = "warn"
    RESUBSCRIBE = "resubscribe"
    RECONNECT = "reconnect"


class Action(Enum):
    """What the owner is asked to do."""

    WARN = "warn"
    RESUBSCRIBE = "resubscribe"  # every registration of the session, as if none had been confirmed
    RECONNECT = "reconnect"  # close the session; the connection's own back-off says when it returns


_AWAKE: Mapping[Event, State] = {
    Event.LOST: State.UNSUBSCRIBED,
    Event.CLOSED: State.CLOSED,
    Event.DATA: State.WATCHING,
}
TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.UNSUBSCRIBED: {Event.SUBSCRIBED: State.CLOSED, Event.LOST: State.UNSUBSCRIBED},
    State.CLOSED: {
        Event.OPENED: State.WATCHING,
        Event.LOST: State.UNSUBSCRIBED,
        Event.DATA: State.CLOSED,
    },
    State.WATCHING: {**_AWAKE, Event.WARN: State.WARNED, Event.RECONNECT: State.RECONNECTED},
    State.WARNED: {**_AWAKE, Event.RESUBSCRIBE: State.RESUBSCRIBED},
    State.RESUBSCRIBED: {**_AWAKE, Event.RECONNECT: State.RECONNECTED},
    State.RECONNECTED: {**_AWAKE, Event.RECONNECT: State.RECONNECTED},
}
AWAKE = frozenset({State.WATCHING, State.WARNED, State.RESUBSCRIBED, State.RECONNECTED})


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Silence before each action. The pause between reconnects doubles up to *reconnect_max_s*."""

    warn_s: float = 60.0
    resubscribe_s: float = 120.0
    reconnect_s: float = 180.0
    reconnect_max_s: float = 3600.0


class DataWatchdog:
    """Tells its owner what to do about silence; each action once per silence, except that reconnects are repeated."""

    def __init__(self, limits: Limits) -> None:
        self.set_limits(limits)
        self._state = State.UNSUBSCRIBED
        self._since_s = 0.0  # silence is counted from here
        self._flowing_since_s: float | None = None  # data without a pause of warn_s; None: not now
        self._reconnects = 0  # in a row, without data that lasted

    def set_limits(self, limits: Limits) -> None:
        """Go by *limits* from now on."""
        if not 0 < limits.warn_s < limits.resubscribe_s < limits.reconnect_s:
            raise ValueError(f"expected warn_s < resubscribe_s < reconnect_s, found {limits}")
        self._limits = limits

    @property
    def state(self) -> State:
        """What has been done so far."""
        return self._state

    def silent_for_s(self, now_s: float) -> float:
        """Return the silence in market hours; 0 while nothing is expected."""
        return max(0.0, now_s - self._since_s) if self._state in AWAKE else 0.0

    def on_subscribed(self, now_s: float) -> None:
        """A registration is confirmed. Only the first one of a connection counts.

        The others may be the answers to our own RESUBSCRIBE, and would put off RECONNECT for ever.
        """
        if self._state is State.UNSUBSCRIBED:
            self._apply(Event.SUBSCRIBED)
            self._since_s = now_s

    def on_lost(self) -> None:
        """The connection is gone."""
        self._apply(Event.LOST)
        self._flowing_since_s = None

    def on_data(self, now_s: float) -> None:
        """A record arrived; no matter how many since the last call. Before any confirmation it is one itself."""
        if self._state is State.UNSUBSCRIBED:
            self._apply(Event.SUBSCRIBED)
        self._apply(Event.DATA)
        is_flowing = self._flowing_since_s is not None and now_s - self._since_s < self._limits.warn_s
        self._flowing_since_s = self._flowing_since_s if is_flowing else now_s
        self._since_s = now_s
        # One record after each reconnect must not start the series anew: that would be the loop that venues punish.
        if self._flowing_since_s is not None and now_s - self._flowing_since_s >= self._limits.warn_s:
            self._reconnects = 0

    def due(self, now_s: float, is_open: bool) -> Action | None:
        """Return what is to be done now, at most one thing."""
        if self._state is State.UNSUBSCRIBED:
            return None
        if not is_open:
            self._close()
            return None
        if self._state is State.CLOSED:
            self._apply(Event.OPENED)
            self._since_s = now_s
            return None
        deadline_s = self.next_deadline()
        assert deadline_s is not None
        if now_s < deadline_s:
            return None
        if now_s - deadline_s > LATE_SHARE * self._limits.warn_s:
            self._since_s = now_s - self._passed_s()  # we were stopped, and what waits in the socket is not read yet
            return None
        return self._act(now_s)

    def next_deadline(self) -> float | None:
        """Return when due() will have an answer if nothing else happens; None: not before the market opens."""
        if self._state not in AWAKE:
            return None
        return self._since_s + self._silence_limit_s()

    def _close(self) -> None:
        if self._state is not State.CLOSED:
            self._apply(Event.CLOSED)
        self._flowing_since_s = None
        self._reconnects = 0  # the next session begins afresh

    def _silence_limit_s(self) -> float:
        """The silence that the next action waits for."""
        limits = self._limits
        if self._reconnects:  # everything was registered newly: warning and registering again would add nothing
            growth = GROWTH ** min(self._reconnects, MAX_DOUBLINGS)
            return min(limits.reconnect_s * growth, max(limits.reconnect_max_s, limits.reconnect_s))
        return {
            State.WATCHING: limits.warn_s,
            State.WARNED: limits.resubscribe_s,
            State.RESUBSCRIBED: limits.reconnect_s,
        }[self._state]

    def _passed_s(self) -> float:
        """The silence that the last action answered to."""
        return {
            State.WARNED: self._limits.warn_s,
            State.RESUBSCRIBED: self._limits.resubscribe_s,
        }.get(self._state, 0.0)

    def _act(self, now_s: float) -> Action:
        if self._reconnects or self._state is State.RESUBSCRIBED:
            self._apply(Event.RECONNECT)
            self._reconnects += 1
            self._since_s = now_s
            self._flowing_since_s = None
            return Action.RECONNECT
        if self._state is State.WARNED:
            self._apply(Event.RESUBSCRIBE)
            return Action.RESUBSCRIBE
        self._apply(Event.WARN)
        return Action.WARN

    def _apply(self, event: Event) -> None:
        try:
            self._state = TRANSITIONS[self._state][event]
        except KeyError:
            raise ValueError(f"data watchdog: {event} in {self._state}") from None
