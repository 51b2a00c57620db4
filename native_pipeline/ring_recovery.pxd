# What a new producer finds behind the last one. Bodies in ring_recovery.pyx.

from libc.stdint cimport uint8_t, uint64_t

from native_pipeline.ledger cimport Ledger
from native_pipeline.ring_file cimport RingFile
from native_pipeline.streams cimport Streams


cdef struct Recovered:
    uint64_t end              # of the log: where the next record goes
    uint64_t next_seq         # its number
    uint8_t next_flags        # SISE_FLAG_RESUMED if the sequence jumps here
    uint64_t claimed
    uint64_t current_block    # the block of the index that has its entry, NO_POSITION: none
    uint64_t doubtful_begin   # from here to *end*: of a predecessor whose sync may have failed
    uint64_t recovered_bytes  # cut from the tail
    uint64_t adopted_records  # whole records behind the published ones, taken over


# Repair the log and its header; what its records say of streams and counts goes to *streams* and *ledger*.
# syncs_first: what is taken over is published when it is on the disk, like all that follows; OSError if it refuses.
# Only for the holder of the producer's lock.
cdef int recover(RingFile ring, Streams streams, Ledger ledger, bint syncs_first, Recovered* found) except -1

# Mark the pages of [begin, end) as changed: if a sync failed, the kernel takes them for written although they are not.
cdef void taint(RingFile ring, uint64_t begin, uint64_t end) noexcept nogil

# Make sure that the slots of *expected*, {name: mode}, say so; return the names of those that were damaged.
# Raises RingError when it cannot be told which slot it was.
cdef list restore_slots(RingFile ring, expected)
