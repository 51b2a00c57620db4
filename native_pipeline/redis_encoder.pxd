# Step 5 of 6 in the life of a tick: ring records to one Redis transaction. Bodies in redis_encoder.pyx.

from libc.stdint cimport int8_t, int64_t, uint8_t, uint64_t

from native_pipeline.json_messages cimport CHANNELS, IDS, JsonMessages
from native_pipeline.minute_counts cimport MinuteCounts
from native_pipeline.published_ring cimport PublishedRing
from native_pipeline.receipt_times cimport receipt_times
from native_pipeline.record cimport sise_record_header
from native_pipeline.ring_reader cimport RingReader
from native_pipeline.text_buffer cimport text_buffer, text_piece


cdef class PublishBatch:
    cdef text_buffer buffer              # MULTI, the commands of each message, then what payload() adds
    cdef size_t front_end                # where payload() begins to add
    cdef int64_t front_commands          # up to there
    cdef readonly int64_t messages       # PUBLISH commands of market data since clear()
    cdef readonly int64_t records        # records taken, those without a message included
    cdef readonly int64_t commands       # that payload() put between MULTI and EXEC
    cdef readonly int64_t gap_entries    # gaps added to streams since clear()
    cdef readonly int64_t entries        # messages added to streams since clear()
    cdef int exports                     # memoryviews of the buffer that are alive
    cdef receipt_times received
    cdef JsonMessages json
    cdef MinuteCounts minutes
    cdef list rings                      # a PublishedRing for each ring seen
    cdef int64_t channel_counts[CHANNELS][IDS]
    cdef int64_t dropped_counts[CHANNELS][IDS]   # never forgotten
    cdef text_piece publish[CHANNELS][IDS]       # *3 PUBLISH channel, up to the $ of the message
    cdef text_piece streams[CHANNELS][IDS]       # stream:ticker.kr: up to the number of the ring
    cdef text_piece entry_head                   # *8 XADD
    cdef text_piece plain_head                   # *5 XADD, without a limit
    cdef text_piece entry_limit                  # MAXLEN ~ n
    cdef bint streamed[CHANNELS][IDS]
    cdef int8_t channel_of[IDS]          # by the kind of a record: enum Channel; -1: no message
    cdef uint8_t market_of[IDS]          # the first id of the same name: ids without a name share a channel
    cdef tuple market_names              # by id

    # Records taken, or -1 when memory ran out (the reader is then ahead of the batch).
    cdef int64_t take(self, RingReader reader, PublishedRing ring, int64_t max_records) noexcept nogil
    cdef int append(self, const sise_record_header* record, PublishedRing ring) noexcept nogil
    cdef char* put_entry(self, char* at, const char* message, size_t size, PublishedRing ring, uint64_t seq,
                         int channel, int market) noexcept nogil
    cdef int tell_gap(self, PublishedRing ring) noexcept nogil
    cdef int add_gap(self, PublishedRing ring) except -1
    cdef int add_notice(self, PublishedRing ring, uint64_t after, uint64_t through, records, reason,
                        missing) except -1
    cdef PublishedRing ring_of(self, RingReader reader)
    cdef str channel_name(self, int channel, int market)
    cdef dict by_channel(self, int64_t (*counts)[IDS])
    cdef int add_counts(self) except -1
    cdef int add_cursor(self) except -1
    cdef int add(self, tuple words) except -1
