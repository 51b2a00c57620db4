# Step 2 of 6 in the life of a tick, for KIS: `flag|TR|count|payload` in, records out.

from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from native_pipeline.frame_parser cimport FrameParser
from native_pipeline.ring cimport RingWriter


cdef extern from "kis_layouts.h" nogil:
    enum:
        SISE_KIS_LAYOUTS
        SISE_KIS_TR_BYTES
        SISE_KIS_MAX_WIDTH
        SISE_KIS_NO_FIELD

    # One row of kis_layouts.toml: what a TR's record holds, and at which positions.
    ctypedef struct sise_kis_layout:
        char tr[8]
        uint8_t kind
        uint8_t min_width
        uint8_t max_width
        uint8_t needed
        uint8_t levels
        uint8_t numbers[40]
        uint8_t number_count
        int8_t symbol
        int8_t time
        int8_t date
        int8_t price
        int8_t size
        int8_t cum_volume
        int8_t best_ask
        int8_t best_bid
        int8_t change_rate
        int8_t side
        int8_t session
        int8_t ask_price[10]
        int8_t ask_size[10]
        int8_t bid_price[10]
        int8_t bid_size[10]

    const sise_kis_layout sise_kis_layouts[]


# A data frame whose header was read and whose number of fields fits its TR.
cdef struct KisFrame:
    const char* data
    const char* payload
    const char* end
    const sise_kis_layout* layout
    uint32_t count     # records, >= 1
    uint32_t width     # fields of each


# One record: field i is base[begins[i] : begins[i + 1] - 1].
cdef struct KisFields:
    const char* floor         # first readable byte: that of the frame
    const char* base
    const uint32_t* begins


cdef class KisParser(FrameParser):
    cdef readonly uint8_t market     # id in the market registry, stamped on every record
    cdef uint32_t* begins            # offsets in the payload of the frame under way where its fields begin
    cdef size_t begins_room
    cdef const sise_kis_layout* last_layout
    cdef uint64_t last_date          # the newest date as it was written, and
    cdef int64_t last_date_ns        # where it began

    cdef int parse_frame(self, RingWriter ring, const char* data, Py_ssize_t size, bint is_text,
                         int64_t recv_ns) noexcept nogil
    cdef int open_frame(self, const char* data, Py_ssize_t size, KisFrame* frame, int* detail) noexcept nogil
    cdef const sise_kis_layout* find_layout(self, const char* data, Py_ssize_t size) noexcept nogil
    cdef bint make_room(self, size_t payload_size) noexcept nogil
    cdef int append_records(self, RingWriter ring, const KisFrame* frame, int64_t recv_ns) noexcept nogil
    cdef int append_record(self, RingWriter ring, const sise_kis_layout* layout, const KisFields* fields,
                           int64_t recv_ns, int* detail) noexcept nogil
