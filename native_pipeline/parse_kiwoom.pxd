# Step 2 of 6 in the life of a tick, for Kiwoom: a JSON push of `REAL` entries in, records out.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from native_pipeline.frame_parser cimport FrameParser
from native_pipeline.kiwoom_entry cimport KiwoomEntry
from native_pipeline.ring_writer cimport RingWriter
from native_pipeline.scan_json cimport JsonCursor, JsonRoom


# A push whose JSON was read to its end.
cdef struct KiwoomFrame:
    const char* data           # as it was received
    Py_ssize_t size
    const char* floor          # of the text that the entries point into
    bint is_real               # trnm is REAL: market data
    uint32_t count             # entries of `data`


cdef class KiwoomParser(FrameParser):
    cdef readonly uint8_t market     # id in the market registry, stamped on every record
    cdef JsonRoom room
    cdef KiwoomEntry* entries        # of the frame under way
    cdef uint32_t entries_room
    cdef char* replay                # a bad entry of several, as a frame of its own
    cdef size_t replay_room

    cdef int parse_frame(self, RingWriter ring, const char* data, Py_ssize_t size, bint is_text,
                         int64_t recv_ns) noexcept nogil
    cdef int open_frame(self, const char* data, Py_ssize_t size, KiwoomFrame* frame) noexcept nogil
    cdef int read_entries(self, JsonCursor* cursor, KiwoomFrame* frame) noexcept nogil
    cdef int append_entries(self, RingWriter ring, const KiwoomFrame* frame, int64_t recv_ns) noexcept nogil
    cdef int append_entry(self, RingWriter ring, const KiwoomFrame* frame, const KiwoomEntry* entry, int64_t recv_ns,
                          int* detail, int* appended) noexcept nogil
    cdef int quarantine_entry(self, RingWriter ring, const KiwoomFrame* frame, const KiwoomEntry* entry,
                              int64_t recv_ns, int reason, int detail) noexcept nogil
