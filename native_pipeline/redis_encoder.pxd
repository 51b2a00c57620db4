# Step 5 of 6 in the life of a tick: ring records to one Redis transaction. Bodies in redis_encoder.pyx.

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from native_pipeline.receipt_times cimport receipt_times
from native_pipeline.record cimport SISE_SYMBOL_BYTES, sise_book, sise_event, sise_record_header, sise_trade
from native_pipeline.ring cimport RingReader


cdef enum:
    IDS = 256            # every value of a one-byte id has an entry
    RINGS = 64           # as many as there can be workers
    PIECE_BYTES = 512    # prepared text: a name of up to 60 bytes, escaped, with what surrounds it
    LINE_BYTES = 512     # what is kept of a reply line that came in parts, and of an error

cdef enum Channel:
    CHANNEL_TICKER
    CHANNEL_ORDERBOOK
    CHANNEL_EVENT
    CHANNELS

ctypedef struct text_buffer:
    char* data
    size_t size
    size_t capacity

ctypedef struct text_piece:
    char text[PIECE_BYTES]
    size_t size

# How many messages of one symbol and kind were received in one minute.
ctypedef struct minute_count:
    uint64_t hash
    int64_t minute        # since 1970
    char symbol[SISE_SYMBOL_BYTES]
    uint32_t count
    uint8_t market
    uint8_t channel       # enum Channel

# What the batch holds of one ring.
ctypedef struct ring_progress:
    int32_t ring
    uint64_t epoch
    uint64_t first_seq
    uint64_t last_seq


cdef class PublishBatch:
    cdef text_buffer buffer              # MULTI, one PUBLISH for each message, then what payload() adds
    cdef size_t messages_end             # where payload() begins to add
    cdef readonly int64_t messages       # PUBLISH commands since clear()
    cdef readonly int64_t records        # records taken, those without a message included
    cdef readonly int64_t commands       # that payload() put between MULTI and EXEC
    cdef int exports                     # memoryviews of the buffer that are alive
    cdef receipt_times received
    cdef int64_t minute_counts_kept_s
    cdef int64_t channel_counts[CHANNELS][IDS]
    cdef minute_count* counts
    cdef size_t counts_used
    cdef size_t counts_capacity
    cdef uint32_t* slots                 # hash table over counts: index + 1, 0 is free
    cdef size_t slots_mask
    cdef ring_progress rings[RINGS]
    cdef int rings_used
    cdef int64_t second                  # the second and the offset whose text is cached
    cdef int offset_min
    cdef char second_text[20]            # 2026-11-20T09:00:01
    cdef char offset_text[8]             # +09:00
    cdef text_piece publish[CHANNELS][IDS]   # *3 PUBLISH channel, up to the $ of the message
    cdef text_piece venues[IDS]              # JSON: the name, quoted
    cdef text_piece markets[IDS]
    cdef text_piece event_types[IDS]
    cdef text_piece marks[IDS]               # ,"exchange":"nxt" and what else the flags of a record say
    cdef int8_t channel_of[IDS]              # by the kind of a record: enum Channel; -1: no message
    cdef text_piece kinds[CHANNELS]          # |trade: the end of a field of MINUTE_KEY
    cdef tuple market_names                  # by id, as str and as bytes
    cdef list market_texts

    # Records taken, or -1 when memory ran out (the reader is then ahead of the batch).
    cdef int64_t take(self, RingReader reader, int64_t max_records) noexcept nogil
    cdef int append(self, const sise_record_header* record, int32_t ring) noexcept nogil
    cdef int count_message(self, const sise_record_header* record, const char* symbol, int channel) noexcept nogil
    cdef int grow_counts(self) noexcept nogil
    cdef char* put_time(self, char* at, int64_t unix_ns, int offset_min) noexcept nogil
    cdef char* put_head(self, char* at, const sise_record_header* record, const char* symbol,
                        int64_t exchange_ns) noexcept nogil
    cdef char* put_tail(self, char* at, const sise_record_header* record, int32_t ring) noexcept nogil
    cdef char* put_ticker(self, char* at, const sise_trade* trade, int32_t ring) noexcept nogil
    cdef char* put_orderbook(self, char* at, const sise_book* book, int32_t ring) noexcept nogil
    cdef char* put_event(self, char* at, const sise_event* event, int32_t ring) noexcept nogil
    cdef int add_counts(self) except -1
    cdef int add_cursor(self) except -1


cdef class TransactionReplies:
    cdef int64_t lines_left              # reply lines that are still to come
    cdef readonly int64_t queued         # commands that the server accepted
    cdef readonly bint executed          # EXEC ran the commands
    cdef readonly bint aborted           # EXEC ran nothing: a watched key had changed
    cdef readonly int64_t errors
    cdef readonly bytes first_error
    cdef char line[LINE_BYTES]           # begin of a line that the last feed() ended in
    cdef size_t line_size

    cdef int take_line(self, const char* text, size_t size) except -1
