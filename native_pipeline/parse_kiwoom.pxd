# Step 2 of 6 in the life of a tick, for Kiwoom: a JSON push of `REAL` entries in, records out.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from native_pipeline.frame_parser cimport FrameParser
from native_pipeline.ring cimport RingWriter
from native_pipeline.scan_json cimport JsonCursor, JsonRoom


cdef extern from "kiwoom_types.h" nogil:
    enum:
        SISE_KIWOOM_TYPES
        SISE_KIWOOM_IGNORED
        SISE_KIWOOM_NONE
        SISE_KIWOOM_LEVELS
        SISE_KIWOOM_SLOTS

    # What the entries of one type hold, and in which slots.
    ctypedef struct sise_kiwoom_type:
        char code[2]
        uint8_t kind
        uint8_t event
        uint8_t time
        uint8_t price
        uint8_t volume
        uint8_t cum_volume
        uint8_t change_rate
        uint8_t ask
        uint8_t bid
        uint8_t symbol

    const sise_kiwoom_type sise_kiwoom_types[]
    const uint8_t sise_kiwoom_level_numbers[]
    const uint16_t sise_kiwoom_fids[]
    unsigned sise_kiwoom_slot(const char* key, size_t size)


# One entry of a push as it was found. All pointers are into the text that the cursor walks over.
cdef struct KiwoomEntry:
    const char* begin          # of the entry's own text
    const char* end
    const sise_kiwoom_type* type   # NULL: none that is known
    const char* item
    const char* item_end       # item == item_end: none
    bint has_values
    # value of slot s: floor[values[2 * s] : values[2 * s + 1] - 1]
    uint32_t values[120]


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
