"""What a producer records of its own ticks: how many there were in each minute, and which shares are missing."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from native_pipeline.ledger cimport LedgerEntry
from native_pipeline.record cimport (
    SISE_ABSENT,
    SISE_GAP,
    SISE_LEDGER,
    SISE_SYMBOL_BYTES,
    sise_gap,
    sise_ledger,
    sise_record_header,
)
from native_pipeline.ring_writer cimport MINUTE_NS, RingWriter
from native_pipeline.streams cimport FoundGap

from daemon.failpoints import is_enabled, reach

cdef enum:
    VOLUME_GAP = 4               # position in records.GAP_REASONS

cdef int64_t HOLE_GRACE_NS = 2 * 1000000000  # a venue that sends out of order, the slower session of a pair
cdef uint32_t NO_MINUTE = <uint32_t>-1  # of Streams.oldest_minute

# Crash point (daemon/failpoints.py): false in production.
cdef bint FAILPOINTS = is_enabled()


def flush_ledger(RingWriter ring not None, int64_t now_ns, *, bint force=False) -> int:
    """Append one ledger record per (minute, symbol, kind) counted since the last flush, if a minute has ended.

    The records of one flush have the same through_seq and become visible together: a checkpoint.

    force: also in the middle of a minute. All records or none; returns how many, 0 also when there is no room
    (then the next call tries again). Publishes.
    """
    cdef uint64_t i, through_seq = ring.next_seq - 1
    cdef LedgerEntry* entry
    cdef sise_ledger* record
    cdef int64_t minute_ns = now_ns - now_ns % MINUTE_NS
    cdef int appended = 0, checkpoint
    cdef bint due = force or ring.streams_seen.oldest_minute < minute_ns // MINUTE_NS
    if ring.closed or (ring.ledger.used == 0 and ring.streams_seen.oldest_minute == NO_MINUTE):
        return 0
    for i in range(ring.ledger.slots):
        if due:
            break
        due = ring.ledger.entries[i].count != 0 and ring.ledger.entries[i].minute_ns < minute_ns
    # also by volume, so that the ring always holds the newest checkpoint (see ring_recovery)
    due = due or ring.position - ring.ledger_position > ring.capacity >> 2
    if not due:
        return 0
    ring.streams_seen.collect(ring.ledger)
    checkpoint = <int>ring.ledger.used
    if ring.free_bytes() < 2 * ring.ledger.used * sizeof(sise_ledger):
        return 0
    for i in range(ring.ledger.slots):
        entry = &ring.ledger.entries[i]
        if entry.count == 0:
            continue
        record = <sise_ledger*>ring.reserve(sizeof(sise_ledger))  # there is room for all: see above
        memset(<char*>record + sizeof(sise_record_header), 0, sizeof(sise_ledger) - sizeof(sise_record_header))
        record.header.kind = SISE_LEDGER
        record.header.venue = <uint8_t>(entry.tag >> 8)
        record.header.market = <uint8_t>(entry.tag >> 16)
        memcpy(record.symbol, entry.symbol, SISE_SYMBOL_BYTES)
        record.minute_ns = entry.minute_ns
        record.through_seq = through_seq
        record.count = entry.count
        record.data_kind = <uint8_t>entry.tag
        record.is_last = appended + 1 == checkpoint
        ring.commit(<char*>record)
        appended += 1
        if FAILPOINTS:
            reach("ring.in_checkpoint")
    ring.ledger.clear()
    ring.ledger_position = ring.position
    ring.publish_head()
    return appended


def flush_gaps(RingWriter ring not None, int64_t now_ns, *, bint force=False) -> int:
    """Append a gap record for each hole in the cumulative volumes that nothing has filled for two seconds.

    force: whatever their age. Returns how many; those that find no room wait for the next call. Publishes.
    """
    cdef FoundGap* found
    cdef sise_gap* record
    cdef uint64_t i = 0
    if ring.closed:
        return 0
    ring.streams_seen.close_holes(now_ns if force else now_ns - HOLE_GRACE_NS)
    while i < ring.streams_seen.found_count:
        found = &ring.streams_seen.found[i]
        record = <sise_gap*>ring.reserve(sizeof(sise_gap))
        if record is NULL:
            break
        memset(<char*>record + sizeof(sise_record_header), 0, sizeof(sise_gap) - sizeof(sise_record_header))
        record.header.kind = SISE_GAP
        record.header.venue = <uint8_t>(found.tag >> 8)
        record.header.market = <uint8_t>(found.tag >> 16)
        record.header.flags = <uint8_t>(found.tag >> 24)
        record.header.recv_ns = found.hole.ended_ns
        memcpy(record.symbol, found.symbol, SISE_SYMBOL_BYTES)
        record.started_ns = min(found.hole.started_ns, found.hole.ended_ns)   # the wall clock may be set back
        record.ended_ns = found.hole.ended_ns
        record.missing = found.hole.high - found.hole.low if found.volume_scale == 0 else SISE_ABSENT
        record.data_kind = <uint8_t>found.tag
        record.reason = VOLUME_GAP
        ring.commit(<char*>record)
        i += 1
    if i:
        ring.streams_seen.found_count -= i
        memmove(ring.streams_seen.found, ring.streams_seen.found + i,
                ring.streams_seen.found_count * sizeof(FoundGap))
        ring.publish_head()
    return i
