"""What parse_kis.pyx does with a frame, in plain Python: str.split, Decimal, datetime."""

from __future__ import annotations

import datetime
import re
import tomllib
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import Any

LAYOUTS_PATH = Path(__file__).parents[2] / "native_pipeline" / "kis_layouts.toml"
LAYOUTS: dict[str, dict[str, Any]] = tomllib.loads(LAYOUTS_PATH.read_text(encoding="utf-8"))

Record = dict[str, Any]  # Any: the shape of native_pipeline.records.read_records, without seq

LEVELS = 10
MAX_MANTISSA = 2**63 - 1
MAX_SCALE = 18
COUNT_MAX = 1_000_000
DETAIL_MAX = 65_535
CROSSED, AUCTION = 1, 4
KST_OFFSET_MIN = 540
NS_PER_S = 10**9
HALF_DAY_NS = 12 * 3600 * NS_PER_S
DAY = datetime.timedelta(days=1)
EPOCH = datetime.datetime(1970, 1, 1)
KST = datetime.timedelta(minutes=KST_OFFSET_MIN)


class Reason(IntEnum):
    """The numbers of record.pxd's QuarantineReason."""

    EMPTY_FRAME = 1
    UNKNOWN_FRAME = 2
    MALFORMED_HEADER = 3
    UNKNOWN_TR = 4
    BAD_COUNT = 5
    BAD_WIDTH = 6
    ENCRYPTED = 7
    BAD_SYMBOL = 8
    BAD_TIME = 9
    BAD_DATE = 10
    BAD_PRICE = 11
    BAD_SIZE = 12
    BAD_NUMBER = 13
    UNEXPECTED_BINARY = 16


class Refused(Exception):
    """A frame or a record that does not fit; detail as in record.pxd."""

    def __init__(self, reason: Reason, detail: int = 0) -> None:
        super().__init__(reason.name, detail)
        self.reason = reason
        self.detail = min(detail, DETAIL_MAX)


def parse_frame(
    frame: bytes, recv_ns: int, *, is_text: bool = True, venue: int, market: int, connection: int = 0
) -> list[Record] | None:
    """Return the records of *frame*, as read_records would, without seq; None for a control frame."""

    def quarantine(refused: Refused, kept: bytes) -> Record:
        # a quarantine record carries no connection
        common = {"recv_ns": recv_ns, "venue": venue, "market": market, "connection": 0, "flags": 0}
        what = {"reason": int(refused.reason), "detail": refused.detail, "frame": kept, "original_bytes": len(kept)}
        return {"kind": "quarantine"} | common | what

    if is_text and frame[:1] in (b"{", b"["):
        return None
    try:
        tr, records = split_frame(frame, is_text)
    except Refused as refused:
        return [quarantine(refused, frame)]
    found: list[Record] = []
    for fields in records:
        try:
            record = parse_record(LAYOUTS[tr], fields, recv_ns)
        except Refused as refused:
            replayable = f"0|{tr}|001|" + "^".join(fields)
            found.append(quarantine(refused, replayable.encode("latin-1")))
        else:
            common = {"recv_ns": recv_ns, "venue": venue, "market": market, "connection": connection}
            found.append(common | record)
    return found


def split_frame(frame: bytes, is_text: bool) -> tuple[str, list[list[str]]]:
    """Return the TR and the fields of each record. Raises Refused for the whole frame."""
    if not is_text:
        raise Refused(Reason.UNEXPECTED_BINARY)
    if not frame:
        raise Refused(Reason.EMPTY_FRAME)
    text = frame.decode("latin-1")  # one character a byte, whatever the encoding
    if text[0] not in "01":
        raise Refused(Reason.UNKNOWN_FRAME)
    parts = text.split("|", 3)
    if len(parts) != 4 or len(parts[0]) != 1:
        raise Refused(Reason.MALFORMED_HEADER)
    flag, tr, count_text, payload = parts
    if flag == "1":
        raise Refused(Reason.ENCRYPTED)
    if tr not in LAYOUTS:
        raise Refused(Reason.UNKNOWN_TR)
    count = parse_count(count_text)
    fields = payload.split("^")
    width, rest = divmod(len(fields), count)
    if rest or not LAYOUTS[tr]["min_width"] <= width <= LAYOUTS[tr]["max_width"]:
        raise Refused(Reason.BAD_WIDTH, len(fields))
    return tr, [fields[width * i : width * (i + 1)] for i in range(count)]


def parse_count(text: str) -> int:
    """Return the record count; any number of digits."""
    digits = text.lstrip("0")
    if not re.fullmatch("[0-9]+", text) or not digits:
        raise Refused(Reason.BAD_COUNT)
    if len(digits) > len(str(COUNT_MAX)) or int(digits) >= COUNT_MAX:
        raise Refused(Reason.BAD_COUNT, COUNT_MAX)
    return int(digits)


def parse_record(layout: dict[str, Any], fields: list[str], recv_ns: int) -> Record:
    """Return one trade or order book. Raises Refused for the first field that does not fit, in a fixed order."""
    symbol = fields[layout["symbol"]]
    if not is_symbol(symbol):
        raise Refused(Reason.BAD_SYMBOL, layout["symbol"])
    time = parse_time(fields[layout["time"]])
    if time is None:
        raise Refused(Reason.BAD_TIME, layout["time"])
    if "date" in layout:
        date = parse_date(fields[layout["date"]])
        if date is None:
            raise Refused(Reason.BAD_DATE, layout["date"])
        exchange_ns = to_ns(datetime.datetime.combine(date, time) - KST)
    else:
        exchange_ns = to_ns(dated_by_receipt(time, recv_ns) - KST)
    common = {"symbol": symbol, "exchange_ns": exchange_ns, "utc_offset_min": KST_OFFSET_MIN, "flags": 0}
    return common | (trade(layout, fields) if layout["kind"] == "trade" else orderbook(layout, fields))


def trade(layout: dict[str, Any], fields: list[str]) -> Record:
    """Return what only a trade has."""
    price = parse_decimal(fields[layout["price"]])
    if price is None or price <= 0:
        raise Refused(Reason.BAD_PRICE, layout["price"])
    volume = parse_decimal(fields[layout["size"]])
    if volume is None or volume < 0:
        raise Refused(Reason.BAD_SIZE, layout["size"])
    cum_volume = parse_decimal(fields[layout["cum_volume"]])
    if cum_volume is not None and cum_volume < 0:
        raise Refused(Reason.BAD_NUMBER, layout["cum_volume"])
    ask, bid = parse_decimal(fields[layout["best_ask"]]), parse_decimal(fields[layout["best_bid"]])
    return {
        "kind": "trade",
        "price": price,
        "volume": volume,
        "cum_volume": cum_volume,
        "ask": ask if ask is not None and ask > 0 else None,
        "bid": bid if bid is not None and bid > 0 else None,
        "change_rate": parse_decimal(fields[layout["change_rate"]]),
        "side": {"1": "buy", "5": "sell"}.get(fields[layout["side"]]),
    }


def orderbook(layout: dict[str, Any], fields: list[str]) -> Record:
    """Return what only an order book has."""
    asks = levels(fields, layout["ask_price"], layout["ask_size"])
    bids = levels(fields, layout["bid_price"], layout["bid_size"])
    crossed = bids[0][0] > asks[0][0] > 0
    auction = "session" in layout and fields[layout["session"]] in ("A", "B", "C", "D")
    return {
        "kind": "orderbook",
        "flags": (CROSSED if crossed else 0) | (AUCTION if auction else 0),
        "asks": asks,
        "bids": bids,
    }


def levels(fields: list[str], price_at: list[int], size_at: list[int]) -> list[tuple[Decimal, Decimal]]:
    """Return (price, size) of ten levels; a far level that is left out has price and size 0."""
    found = []
    for level, (p, s) in enumerate(zip(price_at, size_at, strict=True)):
        if level > 0 and is_absent(fields[p]) and is_absent(fields[s]):
            found.append((Decimal(0), Decimal(0)))
            continue
        price, size = parse_decimal(fields[p]), parse_decimal(fields[s])
        if price is None or price < 0:
            raise Refused(Reason.BAD_PRICE, p)
        if size is None or size < 0:
            raise Refused(Reason.BAD_SIZE, s)
        found.append((price, size))
    return found + [(Decimal(0), Decimal(0))] * (LEVELS - len(found))


def parse_decimal(text: str) -> Decimal | None:
    """Return the exact value, None if it is not a plain decimal or does not fit (int64 mantissa, scale <= 18)."""
    match = re.fullmatch(r"([+-]?)([0-9]+(?:\.([0-9]+))?|\.([0-9]+))", text)
    if match is None:
        return None
    decimals = match[3] or match[4] or ""
    digits = match[2].replace(".", "").lstrip("0") or "0"
    if len(decimals) > MAX_SCALE or len(digits) > len(str(MAX_MANTISSA)) or int(digits) > MAX_MANTISSA:
        return None
    mantissa = -int(digits) if match[1] == "-" else int(digits)
    return Decimal(mantissa).scaleb(-len(decimals))


def is_absent(text: str) -> bool:
    """Say whether the venue left the field out."""
    return text in ("", "(null)")


def is_symbol(text: str) -> bool:
    """Say whether *text* is 1..24 printable ASCII characters without quote, backslash, caret, bar or outer spaces."""
    return re.fullmatch(r"[ -~]{1,24}", text) is not None and not set(text) & set('"\\^|') and text == text.strip(" ")


def parse_time(text: str) -> datetime.time | None:
    """Return HHMMSS as a time of day, None if there is no such time."""
    if not re.fullmatch("[0-9]{6}", text):
        return None
    try:
        return datetime.time(int(text[:2]), int(text[2:4]), int(text[4:]))
    except ValueError:
        return None


def parse_date(text: str) -> datetime.date | None:
    """Return YYYYMMDD as a date from 1970 to 2261, None if there is no such day."""
    if not re.fullmatch("[0-9]{8}", text) or not 1970 <= int(text[:4]) <= 2261:
        return None
    try:
        return datetime.date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


def dated_by_receipt(time: datetime.time, recv_ns: int) -> datetime.datetime:
    """Return *time* on the local day of receipt, or on the day before or after if that is less than 12 h away."""
    received = EPOCH + datetime.timedelta(seconds=recv_ns // NS_PER_S) + KST
    local = datetime.datetime.combine(received.date(), time)
    ahead_ns = int((local - received).total_seconds()) * NS_PER_S - recv_ns % NS_PER_S  # finer than datetime
    if ahead_ns > HALF_DAY_NS:
        return local - DAY
    if ahead_ns < -HALF_DAY_NS:
        return local + DAY
    return local


def to_ns(utc: datetime.datetime) -> int:
    """Return nanoseconds since 1970."""
    return (utc - EPOCH) // datetime.timedelta(microseconds=1) * 1000
