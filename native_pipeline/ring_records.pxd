# What a whole record is, and where the next one begins among damage. Shared by everything that walks through a ring.

from libc.stdint cimport uint32_t, uint64_t

from native_pipeline.record cimport (
    SISE_FLAG_RESUMED,
    SISE_PAD,
    sise_load32_relaxed,
    sise_record_header,
)

cdef extern from "crc32c.h" nogil:
    uint32_t sise_crc32c(const char* data, size_t size)

cdef extern from *:
    """
    #define SISE_NO_POSITION UINT64_MAX
    """
    const uint64_t NO_POSITION "SISE_NO_POSITION"  # behind every position, and behind every seq


cdef inline uint64_t most_records(uint64_t capacity) noexcept nogil:
    return capacity // sizeof(sise_record_header)


# Is this a record whose length is possible and whose checksum is right?
cdef inline bint is_whole(const sise_record_header* record, uint64_t room, uint64_t available) noexcept nogil:
    cdef uint32_t length = sise_load32_relaxed(&record.length)  # once: it may be overwritten meanwhile
    if length < sizeof(sise_record_header) or length & 7 or length > room or length > available:
        return False
    return sise_crc32c(<const char*>record + 8, length - 8) == record.crc32c


# Offset of the first whole record at or behind *begin* in *memory*; *size* if there is none.
# Its seq must lie within *span* behind *after_seq*: what a page still holds of an earlier lap is whole, but old.
cdef inline uint64_t scan_for_record(const char* memory, uint64_t size, uint64_t begin, uint64_t after_seq,
                                     uint64_t span) noexcept nogil:
    cdef uint64_t offset = begin
    cdef const sise_record_header* record
    while offset + sizeof(sise_record_header) <= size:
        record = <const sise_record_header*>(memory + offset)
        if (
            record.kind != SISE_PAD
            and record.kind != 0
            and record.seq > after_seq
            and (record.seq - after_seq <= span or record.flags & SISE_FLAG_RESUMED)
            and is_whole(record, size - offset, size - offset)
        ):
            return offset
        offset += 8
    return size
