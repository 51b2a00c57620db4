# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""A record of market data as the JSON message that subscribers receive; numbers are the exact decimals of the venue.

Part of step 5: `redis_encoder` wraps it into commands. `tests/reference/redis_messages.py` says the same slowly.
"""

import json

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from native_pipeline.record cimport (
    SISE_ABSENT,
    SISE_FLAG_LATE,
    SISE_LEVELS,
    SISE_SIDE_BUY,
    SISE_SIDE_SELL,
    SISE_SYMBOL_BYTES,
    sise_book,
    sise_event,
    sise_record_header,
    sise_trade,
)
from native_pipeline.text_buffer cimport put_piece, set_piece
from native_pipeline.value_text cimport (
    date_of,
    floor_divide,
    put_decimal,
    put_digits,
    put_json_string,
    put_literal,
    put_optional,
    put_signed,
    put_unsigned,
)
from native_pipeline.venue_text cimport JSON_GROWTH, put_json_text

from native_pipeline.records import EVENT_NAMES, exchange_name


cdef extern from "<string.h>" nogil:
    size_t strnlen(const char* text, size_t limit)


cdef enum:
    # A number has a sign, "0.", up to 255 zeros and 20 digits. A book has 40 numbers and less than 4 KiB of the rest.
    # What lies behind the struct is not in it.
    MESSAGE_ROOM_BYTES = 1 << 14
    MAX_NAME_BYTES = 60

cdef int64_t SECOND_NS = 1_000_000_000
cdef int64_t NO_SECOND = -(1 << 62)


cdef tuple all_names(names):
    """A name for every id: those beyond *names*, of a newer worker, are `unknown`."""
    names = tuple(names)
    if len(names) > IDS or any(len(name.encode()) > MAX_NAME_BYTES for name in names):
        raise ValueError(f"expected at most {IDS} names of at most {MAX_NAME_BYTES} bytes, found {names!r}")
    return names + ("unknown",) * (IDS - len(names))


cdef bytes marks_of(int flags):
    """The keys of a message that are only there if the flags of its record say so."""
    marks = {"exchange": exchange_name(flags), "late": True if flags & SISE_FLAG_LATE else None}
    return "".join(f',"{key}":{json.dumps(value)}' for key, value in marks.items() if value is not None).encode()


cdef class JsonMessages:
    """Writes messages; the names of venues and markets are prepared once."""

    def __cinit__(self, *, venues, markets):
        cdef int number
        venue_names = all_names(venues)
        market_names = all_names(markets)
        for number in range(IDS):
            set_piece(&self.venues[number], json.dumps(venue_names[number]).encode())
            set_piece(&self.markets[number], json.dumps(market_names[number]).encode())
            set_piece(&self.event_types[number], EVENT_NAMES.get(number, "unknown").encode())
            set_piece(&self.marks[number], marks_of(number))
        self.second = NO_SECOND

    cdef size_t message_room(self, const sise_record_header* record) noexcept nogil:
        return MESSAGE_ROOM_BYTES + JSON_GROWTH * <size_t>record.length

    cdef char* put(self, char* at, const sise_record_header* record, int channel, int32_t ring,
                   uint64_t prev_seq) noexcept nogil:
        if channel == CHANNEL_TICKER:
            at = self.put_ticker(at, <const sise_trade*>record)
        elif channel == CHANNEL_ORDERBOOK:
            at = self.put_orderbook(at, <const sise_book*>record)
        else:
            at = self.put_event(at, <const sise_event*>record)
        return self.put_tail(at, record, ring, prev_seq)

    cdef char* put_time(self, char* at, int64_t unix_ns, int offset_min) noexcept nogil:
        """Write the exchange's local time, ISO 8601 with its offset; microseconds only if there are any."""
        cdef int64_t second = floor_divide(unix_ns, SECOND_NS)
        cdef int64_t us = (unix_ns - second * SECOND_NS) // 1000
        cdef int64_t local, day, of_day
        cdef int year, month, day_of_month, offset
        cdef char* text
        if second != self.second or offset_min != self.offset_min:
            local = second + 60 * offset_min
            day = floor_divide(local, 86400)
            of_day = local - day * 86400
            date_of(day, &year, &month, &day_of_month)
            text = self.second_text
            memcpy(text, b"0000-00-00T00:00:00", 19)
            put_digits(text, year, 4)
            put_digits(text + 5, month, 2)
            put_digits(text + 8, day_of_month, 2)
            put_digits(text + 11, of_day // 3600, 2)
            put_digits(text + 14, of_day // 60 % 60, 2)
            put_digits(text + 17, of_day % 60, 2)
            offset = offset_min if offset_min >= 0 else -offset_min
            memcpy(self.offset_text, b"+00:00", 6)
            if offset_min < 0:
                self.offset_text[0] = 45  # -
            put_digits(self.offset_text + 1, offset // 60, 2)
            put_digits(self.offset_text + 4, offset % 60, 2)
            self.second = second
            self.offset_min = offset_min
        memcpy(at, self.second_text, 19)
        at += 19
        if us:
            at[0] = 46  # .
            put_digits(at + 1, us, 6)
            at += 7
        memcpy(at, self.offset_text, 6)
        return at + 6

    cdef char* put_head(self, char* at, const sise_record_header* record, const char* symbol,
                        int64_t exchange_ns) noexcept nogil:
        """What all messages begin with, behind their type."""
        at = put_literal(at, b'","timestamp":"')
        at = self.put_time(at, exchange_ns, record.utc_offset_min)
        at = put_literal(at, b'","symbol":')
        return put_json_string(at, symbol, strnlen(symbol, SISE_SYMBOL_BYTES))

    cdef char* put_tail(self, char* at, const sise_record_header* record, int32_t ring,
                        uint64_t prev_seq) noexcept nogil:
        """What all messages end with: what the flags say, enough to find the row in the database, and what came before.

        prev_seq: of the message before it on this channel from this ring; a subscriber who had another one last has
        missed something.
        """
        if self.marks[record.flags].size:
            at = put_piece(at, &self.marks[record.flags])
        at = put_literal(at, b',"market":')
        at = put_piece(at, &self.markets[record.market])
        at = put_literal(at, b',"venue":')
        at = put_piece(at, &self.venues[record.venue])
        at = put_literal(at, b',"recv_ns":')
        at = put_signed(at, record.recv_ns)
        at = put_literal(at, b',"source":')
        at = put_signed(at, ring)
        at = put_literal(at, b',"seq":')
        at = put_unsigned(at, record.seq)
        at = put_literal(at, b',"prev_seq":')
        at = put_unsigned(at, prev_seq)
        return put_literal(at, b"}")

    cdef char* put_ticker(self, char* at, const sise_trade* trade) noexcept nogil:
        at = self.put_head(put_literal(at, b'{"type":"ticker'), &trade.header, trade.symbol, trade.exchange_ns)
        at = put_literal(at, b',"price":')
        at = put_decimal(at, trade.price, trade.price_scale)
        at = put_literal(at, b',"change":')
        if trade.change_rate == SISE_ABSENT:
            at = put_literal(at, b"0")  # consumers demand a number
        else:
            at = put_decimal(at, trade.change_rate, trade.change_rate_scale)
        at = put_literal(at, b',"volume":')
        at = put_decimal(at, trade.volume, trade.volume_scale)
        at = put_literal(at, b',"side":')
        if trade.side == SISE_SIDE_BUY:
            at = put_literal(at, b'"buy"')
        elif trade.side == SISE_SIDE_SELL:
            at = put_literal(at, b'"sell"')
        else:
            at = put_literal(at, b"null")
        at = put_literal(at, b',"cum_volume":')
        at = put_optional(at, trade.cum_volume, trade.cum_volume_scale)
        at = put_literal(at, b',"ask":')
        at = put_optional(at, trade.ask, trade.ask_scale)
        at = put_literal(at, b',"bid":')
        return put_optional(at, trade.bid, trade.bid_scale)

    cdef char* put_orderbook(self, char* at, const sise_book* book) noexcept nogil:
        at = self.put_head(put_literal(at, b'{"type":"orderbook'), &book.header, book.symbol, book.exchange_ns)
        at = put_literal(at, b',"asks":')
        at = put_levels(at, book.ask_price, book.ask_price_scale, book.ask_size, book.ask_size_scale)
        at = put_literal(at, b',"bids":')
        return put_levels(at, book.bid_price, book.bid_price_scale, book.bid_size, book.bid_size_scale)

    cdef char* put_event(self, char* at, const sise_event* event) noexcept nogil:
        cdef size_t kept = event.header.length - sizeof(sise_event)
        if event.text_bytes < kept:
            kept = event.text_bytes
        at = put_literal(at, b'{"type":"')
        at = put_piece(at, &self.event_types[event.type])
        at = self.put_head(at, &event.header, event.symbol, event.exchange_ns)
        at = put_literal(at, b',"price":')
        at = put_optional(at, event.price, event.price_scale)
        at = put_literal(at, b',"change":')
        at = put_optional(at, event.change_rate, event.change_rate_scale)
        at = put_literal(at, b',"volume":')
        at = put_optional(at, event.volume, event.volume_scale)
        at = put_literal(at, b',"cum_volume":')
        at = put_optional(at, event.cum_volume, event.cum_volume_scale)
        at = put_literal(at, b',"detail":"')
        at = put_json_text(at, <const char*>event + sizeof(sise_event), kept)
        at = put_literal(at, b'"')
        if event.text_is_cut:
            at = put_literal(at, b',"detail_is_cut":true')
        return at


cdef char* put_levels(char* at, const int64_t* prices, const uint8_t* price_scales, const int64_t* sizes,
                      const uint8_t* size_scales) noexcept nogil:
    """Write the levels that exist, best first."""
    cdef int level
    cdef char* start = at
    for level in range(SISE_LEVELS):
        if prices[level] == 0:
            continue
        at = put_literal(at, b',{"price":')
        at = put_decimal(at, prices[level], price_scales[level])
        at = put_literal(at, b',"vol":')
        at = put_decimal(at, sizes[level], size_scales[level])
        at = put_literal(at, b"}")
    if at == start:
        return put_literal(at, b"[]")
    start[0] = 91  # [ instead of the first comma
    return put_literal(at, b"]")
