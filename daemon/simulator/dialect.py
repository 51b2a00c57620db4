"""The control dialect of KIS: what a request says, and the exact words of each reply.

Pure: text in, request or refusal out; the session decides what is true and picks the reply.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from daemon.simulator.kis_trs import TRS

TRADE_TR = "H0STCNT0"
KINDS: Final[Mapping[str, str]] = {name: tr.kind for name, tr in TRS.items()}
SISTERS: Final[Mapping[str, str]] = {  # trades of the same book and the other way round
    name: sister
    for name, tr in TRS.items()
    for sister, other in TRS.items()
    if {tr.kind, other.kind} == {"trade", "orderbook"} and tr[:2] == other[:2]
}
_NO_TR = "(null)"  # what the venue writes where a refusal belongs to no registration


class Code(StrEnum):
    """Reply codes (msg_cd)."""

    SUBSCRIBED = "OPSP0000"
    UNSUBSCRIBED = "OPSP0001"
    ALREADY_SUBSCRIBED = "OPSP0002"
    NOT_SUBSCRIBED = "OPSP0003"
    INTERNAL_ERROR = "OPSP0007"
    MAX_SUBSCRIBE_OVER = "OPSP0008"
    MCI_SEND_FAILED = "OPSP0009"
    INVALID_APP_KEY = "OPSP0010"
    INVALID_APPROVAL = "OPSP0011"
    INVALID_TR_ID = "OPSP8991"
    INVALID_HTS_ID = "OPSP0017"
    REFUSED_TR_KEY = "OPSP8992"
    INVALID_TR_KEY = "OPSP8993"
    APP_KEY_IN_USE = "OPSP8996"
    INVALID_TR_TYPE = "OPSP8997"
    INVALID_CUSTTYPE = "OPSP8998"
    TR_KEY_NOT_FOUND = "OPSP9990"
    INPUT_NOT_FOUND = "OPSP9991"
    BODY_NOT_FOUND = "OPSP9992"
    CUSTTYPE_NOT_FOUND = "OPSP9997"
    HEADER_NOT_FOUND = "OPSP9998"
    INVALID_JSON = "OPSP9999"


# msg_cd -> (rt_cd, msg1). "{}" is replaced by the detail of the case.
_MESSAGES: Final[Mapping[str, tuple[str, str]]] = {
    Code.SUBSCRIBED: ("0", "SUBSCRIBE SUCCESS"),
    Code.UNSUBSCRIBED: ("0", "UNSUBSCRIBE SUCCESS"),
    Code.ALREADY_SUBSCRIBED: ("1", "ALREADY IN SUBSCRIBE"),
    Code.NOT_SUBSCRIBED: ("1", "UNSUBSCRIBE ERROR(not found!)"),
    Code.INTERNAL_ERROR: ("1", "SUBSCRIBE INTERNAL ERROR"),
    Code.MAX_SUBSCRIBE_OVER: ("1", "MAX SUBSCRIBE OVER"),
    Code.MCI_SEND_FAILED: ("1", "SUBSCRIBE ERROR : mci send failed"),
    Code.INVALID_APP_KEY: ("1", "SUBSCRIBE WARNING : invalid appkey"),
    Code.INVALID_APPROVAL: ("1", "invalid approval : {}"),
    Code.INVALID_HTS_ID: ("9", "HTS ID 오류입니다"),
    Code.INVALID_TR_ID: ("9", "SUBSCRIBE ERROR : invalid tr_id"),
    Code.REFUSED_TR_KEY: ("9", "SUBSCRIBE ERROR : invalid tr_key"),
    Code.INVALID_TR_KEY: ("9", "JSON PARSING ERROR : invalid tr_key"),
    Code.APP_KEY_IN_USE: ("9", "ALREADY IN USE appkey"),
    Code.INVALID_TR_TYPE: ("9", "JSON PARSING ERROR : invalid tr_type"),
    Code.INVALID_CUSTTYPE: ("9", "JSON PARSING ERROR : invalid custtype"),
    Code.TR_KEY_NOT_FOUND: ("9", "JSON PARSING ERROR : tr_key not found"),
    Code.INPUT_NOT_FOUND: ("9", "JSON PARSING ERROR : input not found"),
    Code.BODY_NOT_FOUND: ("9", "JSON PARSING ERROR : body not found"),
    Code.CUSTTYPE_NOT_FOUND: ("9", "JSON PARSING ERROR : custtype not found"),
    Code.HEADER_NOT_FOUND: ("9", "JSON PARSING ERROR : header not found"),
    Code.INVALID_JSON: ("9", "JSON PARSING ERROR : invalid json format"),
}
_UNKNOWN_CODE = ("1", "SOMETHING NEW")  # a code that a fault asks for and no table lists


class Request(msgspec.Struct, frozen=True):
    """A well-formed registration (`subscribe`) or its removal."""

    approval_key: str
    subscribe: bool
    tr_id: str
    tr_key: str


class Refusal(msgspec.Struct, frozen=True):
    """Why a text is not a request that the venue would look at."""

    code: Code
    tr_id: str = _NO_TR
    tr_key: str = ""


def parse_request(text: str | bytes) -> Request | Refusal:
    """Read one request, checking in the venue's order: form, header, body, values."""
    try:
        tree: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Refusal(Code.INVALID_JSON)
    if not isinstance(tree, dict):
        return Refusal(Code.INVALID_JSON)
    header: Any = tree.get("header")
    body: Any = tree.get("body")
    wrong = _wrong_in_header(header) or _wrong_in_body(body)
    if wrong is not None:
        return Refusal(wrong, tr_id="" if wrong is Code.INVALID_TR_KEY else _NO_TR)
    fields = body["input"]
    return Request(str(header.get("approval_key", "")), header["tr_type"] == "1", fields["tr_id"], fields["tr_key"])


def _wrong_in_header(header: Any) -> Code | None:
    if not isinstance(header, dict):
        return Code.HEADER_NOT_FOUND
    if "custtype" not in header:
        return Code.CUSTTYPE_NOT_FOUND
    if header["custtype"] not in ("P", "B"):
        return Code.INVALID_CUSTTYPE
    return None if header.get("tr_type") in ("1", "2") else Code.INVALID_TR_TYPE


def _wrong_in_body(body: Any) -> Code | None:
    if not isinstance(body, dict):
        return Code.BODY_NOT_FOUND
    fields = body.get("input")
    if not isinstance(fields, dict):
        return Code.INPUT_NOT_FOUND
    if "tr_key" not in fields:
        return Code.TR_KEY_NOT_FOUND
    if not isinstance(fields.get("tr_id"), str) or fields["tr_id"] not in KINDS:
        return Code.INVALID_TR_ID
    tr_key = fields["tr_key"]
    return None if isinstance(tr_key, str) and TRS[fields["tr_id"]].keys.fullmatch(tr_key) else Code.INVALID_TR_KEY


def reply(code: str, tr_id: str = _NO_TR, tr_key: str = "", *, detail: str = "", iv: str = "", key: str = "") -> str:
    """Return the reply frame for *code*; *iv* and *key* go into `output` of the two successes.

    Text is latin-1, one character per byte, as `framing` has it.
    """
    rt_cd, message = _MESSAGES.get(code, _UNKNOWN_CODE)
    body: dict[str, Any] = {"rt_cd": rt_cd, "msg_cd": str(code), "msg1": message.replace("{}", detail)}
    if rt_cd == "0":
        body["output"] = {"iv": iv, "key": key}
    return msgspec.json.encode({"header": {"tr_id": tr_id, "tr_key": tr_key, "encrypt": "N"}, "body": body}).decode(
        "latin-1"
    )


def pingpong(yyyymmddhhmmss: str) -> str:
    """Return the heartbeat frame."""
    return f'{{"header":{{"tr_id":"PINGPONG","datetime":"{yyyymmddhhmmss}"}}}}'


def is_pingpong(text: bytes) -> bool:
    """Tell whether a client's text is an echo of the heartbeat, whatever its spacing."""
    return b'"PINGPONG"' in text[:64]


def data_frame(tr_id: str, records: list[str]) -> str:
    """Return the frame that carries *records* of one TR."""
    return f"0|{tr_id}|{len(records):03d}|{'^'.join(records)}"


def encrypted_frame(tr_id: str, payload: str) -> str:
    """Return the frame that carries one encrypted record."""
    return f"1|{tr_id}|001|{payload}"
