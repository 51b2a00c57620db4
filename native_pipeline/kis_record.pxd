# Part of step 2 of 6 in the life of a tick, for KIS: the fields of one record, already found, into a trade, an order
# book or an event. What stands where is the layout's, see kis_layouts.toml.
#
# Each read_* returns REASON_NONE, or why the record is refused, with the position of the field in *detail*; the fields
# are judged in a fixed order. Nothing here raises, allocates or reads outside the frame; // rounds down, as in Python.

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from native_pipeline.record cimport (
    REASON_BAD_DATE,
    REASON_BAD_NUMBER,
    REASON_BAD_PRICE,
    REASON_BAD_SIZE,
    REASON_BAD_SYMBOL,
    REASON_BAD_TIME,
    REASON_NONE,
    SISE_ABSENT,
    SISE_FLAG_AUCTION,
    SISE_FLAG_CROSSED,
    SISE_LEVELS,
    SISE_SIDE_BUY,
    SISE_SIDE_NONE,
    SISE_SIDE_SELL,
    sise_book,
    sise_event,
    sise_record_header,
    sise_store_trade_tail,
    sise_trade,
)
from native_pipeline.scan cimport (
    scan_decimal,
    scan_digits,
    scan_hhmmss,
    scan_is_absent,
    scan_symbol,
    scan_yyyymmdd,
    sise_decimals,
    sise_integers,
    sise_load64,
)


cdef extern from "kis_layouts.h" nogil:
    enum:
        SISE_KIS_TRS
        SISE_KIS_LAYOUTS
        SISE_KIS_TR_BYTES
        SISE_KIS_ALTERNATIVE_BYTES
        SISE_KIS_MAX_WIDTH
        SISE_KIS_NO_FIELD

    # One row of kis_layouts.toml: what a TR's record holds, and at which positions.
    ctypedef struct sise_kis_layout:
        char tr[8]
        uint8_t kind
        uint8_t type
        uint8_t market
        uint8_t flags
        uint8_t min_width
        uint8_t max_width
        uint8_t narrower
        uint8_t levels
        int16_t utc_offset_min
        char buy
        char sell
        uint64_t present
        uint8_t numbers[40]
        int8_t symbol
        int8_t realtime_key
        int8_t time
        int8_t date
        int8_t kst_time
        int8_t kst_date
        int8_t subsecond
        int8_t price
        int8_t size
        int8_t cum_volume
        int8_t best_ask
        int8_t best_bid
        int8_t change_rate
        int8_t side
        int8_t session
        int8_t ask_price[10]
        int8_t ask_size[10]
        int8_t bid_price[10]
        int8_t bid_size[10]
        char alternative[16]

    const sise_kis_layout sise_kis_layouts[]


# One record: field i is base[begins[i] : begins[i + 1] - 1].
cdef struct KisFields:
    const char* floor         # first readable byte: that of the frame
    const char* base
    const uint32_t* begins


# The newest date as it was written, and where it began: nearly always the next record's too.
cdef struct KisDay:
    uint64_t text
    int64_t ns


# The days of a connection: of the exchange, and of Korea where the record has both.
cdef struct KisDays:
    KisDay local
    KisDay kst


cdef enum:
    ALL_LEVELS = 40                  # prices and sizes of both sides
    SUBSECOND_DIGITS = 4
    SUBSECOND_NS = 100000
    REALTIME_KEY_BYTES = 4           # in front of the symbol: D or R, then the market
    MAX_OFFSET_MIN = 840             # of any place on earth: UTC-12 to UTC+14
    OFFSET_STEP_S = 900              # offsets are whole quarters of an hour

cdef enum:
    # bits of the numbers of a trade, in the order of its record
    PRICE = 1 << 0
    VOLUME = 1 << 1
    CUM_VOLUME = 1 << 2
    ASK = 1 << 3
    BID = 1 << 4
    CHANGE_RATE = 1 << 5
    # of an event, in which no ask and bid stand in between
    EVENT_CHANGE_RATE = 1 << 3
    TRADE_NUMBERS = 6
    EVENT_NUMBERS = 4


cdef extern from * nogil:
    """
    #define SISE_KIS_NS_PER_S 1000000000LL
    #define SISE_KIS_NS_PER_MIN 60000000000LL
    #define SISE_KIS_DAY_NS 86400000000000LL
    #define SISE_KIS_KST_OFFSET_MIN 540

    /* left / 10**left_scale > right / 10**right_scale, for numbers >= 0: exact, as 2**63 * 10**18 < 2**127. */
    static inline int sise_decimal_above(int64_t left, uint8_t left_scale, int64_t right, uint8_t right_scale) {
        unsigned __int128 a = (uint64_t)left, b = (uint64_t)right;
        for (; left_scale < right_scale; left_scale++)
            a *= 10;
        for (; right_scale < left_scale; right_scale++)
            b *= 10;
        return a > b;
    }

    /* Bytes 24..31 of a header, and 96..103 of an event, each in one store: the checksum reads the words again at once,
     * and a load that spans young stores has to wait for them. */
    static inline void sise_kis_store_origin(sise_record_header *header, uint8_t kind, uint8_t flags, uint8_t venue,
                                             uint8_t market, int16_t utc_offset_min, uint16_t connection) {
        uint64_t word = kind | (uint64_t)flags << 8 | (uint64_t)venue << 16 | (uint64_t)market << 24 |
                        (uint64_t)(uint16_t)utc_offset_min << 32 | (uint64_t)connection << 48;
        memcpy(&header->kind, &word, sizeof word);
    }
    static inline void sise_kis_store_event_tail(sise_event *event, uint8_t price_scale, uint8_t volume_scale,
                                                 uint8_t cum_volume_scale, uint8_t change_rate_scale, uint8_t type,
                                                 uint8_t text_is_cut, uint16_t text_bytes) {
        uint64_t word = price_scale | (uint64_t)volume_scale << 8 | (uint64_t)cum_volume_scale << 16 |
                        (uint64_t)change_rate_scale << 24 | (uint64_t)type << 32 | (uint64_t)text_is_cut << 40 |
                        (uint64_t)text_bytes << 48;
        memcpy(&event->price_scale, &word, sizeof word);
    }
    /* The forty prices and sizes of a book, and their scales, in the order of the record. */
    static inline int64_t *sise_book_numbers(sise_book *book) {
        return (int64_t *)((char *)book + offsetof(sise_book, ask_price));
    }
    static inline uint8_t *sise_book_scales(sise_book *book) {
        return (uint8_t *)book + offsetof(sise_book, ask_price_scale);
    }
    static_assert(offsetof(sise_record_header, flags) == 25, "header");
    static_assert(offsetof(sise_record_header, connection) == 30, "header");
    static_assert(offsetof(sise_book, symbol) == offsetof(sise_trade, symbol), "book");
    static_assert(offsetof(sise_event, symbol) == offsetof(sise_trade, symbol), "event");
    static_assert(offsetof(sise_book, exchange_ns) == offsetof(sise_trade, exchange_ns), "book");
    static_assert(offsetof(sise_event, exchange_ns) == offsetof(sise_trade, exchange_ns), "event");
    static_assert(offsetof(sise_event, price_scale) == 96 && offsetof(sise_event, text_is_cut) == 101, "event");
    """
    const int64_t SISE_KIS_NS_PER_S
    const int64_t SISE_KIS_NS_PER_MIN
    const int64_t SISE_KIS_DAY_NS
    const int64_t SISE_KIS_KST_OFFSET_MIN
    int count_trailing_zeros "__builtin_ctzll"(uint64_t word)
    int64_t* sise_book_numbers(sise_book* book)
    uint8_t* sise_book_scales(sise_book* book)
    bint sise_decimal_above(int64_t left, uint8_t left_scale, int64_t right, uint8_t right_scale)
    void sise_kis_store_origin(sise_record_header* header, uint8_t kind, uint8_t flags, uint8_t venue, uint8_t market,
                               int16_t utc_offset_min, uint16_t connection)
    void sise_kis_store_event_tail(sise_event* event, uint8_t price_scale, uint8_t volume_scale,
                                   uint8_t cum_volume_scale, uint8_t change_rate_scale, uint8_t type,
                                   uint8_t text_is_cut, uint16_t text_bytes)


# ---- one field -------------------------------------------------------------------------------------------------------

cdef inline const char* field_begin(const KisFields* fields, int position) noexcept nogil:
    return fields.base + fields.begins[position]


cdef inline const char* field_end(const KisFields* fields, int position) noexcept nogil:
    return fields.base + fields.begins[position + 1] - 1


cdef inline bint read_decimal(const KisFields* fields, int position, int64_t* mantissa, uint8_t* scale) noexcept nogil:
    return scan_decimal(fields.floor, field_begin(fields, position), field_end(fields, position), mantissa, scale)


# A field that may be left out: absent unless it is a decimal.
cdef inline bint read_optional(const KisFields* fields, int position, int64_t* mantissa, uint8_t* scale) noexcept nogil:
    if position != SISE_KIS_NO_FIELD and read_decimal(fields, position, mantissa, scale):
        return True
    mantissa[0] = SISE_ABSENT
    scale[0] = 0
    return False


# An optional price: absent unless it is a positive decimal.
cdef inline void read_optional_price(const KisFields* fields, int position, int64_t* mantissa,
                                     uint8_t* scale) noexcept nogil:
    if read_optional(fields, position, mantissa, scale) and mantissa[0] <= 0:
        mantissa[0] = SISE_ABSENT
        scale[0] = 0


# A number that may be left out, but must not be negative or anything else than a number.
cdef inline bint read_missing_or_positive(const KisFields* fields, int position, int64_t* mantissa,
                                          uint8_t* scale) noexcept nogil:
    if position == SISE_KIS_NO_FIELD or scan_is_absent(field_begin(fields, position), field_end(fields, position)):
        mantissa[0] = SISE_ABSENT
        scale[0] = 0
        return True
    return read_decimal(fields, position, mantissa, scale) and mantissa[0] >= 0


# The single character of a code field; 0 if the role is not in the layout, or the field is empty or longer.
cdef inline char read_code(const KisFields* fields, int position) noexcept nogil:
    if position == SISE_KIS_NO_FIELD or field_end(fields, position) - field_begin(fields, position) != 1:
        return 0
    return field_begin(fields, position)[0]


# ---- symbol and time -------------------------------------------------------------------------------------------------

# YYYYMMDD -> its first nanosecond, as if it were in UTC.
cdef inline bint read_date(KisDay* newest, const KisFields* fields, int position, int64_t* day_ns) noexcept nogil:
    cdef const char* begin = field_begin(fields, position)
    cdef const char* end = field_end(fields, position)
    cdef int32_t days = 0
    if end - begin == 8 and sise_load64(begin) == newest.text:
        day_ns[0] = newest.ns
        return True
    if not scan_yyyymmdd(fields.floor, begin, end, &days):
        return False
    newest.text = sise_load64(begin)
    newest.ns = day_ns[0] = days * SISE_KIS_DAY_NS
    return True


# Local time of day + the day of receipt, or the day before or after when that is nearer -> UTC.
cdef inline int64_t date_by_receipt(int64_t time_ns, int64_t offset_ns, int64_t recv_ns) noexcept nogil:
    cdef int64_t local_recv = recv_ns + offset_ns
    cdef int64_t local = local_recv // SISE_KIS_DAY_NS * SISE_KIS_DAY_NS + time_ns
    if local - local_recv > SISE_KIS_DAY_NS // 2:
        local -= SISE_KIS_DAY_NS
    elif local_recv - local > SISE_KIS_DAY_NS // 2:
        local += SISE_KIS_DAY_NS
    return local - offset_ns


# The UTC offset of *local_ns*, from the same moment in Korea, to the quarter of an hour.
cdef inline int read_offset(KisDays* days, const sise_kis_layout* layout, const KisFields* fields, int64_t local_ns,
                            int16_t* utc_offset_min, int* detail) noexcept nogil:
    cdef int32_t seconds = 0
    cdef int64_t kst_ns = 0, ahead_s, offset_min
    detail[0] = layout.kst_time
    if not scan_hhmmss(field_begin(fields, layout.kst_time), field_end(fields, layout.kst_time), &seconds):
        return REASON_BAD_TIME
    detail[0] = layout.kst_date
    if not read_date(&days.kst, fields, layout.kst_date, &kst_ns):
        return REASON_BAD_DATE
    ahead_s = (local_ns - kst_ns) // SISE_KIS_NS_PER_S - seconds
    offset_min = (ahead_s + OFFSET_STEP_S // 2) // OFFSET_STEP_S * (OFFSET_STEP_S // 60) + SISE_KIS_KST_OFFSET_MIN
    if offset_min < -MAX_OFFSET_MIN or offset_min > MAX_OFFSET_MIN:
        return REASON_BAD_DATE
    utc_offset_min[0] = <int16_t>offset_min
    return REASON_NONE


# Does the key "DNASAAPL" stand in front of the symbol "AAPL"?
cdef inline bint is_realtime_key(const KisFields* fields, int position, int symbol) noexcept nogil:
    cdef const char* begin = field_begin(fields, position)
    cdef Py_ssize_t size = field_end(fields, symbol) - field_begin(fields, symbol)
    return (field_end(fields, position) - begin == size + REALTIME_KEY_BYTES and (begin[0] == c'D' or begin[0] == c'R')
            and memcmp(begin + REALTIME_KEY_BYTES, field_begin(fields, symbol), <size_t>size) == 0)


# What all records have in common, and in the same place, which is that of a trade.
cdef inline int read_identity(KisDays* days, const sise_kis_layout* layout, const KisFields* fields, int64_t recv_ns,
                              sise_trade* record, int16_t* utc_offset_min, int* detail) noexcept nogil:
    cdef int32_t seconds = 0
    cdef int64_t time_ns, day_ns = 0
    cdef uint64_t fraction = 0
    cdef int reason
    utc_offset_min[0] = layout.utc_offset_min
    detail[0] = layout.symbol
    if not scan_symbol(field_begin(fields, layout.symbol), field_end(fields, layout.symbol), record.symbol):
        return REASON_BAD_SYMBOL
    if layout.realtime_key != SISE_KIS_NO_FIELD and not is_realtime_key(fields, layout.realtime_key, layout.symbol):
        detail[0] = layout.realtime_key
        return REASON_BAD_SYMBOL
    if layout.time == SISE_KIS_NO_FIELD:
        record.exchange_ns = recv_ns
        return REASON_NONE
    detail[0] = layout.time
    if not scan_hhmmss(field_begin(fields, layout.time), field_end(fields, layout.time), &seconds):
        return REASON_BAD_TIME
    time_ns = seconds * SISE_KIS_NS_PER_S
    if layout.date == SISE_KIS_NO_FIELD:
        record.exchange_ns = date_by_receipt(time_ns, layout.utc_offset_min * SISE_KIS_NS_PER_MIN, recv_ns)
        return REASON_NONE
    detail[0] = layout.date
    if not read_date(&days.local, fields, layout.date, &day_ns):
        return REASON_BAD_DATE
    if layout.kst_date != SISE_KIS_NO_FIELD:
        reason = read_offset(days, layout, fields, day_ns + time_ns, utc_offset_min, detail)
        if reason != REASON_NONE:
            return reason
    if (layout.subsecond != SISE_KIS_NO_FIELD
            and field_end(fields, layout.subsecond) - field_begin(fields, layout.subsecond) == SUBSECOND_DIGITS
            and scan_digits(fields.floor, field_begin(fields, layout.subsecond), field_end(fields, layout.subsecond),
                            &fraction)):
        time_ns += <int64_t>fraction * SUBSECOND_NS
    record.exchange_ns = day_ns + time_ns - utc_offset_min[0] * SISE_KIS_NS_PER_MIN
    return REASON_NONE


# ---- one record ------------------------------------------------------------------------------------------------------

# The plain integers are read all at once, what has a sign or a point one by one. The small fields go to the record
# together: the checksum reads them again at once, and a load that spans young stores has to wait for them.
cdef inline int read_trade(const sise_kis_layout* layout, const KisFields* fields, sise_trade* trade,
                           int* detail) noexcept nogil:
    cdef uint8_t price_scale = 0, volume_scale = 0, cum_volume_scale = 0, ask_scale = 0, bid_scale = 0, change_scale = 0
    cdef uint64_t side, plain
    cdef char code
    plain = sise_integers(fields.base, fields.begins, layout.numbers, TRADE_NUMBERS, &trade.price) & layout.present
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
    side = SISE_SIDE_BUY if code == layout.buy else SISE_SIDE_SELL if code == layout.sell else SISE_SIDE_NONE
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
    return REASON_NONE


# All numbers of a book; False if one of them is not what it should be, or is left out.
cdef inline bint read_all_numbers(const sise_kis_layout* layout, const KisFields* fields,
                                  sise_book* book) noexcept nogil:
    cdef int64_t* numbers = sise_book_numbers(book)
    cdef uint8_t* scales = sise_book_scales(book)
    cdef uint64_t found = 0, rest
    cdef int number, side, i
    memset(scales, 0, ALL_LEVELS)
    if layout.levels == SISE_LEVELS:
        found = sise_integers(fields.base, fields.begins, layout.numbers, ALL_LEVELS, numbers)
        if found != layout.present:
            found = sise_decimals(fields.base, fields.begins, layout.numbers, ALL_LEVELS, numbers, scales)
    else:
        memset(numbers, 0, ALL_LEVELS * sizeof(int64_t))
        for i in range(0, 4):
            side = i * SISE_LEVELS
            found |= sise_decimals(fields.base, fields.begins, layout.numbers + side, layout.levels,
                                   numbers + side, scales + side) << side
    rest = layout.present & ~found
    while rest:
        number = count_trailing_zeros(rest)
        rest &= rest - 1
        if not read_decimal(fields, layout.numbers[number], numbers + number, scales + number) or numbers[number] < 0:
            return False
    return True


cdef inline int read_book(const sise_kis_layout* layout, const KisFields* fields, sise_book* book, uint8_t* flags,
                          int* detail) noexcept nogil:
    cdef char session
    cdef int reason
    if not read_all_numbers(layout, fields, book):   # once more, in the order in which a refusal is told
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
        flags[0] |= SISE_FLAG_CROSSED
    session = read_code(fields, layout.session)
    if c'A' <= session <= c'D':
        flags[0] |= SISE_FLAG_AUCTION
    return REASON_NONE


# Each number may be left out; what is there must be a number that makes sense. A price of 0 is none.
# The text is not copied here, only described.
cdef inline int read_event(const sise_kis_layout* layout, const KisFields* fields, sise_event* event,
                           uint16_t text_bytes, bint text_is_cut, int* detail) noexcept nogil:
    cdef uint8_t price_scale = 0, volume_scale = 0, cum_volume_scale = 0, change_scale = 0
    cdef uint64_t plain
    plain = sise_integers(fields.base, fields.begins, layout.numbers, EVENT_NUMBERS, &event.price) & layout.present
    if not plain & PRICE and not read_missing_or_positive(fields, layout.price, &event.price, &price_scale):
        detail[0] = layout.price
        return REASON_BAD_PRICE
    if event.price == 0:
        event.price = SISE_ABSENT
        price_scale = 0
    if not plain & VOLUME and not read_missing_or_positive(fields, layout.size, &event.volume, &volume_scale):
        detail[0] = layout.size
        return REASON_BAD_SIZE
    if not plain & CUM_VOLUME:
        if read_optional(fields, layout.cum_volume, &event.cum_volume, &cum_volume_scale) and event.cum_volume < 0:
            detail[0] = layout.cum_volume
            return REASON_BAD_NUMBER
    if not plain & EVENT_CHANGE_RATE:
        read_optional(fields, layout.change_rate, &event.change_rate, &change_scale)
    sise_kis_store_event_tail(event, price_scale, volume_scale, cum_volume_scale, change_scale, layout.type,
                              text_is_cut, text_bytes)
    return REASON_NONE
