"""KIS (Korea Investment & Securities): requests, control replies, approval key; its frames are `parse_kis.pyx`'s."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import msgspec

from daemon.errors import BadFrame, ConfigError, InvariantBroken, Refused, Retryable
from daemon.ingest.venues import VENUE_IDS
from daemon.ingest.venues.kis_events import describe
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
    Subscribed,
    Unknown,
    Unsubscribed,
)

if TYPE_CHECKING:
    import datetime

    from daemon.config import Account
    from native_pipeline.frame_parser import FrameParser

WEBSOCKET_URL = "ws://ops.koreainvestment.com:21000"
REST_URL = "https://openapi.koreainvestment.com:9443"
# No path, /tryitout and /tryitout/<TR_ID> all occur in the venue's own samples; this is the current one. An account
# whose ws_url has a path (a lone "/" too) keeps that path.
DEFAULT_PATH = "/tryitout"


# What the TRs of stocks have behind H0ST (KRX), H0NX (NXT), H0UN (unified).
STOCK_TRS = {"trade": "CNT0", "orderbook": "ASP0", "expected": "ANC0", "status": "MKO0", "program": "PGM0"}


class Channel(NamedTuple):
    """What a TR carries: names of MARKET_NAMES, KIND_NAMES, EXCHANGE_NAMES."""

    market: str
    kind: str
    exchange: str = ""


# Every TR that `parse_kis.pyx` reads.
_TRS: Mapping[Channel, tuple[str, ...]] = {
    Channel("kr", "trade"): (
        *("H0STCNT0", "H0STOUP0", "H0EWCNT0", "H0IFCNT0", "H0IOCNT0", "H0CFCNT0", "H0ZFCNT0", "H0ZOCNT0", "H0MFCNT0"),
        "H0EUCNT0",
    ),
    Channel("kr", "orderbook"): (
        *("H0STASP0", "H0STOAA0", "H0EWASP0", "H0IFASP0", "H0IOASP0", "H0CFASP0", "H0ZFASP0", "H0ZOASP0", "H0MFASP0"),
        "H0EUASP0",
    ),
    Channel("kr", "expected"): ("H0STANC0", "H0STOAC0", "H0UPANC0", "H0ZFANC0", "H0ZOANC0", "H0EUANC0"),
    Channel("kr", "status"): ("H0STMKO0",),
    Channel("kr", "program"): ("H0STPGM0",),
    Channel("kr", "index"): ("H0UPCNT0",),
    Channel("kr", "nav"): ("H0STNAV0",),
    **{
        Channel("kr", kind, exchange): (prefix + suffix,)
        for exchange, prefix in (("nxt", "H0NX"), ("sor", "H0UN"))
        for kind, suffix in STOCK_TRS.items()
    },
    Channel("us", "trade"): ("HDFSCNT0", "HDFFF020"),
    Channel("us", "orderbook"): ("HDFSASP0", "HDFSASP1", "HDFFF010"),
}
CHANNELS: Mapping[str, Channel] = {tr: channel for channel, trs in _TRS.items() for tr in trs}


class Product(NamedTuple):
    """Symbols that say by their form which TRs carry them; any other TR is named in the symbol, "TR:KEY"."""

    market: str
    form: re.Pattern[str]
    channels: Mapping[tuple[str, str], str]  # (kind, exchange) -> TR


# The first form that fits decides. Derivatives of KOSPI 200 (01), its mini (05) and KOSDAQ 150 (06), old and new codes:
# 101W09, A01612; 201W08427, B01610A51. Others, and the night session, which has the same codes, must be named.
PRODUCTS: tuple[Product, ...] = (
    Product(
        "kr",
        re.compile(r"10[156][A-Z][0-9]{2}|A0[156][0-9A-Z][0-9]{2}"),
        {("trade", ""): "H0IFCNT0", ("orderbook", ""): "H0IFASP0"},
    ),
    Product(
        "kr",
        re.compile(r"[23]0[156][A-Z][0-9]{5}|[BC]0[156][0-9A-Z][0-9]{2}[0-9A-Z]{3}"),
        {("trade", ""): "H0IOCNT0", ("orderbook", ""): "H0IOASP0"},
    ),
    Product("kr", re.compile(r"[0-9]{4}"), {("index", ""): "H0UPCNT0", ("expected", ""): "H0UPANC0"}),
    # Stocks and funds have six characters, a letter only in the fifth place; notes (ETN) a Q and six digits.
    Product(
        "kr",
        re.compile(r"[0-9]{4}[0-9A-Z][0-9]|Q[0-9]{6}"),
        {
            **{
                (kind, exchange): prefix + suffix
                for exchange, prefix in (("", "H0ST"), ("nxt", "H0NX"), ("sor", "H0UN"))
                for kind, suffix in STOCK_TRS.items()
            },
            ("nav", ""): "H0STNAV0",
        },
    ),
    Product(
        "us",
        re.compile(r"(D(NAS|NYS|AMS)|R(BAQ|BAY|BAA)).+"),
        {("trade", ""): "HDFSCNT0", ("orderbook", ""): "HDFSASP0"},
    ),
    Product(
        "us",
        re.compile(r"[DR](HKS|TSE|SHS|SZS|HSX|HNX).+"),
        {("trade", ""): "HDFSCNT0", ("orderbook", ""): "HDFSASP1"},
    ),
)
SYMBOL_FORMS = {
    "kr": "a stock (005930), an index (0001), a derivative of KOSPI 200 or KOSDAQ 150 (A01612)",
    "us": "a key such as DNASAAPL: DNAS, DNYS, DAMS (NYSE Arca and American, so most ETF), in the day session RBAQ, "
    "RBAY, RBAA, or D or R with HKS, TSE, SHS, SZS, HSX, HNX; then the ticker",
}
# What a record can carry: see scan_symbol in native_pipeline/scan.pxd.
KEY = re.compile(r"[!-~](?:[ -~]{0,22}[!-~])?")
KEY_REFUSED = set('"\\^|')
# TRs whose key is D or R, three letters of the market, and the symbol.
PREFIXED_TRS = ("HDFSCNT0", "HDFSASP0", "HDFSASP1")
PREFIX_LENGTH = 4

# Private and encrypted; their keys come with the reply to the subscribe request.
NOTICE_TRS = (
    *("H0STCNI0", "H0STCNI9", "H0GSCNI0", "H0GSCNI9", "H0IFCNI0", "H0MFCNI0", "H0EUCNI0"),
    *("HDFFF1C0", "HDFFF2C0"),
)
ENCRYPTED = b"1|"
KEY_BYTES = 32
BLOCK_BYTES = 16

# The approval key has no expiry on it; the venue documents a day.
APPROVAL_KEY_VALID_S = 24 * 3600.0
# As long as a key and made like one: not passed on in the texts of replies, which are logged.
SECRET = re.compile(r"[0-9A-Za-z+/=_.-]{20,}")

HEARTBEAT_CHANNEL = "PINGPONG"
# What an error reply writes where it does not know the value.
ABSENT = ("", "(null)")

SUBSCRIBE = "1"
UNSUBSCRIBE = "2"  # some official docstrings say "0", which is answered with OPSP8997

# Every documented msg_cd. Decisions are made on the code, never on the wording of msg1: "SUBSCRIBE SUCCESS" is a
# substring of "UNSUBSCRIBE SUCCESS", spaces vary, and "invalid tr_key" is a bad symbol, not an expired credential.
_Meaning = type[Subscribed] | type[Unsubscribed] | Refusal | SessionFault
REPLIES: Mapping[str, _Meaning] = {
    "OPSP0000": Subscribed,  # SUBSCRIBE SUCCESS
    "OPSP0001": Unsubscribed,  # UNSUBSCRIBE SUCCESS
    "OPSP0002": Subscribed,  # ALREADY IN SUBSCRIBE
    "OPSP0003": Unsubscribed,  # UNSUBSCRIBE ERROR(not found!)
    "OPSP0007": Refusal.RETRY,  # SUBSCRIBE INTERNAL ERROR
    "OPSP0008": Refusal.CAP_REACHED,  # MAX SUBSCRIBE OVER
    "OPSP0009": Refusal.NOT_ENTITLED,  # mci send failed
    "OPSP0010": SessionFault.CREDENTIAL_REFUSED,  # invalid appkey
    "OPSP0011": SessionFault.KEY_EXPIRED,  # invalid approval
    "OPSP0017": Refusal.INVALID,  # wrong HTS id
    "OPSP8991": Refusal.INVALID,  # invalid tr_id
    "OPSP8992": Refusal.INVALID,  # invalid tr_key
    "OPSP8993": Refusal.INVALID,  # bad or missing tr_key
    "OPSP8994": Refusal.INVALID,  # personalseckey not found
    "OPSP8995": Refusal.INVALID,  # appsecret not found
    "OPSP8996": SessionFault.SLOT_HELD,  # ALREADY IN USE appkey
    "OPSP8997": Refusal.INVALID,  # invalid tr_type
    "OPSP8998": Refusal.INVALID,  # invalid custtype
    "OPSP8999": Refusal.RETRY,  # resource not available (ALLOC_CALL_PARAM)
    "OPSP9990": Refusal.INVALID,  # tr_key not found
    "OPSP9991": Refusal.INVALID,  # input not found
    "OPSP9992": Refusal.INVALID,  # body not found
    "OPSP9993": Refusal.RETRY,  # internal error
    "OPSP9994": SessionFault.CREDENTIAL_REFUSED,  # INVALID appkey
    "OPSP9995": Refusal.RETRY,  # resource not available
    "OPSP9996": SessionFault.CREDENTIAL_REFUSED,  # appkey
    "OPSP9997": Refusal.INVALID,  # custtype not found
    "OPSP9998": Refusal.INVALID,  # header not found
    "OPSP9999": Refusal.INVALID,  # invalid json format
}
# A success code counts only with rt_cd "0"; the rt_cd of refusals varies and is not needed.
SUCCESS = "0"
SUCCESS_CODES = ("OPSP0000", "OPSP0001")

# Approval refusals that no retry can cure: wrong app key, wrong app secret.
FATAL_APPROVAL_CODES = ("EGW00103", "EGW00105")


class _ReplyHeader(msgspec.Struct):
    tr_id: str | None = None
    tr_key: str | None = None


class _ReplyOutput(msgspec.Struct):
    iv: str | None = None
    key: str | None = None


class _ReplyBody(msgspec.Struct):
    rt_cd: str | int | None = None
    msg_cd: str | None = None
    msg1: str | None = None
    output: _ReplyOutput | None = None


class _Reply(msgspec.Struct):
    """Only what decisions need; header and body may each be absent."""

    header: _ReplyHeader | None = None
    body: _ReplyBody | None = None


class _ApprovalReply(msgspec.Struct):
    approval_key: str = ""
    error_code: str = ""
    error_description: str = ""


class _RequestHeader(msgspec.Struct, rename={"content_type": "content-type"}):
    approval_key: str
    custtype: str
    tr_type: str
    content_type: str = "utf-8"


class _RequestInput(msgspec.Struct):
    tr_id: str
    tr_key: str


class _RequestBody(msgspec.Struct):
    input: _RequestInput


class _Request(msgspec.Struct):
    header: _RequestHeader
    body: _RequestBody


class _ApprovalRequest(msgspec.Struct):
    grant_type: str
    appkey: str
    secretkey: str  # the value is the app secret; the field is not called appsecret here


class Cipher(NamedTuple):
    """What decrypts the notices of one TR, for one session. Never log one of these."""

    key: bytes
    iv: bytes

    def __repr__(self) -> str:
        """Say nothing."""
        return "Cipher()"


class KisVenue:
    """See `Venue`. layouts: alternatives "TR:NAME" of native_pipeline/kis_layouts.toml, where sources disagree."""

    name = "kis"
    needs_approval_key = True
    needs_login = False
    acknowledges = True
    replaces_all = False
    max_batch = 1
    default_max_subscriptions = 41  # over all TRs and notices; the venue's refusal (OPSP0008) says what it really is
    decode_market = "kr"
    keep_alive: KeepAlive | None = None  # the venue asks, see Heartbeat

    def __init__(self, layouts: Sequence[str] = ()) -> None:
        self._layouts = tuple(layouts)
        self._is_session = False
        self._ciphers: dict[str, Cipher] = {}  # by TR

    def websocket_url(self, account: Account) -> str:
        """Return the account's URL or the venue's, with the default path unless it names one."""
        url = account.ws_url or WEBSOCKET_URL
        return url if urlsplit(url).path else url + DEFAULT_PATH

    def registration(self, market: str, kind: str, exchange: str, symbol: str) -> Registration:
        """Return TR and key: the TR named in "TR:KEY", otherwise that of the first form of PRODUCTS that *symbol* has.

        Raises ConfigError if there is no such TR, or the symbol has no form of that market.
        """
        tr, colon, key = symbol.rpartition(":")
        if colon:
            return _named_registration(Channel(market, kind, exchange), tr, key)
        for product in PRODUCTS:
            if product.market == market and product.form.fullmatch(symbol):
                if (kind, exchange) not in product.channels:
                    offered = ", ".join(" ".join(filter(None, channel)) for channel in product.channels)
                    wanted = " ".join(filter(None, (kind, exchange)))
                    raise ConfigError(f"feeds.symbols: kis has no {wanted} of {symbol!r}; it has: {offered}")
                return Registration(product.channels[kind, exchange], _checked_key(symbol))
        if market not in SYMBOL_FORMS:
            raise ConfigError(f"feeds.market: kis has no {market!r}; it has: {', '.join(SYMBOL_FORMS)}")
        raise ConfigError(
            f"feeds.symbols: {symbol!r} is no symbol of kis in market {market!r}; expected {SYMBOL_FORMS[market]}; "
            f"or TR:KEY, such as H0IFCNT0:A01612"
        )

    def record_symbol(self, registration: Registration) -> str:
        """Return the key, of overseas stocks the ticker in it."""
        return registration.key[PREFIX_LENGTH:] if registration.channel in PREFIXED_TRS else registration.key

    def use_layouts(self, layouts: Sequence[str]) -> None:
        """Take alternatives "TR:NAME" of native_pipeline/kis_layouts.toml, where sources disagree."""
        before, self._layouts = self._layouts, tuple(layouts)
        try:
            self.make_parser(self.decode_market, 0)
        except ValueError as exc:
            self._layouts = before
            raise ConfigError(f"accounts.layouts: {exc}") from exc

    def on_session_start(self) -> None:
        """Forget the keys of encrypted notices; from now on there may be some."""
        self._ciphers.clear()
        self._is_session = True

    def encode_login(self, key: str) -> bytes:
        """There is no login: the approval key travels in each request."""
        raise InvariantBroken(f"{self.name} has no login")

    def encode_subscribe(self, key: str, registrations: Sequence[Registration]) -> bytes:
        """Return a register request (tr_type 1) for the one registration."""
        return _encode_request(key, SUBSCRIBE, registrations)

    def encode_unsubscribe(self, key: str, registrations: Sequence[Registration]) -> bytes:
        """Return an unregister request (tr_type 2) for the one registration."""
        return _encode_request(key, UNSUBSCRIBE, registrations)

    def decode_control(self, frame: bytes) -> ControlMessage:
        """Return what a JSON text frame says, or that an encrypted notice came, whose contents go nowhere.

        The text of a `SessionRefused` is the venue's own and may quote the approval key (OPSP0011): never log it.
        Raises BadFrame if it is not a reply or a heartbeat, or cannot be decrypted.
        """
        if frame.startswith(ENCRYPTED):
            return self._decode_notice(frame)
        reply = _decode_reply(frame)
        header = reply.header or _ReplyHeader()
        if header.tr_id == HEARTBEAT_CHANNEL:
            return Heartbeat(reply=frame, code=HEARTBEAT_CHANNEL)  # echoed byte for byte, spaces included
        if reply.body is None or not reply.body.msg_cd:
            raise BadFrame("control frame: expected a heartbeat or body.msg_cd, found neither")
        code, text = reply.body.msg_cd, (reply.body.msg1 or "").strip()
        channel, key = (header.tr_id or "").strip(), (header.tr_key or "").strip()
        registration = None if channel in ABSENT or key in ABSENT else Registration(channel, key)
        meaning = REPLIES.get(code)
        if code in SUCCESS_CODES and str(reply.body.rt_cd) != SUCCESS:
            meaning = None  # contradicts itself: success is never assumed
        if isinstance(meaning, SessionFault):
            return SessionRefused(meaning, code, text)
        text = SECRET.sub("...", text)
        if isinstance(meaning, Refusal):
            return RegistrationRefused(registration, meaning, code, text)
        if meaning is None:
            return Unknown(registration, code, text)
        if meaning is Subscribed and channel in NOTICE_TRS and reply.body.output is not None:
            self._keep_cipher(channel, reply.body.output)
        return meaning(registration, code, text)

    def _keep_cipher(self, channel: str, output: _ReplyOutput) -> None:
        key, iv = (output.key or "").encode(), (output.iv or "").encode()
        if len(key) == KEY_BYTES and len(iv) == BLOCK_BYTES:
            self._ciphers[channel] = Cipher(key, iv)

    def _decode_notice(self, frame: bytes) -> Notice:
        parts = frame.split(b"|", 3)
        channel = parts[1].decode("ascii", "replace")
        if len(parts) != 4:
            raise BadFrame("encrypted frame: expected 1|TR|count|payload")
        if channel not in NOTICE_TRS:
            raise BadFrame(f"encrypted frame: {channel!r} is no order notice; market data is not encrypted")
        cipher = self._ciphers.get(channel)
        if cipher is None:
            raise BadFrame(f"encrypted frame: no key for {channel} was received in this session")
        decrypt_notice(parts[3], cipher)
        return Notice(channel)

    def approval_request(self, account: Account) -> HttpRequest:
        """Return the POST to /oauth2/Approval (capital A)."""
        body = _ApprovalRequest("client_credentials", account.app_key, account.app_secret)
        return HttpRequest(
            url=(account.rest_url or REST_URL).rstrip("/") + "/oauth2/Approval",
            headers={"content-type": "application/json; charset=utf-8"},
            body=msgspec.json.encode(body),
        )

    def decode_approval(self, status: int, body: bytes, now: datetime.datetime) -> AccessKey:
        """Return the key; its length is not checked, since documentation and practice disagree about it."""
        try:
            reply = msgspec.json.decode(body, type=_ApprovalReply)
        except msgspec.DecodeError as exc:
            raise Retryable(f"approval: HTTP {status}, expected a JSON object, found {len(body)} other bytes") from exc
        if status == 200 and reply.approval_key:
            return AccessKey(reply.approval_key, APPROVAL_KEY_VALID_S)
        message = f"approval: HTTP {status} {reply.error_code} {SECRET.sub('...', reply.error_description)}".rstrip()
        if reply.error_code in FATAL_APPROVAL_CODES:
            raise Refused(message)
        raise Retryable(message)

    def describe_event(self, event_type: str, text: bytes) -> dict[str, str]:
        """Return the values of an event's own *text* by name."""
        return describe(event_type, text)

    def make_parser(self, market: str, connection: int) -> FrameParser:
        """Return a `KisParser`; each record's market is that of its TR, whatever *market* says."""
        from native_pipeline.parse_kis import KisParser  # noqa: PLC0415 - planning must work without native modules

        return KisParser(
            venue=VENUE_IDS[self.name],
            connection=connection,
            hands_over_encrypted=self._is_session,  # outside of one there is no key: quarantined as what it is
            layouts=self._layouts,
        )


def decrypt_notice(payload: bytes, cipher: Cipher) -> tuple[str, ...]:
    """Return the fields of an order notice: base64 of AES-256-CBC with PKCS#7 padding. Never log them.

    Raises BadFrame, without the contents, if *payload* is not that, or was encrypted with another key.
    """
    # lazily: only accounts that take order notices need it
    from cryptography.hazmat.primitives.ciphers import Cipher as AesCipher  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.algorithms import AES  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.modes import CBC  # noqa: PLC0415
    from cryptography.hazmat.primitives.padding import PKCS7  # noqa: PLC0415

    try:
        encrypted = binascii.a2b_base64(payload, strict_mode=True)
        decryptor = AesCipher(AES(cipher.key), CBC(cipher.iv)).decryptor()
        unpadder = PKCS7(8 * BLOCK_BYTES).unpadder()
        padded = decryptor.update(encrypted) + decryptor.finalize()
        text = unpadder.update(padded) + unpadder.finalize()
    except ValueError as exc:  # binascii.Error is one too
        raise BadFrame(f"encrypted frame: cannot be decrypted: {exc}") from None
    return tuple(text.decode("utf-8", "replace").split("^"))


def _named_registration(wanted: Channel, tr: str, key: str) -> Registration:
    found = CHANNELS.get(tr)
    if found is None:
        raise ConfigError(f"feeds.symbols: {tr!r} in '{tr}:{key}' is no TR of kis; they are: {', '.join(CHANNELS)}")
    if found != wanted:
        raise ConfigError(
            f"feeds.symbols: TR {tr} is market {found.market!r}, kind {found.kind!r}, exchange {found.exchange!r}, but "
            f"the feed asks for market {wanted.market!r}, kind {wanted.kind!r}, exchange {wanted.exchange!r}"
        )
    if tr in PREFIXED_TRS and not any(
        tr in product.channels.values() and product.form.fullmatch(key) for product in PRODUCTS
    ):
        raise ConfigError(f"feeds.symbols: {key!r} is no key of {tr}; expected {SYMBOL_FORMS[wanted.market]}")
    return Registration(tr, _checked_key(key))


def _checked_key(key: str) -> str:
    if not KEY.fullmatch(key) or KEY_REFUSED.intersection(key):
        raise ConfigError(
            f"feeds.symbols: {key!r}: expected 1 to 24 printable ASCII characters without quote, \\, ^ and |"
        )
    return key


def _encode_request(approval_key: str, tr_type: str, registrations: Sequence[Registration]) -> bytes:
    (registration,) = registrations
    return msgspec.json.encode(
        _Request(
            header=_RequestHeader(approval_key=approval_key, custtype="P", tr_type=tr_type),
            body=_RequestBody(_RequestInput(registration.channel, registration.key)),
        )
    )


def _decode_reply(frame: bytes) -> _Reply:
    """Decode *frame*; texts in it may be in another encoding than UTF-8, which must not lose the code beside them."""
    try:
        return msgspec.json.decode(frame, type=_Reply)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return msgspec.json.decode(frame.decode("utf-8", "replace"), type=_Reply)
    except msgspec.DecodeError as exc:
        raise BadFrame(f"control frame: {exc}") from exc
