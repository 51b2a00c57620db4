"""Ring records for tests: written as plain values, packed to the bytes of `layout.h` with struct."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

TRADE, BOOK, QUARANTINE, GAP, LEDGER, EVENT = 1, 2, 3, 4, 5, 6
EXPECTED = 1
ABSENT = -(2**63)
LEVELS = 10

Decimal64 = tuple[int, int]  # mantissa, scale


class Appender(Protocol):
    """What a record needs from `native_pipeline.ring_writer.RingWriter`."""

    def append(
        self,
        kind: int,
        body: bytes,
        *,
        flags: int = ...,
        venue: int = ...,
        market: int = ...,
        recv_ns: int = ...,
        utc_offset_min: int = ...,
    ) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header fields that the writer of a record chooses; `seq` is known once it is in a ring."""

    flags: int = 0
    venue: int = 1
    market: int = 1
    recv_ns: int = 1_763_596_801_123_456_789
    utc_offset_min: int = 540
    seq: int = 0


@dataclass(frozen=True, kw_only=True)
class Trade(Header):
    """sise_trade."""

    symbol: bytes = b"005930"
    exchange_ns: int = 1_763_596_801_000_000_000
    price: Decimal64 = (71200, 0)
    volume: Decimal64 = (10, 0)
    cum_volume: Decimal64 = (ABSENT, 0)
    ask: Decimal64 = (ABSENT, 0)
    bid: Decimal64 = (ABSENT, 0)
    change_rate: Decimal64 = (ABSENT, 0)
    side: int = 0

    kind = TRADE

    def body(self) -> bytes:
        """Everything behind the header."""
        numbers = (self.price, self.volume, self.cum_volume, self.ask, self.bid, self.change_rate)
        return struct.pack(
            "<24sq6q6BBx", self.symbol, self.exchange_ns, *(m for m, _ in numbers), *(s for _, s in numbers), self.side
        )


Level = tuple[Decimal64, Decimal64]  # price, size
NO_LEVEL: Level = ((0, 0), (0, 0))


@dataclass(frozen=True, kw_only=True)
class Book(Header):
    """sise_book; fewer than ten levels are padded with absent ones."""

    symbol: bytes = b"005930"
    exchange_ns: int = 1_763_596_801_000_000_000
    asks: Sequence[Level] = field(default=())
    bids: Sequence[Level] = field(default=())

    kind = BOOK

    def body(self) -> bytes:
        """Everything behind the header."""
        asks, bids = self.ten(self.asks), self.ten(self.bids)
        columns = [[level[part] for level in side] for side in (asks, bids) for part in (0, 1)]
        return struct.pack(
            "<24sq40q40B",
            self.symbol,
            self.exchange_ns,
            *(mantissa for column in columns for mantissa, _ in column),
            *(scale for column in columns for _, scale in column),
        )

    @staticmethod
    def ten(levels: Sequence[Level]) -> list[Level]:
        """Ten levels, absent ones behind."""
        return [*levels, *[NO_LEVEL] * (LEVELS - len(levels))]


@dataclass(frozen=True, kw_only=True)
class Quarantine(Header):
    """sise_quarantine and the frame behind it."""

    frame: bytes = b""
    original_bytes: int = 0
    reason: int = 0
    detail: int = 0

    kind = QUARANTINE

    def body(self) -> bytes:
        """Everything behind the header."""
        padding = -len(self.frame) % 8
        head = struct.pack("<IIHHI", len(self.frame), self.original_bytes, self.reason, self.detail, 0)
        return head + self.frame + bytes(padding)


@dataclass(frozen=True, kw_only=True)
class Gap(Header):
    """sise_gap."""

    symbol: bytes = b"005930"
    started_ns: int = 0
    ended_ns: int = 0
    missing: int = ABSENT
    data_kind: int = TRADE
    reason: int = 0

    kind = GAP

    def body(self) -> bytes:
        """Everything behind the header."""
        return struct.pack(
            "<24sqqqBB6x", self.symbol, self.started_ns, self.ended_ns, self.missing, self.data_kind, self.reason
        )


@dataclass(frozen=True, kw_only=True)
class Ledger(Header):
    """sise_ledger."""

    symbol: bytes = b"005930"
    minute_ns: int = 0
    through_seq: int = 0
    count: int = 0
    data_kind: int = TRADE

    kind = LEDGER

    def body(self) -> bytes:
        """Everything behind the header."""
        return struct.pack("<24sqQIB3x", self.symbol, self.minute_ns, self.through_seq, self.count, self.data_kind)


@dataclass(frozen=True, kw_only=True)
class Event(Header):
    """sise_event and the venue's text behind it."""

    symbol: bytes = b"005930"
    exchange_ns: int = 1_763_596_801_000_000_000
    price: Decimal64 = (ABSENT, 0)
    volume: Decimal64 = (ABSENT, 0)
    cum_volume: Decimal64 = (ABSENT, 0)
    change_rate: Decimal64 = (ABSENT, 0)
    type: int = EXPECTED
    text: bytes = b""
    text_is_cut: bool = False

    kind = EVENT

    def body(self) -> bytes:
        """Everything behind the header."""
        numbers = (self.price, self.volume, self.cum_volume, self.change_rate)
        head = struct.pack(
            "<24s5q6BH", self.symbol, self.exchange_ns, *(m for m, _ in numbers), *(s for _, s in numbers), self.type,
            self.text_is_cut, len(self.text),
        )  # fmt: skip
        return head + self.text + bytes(-len(self.text) % 8)


Record = Trade | Book | Quarantine | Gap | Ledger | Event


def append(ring: Appender, record: Record) -> int:
    """Append *record*, not published yet; return its seq."""
    return ring.append(
        record.kind,
        record.body(),
        flags=record.flags,
        venue=record.venue,
        market=record.market,
        recv_ns=record.recv_ns,
        utc_offset_min=record.utc_offset_min,
    )
