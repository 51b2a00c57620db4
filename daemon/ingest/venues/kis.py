"""KIS (Korea Investment & Securities): requests, control replies, approval key; its frames are `parse_kis.pyx`'s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from daemon.errors import BadFrame, Refused, Retryable
from daemon.ingest.venues import MARKET_IDS, VENUE_IDS
from daemon.ingest.venues.venue import (
    ControlMessage,
    Heartbeat,
    HttpRequest,
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

WEBSOCKET_URL = "ws://ops.koreainvestment.com:21000"
REST_URL = "https://openapi.koreainvestment.com:9443"
# No path, /tryitout and /tryitout/<TR_ID> all occur in the venue's own samples; this is the current one. An account
# whose ws_url has a path (a lone "/" too) keeps that path.
DEFAULT_PATH = "/tryitout"

CHANNELS: Mapping[tuple[str, str], str] = {
    ("kr", "trade"): "H0STCNT0",
    ("kr", "orderbook"): "H0STASP0",
}

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


class _ReplyBody(msgspec.Struct):
    rt_cd: str | int | None = None
    msg_cd: str | None = None
    msg1: str | None = None


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


class KisVenue:
    """See `Venue`."""

    name = "kis"
    needs_approval_key = True
    needs_login = False
    acknowledges = True
    replaces_all = False
    max_batch = 1
    decode_market = "kr"
    keep_alive: KeepAlive | None = None

    def websocket_url(self, account: Account) -> str:
        """Return the account's URL or the venue's, with the default path unless it names one."""
        url = account.ws_url or WEBSOCKET_URL
        return url if urlsplit(url).path else url + DEFAULT_PATH

    def channel(self, market: str, kind: str) -> str | None:
        """Return the TR of *kind* in *market*."""
        return CHANNELS.get((market, kind))

    def encode_subscribe(self, approval_key: str, registration: Registration) -> bytes:
        """Return a register request (tr_type 1)."""
        return _encode_request(approval_key, SUBSCRIBE, registration)

    def encode_unsubscribe(self, approval_key: str, registration: Registration) -> bytes:
        """Return an unregister request (tr_type 2)."""
        return _encode_request(approval_key, UNSUBSCRIBE, registration)

    def decode_control(self, frame: bytes) -> ControlMessage:
        """Return what a JSON text frame says. Raises BadFrame if it is not a reply or a heartbeat."""
        reply = _decode_reply(frame)
        header = reply.header or _ReplyHeader()
        if header.tr_id == HEARTBEAT_CHANNEL:
            return Heartbeat(reply=frame)  # echoed byte for byte, spaces included
        if reply.body is None or not reply.body.msg_cd:
            raise BadFrame("control frame: expected a heartbeat or body.msg_cd, found neither")
        code, text = reply.body.msg_cd, (reply.body.msg1 or "").strip()
        channel, key = (header.tr_id or "").strip(), (header.tr_key or "").strip()
        registration = None if channel in ABSENT or key in ABSENT else Registration(channel, key)
        meaning = REPLIES.get(code)
        if code in SUCCESS_CODES and str(reply.body.rt_cd) != SUCCESS:
            meaning = None  # contradicts itself: success is never assumed
        if isinstance(meaning, Refusal):
            return RegistrationRefused(registration, meaning, code, text)
        if isinstance(meaning, SessionFault):
            return SessionRefused(meaning, code, text)
        if meaning is None:
            return Unknown(registration, code, text)
        return meaning(registration, code)

    def approval_request(self, account: Account) -> HttpRequest:
        """Return the POST to /oauth2/Approval (capital A)."""
        body = _ApprovalRequest("client_credentials", account.app_key, account.app_secret)
        return HttpRequest(
            url=(account.rest_url or REST_URL).rstrip("/") + "/oauth2/Approval",
            headers={"content-type": "application/json; charset=utf-8"},
            body=msgspec.json.encode(body),
        )

    def decode_approval(self, status: int, body: bytes) -> str:
        """Return the key; its length is not checked, since documentation and practice disagree about it."""
        try:
            reply = msgspec.json.decode(body, type=_ApprovalReply)
        except msgspec.DecodeError as exc:
            raise Retryable(f"approval: HTTP {status}, expected a JSON object, found {len(body)} other bytes") from exc
        if status == 200 and reply.approval_key:
            return reply.approval_key
        message = f"approval: HTTP {status} {reply.error_code} {reply.error_description}".rstrip()
        if reply.error_code in FATAL_APPROVAL_CODES:
            raise Refused(message)
        raise Retryable(message)

    def make_parser(self, market: str, connection: int) -> FrameParser:
        """Return a `KisParser`."""
        from native_pipeline.parse_kis import KisParser  # noqa: PLC0415 - planning must work without native modules

        return KisParser(venue=VENUE_IDS[self.name], market=MARKET_IDS[market], connection=connection)


def _encode_request(approval_key: str, tr_type: str, registration: Registration) -> bytes:
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
