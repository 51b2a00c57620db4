"""Every kind of control message reaches the one method it is for."""

from collections.abc import Callable

import pytest

from daemon.errors import BadFrame
from daemon.ingest.router import route
from daemon.ingest.venues.venue import (
    ControlMessage,
    Heartbeat,
    LoggedIn,
    Notice,
    Refusal,
    Registration,
    RegistrationRefused,
    SessionFault,
    SessionRefused,
    Subscribed,
    Unknown,
    Unsubscribed,
)

A = Registration("TRADES", "A")
REFUSED = RegistrationRefused(A, Refusal.INVALID, "X1", "no")
SESSION_REFUSED = SessionRefused(SessionFault.SLOT_HELD, "X2", "no")


class Recorder:
    """Notes what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def on_heartbeat(self, reply: bytes) -> None:
        self.calls.append(("heartbeat", reply))

    def on_subscribed(self, registration: Registration | None) -> None:
        self.calls.append(("subscribed", registration))

    def on_refused(self, refused: RegistrationRefused) -> None:
        self.calls.append(("refused", refused))

    def on_session_refused(self, refused: SessionRefused) -> None:
        self.calls.append(("session_refused", refused))

    def on_unsubscribed(self, message: Unsubscribed) -> None:
        self.calls.append(("unsubscribed", message))

    def on_logged_in(self) -> None:
        self.calls.append(("logged_in",))

    def on_notice(self, notice: Notice) -> None:
        self.calls.append(("notice", notice))

    def on_unexpected(self, message: Unsubscribed | Unknown) -> None:
        self.calls.append(("unexpected", message))

    def on_undecodable(self, frame: bytes, reason: str) -> None:
        self.calls.append(("undecodable", frame, reason))


def always(message: ControlMessage) -> Callable[[bytes], ControlMessage]:
    return lambda _frame: message


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (Heartbeat(b"{}"), ("heartbeat", b"{}")),
        (Subscribed(A, "X0"), ("subscribed", A)),
        (Subscribed(None, "X0"), ("subscribed", None)),
        (REFUSED, ("refused", REFUSED)),
        (SESSION_REFUSED, ("session_refused", SESSION_REFUSED)),
        (Unsubscribed(A, "X3"), ("unsubscribed", Unsubscribed(A, "X3"))),
        (LoggedIn("X5"), ("logged_in",)),
        (Notice("X6"), ("notice", Notice("X6"))),
        (Unknown(None, "X4", "?"), ("unexpected", Unknown(None, "X4", "?"))),
    ],
)
def test_a_control_message_reaches_its_handler_once(message: ControlMessage, call: tuple[object, ...]) -> None:
    recorder = Recorder()

    route(b"frame", decode=always(message), handler=recorder)

    assert recorder.calls == [call]


@pytest.mark.requirement("SCH-01")
def test_an_undecodable_control_frame_is_handed_over_with_its_bytes() -> None:
    recorder = Recorder()

    def fail(_frame: bytes) -> ControlMessage:
        raise BadFrame("not a control frame")

    route(b"{", decode=fail, handler=recorder)

    assert recorder.calls == [("undecodable", b"{", "not a control frame")]
