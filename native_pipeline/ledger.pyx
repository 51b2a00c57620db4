# cython: cdivision=True
"""How many records of each symbol and kind arrived in each minute, counted where they enter the ring.

The counts travel through the ring as ledger records (`RingWriter.flush_ledger`), so they are as durable as the data,
and `sise verify` compares them with what was published and stored. A hash table without deletion: flushed and cleared
as a whole once a minute.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from native_pipeline.record cimport (
    SISE_BOOK,
    SISE_EVENT,
    SISE_GAP,
    SISE_SYMBOL_BYTES,
    SISE_TRADE,
    sise_gap,
    sise_record_header,
    sise_trade,
)

cdef enum:
    FIRST_SLOTS = 4096  # 2,000 symbols and kinds before the first growth
    MINUTE_NS = 60000000000


cdef inline uint32_t tag_of(uint8_t data_kind, uint8_t venue, uint8_t market) noexcept nogil:
    return data_kind | <uint32_t>venue << 8 | <uint32_t>market << 16


cdef class Ledger:
    """Open-addressing table: (minute, symbol, kind, market, venue) -> count."""

    def __cinit__(self):
        self.slots = FIRST_SLOTS
        self.entries = <LedgerEntry*>calloc(self.slots, sizeof(LedgerEntry))
        if self.entries is NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.entries)

    cdef LedgerEntry* _find(self, LedgerEntry* entries, uint64_t slots, const LedgerEntry* key) noexcept nogil:
        cdef const uint64_t* words = <const uint64_t*>key.symbol
        cdef const uint64_t* found
        cdef uint64_t hashed, slot
        hashed = (words[0] ^ (words[1] * <uint64_t>0x9E3779B97F4A7C15) ^ (words[2] * <uint64_t>0xC2B2AE3D27D4EB4F))
        hashed ^= <uint64_t>key.minute_ns + (<uint64_t>key.tag << 40)
        hashed *= <uint64_t>0x9E3779B97F4A7C15
        slot = (hashed >> 32) & (slots - 1)
        while True:
            found = <const uint64_t*>entries[slot].symbol
            if entries[slot].count == 0 or (
                ((found[0] ^ words[0]) | (found[1] ^ words[1]) | (found[2] ^ words[2])
                 | <uint64_t>(entries[slot].minute_ns ^ key.minute_ns)
                 | (entries[slot].tag ^ key.tag)) == 0
            ):
                return &entries[slot]
            slot = (slot + 1) & (slots - 1)

    cdef int _grow(self) noexcept nogil:
        cdef uint64_t slots = self.slots * 2, i
        cdef LedgerEntry* entries = <LedgerEntry*>calloc(slots, sizeof(LedgerEntry))
        if entries is NULL:
            return -1
        for i in range(self.slots):
            if self.entries[i].count:
                self._find(entries, slots, &self.entries[i])[0] = self.entries[i]
        free(self.entries)
        self.entries = entries
        self.slots = slots
        return 0

    cdef void count(self, const sise_record_header* record) noexcept nogil:
        """Count *record* if it is market data."""
        if record.kind != SISE_TRADE and record.kind != SISE_BOOK and record.kind != SISE_EVENT:
            return
        if not self.minute_ns <= record.recv_ns < self.minute_ns + <int64_t>MINUTE_NS:
            # a division: once a minute, not once a record
            self.minute_ns = record.recv_ns - record.recv_ns % <int64_t>MINUTE_NS
        self.add((<const sise_trade*>record).symbol, tag_of(record.kind, record.venue, record.market),
                 self.minute_ns, 1)

    cdef void add(self, const char* symbol, uint32_t tag, int64_t minute_ns, uint32_t records) noexcept nogil:
        """Out of memory: the table fills up to its last slot, then counts stop."""
        cdef LedgerEntry key
        cdef LedgerEntry* entry
        if self.used * 2 > self.slots and self._grow() < 0 and self.used + 1 >= self.slots:
            return
        memcpy(key.symbol, symbol, SISE_SYMBOL_BYTES)
        key.minute_ns = minute_ns
        key.tag = tag & 0xffffff
        entry = self._find(self.entries, self.slots, &key)
        if entry.count == 0:
            entry[0] = key
            entry.count = 0
            self.used += 1
        entry.count += records

    cdef void remember(self, const sise_record_header* record) noexcept nogil:
        """Keep when the stream of *record*'s symbol and kind was last whole: a tick, or the end of a gap."""
        cdef LedgerEntry key
        cdef LedgerEntry* entry
        cdef const sise_gap* gap = <const sise_gap*>record
        if (record.kind != SISE_TRADE and record.kind != SISE_BOOK and record.kind != SISE_EVENT
                and record.kind != SISE_GAP):
            return
        if self.used * 2 > self.slots and self._grow() < 0 and self.used + 1 >= self.slots:
            return
        memcpy(key.symbol, (<const sise_trade*>record).symbol, SISE_SYMBOL_BYTES)
        key.minute_ns = 0
        key.tag = tag_of(gap.data_kind if record.kind == SISE_GAP else record.kind, record.venue, record.market)
        key.tag |= <uint32_t>(record.flags & 0x30) << 24   # the exchange
        entry = self._find(self.entries, self.slots, &key)
        if entry.count == 0:
            entry[0] = key
            entry.count = 1
            self.used += 1
        entry.recv_ns = gap.ended_ns if record.kind == SISE_GAP else record.recv_ns
        entry.exchange_ns = entry.recv_ns if record.kind == SISE_GAP else (<const sise_trade*>record).exchange_ns

    cdef void clear(self) noexcept nogil:
        memset(self.entries, 0, self.slots * sizeof(LedgerEntry))
        self.used = 0
