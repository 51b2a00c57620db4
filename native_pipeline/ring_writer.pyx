"""Step 3 of 6 in the life of a tick: the ring, a write-ahead log in a memory-mapped file.

Before: `parse_<venue>`. After: `ring_reader`.

One producer appends variable-length records. Killing any process loses nothing that was published, because the pages
belong to the kernel. The file is `ring_file`, what the next producer makes of it `ring_recovery`.
"""

import os

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from native_pipeline.ledger cimport Ledger
from native_pipeline.record cimport (
    SISE_CONSUMER_FREE,
    SISE_CONSUMERS,
    SISE_FLAG_TRUNCATED,
    SISE_INDEX_BLOCKS,
    SISE_NAME_BYTES,
    SISE_PAD,
    SISE_QUARANTINE,
    sise_exchange32,
    sise_fence_acquire,
    sise_fence_full,
    sise_fence_release,
    sise_index_entry,
    sise_load32_relaxed,
    sise_load_acquire,
    sise_load_relaxed,
    sise_quarantine,
    sise_record_header,
    sise_store32_relaxed,
    sise_store_relaxed,
    sise_store_release,
    sise_trade,
)
from native_pipeline.ring_file cimport (
    PRODUCER_LOCK,
    RESIDENT_WINDOW,
    RingFile,
    release_lock,
    slot_name,
    take_lock,
)
from native_pipeline.ring_records cimport NO_POSITION, sise_crc32c
from native_pipeline.ring_recovery cimport Recovered, recover, restore_slots, taint
from native_pipeline.streams cimport MOST_COUNTED, RECENT, Stream, Streams, continues, go_on, is_stream_of

from daemon.errors import RingError, RingInUse
from daemon.failpoints import is_enabled, reach

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char* text, size_t limit)

cdef extern from *:
    int __builtin_ctzll(unsigned long long value) noexcept nogil

cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void* buffer, size_t size)
    ssize_t read(int fd, void* buffer, size_t size)
    int close(int fd)
    int fdatasync(int fd)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout_ms)
    short POLLIN

cdef extern from "<errno.h>" nogil:
    int c_errno "errno"

cdef enum:
    CLAIM_AHEAD = 1 << 16        # the producer announces what it will overwrite in steps of 64 KiB
    MAX_QUARANTINE = 1 << 20     # longer frames are kept up to here and marked as truncated

# Crash points (daemon/failpoints.py): false in production, so that each costs one predictable branch.
cdef bint FAILPOINTS = is_enabled()
cdef enum:
    BEFORE_PUBLISH
    BEFORE_WAKE
    BEFORE_HEAD
_POINTS = ("ring.before_publish", "ring.before_wake", "ring.before_head")


cdef void _reach(int point) noexcept with gil:
    reach(_POINTS[point])


@cython.final
cdef class RingWriter(RingFile):
    """The ring's only producer. A second one is refused with RingError as long as the first one lives.

    wake_fds: consumer name -> eventfd that wakes it (only written when the consumer says that it sleeps).
    syncs_first: publishing only hands over to the sync thread, which has to call `wait_written` and `sync`: then
    consumers see nothing that a power loss could take back.
    """

    def __cinit__(self, path, *, wake_fds=None, bint syncs_first=False):
        cdef int i
        self.sync_fd = -1
        for i in range(SISE_CONSUMERS):
            self.wake_fds[i] = -1
        if not take_lock(self.fd, PRODUCER_LOCK, False):
            raise RingInUse(f"{self.path}: another producer holds it (pid {self.header.producer_pid})")
        self.syncs_first = syncs_first
        if syncs_first:
            self.sync_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.ledger = Ledger()
        self.streams_seen = Streams()
        self._recover()
        for name, fd in (wake_fds or {}).items():
            self._set_wake_fd(name, fd)
        self._wake_all()

    def __dealloc__(self):
        if self.sync_fd > 0:  # 0: refused before it was set
            close(self.sync_fd)

    def _set_wake_fd(self, name, int fd):
        encoded = slot_name(name)
        for i in range(SISE_CONSUMERS):
            slot = &self.header.consumers[i]
            if slot.mode != SISE_CONSUMER_FREE and slot.name[:strnlen(slot.name, SISE_NAME_BYTES)] == encoded:
                self.wake_fds[i] = fd
                return
        raise RingError(f"{self.path}: has no consumer called {name!r}")

    def _wake_all(self):
        """Wake every consumer once: the previous producer may have been killed between publishing and waking."""
        cdef uint64_t one = 1
        for i in range(SISE_CONSUMERS):
            if self.wake_fds[i] >= 0:
                sise_exchange32(&self.header.consumers[i].sleeping, 0)
                write(self.wake_fds[i], &one, sizeof(one))

    def _recover(self):
        cdef Recovered found
        recover(self, self.streams_seen, self.ledger, self.syncs_first, &found)
        self.position = self.released = self.written = self.doubtful_end = found.end
        self.next_seq = self.written_seq = self.written_seq_check = found.next_seq
        self.next_flags = found.next_flags
        self.claimed = found.claimed
        self.current_block = found.current_block
        self.doubtful_begin = found.doubtful_begin
        self.recovered_bytes = found.recovered_bytes
        self.adopted_records = found.adopted_records
        self.last_recv_ns = self.written_recv_ns = self.header.head_recv_ns
        self.gate = self.lowest_gate(found.end)

    def restore_consumers(self, expected) -> list[str]:
        """Make sure that the slots of *expected*, {name: mode}, say so; return the names of those that were damaged.

        To be called before any consumer is attached. Raises RingError when it cannot be told which slot it was.
        """
        restored = restore_slots(self, expected)
        self.gate = self.lowest_gate(sise_load_relaxed(&self.header.head))
        return restored

    cdef uint64_t free_bytes(self) noexcept nogil:
        self.gate = self.lowest_gate(sise_load_relaxed(&self.header.head))
        return self.capacity - (self.position - self.gate)

    cdef char* reserve(self, uint32_t length) noexcept nogil:
        cdef uint64_t need = (<uint64_t>length + 7) & ~<uint64_t>7
        cdef uint64_t offset = self.position & self.mask
        cdef uint64_t room = self.capacity - offset
        cdef uint64_t pad = room if need > room else 0
        cdef uint64_t end = self.position + pad + need
        cdef uint64_t begin
        cdef sise_record_header* record
        if need > self.capacity >> 3 or need < sizeof(sise_record_header) or self.closed:
            return NULL
        if end - self.gate > self.capacity:
            # without a gating consumer the head is the gate: one that registers now begins there
            self.gate = self.lowest_gate(sise_load_relaxed(&self.header.head))
            if end - self.gate > self.capacity:
                self.full_count += 1
                return NULL
        if end > self.claimed:
            # announce, then overwrite: a lossy reader re-checks `claimed` after it has copied
            # (never beyond the gate: recovery takes what `claimed` covers for overwritten)
            begin = self.claimed
            self.claimed = min(end + CLAIM_AHEAD, self.gate + self.capacity)
            sise_store_relaxed(&self.header.claimed, self.claimed)
            sise_fence_full()
            self.map_pages(begin, self.claimed)
        if pad:
            if pad >= sizeof(sise_record_header):
                record = <sise_record_header*>(self.data + offset)
                memset(record, 0, sizeof(sise_record_header))
                record.length = <uint32_t>pad
                record.kind = SISE_PAD
            offset = 0
        self.reserved_bytes = <uint32_t>need
        record = <sise_record_header*>(self.data + offset)
        memset(record, 0, sizeof(sise_record_header))
        if need != length:
            memset(<char*>record + need - 8, 0, 8)
        return <char*>record

    cdef void commit(self, char* at) noexcept nogil:
        self._commit(at)
        self.ledger.count(<const sise_record_header*>at)

    cdef bint commit_once(self, char* at, uint64_t identity, uint64_t content) noexcept nogil:
        cdef sise_record_header* record = <sise_record_header*>at
        cdef Stream* stream = self.expected
        self.expected = NULL
        if stream is NULL or not is_stream_of(stream, record):
            stream = self.streams_seen.find(record)
            if stream is NULL:
                self.commit(at)
                return True
        if content == 0 and stream.recent_room >= RECENT and continues(stream, record, identity):
            go_on(stream, <sise_trade*>record)
        elif not self.streams_seen.admit(stream, record, identity, content):
            return False
        self._commit(at)
        if not self.minute_ns <= record.recv_ns < self.minute_ns + MINUTE_NS:
            self.minute = <uint32_t>(record.recv_ns // MINUTE_NS)
            self.minute_ns = self.minute * MINUTE_NS
        if stream.minute == self.minute and 0 < stream.count < MOST_COUNTED:
            stream.count += 1
        else:
            self.streams_seen.count(stream, self.minute, self.ledger)
        return True

    cdef void _commit(self, char* at) noexcept nogil:
        cdef sise_record_header* record = <sise_record_header*>at
        cdef uint64_t offset = <uint64_t>(at - self.data)
        cdef uint64_t block
        cdef sise_index_entry* entry
        if offset != (self.position & self.mask):
            self.position += self.capacity - (self.position & self.mask)
        record.length = self.reserved_bytes
        record.seq = self.next_seq
        if self.next_flags:
            record.flags |= self.next_flags
            self.next_flags = 0
        record.crc32c = sise_crc32c(at + 8, record.length - 8)
        block = self.position >> __builtin_ctzll(self.block_bytes)  # a power of two
        if block != self.current_block:
            self.current_block = block
            entry = &self.header.index[block % SISE_INDEX_BLOCKS]
            sise_store_release(&entry.position, NO_POSITION)
            sise_store_release(&entry.seq, record.seq)
            sise_store_release(&entry.position, self.position)
        if record.recv_ns > 0:
            self.last_recv_ns = record.recv_ns
        self.next_seq += 1
        self.position += record.length

    cdef void publish_head(self) noexcept nogil:
        if self.closed:
            return
        if self.syncs_first:
            if self.position != self.written:
                self._hand_to_sync()
        elif self.position != sise_load_relaxed(&self.header.head):
            self._publish(self.position, self.next_seq, self.last_recv_ns)
        if self.position - self.released > 2 * RESIDENT_WINDOW:
            if self.capacity > 4 * RESIDENT_WINDOW:
                self.release_pages(self.released, self.position - RESIDENT_WINDOW)
            self.released = self.position - RESIDENT_WINDOW

    cdef void _publish(self, uint64_t position, uint64_t seq, int64_t recv_ns) noexcept nogil:
        cdef int i
        cdef uint64_t one = 1
        if FAILPOINTS:
            _reach(BEFORE_HEAD if self.syncs_first else BEFORE_PUBLISH)
        self.header.head_recv_ns = recv_ns
        self.header.head_seq = seq
        self.header.head_check = ~(position ^ seq)
        sise_store_release(&self.header.head, position)  # pairs with the readers' load-acquire of head
        sise_fence_full()  # head before sleeping: a consumer stores sleeping, fences, then looks at head again
        if FAILPOINTS:
            _reach(BEFORE_WAKE)
        for i in range(SISE_CONSUMERS):
            if self.wake_fds[i] >= 0 and sise_load32_relaxed(&self.header.consumers[i].sleeping):
                if sise_exchange32(&self.header.consumers[i].sleeping, 0):
                    write(self.wake_fds[i], &one, sizeof(one))

    cdef void _hand_to_sync(self) noexcept nogil:
        """The feed thread's half of group commit: say how far it has written, wake the sync thread if that sleeps."""
        cdef uint64_t one = 1
        if FAILPOINTS:
            _reach(BEFORE_PUBLISH)
        sise_store_release(&self.written_seq, self.next_seq)
        sise_fence_release()
        sise_store_release(&self.written, self.position)
        sise_store_release(<uint64_t*>&self.written_recv_ns, <uint64_t>self.last_recv_ns)
        sise_store_release(&self.written_seq_check, self.next_seq)
        sise_fence_full()  # written before sleeping: the sync thread stores sleeping, fences, then looks at written
        if sise_load32_relaxed(&self.sync_sleeping) and sise_exchange32(&self.sync_sleeping, 0):
            write(self.sync_fd, &one, sizeof(one))

    cdef int append_quarantine(self, uint16_t reason, uint16_t detail, uint8_t venue, uint8_t market,
                               int64_t recv_ns, const char* prefix, Py_ssize_t prefix_size,
                               const char* frame, Py_ssize_t frame_size) noexcept nogil:
        cdef uint64_t limit = min(<uint64_t>MAX_QUARANTINE, (self.capacity >> 3) - sizeof(sise_quarantine) - 8)
        cdef uint64_t kept = min(<uint64_t>(prefix_size + frame_size), limit)
        cdef uint64_t from_prefix = min(<uint64_t>prefix_size, kept)
        cdef sise_quarantine* record = <sise_quarantine*>self.reserve(<uint32_t>(sizeof(sise_quarantine) + kept))
        if record is NULL:
            return -1
        record.header.kind = SISE_QUARANTINE
        record.header.venue = venue
        record.header.market = market
        record.header.recv_ns = recv_ns
        if kept < <uint64_t>(prefix_size + frame_size):
            record.header.flags = SISE_FLAG_TRUNCATED
        record.frame_bytes = <uint32_t>kept
        record.original_bytes = <uint32_t>(prefix_size + frame_size)
        record.reason = reason
        record.detail = detail
        record.reserved = 0
        memcpy(<char*>record + sizeof(sise_quarantine), prefix, from_prefix)
        memcpy(<char*>record + sizeof(sise_quarantine) + from_prefix, frame, kept - from_prefix)
        self.commit(<char*>record)
        return 0

    # ---- for Python: control paths, tests -----------------------------------------------------------

    def flag_next(self, int flags) -> None:
        """Let the next record that is appended carry *flags* beside its own."""
        self.next_flags |= <uint8_t>flags

    @property
    def last_seq(self) -> int:
        """Sequence number of the newest appended record (first_seq - 1 if there is none)."""
        return self.next_seq - 1

    @property
    def room_bytes(self) -> int:
        """Bytes that can be appended before the ring is full."""
        return self.free_bytes()

    def _require_open(self):
        if self.closed:
            raise RingError(f"{self.path}: closed")

    def append(self, int kind, bytes body not None, *, int flags=0, int venue=0, int market=0,
               int64_t recv_ns=0, int utc_offset_min=0) -> int:
        """Append a record whose *body* (the bytes behind the 32-byte header) is ready; return its seq.

        Not published yet. Raises RingError when the ring is full.
        """
        cdef char* at
        cdef sise_record_header* record
        self._require_open()
        if <uint64_t>len(body) > (self.capacity >> 3) - sizeof(sise_record_header):
            raise RingError(f"{self.path}: a record of {len(body)} bytes is longer than an eighth of the ring")
        at = self.reserve(<uint32_t>(sizeof(sise_record_header) + len(body)))
        record = <sise_record_header*>at
        if at is NULL:
            raise RingError(f"{self.path}: full")
        record.kind = kind
        record.flags = flags
        record.venue = venue
        record.market = market
        record.recv_ns = recv_ns
        record.utc_offset_min = utc_offset_min
        memcpy(at + sizeof(sise_record_header), <const char*>body, len(body))
        self.commit(at)
        return self.next_seq - 1

    def append_quarantine_frame(self, int reason, bytes frame not None, *, int venue, int market=0,
                                int64_t recv_ns, int detail=0) -> None:
        """Append a quarantine record with *frame*. Not published yet. Raises RingError when the ring is full."""
        self._require_open()
        if self.append_quarantine(reason, detail, venue, market, recv_ns, b"", 0, frame, len(frame)) < 0:
            raise RingError(f"{self.path}: full")

    @property
    def late_trades(self) -> int:
        """Trades that arrived behind a later one of their stream, since this producer began."""
        return self.streams_seen.late

    @property
    def volume_gaps(self) -> int:
        """Holes found by the cumulative volume, since this producer began."""
        return self.streams_seen.gaps

    def publish(self) -> None:
        """Make every appended record visible to the consumers and wake those that sleep."""
        self.publish_head()

    @property
    def oldest_recv_ns(self) -> int:
        """Receive time of the oldest tick or quarantined frame that the ring still holds, 0 if there is none."""
        cdef const sise_record_header* record
        cdef uint64_t position = self.first_trusted(self._oldest(), self.position)
        while True:
            record = self.record_at(&position, self.position)
            if record is NULL:
                return 0
            if record.recv_ns > 0:
                return record.recv_ns
            position += record.length

    def _oldest(self) -> int:
        """Position below which everything may be overwritten."""
        return min(self.claimed - self.capacity if self.claimed > self.capacity else 0, self.position)

    @property
    def unsynced_bytes(self) -> int:
        """Bytes in the ring that a power loss could still take."""
        return min(self.position - sise_load_acquire(&self.header.synced), self.capacity)

    def sync(self) -> int:
        """Write everything that is complete to the disk (fdatasync, without the GIL); return that position.

        For a background thread. With `syncs_first`, then publish it. A failed sync raises OSError, publishes nothing
        and leaves the watermark where it was. So does every further one: the kernel would take the pages for written
        that the first one has lost, and only the next producer knows all of them.
        """
        cdef uint64_t end, seq = 0, check = 0
        cdef int64_t recv_ns = 0
        cdef int failed = self.refused
        if failed:
            raise OSError(failed, os.strerror(failed), self.path)
        with nogil:
            if self.syncs_first:
                while True:
                    check = sise_load_acquire(&self.written_seq_check)
                    recv_ns = <int64_t>sise_load_acquire(<uint64_t*>&self.written_recv_ns)
                    end = sise_load_acquire(&self.written)
                    sise_fence_acquire()
                    seq = sise_load_acquire(&self.written_seq)
                    if seq == check:
                        break
            else:
                end = sise_load_acquire(&self.header.head)
            if end > sise_load_relaxed(&self.header.synced):
                taint(self, self.doubtful_begin, self.doubtful_end)
                self.doubtful_begin = self.doubtful_end
                if fdatasync(self.fd) < 0:
                    failed = self.refused = c_errno
                else:
                    sise_store_release(&self.header.synced, end)
            if self.syncs_first and not failed and end != sise_load_relaxed(&self.header.head):
                self._publish(end, seq, recv_ns)
        if failed:
            raise OSError(failed, os.strerror(failed), self.path)
        return end

    def wait_written(self, double timeout_s) -> bool:
        """Wait, without the GIL, until there is something for `sync`, or timeout_s at most; True if there is."""
        cdef pollfd waited
        cdef uint64_t count
        with nogil:
            sise_exchange32(&self.sync_sleeping, 1)
            sise_fence_full()  # sleeping before written; the feed thread stores written, fences, looks at sleeping
            if sise_load_acquire(&self.written) == sise_load_relaxed(&self.header.head):
                waited.fd = self.sync_fd
                waited.events = POLLIN
                poll(&waited, 1, <int>(timeout_s * 1000))
            sise_store32_relaxed(&self.sync_sleeping, 0)
            read(self.sync_fd, &count, sizeof(count))
        return sise_load_acquire(&self.written) != sise_load_relaxed(&self.header.head)

    def wake_sync(self) -> None:
        """End a `wait_written` of another thread."""
        cdef uint64_t one = 1
        write(self.sync_fd, &one, sizeof(one))

    def close(self, *, bint clean=True) -> None:
        """Publish, mark the file as closed in order, and let the next producer in.

        With `syncs_first` and a disk that refuses, what is not synced stays unpublished: the next producer takes it
        over.
        """
        if self.closed:
            return
        self.publish_head()
        if self.syncs_first:
            try:
                self.sync()
            except OSError:
                clean = False
        self.closed = True
        self.header.clean = clean
        release_lock(self.fd, PRODUCER_LOCK)
