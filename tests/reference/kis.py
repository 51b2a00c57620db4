"""What parse_kis.pyx does with a frame, in plain Python: str.split, Decimal, datetime."""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Sequence
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import Any

LAYOUTS_PATH = Path(__file__).parents[2] / "native_pipeline" / "kis_layouts.toml"
LAYOUTS: dict[str, dict[str, Any]] = tomllib.loads(LAYOUTS_PATH.read_text(encoding="utf-8"))
MARKETS = {"kr": 1, "us": 2}

Record = dict[str, Any]  # Any: the shape of native_pipeline.records.read_records, without seq

LEVELS = 10
MAX_MANTISSA = 2**63 - 1
MAX_SCALE = 18
COUNT_MAX = 1_000_000
DETAIL_MAX = 65_535
TEXT_MAX = 65_535
CROSSED, AUCTION = 1, 4
EXCHANGE_FLAGS = {"": 0, "nxt": 16, "sor": 32}
KST_OFFSET_MIN = 540
MAX_OFFSET_MIN = 14 * 60
NS_PER_S = 10**9
HALF_DAY_NS = 12 * 3600 * NS_PER_S
DAY = datetime.timedelta(days=1)
EPOCH = datetime.datetime(1970, 1, 1)


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
    frame: bytes,
    recv_ns: int,
    *,
    is_text: bool = True,
    venue: int,
    market: int = 0,
    connection: int = 0,
    alternatives: Sequence[str] = (),
    hands_over_encrypted: bool = False,
) -> list[Record] | None:
    """Return the records of *frame*, as read_records would, without seq; None for a control frame."""

    def quarantine(refused: Refused, tr: str, kept: bytes) -> Record:
        # a quarantine record carries no connection
        common = {"recv_ns": recv_ns, "venue": venue, "market": market_of(tr), "connection": 0, "flags": 0}
        what = {"reason": int(refused.reason), "detail": refused.detail, "frame": kept, "original_bytes": len(kept)}
        return {"kind": "quarantine"} | common | what

    def market_of(tr: str) -> int:
        return market or (MARKETS[LAYOUTS[tr].get("market", "kr")] if tr in LAYOUTS else 0)

    if is_text and frame[:1] in (b"{", b"["):
        return None
    tr = tr_of(frame) if is_text else ""
    try:
        layout, records = split_frame(frame, is_text, alternatives)
    except Refused as refused:
        if refused.reason == Reason.ENCRYPTED and hands_over_encrypted:
            return None
        return [quarantine(refused, tr, frame)]
    found: list[Record] = []
    for fields in records:
        try:
            record = parse_record(layout, fields, recv_ns)
        except Refused as refused:
            replayable = f"0|{tr}|001|" + "^".join(fields)
            found.append(quarantine(refused, tr, replayable.encode("latin-1")))
        else:
            common = {"recv_ns": recv_ns, "venue": venue, "market": market_of(tr), "connection": connection}
            found.append(common | record)
    return found


def tr_of(frame: bytes) -> str:
    """Return the TR id if the frame begins as a data frame of a known TR, "" if not."""
    tr = frame[2:10].decode("latin-1")
    return tr if frame[:1] in (b"0", b"1") and frame[1:2] == frame[10:11] == b"|" and tr in LAYOUTS else ""


def layouts_of(tr: str, alternatives: Sequence[str]) -> list[dict[str, Any]]:
    """Return the layouts that records of *tr* may have, by their width."""
    row = LAYOUTS[tr]
    chosen = {name: changes for name, changes in row.get("alternatives", {}).items() if f"{tr}:{name}" in alternatives}
    layouts = [row | changes for changes in chosen.values()] or [row]
    if "narrow" in row:
        changes = row["narrow"]
        step = changes.get("width_per_level", 0)
        more = range((changes["max_width"] - changes["min_width"]) // step + 1) if step else [0]
        for levels in more:
            narrow = row | changes
            if step:
                narrow["min_width"] = narrow["max_width"] = changes["min_width"] + levels * step
            for role in ("ask_price", "ask_size", "bid_price", "bid_size"):
                if role in narrow:
                    narrow[role] = narrow[role][: changes.get("levels", LEVELS) + levels]
            layouts.append({key: value for key, value in narrow.items() if value != -1})
    return layouts


def split_frame(frame: bytes, is_text: bool, alternatives: Sequence[str]) -> tuple[dict[str, Any], list[list[str]]]:
    """Return the layout and the fields of each record. Raises Refused for the whole frame."""
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
    fitting = [row for row in layouts_of(tr, alternatives) if row["min_width"] <= width <= row["max_width"]]
    if rest or not fitting:
        raise Refused(Reason.BAD_WIDTH, len(fields))
    return fitting[0], [fields[width * i : width * (i + 1)] for i in range(count)]


def parse_count(text: str) -> int:
    """Return the record count; any number of digits."""
    digits = text.lstrip("0")
    if not re.fullmatch("[0-9]+", text) or not digits:
        raise Refused(Reason.BAD_COUNT)
    if len(digits) > len(str(COUNT_MAX)) or int(digits) >= COUNT_MAX:
        raise Refused(Reason.BAD_COUNT, COUNT_MAX)
    return int(digits)


def parse_record(layout: dict[str, Any], fields: list[str], recv_ns: int) -> Record:
    """Return one trade, order book or event. Raises Refused for the first field that does not fit, in a fixed order."""
    symbol = fields[layout["symbol"]]
    if not is_symbol(symbol):
        raise Refused(Reason.BAD_SYMBOL, layout["symbol"])
    if "realtime_key" in layout:
        key = fields[layout["realtime_key"]]
        if key[4:] != symbol or key[0] not in "DR":
            raise Refused(Reason.BAD_SYMBOL, layout["realtime_key"])
    exchange_ns, offset_min = exchange_time(layout, fields, recv_ns)
    flags = EXCHANGE_FLAGS[layout.get("exchange", "")]
    common = {"symbol": symbol, "exchange_ns": exchange_ns, "utc_offset_min": offset_min, "flags": flags}
    if layout["kind"] == "trade":
        return common | trade(layout, fields)
    if layout["kind"] == "orderbook":
        book = orderbook(layout, fields)
        return common | book | {"flags": flags | book["flags"]}
    return common | event(layout, fields)


def exchange_time(layout: dict[str, Any], fields: list[str], recv_ns: int) -> tuple[int, int]:
    """Return nanoseconds since 1970 UTC, and the UTC offset in minutes."""
    offset_min: int = layout.get("utc_offset_min", KST_OFFSET_MIN)
    offset = datetime.timedelta(minutes=offset_min)
    if "time" not in layout:
        return recv_ns, offset_min
    time = time_at(layout["time"], fields)
    if "date" not in layout:
        return to_ns(dated_by_receipt(time, recv_ns, offset) - offset), offset_min
    local = datetime.datetime.combine(date_at(layout["date"], fields), time)
    if "kst_date" in layout:
        kst_time = time_at(layout["kst_time"], fields)
        kst = datetime.datetime.combine(date_at(layout["kst_date"], fields), kst_time)
        ahead_s = (local - kst) // datetime.timedelta(seconds=1)
        offset_min = KST_OFFSET_MIN + (ahead_s + 450) // 900 * 15
        if not -MAX_OFFSET_MIN <= offset_min <= MAX_OFFSET_MIN:
            raise Refused(Reason.BAD_DATE, layout["kst_date"])
    ns = to_ns(local) - offset_min * 60 * NS_PER_S
    if "subsecond" in layout and re.fullmatch("[0-9]{4}", fields[layout["subsecond"]]):
        ns += int(fields[layout["subsecond"]]) * 100_000
    return ns, offset_min


def time_at(position: int, fields: list[str]) -> datetime.time:
    """Return the time of day in a field. Raises Refused."""
    time = parse_time(fields[position])
    if time is None:
        raise Refused(Reason.BAD_TIME, position)
    return time


def date_at(position: int, fields: list[str]) -> datetime.date:
    """Return the date in a field. Raises Refused."""
    date = parse_date(fields[position])
    if date is None:
        raise Refused(Reason.BAD_DATE, position)
    return date


def trade(layout: dict[str, Any], fields: list[str]) -> Record:
    """Return what only a trade has."""
    price = parse_decimal(fields[layout["price"]])
    if price is None or price <= 0:
        raise Refused(Reason.BAD_PRICE, layout["price"])
    volume = parse_decimal(fields[layout["size"]])
    if volume is None or volume < 0:
        raise Refused(Reason.BAD_SIZE, layout["size"])
    cum_volume = optional(layout, "cum_volume", fields)
    if cum_volume is not None and cum_volume < 0:
        raise Refused(Reason.BAD_NUMBER, layout["cum_volume"])
    ask, bid = optional(layout, "best_ask", fields), optional(layout, "best_bid", fields)
    sides = {layout.get("buy", "1"): "buy", layout.get("sell", "5"): "sell"}
    return {
        "kind": "trade",
        "price": price,
        "volume": volume,
        "cum_volume": cum_volume,
        "ask": ask if ask is not None and ask > 0 else None,
        "bid": bid if bid is not None and bid > 0 else None,
        "change_rate": optional(layout, "change_rate", fields),
        "side": sides.get(fields[layout["side"]]) if "side" in layout else None,
    }


def event(layout: dict[str, Any], fields: list[str]) -> Record:
    """Return what only an event has: everything may be left out, but what is there must make sense."""
    price = missing_or_positive(layout, "price", fields, Reason.BAD_PRICE)
    volume = missing_or_positive(layout, "size", fields, Reason.BAD_SIZE)
    cum_volume = optional(layout, "cum_volume", fields)
    if cum_volume is not None and cum_volume < 0:
        raise Refused(Reason.BAD_NUMBER, layout["cum_volume"])
    text = "^".join(fields).encode("latin-1")
    return {
        "kind": "event",
        "type": layout["kind"],
        "price": price or None,
        "volume": volume,
        "cum_volume": cum_volume,
        "change_rate": optional(layout, "change_rate", fields),
        "text": text[:TEXT_MAX],
        "text_is_cut": len(text) > TEXT_MAX,
    }


def optional(layout: dict[str, Any], role: str, fields: list[str]) -> Decimal | None:
    """Return a number that may be left out or unreadable."""
    return parse_decimal(fields[layout[role]]) if role in layout else None


def missing_or_positive(layout: dict[str, Any], role: str, fields: list[str], reason: Reason) -> Decimal | None:
    """Return a number that may be left out. Raises Refused if it is anything else than a number from 0."""
    if role not in layout or is_absent(fields[layout[role]]):
        return None
    value = parse_decimal(fields[layout[role]])
    if value is None or value < 0:
        raise Refused(reason, layout[role])
    return value


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


def dated_by_receipt(time: datetime.time, recv_ns: int, offset: datetime.timedelta) -> datetime.datetime:
    """Return *time* on the local day of receipt, or on the day before or after if that is less than 12 h away."""
    received = EPOCH + datetime.timedelta(seconds=recv_ns // NS_PER_S) + offset
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
