# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Step 2 of 6 in the life of a tick, for KIS: one `flag|TR|count|payload` frame in, all of its records in the ring out.

Before: `frame_listener`. After: `ring_writer`. Which field means what is data: `kis_layouts.toml`, compiled in as a
table, so a further TR is a row there. Whatever does not fit becomes a quarantine record: the whole frame when its
header or its number of fields is wrong, otherwise only the bad record, kept as a frame of its own
(`flag|TR|001|record`) so that it can be parsed again. Every length comes from the frame itself and is checked before
use, hence no bounds checks by the compiler.
"""

cimport cython
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy, memset

from native_pipeline.frame_parser cimport PARSE_CONTROL, PARSE_RING_FULL, FrameParser, commit_market_data
from native_pipeline.kis_record cimport (
    SISE_KIS_ALTERNATIVE_BYTES,
    SISE_KIS_LAYOUTS,
    SISE_KIS_NO_FIELD,
    SISE_KIS_TR_BYTES,
    SISE_KIS_TRS,
    KisFields,
    field_begin,
    field_end,
    read_book,
    read_event,
    read_identity,
    read_trade,
    sise_kis_layout,
    sise_kis_layouts,
    sise_kis_store_origin,
)
from native_pipeline.record cimport (
    REASON_BAD_COUNT,
    REASON_BAD_WIDTH,
    REASON_EMPTY_FRAME,
    REASON_ENCRYPTED,
    REASON_MALFORMED_HEADER,
    REASON_NONE,
    REASON_TOO_LONG,
    REASON_UNEXPECTED_BINARY,
    REASON_UNKNOWN_FRAME,
    REASON_UNKNOWN_TR,
    SISE_BOOK,
    SISE_SYMBOL_BYTES,
    SISE_TRADE,
    sise_book,
    sise_event,
    sise_quarantine,
    sise_record_header,
    sise_trade,
)
from native_pipeline.ring_writer cimport RingWriter
from native_pipeline.streams cimport stream_at_once, tag_for
from native_pipeline.scan cimport (
    SISE_FIND_SLACK,
    scan_decimal,
    scan_hhmmss,
    scan_symbol,
    scan_yyyymmdd,
    sise_decimals,
    sise_decimals_portable,
    sise_find,
    sise_find_portable,
    sise_find_sse2,
    sise_integers,
    sise_integers_portable,
    sise_load64,
)


cdef extern from "<string.h>" nogil:
    size_t strnlen(const char* text, size_t limit)


cdef enum:
    DETAIL_MAX = 65535          # the record keeps 16 bits
    TEXT_MAX = 65535            # bytes of its own text that an event keeps
    COUNT_MAX = 1000000         # of records; more digits than that are no count
    REPLAY_PREFIX_BYTES = 15    # "0|H0STCNT0|001|"
    PROBE_PREFIX_BYTES = 9      # that a method may read in front of the fields
    FIRST_ROOM = 4096           # fields of a frame before the first growth
    MAX_PAYLOAD = 1 << 20       # a frame beyond this is no market data: a ring keeps no more of it in quarantine

cdef uint64_t GOLDEN = 0x9e3779b97f4a7c15   # 2**64 / golden ratio: spreads the TRs over the slots


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


cdef inline uint32_t record_bytes(const sise_kis_layout* layout) noexcept nogil:
    if layout.kind == SISE_TRADE:
        return sizeof(sise_trade)
    return sizeof(sise_book) if layout.kind == SISE_BOOK else sizeof(sise_event)


# Ring bytes that a frame's records can need at most: each as itself or, if bad, as a quarantine record (8: rounding
# up), and the pad in front of the one that does not fit before the ring's end. Events and quarantine have text behind.
cdef inline uint64_t worst_case_bytes(const KisFrame* frame) noexcept nogil:
    cdef uint64_t each = record_bytes(frame.layout) + sizeof(sise_quarantine) + REPLAY_PREFIX_BYTES + 8
    cdef uint64_t payload = <uint64_t>(frame.end - frame.payload)
    return (frame.count + 1) * each + 2 * payload


# Bytes of a record of *width* fields as it is on the wire.
cdef inline Py_ssize_t text_size(const KisFields* fields, uint32_t width) noexcept nogil:
    return field_end(fields, <int>width - 1) - field_begin(fields, 0)


@cython.final
cdef class KisParser(FrameParser):
    """The parser of one KIS connection; stamps its venue and connection number on every record.

    market: of every record; 0 (default): each record's own, which its TR tells.
    hands_over_encrypted: encrypted frames (order notices) are control frames for Python instead of quarantine.
    layouts: alternatives "TR:NAME" of kis_layouts.toml to use. Raises ValueError if there is no such alternative.
    """

    def __cinit__(self):
        self.begins_room = FIRST_ROOM
        self.begins = <uint32_t*>malloc(FIRST_ROOM * sizeof(uint32_t))
        if self.begins is NULL:
            raise MemoryError
        self.last_layout = &sise_kis_layouts[0]
        for i in range(SISE_KIS_TRS):
            self.layouts[self.slot_of(sise_load64(sise_kis_layouts[i].tr))] = &sise_kis_layouts[i]

    def __init__(self, *, uint8_t venue, uint8_t market=0, uint16_t connection=0, bint hands_over_encrypted=False,
                 layouts=()):
        self.venue = venue
        self.market = market
        self.connection = connection
        self.hands_over_encrypted = hands_over_encrypted
        numbers = {name: number for number, name in enumerate(native_layouts()) if ":" in name}
        for name in layouts:
            if name not in numbers:
                raise ValueError(f"layout {name!r} is not known; known alternatives: {', '.join(numbers)}")
            i = numbers[name]
            self.layouts[self.slot_of(sise_load64(sise_kis_layouts[i].tr))] = &sise_kis_layouts[i]
        self.last_layout = self.layouts[self.slot_of(sise_load64(sise_kis_layouts[0].tr))]

    def __dealloc__(self):
        free(self.begins)

    cdef int parse_frame(self, RingWriter ring, const char* data, Py_ssize_t size, bint is_text,
                         int64_t recv_ns) noexcept nogil:
        cdef KisFrame frame
        cdef uint8_t market = self.market
        cdef int detail = 0
        cdef int reason
        if not is_text:
            reason = REASON_UNEXPECTED_BINARY
        elif size == 0:
            reason = REASON_EMPTY_FRAME
        elif data[0] == c'{' or data[0] == c'[':
            return PARSE_CONTROL
        else:
            frame.layout = NULL
            reason = self.open_frame(data, size, &frame, &detail)
            if reason == REASON_NONE and frame.count > 1 and worst_case_bytes(&frame) > ring.capacity:
                reason = REASON_TOO_LONG   # would never fit, however long the worker waits
            if reason == REASON_NONE:
                return self.append_records(ring, &frame, recv_ns)
            if reason == REASON_ENCRYPTED and self.hands_over_encrypted:
                return PARSE_CONTROL
            market = self.market_of(frame.layout)
        if ring.append_quarantine(<uint16_t>reason, <uint16_t>detail, self.venue, market, recv_ns,
                                  NULL, 0, data, size) < 0:
            return PARSE_RING_FULL
        self.quarantined += 1
        return 1

    # The market that records of *layout* carry; NULL: of no known TR.
    cdef inline uint8_t market_of(self, const sise_kis_layout* layout) noexcept nogil:
        return self.market if self.market or layout == NULL else layout.market

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
        detail[0] = <int>min(fields, <size_t>DETAIL_MAX)
        if frame.width * frame.count != fields:
            return REASON_BAD_WIDTH
        while frame.width < frame.layout.min_width or frame.width > frame.layout.max_width:
            if frame.layout.narrower == 0:
                return REASON_BAD_WIDTH
            frame.layout = &sise_kis_layouts[frame.layout.narrower]
        return REASON_NONE

    # The layout of "f|TRTRTRTR|..."; that of most frames is that of the frame before.
    cdef inline const sise_kis_layout* find_layout(self, const char* data, Py_ssize_t size) noexcept nogil:
        cdef const sise_kis_layout* found
        cdef uint64_t name
        if size <= 2 + SISE_KIS_TR_BYTES or data[2 + SISE_KIS_TR_BYTES] != c'|':
            return NULL
        name = sise_load64(data + 2)
        if name == sise_load64(self.last_layout.tr):
            return self.last_layout
        found = self.layouts[self.slot_of(name)]
        if found != NULL:
            self.last_layout = found
        return found

    # The slot of a TR: where it is, or else the free one where it would be.
    cdef inline int slot_of(self, uint64_t tr) noexcept nogil:
        cdef int slot = <int>((tr * GOLDEN) >> LAYOUT_SHIFT)
        while self.layouts[slot] != NULL and sise_load64(self.layouts[slot].tr) != tr:
            slot = (slot + 1) % LAYOUT_SLOTS
        return slot

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
            reason = self.append_record(ring, frame.layout, &fields, frame.width, recv_ns, &detail)
            if reason < 0:
                return PARSE_RING_FULL
            if reason != REASON_NONE:
                memcpy(prefix, b"0|", 2)
                memcpy(prefix + 2, frame.layout.tr, SISE_KIS_TR_BYTES)
                memcpy(prefix + 2 + SISE_KIS_TR_BYTES, b"|001|", 5)
                if ring.append_quarantine(<uint16_t>reason, <uint16_t>detail, self.venue,
                                          self.market_of(frame.layout), recv_ns, prefix, REPLAY_PREFIX_BYTES,
                                          field_begin(&fields, 0), text_size(&fields, frame.width)) < 0:
                    return PARSE_RING_FULL
                self.quarantined += 1
            fields.begins += frame.width
        return <int>frame.count

    # Commit one record; REASON_NONE, or why it was not, with *detail*; -1 if the ring is full.
    cdef inline int append_record(self, RingWriter ring, const sise_kis_layout* layout, const KisFields* fields,
                                  uint32_t width, int64_t recv_ns, int* detail) noexcept nogil:
        cdef int reason
        cdef int16_t utc_offset_min
        cdef uint8_t flags = layout.flags
        cdef bint is_event = layout.kind != SISE_TRADE and layout.kind != SISE_BOOK
        cdef Py_ssize_t text = text_size(fields, width) if is_event else 0
        cdef uint32_t kept = <uint32_t>min(text, <Py_ssize_t>TEXT_MAX)
        cdef sise_record_header* header = <sise_record_header*>ring.reserve(record_bytes(layout) + kept)
        if header == NULL:
            return -1
        header.recv_ns = recv_ns
        reason = read_identity(&self.days, layout, fields, recv_ns, <sise_trade*>header, &utc_offset_min, detail)
        if reason != REASON_NONE:
            return reason
        if layout.kind == SISE_TRADE:
            ring.expected = stream_at_once(ring.streams_seen, (<sise_trade*>header).symbol,
                                           tag_for(SISE_TRADE, self.venue, self.market_of(layout), layout.flags))
            reason = read_trade(layout, fields, <sise_trade*>header, detail)
        elif layout.kind == SISE_BOOK:
            reason = read_book(layout, fields, <sise_book*>header, &flags, detail)
        else:
            reason = read_event(layout, fields, <sise_event*>header, <uint16_t>kept, kept < text, detail)
            memcpy(<char*>header + sizeof(sise_event), field_begin(fields, 0), kept)
        if reason == REASON_NONE:
            sise_kis_store_origin(header, layout.kind, flags, self.venue, self.market_of(layout), utc_offset_min,
                                  self.connection)
            commit_market_data(self, ring, header, 0)
        return reason


cdef dict native_layout(const sise_kis_layout* layout):
    row = {
        "kind": layout.kind, "type": layout.type, "market": layout.market, "flags": layout.flags,
        "min_width": layout.min_width, "max_width": layout.max_width, "utc_offset_min": layout.utc_offset_min,
        "buy": chr(layout.buy), "sell": chr(layout.sell),
    }
    single = {
        "symbol": layout.symbol, "realtime_key": layout.realtime_key, "time": layout.time, "date": layout.date,
        "kst_time": layout.kst_time, "kst_date": layout.kst_date, "subsecond": layout.subsecond, "price": layout.price,
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
    return row


def native_layouts() -> dict:
    """Return the table that was compiled in: names and roles of kis_layouts.toml, kinds and markets as numbers."""
    table = {}
    for i in range(SISE_KIS_LAYOUTS):
        layout = &sise_kis_layouts[i]
        name = layout.tr[:SISE_KIS_TR_BYTES].decode("ascii")
        alternative = layout.alternative[:strnlen(layout.alternative, SISE_KIS_ALTERNATIVE_BYTES)].decode("ascii")
        if alternative:
            name += ":" + alternative
        elif i >= SISE_KIS_TRS:
            name += f".{layout.max_width}"
        table[name] = native_layout(layout)
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
    return probe_numbers(frame, begins, numbers, False)


def probe_decimals(bytes frame not None, list begins not None, list numbers not None) -> list:
    """Return [((mantissa, scale) or None)] of the fields *numbers*, by the widest method here and without SIMD."""
    return probe_numbers(frame, begins, numbers, True)


cdef list probe_numbers(bytes frame, list begins, list numbers, bint decimals):
    cdef uint32_t offsets[128]
    cdef uint8_t positions[64]
    cdef uint8_t scales[64]
    cdef int64_t values[64]
    cdef const char* base = <const char*>frame + PROBE_PREFIX_BYTES
    cdef int count = <int>len(numbers)
    cdef uint64_t plain
    for i, begin in enumerate(begins):
        offsets[i] = begin
    memset(positions, 0, sizeof(positions))
    for i, number in enumerate(numbers):
        positions[i] = number
    found = []
    for is_widest in (True, False):
        if decimals and is_widest:
            plain = sise_decimals(base, offsets, positions, count, values, scales)
        elif decimals:
            plain = sise_decimals_portable(base, offsets, positions, count, values, scales)
        elif is_widest:
            plain = sise_integers(base, offsets, positions, count, values)
        else:
            plain = sise_integers_portable(base, offsets, positions, count, values)
        if decimals:
            found.append([(values[i], scales[i]) if plain >> i & 1 else None for i in range(count)])
        else:
            found.append([values[i] if plain >> i & 1 else None for i in range(count)])
    return found
