"""Step 2 of 6 in the life of a tick: one whole message in, records in the ring out; the base of every venue's parser.

Before: `frame_listener`. After: `ring`.
"""

from libc.stdint cimport int64_t, uint64_t

from native_pipeline.record cimport sise_record_header
from native_pipeline.ring cimport RingWriter


cdef class FrameParser:
    """Turns the frames of one connection into records; a subclass for each wire format overrides `parse_frame`."""

    cdef int parse_frame(self, RingWriter ring, const char* data, Py_ssize_t size, bint is_text,
                         int64_t recv_ns) noexcept nogil:
        return PARSE_CONTROL

    cdef int commit_record(self, RingWriter ring, sise_record_header* record, uint64_t identity) noexcept nogil:
        ring.commit(<char*>record)
        self.records += 1
        return 1

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
