"""What is in a ring, as Python values: for `sise decode`, tests and inspection. Not on the hot path.

Also the texts of the reason codes that records carry; they are stored as numbers, so a text may be reworded, but a
number never changes its meaning.
"""

from collections import namedtuple
from decimal import Decimal

from libc.stdint cimport int64_t, uint8_t

from native_pipeline.record cimport (
    REASON_BAD_CONTROL,
    REASON_END,
    REASON_TOO_LONG,
    SISE_ABSENT,
    SISE_BOOK,
    SISE_EVENT,
    SISE_EVENT_EXPECTED,
    SISE_EVENT_INDEX,
    SISE_EVENT_NAV,
    SISE_EVENT_PROGRAM,
    SISE_EVENT_QUOTE,
    SISE_EVENT_STATUS,
    SISE_FLAG_AUCTION,
    SISE_FLAG_CLOCK_STEP,
    SISE_FLAG_CROSSED,
    SISE_FLAG_LATE,
    SISE_FLAG_NXT,
    SISE_FLAG_SOR,
    SISE_FLAG_TRUNCATED,
    SISE_GAP,
    SISE_LEDGER,
    SISE_LEVELS,
    SISE_QUARANTINE,
    SISE_SIDE_BUY,
    SISE_SIDE_SELL,
    SISE_SYMBOL_BYTES,
    SISE_TRADE,
    sise_book,
    sise_event,
    sise_gap,
    sise_ledger,
    sise_quarantine,
    sise_record_header,
    sise_trade,
)
from native_pipeline.ring_reader cimport RingReader

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char* text, size_t limit)

# In the order of record.pxd's QuarantineReason.
QUARANTINE_REASONS = (
    "no reason recorded",
    "empty frame",
    "neither a data nor a control frame: unknown first byte",
    "malformed frame header: expected flag|TR|count|payload",
    "unknown TR",
    "record count is not a number from 1",
    "number of fields does not fit the record count and the TR",
    "encrypted frame without a key",
    "missing or invalid symbol",
    "invalid time of day",
    "invalid date",
    "price is missing, not a decimal, or not positive",
    "size is missing, not a decimal, or negative",
    "invalid number",
    "control frame is not the expected JSON object",
    "message is longer than the limit",
    "unexpected binary frame",
)
assert len(QUARANTINE_REASONS) == REASON_END

# The reasons that Python itself gives; all others are the parsers'.
BAD_CONTROL = REASON_BAD_CONTROL
TOO_LONG = REASON_TOO_LONG

# By sise_gap.reason.
GAP_REASONS = (
    "unknown",
    "connection lost",
    "worker restarted",
    "daemon stopped",
    "cumulative volume does not add up",
    "ring lapped",
)

# bit of sise_record_header.flags -> name
FLAG_NAMES = {
    SISE_FLAG_CLOCK_STEP: "clock_step",
    SISE_FLAG_CROSSED: "crossed", SISE_FLAG_TRUNCATED: "truncated", SISE_FLAG_AUCTION: "auction",
    SISE_FLAG_LATE: "late", SISE_FLAG_NXT: "nxt", SISE_FLAG_SOR: "sor",
}
# By sise_event.type; also the names of the kinds that a feed can ask for.
EVENT_NAMES = {
    SISE_EVENT_EXPECTED: "expected", SISE_EVENT_INDEX: "index", SISE_EVENT_NAV: "nav", SISE_EVENT_STATUS: "status",
    SISE_EVENT_PROGRAM: "program", SISE_EVENT_QUOTE: "quote",
}
KIND_NAMES = {
    SISE_TRADE: "trade", SISE_BOOK: "orderbook", SISE_QUARANTINE: "quarantine", SISE_GAP: "gap", SISE_LEDGER: "ledger",
    SISE_EVENT: "event",
}
SIDE_NAMES = {SISE_SIDE_BUY: "buy", SISE_SIDE_SELL: "sell"}

MarketData = namedtuple("MarketData", ("kind", "name", "table", "channel"))
# What a venue sends: number and name of the kind of record, the table of its rows, and its Redis channel without the
# market. Counted when received, stored, published: whatever does so for one of them does so for each of this list.
MARKET_DATA = tuple(
    MarketData(kind, KIND_NAMES[kind], table, channel)
    for kind, table, channel in (
        (SISE_TRADE, "market_ticks", "ticker."),
        (SISE_BOOK, "market_orderbook", "orderbook."),
        (SISE_EVENT, "market_events", "event."),
    )
)


cdef object _decimal(int64_t mantissa, uint8_t scale):
    # by way of the text, because arithmetic on Decimal rounds to the context's precision
    return None if mantissa == SISE_ABSENT else Decimal(f"{mantissa}e-{scale}")


cdef str _symbol(const char* symbol):
    return symbol[:strnlen(symbol, SISE_SYMBOL_BYTES)].decode("ascii", "backslashreplace")


cdef dict _trade(const sise_trade* trade):
    return {
        "symbol": _symbol(trade.symbol),
        "exchange_ns": trade.exchange_ns,
        "utc_offset_min": trade.header.utc_offset_min,
        "price": _decimal(trade.price, trade.price_scale),
        "volume": _decimal(trade.volume, trade.volume_scale),
        "cum_volume": _decimal(trade.cum_volume, trade.cum_volume_scale),
        "ask": _decimal(trade.ask, trade.ask_scale),
        "bid": _decimal(trade.bid, trade.bid_scale),
        "change_rate": _decimal(trade.change_rate, trade.change_rate_scale),
        "side": SIDE_NAMES.get(trade.side),
    }


cdef list _levels(const int64_t* prices, const uint8_t* price_scales, const int64_t* sizes, const uint8_t* size_scales):
    return [
        (_decimal(prices[level], price_scales[level]), _decimal(sizes[level], size_scales[level]))
        for level in range(SISE_LEVELS)
    ]


cdef dict _book(const sise_book* book):
    return {
        "symbol": _symbol(book.symbol),
        "exchange_ns": book.exchange_ns,
        "utc_offset_min": book.header.utc_offset_min,
        "asks": _levels(book.ask_price, book.ask_price_scale, book.ask_size, book.ask_size_scale),
        "bids": _levels(book.bid_price, book.bid_price_scale, book.bid_size, book.bid_size_scale),
    }


cdef dict _event(const sise_event* event):
    return {
        "symbol": _symbol(event.symbol),
        "exchange_ns": event.exchange_ns,
        "utc_offset_min": event.header.utc_offset_min,
        "type": EVENT_NAMES.get(event.type),
        "price": _decimal(event.price, event.price_scale),
        "volume": _decimal(event.volume, event.volume_scale),
        "cum_volume": _decimal(event.cum_volume, event.cum_volume_scale),
        "change_rate": _decimal(event.change_rate, event.change_rate_scale),
        "text": (<const char*>event + sizeof(sise_event))[:event.text_bytes],
        "text_is_cut": event.text_is_cut == 1,
    }


cdef dict _quarantine(const sise_quarantine* quarantine):
    return {
        "reason": quarantine.reason,
        "detail": quarantine.detail,
        "frame": (<const char*>quarantine + sizeof(sise_quarantine))[:quarantine.frame_bytes],
        "original_bytes": quarantine.original_bytes,
    }


cdef dict _gap(const sise_gap* gap):
    return {
        "symbol": _symbol(gap.symbol),
        "started_ns": gap.started_ns,
        "ended_ns": gap.ended_ns,
        "missing": None if gap.missing == SISE_ABSENT else gap.missing,
        "data_kind": KIND_NAMES.get(gap.data_kind),
        "reason": gap.reason,
    }


cdef dict _ledger(const sise_ledger* ledger):
    return {
        "symbol": _symbol(ledger.symbol),
        "minute_ns": ledger.minute_ns,
        "through_seq": ledger.through_seq,
        "count": ledger.count,
        "data_kind": KIND_NAMES.get(ledger.data_kind),
    }


cdef dict _record(const sise_record_header* header):
    common = {
        "kind": KIND_NAMES.get(header.kind, f"unknown {header.kind}"),
        "seq": header.seq,
        "recv_ns": header.recv_ns,
        "venue": header.venue,
        "market": header.market,
        "connection": header.connection,
        "flags": header.flags,
    }
    if header.kind == SISE_TRADE:
        return common | _trade(<const sise_trade*>header)
    if header.kind == SISE_BOOK:
        return common | _book(<const sise_book*>header)
    if header.kind == SISE_EVENT:
        return common | _event(<const sise_event*>header)
    if header.kind == SISE_QUARANTINE:
        return common | _quarantine(<const sise_quarantine*>header)
    if header.kind == SISE_GAP:
        return common | _gap(<const sise_gap*>header)
    if header.kind == SISE_LEDGER:
        return common | _ledger(<const sise_ledger*>header)
    return common


def describe_record(bytes record not None) -> dict:
    """Return one whole record, header included, as `read_records` does. Raises ValueError if it is too short to be one.

    record: its length and checksum are taken for granted.
    """
    cdef const sise_record_header* header = <const sise_record_header*><const char*>record
    if len(record) < <Py_ssize_t>sizeof(sise_record_header) or len(record) != header.length:
        raise ValueError(f"expected a whole record, found {len(record)} bytes")
    return _record(header)


def flag_names(int flags) -> list:
    """Return the names of the bits set in *flags* that a reader of records may want to know, in the order of bits."""
    return [name for bit, name in FLAG_NAMES.items() if flags & bit]


def exchange_name(int flags):
    """Return the name of the exchange that *flags* of a record say: None is the main exchange of its market."""
    exchange = flags & (SISE_FLAG_NXT | SISE_FLAG_SOR)
    return FLAG_NAMES.get(exchange, "unknown") if exchange else None


def read_records(RingReader reader not None, int max_records) -> list:
    """Return the next *max_records* published records, or as many as there are, as dicts; does not commit.

    Decimals are exact `decimal.Decimal`, None where the venue sent no value; `flags`, `reason`, `venue`, `market` are
    the numbers of the record, names of kinds and sides are texts, `asks` and `bids` hold (price, size) of all ten
    levels.
    """
    cdef const sise_record_header* header
    found = []
    while len(found) < max_records:
        header = reader.next()
        if header is NULL:
            if reader.fetch(0) == 0:
                break
            continue
        found.append(_record(header))
    return found
