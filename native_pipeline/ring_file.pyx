"""The file of a ring, mapped: its identity, its consumers, and where records begin in it.

Positions are bytes since the ring was created and never wrap; a record lies at position % capacity and never straddles
the end of the data area. The layout is in `layout.h` and docs/formats.md.
"""

import errno
import fcntl
import os
import struct
from pathlib import Path

from libc.stdint cimport uint64_t

from native_pipeline.record cimport (
    SISE_CONSUMER_FREE,
    SISE_CONSUMER_GATING,
    SISE_CONSUMERS,
    SISE_INDEX_BLOCKS,
    SISE_LAYOUT_VERSION,
    SISE_NAME_BYTES,
    SISE_PAD,
    SISE_RING_HEADER_BYTES,
    SISE_RING_MAGIC,
    sise_load_acquire,
    sise_record_header,
    sise_ring_header,
)
from native_pipeline.ring_records cimport NO_POSITION, is_whole, sise_crc32c

from daemon.errors import RingError

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char* text, size_t limit)

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void* address, size_t length)
    int madvise(void* address, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_SHARED, MADV_DONTNEED
    void* MAP_FAILED

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef enum:
    MADV_POPULATE_WRITE = 23     # <linux/mman.h>, not in every libc's headers

LAYOUT_VERSION = SISE_LAYOUT_VERSION
HEADER_BYTES = SISE_RING_HEADER_BYTES


cdef bytes slot_name(name):
    """The name of a consumer as its slot holds it. Raises ValueError if it does not fit."""
    encoded = name.encode("ascii")
    if not 0 < len(encoded) < SISE_NAME_BYTES:
        raise ValueError(f"consumer name {name!r}: expected 1 to {SISE_NAME_BYTES - 1} ASCII characters")
    return encoded


cdef bytes boot_id():
    """Sixteen bytes that are others after each start of the machine."""
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))


cdef bint take_lock(int fd, int start, bint wait) except -1:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, _lock_request(fcntl.F_WRLCK, start))
    except OSError as exc:
        if exc.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


cdef int release_lock(int fd, int start) except -1:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock_request(fcntl.F_UNLCK, start))
    return 0


cdef bytes _lock_request(int kind, int start):
    return struct.pack("hhxxxxqqixxxx", kind, os.SEEK_SET, start, 1, 0)


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

    cdef uint64_t first_trusted(self, uint64_t oldest, uint64_t head) noexcept nogil:
        cdef uint64_t position = oldest, found, at, seq
        cdef const sise_record_header* record
        while self.find_boundary(position, &found, &seq) == 0:
            at = found
            record = self.record_at(&at, head)
            if record is not NULL and at == found and record.seq == seq:
                return found
            position = found + 1
        return max(oldest, min(self.lowest_gate(head), head))

    cdef uint64_t lowest_gate(self, uint64_t default) noexcept nogil:
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
            if not is_whole(record, room, end - position[0]):
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
