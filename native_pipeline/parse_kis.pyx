# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Step 2 of 6 in the life of a tick, for KIS: one `flag|TR|count|payload` frame in, all of its records in the ring out.

Before: `frame_listener`. After: `ring`. Which field means what is data: `kis_layouts.toml`, compiled in as a table, so
a further TR is a row there. Whatever does not fit becomes a quarantine record: the whole frame when its header or its
number of fields is wrong, otherwise only the bad record, kept as a frame of its own (`flag|TR|001|record`) so that it
can be parsed again. Every length comes from the frame itself and is checked before use, hence no bounds checks by the
compiler.
"""

cimport cython
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy, memset

from native_pipeline.frame_parser cimport PARSE_CONTROL, PARSE_RING_FULL, FrameParser
from native_pipeline.record cimport (
    REASON_BAD_COUNT,
    REASON_BAD_DATE,
    REASON_BAD_NUMBER,
    REASON_BAD_PRICE,
    REASON_BAD_SIZE,
    REASON_BAD_SYMBOL,
    REASON_BAD_TIME,
    REASON_BAD_WIDTH,
    REASON_EMPTY_FRAME,
    REASON_ENCRYPTED,
    REASON_MALFORMED_HEADER,
    REASON_NONE,
    REASON_TOO_LONG,
    REASON_UNEXPECTED_BINARY,
    REASON_UNKNOWN_FRAME,
    REASON_UNKNOWN_TR,
    SISE_ABSENT,
    SISE_FLAG_AUCTION,
    SISE_FLAG_CROSSED,
    SISE_LEVELS,
    SISE_SIDE_BUY,
    SISE_SIDE_NONE,
    SISE_SIDE_SELL,
    SISE_SYMBOL_BYTES,
    SISE_TRADE,
    sise_book,
    sise_quarantine,
    sise_record_header,
    sise_store_origin,
    sise_store_trade_tail,
    sise_trade,
)
from native_pipeline.ring cimport RingWriter
from native_pipeline.scan cimport (
    SISE_FIND_SLACK,
    scan_decimal,
    scan_hhmmss,
    scan_is_absent,
    scan_symbol,
    scan_yyyymmdd,
    sise_find,
    sise_find_portable,
    sise_find_sse2,
    sise_integers,
    sise_integers_portable,
    sise_load64,
)


cdef enum:
    KST_OFFSET_MIN = 540
    DETAIL_MAX = 65535          # the record keeps 16 bits
    COUNT_MAX = 1000000         # of records; more digits than that are no count
    REPLAY_PREFIX_BYTES = 15    # "0|H0STCNT0|001|"
    FIRST_ROOM = 4096           # fields of a frame before the first growth
    MAX_PAYLOAD = 1 << 20       # a frame beyond this is no market data: a ring keeps no more of it in quarantine

    ALL_LEVELS = 40             # prices and sizes of both sides

cdef uint64_t ALL_PLAIN = (<uint64_t>1 << ALL_LEVELS) - 1
cdef int64_t NS_PER_S = 1000000000
cdef int64_t DAY_NS = 86400000000000
cdef int64_t HALF_DAY_NS = 43200000000000
cdef int64_t KST_OFFSET_NS = 32400000000000


# ---- the frame: flag|TR|count|payload --------------------------------------------------------------------------------

# The record count of any number of digits; 0 if it is not a number, COUNT_MAX at most.
cdef inline uint32_t read_count(const char* begin, const char* end) noexcept nogil:
    cdef uint32_t count = 0
    cdef const char* p = begin
    while p < end:
        if p[0] < c'0' or p[0] > c'9':
            return 0
        count = min(count * 10 + <uint32_t>(p[0] - c'0'), <uint32_t>COUNT_MAX)
        p += 1
    return count


# ---- one record ------------------------------------------------------------------------------------------------------

cdef inline const char* field_begin(const KisFields* fields, int position) noexcept nogil:
    return fields.base + fields.begins[position]


cdef inline const char* field_end(const KisFields* fields, int position) noexcept nogil:
    return fields.base + fields.begins[position + 1] - 1


cdef inline bint read_decimal(const KisFields* fields, int position, int64_t* mantissa, uint8_t* scale) noexcept nogil:
    return scan_decimal(fields.floor, field_begin(fields, position), field_end(fields, position), mantissa, scale)


# The single character of a code field; 0 if the role is not in the layout, or the field is empty or longer.
cdef inline char read_code(const KisFields* fields, int position) noexcept nogil:
    if position == SISE_KIS_NO_FIELD or field_end(fields, position) - field_begin(fields, position) != 1:
        return 0
    return field_begin(fields, position)[0]


# An optional price: absent unless it is a positive decimal.
cdef inline void read_optional_price(const KisFields* fields, int position, int64_t* mantissa,
                                     uint8_t* scale) noexcept nogil:
    if (position == SISE_KIS_NO_FIELD or not read_decimal(fields, position, mantissa, scale) or mantissa[0] <= 0):
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


# What trades and books have in common: symbol and time.
cdef inline int read_identity(KisParser parser, const sise_kis_layout* layout, const KisFields* fields,
                              int64_t recv_ns, char* symbol, int64_t* exchange_ns, int* detail) noexcept nogil:
    cdef int32_t seconds = 0
    detail[0] = layout.symbol
    if not scan_symbol(field_begin(fields, layout.symbol), field_end(fields, layout.symbol), symbol):
        return REASON_BAD_SYMBOL
    detail[0] = layout.time
    if not scan_hhmmss(field_begin(fields, layout.time), field_end(fields, layout.time), &seconds):
        return REASON_BAD_TIME
    if layout.date == SISE_KIS_NO_FIELD:
        exchange_ns[0] = date_by_receipt(seconds, recv_ns)
        return REASON_NONE
    detail[0] = layout.date
    if not read_date(parser, fields, layout.date, exchange_ns):
        return REASON_BAD_DATE
    exchange_ns[0] += seconds * NS_PER_S - KST_OFFSET_NS
    return REASON_NONE


# YYYYMMDD -> its first nanosecond, as if it were in UTC. Nearly always the day of the record before.
cdef inline bint read_date(KisParser parser, const KisFields* fields, int position, int64_t* day_ns) noexcept nogil:
    cdef const char* begin = field_begin(fields, position)
    cdef const char* end = field_end(fields, position)
    cdef int32_t days = 0
    if end - begin == 8 and sise_load64(begin) == parser.last_date:
        day_ns[0] = parser.last_date_ns
        return True
    if not scan_yyyymmdd(fields.floor, begin, end, &days):
        return False
    parser.last_date = sise_load64(begin)
    parser.last_date_ns = day_ns[0] = days * DAY_NS
    return True


# A field that may be left out: absent unless it is a decimal.
cdef inline bint read_optional(const KisFields* fields, int position, int64_t* mantissa, uint8_t* scale) noexcept nogil:
    if position != SISE_KIS_NO_FIELD and read_decimal(fields, position, mantissa, scale):
        return True
    mantissa[0] = SISE_ABSENT
    scale[0] = 0
    return False


cdef enum:
    # bits of the numbers of a trade, in the order of its record
    PRICE = 1 << 0
    VOLUME = 1 << 1
    CUM_VOLUME = 1 << 2
    ASK = 1 << 3
    BID = 1 << 4
    CHANGE_RATE = 1 << 5


# The plain integers are read all at once, what has a sign or a point one by one. The small fields go to the record
# together: the checksum reads them again at once, and a load that spans young stores has to wait for them.
cdef inline int read_trade(KisParser parser, const sise_kis_layout* layout, const KisFields* fields, int64_t recv_ns,
                           sise_trade* trade, int* detail) noexcept nogil:
    cdef uint8_t price_scale = 0, volume_scale = 0, cum_volume_scale = 0, ask_scale = 0, bid_scale = 0, change_scale = 0
    cdef uint64_t side, plain
    cdef char code
    cdef int reason = read_identity(parser, layout, fields, recv_ns, trade.symbol, &trade.exchange_ns, detail)
    if reason != REASON_NONE:
        return reason
    plain = sise_integers(fields.base, fields.begins, layout.numbers, layout.number_count, &trade.price)
    if not plain & PRICE or trade.price == 0:
        detail[0] = layout.price
        if not read_decimal(fields, layout.price, &trade.price, &price_scale) or trade.price <= 0:
            return REASON_BAD_PRICE
    if not plain & VOLUME:
        detail[0] = layout.size
        if not read_decimal(fields, layout.size, &trade.volume, &volume_scale) or trade.volume < 0:
            return REASON_BAD_SIZE
    if not plain & CUM_VOLUME:
        if read_optional(fields, layout.cum_volume, &trade.cum_volume, &cum_volume_scale) and trade.cum_volume < 0:
            detail[0] = layout.cum_volume
            return REASON_BAD_NUMBER
    if not plain & ASK or trade.ask == 0:
        read_optional_price(fields, layout.best_ask, &trade.ask, &ask_scale)
    if not plain & BID or trade.bid == 0:
        read_optional_price(fields, layout.best_bid, &trade.bid, &bid_scale)
    if not plain & CHANGE_RATE:
        read_optional(fields, layout.change_rate, &trade.change_rate, &change_scale)
    code = read_code(fields, layout.side)
    side = SISE_SIDE_BUY if code == c'1' else SISE_SIDE_SELL if code == c'5' else SISE_SIDE_NONE
    sise_store_trade_tail(trade, price_scale, volume_scale, cum_volume_scale, ask_scale, bid_scale, change_scale, side)
    return REASON_NONE


# The levels of one side. A far level whose price and size are both left out is an absent level, like one of price 0.
cdef inline int read_levels(const KisFields* fields, int levels, const int8_t* price_at, const int8_t* size_at,
                            int64_t* prices, int64_t* sizes, uint8_t* price_scales, uint8_t* size_scales,
                            int* detail) noexcept nogil:
    cdef int level
    for level in range(levels):
        if not read_decimal(fields, price_at[level], &prices[level], &price_scales[level]) or prices[level] < 0:
            if (level == 0
                    or not scan_is_absent(field_begin(fields, price_at[level]), field_end(fields, price_at[level]))
                    or not scan_is_absent(field_begin(fields, size_at[level]), field_end(fields, size_at[level]))):
                detail[0] = price_at[level]
                return REASON_BAD_PRICE
            prices[level] = sizes[level] = 0
            price_scales[level] = size_scales[level] = 0
        elif not read_decimal(fields, size_at[level], &sizes[level], &size_scales[level]) or sizes[level] < 0:
            detail[0] = size_at[level]
            return REASON_BAD_SIZE
    for level in range(levels, SISE_LEVELS):
        prices[level] = sizes[level] = 0
        price_scales[level] = size_scales[level] = 0
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


cdef inline int read_book(KisParser parser, const sise_kis_layout* layout, const KisFields* fields, int64_t recv_ns,
                          sise_book* book, int* detail) noexcept nogil:
    cdef char session
    cdef int reason = read_identity(parser, layout, fields, recv_ns, book.symbol, &book.exchange_ns, detail)
    if reason != REASON_NONE:
        return reason
    if (layout.number_count == ALL_LEVELS
            and sise_integers(fields.base, fields.begins, layout.numbers, ALL_LEVELS, book.ask_price) == ALL_PLAIN):
        memset(book.ask_price_scale, 0, ALL_LEVELS)
    else:
        reason = read_levels(fields, layout.levels, layout.ask_price, layout.ask_size, book.ask_price, book.ask_size,
                             book.ask_price_scale, book.ask_size_scale, detail)
        if reason != REASON_NONE:
            return reason
        reason = read_levels(fields, layout.levels, layout.bid_price, layout.bid_size, book.bid_price, book.bid_size,
                             book.bid_price_scale, book.bid_size_scale, detail)
        if reason != REASON_NONE:
            return reason
    if (book.ask_price[0] > 0 and book.bid_price[0] > 0
            and sise_decimal_above(book.bid_price[0], book.bid_price_scale[0],
                                   book.ask_price[0], book.ask_price_scale[0])):
        book.header.flags |= SISE_FLAG_CROSSED
    session = read_code(fields, layout.session)
    if c'A' <= session <= c'D':
        book.header.flags |= SISE_FLAG_AUCTION
    return REASON_NONE


cdef inline uint32_t record_bytes(const sise_kis_layout* layout) noexcept nogil:
    return sizeof(sise_trade) if layout.kind == SISE_TRADE else sizeof(sise_book)


# Ring bytes that a frame's records can need at most: each as itself or, if bad, as a quarantine record (8: rounding
# up), and the pad in front of the one that does not fit before the ring's end.
cdef inline uint64_t worst_case_bytes(const KisFrame* frame) noexcept nogil:
    cdef uint64_t each = record_bytes(frame.layout) + sizeof(sise_quarantine) + REPLAY_PREFIX_BYTES + 8
    cdef uint64_t payload = <uint64_t>(frame.end - frame.payload)
    return (frame.count + 1) * each + 2 * payload


@cython.final
cdef class KisParser(FrameParser):
    """The parser of one KIS connection; stamps its venue, market and connection number on every record."""

    def __cinit__(self):
        self.begins_room = FIRST_ROOM
        self.begins = <uint32_t*>malloc(FIRST_ROOM * sizeof(uint32_t))
        if self.begins is NULL:
            raise MemoryError
        self.last_layout = &sise_kis_layouts[0]

    def __init__(self, *, uint8_t venue, uint8_t market, uint16_t connection=0):
        self.venue = venue
        self.market = market
        self.connection = connection

    def __dealloc__(self):
        free(self.begins)

    cdef int parse_frame(self, RingWriter ring, const char* data, Py_ssize_t size, bint is_text,
                         int64_t recv_ns) noexcept nogil:
        cdef KisFrame frame
        cdef int detail = 0
        cdef int reason
        if not is_text:
            reason = REASON_UNEXPECTED_BINARY
        elif size == 0:
            reason = REASON_EMPTY_FRAME
        elif data[0] == c'{' or data[0] == c'[':
            return PARSE_CONTROL
        else:
            reason = self.open_frame(data, size, &frame, &detail)
            if reason == REASON_NONE and frame.count > 1 and worst_case_bytes(&frame) > ring.capacity:
                reason = REASON_TOO_LONG   # would never fit, however long the worker waits
            if reason == REASON_NONE:
                return self.append_records(ring, &frame, recv_ns)
        if ring.append_quarantine(<uint16_t>reason, <uint16_t>detail, self.venue, self.market, recv_ns,
                                  NULL, 0, data, size) < 0:
            return PARSE_RING_FULL
        self.quarantined += 1
        return 1

    # Read the header of a data frame, find its fields and check their number: REASON_NONE, or why not, with *detail*.
    cdef inline int open_frame(self, const char* data, Py_ssize_t size, KisFrame* frame, int* detail) noexcept nogil:
        cdef const char* end = data + size
        cdef const char* tr_end
        cdef const char* count_end
        cdef size_t payload_size, fields

        detail[0] = 0
        if data[0] != c'0' and data[0] != c'1':
            return REASON_UNKNOWN_FRAME
        if size < 2 or data[1] != c'|':
            return REASON_MALFORMED_HEADER
        frame.layout = self.find_layout(data, size)
        tr_end = data + 2 + SISE_KIS_TR_BYTES
        if frame.layout == NULL:
            tr_end = <const char*>memchr(data + 2, c'|', <size_t>(size - 2))
            if tr_end == NULL:
                return REASON_MALFORMED_HEADER
        count_end = tr_end + 4
        if end - tr_end <= 4 or count_end[0] != c'|' or tr_end[1] == c'|' or tr_end[2] == c'|' or tr_end[3] == c'|':
            count_end = <const char*>memchr(tr_end + 1, c'|', <size_t>(end - tr_end - 1))
            if count_end == NULL:
                return REASON_MALFORMED_HEADER
        if data[0] == c'1':
            return REASON_ENCRYPTED

        frame.data = data
        frame.end = end
        frame.payload = count_end + 1
        if frame.layout == NULL:
            return REASON_UNKNOWN_TR
        frame.count = read_count(tr_end + 1, count_end)
        if frame.count == 0 or frame.count == COUNT_MAX:
            detail[0] = min(<int>frame.count, DETAIL_MAX)
            return REASON_BAD_COUNT
        payload_size = <size_t>(end - frame.payload)
        if not self.make_room(payload_size):
            return REASON_TOO_LONG
        self.begins[0] = 0
        fields = sise_find(frame.payload, payload_size, c'^', self.begins + 1) + 1
        self.begins[fields] = <uint32_t>payload_size + 1   # as if a separator stood behind the last field
        frame.width = <uint32_t>fields // frame.count if frame.count > 1 else <uint32_t>fields
        if (frame.width * frame.count != fields or frame.width < frame.layout.min_width
                or frame.width > frame.layout.max_width):
            detail[0] = <int>min(fields, <size_t>DETAIL_MAX)
            return REASON_BAD_WIDTH
        return REASON_NONE

    # The layout of "f|TRTRTRTR|..."; that of most frames is that of the frame before.
    cdef inline const sise_kis_layout* find_layout(self, const char* data, Py_ssize_t size) noexcept nogil:
        cdef uint64_t name
        cdef int i
        if size <= 2 + SISE_KIS_TR_BYTES or data[2 + SISE_KIS_TR_BYTES] != c'|':
            return NULL
        name = sise_load64(data + 2)
        if name != sise_load64(self.last_layout.tr):
            for i in range(SISE_KIS_LAYOUTS):
                if name == sise_load64(sise_kis_layouts[i].tr):
                    self.last_layout = &sise_kis_layouts[i]
                    return self.last_layout
            return NULL
        return self.last_layout

    # Can the fields of so many bytes be noted? Each may be a separator.
    cdef inline bint make_room(self, size_t payload_size) noexcept nogil:
        cdef uint32_t* grown
        cdef size_t room = payload_size + 2 + SISE_FIND_SLACK
        if room <= self.begins_room:
            return True
        if payload_size > MAX_PAYLOAD:
            return False
        grown = <uint32_t*>realloc(self.begins, room * sizeof(uint32_t))
        if grown is NULL:
            return False
        self.begins = grown
        self.begins_room = room
        return True

    # All records of the frame, or none: a frame of one needs no look ahead, reserve() says when there is no room.
    cdef int append_records(self, RingWriter ring, const KisFrame* frame, int64_t recv_ns) noexcept nogil:
        cdef KisFields fields
        cdef char prefix[REPLAY_PREFIX_BYTES]
        cdef int reason, detail = 0
        if frame.count > 1 and ring.free_bytes() < worst_case_bytes(frame):
            return PARSE_RING_FULL
        fields.floor = frame.data
        fields.base = frame.payload
        fields.begins = self.begins
        for _ in range(frame.count):
            reason = self.append_record(ring, frame.layout, &fields, recv_ns, &detail)
            if reason < 0:
                return PARSE_RING_FULL
            if reason != REASON_NONE:
                memcpy(prefix, b"0|", 2)
                memcpy(prefix + 2, frame.layout.tr, SISE_KIS_TR_BYTES)
                memcpy(prefix + 2 + SISE_KIS_TR_BYTES, b"|001|", 5)
                if ring.append_quarantine(<uint16_t>reason, <uint16_t>detail, self.venue, self.market, recv_ns,
                                          prefix, REPLAY_PREFIX_BYTES, field_begin(&fields, 0),
                                          field_end(&fields, <int>frame.width - 1) - field_begin(&fields, 0)) < 0:
                    return PARSE_RING_FULL
                self.quarantined += 1
            else:
                self.records += 1
            fields.begins += frame.width
        return <int>frame.count

    # Commit one record; REASON_NONE, or why it was not, with *detail*; -1 if the ring is full.
    cdef inline int append_record(self, RingWriter ring, const sise_kis_layout* layout, const KisFields* fields,
                                  int64_t recv_ns, int* detail) noexcept nogil:
        cdef int reason
        cdef sise_record_header* header = <sise_record_header*>ring.reserve(record_bytes(layout))
        if header == NULL:
            return -1
        header.recv_ns = recv_ns
        sise_store_origin(header, layout.kind, self.venue, self.market, KST_OFFSET_MIN, self.connection)
        if layout.kind == SISE_TRADE:
            reason = read_trade(self, layout, fields, recv_ns, <sise_trade*>header, detail)
        else:
            reason = read_book(self, layout, fields, recv_ns, <sise_book*>header, detail)
        if reason == REASON_NONE:
            ring.commit(<char*>header)
        return reason

    def parse_view(self, RingWriter ring not None, const unsigned char[::1] frame not None, int64_t recv_ns, *,
                   bint is_text=True) -> int:
        """Do as `parse`, reading the frame where it lies instead of from a bytes object."""
        cdef Py_ssize_t size = frame.shape[0]
        cdef const char* data = NULL   # an empty frame has no address
        cdef int result
        if size:
            data = <const char*>&frame[0]
        with nogil:
            result = self.parse_frame(ring, data, size, is_text, recv_ns)
            ring.publish_head()
        return result

    def parse_many(self, RingWriter ring not None, list frames not None, int64_t recv_ns) -> int:
        """Append the records of all *frames*, received together, and publish once; return how many frames fitted.

        Control frames count as fitting and leave nothing in the ring. The rest of *frames* has to be offered again.
        """
        cdef bytes frame
        cdef int done = 0
        for frame in frames:
            if self.parse_frame(ring, frame, len(frame), True, recv_ns) == PARSE_RING_FULL:
                break
            done += 1
        ring.publish_head()
        return done


def native_layouts() -> dict:
    """Return the table that was compiled in, in the shape of kis_layouts.toml without the titles."""
    table = {}
    for i in range(SISE_KIS_LAYOUTS):
        layout = sise_kis_layouts[i]
        row = {
            "kind": "trade" if layout.kind == SISE_TRADE else "orderbook",
            "min_width": layout.min_width, "max_width": layout.max_width, "needed": layout.needed,
        }
        single = {
            "symbol": layout.symbol, "time": layout.time, "date": layout.date, "price": layout.price,
            "size": layout.size, "cum_volume": layout.cum_volume, "best_ask": layout.best_ask,
            "best_bid": layout.best_bid, "change_rate": layout.change_rate, "side": layout.side,
            "session": layout.session,
        }
        row.update({role: position for role, position in single.items() if position != SISE_KIS_NO_FIELD})
        if layout.levels:
            row["ask_price"] = [layout.ask_price[k] for k in range(layout.levels)]
            row["ask_size"] = [layout.ask_size[k] for k in range(layout.levels)]
            row["bid_price"] = [layout.bid_price[k] for k in range(layout.levels)]
            row["bid_size"] = [layout.bid_size[k] for k in range(layout.levels)]
        table[layout.tr[:SISE_KIS_TR_BYTES].decode("ascii")] = row
    return table


# ---- doors for the tests of scan.pxd, whose functions Python cannot call ---------------------------------------------

def probe_decimal(bytes frame not None, int begin, int end):
    """Return (mantissa, scale) of the field frame[begin:end], None if it is refused."""
    cdef int64_t mantissa = 0
    cdef uint8_t scale = 0
    cdef const char* data = frame
    return (mantissa, scale) if scan_decimal(data, data + begin, data + end, &mantissa, &scale) else None


def probe_hhmmss(bytes frame not None, int begin, int end):
    """Return the seconds since midnight of frame[begin:end], None if it is refused."""
    cdef int32_t seconds = 0
    cdef const char* data = frame
    return seconds if scan_hhmmss(data + begin, data + end, &seconds) else None


def probe_yyyymmdd(bytes frame not None, int begin, int end):
    """Return the days since 1970-01-01 of frame[begin:end], None if it is refused."""
    cdef int32_t days = 0
    cdef const char* data = frame
    return days if scan_yyyymmdd(data, data + begin, data + end, &days) else None


def probe_symbol(bytes field not None):
    """Return the symbol as it is stored, NUL padded, None if it is refused."""
    cdef char symbol[SISE_SYMBOL_BYTES]
    cdef const char* data = field
    return symbol[:SISE_SYMBOL_BYTES] if scan_symbol(data, data + len(field), symbol) else None


def probe_separators(const unsigned char[::1] text not None, char separator) -> list:
    """Return the offsets behind each *separator*: three lists, by the widest method here, by SSE2 and without SIMD."""
    cdef size_t size = <size_t>text.shape[0], i
    cdef const char* data = NULL
    cdef uint32_t* behind = <uint32_t*>malloc((size + SISE_FIND_SLACK) * sizeof(uint32_t))
    if behind is NULL:
        raise MemoryError
    if size:
        data = <const char*>&text[0]
    found = []
    for method in range(3):
        if method == 0:
            count = sise_find(data, size, separator, behind)
        elif method == 1:
            count = sise_find_sse2(data, size, separator, behind)
        else:
            count = sise_find_portable(data, size, separator, behind)
        found.append([behind[i] for i in range(count)])
    free(behind)
    return found


def probe_integers(bytes frame not None, list begins not None, list numbers not None) -> list:
    """Return [(values or None)] of the fields *numbers*, by the widest method here and without SIMD."""
    cdef uint32_t offsets[128]
    cdef uint8_t positions[64]
    cdef int64_t values[64]
    cdef const char* data = frame
    cdef int count = <int>len(numbers)
    cdef uint64_t plain
    for i, begin in enumerate(begins):
        offsets[i] = begin
    memset(positions, 0, sizeof(positions))
    for i, number in enumerate(numbers):
        positions[i] = number
    found = []
    for method in range(2):
        if method == 0:
            plain = sise_integers(data + 8, offsets, positions, count, values)
        else:
            plain = sise_integers_portable(data + 8, offsets, positions, count, values)
        found.append([values[i] if plain >> i & 1 else None for i in range(count)])
    return found
