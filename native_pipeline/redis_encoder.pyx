# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Step 5 of 6 in the life of a tick: ring records become one Redis transaction, and its replies are checked.

Before: `ring`, read by `daemon/sinks/publisher.py`. After: Redis. A transaction holds a PUBLISH for each trade, order
book and event, the counters of what it publishes, and the position it reaches in each ring: all of it happens or
nothing, so a publisher that is killed in between neither repeats nor skips. Numbers are printed as the exact decimals
that the venue sent. `tests/reference/redis_messages.py` says the same slowly.
"""

import json

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset, strlen

from native_pipeline.counters cimport CountersBlock
from native_pipeline.receipt_times cimport forget_receipts, note_receipt, observe_receipts
from native_pipeline.record cimport (
    SISE_ABSENT,
    SISE_FLAG_LATE,
    SISE_HISTOGRAMS,
    SISE_LEVELS,
    SISE_SIDE_BUY,
    SISE_SIDE_SELL,
    SISE_SYMBOL_BYTES,
    sise_book,
    sise_event,
    sise_record_header,
    sise_trade,
)
from native_pipeline.ring cimport RingReader
from native_pipeline.venue_text cimport JSON_GROWTH, put_json_text

from native_pipeline.records import EVENT_NAMES, MARKET_DATA, exchange_name


cdef extern from "<string.h>" nogil:
    size_t strnlen(const char* text, size_t limit)

cdef extern from * nogil:
    int __builtin_clzll(unsigned long long value)


cdef enum:
    # A number has a sign, "0.", up to 255 zeros and 20 digits. A book has 40 numbers and less than 4 KiB of the rest.
    # What lies behind the struct is not in it.
    MESSAGE_ROOM_BYTES = 1 << 14
    COMMAND_ROOM_BYTES = 512      # one INCRBY, HINCRBY or EXPIRE
    FETCH_BYTES = 1 << 20
    FIRST_BUFFER_BYTES = 1 << 20  # about 3,000 trades
    FULL_BYTES = 1 << 26          # 200,000 trades: a batch of the longest texts must not take all memory
    FIRST_COUNTS = 1024
    MAX_NAME_BYTES = 60

# The keys of Redis that belong to the publisher.
CURSOR_KEY = "published:cursor"       # hash: ring-{n} -> {epoch}:{seq} of the last published record
COUNT_KEY = "published:count:"        # + channel: messages ever published
MINUTE_KEY = "published:minute:"      # + minute since 1970: hash market|symbol|kind -> messages of that minute
CHANNEL_PREFIXES = tuple(data.channel for data in MARKET_DATA)  # + market; in the order of enum Channel
assert CHANNEL_PREFIXES == ("ticker.", "orderbook.", "event.")

_MULTI = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"

cdef uint64_t[20] POWERS_OF_TEN
cdef char[200] DIGIT_PAIRS
cdef int _number
POWERS_OF_TEN[0] = 1
for _number in range(1, 20):
    POWERS_OF_TEN[_number] = 10 * POWERS_OF_TEN[_number - 1]
for _number in range(100):
    DIGIT_PAIRS[2 * _number] = 48 + _number // 10
    DIGIT_PAIRS[2 * _number + 1] = 48 + _number % 10

cdef int64_t SECOND_NS = 1_000_000_000
cdef int64_t MINUTE_NS = 60 * SECOND_NS
cdef int64_t NO_SECOND = -(1 << 62)


# ---- text -------------------------------------------------------------------------------------------------

cdef inline char* put_literal(char* at, const char* text) noexcept nogil:
    cdef size_t size = strlen(text)  # of a literal: known to the compiler
    memcpy(at, text, size)
    return at + size


cdef inline char* put_piece(char* at, const text_piece* piece) noexcept nogil:
    memcpy(at, piece.text, piece.size)
    return at + piece.size


cdef inline int count_digits(uint64_t value) noexcept nogil:
    cdef int digits = (64 - __builtin_clzll(value | 1)) * 1233 >> 12  # log10(2) = 1233 / 4096
    return digits + 1 if digits < 20 and value >= POWERS_OF_TEN[digits] else max(digits, 1)


cdef inline void put_digits(char* at, uint64_t value, int digits) noexcept nogil:
    """Write exactly *digits* digits, zeros in front."""
    cdef int pair
    while digits >= 2:
        pair = <int>(value % 100)
        value //= 100
        digits -= 2
        memcpy(at + digits, &DIGIT_PAIRS[2 * pair], 2)
    if digits:
        at[0] = <char>(48 + value % 10)


cdef inline char* put_unsigned(char* at, uint64_t value) noexcept nogil:
    cdef int digits = count_digits(value)
    put_digits(at, value, digits)
    return at + digits


cdef inline char* put_signed(char* at, int64_t value) noexcept nogil:
    if value < 0:
        at[0] = 45  # -
        return put_unsigned(at + 1, 0 - <uint64_t>value)
    return put_unsigned(at, <uint64_t>value)


cdef char* put_decimal(char* at, int64_t mantissa, uint8_t scale) noexcept nogil:
    """Write mantissa / 10^scale exactly, with *scale* digits behind the point and without an exponent."""
    cdef uint64_t magnitude = <uint64_t>mantissa
    cdef int digits
    if mantissa < 0:
        at[0] = 45  # -
        at += 1
        magnitude = 0 - magnitude
    if scale == 0:
        return put_unsigned(at, magnitude)
    digits = count_digits(magnitude)
    if digits > scale:
        put_digits(at + 1, magnitude, digits)
        memmove(at, at + 1, digits - scale)
        at[digits - scale] = 46  # .
        return at + digits + 1
    at = put_literal(at, b"0.")
    memset(at, 48, scale - digits)
    at += scale - digits
    put_digits(at, magnitude, digits)
    return at + digits


cdef inline char* put_optional(char* at, int64_t mantissa, uint8_t scale) noexcept nogil:
    return put_literal(at, b"null") if mantissa == SISE_ABSENT else put_decimal(at, mantissa, scale)


cdef inline char* put_json_string(char* at, const char* text, size_t size) noexcept nogil:
    """Write *text* in quotes. Bytes outside printable ASCII, which a symbol never has, become \\u00XX."""
    cdef size_t i
    cdef uint8_t byte
    at[0] = 34  # "
    at += 1
    for i in range(size):
        byte = <uint8_t>text[i]
        if byte < 32 or byte > 126:
            at = put_literal(at, b"\\u00")
            at[0] = b"0123456789abcdef"[byte >> 4]
            at[1] = b"0123456789abcdef"[byte & 15]
            at += 2
            continue
        if byte == 34 or byte == 92:
            at[0] = 92  # \
            at += 1
        at[0] = <char>byte
        at += 1
    at[0] = 34
    return at + 1


cdef char* put_bulk(char* at, const char* text, size_t size) noexcept nogil:
    """A RESP bulk string."""
    at[0] = 36  # $
    at = put_unsigned(at + 1, size)
    at = put_literal(at, b"\r\n")
    memcpy(at, text, size)
    return put_literal(at + size, b"\r\n")


cdef char* put_bulk_number(char* at, int64_t value) noexcept nogil:
    cdef char text[24]
    return put_bulk(at, text, put_signed(text, value) - text)


cdef void date_of(int64_t day, int* year, int* month, int* day_of_month) noexcept nogil:
    """Day since 1970 to the proleptic Gregorian calendar: era of 400 years from 0000-03-01 (Hinnant)."""
    cdef int64_t shifted = day + 719468
    cdef int64_t era = (shifted if shifted >= 0 else shifted - 146096) // 146097
    cdef int64_t of_era = shifted - era * 146097
    cdef int64_t year_of_era = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    cdef int64_t of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    cdef int64_t from_march = (5 * of_year + 2) // 153
    day_of_month[0] = <int>(of_year - (153 * from_march + 2) // 5 + 1)
    month[0] = <int>(from_march + 3 if from_march < 10 else from_march - 9)
    year[0] = <int>(year_of_era + era * 400 + (1 if month[0] <= 2 else 0))


cdef inline int64_t floor_divide(int64_t value, int64_t divisor) noexcept nogil:
    cdef int64_t quotient = value // divisor  # C division: towards zero
    return quotient - 1 if value % divisor < 0 else quotient


# ---- buffers ----------------------------------------------------------------------------------------------

cdef char* room_for(text_buffer* buffer, size_t size) noexcept nogil:
    """Return where to write *size* more bytes, or NULL if there is no memory."""
    cdef size_t capacity = buffer.capacity if buffer.capacity else FIRST_BUFFER_BYTES
    cdef char* data
    if buffer.data == NULL or buffer.size + size > buffer.capacity:
        while capacity < buffer.size + size:
            capacity *= 2
        data = <char*>realloc(buffer.data, capacity)
        if data == NULL:
            return NULL
        buffer.data = data
        buffer.capacity = capacity
    return buffer.data + buffer.size


cdef int add_bytes(text_buffer* buffer, bytes text) except -1:
    cdef char* at = room_for(buffer, len(text))
    if at == NULL:
        raise MemoryError
    memcpy(at, <const char*>text, len(text))
    buffer.size += len(text)
    return 0


cdef int set_piece(text_piece* piece, bytes text) except -1:
    if len(text) > PIECE_BYTES:
        raise ValueError(f"at most {PIECE_BYTES} bytes, found {len(text)} in {text!r}")
    memcpy(piece.text, <const char*>text, len(text))
    piece.size = len(text)
    return 0


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


def pack_command(*words) -> bytes:
    """Return one command as RESP; each word is a str, an int or bytes."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


cdef class PublishBatch:
    """Messages of records from any number of rings, waiting to be published together.

    The buffer grows as needed and is kept by clear(), so its size is bounded by the largest batch. One batch belongs
    to one thread.
    """

    def __cinit__(self, *, venues, markets, int64_t minute_counts_kept_s):
        cdef int number
        self.minute_counts_kept_s = minute_counts_kept_s
        self.market_names = all_names(markets)
        self.market_texts = [name.encode() for name in self.market_names]
        venue_names = all_names(venues)
        for number in range(IDS):
            set_piece(&self.venues[number], json.dumps(venue_names[number]).encode())
            set_piece(&self.markets[number], json.dumps(self.market_names[number]).encode())
            set_piece(&self.event_types[number], EVENT_NAMES.get(number, "unknown").encode())
            set_piece(&self.marks[number], marks_of(number))
            self.channel_of[number] = -1
            for channel, prefix in enumerate(CHANNEL_PREFIXES):
                name = (prefix + self.market_names[number]).encode()
                text = b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$" % (len(name), name)
                set_piece(&self.publish[<int>channel][number], text)
        for channel, data in enumerate(MARKET_DATA):
            self.channel_of[<int>data.kind] = channel
            set_piece(&self.kinds[<int>channel], f"|{data.name}".encode())
        self.second = NO_SECOND
        if self.grow_counts() < 0:
            raise MemoryError
        self.clear()

    def __dealloc__(self):
        free(self.buffer.data)
        free(self.counts)
        free(self.slots)
        free(self.received.recv_ns)

    def append_from(self, RingReader reader not None, int64_t max_records) -> int:
        """Encode the next records of *reader*, at most *max_records*; return how many it took, 0 if it has none.

        Fewer, or none, also if the messages have reached 64 MiB: publish the batch and clear it.
        reader: left uncommitted. Records that are no market data are taken without a message.
        Raises BufferError while a payload is being read, MemoryError if a buffer cannot grow: then the reader is ahead
        of the batch, which must not be published.
        """
        cdef int64_t taken
        cdef int i
        if self.exports:
            raise BufferError("the payload of this batch is still being read")
        for i in range(self.rings_used):
            if self.rings[i].ring == reader.header.ring:
                break
        else:
            if self.rings_used == RINGS:
                raise ValueError(f"at most {RINGS} rings in one batch")
        self.buffer.size = self.messages_end  # drop what an earlier payload() added
        with nogil:
            taken = self.take(reader, max_records)
        if taken < 0:
            raise MemoryError("no memory for another message")
        self.messages_end = self.buffer.size
        return taken

    cdef int64_t take(self, RingReader reader, int64_t max_records) noexcept nogil:
        cdef const sise_record_header* record
        cdef ring_progress* progress = NULL
        cdef int32_t ring = reader.header.ring
        cdef int64_t taken = 0
        cdef int i
        for i in range(self.rings_used):
            if self.rings[i].ring == ring:
                progress = &self.rings[i]
        while taken < max_records and self.buffer.size < FULL_BYTES:
            record = reader.next()
            if record == NULL:
                if reader.fetch(FETCH_BYTES) == 0:
                    break
                continue
            if progress == NULL:
                progress = &self.rings[self.rings_used]
                self.rings_used += 1
                progress.ring = ring
                progress.epoch = reader.header.epoch
                progress.first_seq = record.seq
            progress.last_seq = record.seq
            taken += 1
            if self.channel_of[record.kind] >= 0 and self.append(record, ring) < 0:
                return -1
        self.records += taken
        return taken

    cdef int append(self, const sise_record_header* record, int32_t ring) noexcept nogil:
        """Append the PUBLISH of one record of market data; 0, or -1 if there is no memory."""
        cdef char* at = room_for(&self.buffer, MESSAGE_ROOM_BYTES + JSON_GROWTH * <size_t>record.length)
        cdef char* length_at
        cdef char* message
        cdef int channel = self.channel_of[record.kind]
        cdef int digits
        if at == NULL:
            return -1
        length_at = put_piece(at, &self.publish[channel][record.market])
        message = length_at + 5  # room for a length of three digits and the line end: moved if it has others
        if channel == CHANNEL_TICKER:
            at = self.put_ticker(message, <const sise_trade*>record, ring)
        elif channel == CHANNEL_ORDERBOOK:
            at = self.put_orderbook(message, <const sise_book*>record, ring)
        else:
            at = self.put_event(message, <const sise_event*>record, ring)
        digits = count_digits(at - message)
        if digits != 3:
            memmove(message + digits - 3, message, at - message)
        put_literal(put_unsigned(length_at, at - message), b"\r\n")
        at = put_literal(at + digits - 3, b"\r\n")
        self.buffer.size = at - self.buffer.data
        self.messages += 1
        self.channel_counts[channel][record.market] += 1
        # all market data begin alike
        if self.count_message(record, (<const sise_trade*>record).symbol, channel) < 0:
            return -1
        return note_receipt(&self.received, record.recv_ns)

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

    cdef char* put_tail(self, char* at, const sise_record_header* record, int32_t ring) noexcept nogil:
        """What all messages end with: what the flags say, and enough to find the row in the database."""
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
        return put_literal(at, b"}")

    cdef char* put_ticker(self, char* at, const sise_trade* trade, int32_t ring) noexcept nogil:
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
        at = put_optional(at, trade.bid, trade.bid_scale)
        return self.put_tail(at, &trade.header, ring)

    cdef char* put_orderbook(self, char* at, const sise_book* book, int32_t ring) noexcept nogil:
        at = self.put_head(put_literal(at, b'{"type":"orderbook'), &book.header, book.symbol, book.exchange_ns)
        at = put_literal(at, b',"asks":')
        at = put_levels(at, book.ask_price, book.ask_price_scale, book.ask_size, book.ask_size_scale)
        at = put_literal(at, b',"bids":')
        at = put_levels(at, book.bid_price, book.bid_price_scale, book.bid_size, book.bid_size_scale)
        return self.put_tail(at, &book.header, ring)

    cdef char* put_event(self, char* at, const sise_event* event, int32_t ring) noexcept nogil:
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
        return self.put_tail(at, &event.header, ring)

    # ---- counts, cursor, payload ----------------------------------------------------------------------

    cdef int count_message(self, const sise_record_header* record, const char* symbol, int channel) noexcept nogil:
        """Count one message for its minute of receipt, market, symbol and kind; 0, or -1 if there is no memory."""
        cdef int64_t minute = floor_divide(record.recv_ns, MINUTE_NS)
        cdef uint64_t words[3]
        cdef uint64_t hash_value
        cdef size_t slot
        cdef minute_count* entry
        memcpy(words, symbol, SISE_SYMBOL_BYTES)
        hash_value = <uint64_t>minute * CHANNELS + channel + (<uint64_t>record.market << 48)
        hash_value = (hash_value ^ words[0]) * <uint64_t>0x9E3779B97F4A7C15
        hash_value = (hash_value ^ hash_value >> 32 ^ words[1]) * <uint64_t>0xBF58476D1CE4E5B9
        hash_value = (hash_value ^ hash_value >> 29 ^ words[2]) * <uint64_t>0x94D049BB133111EB
        hash_value ^= hash_value >> 32
        slot = hash_value & self.slots_mask
        while self.slots[slot]:
            entry = &self.counts[self.slots[slot] - 1]
            if (entry.hash == hash_value and entry.minute == minute and entry.market == record.market
                    and entry.channel == channel and memcmp(entry.symbol, symbol, SISE_SYMBOL_BYTES) == 0):
                entry.count += 1
                return 0
            slot = (slot + 1) & self.slots_mask
        if self.counts_used == self.counts_capacity:
            if self.grow_counts() < 0:
                return -1
            slot = hash_value & self.slots_mask
            while self.slots[slot]:
                slot = (slot + 1) & self.slots_mask
        entry = &self.counts[self.counts_used]
        self.counts_used += 1
        self.slots[slot] = <uint32_t>self.counts_used
        entry.hash = hash_value
        entry.minute = minute
        memcpy(entry.symbol, symbol, SISE_SYMBOL_BYTES)
        entry.count = 1
        entry.market = record.market
        entry.channel = channel
        return 0

    cdef int grow_counts(self) noexcept nogil:
        """Twice as many entries and a table at most half full; 0, or -1 if there is no memory."""
        cdef size_t capacity = 2 * self.counts_capacity if self.counts_capacity else FIRST_COUNTS
        cdef size_t i, slot, mask = 2 * capacity - 1
        cdef minute_count* counts = <minute_count*>realloc(self.counts, capacity * sizeof(minute_count))
        if counts == NULL:
            return -1
        self.counts = counts
        cdef uint32_t* slots = <uint32_t*>calloc(2 * capacity, sizeof(uint32_t))
        if slots == NULL:
            return -1
        free(self.slots)
        for i in range(self.counts_used):
            slot = counts[i].hash & mask
            while slots[slot]:
                slot = (slot + 1) & mask
            slots[slot] = <uint32_t>(i + 1)
        self.slots = slots
        self.slots_mask = mask
        self.counts_capacity = capacity
        return 0

    cdef int add_counts(self) except -1:
        """Add an INCRBY for each channel, a HINCRBY for each minute, market, symbol and kind, an EXPIRE per minute."""
        cdef size_t i, size
        cdef char* at
        cdef char key[64]
        cdef char field[256]
        cdef char* end
        cdef minute_count* entry
        cdef bytes market_text
        cdef int64_t last_minute = NO_SECOND
        minutes = set()
        for name, count in self.channel_messages.items():
            add_bytes(&self.buffer, pack_command("INCRBY", COUNT_KEY + name, count))
            self.commands += 1
        prefix = MINUTE_KEY.encode()
        for i in range(self.counts_used):
            entry = &self.counts[i]
            if entry.minute != last_minute:
                last_minute = entry.minute
                minutes.add(last_minute)
            at = room_for(&self.buffer, COMMAND_ROOM_BYTES)
            if at == NULL:
                raise MemoryError
            end = put_signed(put_literal(key, <const char*>prefix), entry.minute)
            at = put_literal(at, b"*4\r\n$7\r\nHINCRBY\r\n")
            at = put_bulk(at, key, end - key)
            market_text = self.market_texts[entry.market]
            end = put_literal(field, <const char*>market_text)
            end = put_literal(end, b"|")
            size = strnlen(entry.symbol, SISE_SYMBOL_BYTES)
            memcpy(end, entry.symbol, size)
            end = put_piece(end + size, &self.kinds[entry.channel])
            at = put_bulk(at, field, end - field)
            at = put_bulk_number(at, entry.count)
            self.buffer.size = at - self.buffer.data
            self.commands += 1
        for minute in sorted(minutes):
            add_bytes(&self.buffer, pack_command("EXPIRE", f"{MINUTE_KEY}{minute}", self.minute_counts_kept_s))
            self.commands += 1
        return 0

    cdef int add_cursor(self) except -1:
        words = []
        cdef int i
        for i in range(self.rings_used):
            words += [f"ring-{self.rings[i].ring}", f"{self.rings[i].epoch}:{self.rings[i].last_seq}"]
        if words:
            add_bytes(&self.buffer, pack_command("HSET", CURSOR_KEY, *words))
            self.commands += 1
        return 0

    def payload(self) -> memoryview:
        """Return the whole transaction as RESP, without copying it; asking again gives the same bytes.

        Behind EXEC the cursor is watched again: the next transaction of this connection fails if anybody else has
        moved it by then. The replies are one for MULTI, one for each of `commands`, EXEC's, and one for WATCH: see
        TransactionReplies. The batch refuses to change while the memoryview is alive: release() it.
        """
        if not self.exports:
            self.buffer.size = self.messages_end
            self.commands = self.messages
            self.add_counts()
            self.add_cursor()
            add_bytes(&self.buffer, _EXEC)
            add_bytes(&self.buffer, pack_command("WATCH", CURSOR_KEY))
        return memoryview(self)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.buffer.data, self.buffer.size, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.exports -= 1

    @property
    def progress(self) -> dict:
        """For each ring in the batch: (epoch, seq of the first record, seq of the last record)."""
        return {
            self.rings[i].ring: (self.rings[i].epoch, self.rings[i].first_seq, self.rings[i].last_seq)
            for i in range(self.rings_used)
        }

    @property
    def channel_messages(self) -> dict:
        """Messages of the batch by channel."""
        cdef int channel, market
        found = {}
        for channel in range(<int>CHANNELS):
            for market in range(IDS):
                if self.channel_counts[channel][market]:
                    name = CHANNEL_PREFIXES[channel] + self.market_names[market]  # several ids may be `unknown`
                    found[name] = found.get(name, 0) + self.channel_counts[channel][market]
        return found

    def observe_ages(self, CountersBlock counters not None, int histogram, int64_t now_ns) -> None:
        """Count, in *histogram*, how old the record of every message was at *now_ns*."""
        if not 0 <= histogram < SISE_HISTOGRAMS:
            raise ValueError(f"histogram: expected 0 to {SISE_HISTOGRAMS - 1}, found {histogram}")
        with nogil:
            observe_receipts(&self.received, counters, histogram, now_ns)

    def clear(self) -> None:
        """Forget every message; the buffers keep their memory. Raises BufferError while a payload is being read."""
        if self.exports:
            raise BufferError("the payload of this batch is still being read")
        self.buffer.size = 0
        add_bytes(&self.buffer, _MULTI)
        self.messages_end = self.buffer.size
        self.messages = 0
        self.records = 0
        self.commands = 0
        self.rings_used = 0
        self.counts_used = 0
        memset(self.slots, 0, (self.slots_mask + 1) * sizeof(uint32_t))
        memset(self.channel_counts, 0, sizeof(self.channel_counts))
        forget_receipts(&self.received)


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


cdef class TransactionReplies:
    """Reads the replies to one payload: every one is a single line, so lines are counted and errors are kept.

    A general RESP parser makes a Python object for each +QUEUED, which costs more than encoding the message did.
    """

    def __cinit__(self, int64_t commands):
        self.lines_left = commands + 3  # MULTI, EXEC, WATCH
        self.first_error = b""

    @property
    def complete(self) -> bool:
        """Whether all replies were fed."""
        return self.lines_left <= 0

    def feed(self, const unsigned char[::1] data not None) -> int:
        """Take the next bytes of the connection; return how many were not needed, 0 unless the server said too much."""
        cdef const char* at = <const char*>&data[0] if data.shape[0] else NULL
        cdef const char* end = at + data.shape[0]
        cdef const char* line_end
        cdef size_t kept
        while at < end and self.lines_left > 0:
            if self.line_size == 0 and end - at >= 9 and memcmp(at, b"+QUEUED\r\n", 9) == 0:
                self.queued += 1
                self.lines_left -= 1
                at += 9
                continue
            line_end = <const char*>memchr(at, 10, end - at)  # \n
            if self.line_size == 0 and line_end != NULL:
                self.take_line(at, line_end - at)
                at = line_end + 1
                continue
            kept = min((line_end if line_end != NULL else end) - at, <ptrdiff_t>(LINE_BYTES - self.line_size))
            memcpy(self.line + self.line_size, at, kept)
            self.line_size += kept
            if line_end == NULL:
                return 0
            self.take_line(self.line, self.line_size)
            self.line_size = 0
            at = line_end + 1
        return end - at

    cdef int take_line(self, const char* text, size_t size) except -1:
        """One reply: *text* is the line without its line feed, perhaps with the carriage return."""
        if size and text[size - 1] == 13:
            size -= 1
        self.lines_left -= 1
        if size == 0:
            raise ValueError("an empty line among the replies of Redis")
        if text[0] == 58:  # : an element of EXEC's array
            return 0
        if text[0] == 43:  # +
            if size == 7 and memcmp(text, b"+QUEUED", 7) == 0:
                self.queued += 1
            return 0
        if text[0] == 45:  # -
            self.errors += 1
            if self.errors == 1:
                self.first_error = text[1:size]
            return 0
        if text[0] == 95:  # _ is RESP3's null
            self.aborted = True
            return 0
        if text[0] == 42:  # * EXEC ran; its elements follow
            elements = int(text[1:size])
            self.aborted = elements < 0
            self.executed = elements >= 0
            self.lines_left += max(elements, 0)
            return 0
        raise ValueError(f"a reply of Redis that no command of the transaction gives: {text[:size]!r}")
