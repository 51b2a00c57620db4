"""What parse_kiwoom.pyx does with a message, in plain Python: json, Decimal, datetime."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from tests.reference.kis import Reason, Record, Refused, is_symbol, parse_decimal, parse_time

Json = Any  # what json.loads returns, its numbers as they were written

MAX_BYTES = 1 << 20
MAX_ENTRIES = 4096
MAX_DEPTH = 64
MAX_EVENT_TEXT = 4096
LEVELS = 10
CROSSED, NXT, SOR = 1, 16, 32
SUFFIXES = {"_NX": NXT, "_AL": SOR}
KST_OFFSET_MIN = 540
EPOCH = datetime.datetime(1970, 1, 1)
KST = datetime.timedelta(minutes=KST_OFFSET_MIN)
DAY = datetime.timedelta(days=1)
BAD_JSON = 14  # REASON_BAD_CONTROL
TOO_LONG = 15
NONE = Decimal(0)


class Type(NamedTuple):
    """The FIDs of one type, "" where it has none."""

    kind: str
    time: str = ""
    price: str = ""
    volume: str = ""
    cum_volume: str = ""
    change_rate: str = ""
    symbol: str | None = None  # FID that names the issue where the item is empty, which is then allowed


TYPES = {
    "0B": Type("trade", "20", "10", "15", "13", "12"),
    "0D": Type("orderbook", "21"),
    "0A": Type("quote", "", "10", "", "13", "12"),
    "0C": Type("quote"),
    "0H": Type("expected", "20", "10", "15", "13", "12"),
    "0J": Type("index", "20", "10", "15", "13", "12"),
    "0U": Type("index", "20", "10", "", "13", "12"),
    "0G": Type("nav", "20", "36", "", "13", "38"),
    "0w": Type("program", "20", "10", "", "13", "12"),
    "0s": Type("status", "20", symbol=""),
    "1h": Type("status", "1223", "1221", "", "13", "1489", symbol="9001"),
}


def parse_frame(
    frame: bytes, recv_ns: int, *, is_text: bool = True, venue: int, market: int, connection: int = 0
) -> list[Record] | None:
    """Return the records of *frame*, as read_records would, without seq; None for a control message."""

    def quarantine(refused: Refused, kept: bytes) -> Record:
        common = {"recv_ns": recv_ns, "venue": venue, "market": market, "connection": 0, "flags": 0}
        what = {"reason": int(refused.reason), "detail": refused.detail, "frame": kept, "original_bytes": len(kept)}
        return {"kind": "quarantine"} | common | what

    try:
        entries = split_frame(frame, is_text)
    except Refused as refused:
        return [quarantine(refused, frame)]
    if entries is None:
        return None
    found: list[Record] = []
    for text in entries:
        try:
            record = parse_entry(text, recv_ns)
        except Refused as refused:
            alone = f'{{"trnm":"REAL","data":[{text}]}}'.encode("latin-1")
            found.append(quarantine(refused, frame if len(entries) == 1 else alone))
        else:
            common = {"recv_ns": recv_ns, "venue": venue, "market": market, "connection": connection}
            found.append(common | record)
    return found


def refused(reason: int, detail: int = 0) -> Refused:
    """Return an exception with a reason that the KIS parser does not know."""
    exc = Refused(Reason.EMPTY_FRAME, detail)
    exc.reason = reason  # type: ignore[assignment]
    return exc


# ---- the message -----------------------------------------------------------------------------------------------------


def split_frame(frame: bytes, is_text: bool) -> list[str] | None:
    """Return the text of each entry; None for a control message. Raises Refused for the whole frame."""
    if not is_text:
        raise Refused(Reason.UNEXPECTED_BINARY)
    if not frame:
        raise Refused(Reason.EMPTY_FRAME)
    if len(frame) > MAX_BYTES:
        raise refused(TOO_LONG)
    text = frame.decode("latin-1")  # one character a byte, whatever the encoding
    if text.lstrip(" \t\n\r")[:1] != "{":
        raise Refused(Reason.UNKNOWN_FRAME)
    if nesting(text) > MAX_DEPTH:
        raise refused(BAD_JSON)
    try:
        load(text)
    except ValueError as exc:
        raise refused(BAD_JSON) from exc
    text = resolve(text)
    spans = {key: (begin, end) for key, begin, end in members(text, text.index("{"))}  # the last of a key counts
    values = {key: text[begin:end] for key, (begin, end) in spans.items()}
    entries = list(elements(text, spans["data"][0])) if values.get("data", "")[:1] == "[" else []
    if len(entries) > MAX_ENTRIES:
        raise refused(TOO_LONG)
    if values.get("trnm") != '"REAL"':
        return None
    if not entries:
        raise Refused(Reason.BAD_COUNT)
    return entries


def load(text: str) -> Json:
    """Return the value of *text*, its numbers as written. Raises ValueError."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)  # NaN, Infinity: not JSON

    return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=refuse)


class Number(str):
    """A number as it was written."""


def nesting(text: str) -> int:
    """Return how deep containers lie in each other."""
    deepest = depth = 0
    for char in re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(char, 0)
        deepest = max(deepest, depth)
    return deepest


def resolve(text: str) -> str:
    """Replace every escape that stands for a plain character by it."""

    def escape(match: re.Match[str]) -> str:
        if match[0] == r"\/":
            return "/"
        char = chr(int(match[1], 16)) if match[1] else "\0"
        return char if " " <= char <= "~" and char not in '"\\' else match[0]

    def string(match: re.Match[str]) -> str:
        return re.sub(r"\\(?:u([0-9a-fA-F]{4})|.)", escape, match[0])

    return re.sub(r'"(?:[^"\\]|\\.)*"', string, text)


_decoder = json.JSONDecoder()


def _behind_space(text: str, at: int) -> int:
    while text[at] in " \t\n\r":
        at += 1
    return at


def members(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    """Yield key, begin and end of the value of each member of the object at *at*."""
    at = _behind_space(text, at + 1)
    while text[at] != "}":
        key, at = _decoder.raw_decode(text, at)
        at = _behind_space(text, _behind_space(text, at) + 1)
        _, end = _decoder.raw_decode(text, at)
        yield key, at, end
        at = _behind_space(text, end)
        if text[at] == ",":
            at = _behind_space(text, at + 1)


def elements(text: str, at: int) -> Iterator[str]:
    """Yield the text of each element of the array at *at*."""
    at = _behind_space(text, at + 1)
    while text[at] != "]":
        _, end = _decoder.raw_decode(text, at)
        yield text[at:end]
        at = _behind_space(text, end)
        if text[at] == ",":
            at = _behind_space(text, at + 1)


# ---- one entry -------------------------------------------------------------------------------------------------------


def parse_entry(text: str, recv_ns: int) -> Record:
    """Return one record. Raises Refused for the first field that does not fit, in a fixed order."""
    entry = load(text)
    code = entry.get("type") if isinstance(entry, dict) else None
    if not is_string(code) or code not in TYPES:
        raise Refused(Reason.UNKNOWN_TR)
    values = entry.get("values")
    if isinstance(values, list) and len(values) == 1:
        values = values[0]
    if not isinstance(values, dict):
        raise Refused(Reason.BAD_WIDTH)
    fields = {fid: value if isinstance(value, str) else "" for fid, value in values.items()}
    item = entry.get("item")
    symbol, flags = read_symbol(TYPES[code], item if is_string(item) else "", fields)
    record = {"symbol": symbol, "utc_offset_min": KST_OFFSET_MIN, "flags": flags}
    if TYPES[code].kind == "trade":
        return record | trade(TYPES[code], fields, recv_ns)
    if TYPES[code].kind == "orderbook":
        shown = orderbook(fields, recv_ns)
        return record | shown | {"flags": flags | shown["flags"]}
    return record | event(TYPES[code], fields, text, recv_ns)


def is_string(value: Json) -> bool:
    """Say whether *value* is a JSON string, not a number."""
    return isinstance(value, str) and not isinstance(value, Number)


def read_symbol(kind: Type, item: str, fields: dict[str, str]) -> tuple[str, int]:
    """Return the symbol without its suffix, and the flag that the suffix stands for."""
    if not item and kind.symbol is not None:
        item = fields.get(kind.symbol, "")
        if not item:
            return "", 0
    flag = SUFFIXES.get(item[-3:], 0) if len(item) > 3 else 0
    if flag:
        item = item[:-3]
    if not is_symbol(item):
        raise Refused(Reason.BAD_SYMBOL)
    return item, flag


def trade(kind: Type, fields: dict[str, str], recv_ns: int) -> Record:
    """Return what only a trade has."""
    time = read_time(fields, kind.time, recv_ns)
    price = read_size(fields, kind.price)
    if price is None or price == 0:
        raise Refused(Reason.BAD_PRICE, int(kind.price))
    volume = read_size(fields, kind.volume)
    if volume is None or volume == 0:
        raise Refused(Reason.BAD_SIZE, int(kind.volume))
    cum_volume = parse_decimal(fields.get(kind.cum_volume, ""))
    if cum_volume is not None and cum_volume < 0:
        raise Refused(Reason.BAD_NUMBER, int(kind.cum_volume))
    return {
        "kind": "trade",
        "exchange_ns": time,
        "price": price,
        "volume": volume,
        "cum_volume": cum_volume,
        "ask": read_size(fields, "27") or None,
        "bid": read_size(fields, "28") or None,
        "change_rate": parse_decimal(fields.get(kind.change_rate, "")),
        "side": {"+": "buy", "-": "sell"}.get(fields[kind.volume][0]),
    }


def orderbook(fields: dict[str, str], recv_ns: int) -> Record:
    """Return what only an order book has."""
    time = read_time(fields, "21", recv_ns)
    if not any(fields.get(str(fid)) for fid in range(41, 81)):
        raise Refused(Reason.BAD_PRICE, 41)
    asks, bids = levels(fields, 41, 61), levels(fields, 51, 71)
    crossed = bids[0][0] > asks[0][0] > 0
    return {"kind": "orderbook", "exchange_ns": time, "flags": crossed * CROSSED, "asks": asks, "bids": bids}


def levels(fields: dict[str, str], first_price: int, first_size: int) -> list[tuple[Decimal, Decimal]]:
    """Return (price, size) of ten levels; one that is left out has price and size 0."""
    found = []
    for level in range(LEVELS):
        price_text, size_text = fields.get(str(first_price + level), ""), fields.get(str(first_size + level), "")
        price = read_size(fields, str(first_price + level)) if price_text else NONE
        if price is None:
            raise Refused(Reason.BAD_PRICE, first_price + level)
        size = parse_decimal(size_text) if size_text or price else NONE
        if size is None or size < 0:
            raise Refused(Reason.BAD_SIZE, first_size + level)
        if size and not price_text:
            raise Refused(Reason.BAD_PRICE, first_price + level)
        found.append((price, size))
    return found


def event(kind: Type, fields: dict[str, str], text: str, recv_ns: int) -> Record:
    """Return what only an event has; its numbers are optional."""
    clock = fields.get(kind.time, "")
    if parse_time(clock) is None and (not clock or kind.kind == "status"):
        time = recv_ns
    else:
        time = read_time(fields, kind.time, recv_ns)
    raw = text.encode("latin-1")
    return {
        "kind": "event",
        "type": kind.kind,
        "exchange_ns": time,
        "price": read_size(fields, kind.price) or None,
        "volume": read_size(fields, kind.volume),
        "cum_volume": parse_decimal(fields.get(kind.cum_volume, "")),
        "change_rate": parse_decimal(fields.get(kind.change_rate, "")),
        "text": raw[:MAX_EVENT_TEXT],
        "text_is_cut": len(raw) > MAX_EVENT_TEXT,
    }


# ---- fields ----------------------------------------------------------------------------------------------------------


def read_size(fields: dict[str, str], fid: str) -> Decimal | None:
    """Return a decimal without its sign."""
    value = parse_decimal(fields.get(fid, ""))
    return None if value is None else value.copy_abs()


def read_time(fields: dict[str, str], fid: str, recv_ns: int) -> int:
    """Return HHMMSS in Korea, on the day of receipt or the one before or after if that is nearer, as UTC ns."""
    time = parse_time(fields.get(fid, ""))
    if time is None:
        raise Refused(Reason.BAD_TIME, int(fid))
    received = EPOCH + datetime.timedelta(seconds=recv_ns // 10**9) + KST
    days = (datetime.datetime.combine(received.date(), time) + shift * DAY - KST for shift in (0, -1, 1))
    return min(((day - EPOCH) // datetime.timedelta(microseconds=1) * 1000 for day in days),
               key=lambda ns: abs(ns - recv_ns))  # fmt: skip
