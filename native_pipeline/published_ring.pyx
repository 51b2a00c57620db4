# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""How far one ring was published: the last message of each channel, and what was lost on the way.

Every message names the one before it on its channel, so that a subscriber notices what it missed. A loss breaks that
chain: for the channels concerned if they are known, else for all of the ring.
"""

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memset

from native_pipeline.record cimport SISE_FLAG_RESUMED, sise_record_header

# By enum Loss.
LOSS_NAMES = ("dropped", "lapped", "damaged", "unknown to Redis", "ring replaced")
assert len(LOSS_NAMES) == LOSSES


cdef class PublishedRing:
    """One ring in the eyes of the publisher. Belongs to one PublishBatch."""

    def __cinit__(self, int32_t ring, uint64_t epoch, int64_t losses_seen):
        self.ring = ring
        self.epoch = epoch
        self.losses_seen = losses_seen

    cdef uint64_t prev_seq(self, int channel, int market) noexcept nogil:
        return max(self.channel_last[channel][market], self.floor_seq)

    cdef void note_published(self, int channel, int market, uint64_t seq) noexcept nogil:
        self.channel_last[channel][market] = seq
        self.touched[channel][market] = 1

    cdef void look_for_loss(self, const sise_record_header* record, uint64_t expected, int64_t losses) noexcept nogil:
        """Compare the number of *record* with the one before it; what is missing becomes a gap, to be told first."""
        cdef int64_t counted = losses - self.losses_seen
        cdef uint64_t after = self.seen_seq
        self.losses_seen = losses
        if counted > 0:
            if after == 0:
                after = expected - 1 if expected else record.seq - 1 - min(<uint64_t>counted, record.seq - 1)
            self.widen_gap(after, record.seq - 1, counted, LOSS_LAPPED)
        elif after and record.seq > after + 1 and not record.flags & SISE_FLAG_RESUMED:
            counted = record.seq - after - 1
            if expected == 0:
                self.unread += counted
            self.widen_gap(after, record.seq - 1, counted, LOSS_LAPPED if expected == 0 else LOSS_FORGOTTEN)

    cdef void note_skipped(self, uint64_t seq, int channel, int market) noexcept nogil:
        if not self.has_gap:
            self.gap_is_counted = True
            self.gap_reason = LOSS_DROPPED
            self.gap_after = self.seen_seq if self.seen_seq else seq - 1
            self.has_gap = True
        self.gap_through = seq
        if self.gap_records >= 0:
            self.gap_records += 1
        if channel >= 0:
            self.gap_missing[channel][market] += 1

    cdef void widen_gap(self, uint64_t after, uint64_t through, int64_t records, int reason) noexcept nogil:
        """Add a loss of which the channels are not known."""
        if not self.has_gap:
            self.gap_after = after
            self.gap_through = through
            self.gap_reason = reason
            self.has_gap = True
        self.gap_is_counted = False
        self.gap_after = min(self.gap_after, after)
        self.gap_through = max(self.gap_through, through)
        self.gap_records = -1 if records < 0 or self.gap_records < 0 else self.gap_records + records

    cdef void close_gap(self) noexcept nogil:
        """The gap is told: break the chains that it concerns, and forget it."""
        cdef int channel, market
        if not self.gap_is_counted:
            self.floor_seq = max(self.floor_seq, self.gap_through)
            self.floor_moved = True
        for channel in range(<int>CHANNELS):
            for market in range(IDS):
                if self.gap_missing[channel][market]:
                    self.note_published(channel, market, self.gap_through)
        memset(self.gap_missing, 0, sizeof(self.gap_missing))
        self.has_gap = False
        self.gap_records = 0

    cdef void forget_batch(self) noexcept nogil:
        self.in_batch = False
        self.batch_records = 0
        memset(self.batch_messages, 0, sizeof(self.batch_messages))
        memset(self.touched, 0, sizeof(self.touched))
        self.floor_moved = False
