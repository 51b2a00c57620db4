"""Step 2 of 6 in the life of a tick: one whole message in, records in the ring out; the base of every venue's parser.

Before: `frame_listener`. After: `ring_writer`.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from native_pipeline.record cimport SISE_BOOK, SISE_EVENT, sise_book, sise_event, sise_record_header, sise_trade
from native_pipeline.ring_writer cimport RingWriter


# Hash of what a record says, its receipt left out.
cdef inline uint64_t _content(const char* record, uint8_t kind) noexcept nogil:
    cdef size_t size = sizeof(sise_trade)
    cdef uint64_t hashed = 1, word
    cdef size_t at
    if kind == SISE_BOOK:
        size = sizeof(sise_book)
    elif kind == SISE_EVENT:
        size = sizeof(sise_event) + (<const sise_event*>record).text_bytes
    for at in range(sizeof(sise_record_header), size - 7, 8):
        if at == 56 and kind == SISE_EVENT:
            continue   # its time may be that of its receipt
        memcpy(&word, record + at, 8)
        hashed = (hashed ^ word) * <uint64_t>0x9E3779B97F4A7C15
        hashed ^= hashed >> 29
    return hashed | 1


cdef class FrameParser:
    """Turns the frames of one connection into records; a subclass for each wire format overrides `parse_frame`."""

    cdef int parse_frame(self, RingWriter ring, const char* data, Py_ssize_t size, bint is_text,
                         int64_t recv_ns) noexcept nogil:
        return PARSE_CONTROL

    cdef int commit_record(self, RingWriter ring, sise_record_header* record, uint64_t identity) noexcept nogil:
        cdef uint64_t content = 0
        if self.keeps_all:
            ring.commit(<char*>record)
            self.records += 1
            return 1
        if self.is_redundant:
            content = _content(<const char*>record, record.kind)
        if ring.commit_once(<char*>record, identity, content):
            self.records += 1
            return 1
        self.duplicates += 1
        return 0

    def parse(self, RingWriter ring not None, bytes frame not None, int64_t recv_ns, *, bint is_text=True) -> int:
        """Append the records of *frame* to *ring* and publish them; return how many there were.

        recv_ns: wall clock of the receipt, nanoseconds since 1970 UTC.
        Returns -1 for a control frame (nothing appended), -2 if the ring has no room (nothing appended).
        """
        cdef const char* data = frame
        cdef Py_ssize_t size = len(frame)
        cdef int result
        with nogil:
            result = self.parse_frame(ring, data, size, is_text, recv_ns)
            ring.publish_head()
        return result

    def parse_view(self, RingWriter ring not None, const unsigned char[::1] frame not None, int64_t recv_ns, *,
                   bint is_text=True) -> int:
        """Do as `parse`, reading the frame where it lies instead of from a bytes object."""
        cdef Py_ssize_t size = frame.shape[0]
        cdef const char* data = NULL   # an empty frame has no address
        cdef int result
        if size:
            data = <const char*>&frame[0]
        with nogil:
            result = self.parse_frame(ring, data, size, is_text, recv_ns)
            ring.publish_head()
        return result

    def parse_many(self, RingWriter ring not None, list frames not None, int64_t recv_ns) -> int:
        """Append the records of all *frames*, received together, and publish once; return how many frames fitted.

        Control frames count as fitting and leave nothing in the ring. The rest of *frames* has to be offered again.
        """
        cdef bytes frame
        cdef int done = 0
        for frame in frames:
            if self.parse_frame(ring, frame, len(frame), True, recv_ns) == PARSE_RING_FULL:
                break
            done += 1
        ring.publish_head()
        return done
