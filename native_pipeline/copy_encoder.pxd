# Step 5 of 6 in the life of a tick: ring records to PostgreSQL's binary COPY. Bodies in copy_encoder.pyx.

from libc.stdint cimport int8_t, int16_t, int64_t

from native_pipeline.receipt_times cimport receipt_times
from native_pipeline.record cimport (
    sise_book,
    sise_event,
    sise_gap,
    sise_ledger,
    sise_quarantine,
    sise_record_header,
    sise_trade,
)
from native_pipeline.record_block cimport RecordBlock
from native_pipeline.ring_reader cimport RingReader


cdef enum:
    NAME_FIELD_BYTES = 64  # a name with its length in front; a longer one is refused by the constructor
    NAMES = 256            # every value of a one-byte id has an entry

cdef enum CopyTable:
    TABLE_TICKS
    TABLE_BOOKS
    TABLE_EVENTS
    TABLE_QUARANTINE
    TABLE_GAPS
    TABLE_LEDGER
    TABLES
    NO_TABLE = -1
    NO_MEMORY = -2

ctypedef struct row_buffer:
    char* data        # a COPY header, then whole rows
    size_t size
    size_t capacity   # always leaves room for the trailer
    int64_t rows

ctypedef struct name_field:
    char image[NAME_FIELD_BYTES]  # int32 length, then the text: copied whole, advanced by `size`
    size_t size


cdef class CopyBatch:
    cdef row_buffer tables[TABLES]
    cdef receipt_times received          # market data and quarantine: what came from a socket
    cdef readonly int64_t records        # taken from the rings since clear(), of any kind
    cdef int exports               # memoryviews of the buffers that are alive
    cdef name_field venues[NAMES]
    cdef name_field markets[NAMES]
    cdef name_field quarantine_reasons[NAMES]
    cdef name_field gap_reasons[NAMES]
    cdef name_field sides[NAMES]
    cdef name_field kinds[NAMES]
    cdef name_field event_types[NAMES]
    cdef name_field exchanges[NAMES]     # by the flags of a record
    cdef int8_t table_of[NAMES]          # by the kind of a record

    # Records taken, or -1 when memory ran out (the reader is then ahead of the batch).
    cdef int64_t take(self, RingReader reader, int64_t max_records) noexcept nogil
    # Records of *block* encoded, or -1 when memory ran out.
    cdef int64_t take_block(self, RecordBlock block, int64_t begin, int64_t end) noexcept nogil
    cdef int append(self, const sise_record_header* record, int16_t source) noexcept nogil
    cdef char* put_trade(self, char* at, const sise_trade* trade, int16_t source) noexcept nogil
    cdef char* put_book(self, char* at, const sise_book* book, int16_t source) noexcept nogil
    cdef char* put_event(self, char* at, const sise_event* event, int16_t source) noexcept nogil
    cdef char* put_quarantine(self, char* at, const sise_quarantine* record, int16_t source) noexcept nogil
    cdef char* put_gap(self, char* at, const sise_gap* gap, int16_t source) noexcept nogil
    cdef char* put_ledger(self, char* at, const sise_ledger* ledger, int16_t source) noexcept nogil
