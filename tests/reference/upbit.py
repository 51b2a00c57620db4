"""What parse_upbit.pyx does with a frame, in plain Python: json, Decimal, re."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, localcontext
from enum import IntEnum
from typing import Any, NoReturn

Record = dict[str, Any]  # Any: the shape of native_pipeline.records.read_records, without seq
Value = Any  # Any: what `members` makes of a JSON value: Members, list, str, Number, bool or None

LEVELS = 10
MAX_MANTISSA = 2**63 - 1
MAX_SCALE = 18
MAX_DEPTH = 64  # of containers inside a value that is skipped
MAX_FRAME_BYTES = 1 << 20
MAX_TEXT_BYTES = 65535
CROSSED = 1
WHITE_SPACE = " \t\r\n"

# DEFAULT and SIMPLE name -> what the member means
ROLES = {
    name: full
    for full, short in {
        "type": "ty", "code": "cd", "trade_price": "tp", "trade_volume": "tv", "ask_bid": "ab",
        "prev_closing_price": "pcp", "change": "c", "change_price": "cp", "trade_timestamp": "ttms",
        "timestamp": "tms", "sequential_id": "sid", "best_ask_price": "bap", "best_bid_price": "bbp",
        "stream_type": "st", "orderbook_units": "obu", "acc_trade_volume": "atv", "signed_change_rate": "scr",
    }.items()
    for name in (full, short)
}  # fmt: skip
LEVEL_ROLES = {
    name: full
    for full, short in {"ask_price": "ap", "bid_price": "bp", "ask_size": "as", "bid_size": "bs"}.items()
    for name in (full, short)
}


class Reason(IntEnum):
    """The numbers of record.pxd's QuarantineReason."""

    EMPTY_FRAME = 1
    UNKNOWN_FRAME = 2
    UNKNOWN_TYPE = 4
    BAD_COUNT = 5
    BAD_SYMBOL = 8
    BAD_TIME = 9
    BAD_PRICE = 11
    BAD_SIZE = 12
    BAD_NUMBER = 13
    NOT_JSON = 14
    TOO_LONG = 15


class Refused(Exception):
    """A frame or a message that does not fit; detail: the number of a bad level of a book."""

    def __init__(self, reason: Reason, detail: int = 0) -> None:
        super().__init__(reason.name, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Number:
    """A JSON number as it is written."""

    text: str


class Members(list[tuple[str, Value]]):
    """A JSON object as it is written: a name may occur twice."""


def parse_frame(
    frame: bytes, recv_ns: int, *, venue: int, market: int, connection: int = 0, snapshot_trades: bool = True
) -> list[Record] | None:
    """Return the records of *frame*, as read_records would, without seq; None for a control frame."""

    def quarantine(refused: Refused, kept: bytes) -> Record:
        # a quarantine record carries no connection
        common = {"recv_ns": recv_ns, "venue": venue, "market": market, "connection": 0, "flags": 0}
        what = {"reason": int(refused.reason), "detail": refused.detail, "frame": kept, "original_bytes": len(kept)}
        return {"kind": "quarantine"} | common | what

    try:
        messages = split_frame(frame)
        if messages is None:
            return None
    except Refused as refused:
        return [quarantine(refused, frame)]
    found: list[Record] = []
    for message, text in messages:
        try:
            record = parse_message(message, text, snapshot_trades)
        except Refused as refused:
            found.append(quarantine(refused, text))
        else:
            found.append({"recv_ns": recv_ns, "venue": venue, "market": market, "connection": connection} | record)
    return found


def split_frame(frame: bytes) -> list[tuple[Value, bytes]] | None:
    """Return each message and its text; None for a control frame. Raises Refused for the whole frame."""
    text = frame.decode("latin-1")  # one character a byte: broken characters in a name must not cost the price
    start = text.lstrip(WHITE_SPACE)
    if not start:
        raise Refused(Reason.EMPTY_FRAME)
    if start[0] not in "{[":
        raise Refused(Reason.UNKNOWN_FRAME)
    if len(frame) > MAX_FRAME_BYTES:
        raise Refused(Reason.TOO_LONG)
    value = members(text)
    if start[0] == "{":
        if depth_of_skipped(value) > MAX_DEPTH:
            raise Refused(Reason.NOT_JSON)
        if not any(ROLES.get(name) == "type" for name, _ in value):
            return None
        return [(value, frame)]
    if max((depth(element) for element in value), default=0) > MAX_DEPTH:
        raise Refused(Reason.NOT_JSON)
    if not value:
        raise Refused(Reason.BAD_COUNT)
    return [(element, kept.encode("latin-1")) for element, kept in zip(value, element_texts(text), strict=True)]


def members(text: str) -> Value:
    """Return the JSON value of *text*, nothing in it lost. Raises Refused."""

    def no_constant(name: str) -> NoReturn:
        raise ValueError(name)

    try:
        return json.loads(
            text, parse_int=Number, parse_float=Number, parse_constant=no_constant, object_pairs_hook=Members
        )
    except (ValueError, RecursionError) as exc:
        raise Refused(Reason.NOT_JSON) from exc


def element_texts(text: str) -> list[str]:
    """Return the text of each element of a JSON array, plain characters unescaped."""
    text = re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", unescaped, text, flags=re.DOTALL)
    decoder = json.JSONDecoder()
    at, found = text.index("[") + 1, []
    while True:
        at += len(text[at:]) - len(text[at:].lstrip(WHITE_SPACE))
        _, end = decoder.raw_decode(text, at)
        found.append(text[at:end])
        rest = text[end:].lstrip(WHITE_SPACE)
        if rest[0] == "]":
            return found
        at = len(text) - len(rest) + 1


def unescaped(match: re.Match[str]) -> str:
    """Return the plain character that an escape stands for, or the escape."""
    if match[2] is not None:
        return "/" if match[2] == "/" else match[0]
    character = chr(int(match[1], 16))
    return character if " " <= character <= "~" and character not in '"\\' else match[0]


def depth(value: Value) -> int:
    """Return how many containers that are not empty are inside each other."""
    children = [item for _, item in value] if isinstance(value, Members) else value if isinstance(value, list) else []
    return 1 + max(map(depth, children)) if children else 0


def depth_of_skipped(message: Members) -> int:
    """Return the depth of the deepest value that is not walked into."""
    depths = [0]
    for name, value in message:
        if ROLES.get(name) == "orderbook_units" and isinstance(value, list) and not isinstance(value, Members):
            for level in value:
                depths += [depth(item) for _, item in level] if isinstance(level, Members) else [depth(level)]
        else:
            depths.append(depth(value))
    return max(depths)


def parse_message(message: Value, text: bytes, snapshot_trades: bool) -> Record:
    """Return one record. Raises Refused for the first thing that does not fit, in a fixed order."""
    if not isinstance(message, Members):
        raise Refused(Reason.UNKNOWN_TYPE)
    found = {ROLES[name]: value for name, value in message if name in ROLES}
    match found.get("type"):
        case "trade" if (
            not snapshot_trades and found.get("stream_type") == "SNAPSHOT" and is_time(found.get("trade_timestamp"))
        ):
            return quote(found, time_ns(found["trade_timestamp"]), text)
        case "trade":
            return trade(found)
        case "orderbook":
            return orderbook(found)
        case "ticker":
            return quote(found, time_ns(found.get("timestamp")), text)
    raise Refused(Reason.UNKNOWN_TYPE)


def trade(found: dict[str, Value]) -> Record:
    """Return a trade."""
    symbol = symbol_of(found)
    exchange_ns = time_ns(found.get("trade_timestamp"))
    price = price_of(found)
    volume = decimal(found.get("trade_volume"))
    if volume is None or volume < 0:
        raise Refused(Reason.BAD_SIZE)
    identity = found.get("sequential_id")
    if identity is not None:
        number = whole(identity)
        if number is None or number < 0:
            raise Refused(Reason.BAD_NUMBER)
    ask, bid = decimal(found.get("best_ask_price")), decimal(found.get("best_bid_price"))
    side = found.get("ask_bid")
    return {
        "kind": "trade",
        "flags": 0,
        "symbol": symbol,
        "exchange_ns": exchange_ns,
        "utc_offset_min": 0,
        "price": price,
        "volume": volume,
        "cum_volume": None,
        "ask": ask if ask is not None and ask > 0 else None,
        "bid": bid if bid is not None and bid > 0 else None,
        "change_rate": change_rate(found),
        "side": {"BID": "buy", "ASK": "sell"}.get(side) if isinstance(side, str) else None,
    }


def orderbook(found: dict[str, Value]) -> Record:
    """Return the ten best levels."""
    symbol = symbol_of(found)
    exchange_ns = time_ns(found.get("timestamp"))
    units = found.get("orderbook_units")
    if not isinstance(units, list) or isinstance(units, Members):
        raise Refused(Reason.BAD_PRICE)
    asks, bids = [], []
    for number, unit in enumerate(units[:LEVELS], 1):
        level = {LEVEL_ROLES[n]: v for n, v in unit if n in LEVEL_ROLES} if isinstance(unit, Members) else {}
        ask, bid, ask_size, bid_size = (decimal(level.get(name)) for name in dict.fromkeys(LEVEL_ROLES.values()))
        if ask is None or ask < 0 or bid is None or bid < 0:
            raise Refused(Reason.BAD_PRICE, number)
        if ask_size is None or ask_size < 0 or bid_size is None or bid_size < 0:
            raise Refused(Reason.BAD_SIZE, number)
        asks.append((ask, ask_size))
        bids.append((bid, bid_size))
    absent = [(Decimal(0), Decimal(0))] * (LEVELS - len(asks))
    return {
        "kind": "orderbook",
        "flags": CROSSED if asks and bids[0][0] > asks[0][0] > 0 else 0,
        "symbol": symbol,
        "exchange_ns": exchange_ns,
        "utc_offset_min": 0,
        "asks": asks + absent,
        "bids": bids + absent,
    }


def quote(found: dict[str, Value], exchange_ns: int, text: bytes) -> Record:
    """Return an event of type quote."""
    rate = decimal(found.get("signed_change_rate"))
    return {
        "kind": "event",
        "flags": 0,
        "type": "quote",
        "symbol": symbol_of(found),
        "exchange_ns": exchange_ns,
        "utc_offset_min": 0,
        "price": price_of(found),
        "volume": decimal(found.get("trade_volume")),
        "cum_volume": decimal(found.get("acc_trade_volume")),
        "change_rate": change_rate(found) if rate is None else percent(rate),
        "text": text[:MAX_TEXT_BYTES],
        "text_is_cut": len(text) > MAX_TEXT_BYTES,
    }


def symbol_of(found: dict[str, Value]) -> str:
    """Return the code: 1..24 printable ASCII characters without quote, backslash, caret, bar or outer spaces."""
    code = found.get("code")
    if not isinstance(code, str) or not re.fullmatch(r"[ -~]{1,24}", code):
        raise Refused(Reason.BAD_SYMBOL)
    if set(code) & set('"\\^|') or code != code.strip(" "):
        raise Refused(Reason.BAD_SYMBOL)
    return code


def price_of(found: dict[str, Value]) -> Decimal:
    """Return the price of a trade or a ticker."""
    price = decimal(found.get("trade_price"))
    if price is None or price <= 0:
        raise Refused(Reason.BAD_PRICE)
    return price


def is_time(value: Value) -> bool:
    """Say whether *value* is a number of milliseconds whose nanoseconds fit an int64."""
    ms = whole(value)
    return ms is not None and 1 <= ms <= MAX_MANTISSA // 10**6


def time_ns(value: Value) -> int:
    """Return milliseconds since 1970 as nanoseconds."""
    ms = whole(value)
    if ms is None or not is_time(value):
        raise Refused(Reason.BAD_TIME)
    return ms * 10**6


def whole(value: Value) -> int | None:
    """Return a number without a fraction."""
    number = decimal(value)
    return int(number) if number is not None and number == int(number) else None


def decimal(value: Value) -> Decimal | None:
    """Return the exact value; None if it is no number or does not fit (int64 mantissa, scale <= 18)."""
    match = re.fullmatch(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE](([+-]?)([0-9]+)))?", getattr(value, "text", ""))
    if match is None or len(match[4] or "") > 7:  # no exponent of use is longer
        return None
    decimals = match[3] or ""
    digits = (match[2] + decimals).lstrip("0") or "0"
    if len(digits) > len(str(MAX_MANTISSA)) or int(digits) > MAX_MANTISSA or len(decimals) > MAX_SCALE:
        return None
    mantissa = int(digits)
    scale = len(decimals) - int(match[4] or "0")
    if mantissa == 0:
        scale = min(max(scale, 0), MAX_SCALE)
    if scale < -len(str(MAX_MANTISSA)) or scale > MAX_SCALE:
        return None
    if scale < 0:
        mantissa, scale = mantissa * 10**-scale, 0
    if mantissa > MAX_MANTISSA:
        return None
    return Decimal(-mantissa if match[1] else mantissa).scaleb(-scale)


def change_rate(found: dict[str, Value]) -> Decimal | None:
    """Return the venue's change in percent of the close before, four decimals, half away from zero."""
    change, close = decimal(found.get("change_price")), decimal(found.get("prev_closing_price"))
    direction = found.get("change")
    if direction not in ("RISE", "EVEN", "FALL") or change is None or close is None or change < 0 or close <= 0:
        return None
    decimals = max(0, -int(close.as_tuple().exponent) + int(change.as_tuple().exponent))
    mantissa = int(change.scaleb(-int(change.as_tuple().exponent)))
    if mantissa * 10 ** (6 + decimals) >= 2**127:  # more than the native side computes with
        return None
    with localcontext(prec=200):
        rate = (change * 100 / close).quantize(Decimal("0.0001"), rounding=ROUND_HALF_UP)
    if int(rate.scaleb(4)) > MAX_MANTISSA:
        return None
    return -rate if direction == "FALL" and rate else rate


def percent(fraction: Decimal) -> Decimal | None:
    """Return a fraction in percent: the point moves two places."""
    scale = -int(fraction.as_tuple().exponent)
    if scale >= 2:
        return fraction.scaleb(2)
    mantissa = int(fraction.scaleb(scale))
    return Decimal(mantissa * 10 ** (2 - scale)) if abs(mantissa) < 2**55 else None
