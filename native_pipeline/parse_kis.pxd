# Step 2 of 6 in the life of a tick, for KIS: `flag|TR|count|payload` in, records out.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from native_pipeline.frame_parser cimport FrameParser
from native_pipeline.kis_record cimport KisDays, KisFields, sise_kis_layout
from native_pipeline.ring_writer cimport RingWriter


cdef enum:
    LAYOUT_SLOTS = 128    # of the table of TRs, which is a quarter to a half full
    LAYOUT_SHIFT = 57     # leaves the bits that number a slot


# A data frame whose header was read and whose number of fields fits its TR.
cdef struct KisFrame:
    const char* data
    const char* payload
    const char* end
    const sise_kis_layout* layout   # NULL if the TR is unknown
    uint32_t count     # records, >= 1
    uint32_t width     # fields of each


cdef class KisParser(FrameParser):
    cdef readonly uint8_t market     # id in the market registry, stamped on every record; 0: the TR's
    cdef readonly bint hands_over_encrypted
    cdef uint32_t* begins            # offsets in the payload of the frame under way where its fields begin
    cdef size_t begins_room
    cdef const sise_kis_layout* last_layout
    cdef const sise_kis_layout* layouts[LAYOUT_SLOTS]   # by hash of the TR, the next free slot if that is taken
    cdef KisDays days

    cdef int parse_frame(self, RingWriter ring, const char* data, Py_ssize_t size, bint is_text,
                         int64_t recv_ns) noexcept nogil
    cdef int open_frame(self, const char* data, Py_ssize_t size, KisFrame* frame, int* detail) noexcept nogil
    cdef const sise_kis_layout* find_layout(self, const char* data, Py_ssize_t size) noexcept nogil
    cdef int slot_of(self, uint64_t tr) noexcept nogil
    cdef bint make_room(self, size_t payload_size) noexcept nogil
    cdef uint8_t market_of(self, const sise_kis_layout* layout) noexcept nogil
    cdef int append_records(self, RingWriter ring, const KisFrame* frame, int64_t recv_ns) noexcept nogil
    cdef int append_record(self, RingWriter ring, const sise_kis_layout* layout, const KisFields* fields,
                           uint32_t width, int64_t recv_ns, int* detail) noexcept nogil
