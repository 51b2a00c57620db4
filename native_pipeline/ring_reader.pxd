# The reading side of the ring. Bodies in ring_reader.pyx.

from libc.stdint cimport uint64_t

from native_pipeline.record cimport sise_consumer_slot, sise_record_header
from native_pipeline.ring_file cimport RingFile


cdef class RingReader(RingFile):
    """Base of the two consumers: fetch() a window of records, next() through it, then commit()."""
    cdef sise_consumer_slot* slot
    cdef int slot_index
    cdef uint64_t position         # next byte to read
    cdef uint64_t expected_seq     # seq of the next record, 0: not yet known
    cdef readonly uint64_t last_seq       # of the last record that next() returned
    cdef char* copy                # a lossy reader's private copy of the window, NULL: read in place
    cdef size_t copy_bytes
    cdef uint64_t copy_position    # ring position of copy[0]
    cdef uint64_t window_end       # ring position behind the fetched bytes
    cdef bint gating
    cdef uint64_t released
    cdef readonly uint64_t lapped_records
    cdef readonly uint64_t corrupt_records
    cdef uint64_t pending_damage   # of them: of the damage just skipped, until the next seq tells the number
    cdef bint closed

    cdef void _skip_damage(self, const sise_record_header* record, uint64_t room, uint64_t available) noexcept nogil
    cdef uint64_t _newest_seq(self, uint64_t head) noexcept nogil
    cdef void _resync(self, uint64_t behind) noexcept nogil
    # Make the next published records available to next(); returns their bytes, 0 if there are none.
    # A gating reader reads in place and ignores max_bytes.
    cdef uint64_t fetch(self, uint64_t max_bytes) noexcept nogil
    # The next record of the window, or NULL when the window is used up. Valid until fetch() or commit().
    cdef const sise_record_header* next(self) noexcept nogil
    # Publish the position behind the last record returned by next(): its space may be overwritten.
    cdef void commit_position(self) noexcept nogil


cdef class GatingReader(RingReader):
    pass


cdef class LossyReader(RingReader):
    pass
