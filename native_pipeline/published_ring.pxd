# How far one ring was published: the last message of each channel, and what was lost. Bodies in published_ring.pyx.

from libc.stdint cimport int32_t, int64_t, uint64_t, uint8_t

from native_pipeline.json_messages cimport CHANNELS, IDS
from native_pipeline.record cimport sise_record_header


cdef enum Loss:
    LOSS_DROPPED      # Redis was away or refused for so long that the oldest records were given up, counted by channel
    LOSS_LAPPED       # the ring went round
    LOSS_DAMAGED      # a checksum was wrong
    LOSS_FORGOTTEN    # Redis lost what it had been told last, or a publisher died that had given records up
    LOSS_REPLACED     # a new ring file: whether the old one was published to its end is not known
    LOSSES


cdef class PublishedRing:
    cdef readonly int32_t ring
    cdef readonly uint64_t epoch
    cdef bint in_batch
    cdef uint64_t first_seq              # of the batch
    cdef uint64_t last_seq
    cdef uint64_t seen_seq               # last record that was taken or skipped, 0: not known
    cdef int64_t losses_seen             # of what the reader has counted
    cdef int64_t unread                  # records that were gone before the reader could count them
    cdef uint64_t floor_seq              # nothing is known to have been published up to here, of any channel
    cdef bint floor_moved
    cdef uint64_t channel_last[CHANNELS][IDS]   # seq of the last message, 0: none
    cdef uint8_t touched[CHANNELS][IDS]         # channel_last has changed since forget_batch()
    cdef int64_t batch_records           # of the batch, and its messages
    cdef int64_t batch_messages[CHANNELS][IDS]
    cdef bint has_gap
    cdef uint64_t gap_after
    cdef uint64_t gap_through
    cdef int64_t gap_records             # -1: not known
    cdef bint gap_is_counted             # gap_missing says all of it
    cdef int gap_reason
    cdef int64_t gap_missing[CHANNELS][IDS]

    cdef uint64_t prev_seq(self, int channel, int market) noexcept nogil
    cdef void note_published(self, int channel, int market, uint64_t seq) noexcept nogil
    # *expected*: seq that the reader was waiting for when it read *record*, 0 if none; *losses*: all that it counted.
    cdef void look_for_loss(self, const sise_record_header* record, uint64_t expected, int64_t losses) noexcept nogil
    # *channel* -1: a record without a message.
    cdef void note_skipped(self, uint64_t seq, int channel, int market) noexcept nogil
    cdef void widen_gap(self, uint64_t after, uint64_t through, int64_t records, int reason) noexcept nogil
    cdef void close_gap(self) noexcept nogil
    cdef void forget_batch(self) noexcept nogil
