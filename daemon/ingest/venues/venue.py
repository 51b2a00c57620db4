"""The vocabulary between a venue and the rest of ingest: what a venue's file must offer, and how it says what it heard.

Everything a venue does differently is behind `Venue`; connection, subscriptions and router speak only the types here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from daemon.config import Account
    from native_pipeline.frame_parser import FrameParser


class Registration(NamedTuple):
    """One thing to subscribe to, in the venue's own words; replies are correlated by it."""

    channel: str  # what kind of data
    key: str  # of which symbol


class Refusal(Enum):
    """Why one registration was refused."""

    RETRY = "retry"  # the venue's own trouble: ask again, later
    CAP_REACHED = "cap reached"  # this session takes no more registrations
    NOT_ENTITLED = "not entitled"  # paid data that this account has not bought
    INVALID = "invalid"  # bad symbol or bad request: asking again changes nothing


class SessionFault(Enum):
    """What is wrong with the whole session."""

    KEY_EXPIRED = "key expired"  # a new approval key, then reconnect
    CREDENTIAL_REFUSED = "credential refused"  # the operator must act
    SLOT_HELD = "slot held"  # another session uses this account; fast retries make it worse


class Subscribed(msgspec.Struct, frozen=True):
    """The venue confirms a registration (or says that it had it already)."""

    registration: Registration | None
    code: str


class Unsubscribed(msgspec.Struct, frozen=True):
    """The venue confirms that a registration is gone."""

    registration: Registration | None
    code: str


class RegistrationRefused(msgspec.Struct, frozen=True):
    """The venue refuses a registration; None if the reply does not say which."""

    registration: Registration | None
    refusal: Refusal
    code: str
    text: str


class SessionRefused(msgspec.Struct, frozen=True):
    """The venue refuses the session itself."""

    fault: SessionFault
    code: str
    text: str


class Heartbeat(msgspec.Struct, frozen=True):
    """The venue asks whether we live; *reply* is the text frame to send back."""

    reply: bytes


class Unknown(msgspec.Struct, frozen=True):
    """A well-formed reply that the venue's table does not list: logged, the session is kept."""

    registration: Registration | None
    code: str
    text: str


ControlMessage = Subscribed | Unsubscribed | RegistrationRefused | SessionRefused | Heartbeat | Unknown


class HttpRequest(msgspec.Struct, frozen=True):
    """A POST to make. The body holds credentials: never log one of these."""

    url: str
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        """Say where to, not what."""
        return f"HttpRequest(url={self.url!r})"


class Venue(Protocol):
    """What differs from venue to venue, except the hot parser. Implementations hold no state and do no I/O."""

    name: str
    needs_approval_key: bool

    def websocket_url(self, account: Account) -> str:
        """Return the URL to connect to: the account's own, or the venue's default."""

    def channel(self, market: str, kind: str) -> str | None:
        """Return the channel that carries *kind* of *market*; None if the venue has none."""

    def encode_subscribe(self, approval_key: str, registration: Registration) -> bytes:
        """Return the text frame that asks for *registration*."""

    def encode_unsubscribe(self, approval_key: str, registration: Registration) -> bytes:
        """Return the text frame that gives *registration* up."""

    def decode_control(self, frame: bytes) -> ControlMessage:
        """Return what a control frame says. Raises BadFrame if it is not one."""

    def approval_request(self, account: Account) -> HttpRequest:
        """Return the request that obtains an approval key."""

    def decode_approval(self, status: int, body: bytes) -> str:
        """Return the approval key of a reply. Raises Refused (the operator must act) or Retryable."""

    def make_parser(self, market: str, connection: int) -> FrameParser:
        """Return the native parser for the frames of one connection."""
