# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Raw ring records in memory, copied out of rings or spill files: what the writer needs when a batch meets trouble.

A ring's records are normally encoded where they lie. A batch that has to be kept, spilled to disk or taken apart row by
row is copied as it is, so that it can be checked, encoded again in part (`CopyBatch.append_block`) and inspected.
"""

from cython cimport final
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport INT16_MAX, int16_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from native_pipeline.record cimport (
    SISE_BOOK,
    SISE_EVENT,
    SISE_GAP,
    SISE_LEDGER,
    SISE_QUARANTINE,
    SISE_TRADE,
    sise_book,
    sise_event,
    sise_gap,
    sise_ledger,
    sise_quarantine,
    sise_record_header,
    sise_trade,
)
from native_pipeline.ring_reader cimport RingReader

from daemon.errors import RingError
from native_pipeline.records import describe_record

cdef extern from "crc32c.h" nogil:
    uint32_t sise_crc32c(const char* data, size_t size)

cdef enum:
    FIRST_BYTES = 1 << 16
    FIRST_RECORDS = 1 << 10
    FIRST_PARTS = 8
    FETCH_BYTES = 1 << 20  # as CopyBatch: one window of a lossy reader


cdef inline size_t struct_bytes(uint8_t kind) noexcept nogil:
    """Size of a record of *kind* without what may lie behind it; 0 for a kind that this build does not know."""
    if kind == SISE_TRADE:
        return sizeof(sise_trade)
    if kind == SISE_BOOK:
        return sizeof(sise_book)
    if kind == SISE_EVENT:
        return sizeof(sise_event)
    if kind == SISE_QUARANTINE:
        return sizeof(sise_quarantine)
    if kind == SISE_GAP:
        return sizeof(sise_gap)
    if kind == SISE_LEDGER:
        return sizeof(sise_ledger)
    return 0


@final
cdef class RecordSpan:
    """Bytes of a block, which neither moves nor changes them while a memoryview of them is alive."""
    cdef RecordBlock block
    cdef uint64_t begin
    cdef uint64_t size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.block.data + self.begin, <Py_ssize_t>self.size, 1, flags)
        self.block.exports += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.block.exports -= 1


cdef class RecordBlock:
    """Whole records in the order in which they were appended. The memory grows as needed and is kept by clear()."""

    def __dealloc__(self):
        free(self.data)
        free(self.offsets)
        free(self.part_list)

    cdef block_part* part_for(self, int16_t ring) noexcept nogil:
        cdef block_part* part
        cdef int slots
        if self.part_count and self.part_list[self.part_count - 1].ring == ring:
            return &self.part_list[self.part_count - 1]
        if self.part_count == self.part_slots:
            slots = self.part_slots * 2 if self.part_slots else FIRST_PARTS
            part = <block_part*>realloc(self.part_list, slots * sizeof(block_part))
            if part is NULL:
                return NULL
            self.part_list = part
            self.part_slots = slots
        part = &self.part_list[self.part_count]
        part.ring = ring
        part.first_record = self.count
        part.records = 0
        part.begin = self.size
        part.size = 0
        self.part_count += 1
        return part

    cdef int put(self, block_part* part, const sise_record_header* record) noexcept nogil:
        cdef uint64_t needed = self.size + record.length, capacity = self.capacity
        cdef int64_t slots
        cdef void* grown
        if needed > capacity:
            capacity = capacity if capacity else FIRST_BYTES
            while capacity < needed:
                capacity *= 2
            grown = realloc(self.data, capacity)
            if grown is NULL:
                return -1
            self.data = <char*>grown
            self.capacity = capacity
        if self.count == self.offset_slots:
            slots = self.offset_slots * 2 if self.offset_slots else FIRST_RECORDS
            grown = realloc(self.offsets, slots * sizeof(uint64_t))
            if grown is NULL:
                return -1
            self.offsets = <uint64_t*>grown
            self.offset_slots = slots
        memcpy(self.data + self.size, record, record.length)
        self.offsets[self.count] = self.size
        self.size += record.length
        self.count += 1
        part.records += 1
        part.size += record.length
        return 0

    cdef void truncate(self, int64_t count) noexcept nogil:
        cdef block_part* part
        if count < self.count:
            self.size = self.offsets[count]
            self.count = count
        while self.part_count:
            part = &self.part_list[self.part_count - 1]
            if part.first_record < count:
                part.records = count - part.first_record
                part.size = self.size - part.begin
                break
            self.part_count -= 1

    cdef const sise_record_header* at(self, int64_t i) noexcept nogil:
        return <const sise_record_header*>(self.data + self.offsets[i])

    cdef int64_t take(self, RingReader reader, uint64_t through_seq) noexcept nogil:
        cdef const sise_record_header* record
        cdef block_part* part = self.part_for(<int16_t>reader.header.ring)
        cdef int64_t before = self.count
        if part is NULL:
            return -1
        while True:
            record = reader.next()
            if record is NULL:
                if reader.fetch(FETCH_BYTES) == 0:
                    break
                continue
            if record.seq > through_seq:
                # not asked for: it stays unread (the window still holds it)
                reader.position -= record.length
                reader.expected_seq = record.seq
                break
            # of a kind that no table takes: left out, as CopyBatch.append_from does
            if struct_bytes(record.kind) and self.put(part, record) < 0:
                return -1
            if record.seq == through_seq:
                break
        return self.count - before

    def append_from(self, RingReader reader not None, uint64_t through_seq) -> int:
        """Copy the records from the reader's position up to and including *through_seq*; return how many.

        reader: left uncommitted. Fewer records if the ring has no more, or if some of them are damaged: the reader
        counts these. Records of a kind that this build does not know are passed over.
        Raises BufferError while bytes of this block are being read; MemoryError: then the block is as before, and the
        reader ahead of it.
        """
        cdef int64_t before = self.count, taken
        self.require_no_view()
        with nogil:
            taken = self.take(reader, through_seq)
            if taken <= 0:
                self.truncate(before)
        if taken < 0:
            raise MemoryError("no memory for another record")
        return taken

    def append_bytes(self, const uint8_t[::1] data not None, *, int16_t ring) -> int:
        """Append whole records as they lie in a ring, each checked; return how many.

        data: one record behind the other, without pads; ring: where they are from.
        Raises RingError, naming the offset of the first one whose length, checksum or kind is not possible, ValueError
        for a ring below 0, MemoryError, and BufferError while bytes of this block are being read. The block is then as
        before.
        """
        cdef const char* bytes_at = <const char*>&data[0] if data.shape[0] else NULL
        cdef const sise_record_header* record
        cdef uint64_t offset = 0, size = <uint64_t>data.shape[0]
        cdef int64_t before = self.count
        cdef sise_record_header header
        cdef block_part* part
        cdef str wrong = ""
        if not 0 <= ring <= INT16_MAX:
            raise ValueError(f"ring: expected 0 to {INT16_MAX}, found {ring}")
        self.require_no_view()
        while offset < size:
            if size - offset < sizeof(sise_record_header):
                wrong = f"{size - offset} bytes are no record"
                break
            memcpy(&header, bytes_at + offset, sizeof(sise_record_header))
            record = <const sise_record_header*>(bytes_at + offset)
            if header.length < sizeof(sise_record_header) or header.length & 7 or header.length > size - offset:
                wrong = f"a length of {header.length} is not possible"
                break
            if sise_crc32c(bytes_at + offset + 8, header.length - 8) != header.crc32c:
                wrong = "checksum does not match"
                break
            if struct_bytes(header.kind) == 0:
                wrong = f"unknown kind {header.kind}"
                break
            if header.length < struct_bytes(header.kind):
                wrong = f"{header.length} bytes are too few for kind {header.kind}"
                break
            part = self.part_for(ring)
            if part is NULL or self.put(part, record) < 0:
                self.truncate(before)
                raise MemoryError("no memory for another record")
            offset += header.length
        if wrong:
            self.truncate(before)
            raise RingError(f"record at offset {offset}: {wrong}")
        return self.count - before

    def clear(self) -> None:
        """Forget every record; the memory is kept. Raises BufferError while bytes of it are being read."""
        self.require_no_view()
        self.truncate(0)

    cdef int require_no_view(self) except -1:
        if self.exports:
            raise BufferError("bytes of this block are still being read")
        return 0

    @property
    def records(self) -> int:
        """Number of records."""
        return self.count

    @property
    def bytes(self) -> int:
        """Size of all records together."""
        return self.size

    @property
    def parts(self) -> list:
        """(ring, number of the first record, number of records, their bytes) of each run of records of one ring.

        The bytes are memoryviews of whole records, not copied: the block refuses to change while one is alive.
        """
        cdef int number
        cdef block_part* part
        cdef RecordSpan span
        found = []
        for number in range(self.part_count):
            part = &self.part_list[number]
            span = RecordSpan.__new__(RecordSpan)
            span.block = self
            span.begin = part.begin
            span.size = part.size
            found.append((part.ring, part.first_record, part.records, memoryview(span)))
        return found

    @property
    def kinds(self) -> bytes:
        """The kind of each record, one byte each."""
        kinds = bytearray(self.count)
        cdef uint8_t[::1] numbers = kinds
        cdef int64_t i
        for i in range(self.count):
            numbers[i] = self.at(i).kind
        return bytes(kinds)

    def ring_of(self, int64_t i) -> int:
        """Return the ring that record *i* is from. Raises IndexError."""
        cdef int number = 0
        self.require_record(i)
        while self.part_list[number].first_record + self.part_list[number].records <= i:
            number += 1
        return self.part_list[number].ring

    def record_bytes(self, int64_t i) -> bytes:
        """Return a copy of record *i*, header included. Raises IndexError."""
        self.require_record(i)
        return (<const char*>self.at(i))[:self.at(i).length]

    def describe(self, int64_t i) -> dict:
        """Return record *i* as `records.read_records` does. Raises IndexError."""
        return describe_record(self.record_bytes(i))

    cdef int require_record(self, int64_t i) except -1:
        if not 0 <= i < self.count:
            raise IndexError(f"record: expected 0 to {self.count - 1}, found {i}")
        return 0
