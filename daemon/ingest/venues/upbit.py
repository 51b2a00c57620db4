"""Upbit: requests, control replies; its frames are `parse_upbit.pyx`'s. Public data: no account, no key, no login."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from daemon.errors import BadFrame, ConfigError, InvariantBroken
from daemon.ingest.venues import MARKET_IDS, VENUE_IDS
from daemon.ingest.venues.venue import (
    AccessKey,
    ControlMessage,
    Heartbeat,
    HttpRequest,
    KeepAlive,
    Notice,
    Refusal,
    Registration,
    RegistrationRefused,
    SessionFault,
    SessionRefused,
)

if TYPE_CHECKING:
    import datetime

    from daemon.config import Account
    from native_pipeline.frame_parser import FrameParser

# Requests with an Origin header are limited to one in 10 s: the connector sends none.
WEBSOCKET_URL = "wss://api.upbit.com/websocket/v1"
DEFAULT_PATH = urlsplit(WEBSOCKET_URL).path

MARKET = "crypto"
CHANNELS: Mapping[str, str] = {"trade": "trade", "orderbook": "orderbook", "quote": "ticker"}
# 1, 5, 15 or 30 levels can be asked for; a record keeps 10.
BOOK_UNIT = ".15"
# Quote currency, then base currency. The venue takes capital letters only; other characters would be refused by it.
CODE = re.compile(r"[A-Z0-9]+-[A-Z0-9]+")
# The names are shorter than those of DEFAULT and there are as many of them: fewer bytes for the same data.
FORMAT = "SIMPLE"

# The venue ends a connection without any traffic after about 120 s; the answer to PING is {"status":"UP"}.
KEEP_ALIVE_S = 40.0
ALIVE = "UP"

# Every documented error name. Other errors are taken for the venue's own trouble: what is asked for is not sent, and
# without an acknowledgement silence would be taken for consent.
ERRORS: Mapping[str, Refusal | SessionFault] = {
    "INVALID_AUTH": SessionFault.CREDENTIAL_REFUSED,
    "WRONG_FORMAT": Refusal.INVALID,
    "NO_TICKET": Refusal.INVALID,
    "NO_TYPE": Refusal.INVALID,
    "NO_CODES": Refusal.INVALID,
    "INVALID_PARAM": Refusal.INVALID,
}


class _Ticket(msgspec.Struct):
    ticket: str


class _Type(msgspec.Struct, omit_defaults=True):
    """One kind of data. is_only_realtime: without the snapshot that otherwise comes first."""

    type: str
    codes: list[str]
    is_only_realtime: bool = False


class _Format(msgspec.Struct):
    format: str


class _Error(msgspec.Struct):
    name: str | int
    message: str | None = None


class _Reply(msgspec.Struct):
    status: str | None = None
    error: _Error | None = None


class UpbitVenue:
    """See `Venue`.

    Trades are asked for without a snapshot: it would be the last trade before the subscription, which may be in the
    database already, stored by an earlier process. Should one come all the same, the parser of a session makes it a
    quote. Snapshots of order books and tickers are welcome: they say what is true now.
    """

    name = "upbit"
    needs_approval_key = False
    needs_login = False
    acknowledges = False
    replaces_all = True
    max_batch = 1_000
    default_max_subscriptions = 1_000  # the venue documents no limit
    decode_market = MARKET
    keep_alive: KeepAlive | None = KeepAlive(KEEP_ALIVE_S, b"PING")

    def __init__(self) -> None:
        self._is_session = False

    def websocket_url(self, account: Account) -> str:
        """Return the account's URL or the venue's, with the default path unless it names one."""
        url = account.ws_url or WEBSOCKET_URL
        return url if urlsplit(url).path else url + DEFAULT_PATH

    def registration(self, market: str, kind: str, exchange: str, symbol: str) -> Registration:
        """Return the type and the code of *symbol*, with its depth for an order book."""
        if market != MARKET:
            raise ConfigError(f"feeds.market: {self.name} has no market {market!r}")
        if kind not in CHANNELS:
            raise ConfigError(f"feeds.kinds: {self.name} has no {kind!r}")
        if exchange:
            raise ConfigError(f"feeds.exchange: {self.name} has no {exchange!r}")
        if CODE.fullmatch(symbol) is None:
            raise ConfigError(f"feeds.symbols: {symbol!r} is no code of {self.name}: expected one like KRW-BTC")
        return Registration(CHANNELS[kind], symbol + BOOK_UNIT if kind == "orderbook" else symbol)

    def record_symbol(self, registration: Registration) -> str:
        """Return the code without its depth."""
        return registration.key.removesuffix(BOOK_UNIT)

    def use_layouts(self, layouts: Sequence[str]) -> None:
        """There is one layout only."""
        raise ConfigError(f"accounts.layouts: {self.name} has no other layouts, found {', '.join(layouts)}")

    def on_session_start(self) -> None:
        """From here on frames are live, which makes a difference to snapshots of trades."""
        self._is_session = True

    def encode_login(self, key: str) -> bytes:
        """There is no login."""
        raise InvariantBroken(f"{self.name} has no login")

    def encode_subscribe(self, key: str, registrations: Sequence[Registration]) -> bytes:
        """Return the request that makes *registrations* everything that is sent on this connection."""
        codes: dict[str, list[str]] = {}
        for registration in registrations:
            codes.setdefault(registration.channel, []).append(registration.key)
        types = [_Type(channel, found, is_only_realtime=channel == "trade") for channel, found in codes.items()]
        return msgspec.json.encode([_Ticket(str(uuid.uuid4())), *types, _Format(FORMAT)])

    def encode_unsubscribe(self, key: str, registrations: Sequence[Registration]) -> bytes:
        """Return the request that leaves *registrations* and nothing else. The venue takes none that leaves nothing."""
        return self.encode_subscribe(key, registrations)

    def decode_control(self, frame: bytes) -> ControlMessage:
        """Return what a JSON object without a type says. Raises BadFrame if it is neither a status nor an error."""
        try:
            reply = msgspec.json.decode(frame.decode("utf-8", "replace"), type=_Reply)
        except msgspec.DecodeError as exc:
            raise BadFrame(f"control frame: {exc}") from exc
        if reply.error is not None:
            return _refusal(str(reply.error.name), (reply.error.message or "").strip())
        if reply.status == ALIVE:
            return Heartbeat(reply=b"", code=ALIVE)
        if reply.status is not None:
            return Notice(reply.status)
        raise BadFrame("control frame: expected a status or an error, found neither")

    def approval_request(self, account: Account) -> HttpRequest:
        """There is no key."""
        raise InvariantBroken(f"{self.name} needs no key")

    def decode_approval(self, status: int, body: bytes, now: datetime.datetime) -> AccessKey:
        """There is no key."""
        raise InvariantBroken(f"{self.name} needs no key")

    def make_parser(self, market: str, connection: int) -> FrameParser:
        """Return an `UpbitParser`; in a session, one that stores no trade of before the session."""
        from native_pipeline.parse_upbit import UpbitParser  # noqa: PLC0415 - planning must work without native modules

        return UpbitParser(
            venue=VENUE_IDS[self.name],
            market=MARKET_IDS[MARKET],
            connection=connection,
            snapshot_trades=not self._is_session,
        )


def _refusal(name: str, message: str) -> ControlMessage:
    meaning = ERRORS.get(name, Refusal.RETRY)
    if isinstance(meaning, SessionFault):
        return SessionRefused(meaning, name, message)
    return RegistrationRefused(None, meaning, name, message)
