# Step 3 of 6 in the life of a tick: the ring's one producer. Bodies in ring_writer.pyx, layout in layout.h.

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from native_pipeline.ledger cimport Ledger
from native_pipeline.ring_file cimport RingFile
from native_pipeline.streams cimport Stream, Streams

cdef extern from *:
    """
    #define SISE_MINUTE_NS ((int64_t)60000000000)
    """
    const int64_t MINUTE_NS "SISE_MINUTE_NS"


@cython.final
cdef class RingWriter(RingFile):
    """Single producer. reserve() -> fill in -> commit() per record; publish_head() once per network read."""
    cdef uint64_t position         # end of the committed records, published or not
    cdef uint64_t next_seq
    cdef uint64_t gate             # cached minimum of the gating consumers' positions
    cdef uint64_t claimed
    cdef uint64_t current_block
    cdef uint64_t released         # pages below were given back (resident window)
    cdef int64_t last_recv_ns
    cdef uint32_t reserved_bytes   # length of the record that reserve() handed out
    cdef uint8_t next_flags        # ORed into the next record's flags
    cdef Ledger ledger
    cdef Streams streams_seen
    # The stream of the record under way, where the parser has looked it up so early that the cache is ready when it is
    # committed; NULL if not. Checked, and forgotten, by the next commit_once.
    cdef Stream* expected
    cdef int64_t minute_ns         # start of the minute of the newest market data
    cdef uint32_t minute           # the same in minutes since 1970
    cdef uint64_t ledger_position  # where the newest checkpoint ends
    cdef int wake_fds[8]           # eventfd of each consumer slot, -1 if none
    cdef readonly uint64_t full_count     # reserve() calls that found no room
    cdef readonly uint64_t recovered_bytes  # cut from the tail at open
    cdef readonly uint64_t adopted_records  # whole records behind the published ones, taken over at open
    cdef bint closed
    cdef readonly bint syncs_first  # the sync thread publishes what it has synced
    # What publish_head() has handed to the sync thread: consistent where written_seq == written_seq_check, read in
    # the order of this list and stored in the reverse one.
    cdef uint64_t written_seq_check
    cdef int64_t written_recv_ns
    cdef uint64_t written
    cdef uint64_t written_seq
    cdef uint32_t sync_sleeping    # 1 while the sync thread waits for sync_fd; both sides use a full fence
    cdef int sync_fd
    cdef uint64_t doubtful_begin   # pages from here to doubtful_end: of a predecessor whose sync may have failed
    cdef uint64_t doubtful_end
    cdef int refused               # errno of a sync that failed: this producer never syncs again

    # Room for one record of *length* bytes (any number; rounded up to 8 here), header included, zero-filled
    # header fields excepted: the caller sets kind, flags, venue, market, recv_ns, utc_offset_min and the body;
    # commit() sets length, seq and crc. NULL: the ring is full, nothing has changed. The pointer is valid until
    # the next reserve(). Reserving again without commit() abandons the record.
    cdef char* reserve(self, uint32_t length) noexcept nogil
    cdef void commit(self, char* record) noexcept nogil
    # The same for market data that a parser has read, unless it had arrived before: 1, or 0 if it had and nothing was
    # appended. identity: see FrameParser.commit_record; content: see Streams.admit.
    cdef bint commit_once(self, char* record, uint64_t identity, uint64_t content) noexcept nogil
    cdef void _commit(self, char* record) noexcept nogil
    cdef void publish_head(self) noexcept nogil
    cdef uint64_t free_bytes(self) noexcept nogil
    # Store head, with its seq, and wake who sleeps.
    cdef void _publish(self, uint64_t position, uint64_t seq, int64_t recv_ns) noexcept nogil
    cdef void _hand_to_sync(self) noexcept nogil
    # One quarantine record with the frame behind it; 0, or -1 if the ring is full.
    cdef int append_quarantine(self, uint16_t reason, uint16_t detail, uint8_t venue, uint8_t market,
                               int64_t recv_ns, const char* prefix, Py_ssize_t prefix_size,
                               const char* frame, Py_ssize_t frame_size) noexcept nogil
