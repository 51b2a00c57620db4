# The JSON text of one record of market data. Bodies in json_messages.pyx.

from libc.stdint cimport int32_t, int64_t, uint64_t

from native_pipeline.record cimport sise_book, sise_event, sise_record_header, sise_trade
from native_pipeline.text_buffer cimport text_piece


cdef enum:
    IDS = 256            # every value of a one-byte id has an entry

cdef enum Channel:       # in the order of records.MARKET_DATA
    CHANNEL_TICKER
    CHANNEL_ORDERBOOK
    CHANNEL_EVENT
    CHANNELS

# A name for every id: those beyond *names*, of a newer worker, are `unknown`.
cdef tuple all_names(names)


cdef class JsonMessages:
    cdef int64_t second                  # the second and the offset whose text is cached
    cdef int offset_min
    cdef char second_text[20]            # 2026-11-20T09:00:01
    cdef char offset_text[8]             # +09:00
    cdef text_piece venues[IDS]          # JSON: the name, quoted
    cdef text_piece markets[IDS]
    cdef text_piece event_types[IDS]
    cdef text_piece marks[IDS]           # ,"exchange":"nxt" and what else the flags of a record say

    # Write the message of *record*; at most message_room(record) bytes.
    cdef char* put(self, char* at, const sise_record_header* record, int channel, int32_t ring,
                   uint64_t prev_seq) noexcept nogil
    cdef size_t message_room(self, const sise_record_header* record) noexcept nogil
    cdef char* put_time(self, char* at, int64_t unix_ns, int offset_min) noexcept nogil
    cdef char* put_head(self, char* at, const sise_record_header* record, const char* symbol,
                        int64_t exchange_ns) noexcept nogil
    cdef char* put_tail(self, char* at, const sise_record_header* record, int32_t ring,
                        uint64_t prev_seq) noexcept nogil
    cdef char* put_ticker(self, char* at, const sise_trade* trade) noexcept nogil
    cdef char* put_orderbook(self, char* at, const sise_book* book) noexcept nogil
    cdef char* put_event(self, char* at, const sise_event* event) noexcept nogil
