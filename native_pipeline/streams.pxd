# What is known of each stream (symbol, kind, venue, market, exchange): when it last spoke, and how far its cumulative
# volume reaches. Decides for each trade whether it is new, and notes the holes in between.

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from native_pipeline.ledger cimport Ledger
from native_pipeline.record cimport SISE_TRADE, sise_record_header, sise_trade
from native_pipeline.scan cimport sise_load64


cdef enum:
    MOST_COUNTED = 65535  # records of a minute in a stream's own counter; then they move to the ledger
    MOST_HOLES = 4096     # open in one stream; one more, and the oldest is reported at once
    RECENT = 512          # identities of a stream's newest records: how far back a repetition is recognised
    RECENT_OF_PAIR = 8192  # the same where two sessions bring it: how far one may lag behind the other


# Shares low + 1 .. high of a session are missing, between two records of the stream.
cdef struct Hole:
    int64_t low
    int64_t high
    int64_t started_ns    # receipt of the record before
    int64_t ended_ns      # receipt of the record behind


# Two cache lines. The first is all that a trade reads which simply continues its stream.
cdef struct Stream:
    char symbol[24]
    uint32_t tag            # kind | venue << 8 | market << 16 | exchange flags << 24; 0: the slot is free
    uint32_t minute         # of receipt, since 1970
    uint16_t count          # records of that minute which the ledger has not got yet
    uint8_t volume_scale    # of cum_volume and of the volumes that it adds up
    uint8_t is_at_end         # the newest record is the one that reached cum_volume: see _settle
    uint32_t recent_at
    int64_t cum_volume      # how far the trades reach, SISE_ABSENT before the first one
    int64_t recv_ns         # of the newest record
    int64_t exchange_ns     # of the same
    # ---- second line
    uint64_t* recent        # identities, NULL until one is needed
    uint16_t* brought_by    # connections of the same, NULL until contents are compared
    Hole* open              # NULL until one is needed
    uint64_t top_number     # the highest of the venue's own numbers so far
    int64_t cum_recv_ns     # receipt of the trade that reached cum_volume
    int64_t cum_exchange_ns
    uint32_t recent_room    # RECENT or RECENT_OF_PAIR
    uint16_t holes
    uint16_t hole_room
    int64_t inherited_ns    # newest exchange time of the numbered trades that a predecessor wrote, 0: none


cdef struct FoundGap:
    char symbol[24]
    uint32_t tag
    uint8_t volume_scale
    Hole hole


@cython.final
cdef class Streams:
    cdef Stream* slots           # open addressing, without deletion; aligned to cache lines
    cdef uint64_t slot_count     # a power of two
    cdef uint32_t oldest_minute  # that any stream counts in, the greatest number if none does
    cdef uint64_t used
    cdef uint64_t open_holes     # of all streams
    cdef FoundGap* found         # holes that nothing will fill any more, to be written
    cdef uint64_t found_count
    cdef uint64_t found_room
    cdef readonly uint64_t late         # trades that arrived behind a later one
    cdef readonly uint64_t gaps         # holes found

    # The stream of *record*, made if need be; NULL if there is no memory. Valid until the next call.
    cdef Stream* find(self, const sise_record_header* record) noexcept nogil
    # Is this record new? Then it is taken into account; 0: it had arrived before. identity: see FrameParser. content:
    # hash of what the record says, 0 unless another session brings the same stream.
    cdef bint admit(self, Stream* stream, sise_record_header* record, uint64_t identity,
                    uint64_t content) noexcept nogil
    cdef bint judge(self, Stream* stream, sise_trade* trade, bint of_pair) noexcept nogil
    cdef bint is_new_number(self, Stream* stream, sise_trade* trade, uint64_t number, bint of_pair) noexcept nogil
    cdef bint is_new_content(self, Stream* stream, uint64_t content, uint16_t connection) noexcept nogil
    # Take a record that is in the ring already: a producer that takes over knows what its predecessor knew.
    cdef void observe(self, const sise_record_header* record) noexcept nogil
    # Count a record of *minute*; the counts of an earlier one go to *ledger*.
    cdef void count(self, Stream* stream, uint32_t minute, Ledger ledger) noexcept nogil
    # Move the counts of all streams to *ledger*.
    cdef void collect(self, Ledger ledger) noexcept nogil
    cdef void _collect_one(self, Stream* stream, Ledger ledger) noexcept nogil
    # Move holes that are older than the grace to *found*.
    cdef void close_holes(self, int64_t before_ns) noexcept nogil
    cdef void _open_hole(self, Stream* stream, const Hole* hole) noexcept nogil
    cdef void _report(self, Stream* stream, int index) noexcept nogil
    cdef void _drop_hole(self, Stream* stream, int index) noexcept nogil
    cdef int _grow(self) noexcept nogil


cdef inline uint32_t tag_for(uint8_t kind, uint8_t venue, uint8_t market, uint8_t flags) noexcept nogil:
    # the flags of the exchange are 16 and 32
    return kind | <uint32_t>venue << 8 | <uint32_t>market << 16 | <uint32_t>(flags & 0x30) << 24


cdef inline uint32_t tag_of(const sise_record_header* record) noexcept nogil:
    return tag_for(record.kind, record.venue, record.market, record.flags)


# ---- the path of nearly every trade, inlined where it is used --------------------------------------------------------

cdef inline uint64_t sise_mix(uint64_t hashed, uint64_t word) noexcept nogil:
    hashed = (hashed ^ word) * <uint64_t>0x9E3779B97F4A7C15
    return hashed ^ (hashed >> 29)


# What tells a trade from every other of its stream: all that it says. Time, cumulative volume and price would do as
# long as the cumulative volume moves; the rest is there for a venue whose does not. Independent products, then one mix.
cdef inline uint64_t identity_of(const sise_trade* trade) noexcept nogil:
    return sise_mix(1, <uint64_t>trade.exchange_ns
                    ^ <uint64_t>trade.cum_volume * <uint64_t>0xC2B2AE3D27D4EB4F
                    ^ <uint64_t>trade.price * <uint64_t>0x165667B19E3779F9
                    ^ <uint64_t>trade.volume * <uint64_t>0x27D4EB2F165667C5
                    ^ <uint64_t>trade.ask * <uint64_t>0x85EBCA77C2B2AE63
                    ^ <uint64_t>trade.bid * <uint64_t>0xFF51AFD7ED558CCD
                    ^ <uint64_t>trade.change_rate * <uint64_t>0xC4CEB9FE1A85EC53
                    ^ <uint64_t>trade.side << 56) | 1


# A digest of a venue's own number, never 0: what a record has room for.
cdef inline uint8_t _check_of(uint64_t number) noexcept nogil:
    return <uint8_t>(1 + sise_mix(0, number) % 255)


# A trade with a number, as it is known from its record alone.
cdef inline uint64_t _writtenidentity_of(const sise_trade* trade) noexcept nogil:
    return sise_mix(identity_of(trade), trade.number_check) | 1


# Does the trade say how far its session has come? A total that is smaller than the trade itself, or a trade of nothing,
# says nothing.
cdef inline bint is_chained(const sise_trade* trade) noexcept nogil:
    return 0 < trade.volume <= trade.cum_volume   # SISE_ABSENT is below everything


# Three words, each loaded by itself: one load across two stores that are still under way has to wait for both.
cdef inline uint64_t slot_of(uint64_t first, uint64_t second, uint64_t third, uint32_t tag) noexcept nogil:
    cdef uint64_t hashed = (first ^ second * <uint64_t>0xC2B2AE3D27D4EB4F
                            ^ third * <uint64_t>0x165667B19E3779F9 ^ <uint64_t>tag << 32)
    hashed *= <uint64_t>0x9E3779B97F4A7C15
    return hashed >> 32   # the upper half is the better one


# The stream of *symbol* if it is where it is looked for first, else NULL. tag: see tag_for().
cdef inline Stream* stream_at_once(Streams streams, const char* symbol, uint32_t tag) noexcept nogil:
    cdef uint64_t first = sise_load64(symbol), second = sise_load64(symbol + 8), third = sise_load64(symbol + 16)
    cdef const uint64_t* found
    cdef Stream* stream
    stream = &streams.slots[slot_of(first, second, third, tag) & (streams.slot_count - 1)]
    found = <const uint64_t*>stream.symbol
    if ((found[0] ^ first) | (found[1] ^ second) | (found[2] ^ third) | (stream.tag ^ tag)) == 0:
        return stream
    return NULL


cdef inline bint is_stream_of(const Stream* stream, const sise_record_header* record) noexcept nogil:
    cdef const uint64_t* own = <const uint64_t*>stream.symbol
    cdef const uint64_t* found = <const uint64_t*>(<const sise_trade*>record).symbol
    return ((found[0] ^ own[0]) | (found[1] ^ own[1]) | (found[2] ^ own[2]) | (stream.tag ^ tag_of(record))) == 0


# Is it a trade that begins where its stream ends? Then it cannot have been here before: nothing has reached so far.
cdef inline bint continues(const Stream* stream, const sise_record_header* record, uint64_t identity) noexcept nogil:
    cdef const sise_trade* trade = <const sise_trade*>record
    return (record.kind == SISE_TRADE and identity == 0 and is_chained(trade)
            and trade.cum_volume - trade.volume == stream.cum_volume
            and trade.cum_volume_scale == stream.volume_scale and trade.volume_scale == stream.volume_scale)


# Take it into account; there must be a window of identities.
cdef inline void go_on(Stream* stream, const sise_trade* trade) noexcept nogil:
    stream.cum_volume = trade.cum_volume
    stream.recv_ns = trade.header.recv_ns
    stream.exchange_ns = trade.exchange_ns
    stream.is_at_end = True
    stream.recent[stream.recent_at & (stream.recent_room - 1)] = identity_of(trade)
    stream.recent_at += 1
