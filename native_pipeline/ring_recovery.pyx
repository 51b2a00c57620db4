"""What a new producer finds behind the last one: the end of the log, after a process's death or a power loss.

After a process's death the published records are whole by construction, and those behind them too, up to the one that
it was writing: they are taken over. After a power loss (or any reboot: who knows) each page is as old as it likes.
Records missing at the end are cut, damage before is skipped and counted by the readers, and whole records behind the
head are taken over as far as their sequence goes. A page of the header that is older than pages of data leaves newer
records (of a lap that the header does not know) where older ones were that are consumed: they are made unreadable, or
a reader would take everything behind them for done.

After a repair the sequence jumps ahead (microseconds now: a ring averages fewer records than one a microsecond),
because the database may hold numbers that this file no longer knows. The jump is kept in the header (`resume_seq`)
until records carry it.
"""

import os
import time

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from native_pipeline.ledger cimport Ledger
from native_pipeline.record cimport (
    SISE_CONSUMER_GATING,
    SISE_CONSUMERS,
    SISE_FLAG_RESUMED,
    SISE_INDEX_BLOCKS,
    SISE_LEDGER,
    SISE_NAME_BYTES,
    sise_consumer_slot,
    sise_ledger,
    sise_record_header,
    sise_store_release,
    sise_touch,
)
from native_pipeline.ring_file cimport PAGE, RingFile, boot_id, slot_name, store_position
from native_pipeline.ring_records cimport NO_POSITION, most_records, scan_for_record
from native_pipeline.streams cimport Streams

from daemon.errors import RingError
from daemon.failpoints import reach

cdef enum:
    MIN_JUMP = 1 << 26           # of seq after a repair: 4 s at full speed, also when the clock was set back meanwhile


# What the header says, as far as it can be believed.
cdef struct Bounds:
    uint64_t head
    uint64_t head_seq      # number of the record at head, 0: not known
    uint64_t claimed
    uint64_t oldest        # below, everything may be overwritten
    uint64_t gate          # lowest position of a gating consumer, at most head


# What the published records turned out to be.
cdef struct Walk:
    uint64_t end           # behind the last whole record
    uint64_t last_seq      # its number, 0: none was found
    uint64_t first_found   # position of the first one, NO_POSITION: none
    bint damaged           # the last stretch before head is damaged


cdef void taint(RingFile ring, uint64_t begin, uint64_t end) noexcept nogil:
    cdef uint64_t at = begin & ~<uint64_t>(PAGE - 1)
    while at < end:
        sise_touch(<uint64_t*>(ring.data + (at & ring.mask)))
        at += PAGE


cdef int recover(RingFile ring, Streams streams, Ledger ledger, bint syncs_first, Recovered* found) except -1:
    cdef uint64_t resume_seq = ring.header.resume_seq, first_seq = ring.header.first_seq
    cdef uint64_t at, end
    cdef Bounds bounds
    cdef Walk walk
    cdef const sise_record_header* record
    cdef bytes boot = boot_id()
    # `clean` says nothing here: what the disk kept may be a header from before this producer's predecessor
    cdef bint power_loss = ring.header.boot_id[:16] != boot
    memset(found, 0, sizeof(Recovered))
    _judge_header(ring, &bounds)
    _walk_published(ring, streams, ledger, &bounds, &walk)
    end = walk.end
    at = bounds.head
    record = ring.record_at(&at, bounds.gate + ring.capacity)
    if not walk.damaged:
        end = bounds.head
    elif bounds.head_seq and (
        bounds.gate >= bounds.head or (record is not NULL and record.seq == max(bounds.head_seq, resume_seq))
    ):
        end = bounds.head  # nobody needs what is missing, or the log goes on behind it: readers count it
        walk.last_seq = bounds.head_seq - 1
    if walk.last_seq == 0 and bounds.head_seq and end == bounds.head:
        walk.last_seq = bounds.head_seq - 1  # all of it is overwritten, but the header knows
    found.next_seq = walk.last_seq + 1 if walk.last_seq else first_seq
    if walk.last_seq or bounds.head == 0:
        end = _adopt(ring, streams, ledger, end, bounds.gate + ring.capacity, max(found.next_seq, resume_seq), found)
    found.recovered_bytes = bounds.head - end if bounds.head > end else 0
    if found.recovered_bytes or power_loss or (walk.last_seq == 0 and bounds.head > 0):
        resume_seq = max(max(max(found.next_seq, resume_seq), bounds.head_seq) + MIN_JUMP,
                         <uint64_t>(time.time_ns() // 1000))
        ring.header.resume_seq = resume_seq
    if resume_seq > found.next_seq:
        found.next_seq = resume_seq
        found.next_flags = SISE_FLAG_RESUMED
    found.end = end
    _clear_beyond(ring, &bounds, walk.first_found, found)
    ring.header.producer_pid = os.getpid()
    if found.recovered_bytes or power_loss:
        os.fdatasync(ring.fd)  # the jump must survive a second power loss before a record carries it
    if syncs_first and ring.header.synced < end:
        taint(ring, found.doubtful_begin, end)
        os.fdatasync(ring.fd)
        sise_store_release(&ring.header.synced, end)
        found.doubtful_begin = end
    reach("ring.in_repair")
    memcpy(ring.header.boot_id, <const char*>boot, 16)  # behind resume_seq: killed in between, it is done again
    ring.header.clean = 0
    ring.header.head_seq = found.next_seq
    ring.header.head_check = ~(end ^ found.next_seq)
    sise_store_release(&ring.header.head, end)
    ring.release_pages(bounds.oldest, end)
    return 0


cdef list restore_slots(RingFile ring, expected):
    cdef sise_consumer_slot* slot
    names = [ring.header.consumers[i].name[:SISE_NAME_BYTES].rstrip(b"\0") for i in range(SISE_CONSUMERS)]
    restored = []
    for name, mode in expected.items():
        encoded = slot_name(name)
        found = [i for i in range(SISE_CONSUMERS) if names[i] == encoded]
        if not found:
            others = {slot_name(other) for other in expected}
            found = [i for i in range(SISE_CONSUMERS) if names[i] and names[i] not in others and (
                ring.header.consumers[i].mode == <uint32_t>mode)]
        if len(found) != 1:
            raise RingError(f"{ring.path}: its consumers are damaged: {name} is missing")
        slot = &ring.header.consumers[<int>found[0]]
        if names[found[0]] != encoded or slot.mode != <uint32_t>mode:
            memset(slot.name, 0, SISE_NAME_BYTES)
            memcpy(slot.name, <const char*>encoded, len(encoded))
            slot.mode = mode
            restored.append(name)
    return restored


cdef int _judge_header(RingFile ring, Bounds* bounds) except -1:
    """Take head, claimed and the consumers' positions from the header, repaired where they contradict each other."""
    cdef uint64_t head = ring.header.head, head_seq = ring.header.head_seq, claimed = ring.header.claimed, at
    cdef int i
    if ring.header.head_check != ~(head ^ head_seq) or not ring.header.first_seq <= head_seq:
        # damage, or an older program wrote last, or its producer died between the two stores
        at = ~ring.header.head_check ^ head_seq
        if ring.header.first_seq <= head_seq and at <= claimed and _leads_to(ring, at, head_seq):
            head = at
        else:
            head_seq = 0
    if head > claimed:
        # `claimed` is stored first and lies in the same disk sector: one of the two is no value of ours
        at = 0
        for i in range(SISE_INDEX_BLOCKS):
            if ring.header.index[i].position != NO_POSITION:
                at = max(at, ring.header.index[i].position)
        if at < claimed:
            head = claimed  # the walk finds the end
            head_seq = 0
        else:
            claimed = head
    elif claimed - head > 2 * ring.capacity:
        claimed = head
    head &= ~<uint64_t>7
    bounds.head = head
    bounds.head_seq = head_seq
    bounds.claimed = claimed
    bounds.oldest = min(claimed - ring.capacity if claimed > ring.capacity else 0, head)
    bounds.gate = _restore_positions(ring, head)
    return 0


cdef bint _leads_to(RingFile ring, uint64_t head, uint64_t head_seq) noexcept nogil:
    """Does the newest indexed record before *head* lead there, record by record, to number *head_seq*?"""
    cdef const sise_record_header* record
    cdef uint64_t at, position = NO_POSITION, seq = 0
    cdef int i
    for i in range(SISE_INDEX_BLOCKS):
        at = ring.header.index[i].position
        if at < head and head - at <= ring.capacity and (position == NO_POSITION or at > position):
            position, seq = at, ring.header.index[i].seq
    if position == NO_POSITION:
        return False
    while position < head:
        record = ring.record_at(&position, head)
        if record is NULL or record.seq != seq:
            break
        position += record.length
        seq += 1
    return position == head and seq == head_seq


cdef uint64_t _restore_positions(RingFile ring, uint64_t head) noexcept nogil:
    """Take each consumer's position from its two copies; return the lowest of a gating one, at most *head*."""
    cdef sise_consumer_slot* slot
    cdef int i
    for i in range(SISE_CONSUMERS):
        slot = &ring.header.consumers[i]
        if ~slot.position_check < slot.position:
            store_position(slot, ~slot.position_check)
    return min(ring.lowest_gate(head), head) & ~<uint64_t>7


cdef int _walk_published(RingFile ring, Streams streams, Ledger ledger, const Bounds* bounds, Walk* walk) except -1:
    """Account for every published record that is left; make those of a lap that the header does not know unreadable."""
    cdef uint64_t head = bounds.head, first_seq = ring.header.first_seq
    cdef uint64_t start = min(ring.first_trusted(bounds.oldest, head), max(bounds.oldest, bounds.gate))
    cdef uint64_t position, offset, last_seq = 0, limit_position, limit_seq
    cdef const sise_record_header* record
    cdef bint is_foreign, damaged = False
    _find_limit(ring, bounds, &limit_position, &limit_seq)
    walk.first_found = NO_POSITION
    position = walk.end = start
    while True:
        record = ring.record_at(&position, head)
        is_foreign = record is not NULL and not _can_lie_at(record, position, limit_position, limit_seq)
        if record is not NULL and not is_foreign and (
            last_seq == 0
            or record.seq == last_seq + 1
            or (record.seq > last_seq and (damaged or record.flags & SISE_FLAG_RESUMED))
        ):
            damaged = False
            last_seq = record.seq
            walk.first_found = min(walk.first_found, position)
            _account(streams, ledger, record)
            position += record.length
            walk.end = position
        elif record is NULL and position >= head:
            break
        else:
            damaged = True
            if is_foreign:
                (<sise_record_header*>record).crc32c ^= <uint32_t>-1
            offset = position & ring.mask
            position += scan_for_record(ring.data + offset, min(ring.capacity - offset, head - position), 8,
                                        max(last_seq, first_seq - 1),
                                        most_records(ring.capacity) if last_seq else NO_POSITION)
    walk.last_seq = last_seq
    walk.damaged = damaged
    return 0


cdef inline bint _can_lie_at(const sise_record_header* record, uint64_t position, uint64_t limit_position,
                             uint64_t limit_seq) noexcept nogil:
    """Can this record be the one that was written at *position*, if limit_seq was the number at limit_position?"""
    if position < limit_position:
        return record.seq < limit_seq
    return record.seq - limit_seq <= (position - limit_position) // sizeof(sise_record_header) or (
        record.flags & SISE_FLAG_RESUMED and record.seq > limit_seq
    )


cdef int _find_limit(RingFile ring, const Bounds* bounds, uint64_t* position, uint64_t* seq) except -1:
    """Set a position and the seq that belongs there, as new as possible: the head's, or of the index.

    See _can_lie_at for what it is good for.
    """
    cdef const sise_record_header* record
    cdef uint64_t at, entry_position
    position[0] = bounds.head
    seq[0] = bounds.head_seq if bounds.head_seq else NO_POSITION
    if bounds.head_seq:
        return 0
    entries = sorted([(ring.header.index[i].position, ring.header.index[i].seq) for i in range(SISE_INDEX_BLOCKS)])
    for entry_position, entry_seq in reversed(entries):
        if bounds.oldest <= entry_position < bounds.head:
            at = entry_position
            record = ring.record_at(&at, bounds.head)
            if record is not NULL and at == entry_position and record.seq == entry_seq:
                position[0] = entry_position
                seq[0] = entry_seq
                return 0
    return 0


cdef uint64_t _adopt(RingFile ring, Streams streams, Ledger ledger, uint64_t position, uint64_t bound, uint64_t seq,
                     Recovered* found) noexcept nogil:
    """Take over the whole records that follow *position*, the first one with number *seq*; return their end.

    A checkpoint of the ledger only as a whole: of half of one, the counts would be lost or come twice.
    """
    cdef const sise_record_header* record
    cdef uint64_t at = position, end = position, next_seq = seq, adopted_seq = seq
    while True:
        record = ring.record_at(&at, bound)
        if record is NULL or record.seq != next_seq:
            break
        at += record.length
        next_seq += 1
        if record.kind != SISE_LEDGER or (<const sise_ledger*>record).is_last:
            end = at
            adopted_seq = next_seq
    if adopted_seq == seq and next_seq == seq:
        return position
    at = position
    while at < end:
        record = ring.record_at(&at, end)
        _account(streams, ledger, record)
        if record.recv_ns > 0:
            ring.header.head_recv_ns = record.recv_ns
        at += record.length
    found.adopted_records = adopted_seq - seq
    if found.adopted_records:
        found.next_seq = adopted_seq
    while adopted_seq < next_seq:  # numbers that will be used again: nobody must take these records for them
        record = ring.record_at(&at, bound)
        at += record.length
        (<sise_record_header*>record).crc32c ^= <uint32_t>-1
        adopted_seq += 1
    return end


cdef void _account(Streams streams, Ledger ledger, const sise_record_header* record) noexcept nogil:
    streams.observe(record)
    if record.kind != SISE_LEDGER:
        ledger.count(record)
    elif ledger.used:
        ledger.clear()  # a checkpoint: it holds the counts of everything before it


cdef void _clear_beyond(RingFile ring, const Bounds* bounds, uint64_t first_found, Recovered* found) noexcept nogil:
    """Let nothing in the header point behind the end of the log, nor a gating consumer below what is left of it."""
    cdef uint64_t end = found.end, at
    cdef int i
    for i in range(SISE_INDEX_BLOCKS):
        if ring.header.index[i].position != NO_POSITION and ring.header.index[i].position >= end:
            ring.header.index[i].position = NO_POSITION
    # a block whose first record is indexed keeps that entry
    at = ring.header.index[(end // ring.block_bytes) % SISE_INDEX_BLOCKS].position
    found.current_block = at // ring.block_bytes if at < end else NO_POSITION
    for i in range(SISE_CONSUMERS):
        at = ring.header.consumers[i].position
        if at > end:
            store_position(&ring.header.consumers[i], end)
        elif ring.header.consumers[i].mode == SISE_CONSUMER_GATING and (at < bounds.oldest or at & 7):
            store_position(&ring.header.consumers[i], min(first_found, end))
    found.claimed = max(bounds.claimed, end)
    sise_store_release(&ring.header.claimed, found.claimed)
    at = min(found.claimed - ring.capacity if found.claimed > ring.capacity else 0, end)
    found.doubtful_begin = max(min(ring.header.synced, end), at)
    ring.header.synced = min(ring.header.synced, end)
