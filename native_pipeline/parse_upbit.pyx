# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Step 2 of 6 in the life of a tick, for Upbit: one JSON message, or an array of them, in, its records in the ring out.

Before: `frame_listener`. After: `ring_writer`. Members are known by their DEFAULT or SIMPLE names, in any order; others
are skipped, but have to be JSON. An object without a type is a control message. Whatever does not fit becomes a
quarantine record: the whole frame when it is not JSON, otherwise only the bad message. The text of an array's message
is kept as it is read, which is with its escapes resolved.

Trade: the exchange time is `trade_timestamp`; `sequential_id` is what tells a trade from a repeat of it; ASK and BID
are the side that took. The venue sends no rate of change: it is computed here, to four decimals of a percent, from
`change`, `change_price` and `prev_closing_price`, and absent without them. Order book: the ten best levels; a request
for more of them costs time and stores nothing. Ticker: an event of type quote.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from native_pipeline.frame_parser cimport PARSE_CONTROL, PARSE_RING_FULL, FrameParser
from native_pipeline.record cimport (
    REASON_BAD_CONTROL,
    REASON_BAD_COUNT,
    REASON_BAD_NUMBER,
    REASON_BAD_PRICE,
    REASON_BAD_SIZE,
    REASON_BAD_SYMBOL,
    REASON_BAD_TIME,
    REASON_EMPTY_FRAME,
    REASON_NONE,
    REASON_TOO_LONG,
    REASON_UNKNOWN_FRAME,
    REASON_UNKNOWN_TR,
    SISE_ABSENT,
    SISE_BOOK,
    SISE_EVENT,
    SISE_EVENT_QUOTE,
    SISE_FLAG_CROSSED,
    SISE_LEVELS,
    SISE_SIDE_BUY,
    SISE_SIDE_NONE,
    SISE_SIDE_SELL,
    SISE_TRADE,
    sise_book,
    sise_event,
    sise_quarantine,
    sise_store_origin,
    sise_store_trade_tail,
    sise_trade,
)
from native_pipeline.ring_writer cimport RingWriter
from native_pipeline.scan cimport scan_symbol, sise_load64
from native_pipeline.scan_json cimport (
    JSON_MAX_BYTES,
    JsonCursor,
    JsonRoom,
    json_element,
    json_free_room,
    json_is,
    json_is_done,
    json_member,
    json_open,
    json_peek,
    json_skip,
    json_string,
    json_take,
)
from native_pipeline.scan_number cimport (
    NUMBER_FOUND,
    NUMBER_MISSING,
    JsonNumber,
    is_at_least_zero,
    json_read_number,
    json_pass_number,
    json_usual_number,
    sise_number_above,
    sise_number_percent,
    sise_pow10,
    take_optional,
    take_price,
    whole_number,
)

cdef enum:
    UTC_OFFSET_MIN = 0
    REASON_NOT_JSON = REASON_BAD_CONTROL
    MAX_TEXT = 65535                    # of an event: the record keeps 16 bits
    CHANGE_RATE_SCALE = 4
    NAME_BYTES = 24                     # of the longest member name that is read
    NAME_SLOTS = 256

cdef int64_t NS_PER_MS = 1000000
cdef int64_t MAX_TIME_MS = 9223372036854   # whose nanoseconds fit an int64


# ---- member names ----------------------------------------------------------------------------------------------------

# DEFAULT and SIMPLE names are synonyms; no name has two meanings.
NAMES = {
    ROLE_PRICE: ("trade_price", "tp"),
    ROLE_VOLUME: ("trade_volume", "tv"),
    ROLE_ASK: ("best_ask_price", "bap"),
    ROLE_BID: ("best_bid_price", "bbp"),
    ROLE_PREV_CLOSE: ("prev_closing_price", "pcp"),
    ROLE_CHANGE_PRICE: ("change_price", "cp"),
    ROLE_TRADE_TIME: ("trade_timestamp", "ttms"),
    ROLE_TIME: ("timestamp", "tms"),
    ROLE_IDENTITY: ("sequential_id", "sid"),
    ROLE_ACC_VOLUME: ("acc_trade_volume", "atv"),
    ROLE_SIGNED_RATE: ("signed_change_rate", "scr"),
    ROLE_TYPE: ("type", "ty"),
    ROLE_CODE: ("code", "cd"),
    ROLE_SIDE: ("ask_bid", "ab"),
    ROLE_CHANGE: ("change", "c"),
    ROLE_STREAM: ("stream_type", "st"),
    ROLE_UNITS: ("orderbook_units", "obu"),
    ROLE_ASK_PRICE: ("ask_price", "ap"),
    ROLE_BID_PRICE: ("bid_price", "bp"),
    ROLE_ASK_SIZE: ("ask_size", "as"),
    ROLE_BID_SIZE: ("bid_size", "bs"),
}


# A name as its first and its last 8 bytes (the first padded with NUL if it is shorter, then they are the same).
cdef struct Name:
    uint64_t first
    uint64_t last
    char text[NAME_BYTES]
    uint8_t length          # 0: a free slot
    uint8_t role

cdef Name names[NAME_SLOTS]   # a hash table with open addressing, never full


# No multiplication knows what is a good hash of 42 names: these two spread them well enough.
cdef inline unsigned int name_slot(uint64_t first, uint64_t last, size_t length) noexcept nogil:
    return <unsigned int>(((first ^ (last << 7) ^ length) * <uint64_t>0x9E3779B97F4A7C15) >> 56)


# What the name [begin, end) means; nothing at or behind *limit* is read.
cdef inline int role_of(const char* begin, const char* end, const char* limit) noexcept nogil:
    cdef size_t length = <size_t>(end - begin)
    cdef uint64_t first, last
    cdef unsigned int slot
    if length >= 8:
        if length > NAME_BYTES:
            return ROLE_UNKNOWN
        first = sise_load64(begin)
        last = sise_load64(end - 8)
    elif limit - begin >= 8:
        last = first = sise_load64(begin) & (((<uint64_t>1) << (8 * length)) - 1)
    else:
        first = 0
        memcpy(&first, begin, length)
        last = first
    slot = name_slot(first, last, length)
    while names[slot].length:
        if names[slot].first == first and names[slot].last == last and names[slot].length == length:
            if length <= 16 or memcmp(names[slot].text + 8, begin + 8, length - 16) == 0:
                return names[slot].role
        slot = (slot + 1) % NAME_SLOTS
    return ROLE_UNKNOWN


cdef void enter_name(bytes name, int role):
    cdef const char* text = name
    cdef size_t length = len(name)
    cdef uint64_t first = 0, last
    cdef unsigned int slot
    memcpy(&first, text, min(length, <size_t>8))
    last = first if length < 8 else sise_load64(text + length - 8)
    slot = name_slot(first, last, length)
    while names[slot].length:
        slot = (slot + 1) % NAME_SLOTS
    names[slot].first = first
    names[slot].last = last
    names[slot].length = <uint8_t>length
    names[slot].role = <uint8_t>role
    memcpy(names[slot].text, text, length)


for _role, _names in NAMES.items():
    for _name in _names:
        enter_name(_name.encode("ascii"), _role)


# ---- one message -----------------------------------------------------------------------------------------------------

cdef inline const UpbitText* text_of(const UpbitMessage* message, int role) noexcept nogil:
    return &message.texts[role - NUMBER_ROLES]


cdef inline bint text_is(const UpbitMessage* message, int role, const char* text, size_t size) noexcept nogil:
    cdef const UpbitText* found = text_of(message, role)
    return found.begin != NULL and json_is(found.begin, found.end, text, size)


cdef inline bint read_text(JsonCursor* cursor, UpbitText* text) noexcept nogil:
    if json_string(cursor, &text.begin, &text.end):
        return True
    text.begin = NULL
    return json_skip(cursor)


# Take the quoted name and colon, with the brace or comma in front of it, that are the *size* bytes at *text*.
cdef inline bint take_name(JsonCursor* cursor, const char* text, size_t size) noexcept nogil:
    if <size_t>(cursor.end - cursor.at) < size or memcmp(cursor.at, text, size) != 0:
        return False
    cursor.at += size
    cursor.quotes += 2
    return True


# Take a level as the venue writes it, with numbers of usual length. False: it is written otherwise, and nothing taken.
cdef inline bint take_usual_level(JsonCursor* cursor, JsonNumber* level) noexcept nogil:
    cdef JsonCursor start = cursor[0]
    if take_name(cursor, b'{"ap":', 6):
        if (json_usual_number(cursor, &level[0]) and take_name(cursor, b',"bp":', 6)
                and json_usual_number(cursor, &level[1]) and take_name(cursor, b',"as":', 6)
                and json_usual_number(cursor, &level[2]) and take_name(cursor, b',"bs":', 6)
                and json_usual_number(cursor, &level[3]) and cursor.at[0] == c'}'):
            cursor.at += 1
            return True
    elif take_name(cursor, b'{"ask_price":', 13):
        if (json_usual_number(cursor, &level[0]) and take_name(cursor, b',"bid_price":', 13)
                and json_usual_number(cursor, &level[1]) and take_name(cursor, b',"ask_size":', 12)
                and json_usual_number(cursor, &level[2]) and take_name(cursor, b',"bid_size":', 12)
                and json_usual_number(cursor, &level[3]) and cursor.at[0] == c'}'):
            cursor.at += 1
            return True
    cursor[0] = start
    return False


# Pass over a level as take_usual_level takes it, one that is not kept.
cdef inline bint pass_usual_level(JsonCursor* cursor) noexcept nogil:
    cdef JsonCursor start = cursor[0]
    if take_name(cursor, b'{"ap":', 6):
        if (json_pass_number(cursor) and take_name(cursor, b',"bp":', 6)
                and json_pass_number(cursor) and take_name(cursor, b',"as":', 6)
                and json_pass_number(cursor) and take_name(cursor, b',"bs":', 6)
                and json_pass_number(cursor) and cursor.at[0] == c'}'):
            cursor.at += 1
            return True
    elif take_name(cursor, b'{"ask_price":', 13):
        if (json_pass_number(cursor) and take_name(cursor, b',"bid_price":', 13)
                and json_pass_number(cursor) and take_name(cursor, b',"ask_size":', 12)
                and json_pass_number(cursor) and take_name(cursor, b',"bid_size":', 12)
                and json_pass_number(cursor) and cursor.at[0] == c'}'):
            cursor.at += 1
            return True
    cursor[0] = start
    return False


# Take any value as a level; what it lacks is missing. False: not JSON.
cdef bint take_level(JsonCursor* cursor, JsonNumber* level) noexcept nogil:
    cdef const char* key = NULL
    cdef const char* key_end = NULL
    cdef bint first = True, bad = False
    cdef int role
    memset(level, 0, 4 * sizeof(JsonNumber))
    if not json_take(cursor, c'{'):
        return json_skip(cursor)
    while json_member(cursor, &first, &key, &key_end, &bad):
        role = role_of(key, key_end, cursor.end)
        if ROLE_ASK_PRICE <= role <= ROLE_BID_SIZE:
            if not json_read_number(cursor, &level[role - ROLE_ASK_PRICE]):
                return False
        elif not json_skip(cursor):
            return False
    return not bad


# Milliseconds since 1970 -> nanoseconds.
cdef inline bint read_time(const UpbitMessage* message, int role, int64_t* exchange_ns) noexcept nogil:
    cdef int64_t ms = 0
    if not whole_number(&message.numbers[role], &ms) or ms < 1 or ms > MAX_TIME_MS:
        return False
    exchange_ns[0] = ms * NS_PER_MS
    return True


# Percent against the previous close, from the venue's own change.
cdef inline void take_change_rate(const UpbitMessage* message, int64_t* mantissa, uint8_t* scale) noexcept nogil:
    cdef const JsonNumber* change = &message.numbers[ROLE_CHANGE_PRICE]
    cdef const JsonNumber* close = &message.numbers[ROLE_PREV_CLOSE]
    cdef bint falls = text_is(message, ROLE_CHANGE, b"FALL", 4)
    mantissa[0] = SISE_ABSENT
    scale[0] = 0
    if not falls and not text_is(message, ROLE_CHANGE, b"RISE", 4) and not text_is(message, ROLE_CHANGE, b"EVEN", 4):
        return
    if not is_at_least_zero(change) or not is_at_least_zero(close):
        return
    if not sise_number_percent(change.mantissa, change.scale, close.mantissa, close.scale, mantissa):
        mantissa[0] = SISE_ABSENT
        return
    scale[0] = CHANGE_RATE_SCALE
    if falls:
        mantissa[0] = -mantissa[0]


# A fraction -> percent: the point moves two places.
cdef inline void take_percent(const JsonNumber* number, int64_t* mantissa, uint8_t* scale) noexcept nogil:
    take_optional(number, mantissa, scale)
    if mantissa[0] == SISE_ABSENT:
        return
    if scale[0] >= 2:
        scale[0] -= 2
        return
    if not -(<int64_t>1 << 55) < mantissa[0] < (<int64_t>1 << 55):
        mantissa[0] = SISE_ABSENT
        scale[0] = 0
        return
    mantissa[0] *= sise_pow10[2 - scale[0]]
    scale[0] = 0


# Ring bytes that the messages of an array can need at most: each as its record or, if bad, as a quarantine record (8:
# rounding up), and the pad in front of the one that does not fit before the ring's end.
cdef inline uint64_t worst_case_bytes(uint64_t messages, uint64_t size) noexcept nogil:
    cdef uint64_t each = sizeof(sise_book) + sizeof(sise_event) + sizeof(sise_quarantine) + 8
    return (messages + 1) * each + 2 * size


@cython.final
cdef class UpbitParser(FrameParser):
    """The parser of one Upbit connection; stamps its venue, market and connection number on every record."""

    def __cinit__(self):
        memset(&self.room, 0, sizeof(JsonRoom))

    def __init__(self, *, uint8_t venue, uint8_t market, uint16_t connection=0, bint snapshot_trades=True):
        """snapshot_trades: False for a live feed: the last trade before a subscription may be in the database."""
        self.venue = venue
        self.market = market
        self.connection = connection
        self.snapshot_trades = snapshot_trades

    def __dealloc__(self):
        json_free_room(&self.room)

    cdef int parse_frame(self, RingWriter ring, const char* data, Py_ssize_t size, bint is_text,
                         int64_t recv_ns) noexcept nogil:
        cdef JsonCursor cursor
        cdef UpbitMessage message
        cdef const char* first = data
        cdef const char* end = data + size
        while first < end and (first[0] == c' ' or first[0] == c'\t' or first[0] == c'\n' or first[0] == c'\r'):
            first += 1
        if first == end:
            return self.quarantine(ring, REASON_EMPTY_FRAME, 0, data, size, recv_ns)
        if first[0] != c'{' and first[0] != c'[':
            return self.quarantine(ring, REASON_UNKNOWN_FRAME, 0, data, size, recv_ns)
        if size > JSON_MAX_BYTES:
            return self.quarantine(ring, REASON_TOO_LONG, 0, data, size, recv_ns)
        if not json_open(&cursor, &self.room, data, <size_t>size):
            return self.quarantine(ring, REASON_NOT_JSON, 0, data, size, recv_ns)
        if first[0] == c'[':
            return self.append_array(ring, &cursor, data, size, recv_ns)
        if not self.read_message(&cursor, &message) or not json_is_done(&cursor):
            return self.quarantine(ring, REASON_NOT_JSON, 0, data, size, recv_ns)
        if not message.has_type:
            return PARSE_CONTROL
        return self.append_message(ring, &message, data, size, recv_ns)

    # Append a quarantine record: 1, or PARSE_RING_FULL.
    cdef int quarantine(self, RingWriter ring, int reason, int detail, const char* data, Py_ssize_t size,
                        int64_t recv_ns) noexcept nogil:
        if ring.append_quarantine(<uint16_t>reason, <uint16_t>detail, self.venue, self.market, recv_ns,
                                  NULL, 0, data, size) < 0:
            return PARSE_RING_FULL
        self.quarantined += 1
        return 1

    # Take an object. False: not JSON.
    cdef bint read_message(self, JsonCursor* cursor, UpbitMessage* message) noexcept nogil:
        cdef const char* key = NULL
        cdef const char* key_end = NULL
        cdef bint first = True, bad = False, taken
        cdef int role
        memset(message, 0, sizeof(UpbitMessage))
        message.units_reason = REASON_BAD_PRICE
        if not json_take(cursor, c'{'):
            return False
        while json_member(cursor, &first, &key, &key_end, &bad):
            role = role_of(key, key_end, cursor.end)
            if role < NUMBER_ROLES:
                taken = json_read_number(cursor, &message.numbers[role])
            elif role < TEXT_ROLES_END:
                message.has_type |= role == ROLE_TYPE
                taken = read_text(cursor, &message.texts[role - NUMBER_ROLES])
            elif role == ROLE_UNITS:
                taken = self.read_levels(cursor, message)
            else:
                taken = json_skip(cursor)
            if not taken:
                return False
        return not bad

    # Take the levels of a book into `levels`; whatever is wrong with them is noted. False: not JSON.
    cdef bint read_levels(self, JsonCursor* cursor, UpbitMessage* message) noexcept nogil:
        cdef JsonNumber level[4]
        cdef bint first = True, bad = False
        cdef int i = 0
        cdef sise_book* book = &self.levels
        message.units_reason = REASON_BAD_PRICE
        message.units_detail = 0
        if not json_take(cursor, c'['):
            return json_skip(cursor)
        message.units_reason = REASON_NONE
        while json_element(cursor, &first, &bad):
            i += 1
            if i > SISE_LEVELS:
                if not pass_usual_level(cursor) and not json_skip(cursor):
                    return False
                continue
            if not take_usual_level(cursor, level) and not take_level(cursor, level):
                return False
            if message.units_reason != REASON_NONE:
                continue
            if not is_at_least_zero(&level[0]) or not is_at_least_zero(&level[1]):
                message.units_reason = REASON_BAD_PRICE
                message.units_detail = i
            elif not is_at_least_zero(&level[2]) or not is_at_least_zero(&level[3]):
                message.units_reason = REASON_BAD_SIZE
                message.units_detail = i
            book.ask_price[i - 1] = level[0].mantissa
            book.bid_price[i - 1] = level[1].mantissa
            book.ask_size[i - 1] = level[2].mantissa
            book.bid_size[i - 1] = level[3].mantissa
            book.ask_price_scale[i - 1] = level[0].scale
            book.bid_price_scale[i - 1] = level[1].scale
            book.ask_size_scale[i - 1] = level[2].scale
            book.bid_size_scale[i - 1] = level[3].scale
        if bad:
            return False
        for i in range(i, SISE_LEVELS):
            book.ask_price[i] = book.bid_price[i] = book.ask_size[i] = book.bid_size[i] = 0
            book.ask_price_scale[i] = book.bid_price_scale[i] = 0
            book.ask_size_scale[i] = book.bid_size_scale[i] = 0
        return True

    # All messages of the array, or none. The first walk says whether it is JSON and how many there are.
    cdef int append_array(self, RingWriter ring, JsonCursor* cursor, const char* data, Py_ssize_t size,
                          int64_t recv_ns) noexcept nogil:
        cdef JsonCursor walk
        cdef UpbitMessage message
        cdef const char* begin
        cdef bint first = True, bad = False
        cdef uint64_t messages = 0
        cdef int appended = 0, result
        json_take(cursor, c'[')
        walk = cursor[0]
        while json_element(&walk, &first, &bad):
            if not json_skip(&walk):
                bad = True
                break
            messages += 1
        if bad or not json_is_done(&walk):
            return self.quarantine(ring, REASON_NOT_JSON, 0, data, size, recv_ns)
        if messages == 0:
            return self.quarantine(ring, REASON_BAD_COUNT, 0, data, size, recv_ns)
        if worst_case_bytes(messages, <uint64_t>size) > ring.capacity:
            return self.quarantine(ring, REASON_TOO_LONG, 0, data, size, recv_ns)   # would never fit
        if ring.free_bytes() < worst_case_bytes(messages, <uint64_t>size):
            return PARSE_RING_FULL
        first = True
        while json_element(cursor, &first, &bad):
            json_peek(cursor)
            begin = cursor.at
            if json_peek(cursor) == c'{':
                self.read_message(cursor, &message)
                result = self.append_message(ring, &message, begin, cursor.at - begin, recv_ns)
            else:
                json_skip(cursor)
                result = self.quarantine(ring, REASON_UNKNOWN_TR, 0, begin, cursor.at - begin, recv_ns)
            if result < 0:
                return PARSE_RING_FULL
            appended += result
        return appended

    # Append what a message says, text_bytes at *text*: the number of records, or PARSE_RING_FULL.
    cdef int append_message(self, RingWriter ring, const UpbitMessage* message, const char* text,
                            Py_ssize_t text_bytes, int64_t recv_ns) noexcept nogil:
        cdef int reason = REASON_UNKNOWN_TR, detail = 0, result = 0
        cdef int64_t exchange_ns = 0
        if text_is(message, ROLE_TYPE, b"trade", 5):
            if (not self.snapshot_trades and text_is(message, ROLE_STREAM, b"SNAPSHOT", 8)
                    and read_time(message, ROLE_TRADE_TIME, &exchange_ns)):
                result = self.append_quote(ring, message, exchange_ns, text, text_bytes, recv_ns, &reason)
            else:
                result = self.append_trade(ring, message, recv_ns, &reason)
        elif text_is(message, ROLE_TYPE, b"orderbook", 9):
            result = self.append_book(ring, message, recv_ns, &reason, &detail)
        elif text_is(message, ROLE_TYPE, b"ticker", 6):
            if read_time(message, ROLE_TIME, &exchange_ns):
                result = self.append_quote(ring, message, exchange_ns, text, text_bytes, recv_ns, &reason)
            else:
                reason = REASON_BAD_TIME
        if reason == REASON_NONE or result < 0:
            return result
        return self.quarantine(ring, reason, detail, text, text_bytes, recv_ns)

    # Each of these: the number of records, or PARSE_RING_FULL; *reason* says why the message is none.
    cdef int append_trade(self, RingWriter ring, const UpbitMessage* message, int64_t recv_ns,
                          int* reason) noexcept nogil:
        cdef const JsonNumber* numbers = &message.numbers[0]
        cdef const UpbitText* code = text_of(message, ROLE_CODE)
        cdef uint8_t ask_scale = 0, bid_scale = 0, change_scale = 0, side = SISE_SIDE_NONE
        cdef int64_t identity = 0
        cdef sise_trade* trade = <sise_trade*>ring.reserve(sizeof(sise_trade))
        if trade is NULL:
            return PARSE_RING_FULL
        trade.header.recv_ns = recv_ns
        sise_store_origin(&trade.header, SISE_TRADE, self.venue, self.market, UTC_OFFSET_MIN, self.connection)
        reason[0] = REASON_NONE
        if code.begin is NULL or not scan_symbol(code.begin, code.end, trade.symbol):
            reason[0] = REASON_BAD_SYMBOL
        elif not read_time(message, ROLE_TRADE_TIME, &trade.exchange_ns):
            reason[0] = REASON_BAD_TIME
        elif numbers[ROLE_PRICE].state != NUMBER_FOUND or numbers[ROLE_PRICE].mantissa <= 0:
            reason[0] = REASON_BAD_PRICE
        elif not is_at_least_zero(&numbers[ROLE_VOLUME]):
            reason[0] = REASON_BAD_SIZE
        elif numbers[ROLE_IDENTITY].state != NUMBER_MISSING and (
                not whole_number(&numbers[ROLE_IDENTITY], &identity) or identity < 0):
            reason[0] = REASON_BAD_NUMBER
        if reason[0] != REASON_NONE:
            return 0
        trade.price = numbers[ROLE_PRICE].mantissa
        trade.volume = numbers[ROLE_VOLUME].mantissa
        trade.cum_volume = SISE_ABSENT
        take_price(&numbers[ROLE_ASK], &trade.ask, &ask_scale)
        take_price(&numbers[ROLE_BID], &trade.bid, &bid_scale)
        take_change_rate(message, &trade.change_rate, &change_scale)
        if text_is(message, ROLE_SIDE, b"BID", 3):
            side = SISE_SIDE_BUY
        elif text_is(message, ROLE_SIDE, b"ASK", 3):
            side = SISE_SIDE_SELL
        sise_store_trade_tail(trade, numbers[ROLE_PRICE].scale, numbers[ROLE_VOLUME].scale, 0, ask_scale, bid_scale,
                              change_scale, side)
        return self.commit_record(ring, &trade.header, <uint64_t>identity)

    cdef int append_book(self, RingWriter ring, const UpbitMessage* message, int64_t recv_ns, int* reason,
                         int* detail) noexcept nogil:
        cdef const UpbitText* code = text_of(message, ROLE_CODE)
        cdef sise_book* book = <sise_book*>ring.reserve(sizeof(sise_book))
        cdef sise_book* levels = &self.levels
        if book is NULL:
            return PARSE_RING_FULL
        book.header.recv_ns = recv_ns
        sise_store_origin(&book.header, SISE_BOOK, self.venue, self.market, UTC_OFFSET_MIN, self.connection)
        reason[0] = REASON_NONE
        if code.begin is NULL or not scan_symbol(code.begin, code.end, book.symbol):
            reason[0] = REASON_BAD_SYMBOL
        elif not read_time(message, ROLE_TIME, &book.exchange_ns):
            reason[0] = REASON_BAD_TIME
        elif message.units_reason != REASON_NONE:
            reason[0] = message.units_reason
            detail[0] = message.units_detail
        if reason[0] != REASON_NONE:
            return 0
        memcpy(book.ask_price, levels.ask_price, sizeof(sise_book) - (<char*>book.ask_price - <char*>book))
        if (levels.ask_price[0] > 0 and levels.bid_price[0] > 0
                and sise_number_above(levels.bid_price[0], levels.bid_price_scale[0],
                                      levels.ask_price[0], levels.ask_price_scale[0])):
            book.header.flags |= SISE_FLAG_CROSSED
        return self.commit_record(ring, &book.header, 0)

    cdef int append_quote(self, RingWriter ring, const UpbitMessage* message, int64_t exchange_ns, const char* text,
                          Py_ssize_t text_bytes, int64_t recv_ns, int* reason) noexcept nogil:
        cdef const JsonNumber* numbers = &message.numbers[0]
        cdef const UpbitText* code = text_of(message, ROLE_CODE)
        cdef uint64_t kept = min(<uint64_t>text_bytes, <uint64_t>MAX_TEXT)   # the smallest ring has room for it
        cdef sise_event* event = <sise_event*>ring.reserve(<uint32_t>(sizeof(sise_event) + kept))
        if event is NULL:
            return PARSE_RING_FULL
        event.header.recv_ns = recv_ns
        sise_store_origin(&event.header, SISE_EVENT, self.venue, self.market, UTC_OFFSET_MIN, self.connection)
        reason[0] = REASON_NONE
        if code.begin is NULL or not scan_symbol(code.begin, code.end, event.symbol):
            reason[0] = REASON_BAD_SYMBOL
        elif numbers[ROLE_PRICE].state != NUMBER_FOUND or numbers[ROLE_PRICE].mantissa <= 0:
            reason[0] = REASON_BAD_PRICE
        if reason[0] != REASON_NONE:
            return 0
        event.exchange_ns = exchange_ns
        event.price = numbers[ROLE_PRICE].mantissa
        event.price_scale = numbers[ROLE_PRICE].scale
        take_optional(&numbers[ROLE_VOLUME], &event.volume, &event.volume_scale)
        take_optional(&numbers[ROLE_ACC_VOLUME], &event.cum_volume, &event.cum_volume_scale)
        if numbers[ROLE_SIGNED_RATE].state == NUMBER_FOUND:
            take_percent(&numbers[ROLE_SIGNED_RATE], &event.change_rate, &event.change_rate_scale)
        else:
            take_change_rate(message, &event.change_rate, &event.change_rate_scale)
        event.type = SISE_EVENT_QUOTE
        event.text_is_cut = kept < <uint64_t>text_bytes
        event.text_bytes = <uint16_t>kept
        memcpy(<char*>event + sizeof(sise_event), text, kept)
        return self.commit_record(ring, &event.header, 0)
