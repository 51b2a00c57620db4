# Step 2 of 6 in the life of a tick: what every venue's parser looks like to the frame listener.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from native_pipeline.record cimport sise_record_header
from native_pipeline.ring_writer cimport RingWriter


cdef enum ParseResult:
    # A result >= 0 is the number of records (market data and quarantine) that were appended to the ring.
    PARSE_CONTROL = -1     # not data: hand the payload to Python
    PARSE_RING_FULL = -2   # nothing of this frame was appended: offer it again when there is room


cdef class FrameParser:
    cdef readonly uint8_t venue      # id in the venue registry, stamped on every record
    cdef public uint16_t connection  # number of the connection in its worker, stamped on every record
    cdef public uint64_t records
    cdef public uint64_t quarantined
    cdef public bint keeps_all       # append also what has arrived before, and look for no holes
    cdef public bint is_redundant    # another session brings the same streams: books and events are compared too
    cdef public uint64_t duplicates  # trades that had arrived before: not appended again

    # Parse one whole message. All of its records are appended (committed, not published) or none.
    # Never reads past data[size - 1]. recv_ns stamps the records and dates frames that carry no date.
    cdef int parse_frame(self, RingWriter ring, const char* data, Py_ssize_t size, bint is_text,
                         int64_t recv_ns) noexcept nogil

    # Commit the market data record that *ring*.reserve() gave and the parser has filled: 1, or 0 for a trade that had
    # arrived before, which is then counted and not in the ring. identity: the venue's own number of the trade; 0 where
    # it has none, then time, cumulative volume and price tell trades apart. Counts `records`.
    cdef int commit_record(self, RingWriter ring, sise_record_header* record, uint64_t identity) noexcept nogil


# The same as commit_record, inlined for the usual case.
cdef inline int commit_market_data(FrameParser parser, RingWriter ring, sise_record_header* record,
                                   uint64_t identity) noexcept nogil:
    if parser.keeps_all or parser.is_redundant:
        return parser.commit_record(ring, record, identity)
    if ring.commit_once(<char*>record, identity, 0):
        parser.records += 1
        return 1
    parser.duplicates += 1
    return 0
