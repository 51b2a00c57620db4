# Counts of what was received, per minute, symbol and kind; the worker's side of the reconciliation.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from native_pipeline.record cimport sise_record_header
from native_pipeline.streams cimport Stream


cdef struct LedgerEntry:
    char symbol[24]
    int64_t minute_ns
    uint32_t tag            # data kind, venue << 8, market << 16
    uint32_t count          # 0: free slot
    Stream* stream          # of the newest record; only what the parsers commit has one
    int64_t recv_ns         # of the newest record; only remember() keeps it
    int64_t exchange_ns     # of the same record


cdef class Ledger:
    cdef LedgerEntry* entries
    cdef uint64_t slots     # a power of two
    cdef uint64_t used
    cdef int64_t minute_ns  # start of the minute of the newest record

    # The entry that counts *record*; NULL if nothing does. The pointer is valid until the next call.
    cdef LedgerEntry* entry_of(self, const sise_record_header* record) noexcept nogil
    cdef void count_in(self, LedgerEntry* entry) noexcept nogil
    cdef void count(self, const sise_record_header* record) noexcept nogil
    cdef void remember(self, const sise_record_header* record) noexcept nogil
    cdef void clear(self) noexcept nogil
    cdef int _grow(self) noexcept nogil
    cdef LedgerEntry* _find(self, LedgerEntry* entries, uint64_t slots, const LedgerEntry* key) noexcept nogil
