# Step 2 of 6 in the life of a tick, for KIS: `flag|TR|count|payload` in, records out.

from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t

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


# One record, split: field i is [begins[i], begins[i + 1] - 1).
cdef struct KisFields:
    const char* floor                 # first readable byte: that of the frame
    const char* begins[128]           # SISE_KIS_MAX_WIDTH + 1 are used at most; kis_layouts.py keeps that below 128


cdef class KisParser(FrameParser):
    cdef readonly uint8_t market   # id in the market registry, stamped on every record

    cdef int parse_frame(self, RingWriter ring, const char* data, Py_ssize_t size, bint is_text,
                         int64_t recv_ns) noexcept nogil
    cdef int append_records(self, RingWriter ring, const KisFrame* frame, int64_t recv_ns) noexcept nogil
    cdef int append_record(self, RingWriter ring, const KisFrame* frame, const KisFields* fields,
                           int64_t recv_ns, int* detail) noexcept nogil
