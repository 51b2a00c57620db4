# Raw ring records in memory, from several rings. Bodies in record_block.pyx.

from libc.stdint cimport int16_t, int64_t, uint64_t

from native_pipeline.record cimport sise_record_header
from native_pipeline.ring_reader cimport RingReader


ctypedef struct block_part:
    int16_t ring
    int64_t first_record
    int64_t records
    uint64_t begin    # in the block's bytes
    uint64_t size


cdef class RecordBlock:
    cdef char* data             # whole records, one behind the other: each a multiple of 8
    cdef uint64_t size
    cdef uint64_t capacity
    cdef uint64_t* offsets      # of each record in data
    cdef int64_t count
    cdef int64_t offset_slots
    cdef block_part* part_list  # neighbours are of different rings
    cdef int part_count
    cdef int part_slots
    cdef int exports            # memoryviews of the bytes that are alive

    # The part that new records of *ring* belong to, made if needed; NULL: no memory.
    cdef block_part* part_for(self, int16_t ring) noexcept nogil
    # Copy one whole record into *part*, the last one; 0, or -1: no memory, nothing has changed.
    cdef int put(self, block_part* part, const sise_record_header* record) noexcept nogil
    cdef int64_t take(self, RingReader reader, uint64_t through_seq) noexcept nogil
    # Take back everything behind the first *count* records.
    cdef void truncate(self, int64_t count) noexcept nogil
    # Record *i*, which must exist.
    cdef const sise_record_header* at(self, int64_t i) noexcept nogil
    cdef int require_no_view(self) except -1
    cdef int require_record(self, int64_t i) except -1
