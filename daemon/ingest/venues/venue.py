"""The vocabulary between a venue and the rest of ingest: what a venue's file must offer, and how it says what it heard.

Everything a venue does differently is behind `Venue`; connection, subscriptions and router speak only the types here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    import datetime

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
    UNEXPLAINED = "unexplained"  # the venue does not say whether the session is full or the symbol bad


class SessionFault(Enum):
    """What is wrong with the whole session."""

    KEY_EXPIRED = "key expired"  # a new approval key, then reconnect
    CREDENTIAL_REFUSED = "credential refused"  # the operator must act
    SLOT_HELD = "slot held"  # another session uses this account; fast retries make it worse
    SUPERSEDED = "superseded"  # a newer session of this account has taken over: reconnecting would fight it for ever


class LoggedIn(msgspec.Struct, frozen=True):
    """The venue accepts the session: subscribing may start. Only of venues with `needs_login`."""

    code: str
    text: str = ""


class Subscribed(msgspec.Struct, frozen=True):
    """The venue confirms a registration (or says that it had it already); None: every one of the last request."""

    registration: Registration | None
    code: str
    text: str = ""


class Unsubscribed(msgspec.Struct, frozen=True):
    """The venue confirms that a registration is gone; None: every one of the last request."""

    registration: Registration | None
    code: str
    text: str = ""


class RegistrationRefused(msgspec.Struct, frozen=True):
    """The venue refuses a registration; None if the reply does not say which.

    A venue with `max_batch` above 1 answers a request as a whole: None is then every registration of that request.
    """

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
    """The venue asks whether we live; *reply* is the text frame to send back, empty for its answer to our own ask."""

    reply: bytes
    code: str = ""


class Unknown(msgspec.Struct, frozen=True):
    """A well-formed reply that the venue's table does not list: logged, the session is kept."""

    registration: Registration | None
    code: str
    text: str


class Notice(msgspec.Struct, frozen=True):
    """What the venue says without being asked and without consequence, or private data (order notices): counted."""

    code: str
    text: str = ""


ControlMessage = (
    LoggedIn | Notice | Subscribed | Unsubscribed | RegistrationRefused | SessionRefused | Heartbeat | Unknown
)


class HttpRequest(msgspec.Struct, frozen=True):
    """A POST to make. The body holds credentials: never log one of these."""

    url: str
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        """Say where to, not what."""
        return f"HttpRequest(url={self.url!r})"


class AccessKey(msgspec.Struct, frozen=True):
    """What opens a session. Never log one of these."""

    key: str
    valid_for_s: float  # from now, as the venue says or documents it

    def __repr__(self) -> str:
        """Say how long, not what."""
        return f"AccessKey(valid_for_s={self.valid_for_s!r})"


class KeepAlive(msgspec.Struct, frozen=True):
    """A text frame that the venue wants to hear from us at least every *interval_s* seconds."""

    interval_s: float
    frame: bytes


class Venue(Protocol):
    """What differs from venue to venue, except the hot parser. Implementations hold no I/O and no clock.

    One object serves one session: what a venue must remember of it (keys of encrypted streams) is kept there and
    forgotten in `on_session_start`.
    """

    name: str
    needs_approval_key: bool  # an `AccessKey` must be fetched before a session is opened
    needs_login: bool  # `encode_login` is the first frame; subscribing starts with `LoggedIn`
    acknowledges: bool  # False: no reply confirms a registration; its first data does, or a quiet *subscribe_timeout_s*
    replaces_all: bool  # True: each subscribe request states everything that is wanted
    max_batch: int  # registrations in one request; above 1 only one request is in flight, its reply is for all of it
    default_max_subscriptions: int  # registrations that the venue allows one session, unless the account says less
    decode_market: str  # market of frames that do not show it themselves: what `sise decode` assumes
    keep_alive: KeepAlive | None

    def websocket_url(self, account: Account) -> str:
        """Return the URL to connect to: the account's own, or the venue's default."""

    def registration(self, market: str, kind: str, exchange: str, symbol: str) -> Registration:
        """Return what to ask for. exchange: a name of EXCHANGE_NAMES. Raises ConfigError: no such data, bad symbol."""

    def record_symbol(self, registration: Registration) -> str:
        """Return the symbol that the records of *registration* carry."""

    def use_layouts(self, layouts: Sequence[str]) -> None:
        """Read some frames by another documented layout, named by the venue. Raises ConfigError if it has none such."""

    def on_session_start(self) -> None:
        """Forget the session before."""

    def encode_login(self, key: str) -> bytes:
        """Return the first frame of a session."""

    def encode_subscribe(self, key: str, registrations: Sequence[Registration]) -> bytes:
        """Return the text frame that asks for *registrations*: `max_batch` at most, or all if `replaces_all`."""

    def encode_unsubscribe(self, key: str, registrations: Sequence[Registration]) -> bytes:
        """Return the text frame that gives *registrations* up; with `replaces_all`, that asks for what is left."""

    def decode_control(self, frame: bytes) -> ControlMessage:
        """Return what a control frame says. Raises BadFrame if it is not one."""

    def approval_request(self, account: Account) -> HttpRequest:
        """Return the request that obtains an access key."""

    def decode_approval(self, status: int, body: bytes, now: datetime.datetime) -> AccessKey:
        """Return the key of a reply; *now* is aware. Raises Refused (the operator must act) or Retryable."""

    def make_parser(self, market: str, connection: int) -> FrameParser:
        """Return the native parser for the frames of one connection."""
