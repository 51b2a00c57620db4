# cython: cdivision=True
"""Part of step 3 of 6 in the life of a tick: is this trade new, and is the one before it here?

Venues number nothing, but a trade says how many shares the session has traded with it: the one before reached
`cum_volume - volume`. So a trade that continues where its stream ended proves that none is missing. One that begins
further on leaves a *hole*: trades that the venue did not send, or that come late. A hole that nothing fills within the
grace is a gap record with its bounds and the number of shares. A trade that arrived before (the other session of an A/B
pair, a venue that repeats itself after a reconnect) is recognised by all that it says and not appended again; nothing
but an identical one ever drops a trade.

Not a hole: the first trade of a stream, another date, and a cumulative volume that goes down at a later time (a new
session, or the venue corrects itself): the stream goes on from there.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from native_pipeline.record cimport (
    SISE_ABSENT,
    SISE_BOOK,
    SISE_EVENT,
    SISE_FLAG_LATE,
    SISE_GAP,
    SISE_SYMBOL_BYTES,
    SISE_TRADE,
    sise_gap,
    sise_record_header,
    sise_trade,
)

cdef enum:
    FIRST_SLOTS = 4096
    VOLUME_GAP = 4        # position in records.GAP_REASONS
    CACHE_LINE = 64

cdef int64_t DAY_NS = 86400000000000
cdef int64_t MINUTE_NS = 60000000000
cdef uint32_t NO_MINUTE = <uint32_t>-1

cdef extern from "<stdlib.h>" nogil:
    void* aligned_alloc(size_t alignment, size_t size)


cdef inline bint _make_room(Stream* stream, bint of_pair) noexcept nogil:
    cdef uint32_t room = RECENT_OF_PAIR if of_pair else RECENT
    cdef uint64_t* grown
    cdef uint32_t i, at
    if stream.recent_room >= room:
        return True
    grown = <uint64_t*>calloc(room, sizeof(uint64_t))
    if grown is NULL:
        return stream.recent is not NULL
    for i in range(min(stream.recent_room, stream.recent_at)):   # the newest first, as it is searched
        at = stream.recent_at - 1 - i
        grown[at & (room - 1)] = stream.recent[at & (stream.recent_room - 1)]
    free(stream.recent)
    stream.recent = grown
    stream.recent_room = room
    return True


# Place of *identity* among the newest, -1 if it is not there; the newest are looked at first.
cdef inline int64_t _find_recent(const Stream* stream, uint64_t identity) noexcept nogil:
    cdef uint32_t i, place
    for i in range(min(stream.recent_room, stream.recent_at)):
        place = (stream.recent_at - 1 - i) & (stream.recent_room - 1)
        if stream.recent[place] == identity:
            return place
    return -1


cdef inline void _remember(Stream* stream, uint64_t identity, bint of_pair) noexcept nogil:
    if (stream.recent_room < RECENT or of_pair) and not _make_room(stream, of_pair):
        return
    stream.recent[stream.recent_at & (stream.recent_room - 1)] = identity
    stream.recent_at += 1


# Are the trade and the one that the stream has reached of the same date, in the exchange's time?
cdef inline bint _is_same_day(const Stream* stream, const sise_trade* trade) noexcept nogil:
    cdef int64_t offset = trade.header.utc_offset_min * MINUTE_NS
    return (stream.cum_exchange_ns + offset) // DAY_NS == (trade.exchange_ns + offset) // DAY_NS


# A record that does not reach further is about to become the newest: keep apart when and where the volume was reached.
cdef inline void _settle(Stream* stream) noexcept nogil:
    if stream.is_at_end:
        stream.cum_recv_ns = stream.recv_ns
        stream.cum_exchange_ns = stream.exchange_ns
        stream.is_at_end = False


cdef inline Stream* _make_slots(uint64_t count) noexcept nogil:
    cdef Stream* slots = <Stream*>aligned_alloc(CACHE_LINE, count * sizeof(Stream))
    if slots is not NULL:
        memset(slots, 0, count * sizeof(Stream))
    return slots


cdef inline void _reach(Stream* stream, const sise_trade* trade) noexcept nogil:
    stream.cum_volume = trade.cum_volume
    stream.cum_recv_ns = trade.header.recv_ns
    stream.cum_exchange_ns = trade.exchange_ns
    stream.volume_scale = trade.cum_volume_scale


@cython.final
cdef class Streams:
    """Table of streams; they are never forgotten, there are as many as registrations."""

    def __cinit__(self):
        self.slot_count = FIRST_SLOTS
        self.oldest_minute = NO_MINUTE
        self.slots = _make_slots(self.slot_count)
        if self.slots is NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef uint64_t i
        if self.slots is not NULL:
            for i in range(self.slot_count):
                free(self.slots[i].recent)
                free(self.slots[i].brought_by)
                free(self.slots[i].open)
            free(self.slots)
        free(self.found)

    cdef Stream* find(self, const sise_record_header* record) noexcept nogil:
        cdef uint64_t words[3]
        cdef const uint64_t* found
        cdef uint64_t slot
        cdef uint32_t tag = tag_of(record)
        cdef Stream* stream
        memcpy(words, (<const sise_trade*>record).symbol, SISE_SYMBOL_BYTES)
        slot = slot_of(words[0], words[1], words[2], tag) & (self.slot_count - 1)
        while True:
            stream = &self.slots[slot]
            found = <const uint64_t*>stream.symbol
            if ((found[0] ^ words[0]) | (found[1] ^ words[1]) | (found[2] ^ words[2]) | (stream.tag ^ tag)) == 0:
                return stream
            if stream.tag == 0:
                break
            slot = (slot + 1) & (self.slot_count - 1)
        if self.used * 2 > self.slot_count:
            if self._grow() == 0:
                return self.find(record)
            if self.used + 1 >= self.slot_count:
                return NULL
        memcpy(stream.symbol, words, SISE_SYMBOL_BYTES)
        stream.tag = tag
        stream.cum_volume = SISE_ABSENT
        self.used += 1
        return stream

    cdef int _grow(self) noexcept nogil:
        cdef uint64_t count = self.slot_count * 2, i, slot
        cdef uint64_t words[3]
        cdef Stream* slots = _make_slots(count)
        if slots is NULL:
            return -1
        for i in range(self.slot_count):
            if self.slots[i].tag != 0:
                memcpy(words, self.slots[i].symbol, SISE_SYMBOL_BYTES)
                slot = slot_of(words[0], words[1], words[2], self.slots[i].tag) & (count - 1)
                while slots[slot].tag != 0:
                    slot = (slot + 1) & (count - 1)
                slots[slot] = self.slots[i]
        free(self.slots)
        self.slots = slots
        self.slot_count = count
        return 0

    cdef void count(self, Stream* stream, uint32_t minute, Ledger ledger) noexcept nogil:
        if stream.minute != minute or stream.count == MOST_COUNTED:
            self._collect_one(stream, ledger)
            stream.minute = minute
        stream.count += 1
        if minute < self.oldest_minute:
            self.oldest_minute = minute

    cdef void _collect_one(self, Stream* stream, Ledger ledger) noexcept nogil:
        if stream.count:
            ledger.add(stream.symbol, stream.tag, <int64_t>stream.minute * MINUTE_NS, stream.count)
            stream.count = 0

    cdef void collect(self, Ledger ledger) noexcept nogil:
        cdef uint64_t i
        for i in range(self.slot_count):
            self._collect_one(&self.slots[i], ledger)
        self.oldest_minute = NO_MINUTE

    cdef bint admit(self, Stream* stream, sise_record_header* record, uint64_t identity,
                    uint64_t content) noexcept nogil:
        cdef sise_trade* trade = <sise_trade*>record
        cdef bint of_pair = content != 0
        if continues(stream, record, identity):
            if _make_room(stream, of_pair):
                go_on(stream, trade)
                return True
            _reach(stream, trade)   # without memory: repetitions are not recognised
            stream.is_at_end = False
        elif record.kind == SISE_TRADE and identity == 0 and is_chained(trade):
            _settle(stream)
            if not self.judge(stream, trade, of_pair):
                return False
        elif identity:
            if not self.is_new_number(stream, trade, identity, of_pair):
                return False
        elif content and not self.is_new_content(stream, content, record.connection):
            return False
        _settle(stream)
        stream.recv_ns = record.recv_ns
        stream.exchange_ns = trade.exchange_ns
        return True

    cdef bint is_new_number(self, Stream* stream, sise_trade* trade, uint64_t number, bint of_pair) noexcept nogil:
        """A number above all before is new without a look at them; they need not come in order.

        Of what a predecessor wrote, the numbers are not known, only their digests: a trade that is not newer than those
        is a repetition if it says the same as one of them, which then stands for that number alone.
        """
        cdef uint64_t identity = sise_mix(0, number) | 1
        cdef int64_t place
        trade.number_check = _check_of(number)
        if number > stream.top_number:
            stream.top_number = number
        elif _find_recent(stream, identity) >= 0:
            return False
        if trade.exchange_ns <= stream.inherited_ns:
            place = _find_recent(stream, _writtenidentity_of(trade))
            if place >= 0:
                stream.recent[place] = identity
                return False
        _remember(stream, identity, of_pair)
        return True

    cdef bint is_new_content(self, Stream* stream, uint64_t content, uint16_t connection) noexcept nogil:
        """Of two sessions, each says everything once: what one has said waits for the other, and is used up by it.

        So a book that returns to an earlier state is new, and a session that nobody repeats loses nothing.
        """
        cdef uint32_t i, place
        if stream.brought_by is NULL:
            stream.brought_by = <uint16_t*>calloc(RECENT_OF_PAIR, sizeof(uint16_t))
        if stream.brought_by is NULL or not _make_room(stream, True):
            return True
        place = stream.recent_room
        for i in range(min(stream.recent_room, stream.recent_at)):
            i = (stream.recent_at - 1 - i) & (stream.recent_room - 1)
            if stream.recent[i] == content and stream.brought_by[i] != connection:
                place = i   # the oldest of them: each repetition answers the first that still waits
        if place < stream.recent_room:
            stream.recent[place] = 0
            return False
        stream.brought_by[stream.recent_at & (stream.recent_room - 1)] = connection
        _remember(stream, content, True)
        return True

    cdef bint judge(self, Stream* stream, sise_trade* trade, bint of_pair) noexcept nogil:
        """A trade that does not simply continue its stream."""
        cdef int64_t before = trade.cum_volume - trade.volume
        cdef Hole hole, rest
        cdef int i
        cdef uint64_t identity = identity_of(trade)
        if _find_recent(stream, identity) >= 0:
            return False
        _remember(stream, identity, of_pair)
        if (stream.cum_volume == SISE_ABSENT or trade.cum_volume_scale != stream.volume_scale
                or trade.volume_scale != trade.cum_volume_scale):
            # nothing to compare with
            _reach(stream, trade)
            return True
        if before >= stream.cum_volume and trade.exchange_ns >= stream.cum_exchange_ns:
            if before > stream.cum_volume and _is_same_day(stream, trade):
                hole.low, hole.high = stream.cum_volume, before
                hole.started_ns, hole.ended_ns = stream.cum_recv_ns, trade.header.recv_ns
                self._open_hole(stream, &hole)
            _reach(stream, trade)
            return True
        # it reaches back: into a hole, or behind the end of the stream
        for i in range(stream.holes):
            hole = stream.open[i]
            if hole.low <= before and trade.cum_volume <= hole.high and trade.volume > 0:
                self._drop_hole(stream, i)
                rest = hole
                if hole.low < before:
                    rest.high = before
                    self._open_hole(stream, &rest)
                if trade.cum_volume < hole.high:
                    rest = hole
                    rest.low = trade.cum_volume
                    self._open_hole(stream, &rest)
                trade.header.flags |= SISE_FLAG_LATE
                self.late += 1
                return True
        if trade.cum_volume > stream.cum_volume and trade.exchange_ns >= stream.cum_exchange_ns:
            # the venue corrected itself: what it adds up to now counts
            _reach(stream, trade)
            return True
        if trade.exchange_ns > stream.cum_exchange_ns:
            # a new session, or a correction: the stream goes on from here (within the same second: out of order)
            while stream.holes:
                self._report(stream, 0)
            _reach(stream, trade)
            return True
        trade.header.flags |= SISE_FLAG_LATE
        self.late += 1
        return True

    cdef void observe(self, const sise_record_header* record) noexcept nogil:
        cdef const sise_gap* gap = <const sise_gap*>record
        cdef sise_trade copy
        cdef Stream* stream
        cdef int i
        cdef uint64_t found = self.gaps, late = self.late
        if record.kind == SISE_TRADE:
            memcpy(&copy, record, sizeof(sise_trade))
            copy.header.flags &= <uint8_t>(~SISE_FLAG_LATE)
            stream = self.find(&copy.header)
            if stream is not NULL:
                if copy.number_check:
                    _remember(stream, _writtenidentity_of(&copy), False)
                    stream.inherited_ns = max(stream.inherited_ns, copy.exchange_ns)
                    _settle(stream)
                    stream.recv_ns = record.recv_ns
                    stream.exchange_ns = copy.exchange_ns
                elif record.flags & SISE_FLAG_LATE and stream.cum_volume == SISE_ABSENT:
                    _remember(stream, identity_of(&copy), False)   # the stream did not begin with it
                else:
                    self.admit(stream, &copy.header, 0, 0)
        elif record.kind == SISE_BOOK or record.kind == SISE_EVENT:
            stream = self.find(record)
            if stream is not NULL:
                stream.recv_ns = record.recv_ns
                stream.exchange_ns = (<const sise_trade*>record).exchange_ns
        elif record.kind == SISE_GAP and gap.reason == VOLUME_GAP:
            memcpy(&copy, record, sizeof(sise_gap))
            copy.header.kind = gap.data_kind
            stream = self.find(&copy.header)
            if stream is not NULL:
                for i in range(stream.holes):
                    if stream.open[i].started_ns == gap.started_ns and stream.open[i].ended_ns == gap.ended_ns:
                        self._drop_hole(stream, i)
                        break
        self.gaps, self.late = found, late   # they were counted by the producer that wrote the record

    cdef void _open_hole(self, Stream* stream, const Hole* hole) noexcept nogil:
        cdef Hole* grown
        cdef int room
        if stream.holes == MOST_HOLES:
            self._report(stream, 0)
        if stream.holes == stream.hole_room:
            room = max(8, 2 * stream.hole_room)
            grown = <Hole*>realloc(stream.open, room * sizeof(Hole))
            if grown is NULL:
                return
            stream.open = grown
            stream.hole_room = <uint16_t>room
        stream.open[stream.holes] = hole[0]
        stream.holes += 1
        self.open_holes += 1

    cdef void _drop_hole(self, Stream* stream, int index) noexcept nogil:
        cdef int i
        for i in range(index, stream.holes - 1):
            stream.open[i] = stream.open[i + 1]
        stream.holes -= 1
        self.open_holes -= 1

    cdef void _report(self, Stream* stream, int index) noexcept nogil:
        """Move one hole to those that are to be written. Without memory it stays where it is."""
        cdef uint64_t room
        cdef FoundGap* grown
        if self.found_count == self.found_room:
            room = max(<uint64_t>64, self.found_room * 2)
            grown = <FoundGap*>realloc(self.found, room * sizeof(FoundGap))
            if grown is NULL:
                self._drop_hole(stream, index)
                return
            self.found = grown
            self.found_room = room
        memcpy(self.found[self.found_count].symbol, stream.symbol, SISE_SYMBOL_BYTES)
        self.found[self.found_count].tag = stream.tag
        self.found[self.found_count].volume_scale = stream.volume_scale
        self.found[self.found_count].hole = stream.open[index]
        self.found_count += 1
        self.gaps += 1
        self._drop_hole(stream, index)

    cdef void close_holes(self, int64_t before_ns) noexcept nogil:
        cdef uint64_t i
        cdef int index
        cdef Stream* stream
        if self.open_holes == 0:
            return
        for i in range(self.slot_count):
            stream = &self.slots[i]
            index = 0
            while index < stream.holes:
                if stream.open[index].ended_ns <= before_ns:
                    self._report(stream, index)
                else:
                    index += 1
