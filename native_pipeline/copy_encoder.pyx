# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Step 5 of 6 in the life of a tick: ring records become PostgreSQL binary COPY streams, one for each table.

Before: `ring_reader`, read for `daemon/sinks/writer.py`. After: `COPY ... FROM STDIN (FORMAT BINARY)`. The columns and
their order are `COLUMNS`; the numbers keep the venue's value: the nearest double of the exact decimal.
`tests/reference/copy_rows.py` says the same slowly.
"""

from cython cimport final
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport INT32_MAX, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, realloc, strtod
from libc.string cimport memcpy, memset

from native_pipeline.counters cimport CountersBlock
from native_pipeline.receipt_times cimport forget_receipts, note_receipt, observe_receipts
from native_pipeline.record cimport (
    SISE_ABSENT,
    SISE_FLAG_NXT,
    SISE_FLAG_SOR,
    SISE_FLAG_TRUNCATED,
    SISE_GAP,
    SISE_HISTOGRAMS,
    SISE_LEDGER,
    SISE_LEVELS,
    SISE_QUARANTINE,
    SISE_SYMBOL_BYTES,
    sise_book,
    sise_event,
    sise_gap,
    sise_ledger,
    sise_quarantine,
    sise_record_header,
    sise_trade,
)
from native_pipeline.record_block cimport RecordBlock, block_part
from native_pipeline.ring_reader cimport RingReader
from native_pipeline.venue_text cimport TEXT_GROWTH, put_text

from native_pipeline.records import EVENT_NAMES, MARKET_DATA, SIDE_NAMES, exchange_name


cdef extern from "<endian.h>" nogil:
    uint16_t htobe16(uint16_t)
    uint32_t htobe32(uint32_t)
    uint64_t htobe64(uint64_t)


cdef extern from "<string.h>" nogil:
    size_t strnlen(const char*, size_t)


cdef enum:
    COPY_HEADER_BYTES = 19
    COPY_TRAILER_BYTES = 2
    # Upper bound of a row without what lies behind the struct: checked once per row, before it is written.
    FIXED_ROW_BYTES = 1024  # the widest, market_orderbook, has 49 fields: 2 + 44 x 12 + 28 + 3 x 64 < 800
    FETCH_BYTES = 1 << 20   # one window: small enough to stay in the second-level cache while it is encoded
    FIRST_BUFFER_BYTES = 1 << 16
    FULL_TABLE_BYTES = 1 << 27  # 800,000 trades: a batch of the longest texts must not take all memory
    NUMBER_TEXT_BYTES = 32  # sign, 19 digits, E-255

cdef int64_t UNIX_TO_POSTGRES_US = 946_684_800_000_000  # 1970-01-01 to 2000-01-01
cdef int64_t EXACT_MANTISSA = 1 << 53                   # every smaller integer is a double
cdef int EXACT_POWER = 22                               # 10^22 is the last power of ten that is a double
cdef double[23] POWERS_OF_TEN
cdef int power
for power in range(EXACT_POWER + 1):
    POWERS_OF_TEN[power] = float(10**power)

_LEVEL_NUMBERS = range(1, SISE_LEVELS + 1)

# table -> columns in the order of the stream
COLUMNS = {
    "market_ticks": (
        "time", "symbol", "price", "volume", "change", "market", "venue", "side", "ask", "bid", "cum_volume",
        "recv_time", "flags", "source", "seq", "exchange",
    ),
    "market_orderbook": (
        "time", "symbol",
        *(f"ask_{what}{level}" for level in _LEVEL_NUMBERS for what in ("price", "vol")),
        *(f"bid_{what}{level}" for level in _LEVEL_NUMBERS for what in ("price", "vol")),
        "market", "venue", "recv_time", "flags", "source", "seq", "exchange",
    ),
    "market_events": (
        "time", "symbol", "type", "price", "volume", "cum_volume", "change", "market", "venue", "exchange", "detail",
        "recv_time", "flags", "source", "seq",
    ),
    "quarantine": ("recv_time", "venue", "reason", "detail", "frame", "original_bytes", "source", "seq"),
    "feed_gaps": (
        "venue", "market", "symbol", "kind", "started", "ended", "reason", "missing", "source", "seq", "exchange",
    ),
    "ingest_ledger": (
        "minute", "market", "venue", "symbol", "kind", "received", "through_seq", "source", "seq",
    ),
}
_TABLE_IDS = {name: number for number, name in enumerate(COLUMNS)}  # in the order of CopyTable
# kind of a record -> table of its row
TABLE_OF_KIND = {data.kind: data.table for data in MARKET_DATA} | {
    SISE_QUARANTINE: "quarantine", SISE_GAP: "feed_gaps", SISE_LEDGER: "ingest_ledger",
}

_UNKNOWN = "unknown"  # an id that this build has no name for: written by a newer worker, never dropped


# ---- fields: int32 length, then the value, all big endian -------------------------------------------------

cdef inline char* put_int16(char* at, int16_t value) noexcept nogil:
    cdef uint16_t bits = htobe16(<uint16_t>value)
    memcpy(at, &bits, 2)
    return at + 2


cdef inline char* put_int32(char* at, int32_t value) noexcept nogil:
    cdef uint32_t bits = htobe32(<uint32_t>value)
    memcpy(at, &bits, 4)
    return at + 4


cdef inline char* put_int64(char* at, int64_t value) noexcept nogil:
    cdef uint64_t bits = htobe64(<uint64_t>value)
    memcpy(at, &bits, 8)
    return at + 8


cdef inline char* field_null(char* at) noexcept nogil:
    return put_int32(at, -1)


cdef inline char* field_int2(char* at, int16_t value) noexcept nogil:
    return put_int16(put_int32(at, 2), value)


cdef inline char* field_int4(char* at, int32_t value) noexcept nogil:
    return put_int32(put_int32(at, 4), value)


cdef inline char* field_int8(char* at, int64_t value) noexcept nogil:
    return put_int64(put_int32(at, 8), value)


cdef inline char* field_time(char* at, int64_t unix_ns) noexcept nogil:
    """timestamptz: microseconds since 2000-01-01 UTC, rounded down also before 1970."""
    cdef int64_t us = unix_ns // 1000  # C division: towards zero
    if unix_ns % 1000 < 0:
        us -= 1
    return field_int8(at, us - UNIX_TO_POSTGRES_US)


cdef inline char* field_symbol(char* at, const char* symbol) noexcept nogil:
    cdef size_t size = strnlen(symbol, SISE_SYMBOL_BYTES)
    memcpy(put_int32(at, <int32_t>size), symbol, SISE_SYMBOL_BYTES)  # a constant size is a few stores
    return at + 4 + size


cdef inline char* field_name(char* at, const name_field* name) noexcept nogil:
    memcpy(at, name.image, NAME_FIELD_BYTES)
    return at + name.size


cdef inline char* field_exchange(char* at, const name_field* exchanges, uint8_t flags) noexcept nogil:
    return field_name(at, &exchanges[flags]) if flags & (SISE_FLAG_NXT | SISE_FLAG_SOR) else field_null(at)


cdef double decimal_by_strtod(int64_t mantissa, uint8_t scale) noexcept nogil:
    cdef char text[NUMBER_TEXT_BYTES]
    snprintf(text, NUMBER_TEXT_BYTES, "%lldE-%u", <long long>mantissa, <unsigned int>scale)  # no point: no locale
    return strtod(text, NULL)


cdef inline double decimal_to_double(int64_t mantissa, uint8_t scale) noexcept nogil:
    """The double nearest to mantissa / 10^scale: one division of two exact doubles is rounded once, so correctly."""
    if -EXACT_MANTISSA < mantissa < EXACT_MANTISSA and scale <= EXACT_POWER:
        return <double>mantissa / POWERS_OF_TEN[scale]
    return decimal_by_strtod(mantissa, scale)


cdef inline char* field_decimal(char* at, int64_t mantissa, uint8_t scale) noexcept nogil:
    cdef double value = decimal_to_double(mantissa, scale)
    cdef int64_t bits
    memcpy(&bits, &value, 8)
    return field_int8(at, bits)


cdef inline char* field_optional(char* at, int64_t mantissa, uint8_t scale) noexcept nogil:
    return field_null(at) if mantissa == SISE_ABSENT else field_decimal(at, mantissa, scale)


cdef inline char* field_level(char* at, int64_t price, uint8_t price_scale, int64_t size,
                              uint8_t size_scale) noexcept nogil:
    """Price and size of one level of the book; a price of 0 is a level that does not exist."""
    at = field_null(at) if price == 0 else field_decimal(at, price, price_scale)
    return field_null(at) if price == 0 and size == 0 else field_decimal(at, size, size_scale)


# ---- buffers ----------------------------------------------------------------------------------------------

cdef char* room_for(row_buffer* buffer, size_t size) noexcept nogil:
    """Return where to write *size* more bytes, or NULL if there is no memory; the trailer always fits behind them."""
    cdef size_t needed = buffer.size + size + COPY_TRAILER_BYTES
    cdef size_t capacity = buffer.capacity
    cdef char* data
    if needed > capacity:
        if capacity == 0:
            capacity = FIRST_BUFFER_BYTES
        while capacity < needed:
            capacity *= 2
        data = <char*>realloc(buffer.data, capacity)
        if data == NULL:
            return NULL
        buffer.data = data
        buffer.capacity = capacity
    return buffer.data + buffer.size


cdef int start_stream(row_buffer* buffer) except -1:
    """Drop the rows, keep the memory, write the header of a COPY stream: signature, flags, extension length."""
    buffer.size = 0
    buffer.rows = 0
    cdef char* at = room_for(buffer, COPY_HEADER_BYTES)
    if at == NULL:
        raise MemoryError
    memcpy(at, b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0", COPY_HEADER_BYTES)
    buffer.size = COPY_HEADER_BYTES
    return 0


cdef int fill_names(name_field* fields, names) except -1:
    """Prepare the text field of every id: NULL for None; ids beyond *names* get `unknown`."""
    names = list(names)
    if len(names) > NAMES:
        raise ValueError(f"at most {NAMES} names, found {len(names)}")
    cdef int number
    cdef char* at
    for number in range(NAMES):
        memset(fields[number].image, 0, NAME_FIELD_BYTES)
        if number < len(names) and names[number] is None:
            put_int32(fields[number].image, -1)
            fields[number].size = 4
            continue
        text = (names[number] if number < len(names) else _UNKNOWN).encode()
        if len(text) > NAME_FIELD_BYTES - 4:
            raise ValueError(f"at most {NAME_FIELD_BYTES - 4} bytes, found {len(text)} in {names[number]!r}")
        at = put_int32(fields[number].image, <int32_t>len(text))
        memcpy(at, <const char*>text, len(text))
        fields[number].size = 4 + len(text)
    return 0


cdef list by_number(dict names, rest):
    """The names of all ids, *rest* for those that have none."""
    return [names.get(number, rest) for number in range(NAMES)]


@final
cdef class CopyBlock:
    """The bytes of one table's COPY stream; the batch neither moves nor changes them while a memoryview is alive."""
    cdef CopyBatch batch
    cdef int table

    def __getbuffer__(self, Py_buffer* view, int flags):
        cdef row_buffer* buffer = &self.batch.tables[self.table]
        PyBuffer_FillInfo(view, self, buffer.data, buffer.size + COPY_TRAILER_BYTES, 1, flags)
        self.batch.exports += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.batch.exports -= 1


cdef class CopyBatch:
    """Rows of records from any number of rings, waiting to be committed together.

    The buffers grow as needed and are kept by clear(), so their size is bounded by the largest batch.
    """

    def __cinit__(self, *, venues, markets, quarantine_reasons, gap_reasons):
        cdef int table
        for table in range(<int>TABLES):
            start_stream(&self.tables[table])
        fill_names(self.venues, venues)
        fill_names(self.markets, markets)
        fill_names(self.quarantine_reasons, quarantine_reasons)
        fill_names(self.gap_reasons, gap_reasons)
        fill_names(self.kinds, by_number({data.kind: data.name for data in MARKET_DATA}, _UNKNOWN))
        fill_names(self.event_types, by_number(EVENT_NAMES, _UNKNOWN))
        fill_names(self.sides, by_number(SIDE_NAMES, None))  # neither buy nor sell: NULL
        fill_names(self.exchanges, map(exchange_name, range(NAMES)))
        for number in range(NAMES):
            self.table_of[<int>number] = _TABLE_IDS[TABLE_OF_KIND[number]] if number in TABLE_OF_KIND else NO_TABLE

    def __dealloc__(self):
        cdef int table
        for table in range(<int>TABLES):
            free(self.tables[table].data)
        free(self.received.recv_ns)

    def append_from(self, RingReader reader not None, int64_t max_records) -> int:
        """Encode the next records of *reader*, at most *max_records*; return how many, 0 if it has none.

        Fewer, or none, also if the rows of a table have reached 128 MiB: store the batch and clear it.
        reader: left uncommitted; its ring number becomes `source`.
        Raises BufferError while a block is being read, MemoryError if a buffer cannot grow: then the reader is ahead
        of the batch, which must not be committed.
        """
        cdef int64_t taken
        if self.exports:
            raise BufferError("a block of this batch is still being read")
        with nogil:
            taken = self.take(reader, max_records)
        if taken < 0:
            raise MemoryError("no memory for another row")
        return taken

    cdef int64_t take(self, RingReader reader, int64_t max_records) noexcept nogil:
        cdef const sise_record_header* record
        cdef int16_t source = <int16_t>reader.header.ring
        cdef int64_t taken = 0
        cdef int table
        cdef bint is_full = False
        for table in range(<int>TABLES):
            is_full |= self.tables[table].size >= FULL_TABLE_BYTES
        while taken < max_records and not is_full:
            record = reader.next()
            if record == NULL:
                if reader.fetch(FETCH_BYTES) == 0:
                    break
                continue
            table = self.append(record, source)
            if table == NO_MEMORY:
                return -1
            is_full = table >= 0 and self.tables[table].size >= FULL_TABLE_BYTES
            taken += 1
        self.records += taken
        return taken

    def append_block(self, RecordBlock block not None, int64_t begin=0, end=None) -> int:
        """Encode records [begin, end) of *block* as append_from would have; return how many. end None: all the rest.

        All of them, however large a table becomes: the block's owner has bounded it. Raises IndexError for records that
        the block does not have, BufferError while a block of this batch is being read, MemoryError if a buffer cannot
        grow: then clear() the batch.
        """
        cdef int64_t stop = block.count if end is None else end, taken
        if not 0 <= begin <= stop <= block.count:
            raise IndexError(f"records: expected a part of 0 to {block.count}, found {begin} to {stop}")
        if self.exports:
            raise BufferError("a block of this batch is still being read")
        with nogil:
            taken = self.take_block(block, begin, stop)
        if taken < 0:
            raise MemoryError("no memory for another row")
        return taken

    cdef int64_t take_block(self, RecordBlock block, int64_t begin, int64_t end) noexcept nogil:
        cdef int64_t i
        cdef int number
        cdef block_part* part
        for number in range(block.part_count):
            part = &block.part_list[number]
            for i in range(max(begin, part.first_record), min(end, part.first_record + part.records)):
                if self.append(block.at(i), part.ring) == NO_MEMORY:
                    return -1
        self.records += end - begin
        return end - begin

    cdef int append(self, const sise_record_header* record, int16_t source) noexcept nogil:
        """Append one record to the stream of its table, and return that; NO_TABLE: of an unknown kind, or NO_MEMORY."""
        cdef row_buffer* buffer
        cdef char* at
        cdef int table = self.table_of[record.kind]
        if table < 0:
            return NO_TABLE
        buffer = &self.tables[table]
        at = room_for(buffer, FIXED_ROW_BYTES + TEXT_GROWTH * <size_t>record.length)
        if at == NULL:
            return NO_MEMORY
        if table == TABLE_TICKS:
            at = self.put_trade(at, <const sise_trade*>record, source)
        elif table == TABLE_BOOKS:
            at = self.put_book(at, <const sise_book*>record, source)
        elif table == TABLE_EVENTS:
            at = self.put_event(at, <const sise_event*>record, source)
        elif table == TABLE_QUARANTINE:
            at = self.put_quarantine(at, <const sise_quarantine*>record, source)
        elif table == TABLE_GAPS:
            at = self.put_gap(at, <const sise_gap*>record, source)
        else:
            at = self.put_ledger(at, <const sise_ledger*>record, source)
        buffer.size = at - buffer.data
        buffer.rows += 1
        # gap and ledger records are the worker's own, not received
        if table <= TABLE_QUARANTINE and note_receipt(&self.received, record.recv_ns) < 0:
            return NO_MEMORY
        return table

    cdef char* put_trade(self, char* at, const sise_trade* trade, int16_t source) noexcept nogil:
        at = put_int16(at, 16)
        at = field_time(at, trade.exchange_ns)
        at = field_symbol(at, trade.symbol)
        at = field_decimal(at, trade.price, trade.price_scale)
        at = field_decimal(at, trade.volume, trade.volume_scale)
        at = field_optional(at, trade.change_rate, trade.change_rate_scale)
        at = field_name(at, &self.markets[trade.header.market])
        at = field_name(at, &self.venues[trade.header.venue])
        at = field_name(at, &self.sides[trade.side])
        at = field_optional(at, trade.ask, trade.ask_scale)
        at = field_optional(at, trade.bid, trade.bid_scale)
        at = field_optional(at, trade.cum_volume, trade.cum_volume_scale)
        at = field_time(at, trade.header.recv_ns)
        at = field_int2(at, trade.header.flags)
        at = field_int2(at, source)
        at = field_int8(at, <int64_t>trade.header.seq)
        return field_exchange(at, self.exchanges, trade.header.flags)

    cdef char* put_book(self, char* at, const sise_book* book, int16_t source) noexcept nogil:
        cdef int level
        at = put_int16(at, 2 + 4 * SISE_LEVELS + 7)
        at = field_time(at, book.exchange_ns)
        at = field_symbol(at, book.symbol)
        for level in range(SISE_LEVELS):
            at = field_level(at, book.ask_price[level], book.ask_price_scale[level],
                             book.ask_size[level], book.ask_size_scale[level])
        for level in range(SISE_LEVELS):
            at = field_level(at, book.bid_price[level], book.bid_price_scale[level],
                             book.bid_size[level], book.bid_size_scale[level])
        at = field_name(at, &self.markets[book.header.market])
        at = field_name(at, &self.venues[book.header.venue])
        at = field_time(at, book.header.recv_ns)
        at = field_int2(at, book.header.flags)
        at = field_int2(at, source)
        at = field_int8(at, <int64_t>book.header.seq)
        return field_exchange(at, self.exchanges, book.header.flags)

    cdef char* put_event(self, char* at, const sise_event* event, int16_t source) noexcept nogil:
        cdef size_t kept = event.header.length - sizeof(sise_event)
        cdef uint8_t flags = event.header.flags
        cdef char* detail
        if event.text_bytes < kept:
            kept = event.text_bytes
        if event.text_is_cut:
            flags |= SISE_FLAG_TRUNCATED
        at = put_int16(at, 15)
        at = field_time(at, event.exchange_ns)
        at = field_symbol(at, event.symbol)
        at = field_name(at, &self.event_types[event.type])
        at = field_optional(at, event.price, event.price_scale)
        at = field_optional(at, event.volume, event.volume_scale)
        at = field_optional(at, event.cum_volume, event.cum_volume_scale)
        at = field_optional(at, event.change_rate, event.change_rate_scale)
        at = field_name(at, &self.markets[event.header.market])
        at = field_name(at, &self.venues[event.header.venue])
        at = field_exchange(at, self.exchanges, flags)
        detail = put_int32(at, 0)  # the length, once it is known
        at = put_text(detail, <const char*>event + sizeof(sise_event), kept)
        put_int32(detail - 4, <int32_t>(at - detail))
        at = field_time(at, event.header.recv_ns)
        at = field_int2(at, flags)
        at = field_int2(at, source)
        return field_int8(at, <int64_t>event.header.seq)

    cdef char* put_quarantine(self, char* at, const sise_quarantine* record, int16_t source) noexcept nogil:
        cdef size_t kept = record.header.length - sizeof(sise_quarantine)
        cdef int reason = record.reason if record.reason < NAMES else NAMES - 1
        if record.frame_bytes < kept:
            kept = record.frame_bytes
        at = put_int16(at, 8)
        at = field_time(at, record.header.recv_ns)
        at = field_name(at, &self.venues[record.header.venue])
        at = field_name(at, &self.quarantine_reasons[reason])
        at = field_int4(at, record.detail)
        at = put_int32(at, <int32_t>kept)
        memcpy(at, <const char*>record + sizeof(sise_quarantine), kept)
        at = field_int4(at + kept, <int32_t>min(record.original_bytes, <uint32_t>INT32_MAX))
        at = field_int2(at, source)
        return field_int8(at, <int64_t>record.header.seq)

    cdef char* put_gap(self, char* at, const sise_gap* gap, int16_t source) noexcept nogil:
        at = put_int16(at, 11)
        at = field_name(at, &self.venues[gap.header.venue])
        at = field_name(at, &self.markets[gap.header.market])
        at = field_symbol(at, gap.symbol)
        at = field_name(at, &self.kinds[gap.data_kind])
        at = field_time(at, gap.started_ns)
        at = field_time(at, gap.ended_ns)
        at = field_name(at, &self.gap_reasons[gap.reason])
        at = field_optional(at, gap.missing, 0)
        at = field_int2(at, source)
        at = field_int8(at, <int64_t>gap.header.seq)
        return field_exchange(at, self.exchanges, gap.header.flags)

    cdef char* put_ledger(self, char* at, const sise_ledger* ledger, int16_t source) noexcept nogil:
        at = put_int16(at, 9)
        at = field_time(at, ledger.minute_ns)
        at = field_name(at, &self.markets[ledger.header.market])
        at = field_name(at, &self.venues[ledger.header.venue])
        at = field_symbol(at, ledger.symbol)
        at = field_name(at, &self.kinds[ledger.data_kind])
        at = field_int4(at, <int32_t>min(ledger.count, <uint32_t>INT32_MAX))
        at = field_int8(at, <int64_t>ledger.through_seq)
        at = field_int2(at, source)
        return field_int8(at, <int64_t>ledger.header.seq)

    def block(self, str table not None) -> memoryview:
        """Return the complete COPY stream of *table*, header and trailer included, without copying it.

        The batch refuses to change while the memoryview is alive: release() it. Raises KeyError for another table.
        """
        cdef CopyBlock block = CopyBlock.__new__(CopyBlock)
        block.batch = self
        block.table = _TABLE_IDS[table]
        cdef row_buffer* buffer = &self.tables[block.table]
        put_int16(buffer.data + buffer.size, -1)  # room_for() keeps these two bytes free
        return memoryview(block)

    @property
    def rows(self) -> dict:
        """Rows in each table's block, tables without rows left out."""
        counts = {name: self.tables[<int>number].rows for name, number in _TABLE_IDS.items()}
        return {name: count for name, count in counts.items() if count}

    @property
    def bytes(self) -> int:
        """Encoded bytes of all tables, headers and trailers excluded."""
        return sum(self.tables[<int>number].size - COPY_HEADER_BYTES for number in _TABLE_IDS.values())

    def observe_ages(self, CountersBlock counters not None, int histogram, int64_t now_ns) -> None:
        """Count, in *histogram*, how old every received record of the batch was at *now_ns*."""
        if not 0 <= histogram < SISE_HISTOGRAMS:
            raise ValueError(f"histogram: expected 0 to {SISE_HISTOGRAMS - 1}, found {histogram}")
        with nogil:
            observe_receipts(&self.received, counters, histogram, now_ns)

    @property
    def min_recv_ns(self) -> int:
        """Oldest time of receipt in the batch, 0 if nothing was received."""
        return self.received.first_ns

    @property
    def max_recv_ns(self) -> int:
        """Newest time of receipt in the batch, 0 if nothing was received."""
        return self.received.last_ns

    def clear(self) -> None:
        """Forget every row; the buffers keep their memory. Raises BufferError while a block is being read."""
        cdef int table
        if self.exports:
            raise BufferError("a block of this batch is still being read")
        for table in range(<int>TABLES):
            start_stream(&self.tables[table])
        forget_receipts(&self.received)
        self.records = 0
