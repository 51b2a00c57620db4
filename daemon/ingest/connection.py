"""One connection to a venue as a state table: what it does next, and how long it waits before it tries again.

Pure: the clock and the random number are passed in, and every event returns the actions that the driver performs
before it reports the next event. There is at most one lasting action at a time (fetching a key, connecting, streaming,
waiting), so that the driver is a plain loop and no event can belong to an older attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TypedDict

import msgspec

from daemon.errors import InvariantBroken
from daemon.ingest.venues.venue import SessionFault

# A session that has streamed this long ends the series of failures before it: the next loss starts with short delays.
# Shorter, and a venue that accepts and then kicks would be asked at full speed for ever.
HEALTHY_AFTER_S = 10.0
# A held slot frees itself after seconds to hours; the delays double from `slot_held_backoff_s` up to this.
SLOT_HELD_MAX_S = 300.0
# The wait for a held slot is at least its base; at most a quarter more, so that several hosts do not fall into step.
SLOT_HELD_JITTER = 0.25
MAX_DOUBLINGS = 16


class State(Enum):
    """Where the connection stands."""

    IDLE = "idle"  # constructed
    FETCHING_KEY = "fetching key"
    CONNECTING = "connecting"
    LOGGING_IN = "logging in"  # open: the venue has to accept us first
    READY = "ready"  # open: subscribing may start
    STREAMING = "streaming"  # open, and the venue has sent something
    BACKING_OFF = "backing off"
    STOPPED = "stopped"  # by us, or because only the operator can help


class Event(Enum):
    """What can happen to it."""

    STARTED = "started"
    KEY_OBTAINED = "key obtained"
    KEY_UNAVAILABLE = "key unavailable"
    OPENED = "opened"
    OPENED_TO_LOG_IN = "opened to log in"
    LOGGED_IN = "logged in"
    LOGIN_TIMED_OUT = "login timed out"
    OPEN_FAILED = "open failed"
    FRAME_SEEN = "frame seen"
    LOST = "lost"
    LINK_SILENT = "link silent"
    DATA_SILENT = "data silent"  # the link lives, and brings no data while a market is open
    KEY_EXPIRED = "key expired"
    KEY_STILL_REFUSED = "key still refused"  # the new one too
    CREDENTIAL_REFUSED = "credential refused"
    SLOT_HELD = "slot held"
    SUPERSEDED = "superseded"
    BACKED_OFF = "backed off"
    STOP_REQUESTED = "stop requested"


SESSION_FAULT_EVENTS: Mapping[SessionFault, Event] = {
    SessionFault.KEY_EXPIRED: Event.KEY_EXPIRED,
    SessionFault.CREDENTIAL_REFUSED: Event.CREDENTIAL_REFUSED,
    SessionFault.SLOT_HELD: Event.SLOT_HELD,
    SessionFault.SUPERSEDED: Event.SUPERSEDED,
}

_SESSION_ENDS: Mapping[Event, State] = {
    Event.LOST: State.BACKING_OFF,
    Event.LINK_SILENT: State.BACKING_OFF,
    Event.DATA_SILENT: State.BACKING_OFF,
    Event.KEY_EXPIRED: State.FETCHING_KEY,
    Event.KEY_STILL_REFUSED: State.BACKING_OFF,
    Event.CREDENTIAL_REFUSED: State.STOPPED,
    Event.SLOT_HELD: State.BACKING_OFF,
    Event.SUPERSEDED: State.STOPPED,  # reconnecting would fight the newer session for ever
    Event.STOP_REQUESTED: State.STOPPED,
}

TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.IDLE: {Event.STARTED: State.FETCHING_KEY, Event.STOP_REQUESTED: State.STOPPED},
    State.FETCHING_KEY: {
        Event.KEY_OBTAINED: State.CONNECTING,
        Event.KEY_UNAVAILABLE: State.BACKING_OFF,
        Event.CREDENTIAL_REFUSED: State.STOPPED,
        Event.STOP_REQUESTED: State.STOPPED,
    },
    State.CONNECTING: {
        Event.OPENED: State.READY,
        Event.OPENED_TO_LOG_IN: State.LOGGING_IN,
        Event.OPEN_FAILED: State.BACKING_OFF,
        Event.STOP_REQUESTED: State.STOPPED,
    },
    State.LOGGING_IN: {
        Event.LOGGED_IN: State.READY,
        Event.LOGIN_TIMED_OUT: State.BACKING_OFF,
        **_SESSION_ENDS,
    },
    State.READY: {Event.FRAME_SEEN: State.STREAMING, **_SESSION_ENDS},
    State.STREAMING: _SESSION_ENDS,
    State.BACKING_OFF: {Event.BACKED_OFF: State.FETCHING_KEY, Event.STOP_REQUESTED: State.STOPPED},
    State.STOPPED: {Event.STOP_REQUESTED: State.STOPPED},
}
OPEN_STATES = (State.LOGGING_IN, State.READY, State.STREAMING)


class FetchKey(msgspec.Struct, frozen=True):
    """Obtain the approval key; *refresh*: the venue has refused the one that is cached."""

    refresh: bool


class Connect(msgspec.Struct, frozen=True):
    """Open the WebSocket."""


class LogIn(msgspec.Struct, frozen=True):
    """Send the login and wait for its reply."""


class Stream(msgspec.Struct, frozen=True):
    """Subscribe and receive, until the session ends."""


class Close(msgspec.Struct, frozen=True):
    """Close the WebSocket properly and wait for it."""

    reason: str


class BackOff(msgspec.Struct, frozen=True):
    """Wait before the next attempt."""

    delay_s: float
    reason: str


class Halt(msgspec.Struct, frozen=True):
    """Never connect again; alert unless we were asked to stop."""

    reason: str
    is_fault: bool


Action = FetchKey | Connect | LogIn | Stream | Close | BackOff | Halt


class Times(TypedDict):
    """Pauses and patience, in seconds."""

    backoff_first_s: float
    backoff_max_s: float
    slot_held_backoff_s: float
    link_timeout_s: float


class Connection:
    """Decides about one connection."""

    def __init__(
        self,
        *,
        backoff_first_s: float,
        backoff_max_s: float,
        slot_held_backoff_s: float,
        link_timeout_s: float,
        random: Callable[[], float],
        needs_login: bool = False,
    ) -> None:
        """random: uniform in [0, 1). needs_login: subscribing starts with the venue's consent, not with the socket."""
        self.state = State.IDLE
        self.set_times(
            backoff_first_s=backoff_first_s,
            backoff_max_s=backoff_max_s,
            slot_held_backoff_s=slot_held_backoff_s,
            link_timeout_s=link_timeout_s,
        )
        self._random = random
        self._needs_login = needs_login
        self._failures = 0  # in a row, since the last healthy session
        self._slot_refusals = 0  # likewise
        self._key_refusals = 0  # likewise
        self._refresh_key = False
        self._streaming_since: float | None = None
        self._frames = 0
        self._last_frame_at = 0.0

    def set_times(
        self, *, backoff_first_s: float, backoff_max_s: float, slot_held_backoff_s: float, link_timeout_s: float
    ) -> None:
        """Go by these from now on; a pause that has begun keeps its length."""
        self._backoff_first_s = backoff_first_s
        self._backoff_max_s = backoff_max_s
        self._slot_held_backoff_s = slot_held_backoff_s
        self._link_timeout_s = link_timeout_s

    def handle(self, event: Event, now: float) -> list[Action]:
        """Follow the table; return what the driver does next, in this order."""
        was_open = self.state in OPEN_STATES
        if was_open and self._streaming_since is not None and now - self._streaming_since >= HEALTHY_AFTER_S:
            self._failures = self._slot_refusals = self._key_refusals = 0
        if event is Event.KEY_EXPIRED:
            event = self._judge_expired_key()
        elif event is Event.OPENED and self._needs_login:
            event = Event.OPENED_TO_LOG_IN
        target = TRANSITIONS[self.state].get(event)
        if target is None:
            raise InvariantBroken(f"connection: no transition for {event} in {self.state}")
        if self.state is State.STOPPED:
            return []
        self.state = target
        closing = [Close(event.value)] if was_open and target not in OPEN_STATES and event is not Event.LOST else []
        return [*closing, *self._enter(event, now)]

    def on_frames(self, frames: int, now: float) -> Event | None:
        """Compare the session's frame counter with the last one; return the event that follows, to be handled.

        Counting frames rather than reading their receive times keeps the watchdog off the wall clock, which may jump.
        """
        if self.state not in OPEN_STATES:
            return None
        if frames != self._frames:
            self._frames = frames
            self._last_frame_at = now
            return Event.FRAME_SEEN if self.state is State.READY else None
        return Event.LINK_SILENT if now - self._last_frame_at >= self._link_timeout_s else None

    def on_paused(self, now: float) -> None:
        """We do not read the socket ourselves: its silence says nothing about the link."""
        self._last_frame_at = now

    def next_deadline(self) -> float | None:
        """Return when `on_frames` should be asked at the latest."""
        return self._last_frame_at + self._link_timeout_s if self.state in OPEN_STATES else None

    def _enter(self, event: Event, now: float) -> list[Action]:
        """Return the action that the new state begins with."""
        match self.state:
            case State.FETCHING_KEY:
                refresh, self._refresh_key = self._refresh_key, False
                return [FetchKey(refresh)]
            case State.CONNECTING:
                return [Connect()]
            case State.LOGGING_IN | State.READY:
                self._frames = 0
                self._last_frame_at = now
                self._streaming_since = None
                return [LogIn() if self.state is State.LOGGING_IN else Stream()]
            case State.STREAMING:
                self._streaming_since = now
                return []
            case State.BACKING_OFF:
                return [BackOff(self._delay_s(event), event.value)]
            case _:
                return [Halt(event.value, is_fault=event is not Event.STOP_REQUESTED)]

    def _judge_expired_key(self) -> Event:
        """Refresh a refused key at once, but only once: a venue that refuses the new key too gets time."""
        self._refresh_key = True
        self._key_refusals += 1
        return Event.KEY_EXPIRED if self._key_refusals == 1 else Event.KEY_STILL_REFUSED

    def _delay_s(self, event: Event) -> float:
        """Full jitter over a doubling range; a held slot waits at least its base."""
        if event is Event.SLOT_HELD:
            base = self._slot_held_backoff_s * 2.0 ** min(self._slot_refusals, MAX_DOUBLINGS)
            self._slot_refusals += 1
            base = min(base, max(SLOT_HELD_MAX_S, self._slot_held_backoff_s))
            return base * (1.0 + SLOT_HELD_JITTER * self._random())
        ceiling = min(self._backoff_max_s, self._backoff_first_s * 2.0 ** min(self._failures, MAX_DOUBLINGS))
        self._failures += 1
        return ceiling * self._random()
