"""Kiwoom REST API: requests, control replies, access token; its pushes are `parse_kiwoom.pyx`'s."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from daemon.errors import BadFrame, ConfigError, Refused, Retryable
from daemon.ingest.venues import MARKET_IDS, VENUE_IDS
from daemon.ingest.venues.venue import (
    AccessKey,
    ControlMessage,
    Heartbeat,
    HttpRequest,
    KeepAlive,
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

if TYPE_CHECKING:
    from daemon.config import Account
    from native_pipeline.frame_parser import FrameParser

# The mock venue (KRX only) is mockapi.kiwoom.com, same port and path; it takes neither keys nor tokens of the real one.
WEBSOCKET_URL = "wss://api.kiwoom.com:10000/api/dostk/websocket"
DEFAULT_PATH = urlsplit(WEBSOCKET_URL).path
REST_URL = "https://api.kiwoom.com"
TOKEN_PATH = "/oauth2/token"  # noqa: S105 - a path
KOREA = datetime.timezone(datetime.timedelta(hours=9))
# A token whose `expires_dt` cannot be read is used for a part of the day for which tokens are known to be good.
TOKEN_LIFE_S = 6 * 3600.0

MARKET = "kr"
# What to register for each kind of data; more types than one are registered together, for the same item.
CHANNELS: Mapping[str, str] = {
    "trade": "0B",
    "orderbook": "0D",
    "expected": "0H",
    "index": "0J",
    "nav": "0G",
    "program": "0w",
    "quote": "0A",
    "status": "1h",  # volatility interruption of one issue
}
# Market operation, and the interruptions of all issues: item "".
MARKET_STATUS_CHANNEL = "0s+1h"
ALL_ISSUES = "*"
SUFFIXES: Mapping[str, str] = {"": "", "nxt": "_NX", "sor": "_AL"}
SYMBOL = re.compile(r"[0-9A-Z]{1,12}")

GROUP = "1"  # groups only serve to remove many at once
KEEP = "1"  # refresh: what is registered stays; "0" would drop it
TYPE_SEPARATOR = "+"

SUCCESS = "0"
# The code that decides, where a reply has one in its text: "... [CODE=8005, MESSAGE=...]", "...[8001:...]". Decisions
# are made on codes, never on the Korean around them.
INNER_CODE = re.compile(r"\[(?:CODE=)?([0-9]{4})[,:\]]")
# A new token cures these; 8010 and what is not listed of the 8xxx needs the operator.
TOKEN_CODES = frozenset({"8003", "8005", "8006", "8009", "8015", "8016", "8031", "8103"})
RATE_CODES = frozenset({"1700", "1701", "1702"})
BUSY_CODES = RATE_CODES | {"1999"}
NOT_IN_MOCK = "8104"
# Token refusals that no retry can cure: wrong or missing key, grant_type, address, real and mock keys mixed up.
FATAL_TOKEN_CODES = frozenset(
    {"8001", "8002", "8010", "8011", "8012", "8020", "8030", "8040", "8050", "8200",
     "1501", "1504", "1505", "1511", "1512", "1513", "1514", "1515", "1516", "1517"}
)  # fmt: skip

DUPLICATE_LOGIN = "R10001"  # the same app key has logged in elsewhere
# Heartbeat missing; no login request. The venue closes the session behind them, which leads to a new one.
CLOSING = frozenset({"R10002", "R10004"})

# By type: FID -> the name of what it holds, for people who read an event.
_PRICES = {"10": "price", "27": "best_ask", "28": "best_bid", "16": "open", "17": "high", "18": "low"}
_CHANGES = {"11": "change", "12": "change_rate", "25": "sign"}
_TOTALS = {"13": "cum_volume", "14": "cum_value"}
_LIKE_A_TRADE = {"20": "time", "15": "size"} | _PRICES | _CHANGES | _TOTALS
EVENT_FIELDS: Mapping[str, Mapping[str, str]] = {
    "0A": _PRICES | _CHANGES | _TOTALS,
    "0C": {"27": "best_ask", "28": "best_bid"},
    "0H": _LIKE_A_TRADE,
    "0J": _LIKE_A_TRADE,
    "0U": _LIKE_A_TRADE,
    "0G": {"36": "nav", "37": "nav_change", "38": "nav_change_rate"} | _LIKE_A_TRADE,
    "0w": _LIKE_A_TRADE,
    "0s": {"215": "operation", "20": "time", "214": "remaining"},
    "1h": {
        "9001": "symbol", "302": "name", "1221": "price", "1223": "time", "1224": "release_time", "1225": "vi_kind",
        "1236": "static_price", "1237": "dynamic_price", "1489": "change_rate", "1490": "vi_count",
        "9068": "vi_class", "9069": "direction",
    } | _TOTALS,
}  # fmt: skip
# Their sign is a colour: up or down against the previous close.
COLOURED = frozenset({"price", "best_ask", "best_bid", "open", "high", "low", "size"})


class _Reply(msgspec.Struct):
    """Only what decisions need. return_code is a number in the venue's examples and a string in its specification."""

    trnm: str
    return_code: int | str | None = None
    return_msg: str | None = None
    code: str | None = None
    message: str | None = None


class _TokenReply(msgspec.Struct):
    token: str = ""
    expires_dt: str = ""
    return_code: int | str | None = None
    return_msg: str = ""


class _TokenRequest(msgspec.Struct):
    grant_type: str
    appkey: str
    secretkey: str


class _Login(msgspec.Struct):
    trnm: str
    token: str


class _Items(msgspec.Struct):
    """Every item of every type: the venue registers the cross product."""

    item: list[str]
    type: list[str]


class _Register(msgspec.Struct):
    trnm: str
    grp_no: str
    refresh: str
    data: list[_Items]


class _Remove(msgspec.Struct):
    trnm: str
    grp_no: str
    data: list[_Items]


class _Event(msgspec.Struct):
    type: str
    values: dict[str, Any] | list[dict[str, Any]]  # Any: strings, by the specification


class KiwoomVenue:
    """See `Venue`."""

    name = "kiwoom"
    needs_approval_key = True
    needs_login = True
    acknowledges = True
    replaces_all = False
    max_batch = 100
    default_max_subscriptions = 200  # not documented: two full requests; the venue's refusal says what it really is
    decode_market = MARKET
    keep_alive: KeepAlive | None = None

    def websocket_url(self, account: Account) -> str:
        """Return the account's URL or the venue's, with the venue's path unless it names one."""
        url = account.ws_url or WEBSOCKET_URL
        return url if urlsplit(url).path else url + DEFAULT_PATH

    def registration(self, market: str, kind: str, exchange: str, symbol: str) -> Registration:
        """Return the type and the item of *symbol*; for the status of the whole market *symbol* is "*"."""
        if market != MARKET:
            raise ConfigError(f"feeds.market: {self.name} has no market {market!r}")
        if kind not in CHANNELS:
            raise ConfigError(f"feeds.kinds: {self.name} has no {kind!r}")
        if exchange not in SUFFIXES:
            raise ConfigError(f"feeds.exchange: {self.name} has no {exchange!r}")
        if kind == "status" and symbol == ALL_ISSUES:
            return Registration(MARKET_STATUS_CHANNEL, "")
        if kind == "index" and exchange:
            raise ConfigError(f"feeds.exchange: an index of {self.name} has none")
        if SYMBOL.fullmatch(symbol) is None:
            raise ConfigError(f"feeds.symbols: {symbol!r} is no symbol of {self.name}: digits and capital letters")
        return Registration(CHANNELS[kind], symbol + SUFFIXES[exchange])

    def record_symbol(self, registration: Registration) -> str:
        """Return the item without its suffix, which records carry as a flag; "" for the whole market."""
        for suffix in SUFFIXES.values():
            if suffix and registration.key.endswith(suffix):
                return registration.key.removesuffix(suffix)
        return registration.key

    def use_layouts(self, layouts: Sequence[str]) -> None:
        """There is one layout only."""
        raise ConfigError(f"accounts.layouts: {self.name} has no other layouts, found {', '.join(layouts)}")

    def on_session_start(self) -> None:
        """There is nothing to forget."""

    def encode_login(self, key: str) -> bytes:
        """Return the LOGIN request."""
        return msgspec.json.encode(_Login("LOGIN", key))

    def encode_subscribe(self, key: str, registrations: Sequence[Registration]) -> bytes:
        """Return the REG request for exactly *registrations*; what was registered before is kept."""
        return msgspec.json.encode(_Register("REG", GROUP, KEEP, _exact_products(registrations)))

    def encode_unsubscribe(self, key: str, registrations: Sequence[Registration]) -> bytes:
        """Return the REMOVE request for exactly *registrations*."""
        return msgspec.json.encode(_Remove("REMOVE", GROUP, _exact_products(registrations)))

    def decode_control(self, frame: bytes) -> ControlMessage:
        """Return what a JSON message other than REAL says. Raises BadFrame if it is none that the venue documents."""
        reply = _decode_reply(frame)
        code = "" if reply.return_code is None else str(reply.return_code)
        text = (reply.return_msg or "").strip()
        if reply.trnm == "PING":
            return Heartbeat(reply=frame, code=reply.trnm)  # echoed byte for byte; PONG is not understood
        if reply.trnm == "SYSTEM":
            return _system(reply.code or "", (reply.message or "").strip())
        if reply.trnm == "LOGIN":
            return _login(code, text)
        if reply.trnm == "REG":
            return _registered(code, text)
        if reply.trnm == "REMOVE":
            return _removed(code, text)
        raise BadFrame(f"control frame: unknown trnm {reply.trnm!r}")

    def approval_request(self, account: Account) -> HttpRequest:
        """Return the POST that asks for a token."""
        body = _TokenRequest("client_credentials", account.app_key, account.app_secret)
        return HttpRequest(
            url=(account.rest_url or REST_URL).rstrip("/") + TOKEN_PATH,
            headers={"content-type": "application/json;charset=UTF-8"},
            body=msgspec.json.encode(body),
        )

    def decode_approval(self, status: int, body: bytes, now: datetime.datetime) -> AccessKey:
        """Return the token of a reply. Raises Refused (the operator must act) or Retryable."""
        try:
            reply = msgspec.json.decode(body, type=_TokenReply)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise Retryable(f"token: HTTP {status}, expected a JSON object, found {len(body)} other bytes") from exc
        code = "" if reply.return_code is None else str(reply.return_code)
        if status == 200 and code == SUCCESS and reply.token:
            return AccessKey(reply.token.removeprefix("Bearer "), _seconds_left(reply.expires_dt, now))
        inner = _inner_code(reply.return_msg)
        message = f"token: HTTP {status} return_code {code or 'missing'} {inner}".rstrip()
        if inner in FATAL_TOKEN_CODES:
            raise Refused(message)
        raise Retryable(message)

    def describe_event(self, _type: str, text: bytes) -> dict[str, str]:
        """Return the values that an event's own *text* names, by their meaning; none if it is cut off."""
        try:
            event = msgspec.json.decode(text.decode("utf-8", "replace"), type=_Event)
        except msgspec.DecodeError:
            return {}
        values = event.values if isinstance(event.values, dict) else event.values[0] if event.values else {}
        named = ((name, values.get(fid)) for fid, name in EVENT_FIELDS.get(event.type, {}).items())
        return {
            name: value.lstrip("+-") if name in COLOURED else value for name, value in named if isinstance(value, str)
        }

    def make_parser(self, market: str, connection: int) -> FrameParser:
        """Return a `KiwoomParser`."""
        from native_pipeline.parse_kiwoom import KiwoomParser  # noqa: PLC0415 - planning must work without native modules

        return KiwoomParser(venue=VENUE_IDS[self.name], market=MARKET_IDS[market], connection=connection)


def _exact_products(registrations: Sequence[Registration]) -> list[_Items]:
    """Group *registrations* so that the cross products of items and types are those registrations and no others."""
    types: dict[str, list[str]] = {}  # by item
    for channel, item in registrations:
        wanted = types.setdefault(item, [])
        wanted += [name for name in channel.split(TYPE_SEPARATOR) if name not in wanted]
    items: dict[tuple[str, ...], list[str]] = {}
    for item, names in types.items():
        items.setdefault(tuple(sorted(names)), []).append(item)
    return [_Items(item=group, type=list(names)) for names, group in items.items()]


def _decode_reply(frame: bytes) -> _Reply:
    """Decode *frame*; texts in it may be in another encoding than UTF-8, which must not lose the code beside them."""
    try:
        return msgspec.json.decode(frame.decode("utf-8", "replace"), type=_Reply)
    except msgspec.DecodeError as exc:
        raise BadFrame(f"control frame: {exc}") from exc


def _inner_code(text: str) -> str:
    match = INNER_CODE.search(text)
    return match[1] if match else ""


def _system(code: str, text: str) -> ControlMessage:
    if code == DUPLICATE_LOGIN:
        return SessionRefused(SessionFault.SUPERSEDED, code, text)
    return Notice(code, text) if code in CLOSING else Unknown(None, code, text)


def _login(code: str, text: str) -> ControlMessage:
    if code == SUCCESS:
        return LoggedIn(code, text)
    if not code:
        return Unknown(None, code, text)
    return SessionRefused(_login_fault(_inner_code(text)), code, text)


def _login_fault(inner: str) -> SessionFault:
    """Return what to do about a refused LOGIN: without a code that says otherwise, a new token is worth a try."""
    if inner.startswith("8") and inner not in TOKEN_CODES:
        return SessionFault.CREDENTIAL_REFUSED
    return SessionFault.KEY_EXPIRED


def _registered(code: str, text: str) -> ControlMessage:
    if code == SUCCESS:
        return Subscribed(None, code, text)
    if not code:
        return Unknown(None, code, text)
    inner = _inner_code(text)
    if inner.startswith("8") and inner != NOT_IN_MOCK:
        return SessionRefused(_login_fault(inner), code, text)
    return RegistrationRefused(None, _refusal(inner), code, text)


def _refusal(inner: str) -> Refusal:
    """Return what a refused REG means, by its code.

    The venue documents no code for a full session: it answers return_code 1 and a Korean sentence. Errors of the
    request itself (15xx) and of its symbols (19xx) do have codes; that all of them have is not known.
    """
    if inner in BUSY_CODES:
        return Refusal.RETRY
    if inner == NOT_IN_MOCK:
        return Refusal.NOT_ENTITLED
    return Refusal.INVALID if inner else Refusal.UNEXPLAINED


def _removed(code: str, text: str) -> ControlMessage:
    """Return what a reply to REMOVE means: what cannot be removed is not registered, unless the venue was busy."""
    if not code:
        return Unknown(None, code, text)
    if code != SUCCESS and _inner_code(text) in BUSY_CODES:
        return RegistrationRefused(None, Refusal.RETRY, code, text)
    return Unsubscribed(None, code, text)


def _seconds_left(expires_dt: str, now: datetime.datetime) -> float:
    """Return how long a token lives that ends at *expires_dt*, YYYYMMDDHHMMSS in Korea. Raises Retryable."""
    try:
        expires = datetime.datetime.strptime(expires_dt, "%Y%m%d%H%M%S").replace(tzinfo=KOREA)
    except ValueError:
        return TOKEN_LIFE_S
    left_s = (expires - now).total_seconds()
    if left_s <= 0.0:
        raise Retryable(
            f"token: it expires at {expires.isoformat()}, which is past: is the clock of this machine right?"
        )
    return left_s
