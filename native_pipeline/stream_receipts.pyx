# cython: cdivision=True
"""When each stream of a ring was heard last: by symbol, data kind and exchange.

A stream's exchange counts: the records of one symbol on two exchanges say nothing of each other's connection.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from native_pipeline.ledger cimport Ledger, LedgerEntry
from native_pipeline.record cimport (
    SISE_ABSENT,
    SISE_FLAG_NXT,
    SISE_FLAG_SOR,
    SISE_GAP,
    SISE_SYMBOL_BYTES,
    sise_gap,
    sise_load_acquire,
    sise_record_header,
)
from native_pipeline.ring_file cimport RingFile
from native_pipeline.ring_writer cimport RingWriter
from native_pipeline.streams cimport Stream

from daemon.errors import RingError

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char* text, size_t limit)

# By the exchange bits of a record's flags; the main exchange of a market has none.
EXCHANGES = {0: "", SISE_FLAG_NXT: "nxt", SISE_FLAG_SOR: "sor"}
EXCHANGE_FLAGS = {name: flags for flags, name in EXCHANGES.items()}

cdef enum:
    # Of a ring that its producer is writing: records so near to what it overwrites next are not looked at.
    OVERWRITTEN_SOON_BYTES = 65536
    # A producer that overtakes the reading so often is not waited for: what was seen is what is known.
    MOST_ROUNDS = 8


cdef object _key(const char* symbol, uint32_t tag):
    """(symbol, data kind, exchange)"""
    name = symbol[:strnlen(symbol, SISE_SYMBOL_BYTES)].decode("ascii", "replace")
    return name, tag & 0xff, EXCHANGES.get(tag >> 24 & (SISE_FLAG_NXT | SISE_FLAG_SOR), "")


def newest_receipts(RingWriter ring not None):
    """Return {(symbol, data kind, exchange): (recv_ns, exchange_ns)} of the newest record of every stream seen."""
    cdef Stream* stream
    cdef uint64_t i
    newest = {}
    for i in range(ring.streams_seen.slot_count):
        stream = &ring.streams_seen.slots[i]
        if stream.recv_ns:
            key = _key(stream.symbol, stream.tag)
            newest[key] = max(newest.get(key, (0, 0)), (stream.recv_ns, stream.exchange_ns))
    return newest


def receipts_in(RingFile ring not None):
    """Return the same of everything that the ring still holds, whoever writes it; a gap counts as a receipt at its end.

    Of several venues, that of the stream that fell silent first. Reads the whole ring without the GIL: for a thread.
    """
    cdef Ledger newest = Ledger()
    cdef LedgerEntry* entry
    cdef const sise_record_header* record
    cdef uint64_t margin = 0 if isinstance(ring, RingWriter) else OVERWRITTEN_SOON_BYTES
    cdef int rounds = 0
    cdef uint64_t found, seq, i, floor, position = 0, end = sise_load_acquire(&ring.header.head)
    with nogil:
        while position < end:
            floor = sise_load_acquire(&ring.header.claimed)
            floor = floor - ring.capacity + margin if floor > ring.capacity else 0
            if position < floor or position == 0:
                if ring.find_boundary(max(floor, position), &found, &seq) < 0:
                    break
                if found >= end:   # the producer has gone round meanwhile
                    rounds += 1
                    if rounds > MOST_ROUNDS:
                        break
                    end = sise_load_acquire(&ring.header.head)
                position = found
            record = ring.record_at(&position, end)
            if record is not NULL:
                newest.remember(record)
                position += record.length
            elif position < end and ring.find_boundary(position + 8, &found, &seq) == 0:
                position = found
            else:
                break
    receipts = {}
    for i in range(newest.slots):
        entry = &newest.entries[i]
        if entry.count:
            key = _key(entry.symbol, entry.tag)
            receipt = (entry.recv_ns, entry.exchange_ns)
            receipts[key] = min(receipts.get(key, receipt), receipt)
    return receipts


def append_gap(RingWriter ring not None, stream, int64_t started_ns, int64_t ended_ns, int reason, *,
               int venue, int market) -> None:
    """Append a gap record: *stream*, (symbol, data kind, exchange), was interrupted. Not published yet.

    Raises RingError when the ring is full or closed.
    """
    cdef sise_gap* record
    cdef bytes name
    symbol, data_kind, exchange = stream
    name = symbol.encode("ascii")
    if len(name) > SISE_SYMBOL_BYTES:
        raise ValueError(f"symbol {symbol!r} is longer than {SISE_SYMBOL_BYTES} characters")
    record = <sise_gap*>ring.reserve(sizeof(sise_gap))
    if record is NULL:
        raise RingError(f"{ring.path}: {'closed' if ring.closed else 'full'}")
    memset(<char*>record + sizeof(sise_record_header), 0, sizeof(sise_gap) - sizeof(sise_record_header))
    record.header.kind = SISE_GAP
    record.header.flags = EXCHANGE_FLAGS[exchange]
    record.header.venue = venue
    record.header.market = market
    record.header.recv_ns = ended_ns
    memcpy(record.symbol, <const char*>name, len(name))
    record.started_ns = started_ns
    record.ended_ns = ended_ns
    record.missing = SISE_ABSENT
    record.data_kind = data_kind
    record.reason = reason
    ring.commit(<char*>record)
