"""What a worker has kept in its raw ring, as Python values: for the recorder, which turns it into lines of a file."""

from libc.stdint cimport uint64_t

from native_pipeline.record cimport SISE_FLAG_RESUMED, SISE_RAW, sise_raw, sise_record_header
from native_pipeline.ring_reader cimport RingReader


def read_raw_frames(RingReader reader not None, uint64_t max_bytes) -> list:
    """Return the next published messages, up to about *max_bytes* of them, or as many as there are; does not commit.

    One tuple each: seq, whether the numbering jumped before it on purpose (a repair), recv_ns, venue id, connection,
    is_text, is_redundant, message as bytes. Records of other kinds are skipped.
    """
    cdef const sise_record_header* header
    cdef const sise_raw* record
    cdef uint64_t taken = 0
    found = []
    while taken < max_bytes:
        header = reader.next()
        if header is NULL:
            if reader.fetch(0) == 0:
                break
            continue
        if header.kind != SISE_RAW or header.length < sizeof(sise_raw):
            continue
        record = <const sise_raw*>header
        if record.frame_bytes > header.length - sizeof(sise_raw):
            continue
        taken += header.length
        found.append((
            header.seq, (header.flags & SISE_FLAG_RESUMED) != 0, header.recv_ns, header.venue, header.connection,
            record.is_text == 1, record.is_redundant == 1,
            (<const char*>record + sizeof(sise_raw))[:record.frame_bytes],
        ))
    return found
