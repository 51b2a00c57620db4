"""A ring, walked through from outside: what it holds, what is missing, what is damaged."""

from libc.stdint cimport int64_t, uint64_t

from native_pipeline.record cimport (
    SISE_FLAG_RESUMED,
    sise_fence_acquire,
    sise_load_acquire,
    sise_load_relaxed,
    sise_record_header,
)
from native_pipeline.ring_file cimport RingFile
from native_pipeline.ring_records cimport NO_POSITION, most_records, scan_for_record


def check_ring(RingFile ring not None) -> dict:
    """Walk everything that the ring holds, also beside a running producer; return what was found.

    {"begin", "end": positions; "records", "bytes"; "first_seq", "last_seq", "first_recv_ns", "last_recv_ns": 0 if
    there is none; "missing": sequence numbers left out without a mark; "damaged": [(position, bytes)], the first
    1,000; "damaged_places", "damaged_bytes": of all}. What is overwritten meanwhile is no damage.
    """
    cdef const sise_record_header* record
    cdef sise_record_header header
    cdef uint64_t head = sise_load_acquire(&ring.header.head)
    cdef uint64_t position, begin, end, at, found, claimed, offset, seq, lowest
    cdef uint64_t records = 0, size = 0, first = 0, last = 0, missing = 0, places = 0, damaged_bytes = 0
    cdef int64_t first_ns = 0, last_ns = 0
    cdef bint is_whole
    damaged = []
    claimed = sise_load_acquire(&ring.header.claimed)
    head &= ~<uint64_t>7
    lowest = min(claimed - ring.capacity if claimed > ring.capacity else 0, head)
    begin = position = min(ring.first_trusted(lowest, head), head)
    if lowest == 0:
        begin = position = 0
    while position < head:
        at = position
        record = ring.record_at(&at, head)
        is_whole = record is not NULL
        if is_whole:
            header = record[0]
            is_whole = not last or header.seq > last
        sise_fence_acquire()
        claimed = sise_load_relaxed(&ring.header.claimed)
        if claimed > ring.capacity and position < claimed - ring.capacity:
            # overwritten while it was read: go on well behind
            if ring.find_boundary(claimed - ring.capacity + (ring.capacity >> 3), &found, &seq) < 0:
                break
            if records == 0:
                begin = found
            position, last = found, 0
            continue
        if is_whole:
            if last and header.seq != last + 1 and not header.flags & SISE_FLAG_RESUMED:
                missing += header.seq - last - 1
            if header.recv_ns > 0:
                first_ns = first_ns or header.recv_ns
                last_ns = header.recv_ns
            first = first or header.seq
            last = header.seq
            records += 1
            size += header.length
            position = at + header.length
        elif record is NULL and at >= head:
            position = head
        else:
            offset = at & ring.mask
            end = at + scan_for_record(ring.data + offset, min(ring.capacity - offset, head - at), 8,
                                       last if last else ring.header.first_seq - 1,
                                       most_records(ring.capacity) if last else NO_POSITION)
            if places and damaged and damaged[len(damaged) - 1][0] + damaged[len(damaged) - 1][1] == at:
                damaged[len(damaged) - 1] = (damaged[len(damaged) - 1][0], damaged[len(damaged) - 1][1] + end - at)
            else:
                places += 1
                if len(damaged) < 1000:
                    damaged.append((at, end - at))
            damaged_bytes += end - at
            position = end
    return {
        "begin": begin, "end": head, "records": records, "bytes": size, "first_seq": first, "last_seq": last,
        "first_recv_ns": first_ns, "last_recv_ns": last_ns, "missing": missing, "damaged": damaged,
        "damaged_places": places, "damaged_bytes": damaged_bytes,
    }
