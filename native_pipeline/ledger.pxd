# Counts of what was received, per minute, symbol and kind; the worker's side of the reconciliation.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from native_pipeline.record cimport sise_record_header


cdef struct LedgerEntry:
    char symbol[24]
    int64_t minute_ns
    uint32_t tag            # data kind, venue << 8, market << 16
    uint32_t count          # 0: free slot
    int64_t recv_ns         # of the newest record; only remember() keeps it
    int64_t exchange_ns     # of the same record


cdef class Ledger:
    cdef LedgerEntry* entries
    cdef uint64_t slots     # a power of two
    cdef uint64_t used
    cdef int64_t minute_ns  # start of the minute of the newest record

    cdef void count(self, const sise_record_header* record) noexcept nogil
    # Count *records* more of *symbol* in that minute. tag: as below, higher bits are not regarded.
    cdef void add(self, const char* symbol, uint32_t tag, int64_t minute_ns, uint32_t records) noexcept nogil
    cdef void remember(self, const sise_record_header* record) noexcept nogil
    cdef void clear(self) noexcept nogil
    cdef int _grow(self) noexcept nogil
    cdef LedgerEntry* _find(self, LedgerEntry* entries, uint64_t slots, const LedgerEntry* key) noexcept nogil
