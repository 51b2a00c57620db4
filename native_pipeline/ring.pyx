"""Step 3 of 6 in the life of a tick: the ring, a write-ahead log in a memory-mapped file.

Before: `parse_<venue>`. After: `copy_encoder` and `redis_encoder`.

One producer appends variable-length records; several named consumers read them, each at its own pace. A *gating*
consumer is never overtaken: the producer finds the ring full instead. A *lossy* consumer may be overtaken and counts
what it missed. Positions are bytes since the ring was created and never wrap; a record lies at position % capacity
and never straddles the end of the data area. Killing any process loses nothing that was published, because the
pages belong to the kernel; the layout is in `layout.h` and docs/formats.md.
"""

import errno
import fcntl
import os
import struct
import time
from pathlib import Path

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from native_pipeline.ledger cimport Ledger, LedgerEntry
from native_pipeline.record cimport (
    SISE_ABSENT,
    SISE_CONSUMER_FREE,
    SISE_CONSUMER_GATING,
    SISE_CONSUMER_LOSSY,
    SISE_CONSUMERS,
    SISE_FLAG_RESUMED,
    SISE_FLAG_TRUNCATED,
    SISE_GAP,
    SISE_INDEX_BLOCKS,
    SISE_LAYOUT_VERSION,
    SISE_LEDGER,
    SISE_NAME_BYTES,
    SISE_PAD,
    SISE_QUARANTINE,
    SISE_RING_HEADER_BYTES,
    SISE_RING_MAGIC,
    SISE_SYMBOL_BYTES,
    sise_consumer_slot,
    sise_exchange32,
    sise_fence_acquire,
    sise_fence_full,
    sise_fence_release,
    sise_gap,
    sise_index_entry,
    sise_ledger,
    sise_load32_relaxed,
    sise_load_acquire,
    sise_load_relaxed,
    sise_quarantine,
    sise_record_header,
    sise_ring_header,
    sise_store32_relaxed,
    sise_store_relaxed,
    sise_store_release,
    sise_touch,
    sise_trade,
)

from native_pipeline.streams cimport (
    MOST_COUNTED,
    RECENT,
    FoundGap,
    Stream,
    Streams,
    continues,
    go_on,
    is_stream_of,
)

from daemon.errors import RingError, RingInUse
from daemon.failpoints import is_enabled, reach

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char* text, size_t limit)

cdef extern from *:
    int __builtin_ctzll(unsigned long long value) noexcept nogil

cdef extern from "crc32c.h" nogil:
    uint32_t sise_crc32c(const char* data, size_t size)

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void* address, size_t length)
    int madvise(void* address, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_SHARED, MADV_DONTNEED
    void* MAP_FAILED

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
    MIN_CAPACITY = 1 << 20
    CLAIM_AHEAD = 1 << 16        # the producer announces what it will overwrite in steps of 64 KiB
    RESIDENT_WINDOW = 1 << 20    # pages further behind than this are given back: RSS stays flat, the file keeps them
    FIRST_COPY = 1 << 18         # a lossy reader copies windows of 256 KiB, fewer bytes than an L2 cache
    MAX_QUARANTINE = 1 << 20     # longer frames are kept up to here and marked as truncated
    PAGE = 4096
    MADV_POPULATE_WRITE = 23     # <linux/mman.h>, not in every libc's headers
    VOLUME_GAP = 4               # position in records.GAP_REASONS
    IDENTITY_BYTES = 44          # of the header: magic to ring number, written once
    MIN_JUMP = 1 << 26           # of seq after a repair: 4 s at full speed, also when the clock was set back meanwhile

GATING = SISE_CONSUMER_GATING
LOSSY = SISE_CONSUMER_LOSSY
LAYOUT_VERSION = SISE_LAYOUT_VERSION
HEADER_BYTES = SISE_RING_HEADER_BYTES

cdef int64_t MINUTE_NS = 60 * 1000000000
cdef int64_t HOLE_GRACE_NS = 2 * 1000000000  # a venue that sends out of order, the slower session of a pair
cdef uint64_t MAX_CAPACITY = <uint64_t>1 << 36
cdef uint64_t NO_POSITION = <uint64_t>-1
cdef uint32_t NO_MINUTE = <uint32_t>-1  # of Streams.oldest_minute

# Lock ranges in the file (open-file-description locks: they end with their owner, whatever kills it).
_PRODUCER_LOCK = 0
_REGISTRATION_LOCK = 8
_FIRST_SLOT_LOCK = 256

# Crash points (daemon/failpoints.py): false in production, so that each costs one predictable branch.
cdef bint FAILPOINTS = is_enabled()
cdef enum:
    BEFORE_PUBLISH
    BEFORE_WAKE
    BEFORE_HEAD
    IN_CHECKPOINT
_POINTS = ("ring.before_publish", "ring.before_wake", "ring.before_head", "ring.in_checkpoint")


cdef void _reach(int point) noexcept with gil:
    reach(_POINTS[point])


def create_ring(path, *, int ring, uint64_t capacity_bytes,
                consumers=(("writer", GATING), ("publisher", LOSSY))) -> None:
    """Create the file of ring number *ring*, preallocated, with a slot for each of *consumers* (name, mode).

    capacity_bytes is rounded up to a power of two, at least 1 MiB. The file appears complete or not at all.
    Raises RingError if *path* exists, OSError (ENOSPC) if the disk is too small.
    """
    cdef sise_ring_header header
    cdef uint64_t capacity = MIN_CAPACITY
    if capacity_bytes > MAX_CAPACITY:
        raise ValueError(f"capacity of {capacity_bytes} bytes: at most {MAX_CAPACITY}")
    while capacity < capacity_bytes:
        capacity *= 2
    if len(consumers) > SISE_CONSUMERS:
        raise ValueError(f"{len(consumers)} consumers: a ring has {SISE_CONSUMERS} slots")
    path = Path(path)
    memset(&header, 0, sizeof(header))
    header.magic = SISE_RING_MAGIC
    header.layout_version = SISE_LAYOUT_VERSION
    header.header_bytes = SISE_RING_HEADER_BYTES
    header.capacity_bytes = capacity
    header.epoch = time.time_ns() // 1000
    header.first_seq = header.epoch
    header.ring = ring
    header.identity_crc32c = sise_crc32c(<const char*>&header, IDENTITY_BYTES)
    header.clean = 1
    header.head_seq = header.first_seq
    header.head_check = ~(header.head ^ header.head_seq)
    for number, (name, mode) in enumerate(consumers):
        encoded = _slot_name(name)
        memcpy(header.consumers[number].name, <const char*>encoded, len(encoded))
        header.consumers[number].mode = mode
        header.consumers[number].position_check = ~header.consumers[number].position
    for number in range(SISE_INDEX_BLOCKS):
        header.index[number].position = NO_POSITION
    boot = _boot_id()
    memcpy(header.boot_id, <const char*>boot, 16)

    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)  # never truncated: it may be a finished ring, its maker killed behind link()
    fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, SISE_RING_HEADER_BYTES + capacity)  # ENOSPC now, not SIGBUS later
        os.pwrite(fd, (<char*>&header)[:sizeof(header)], 0)
        os.fsync(fd)
        os.link(unfinished, path)
    except FileExistsError as exc:
        raise RingError(f"{path}: exists already") from exc
    finally:
        os.close(fd)
        unfinished.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _slot_name(name: str) -> bytes:
    encoded = name.encode("ascii")
    if not 0 < len(encoded) < SISE_NAME_BYTES:
        raise ValueError(f"consumer name {name!r}: expected 1 to {SISE_NAME_BYTES - 1} ASCII characters")
    return encoded


def _boot_id() -> bytes:
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))


def _lock(fd: int, int start, *, bint wait=False, bint release=False) -> bool:
    """Take (or release) the one-byte lock at *start*; False if another open file holds it."""
    kind = fcntl.F_UNLCK if release else fcntl.F_WRLCK
    request = struct.pack("hhxxxxqqixxxx", kind, os.SEEK_SET, start, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, request)
    except OSError as exc:
        if exc.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


cdef class RingFile:
    """The mapping of one ring file. Raises RingError, naming what is wrong, if it is not a ring of this version.

    An instance of this class itself only reads, takes no lock and changes nothing: beside a running daemon, too.
    """

    def __cinit__(self, path, *args, **kwargs):
        cdef sise_ring_header* header
        cdef uint64_t capacity
        cdef size_t size
        cdef bint writable = type(self) is not RingFile
        self.fd = -1
        self.path = str(path)
        try:
            self.fd = os.open(self.path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError as exc:
            raise RingError(f"{self.path}: cannot be opened: {exc.strerror}") from exc
        size = os.fstat(self.fd).st_size
        if size < SISE_RING_HEADER_BYTES:
            raise RingError(f"{self.path}: is {size} bytes long, a ring has at least {SISE_RING_HEADER_BYTES}")
        header = <sise_ring_header*>mmap(
            NULL, size, PROT_READ | PROT_WRITE if writable else PROT_READ, MAP_SHARED, self.fd, 0
        )
        if header == <sise_ring_header*>MAP_FAILED:
            raise RingError(f"{self.path}: cannot be mapped ({size} bytes)")
        self.header = header
        self.mapped_bytes = size
        if header.magic != SISE_RING_MAGIC:
            raise RingError(f"{self.path}: is not a ring: magic is {header.magic:#x}, expected {SISE_RING_MAGIC:#x}")
        if header.layout_version != SISE_LAYOUT_VERSION:
            raise RingError(
                f"{self.path}: has layout version {header.layout_version}, this program reads {SISE_LAYOUT_VERSION}"
            )
        if header.header_bytes != SISE_RING_HEADER_BYTES:
            raise RingError(f"{self.path}: header of {header.header_bytes} bytes, expected {SISE_RING_HEADER_BYTES}")
        capacity = header.capacity_bytes
        if not MIN_CAPACITY <= capacity <= MAX_CAPACITY or capacity & (capacity - 1):
            raise RingError(
                f"{self.path}: capacity of {header.capacity_bytes} bytes is not a power of two from 1 MiB to 64 GiB"
            )
        if size != SISE_RING_HEADER_BYTES + header.capacity_bytes:
            raise RingError(
                f"{self.path}: is {size} bytes long, its header says {SISE_RING_HEADER_BYTES + header.capacity_bytes}"
            )
        if header.identity_crc32c != sise_crc32c(<const char*>header, IDENTITY_BYTES):
            raise RingError(f"{self.path}: epoch, first seq or number of the ring are damaged: wrong checksum")
        self.capacity = header.capacity_bytes
        self.mask = self.capacity - 1
        self.block_bytes = self.capacity // SISE_INDEX_BLOCKS
        self.data = <char*>header + SISE_RING_HEADER_BYTES

    def __dealloc__(self):
        if self.header is not NULL:
            munmap(self.header, self.mapped_bytes)
        if self.path is not None and self.fd >= 0:  # no path: the arguments were refused before fd was set
            close(self.fd)

    @property
    def ring(self) -> int:
        """Number of the ring: the `source` of its rows."""
        return self.header.ring

    @property
    def epoch(self) -> int:
        """Microseconds at the file's creation."""
        return self.header.epoch

    @property
    def first_seq(self) -> int:
        """Sequence number of the epoch's first record."""
        return self.header.first_seq

    @property
    def capacity_bytes(self) -> int:
        """Size of the data area."""
        return self.capacity

    @property
    def head(self) -> int:
        """Position behind the newest published record."""
        return sise_load_acquire(&self.header.head)

    @property
    def head_recv_ns(self) -> int:
        """Receive time of the newest published record, 0 if there never was one."""
        return self.header.head_recv_ns

    @property
    def synced(self) -> int:
        """Everything below this position survives a power loss."""
        return sise_load_acquire(&self.header.synced)

    @property
    def is_clean(self) -> bool:
        """Was it closed in order by its last producer?"""
        return self.header.clean == 1

    @property
    def is_in_place(self) -> bool:
        """Is the file still the one that its path names, in its full size? Nobody must touch the mapping if not."""
        try:
            named, mapped = os.stat(self.path), os.fstat(self.fd)
        except OSError:
            return False
        return (named.st_dev, named.st_ino) == (mapped.st_dev, mapped.st_ino) and mapped.st_size == self.mapped_bytes

    @property
    def is_cut(self) -> bool:
        """Is the file shorter than its mapping? Then reading behind its end is SIGBUS."""
        return os.fstat(self.fd).st_size < self.mapped_bytes

    def check(self) -> dict:
        """Walk everything that the ring holds, also beside a running producer; return what was found.

        {"begin", "end": positions; "records", "bytes"; "first_seq", "last_seq", "first_recv_ns", "last_recv_ns": 0 if
        there is none; "missing": sequence numbers left out without a mark; "damaged": [(position, bytes)], the first
        1,000; "damaged_places", "damaged_bytes": of all}. What is overwritten meanwhile is no damage.
        """
        cdef const sise_record_header* record
        cdef sise_record_header header
        cdef uint64_t head = sise_load_acquire(&self.header.head)
        cdef uint64_t position, begin, end, at, found, claimed, offset, seq, lowest
        cdef uint64_t records = 0, size = 0, first = 0, last = 0, missing = 0, places = 0, damaged_bytes = 0
        cdef int64_t first_ns = 0, last_ns = 0
        cdef bint is_whole
        damaged = []
        claimed = sise_load_acquire(&self.header.claimed)
        head &= ~<uint64_t>7
        lowest = min(claimed - self.capacity if claimed > self.capacity else 0, head)
        begin = position = min(self._first_trusted(lowest, head), head)
        if lowest == 0:
            begin = position = 0
        while position < head:
            at = position
            record = self.record_at(&at, head)
            is_whole = record is not NULL
            if is_whole:
                header = record[0]
                is_whole = not last or header.seq > last
            sise_fence_acquire()
            claimed = sise_load_relaxed(&self.header.claimed)
            if claimed > self.capacity and position < claimed - self.capacity:
                # overwritten while it was read: go on well behind
                if self.find_boundary(claimed - self.capacity + (self.capacity >> 3), &found, &seq) < 0:
                    break
                if records == 0:
                    begin = found
                position, last = found, 0
                continue
            if is_whole:
                if last and header.seq != last + 1 and not header.flags & SISE_FLAG_RESUMED:
                    missing += header.seq - last - 1
                if header.recv_ns > 0:
                    first_ns = first_ns or header.recv_ns
                    last_ns = header.recv_ns
                first = first or header.seq
                last = header.seq
                records += 1
                size += header.length
                position = at + header.length
            elif record is NULL and at >= head:
                position = head
            else:
                offset = at & self.mask
                end = at + _scan(self.data + offset, min(self.capacity - offset, head - at), 8,
                                 last if last else self.header.first_seq - 1,
                                 _most_records(self.capacity) if last else NO_POSITION)
                if places and damaged and damaged[len(damaged) - 1][0] + damaged[len(damaged) - 1][1] == at:
                    damaged[len(damaged) - 1] = (damaged[len(damaged) - 1][0], damaged[len(damaged) - 1][1] + end - at)
                else:
                    places += 1
                    if len(damaged) < 1000:
                        damaged.append((at, end - at))
                damaged_bytes += end - at
                position = end
        return {
            "begin": begin, "end": head, "records": records, "bytes": size, "first_seq": first, "last_seq": last,
            "first_recv_ns": first_ns, "last_recv_ns": last_ns, "missing": missing, "damaged": damaged,
            "damaged_places": places, "damaged_bytes": damaged_bytes,
        }

    def _first_trusted(self, uint64_t oldest, uint64_t head) -> int:
        """Position of the first indexed record in [oldest, head) that is what the index says; else the lowest gate."""
        cdef uint64_t position = oldest, found, at, seq
        cdef const sise_record_header* record
        while self.find_boundary(position, &found, &seq) == 0:
            at = found
            record = self.record_at(&at, head)
            if record is not NULL and at == found and record.seq == seq:
                return found
            position = found + 1
        return max(oldest, min(self._lowest_gate(head), head))

    cdef uint64_t _lowest_gate(self, uint64_t default) noexcept nogil:
        cdef uint64_t lowest = NO_POSITION, at
        cdef int i
        for i in range(SISE_CONSUMERS):
            if self.header.consumers[i].mode == SISE_CONSUMER_GATING:
                at = sise_load_acquire(&self.header.consumers[i].position)  # pairs with commit_position's release
                if at < lowest:
                    lowest = at
        return lowest if lowest != NO_POSITION else default

    def consumers(self):
        """Return {name: {"mode", "position", "lapped_records", "pid"}} of every registered consumer."""
        found = {}
        for i in range(SISE_CONSUMERS):
            slot = &self.header.consumers[i]
            if slot.mode != SISE_CONSUMER_FREE:
                name = slot.name[:strnlen(slot.name, SISE_NAME_BYTES)].decode("ascii", "replace")
                found[name] = {
                    "mode": "gating" if slot.mode == SISE_CONSUMER_GATING else "lossy",
                    "position": sise_load_acquire(&slot.position),
                    "lapped_records": slot.lapped_records,
                    "pid": slot.pid,
                }
        return found

    cdef int find_boundary(self, uint64_t position, uint64_t* found, uint64_t* seq) noexcept nogil:
        cdef uint64_t head = sise_load_acquire(&self.header.head)
        cdef uint64_t at, entry_seq, best = NO_POSITION
        cdef int i
        for i in range(SISE_INDEX_BLOCKS):
            at = sise_load_acquire(&self.header.index[i].position)
            entry_seq = sise_load_acquire(&self.header.index[i].seq)
            # the producer sets position to NO_POSITION, then seq, then position: a changed position is a torn read
            if sise_load_acquire(&self.header.index[i].position) != at or at == NO_POSITION:
                continue
            if position <= at < head and at < best:
                best = at
                found[0] = at
                seq[0] = entry_seq
        return 0 if best != NO_POSITION else -1

    cdef int find_seq(self, uint64_t seq, uint64_t* found, uint64_t* found_seq) noexcept nogil:
        cdef uint64_t head = sise_load_acquire(&self.header.head)
        cdef uint64_t claimed = sise_load_acquire(&self.header.claimed)
        cdef uint64_t oldest = claimed - self.capacity if claimed > self.capacity else 0
        cdef uint64_t at, entry_seq
        cdef int i, result = -1
        found_seq[0] = 0
        for i in range(SISE_INDEX_BLOCKS):
            at = sise_load_acquire(&self.header.index[i].position)
            entry_seq = sise_load_acquire(&self.header.index[i].seq)
            if sise_load_acquire(&self.header.index[i].position) != at or at == NO_POSITION:
                continue
            if oldest <= at < head and found_seq[0] < entry_seq <= seq:
                found[0] = at
                found_seq[0] = entry_seq
                result = 0
        return result

    cdef const sise_record_header* record_at(self, uint64_t* position, uint64_t end) noexcept nogil:
        cdef const sise_record_header* record
        cdef uint64_t offset, room
        while position[0] < end:
            offset = position[0] & self.mask
            room = self.capacity - offset
            if room < sizeof(sise_record_header):
                position[0] += room
                continue
            record = <const sise_record_header*>(self.data + offset)
            if record.kind == SISE_PAD and record.length == room:
                position[0] += room
                continue
            if not _is_whole(record, room, end - position[0]):
                return NULL
            return record
        return NULL

    cdef void map_pages(self, uint64_t begin, uint64_t end) noexcept nogil:
        """Make the pages of [begin, end) writable in one call: a page fault for each costs twice as much (measured).

        Before Linux 5.14 there is no such call: then they fault in one by one.
        """
        cdef uint64_t low, high, stop
        while begin < end:
            low = begin & self.mask
            stop = min(end - begin, self.capacity - low)
            high = (low + stop + PAGE - 1) & ~<uint64_t>(PAGE - 1)
            low &= ~<uint64_t>(PAGE - 1)
            madvise(self.data + low, high - low, MADV_POPULATE_WRITE)
            begin += stop

    cdef void release_pages(self, uint64_t begin, uint64_t end) noexcept nogil:
        """Give back the pages that lie wholly in [begin, end): they leave this process's RSS, not the file."""
        cdef uint64_t low, high, stop
        while begin < end:
            low = begin & self.mask
            stop = min(end - begin, self.capacity - low)
            high = (low + stop) & ~<uint64_t>(PAGE - 1)
            low = (low + PAGE - 1) & ~<uint64_t>(PAGE - 1)
            if high > low:
                madvise(self.data + low, high - low, MADV_DONTNEED)
            begin += stop


cdef inline bint _is_whole(const sise_record_header* record, uint64_t room, uint64_t available) noexcept nogil:
    """Is this a record whose length is possible and whose checksum is right?"""
    cdef uint32_t length = sise_load32_relaxed(&record.length)  # once: it may be overwritten meanwhile
    if length < sizeof(sise_record_header) or length & 7 or length > room or length > available:
        return False
    return sise_crc32c(<const char*>record + 8, length - 8) == record.crc32c


cdef uint64_t _scan(const char* memory, uint64_t size, uint64_t begin, uint64_t after_seq,
                    uint64_t span) noexcept nogil:
    """Offset of the first whole record at or behind *begin* in *memory*; *size* if there is none.

    Its seq must lie within *span* behind *after_seq*: what a page still holds of an earlier lap is whole, but old.
    """
    cdef uint64_t offset = begin
    cdef const sise_record_header* record
    while offset + sizeof(sise_record_header) <= size:
        record = <const sise_record_header*>(memory + offset)
        if (
            record.kind != SISE_PAD
            and record.kind != 0
            and record.seq > after_seq
            and (record.seq - after_seq <= span or record.flags & SISE_FLAG_RESUMED)
            and _is_whole(record, size - offset, size - offset)
        ):
            return offset
        offset += 8
    return size


cdef inline bint _can_lie_at(const sise_record_header* record, uint64_t position, uint64_t limit_position,
                             uint64_t limit_seq) noexcept nogil:
    """Can this record be the one that was written at *position*, if limit_seq was the number at limit_position?"""
    if position < limit_position:
        return record.seq < limit_seq
    return record.seq - limit_seq <= (position - limit_position) // sizeof(sise_record_header) or (
        record.flags & SISE_FLAG_RESUMED and record.seq > limit_seq
    )


cdef inline void _store_position(sise_consumer_slot* slot, uint64_t position) noexcept nogil:
    """The copy first: whoever dies between leaves the older of two positions, hence records delivered again."""
    sise_store_relaxed(&slot.position_check, ~position)
    sise_store_release(&slot.position, position)


cdef inline uint64_t _most_records(uint64_t capacity) noexcept nogil:
    return capacity // sizeof(sise_record_header)


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
        if not _lock(self.fd, _PRODUCER_LOCK):
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
        encoded = _slot_name(name)
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
        """Find the end of the log: cut what is not whole, take over what was not published, recount for the ledger.

        After a process's death the published records are whole by construction, and those behind them too, up to the
        one that it was writing: they are taken over. After a power loss (or any reboot: who knows) each page
        is as old as it likes. Records missing at the end are cut, damage before is skipped and counted by the readers,
        and whole records behind the head are taken over as far as their sequence goes. A page of the header that is
        older than pages of data leaves newer records (of a lap that the header does not know) where older ones were
        that are consumed: they are made unreadable, or a reader would take everything behind them for done.

        After a repair the sequence jumps ahead (microseconds now: a ring averages fewer records than one a
        microsecond), because the database may hold numbers that this file no longer knows. The jump is kept in the
        header (`resume_seq`) until records carry it.
        """
        cdef uint64_t head = self.header.head, claimed = self.header.claimed, resume_seq = self.header.resume_seq
        cdef uint64_t head_seq = self.header.head_seq, first_seq = self.header.first_seq
        cdef uint64_t start, position, end, oldest, offset, gate, at, last_seq = 0, first_found = NO_POSITION
        cdef uint64_t limit_position, limit_seq
        cdef const sise_record_header* record
        cdef bint damaged = False, is_foreign
        boot = _boot_id()
        # `clean` says nothing here: what the disk kept may be a header from before this producer's predecessor
        cdef bint power_loss = self.header.boot_id[:16] != boot
        if self.header.head_check != ~(head ^ head_seq) or not first_seq <= head_seq:
            # damage, or an older program wrote last, or its producer died between the two stores
            at = ~self.header.head_check ^ head_seq
            if first_seq <= head_seq and at <= claimed and self._leads_to(at, head_seq):
                head = at
            else:
                head_seq = 0
        if head > claimed:
            # `claimed` is stored first and lies in the same disk sector: one of the two is no value of ours
            at = 0
            for i in range(SISE_INDEX_BLOCKS):
                if self.header.index[i].position != NO_POSITION:
                    at = max(at, self.header.index[i].position)
            if at < claimed:
                head = claimed  # the walk below finds the end
                head_seq = 0
            else:
                claimed = head
        elif claimed - head > 2 * self.capacity:
            claimed = head
        head &= ~<uint64_t>7
        oldest = min(claimed - self.capacity if claimed > self.capacity else 0, head)
        gate = self._restore_positions(head)
        start = min(self._first_trusted(oldest, head), max(oldest, gate))
        limit_position, limit_seq = self._find_limit(oldest, head, head_seq)
        position = end = start
        while True:
            record = self.record_at(&position, head)
            is_foreign = record is not NULL and not _can_lie_at(record, position, limit_position, limit_seq)
            if record is not NULL and not is_foreign and (
                last_seq == 0
                or record.seq == last_seq + 1
                or (record.seq > last_seq and (damaged or record.flags & SISE_FLAG_RESUMED))
            ):
                damaged = False
                last_seq = record.seq
                first_found = min(first_found, position)
                self._account(record)
                position += record.length
                end = position
            elif record is NULL and position >= head:
                break
            else:
                damaged = True
                if is_foreign:
                    (<sise_record_header*>record).crc32c ^= <uint32_t>-1
                offset = position & self.mask
                position += _scan(self.data + offset, min(self.capacity - offset, head - position), 8,
                                  max(last_seq, first_seq - 1),
                                  _most_records(self.capacity) if last_seq else NO_POSITION)
        at = head
        record = self.record_at(&at, gate + self.capacity)
        if not damaged:
            end = head
        elif head_seq and (gate >= head or (record is not NULL and record.seq == max(head_seq, resume_seq))):
            end = head  # nobody needs what is missing, or the log goes on behind it: readers count it
            last_seq = head_seq - 1
        if last_seq == 0 and head_seq and end == head:
            last_seq = head_seq - 1  # all of it is overwritten, but the header knows
        self.next_seq = last_seq + 1 if last_seq else first_seq
        if last_seq or head == 0:
            end = self._adopt(end, gate + self.capacity, max(self.next_seq, resume_seq))
        self.recovered_bytes = head - end if head > end else 0
        if self.recovered_bytes or power_loss or (last_seq == 0 and head > 0):
            resume_seq = max(max(max(self.next_seq, resume_seq), head_seq) + MIN_JUMP,
                             <uint64_t>(time.time_ns() // 1000))
            self.header.resume_seq = resume_seq
        if resume_seq > self.next_seq:
            self.next_seq = resume_seq
            self.next_flags = SISE_FLAG_RESUMED
        self.position = end
        for i in range(SISE_INDEX_BLOCKS):
            if self.header.index[i].position != NO_POSITION and self.header.index[i].position >= end:
                self.header.index[i].position = NO_POSITION
        # a block whose first record is indexed keeps that entry
        at = self.header.index[(end // self.block_bytes) % SISE_INDEX_BLOCKS].position
        self.current_block = at // self.block_bytes if at < end else NO_POSITION
        for i in range(SISE_CONSUMERS):
            at = self.header.consumers[i].position
            if at > end:
                _store_position(&self.header.consumers[i], end)
            elif self.header.consumers[i].mode == SISE_CONSUMER_GATING and (at < oldest or at & 7):
                _store_position(&self.header.consumers[i], min(first_found, end))
        self.claimed = max(claimed, end)
        sise_store_release(&self.header.claimed, self.claimed)
        self.released = end
        self.last_recv_ns = self.header.head_recv_ns
        self.doubtful_begin = max(min(self.header.synced, end), self._oldest())
        self.doubtful_end = end
        self.header.synced = min(self.header.synced, end)
        self.header.producer_pid = os.getpid()
        if self.recovered_bytes or power_loss:
            os.fdatasync(self.fd)  # the jump must survive a second power loss before a record carries it
        reach("ring.in_repair")
        memcpy(self.header.boot_id, <const char*>boot, 16)  # behind resume_seq: killed in between, it is done again
        self.header.clean = 0
        self.header.head_seq = self.next_seq
        self.header.head_check = ~(end ^ self.next_seq)
        sise_store_release(&self.header.head, end)
        self.written = end
        self.written_seq = self.written_seq_check = self.next_seq
        self.written_recv_ns = self.last_recv_ns
        self.gate = self._lowest_gate(end)
        self.release_pages(oldest, end)

    def _leads_to(self, uint64_t head, uint64_t head_seq) -> bool:
        """Does the newest indexed record before *head* lead there, record by record, to number *head_seq*?"""
        cdef const sise_record_header* record
        cdef uint64_t at, position = NO_POSITION, seq = 0
        for i in range(SISE_INDEX_BLOCKS):
            at = self.header.index[i].position
            if at < head and head - at <= self.capacity and (position == NO_POSITION or at > position):
                position, seq = at, self.header.index[i].seq
        if position == NO_POSITION:
            return False
        while position < head:
            record = self.record_at(&position, head)
            if record is NULL or record.seq != seq:
                break
            position += record.length
            seq += 1
        return position == head and seq == head_seq

    def restore_consumers(self, expected) -> list[str]:
        """Make sure that the slots of *expected*, {name: mode}, say so; return the names of those that were damaged.

        To be called before any consumer is attached. Raises RingError when it cannot be told which slot it was.
        """
        cdef sise_consumer_slot* slot
        names = [self.header.consumers[i].name[:SISE_NAME_BYTES].rstrip(b"\0") for i in range(SISE_CONSUMERS)]
        restored = []
        for name, mode in expected.items():
            encoded = _slot_name(name)
            found = [i for i in range(SISE_CONSUMERS) if names[i] == encoded]
            if not found:
                others = {_slot_name(other) for other in expected}
                found = [i for i in range(SISE_CONSUMERS) if names[i] and names[i] not in others and (
                    self.header.consumers[i].mode == <uint32_t>mode)]
            if len(found) != 1:
                raise RingError(f"{self.path}: its consumers are damaged: {name} is missing")
            slot = &self.header.consumers[<int>found[0]]
            if names[found[0]] != encoded or slot.mode != <uint32_t>mode:
                memset(slot.name, 0, SISE_NAME_BYTES)
                memcpy(slot.name, <const char*>encoded, len(encoded))
                slot.mode = mode
                restored.append(name)
        self.gate = self._lowest_gate(sise_load_relaxed(&self.header.head))
        return restored

    def _restore_positions(self, uint64_t head) -> int:
        """Take each consumer's position from its two copies; return the lowest of a gating one, at most *head*."""
        cdef sise_consumer_slot* slot
        for i in range(SISE_CONSUMERS):
            slot = &self.header.consumers[i]
            if ~slot.position_check < slot.position:
                _store_position(slot, ~slot.position_check)
        return min(self._lowest_gate(head), head) & ~<uint64_t>7

    def _find_limit(self, uint64_t oldest, uint64_t head, uint64_t head_seq) -> tuple[int, int]:
        """Return a position and the seq that belongs there, as new as possible: the head's, or of the index.

        See _can_lie_at for what it is good for.
        """
        cdef const sise_record_header* record
        cdef uint64_t at, entry_position
        if head_seq:
            return head, head_seq
        entries = sorted(
            (self.header.index[i].position, self.header.index[i].seq) for i in range(SISE_INDEX_BLOCKS)
        )
        for entry_position, entry_seq in reversed(entries):
            if oldest <= entry_position < head:
                at = entry_position
                record = self.record_at(&at, head)
                if record is not NULL and at == entry_position and record.seq == entry_seq:
                    return entry_position, entry_seq
        return head, NO_POSITION

    def _adopt(self, uint64_t position, uint64_t bound, uint64_t seq) -> int:
        """Take over the whole records that follow *position*, the first one with number *seq*; return their end.

        A checkpoint of the ledger only as a whole: of half of one, the counts would be lost or come twice.
        """
        cdef const sise_record_header* record
        cdef uint64_t at = position, end = position, next_seq = seq, adopted_seq = seq
        while True:
            record = self.record_at(&at, bound)
            if record is NULL or record.seq != next_seq:
                break
            at += record.length
            next_seq += 1
            if record.kind != SISE_LEDGER or (<const sise_ledger*>record).is_last:
                end = at
                adopted_seq = next_seq
        if adopted_seq == seq and next_seq == seq:
            return position
        at = position
        while at < end:
            record = self.record_at(&at, end)
            self._account(record)
            if record.recv_ns > 0:
                self.header.head_recv_ns = record.recv_ns
            at += record.length
        self.adopted_records = adopted_seq - seq
        if self.adopted_records:
            self.next_seq = adopted_seq
        while adopted_seq < next_seq:  # numbers that will be used again: nobody must take these records for them
            record = self.record_at(&at, bound)
            at += record.length
            (<sise_record_header*>record).crc32c ^= <uint32_t>-1
            adopted_seq += 1
        return end

    cdef void _account(self, const sise_record_header* record) noexcept nogil:
        self.streams_seen.observe(record)
        if record.kind != SISE_LEDGER:
            self.ledger.count(record)
        elif self.ledger.used:
            self.ledger.clear()  # a checkpoint: it holds the counts of everything before it

    cdef uint64_t free_bytes(self) noexcept nogil:
        self.gate = self._lowest_gate(sise_load_relaxed(&self.header.head))
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
            self.gate = self._lowest_gate(sise_load_relaxed(&self.header.head))
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

    def flush_ledger(self, int64_t now_ns, *, bint force=False) -> int:
        """Append one ledger record per (minute, symbol, kind) counted since the last flush, if a minute has ended.

        The records of one flush have the same through_seq and become visible together: a checkpoint.

        force: also in the middle of a minute. All records or none; returns how many, 0 also when there is no room
        (then the next call tries again). Publishes.
        """
        cdef uint64_t i, through_seq = self.next_seq - 1
        cdef LedgerEntry* entry
        cdef sise_ledger* record
        cdef int64_t minute_ns = now_ns - now_ns % MINUTE_NS
        cdef int appended = 0, checkpoint
        cdef bint due = force or self.streams_seen.oldest_minute < minute_ns // MINUTE_NS
        if self.closed or (self.ledger.used == 0 and self.streams_seen.oldest_minute == NO_MINUTE):
            return 0
        for i in range(self.ledger.slots):
            if due:
                break
            due = self.ledger.entries[i].count != 0 and self.ledger.entries[i].minute_ns < minute_ns
        # also by volume, so that the ring always holds the newest checkpoint (see _recover)
        due = due or self.position - self.ledger_position > self.capacity >> 2
        if not due:
            return 0
        self.streams_seen.collect(self.ledger)
        checkpoint = <int>self.ledger.used
        if self.free_bytes() < 2 * self.ledger.used * sizeof(sise_ledger):
            return 0
        for i in range(self.ledger.slots):
            entry = &self.ledger.entries[i]
            if entry.count == 0:
                continue
            record = <sise_ledger*>self.reserve(sizeof(sise_ledger))  # there is room for all: see above
            memset(<char*>record + sizeof(sise_record_header), 0, sizeof(sise_ledger) - sizeof(sise_record_header))
            record.header.kind = SISE_LEDGER
            record.header.venue = <uint8_t>(entry.tag >> 8)
            record.header.market = <uint8_t>(entry.tag >> 16)
            memcpy(record.symbol, entry.symbol, SISE_SYMBOL_BYTES)
            record.minute_ns = entry.minute_ns
            record.through_seq = through_seq
            record.count = entry.count
            record.data_kind = <uint8_t>entry.tag
            record.is_last = appended + 1 == checkpoint
            self.commit(<char*>record)
            appended += 1
            if FAILPOINTS:
                _reach(IN_CHECKPOINT)
        self.ledger.clear()
        self.ledger_position = self.position
        self.publish_head()
        return appended

    def flush_gaps(self, int64_t now_ns, *, bint force=False) -> int:
        """Append a gap record for each hole in the cumulative volumes that nothing has filled for two seconds.

        force: whatever their age. Returns how many; those that find no room wait for the next call. Publishes.
        """
        cdef FoundGap* found
        cdef sise_gap* record
        cdef uint64_t i = 0
        if self.closed:
            return 0
        self.streams_seen.close_holes(now_ns if force else now_ns - HOLE_GRACE_NS)
        while i < self.streams_seen.found_count:
            found = &self.streams_seen.found[i]
            record = <sise_gap*>self.reserve(sizeof(sise_gap))
            if record is NULL:
                break
            memset(<char*>record + sizeof(sise_record_header), 0, sizeof(sise_gap) - sizeof(sise_record_header))
            record.header.kind = SISE_GAP
            record.header.venue = <uint8_t>(found.tag >> 8)
            record.header.market = <uint8_t>(found.tag >> 16)
            record.header.flags = <uint8_t>(found.tag >> 24)
            record.header.recv_ns = found.hole.ended_ns
            memcpy(record.symbol, found.symbol, SISE_SYMBOL_BYTES)
            record.started_ns = min(found.hole.started_ns, found.hole.ended_ns)   # the wall clock may be set back
            record.ended_ns = found.hole.ended_ns
            record.missing = found.hole.high - found.hole.low if found.volume_scale == 0 else SISE_ABSENT
            record.data_kind = <uint8_t>found.tag
            record.reason = VOLUME_GAP
            self.commit(<char*>record)
            i += 1
        if i:
            self.streams_seen.found_count -= i
            memmove(self.streams_seen.found, self.streams_seen.found + i,
                    self.streams_seen.found_count * sizeof(FoundGap))
            self.publish_head()
        return i

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
        cdef uint64_t position = self._first_trusted(self._oldest(), self.position)
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
        and leaves the watermark where it was.
        """
        cdef uint64_t end, seq = 0, check = 0
        cdef int64_t recv_ns = 0
        cdef int failed = 0
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
                self._taint_doubtful()
                if fdatasync(self.fd) < 0:
                    failed = c_errno
                else:
                    sise_store_release(&self.header.synced, end)
            if self.syncs_first and not failed and end != sise_load_relaxed(&self.header.head):
                self._publish(end, seq, recv_ns)
        if failed:
            raise OSError(failed, os.strerror(failed), self.path)
        return end

    cdef void _taint_doubtful(self) noexcept nogil:
        """Mark the pages of what was taken over as changed, once.

        If a predecessor's sync failed, the kernel takes them for written although they are not.
        """
        cdef uint64_t at = self.doubtful_begin & ~<uint64_t>(PAGE - 1)
        while at < self.doubtful_end:
            sise_touch(<uint64_t*>(self.data + (at & self.mask)))
            at += PAGE
        self.doubtful_begin = self.doubtful_end

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
        _lock(self.fd, _PRODUCER_LOCK, release=True)


cdef class RingReader(RingFile):
    """A named consumer; one process at a time. Use `GatingReader` or `LossyReader`."""

    def __cinit__(self, path, name):
        cdef int i, free_slot = -1
        cdef sise_consumer_slot* slot
        cdef bint gating = isinstance(self, GatingReader)
        encoded = _slot_name(name)
        self.gating = gating
        self.slot = NULL
        _lock(self.fd, _REGISTRATION_LOCK, wait=True)
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
                _store_position(self.slot, sise_load_acquire(&self.header.head))
                sise_fence_release()  # the position before the mode: the producer looks at them in the other order
                self.slot.mode = SISE_CONSUMER_GATING if gating else SISE_CONSUMER_LOSSY
        finally:
            _lock(self.fd, _REGISTRATION_LOCK, release=True)
        if self.slot.mode != <uint32_t>(SISE_CONSUMER_GATING if gating else SISE_CONSUMER_LOSSY):
            raise RingError(f"{self.path}: consumer {name!r} is of the other kind (gating or lossy)")
        if not _lock(self.fd, _FIRST_SLOT_LOCK + 64 * self.slot_index):
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
        _store_position(self.slot, found)

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
            if not _is_whole(record, room, available) or record.seq < self.expected_seq:
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
        cdef uint64_t span = _most_records(self.capacity) if self.gating and self.expected_seq else NO_POSITION
        cdef uint64_t found = _scan(<const char*>record, size, 8, after_seq, span)
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
        _store_position(self.slot, self.position)  # pairs with the producer's load in _lowest_gate
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
                    position += _scan(self.data + offset, min(self.capacity - offset, head - position), 8,
                                      max(passed_seq, self.header.first_seq - 1),
                                      _most_records(self.capacity) if passed_seq else NO_POSITION)
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
            _lock(self.fd, _FIRST_SLOT_LOCK + 64 * self.slot_index, release=True)


cdef class GatingReader(RingReader):
    """A consumer that is never overtaken: the ring fills up behind it instead. The database writer."""


cdef class LossyReader(RingReader):
    """A consumer that may be overtaken and counts the records it missed (`lapped_records`). The publisher."""
