"""Step 3 of 6 in the life of a tick: the reading side of the ring.

Before: `ring_writer`. After: `copy_encoder` and `redis_encoder`.

Several named consumers read one ring, each at its own pace. A *gating* consumer is never overtaken: the producer finds
the ring full instead. A *lossy* consumer may be overtaken and counts what it missed.
"""

import os

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from native_pipeline.record cimport (
    SISE_CONSUMER_FREE,
    SISE_CONSUMER_GATING,
    SISE_CONSUMER_LOSSY,
    SISE_CONSUMERS,
    SISE_FLAG_RESUMED,
    SISE_NAME_BYTES,
    SISE_PAD,
    sise_consumer_slot,
    sise_exchange32,
    sise_fence_acquire,
    sise_fence_full,
    sise_fence_release,
    sise_load_acquire,
    sise_load_relaxed,
    sise_record_header,
    sise_store32_relaxed,
)
from native_pipeline.ring_file cimport (
    FIRST_SLOT_LOCK,
    REGISTRATION_LOCK,
    RESIDENT_WINDOW,
    release_lock,
    slot_name,
    store_position,
    take_lock,
)
from native_pipeline.ring_records cimport NO_POSITION, is_whole, most_records, scan_for_record

from daemon.errors import RingError, RingInUse

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char* text, size_t limit)

cdef enum:
    FIRST_COPY = 1 << 18         # a lossy reader copies windows of 256 KiB, fewer bytes than an L2 cache


cdef class RingReader(RingFile):
    """A named consumer; one process at a time. Use `GatingReader` or `LossyReader`."""

    def __cinit__(self, path, name):
        cdef int i, free_slot = -1
        cdef sise_consumer_slot* slot
        cdef bint gating = isinstance(self, GatingReader)
        encoded = slot_name(name)
        self.gating = gating
        self.slot = NULL
        take_lock(self.fd, REGISTRATION_LOCK, True)
        try:
            for i in range(SISE_CONSUMERS):
                slot = &self.header.consumers[i]
                if slot.mode == SISE_CONSUMER_FREE:
                    free_slot = i if free_slot < 0 else free_slot
                elif slot.name[:strnlen(slot.name, SISE_NAME_BYTES)] == encoded:
                    self.slot = slot
                    self.slot_index = i
                    break
            else:
                if free_slot < 0:
                    raise RingError(f"{self.path}: all {SISE_CONSUMERS} consumer slots are taken")
                self.slot = &self.header.consumers[free_slot]
                self.slot_index = free_slot
                memset(self.slot.name, 0, SISE_NAME_BYTES)
                memcpy(self.slot.name, <const char*>encoded, len(encoded))
                store_position(self.slot, sise_load_acquire(&self.header.head))
                sise_fence_release()  # the position before the mode: the producer looks at them in the other order
                self.slot.mode = SISE_CONSUMER_GATING if gating else SISE_CONSUMER_LOSSY
        finally:
            release_lock(self.fd, REGISTRATION_LOCK)
        if self.slot.mode != <uint32_t>(SISE_CONSUMER_GATING if gating else SISE_CONSUMER_LOSSY):
            raise RingError(f"{self.path}: consumer {name!r} is of the other kind (gating or lossy)")
        if not take_lock(self.fd, FIRST_SLOT_LOCK + 64 * self.slot_index, False):
            raise RingInUse(f"{self.path}: consumer {name!r} is in use (pid {self.slot.pid})")
        self.slot.pid = os.getpid()
        sise_store32_relaxed(&self.slot.sleeping, 0)
        self.position = sise_load_relaxed(&self.slot.position)
        self._require_credible_position()
        self.window_end = self.position
        self.released = self.position
        if self.position == 0:
            self.expected_seq = self.header.first_seq
        self.lapped_records = self.slot.lapped_records
        if not gating:
            self.copy_bytes = FIRST_COPY
            self.copy = <char*>malloc(self.copy_bytes)
            if self.copy is NULL:
                raise MemoryError
        self.copy_position = self.position

    def __dealloc__(self):
        free(self.copy)

    def _require_credible_position(self):
        """Replace a position that no consumer can have had (a damaged file) by the nearest possible; count it."""
        cdef uint64_t head = sise_load_acquire(&self.header.head), found, seq
        cdef uint64_t claimed = sise_load_acquire(&self.header.claimed)  # behind head: it was stored before it
        if head > claimed or head & 7:
            raise RingError(
                f"{self.path}: damaged header: head is {head}, claimed {claimed}; the next producer repairs it"
            )
        if self.position <= head and not self.position & 7 and (
            not self.gating or head - self.position <= self.capacity
        ):
            return
        if self.position > head or head < self.capacity or self.find_boundary(head - self.capacity, &found, &seq) < 0:
            found = head
        self.position = found
        self.corrupt_records += 1
        store_position(self.slot, found)

    cdef uint64_t fetch(self, uint64_t max_bytes) noexcept nogil:
        cdef uint64_t head = sise_load_acquire(&self.header.head)  # pairs with publish()'s release
        cdef uint64_t size, room, claimed, length
        cdef char* grown
        if self.position > head:
            self.position = head  # a new producer cut a damaged tail that was read already
        if self.gating:
            self.window_end = min(head, self.position + self.capacity)
            return self.window_end - self.position
        while self.position < head:
            claimed = sise_load_acquire(&self.header.claimed)
            if claimed > self.capacity and self.position < claimed - self.capacity:
                self._resync(claimed - self.capacity)
                continue
            room = self.capacity - (self.position & self.mask)
            size = min(head - self.position, room)
            size = min(size, self.copy_bytes)
            if max_bytes and size > max_bytes:
                size = min(size, max(max_bytes, <uint64_t>sizeof(sise_record_header)))
            memcpy(self.copy, self.data + (self.position & self.mask), size)
            sise_fence_acquire()  # the copy before the second look at claimed
            claimed = sise_load_relaxed(&self.header.claimed)
            if claimed > self.capacity and self.position < claimed - self.capacity:
                continue
            self.copy_position = self.position
            self.window_end = self.position + size
            if size >= sizeof(sise_record_header):
                # one record longer than the copy: make room for all of it
                length = (<sise_record_header*>self.copy).length
                if size < length <= min(min(room, head - self.position), self.capacity >> 3) and (
                    (<sise_record_header*>self.copy).kind != SISE_PAD
                ):
                    if length > self.copy_bytes:
                        grown = <char*>realloc(self.copy, length)
                        if grown is NULL:
                            return 0
                        self.copy = grown
                        self.copy_bytes = length
                    max_bytes = max(max_bytes, length) if max_bytes else 0
                    continue
            return size
        self.window_end = self.position
        return 0

    cdef void _resync(self, uint64_t behind) noexcept nogil:
        """Lapped: go on at an indexed record behind *behind*, or at the head; next() counts what was missed by its seq.

        An eighth of the ring is left as a start: the oldest record that is left would be overwritten during the copy.
        """
        cdef uint64_t found, seq
        if self.find_boundary(behind + (self.capacity >> 3), &found, &seq) < 0 and (
            self.find_boundary(behind, &found, &seq) < 0
        ):
            found = sise_load_acquire(&self.header.head)
        self.position = max(found, self.position)
        self.window_end = self.position
        self.copy_position = self.position

    cdef const sise_record_header* next(self) noexcept nogil:
        cdef const sise_record_header* record
        cdef uint64_t room, available, missed
        while self.position < self.window_end:
            room = self.capacity - (self.position & self.mask)
            if room < sizeof(sise_record_header):
                self.position += room
                continue
            available = self.window_end - self.position
            if self.gating:
                record = <const sise_record_header*>(self.data + (self.position & self.mask))
            else:
                if available < sizeof(sise_record_header):
                    if self.window_end >= sise_load_acquire(&self.header.head):
                        self.position = self.window_end  # no record is that short: a damaged head
                    return NULL
                record = <const sise_record_header*>(self.copy + (self.position - self.copy_position))
            if record.kind == SISE_PAD and record.length == room:
                self.position += room
                continue
            if (
                not self.gating
                and available < record.length <= min(room, self.capacity >> 3)
                and self.position + record.length <= sise_load_acquire(&self.header.head)
            ):
                return NULL  # cut by the window: the next fetch() starts here
            if not is_whole(record, room, available) or record.seq < self.expected_seq:
                self._skip_damage(record, room, available)
                continue
            if self.expected_seq and record.seq > self.expected_seq and not record.flags & SISE_FLAG_RESUMED:
                missed = record.seq - self.expected_seq
                if self.gating or self.pending_damage:
                    self.corrupt_records += missed - min(missed, self.pending_damage)
                else:
                    self.lapped_records += missed
                    self.slot.lapped_records += missed
            self.pending_damage = 0
            self.expected_seq = record.seq + 1
            self.last_seq = record.seq
            self.position += record.length
            return record
        return NULL

    cdef void _skip_damage(self, const sise_record_header* record, uint64_t room, uint64_t available) noexcept nogil:
        """The record at position is damaged (or of an earlier lap): go on at the next whole one of the window.

        Counts one; next() corrects the number by the seq of that record.
        """
        cdef uint64_t size = min(room, available)
        cdef uint64_t after_seq = (self.expected_seq if self.expected_seq else self.header.first_seq) - 1
        cdef uint64_t span = most_records(self.capacity) if self.gating and self.expected_seq else NO_POSITION
        cdef uint64_t found = scan_for_record(<const char*>record, size, 8, after_seq, span)
        if self.pending_damage == 0:
            self.pending_damage = 1
            self.corrupt_records += 1
        if found == size and not self.gating and size == available and (
            self.window_end < sise_load_acquire(&self.header.head)
        ):
            # a whole record may begin in this window and end behind it
            found = max(<uint64_t>8, (size >> 1) & ~<uint64_t>7)
        self.position += found

    cdef void commit_position(self) noexcept nogil:
        if self.closed:
            return  # the slot may have a new owner
        store_position(self.slot, self.position)  # pairs with the producer's load in lowest_gate
        if self.position - self.released > RESIDENT_WINDOW:
            if self.capacity > 4 * RESIDENT_WINDOW:
                self.release_pages(self.released, self.position)
            self.released = self.position

    # ---- for Python ---------------------------------------------------------------------------------

    @property
    def lag_bytes(self) -> int:
        """Published bytes that are not committed yet."""
        return sise_load_acquire(&self.header.head) - sise_load_relaxed(&self.slot.position)

    @property
    def position_bytes(self) -> int:
        """Position of the next record to read."""
        return self.position

    def fetch_bytes(self, uint64_t max_bytes=0) -> int:
        """Make the next published records available; return their size in bytes, 0 if there are none."""
        return self.fetch(max_bytes)

    def next_bytes(self):
        """Return the next record of the fetched window as bytes, header included; None when the window is used up."""
        cdef const sise_record_header* record = self.next()
        return None if record is NULL else (<const char*>record)[:record.length]

    def commit(self) -> None:
        """Declare everything read so far as done: a gating reader's space may now be overwritten."""
        self.commit_position()

    def rewind(self) -> None:
        """Go back to the last committed position: what was read since is read again."""
        self.position = sise_load_relaxed(&self.slot.position)
        self.window_end = self.position
        self.copy_position = self.position
        self.expected_seq = 0
        self.pending_damage = 0

    def seek_after(self, uint64_t seq) -> int:
        """Position the reader on the first record whose seq is greater than *seq*; return how many are missing.

        Missing are those records behind *seq* that the ring no longer holds for this consumer: 0 in every case but
        one, a database that is older than the ring (restored from a backup). Never goes back behind the committed
        position, because the producer may be overwriting what lies there.
        """
        cdef const sise_record_header* record
        cdef uint64_t position, at, offset, damage, found_seq, newest, head = sise_load_acquire(&self.header.head)
        cdef uint64_t committed = min(sise_load_relaxed(&self.slot.position), head)
        cdef uint64_t missing = 0, passed_seq = 0
        self.expected_seq = 0
        self.pending_damage = 0
        if self.find_seq(seq, &at, &found_seq) < 0 or at < committed:
            at = committed
        else:
            position = at
            record = self.record_at(&position, head)
            if record is NULL or position != at or record.seq != found_seq:
                at = committed  # not what the index says: walk
        if self.gating or sise_load_acquire(&self.header.claimed) <= self.capacity + at:
            while True:
                position = at
                record = self.record_at(&position, head)
                damage = position
                while record is NULL and position < head:
                    offset = position & self.mask
                    position += scan_for_record(self.data + offset, min(self.capacity - offset, head - position), 8,
                                                max(passed_seq, self.header.first_seq - 1),
                                                most_records(self.capacity) if passed_seq else NO_POSITION)
                    record = self.record_at(&position, head)
                if damage != position and (record is NULL or record.seq > seq + 1):
                    at = damage  # what was lost here lies behind the cursor: next() counts it
                    if record is not NULL:
                        self.expected_seq = max(seq + 1, self.header.first_seq)
                    elif passed_seq:
                        self.expected_seq = passed_seq + 1
                    break
                if record is NULL:
                    if not passed_seq:
                        newest = self._newest_seq(head)
                        missing = newest - min(max(seq, self.header.first_seq - 1), newest)
                    at = head
                    break
                at = position
                if record.seq > seq:
                    if not passed_seq and not record.flags & SISE_FLAG_RESUMED:
                        missing = record.seq - max(seq + 1, self.header.first_seq)
                    self.expected_seq = record.seq
                    break
                passed_seq = record.seq
                at += record.length
        # else: lapped already, fetch() finds a record that is left
        self.position = at
        self.window_end = at
        self.copy_position = at
        return missing

    cdef uint64_t _newest_seq(self, uint64_t head) noexcept nogil:
        cdef const sise_record_header* record
        cdef uint64_t position, seq, newest = 0
        if self.find_seq(NO_POSITION, &position, &seq) < 0:
            return 0
        while True:
            record = self.record_at(&position, head)
            if record is NULL:
                return newest
            newest = record.seq
            position += record.length

    def prepare_sleep(self) -> bool:
        """Announce that this consumer is about to wait for its eventfd; False if there is something to read already."""
        sise_exchange32(&self.slot.sleeping, 1)
        sise_fence_full()  # sleeping before head; the producer stores head, fences, then looks at sleeping
        if sise_load_acquire(&self.header.head) != self.position:
            sise_store32_relaxed(&self.slot.sleeping, 0)
            return False
        return True

    def cancel_sleep(self) -> None:
        """Stop asking to be woken."""
        sise_store32_relaxed(&self.slot.sleeping, 0)

    def close(self) -> None:
        """Give the slot back (it keeps its position); another process may take it."""
        if self.slot is not NULL and not self.closed:
            self.closed = True
            sise_store32_relaxed(&self.slot.sleeping, 0)
            self.slot.pid = 0
            release_lock(self.fd, FIRST_SLOT_LOCK + 64 * self.slot_index)


cdef class GatingReader(RingReader):
    """A consumer that is never overtaken: the ring fills up behind it instead. The database writer."""


cdef class LossyReader(RingReader):
    """A consumer that may be overtaken and counts the records it missed (`lapped_records`). The publisher."""
