"""The slow, obvious twin of `native_pipeline.copy_encoder`: one record to the fields of one binary COPY row."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tests.reference.packed_records import (
    ABSENT,
    BOOK,
    EVENT,
    TRADE,
    Book,
    Decimal64,
    Event,
    Gap,
    Ledger,
    Quarantine,
    Record,
    Trade,
)

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">II", 0, 0)
TRAILER = struct.pack(">h", -1)
POSTGRES_EPOCH_US = 946_684_800_000_000  # 2000-01-01 in Unix time

TRUNCATED, NXT, SOR = 2, 16, 32  # flags

Field = bytes | None


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the ids in the records stand for."""

    venues: Sequence[str]
    markets: Sequence[str]
    quarantine_reasons: Sequence[str]
    gap_reasons: Sequence[str]


def float8(number: Decimal64) -> Field:
    """The double nearest to the decimal; NULL if the venue did not send it."""
    mantissa, scale = number
    return None if mantissa == ABSENT else struct.pack(">d", float(Fraction(mantissa, 10**scale)))


def timestamptz(unix_ns: int) -> bytes:
    """Whole microseconds since 2000, rounded down."""
    return struct.pack(">q", unix_ns // 1000 - POSTGRES_EPOCH_US)


def text(value: str) -> bytes:
    """Text is its UTF-8 bytes."""
    return value.encode()


def int2(value: int) -> bytes:
    """Two bytes, big endian."""
    return struct.pack(">h", value)


def int4(value: int) -> bytes:
    """Four bytes, big endian."""
    return struct.pack(">i", value)


def int8(value: int) -> bytes:
    """Eight bytes, big endian."""
    return struct.pack(">q", value)


def name_of(names: Sequence[str], number: int) -> bytes:
    """The name of an id; an id of a newer version is "unknown"."""
    return text(names[number] if number < len(names) else "unknown")


def kind_of(data_kind: int) -> bytes:
    """The name of a record kind."""
    return text({TRADE: "trade", BOOK: "orderbook", EVENT: "event"}.get(data_kind, "unknown"))


def exchange_of(flags: int) -> Field:
    """The exchange of a record; NULL is the main one of its market."""
    return {0: None, NXT: b"nxt", SOR: b"sor"}.get(flags & (NXT | SOR), b"unknown")


def type_of(event_type: int) -> bytes:
    """What an event tells."""
    names = ("unknown", "expected", "index", "nav", "status", "program", "quote")
    return name_of(names, event_type)


def venue_text(raw: bytes) -> str:
    """The venue's own text; what is not UTF-8 and what PostgreSQL cannot hold is replaced."""
    return raw.decode(errors="replace").replace("\0", "\ufffd")


def row(record: Record, *, source: int, seq: int, names: Names) -> tuple[str, list[Field]]:
    """Return the table of *record* and the fields of its row."""
    market = name_of(names.markets, record.market)
    venue = name_of(names.venues, record.venue)
    match record:
        case Trade():
            side = {1: b"buy", 2: b"sell"}.get(record.side)
            return "market_ticks", [
                timestamptz(record.exchange_ns),
                record.symbol,
                float8(record.price),
                float8(record.volume),
                float8(record.change_rate),
                market,
                venue,
                side,
                float8(record.ask),
                float8(record.bid),
                float8(record.cum_volume),
                timestamptz(record.recv_ns),
                int2(record.flags),
                int2(source),
                int8(seq),
                exchange_of(record.flags),
            ]
        case Book():
            levels: list[Field] = []
            for price, size in [*Book.ten(record.asks), *Book.ten(record.bids)]:
                levels.append(float8(price) if price[0] else None)
                levels.append(float8(size) if price[0] or size[0] else None)
            return "market_orderbook", [
                timestamptz(record.exchange_ns),
                record.symbol,
                *levels,
                market,
                venue,
                timestamptz(record.recv_ns),
                int2(record.flags),
                int2(source),
                int8(seq),
                exchange_of(record.flags),
            ]
        case Event():
            return "market_events", [
                timestamptz(record.exchange_ns),
                record.symbol,
                type_of(record.type),
                float8(record.price),
                float8(record.volume),
                float8(record.cum_volume),
                float8(record.change_rate),
                market,
                venue,
                exchange_of(record.flags),
                text(venue_text(record.text)),
                timestamptz(record.recv_ns),
                int2(record.flags | TRUNCATED if record.text_is_cut else record.flags),
                int2(source),
                int8(seq),
            ]
        case Quarantine():
            return "quarantine", [
                timestamptz(record.recv_ns),
                venue,
                name_of(names.quarantine_reasons, record.reason),
                int4(record.detail),
                record.frame,
                int4(record.original_bytes),
                int2(source),
                int8(seq),
            ]
        case Gap():
            return "feed_gaps", [
                venue,
                market,
                record.symbol,
                kind_of(record.data_kind),
                timestamptz(record.started_ns),
                timestamptz(record.ended_ns),
                name_of(names.gap_reasons, record.reason),
                float8((record.missing, 0)),
                int2(source),
                int8(seq),
                exchange_of(record.flags),
            ]
        case Ledger():
            return "ingest_ledger", [
                timestamptz(record.minute_ns),
                market,
                venue,
                record.symbol,
                kind_of(record.data_kind),
                int4(record.count),
                int8(record.through_seq),
                int2(source),
                int8(seq),
            ]


def stream(rows: Iterable[Sequence[Field]]) -> bytes:
    """Return the complete COPY stream of *rows*."""
    parts = [HEADER]
    for fields in rows:
        parts.append(struct.pack(">h", len(fields)))
        for field in fields:
            parts.append(struct.pack(">i", -1) if field is None else struct.pack(">i", len(field)) + field)
    return b"".join([*parts, TRAILER])
