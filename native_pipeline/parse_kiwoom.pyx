# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Step 2 of 6 in the life of a tick, for Kiwoom: one JSON push of `REAL` entries in, all of its records out.

Before: `frame_listener`. After: `ring_writer`. Which field means what is the table `kiwoom_types.h`. A message is read
once, from its first byte to its last, because its keys come in any order and because nothing of a push whose JSON is
broken may be stored; then its entries are appended. Whatever does not fit becomes a quarantine record: the whole
message when it is no JSON object or holds no entries, otherwise only the bad entry, kept as a push of its own so that
it can be parsed again. Every message that is well formed and not `REAL` is control. Of a key that is repeated the last
one counts. Every length comes from the frame itself and is checked before use, hence no bounds checks by the compiler.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from native_pipeline.frame_parser cimport PARSE_CONTROL, PARSE_RING_FULL, FrameParser
from native_pipeline.kiwoom_entry cimport (
    SISE_KIWOOM_IGNORED,
    SISE_KIWOOM_LEVELS,
    SISE_KIWOOM_NONE,
    KiwoomEntry,
    read_entry,
    sise_kiwoom_fids,
    sise_kiwoom_level_numbers,
    sise_kiwoom_type,
)
from native_pipeline.record cimport (
    REASON_BAD_CONTROL,
    REASON_BAD_COUNT,
    REASON_BAD_NUMBER,
    REASON_BAD_PRICE,
    REASON_BAD_SIZE,
    REASON_BAD_SYMBOL,
    REASON_BAD_TIME,
    REASON_BAD_WIDTH,
    REASON_EMPTY_FRAME,
    REASON_NONE,
    REASON_TOO_LONG,
    REASON_UNEXPECTED_BINARY,
    REASON_UNKNOWN_FRAME,
    REASON_UNKNOWN_TR,
    SISE_ABSENT,
    SISE_BOOK,
    SISE_EVENT_STATUS,
    SISE_FLAG_CROSSED,
    SISE_FLAG_NXT,
    SISE_FLAG_SOR,
    SISE_LEVELS,
    SISE_SIDE_BUY,
    SISE_SIDE_NONE,
    SISE_SIDE_SELL,
    SISE_SYMBOL_BYTES,
    SISE_TRADE,
    sise_book,
    sise_event,
    sise_quarantine,
    sise_record_header,
    sise_store_origin,
    sise_store_trade_tail,
    sise_trade,
)
from native_pipeline.ring_writer cimport RingWriter
from native_pipeline.scan cimport scan_decimal, scan_hhmmss, scan_symbol, sise_integers
from native_pipeline.scan_json cimport (
    JsonCursor,
    json_element,
    json_free_room,
    json_is,
    json_is_done,
    json_make_room,
    json_member,
    json_open,
    json_peek,
    json_skip,
    json_string,
    json_take,
)


cdef enum:
    MARKET_KR = 1               # id in the market registry: all that this venue has
    KST_OFFSET_MIN = 540
    FIRST_ENTRIES = 8
    MAX_ENTRIES = 4096          # of one push; there are at most as many as registrations, in practice a few
    MAX_EVENT_TEXT = 4096       # of an event's own text; the longest known entry has 2.6 kB
    SUFFIX_BYTES = 3            # "_NX", "_AL"
    PREFIX_BYTES = 23           # {"trnm":"REAL","data":[
    REPLAY_BYTES = 25           # and ]}

cdef uint64_t ALL_PLAIN = (<uint64_t>1 << SISE_KIWOOM_LEVELS) - 1
cdef int64_t NS_PER_S = 1000000000
cdef int64_t DAY_NS = 86400000000000
cdef int64_t HALF_DAY_NS = 43200000000000
cdef int64_t KST_OFFSET_NS = 32400000000000


# ---- the fields of one entry -----------------------------------------------------------------------------------------

cdef struct Field:
    const char* begin
    const char* end


cdef inline Field field_of(const KiwoomFrame* frame, const KiwoomEntry* entry, int slot) noexcept nogil:
    cdef Field field
    field.begin = frame.floor + entry.values[2 * slot]
    field.end = frame.floor + entry.values[2 * slot + 1] - 1
    return field


cdef inline bint is_absent(Field field) noexcept nogil:
    return field.begin == field.end


# Without the sign, which on a price is only a colour: up or down against the previous close.
cdef inline bint read_unsigned(const KiwoomFrame* frame, Field field, int64_t* mantissa, uint8_t* scale) noexcept nogil:
    if not scan_decimal(frame.floor, field.begin, field.end, mantissa, scale):
        return False
    if mantissa[0] < 0:
        mantissa[0] = -mantissa[0]
    return True


# A price that may be left out: absent unless it is a decimal other than 0.
cdef inline void read_optional_price(const KiwoomFrame* frame, Field field, int64_t* mantissa,
                                     uint8_t* scale) noexcept nogil:
    if not read_unsigned(frame, field, mantissa, scale) or mantissa[0] == 0:
        mantissa[0] = SISE_ABSENT
        scale[0] = 0


# A number that may be left out: absent unless it is a decimal; its sign counts.
cdef inline void read_optional(const KiwoomFrame* frame, Field field, int64_t* mantissa, uint8_t* scale) noexcept nogil:
    if not scan_decimal(frame.floor, field.begin, field.end, mantissa, scale):
        mantissa[0] = SISE_ABSENT
        scale[0] = 0


# Local time of day + the day of receipt, or the day before or after when that is nearer -> UTC.
cdef inline int64_t date_by_receipt(int32_t seconds, int64_t recv_ns) noexcept nogil:
    cdef int64_t local_recv = recv_ns + KST_OFFSET_NS
    cdef int64_t local = local_recv // DAY_NS * DAY_NS + seconds * NS_PER_S
    if local - local_recv > HALF_DAY_NS:
        local -= DAY_NS
    elif local_recv - local > HALF_DAY_NS:
        local += DAY_NS
    return local - KST_OFFSET_NS


# `item`, with the exchange that its suffix names; where an empty one is allowed, the field that names the issue.
cdef inline bint read_symbol(const KiwoomFrame* frame, const KiwoomEntry* entry, char* symbol,
                             uint8_t* flags) noexcept nogil:
    cdef Field item
    item.begin = entry.item
    item.end = entry.item_end
    if is_absent(item) and entry.type.symbol != SISE_KIWOOM_IGNORED:
        item = field_of(frame, entry, entry.type.symbol)
        if is_absent(item):
            memset(symbol, 0, SISE_SYMBOL_BYTES)
            return True
    if item.end - item.begin > SUFFIX_BYTES:
        if json_is(item.end - SUFFIX_BYTES, item.end, b"_AL", SUFFIX_BYTES):
            flags[0] |= SISE_FLAG_SOR
            item.end -= SUFFIX_BYTES
        elif json_is(item.end - SUFFIX_BYTES, item.end, b"_NX", SUFFIX_BYTES):
            flags[0] |= SISE_FLAG_NXT
            item.end -= SUFFIX_BYTES
    return scan_symbol(item.begin, item.end, symbol)


# ---- one record ------------------------------------------------------------------------------------------------------

cdef inline int read_trade(const KiwoomFrame* frame, const KiwoomEntry* entry, int64_t recv_ns, sise_trade* trade,
                           int* detail) noexcept nogil:
    cdef uint8_t price_scale = 0, volume_scale = 0, cum_volume_scale = 0, ask_scale = 0, bid_scale = 0, change_scale = 0
    cdef uint64_t side
    cdef int32_t seconds = 0
    cdef const sise_kiwoom_type* type = entry.type
    cdef Field field = field_of(frame, entry, type.time)
    detail[0] = type.time
    if not scan_hhmmss(field.begin, field.end, &seconds):
        return REASON_BAD_TIME
    trade.exchange_ns = date_by_receipt(seconds, recv_ns)
    detail[0] = type.price
    field = field_of(frame, entry, type.price)
    if not read_unsigned(frame, field, &trade.price, &price_scale) or trade.price == 0:
        return REASON_BAD_PRICE
    detail[0] = type.volume
    field = field_of(frame, entry, type.volume)
    if not read_unsigned(frame, field, &trade.volume, &volume_scale) or trade.volume == 0:
        return REASON_BAD_SIZE
    side = (SISE_SIDE_BUY if field.begin[0] == c'+' else SISE_SIDE_SELL if field.begin[0] == c'-'
            else SISE_SIDE_NONE)
    read_optional(frame, field_of(frame, entry, type.cum_volume), &trade.cum_volume, &cum_volume_scale)
    if trade.cum_volume < 0 and trade.cum_volume != SISE_ABSENT:
        detail[0] = type.cum_volume
        return REASON_BAD_NUMBER
    read_optional_price(frame, field_of(frame, entry, type.ask), &trade.ask, &ask_scale)
    read_optional_price(frame, field_of(frame, entry, type.bid), &trade.bid, &bid_scale)
    read_optional(frame, field_of(frame, entry, type.change_rate), &trade.change_rate, &change_scale)
    sise_store_trade_tail(trade, price_scale, volume_scale, cum_volume_scale, ask_scale, bid_scale, change_scale, side)
    return REASON_NONE


# left / 10**left_scale > right / 10**right_scale, for numbers >= 0: exact in 128 bits, as 2**63 * 10**18 < 2**127.
cdef extern from * nogil:
    """
    static inline int sise_decimal_above(int64_t left, uint8_t left_scale, int64_t right, uint8_t right_scale) {
        unsigned __int128 a = (uint64_t)left, b = (uint64_t)right;
        for (; left_scale < right_scale; left_scale++)
            a *= 10;
        for (; right_scale < left_scale; right_scale++)
            b *= 10;
        return a > b;
    }
    """
    bint sise_decimal_above(int64_t left, uint8_t left_scale, int64_t right, uint8_t right_scale)


# The levels of one side, one by one. A level whose price and size are both left out is an absent one, like price 0.
cdef inline int read_levels(const KiwoomFrame* frame, const KiwoomEntry* entry, int first, int64_t* prices,
                            int64_t* sizes, uint8_t* price_scales, uint8_t* size_scales, int* detail) noexcept nogil:
    cdef int level
    cdef Field price, size
    for level in range(SISE_LEVELS):
        price = field_of(frame, entry, first + level)
        size = field_of(frame, entry, first + SISE_LEVELS + level)
        prices[level] = sizes[level] = 0
        price_scales[level] = size_scales[level] = 0
        if not is_absent(price) and not read_unsigned(frame, price, &prices[level], &price_scales[level]):
            detail[0] = first + level
            return REASON_BAD_PRICE
        if is_absent(size) and prices[level] == 0:
            continue
        if not scan_decimal(frame.floor, size.begin, size.end, &sizes[level], &size_scales[level]) or sizes[level] < 0:
            detail[0] = first + SISE_LEVELS + level
            return REASON_BAD_SIZE
        if sizes[level] > 0 and is_absent(price):
            detail[0] = first + level
            return REASON_BAD_PRICE
    return REASON_NONE


# All forty at once, if they are there and plain: digits, the prices with or without a sign.
cdef inline bint read_plain_levels(const KiwoomFrame* frame, const KiwoomEntry* entry, sise_book* book) noexcept nogil:
    cdef uint32_t values[2 * SISE_KIWOOM_LEVELS]
    cdef int side, level, i
    cdef char c
    memcpy(values, entry.values, sizeof(values))
    for side in range(2):
        for level in range(SISE_LEVELS):
            i = 4 * SISE_LEVELS * side + 2 * level
            c = frame.floor[values[i]]
            values[i] += <uint32_t>(c == c'-') | <uint32_t>(c == c'+')
    if sise_integers(frame.floor, values, sise_kiwoom_level_numbers, SISE_KIWOOM_LEVELS, book.ask_price) != ALL_PLAIN:
        return False
    memset(book.ask_price_scale, 0, SISE_KIWOOM_LEVELS)
    return True


# Has a level been sent at all?
cdef inline bint has_levels(const KiwoomFrame* frame, const KiwoomEntry* entry) noexcept nogil:
    cdef int slot
    for slot in range(SISE_KIWOOM_LEVELS):
        if not is_absent(field_of(frame, entry, slot)):
            return True
    return False


cdef inline int read_book(const KiwoomFrame* frame, const KiwoomEntry* entry, int64_t recv_ns, sise_book* book,
                          int* detail) noexcept nogil:
    cdef int reason
    cdef int32_t seconds = 0
    cdef Field time = field_of(frame, entry, entry.type.time)
    detail[0] = entry.type.time
    if not scan_hhmmss(time.begin, time.end, &seconds):
        return REASON_BAD_TIME
    book.exchange_ns = date_by_receipt(seconds, recv_ns)
    if not read_plain_levels(frame, entry, book):
        detail[0] = 0
        if not has_levels(frame, entry):
            return REASON_BAD_PRICE
        reason = read_levels(frame, entry, 0, book.ask_price, book.ask_size, book.ask_price_scale, book.ask_size_scale,
                             detail)
        if reason == REASON_NONE:
            reason = read_levels(frame, entry, 2 * SISE_LEVELS, book.bid_price, book.bid_size, book.bid_price_scale,
                                 book.bid_size_scale, detail)
        if reason != REASON_NONE:
            return reason
    if (book.ask_price[0] > 0 and book.bid_price[0] > 0
            and sise_decimal_above(book.bid_price[0], book.bid_price_scale[0],
                                   book.ask_price[0], book.ask_price_scale[0])):
        book.header.flags |= SISE_FLAG_CROSSED
    return REASON_NONE


# An event's numbers are optional. So is its time: the time of receipt stands for one that is missing, and, as a halt
# must not be lost for it, for one that a status message has and no clock shows (888888 at the end of the day).
cdef inline int read_event(const KiwoomFrame* frame, const KiwoomEntry* entry, int64_t recv_ns, sise_event* event,
                           int* detail) noexcept nogil:
    cdef const sise_kiwoom_type* type = entry.type
    cdef Field time = field_of(frame, entry, type.time)
    cdef uint32_t text_bytes = event_text_bytes(entry)
    cdef int32_t seconds = 0
    if scan_hhmmss(time.begin, time.end, &seconds):
        event.exchange_ns = date_by_receipt(seconds, recv_ns)
    elif is_absent(time) or type.event == SISE_EVENT_STATUS:
        event.exchange_ns = recv_ns
    else:
        detail[0] = type.time
        return REASON_BAD_TIME
    read_optional_price(frame, field_of(frame, entry, type.price), &event.price, &event.price_scale)
    if not read_unsigned(frame, field_of(frame, entry, type.volume), &event.volume, &event.volume_scale):
        event.volume = SISE_ABSENT
        event.volume_scale = 0
    read_optional(frame, field_of(frame, entry, type.cum_volume), &event.cum_volume, &event.cum_volume_scale)
    read_optional(frame, field_of(frame, entry, type.change_rate), &event.change_rate, &event.change_rate_scale)
    event.type = type.event
    event.text_is_cut = entry.end - entry.begin > MAX_EVENT_TEXT
    event.text_bytes = <uint16_t>text_bytes
    memset(<char*>event + event_bytes(text_bytes) - 8, 0, 8)
    memcpy(<char*>event + sizeof(sise_event), entry.begin, text_bytes)
    return REASON_NONE


cdef inline uint32_t event_text_bytes(const KiwoomEntry* entry) noexcept nogil:
    return <uint32_t>min(entry.end - entry.begin, <Py_ssize_t>MAX_EVENT_TEXT)


cdef inline uint32_t event_bytes(uint32_t text_bytes) noexcept nogil:
    return (<uint32_t>sizeof(sise_event) + text_bytes + 7) & ~<uint32_t>7


cdef inline uint32_t record_bytes(const KiwoomEntry* entry) noexcept nogil:
    if entry.type.kind == SISE_TRADE:
        return sizeof(sise_trade)
    return sizeof(sise_book) if entry.type.kind == SISE_BOOK else event_bytes(event_text_bytes(entry))


# Ring bytes that a push can need at most: each entry as a record or, if it is bad, as a quarantine record (8: rounding
# up), and the pad in front of the one that does not fit before the ring's end.
cdef inline uint64_t worst_case_bytes(const KiwoomFrame* frame) noexcept nogil:
    cdef uint64_t each = sizeof(sise_book) + sizeof(sise_event) + sizeof(sise_quarantine) + REPLAY_BYTES + 8
    return (frame.count + 1) * each + 2 * <uint64_t>frame.size


# ---- the message ----------------------------------------------------------------------------------------------------

# Is the first byte that is no white space a brace?
cdef inline bint is_object(const char* data, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i < size and (data[i] == c' ' or c'\t' <= data[i] <= c'\n' or data[i] == c'\r'):
        i += 1
    return i < size and data[i] == c'{'


@cython.final
cdef class KiwoomParser(FrameParser):
    """The parser of one Kiwoom connection; stamps its venue, market and connection number on every record."""

    def __cinit__(self):
        self.entries_room = FIRST_ENTRIES
        self.entries = <KiwoomEntry*>malloc(FIRST_ENTRIES * sizeof(KiwoomEntry))
        if self.entries is NULL or not json_make_room(&self.room, 1):
            raise MemoryError

    def __init__(self, *, uint8_t venue, uint8_t market=0, uint16_t connection=0):
        self.venue = venue
        self.market = market or MARKET_KR
        self.connection = connection

    def __dealloc__(self):
        json_free_room(&self.room)
        free(self.entries)
        free(self.replay)

    cdef int parse_frame(self, RingWriter ring, const char* data, Py_ssize_t size, bint is_text,
                         int64_t recv_ns) noexcept nogil:
        cdef KiwoomFrame frame
        cdef int reason
        if not is_text:
            reason = REASON_UNEXPECTED_BINARY
        elif size == 0:
            reason = REASON_EMPTY_FRAME
        else:
            reason = self.open_frame(data, size, &frame)
            if reason == REASON_NONE:
                if not frame.is_real:
                    return PARSE_CONTROL
                if frame.count == 0:
                    reason = REASON_BAD_COUNT
                elif frame.count > 1 and worst_case_bytes(&frame) > ring.capacity:
                    reason = REASON_TOO_LONG   # would never fit, however long the worker waits
                else:
                    return self.append_entries(ring, &frame, recv_ns)
        if ring.append_quarantine(<uint16_t>reason, 0, self.venue, self.market, recv_ns, NULL, 0, data, size) < 0:
            return PARSE_RING_FULL
        self.quarantined += 1
        return 1

    # Read the whole message: its entries, and whether it is market data. REASON_NONE, or why it cannot be read.
    cdef int open_frame(self, const char* data, Py_ssize_t size, KiwoomFrame* frame) noexcept nogil:
        cdef JsonCursor cursor
        cdef const char* key
        cdef const char* key_end
        cdef const char* begin
        cdef const char* end
        cdef bint first = True, bad = False
        cdef int reason
        if not json_make_room(&self.room, <size_t>size):
            return REASON_TOO_LONG
        if not is_object(data, size):
            return REASON_UNKNOWN_FRAME
        if not json_open(&cursor, &self.room, data, <size_t>size):
            return REASON_BAD_CONTROL
        json_take(&cursor, c'{')
        frame.data = data
        frame.size = size
        frame.floor = cursor.floor
        frame.is_real = False
        frame.count = 0
        while json_member(&cursor, &first, &key, &key_end, &bad):
            if json_is(key, key_end, b"data", 4):
                reason = self.read_entries(&cursor, frame)
                if reason != REASON_NONE:
                    return reason
            elif json_peek(&cursor) == c'"':
                begin = end = cursor.floor
                json_string(&cursor, &begin, &end)
                if json_is(key, key_end, b"trnm", 4):
                    frame.is_real = json_is(begin, end, b"REAL", 4)
            else:
                if not json_skip(&cursor):
                    return REASON_BAD_CONTROL
                if json_is(key, key_end, b"trnm", 4):
                    frame.is_real = False
        if bad or not json_is_done(&cursor):
            return REASON_BAD_CONTROL
        return REASON_NONE

    # "data", whatever it is: its elements, none if it is no list.
    cdef int read_entries(self, JsonCursor* cursor, KiwoomFrame* frame) noexcept nogil:
        cdef bint first = True, bad = False
        cdef KiwoomEntry* grown
        frame.count = 0
        if not json_take(cursor, c'['):
            return REASON_NONE if json_skip(cursor) else REASON_BAD_CONTROL
        while json_element(cursor, &first, &bad):
            if frame.count == self.entries_room:
                if frame.count == MAX_ENTRIES:
                    return REASON_TOO_LONG
                grown = <KiwoomEntry*>realloc(self.entries, 2 * frame.count * sizeof(KiwoomEntry))
                if grown is NULL:
                    return REASON_TOO_LONG
                self.entries = grown
                self.entries_room = 2 * frame.count
            if not read_entry(cursor, &self.entries[frame.count]):
                return REASON_BAD_CONTROL
            frame.count += 1
        return REASON_BAD_CONTROL if bad else REASON_NONE

    # All entries, or none: a push of one needs no look ahead, reserve() says when there is no room.
    cdef int append_entries(self, RingWriter ring, const KiwoomFrame* frame, int64_t recv_ns) noexcept nogil:
        cdef uint32_t i
        cdef int reason, detail, appended = 0
        if frame.count > 1 and ring.free_bytes() < worst_case_bytes(frame):
            return PARSE_RING_FULL
        for i in range(frame.count):
            detail = SISE_KIWOOM_NONE
            reason = self.append_entry(ring, frame, &self.entries[i], recv_ns, &detail, &appended)
            if reason < 0:
                return PARSE_RING_FULL
            if reason != REASON_NONE:
                if self.quarantine_entry(ring, frame, &self.entries[i], recv_ns, reason, detail) < 0:
                    return PARSE_RING_FULL
                appended += 1
        return appended

    # Commit one entry: REASON_NONE, or why it was refused, with the slot at fault; -1 if the ring is full. *appended
    # grows by the records in the ring: by none for a duplicate.
    cdef inline int append_entry(self, RingWriter ring, const KiwoomFrame* frame, const KiwoomEntry* entry,
                                 int64_t recv_ns, int* detail, int* appended) noexcept nogil:
        cdef int reason
        cdef char* symbol
        cdef sise_record_header* header
        if entry.type == NULL:
            return REASON_UNKNOWN_TR
        if not entry.has_values:
            return REASON_BAD_WIDTH
        header = <sise_record_header*>ring.reserve(record_bytes(entry))
        if header == NULL:
            return -1
        header.recv_ns = recv_ns
        sise_store_origin(header, entry.type.kind, self.venue, self.market, KST_OFFSET_MIN, self.connection)
        symbol = <char*>header + sizeof(sise_record_header)   # of all three kinds
        if not read_symbol(frame, entry, symbol, &header.flags):
            return REASON_BAD_SYMBOL
        if entry.type.kind == SISE_TRADE:
            reason = read_trade(frame, entry, recv_ns, <sise_trade*>header, detail)
        elif entry.type.kind == SISE_BOOK:
            reason = read_book(frame, entry, recv_ns, <sise_book*>header, detail)
        else:
            reason = read_event(frame, entry, recv_ns, <sise_event*>header, detail)
        if reason == REASON_NONE:
            appended[0] += self.commit_record(ring, header, 0)
        return reason

    # Keep a bad entry as a push of its own; 0, or -1 if the ring is full.
    cdef int quarantine_entry(self, RingWriter ring, const KiwoomFrame* frame, const KiwoomEntry* entry,
                              int64_t recv_ns, int reason, int detail) noexcept nogil:
        cdef const char* text = frame.data
        cdef Py_ssize_t size = frame.size
        cdef size_t length = <size_t>(entry.end - entry.begin)
        cdef char* grown
        if frame.count > 1:
            if self.replay_room < length + REPLAY_BYTES:
                grown = <char*>realloc(self.replay, length + REPLAY_BYTES)
                if grown is not NULL:
                    self.replay = grown
                    self.replay_room = length + REPLAY_BYTES
            if self.replay_room >= length + REPLAY_BYTES:
                memcpy(self.replay, b'{"trnm":"REAL","data":[', PREFIX_BYTES)
                memcpy(self.replay + PREFIX_BYTES, entry.begin, length)
                memcpy(self.replay + PREFIX_BYTES + length, b"]}", REPLAY_BYTES - PREFIX_BYTES)
                text = self.replay
                size = <Py_ssize_t>(length + REPLAY_BYTES)
        if ring.append_quarantine(<uint16_t>reason, sise_kiwoom_fids[detail], self.venue, self.market, recv_ns,
                                  NULL, 0, text, size) < 0:
            return -1
        self.quarantined += 1
        return 0
