"""Control frames of one connection, sorted: replies to the subscriptions, heartbeats back, faults to the connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from daemon.errors import BadFrame
from daemon.ingest.venues.venue import (
    ControlMessage,
    Heartbeat,
    LoggedIn,
    Notice,
    Registration,
    RegistrationRefused,
    SessionRefused,
    Subscribed,
    Unknown,
    Unsubscribed,
)


class ControlHandler(Protocol):
    """What a session does with what the venue says."""

    def on_heartbeat(self, reply: bytes) -> None:
        """Send *reply* back at once."""

    def on_subscribed(self, registration: Registration | None) -> None:
        """Take a confirmation."""

    def on_refused(self, refused: RegistrationRefused) -> None:
        """Take a refusal of one registration."""

    def on_session_refused(self, refused: SessionRefused) -> None:
        """Take a refusal of the session."""

    def on_unsubscribed(self, message: Unsubscribed) -> None:
        """Take the reply that a registration is gone."""

    def on_logged_in(self) -> None:
        """The venue accepts the session."""

    def on_notice(self, notice: Notice) -> None:
        """Count what the venue says without consequence."""

    def on_unexpected(self, message: Unsubscribed | Unknown) -> None:
        """Note what nobody asked for; the session goes on."""

    def on_undecodable(self, frame: bytes, reason: str) -> None:
        """Keep a frame that is not a control message."""


def route(frame: bytes, *, decode: Callable[[bytes], ControlMessage], handler: ControlHandler) -> None:
    """Decode *frame* and call the one method of *handler* that it is for."""
    try:
        message = decode(frame)
    except BadFrame as exc:
        handler.on_undecodable(frame, str(exc))
        return
    match message:
        case Heartbeat():
            handler.on_heartbeat(message.reply)
        case Subscribed():
            handler.on_subscribed(message.registration)
        case RegistrationRefused():
            handler.on_refused(message)
        case SessionRefused():
            handler.on_session_refused(message)
        case Unsubscribed():
            handler.on_unsubscribed(message)
        case LoggedIn():
            handler.on_logged_in()
        case Notice():
            handler.on_notice(message)
        case Unknown():
            handler.on_unexpected(message)
