# How many messages of each symbol and kind were received in each minute. Bodies in minute_counts.pyx.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from native_pipeline.json_messages cimport CHANNELS
from native_pipeline.record cimport SISE_SYMBOL_BYTES, sise_record_header
from native_pipeline.text_buffer cimport text_buffer, text_piece


ctypedef struct minute_count:
    uint64_t hash
    int64_t minute        # since 1970
    char symbol[SISE_SYMBOL_BYTES]
    uint32_t count
    uint8_t market
    uint8_t channel       # enum Channel


cdef class MinuteCounts:
    cdef int64_t kept_s
    cdef minute_count* counts
    cdef size_t used
    cdef size_t capacity
    cdef uint32_t* slots                 # hash table over counts: index + 1, 0 is free
    cdef size_t slots_mask
    cdef text_piece kinds[CHANNELS]      # |trade: the end of a field of MINUTE_KEY
    cdef list market_texts               # by id, as bytes

    # Count one message; 0, or -1 if there is no memory.
    cdef int note(self, const sise_record_header* record, const char* symbol, int channel) noexcept nogil
    cdef int grow(self) noexcept nogil
    # Append a HINCRBY for each entry, an EXPIRE for each minute; returns how many commands.
    cdef int64_t add_commands(self, text_buffer* buffer) except -1
    cdef void clear(self) noexcept nogil
