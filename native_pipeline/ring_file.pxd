# The file of a ring, mapped. Bodies in ring_file.pyx, layout in layout.h.

from libc.stdint cimport uint64_t

from native_pipeline.record cimport (
    sise_consumer_slot,
    sise_record_header,
    sise_ring_header,
    sise_store_relaxed,
    sise_store_release,
)

cdef enum:
    MIN_CAPACITY = 1 << 20
    RESIDENT_WINDOW = 1 << 20    # pages further behind than this are given back: RSS stays flat, the file keeps them
    PAGE = 4096
    IDENTITY_BYTES = 44          # of the header: magic to ring number, written once

cdef extern from *:
    """
    #define SISE_MAX_CAPACITY ((uint64_t)1 << 36)
    """
    const uint64_t MAX_CAPACITY "SISE_MAX_CAPACITY"

# Lock ranges in the file (open-file-description locks: they end with their owner, whatever kills it).
cdef enum:
    PRODUCER_LOCK = 0
    REGISTRATION_LOCK = 8
    FIRST_SLOT_LOCK = 256

# Take the one-byte lock at *start*; 0 if another open file holds it. wait: until it is given back.
cdef bint take_lock(int fd, int start, bint wait) except -1
cdef int release_lock(int fd, int start) except -1

cdef bytes slot_name(name)
cdef bytes boot_id()


# The copy first: whoever dies between leaves the older of two positions, hence records delivered again.
cdef inline void store_position(sise_consumer_slot* slot, uint64_t position) noexcept nogil:
    sise_store_relaxed(&slot.position_check, ~position)
    sise_store_release(&slot.position, position)


cdef class RingFile:
    """The mapping of one ring file, and the block index in it."""
    cdef sise_ring_header* header
    cdef char* data                # data area; a record never straddles its end
    cdef uint64_t capacity
    cdef uint64_t mask             # capacity - 1
    cdef uint64_t block_bytes      # capacity / SISE_INDEX_BLOCKS
    cdef size_t mapped_bytes
    cdef int fd
    cdef readonly str path

    # The first indexed record at or behind *position*; 0, or -1 if the index knows none.
    cdef int find_boundary(self, uint64_t position, uint64_t* found, uint64_t* seq) noexcept nogil
    # The last indexed record whose seq is at most *seq* and that is still in the ring; 0, or -1.
    cdef int find_seq(self, uint64_t seq, uint64_t* found, uint64_t* found_seq) noexcept nogil
    # The next whole record at or behind *position*, below *end*; NULL at the end or at a record that is not whole
    # (then *position is where that is). Skips pads.
    cdef const sise_record_header* record_at(self, uint64_t* position, uint64_t end) noexcept nogil
    cdef void map_pages(self, uint64_t begin, uint64_t end) noexcept nogil
    cdef void release_pages(self, uint64_t begin, uint64_t end) noexcept nogil
    # The lowest position of a gating consumer; *default* if there is none.
    cdef uint64_t lowest_gate(self, uint64_t default) noexcept nogil
    # Position of the first indexed record in [oldest, head) that is what the index says; else the lowest gate.
    cdef uint64_t first_trusted(self, uint64_t oldest, uint64_t head) noexcept nogil
