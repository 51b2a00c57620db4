# Step 3 of 6 in the life of a tick: the write-ahead log in shared memory. Bodies in ring.pyx, layout in layout.h.

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from native_pipeline.ledger cimport Ledger
from native_pipeline.streams cimport Stream, Streams
from native_pipeline.record cimport sise_consumer_slot, sise_record_header, sise_ring_header


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
    cdef uint64_t _lowest_gate(self, uint64_t default) noexcept nogil


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
    cdef void _account(self, const sise_record_header* record) noexcept nogil
    cdef void _taint_doubtful(self) noexcept nogil
    # One quarantine record with the frame behind it; 0, or -1 if the ring is full.
    cdef int append_quarantine(self, uint16_t reason, uint16_t detail, uint8_t venue, uint8_t market,
                               int64_t recv_ns, const char* prefix, Py_ssize_t prefix_size,
                               const char* frame, Py_ssize_t frame_size) noexcept nogil


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
