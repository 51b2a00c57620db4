# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""How many messages of each market, symbol and kind were received in each minute: one side of `sise verify`.

A hash table, filled while the messages of a batch are encoded and written out once as HINCRBY commands.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

from native_pipeline.json_messages cimport CHANNELS, all_names
from native_pipeline.record cimport SISE_SYMBOL_BYTES, sise_record_header
from native_pipeline.resp cimport packed, put_bulk, put_bulk_number
from native_pipeline.text_buffer cimport add_bytes, put_piece, room_for, set_piece, text_buffer
from native_pipeline.value_text cimport floor_divide, put_literal, put_signed

from native_pipeline.records import MARKET_DATA


cdef extern from "<string.h>" nogil:
    size_t strnlen(const char* text, size_t limit)


cdef enum:
    COMMAND_ROOM_BYTES = 512      # one HINCRBY
    FIRST_COUNTS = 1024

MINUTE_KEY = "published:minute:"  # + minute since 1970: hash market|symbol|kind -> messages of that minute

cdef int64_t MINUTE_NS = 60 * 1_000_000_000
cdef int64_t NO_MINUTE = -(1 << 62)


cdef class MinuteCounts:
    """The counts of one batch; the memory is kept by clear()."""

    def __cinit__(self, *, markets, int64_t kept_s):
        self.kept_s = kept_s
        self.market_texts = [name.encode() for name in all_names(markets)]
        for channel, data in enumerate(MARKET_DATA):
            set_piece(&self.kinds[<int>channel], f"|{data.name}".encode())
        if self.grow() < 0:
            raise MemoryError

    def __dealloc__(self):
        free(self.counts)
        free(self.slots)

    cdef int note(self, const sise_record_header* record, const char* symbol, int channel) noexcept nogil:
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
        if self.used == self.capacity:
            if self.grow() < 0:
                return -1
            slot = hash_value & self.slots_mask
            while self.slots[slot]:
                slot = (slot + 1) & self.slots_mask
        entry = &self.counts[self.used]
        self.used += 1
        self.slots[slot] = <uint32_t>self.used
        entry.hash = hash_value
        entry.minute = minute
        memcpy(entry.symbol, symbol, SISE_SYMBOL_BYTES)
        entry.count = 1
        entry.market = record.market
        entry.channel = channel
        return 0

    cdef int grow(self) noexcept nogil:
        """Twice as many entries and a table at most half full; 0, or -1 if there is no memory."""
        cdef size_t capacity = 2 * self.capacity if self.capacity else FIRST_COUNTS
        cdef size_t i, slot, mask = 2 * capacity - 1
        cdef minute_count* counts = <minute_count*>realloc(self.counts, capacity * sizeof(minute_count))
        if counts == NULL:
            return -1
        self.counts = counts
        cdef uint32_t* slots = <uint32_t*>calloc(2 * capacity, sizeof(uint32_t))
        if slots == NULL:
            return -1
        free(self.slots)
        for i in range(self.used):
            slot = counts[i].hash & mask
            while slots[slot]:
                slot = (slot + 1) & mask
            slots[slot] = <uint32_t>(i + 1)
        self.slots = slots
        self.slots_mask = mask
        self.capacity = capacity
        return 0

    cdef int64_t add_commands(self, text_buffer* buffer) except -1:
        cdef size_t i, size
        cdef char* at
        cdef char key[64]
        cdef char field[256]
        cdef char* end
        cdef minute_count* entry
        cdef bytes market_text, prefix = MINUTE_KEY.encode()
        cdef int64_t last_minute = NO_MINUTE
        minutes = set()
        for i in range(self.used):
            entry = &self.counts[i]
            if entry.minute != last_minute:
                last_minute = entry.minute
                minutes.add(last_minute)
            at = room_for(buffer, COMMAND_ROOM_BYTES)
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
            buffer.size = at - buffer.data
        for minute in sorted(minutes):
            add_bytes(buffer, packed(("EXPIRE", f"{MINUTE_KEY}{minute}", self.kept_s)))
        return self.used + len(minutes)

    cdef void clear(self) noexcept nogil:
        self.used = 0
        memset(self.slots, 0, (self.slots_mask + 1) * sizeof(uint32_t))
