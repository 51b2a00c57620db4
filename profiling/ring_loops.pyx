# cython: boundscheck=False, wraparound=False, cdivision=True
"""Native producer and consumer loops for `bench_ring.py`: what a parser and an encoder do to the ring, and nothing else."""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from native_pipeline.record cimport SISE_SYMBOL_BYTES, SISE_TRADE, sise_record_header, sise_trade
from native_pipeline.ring_reader cimport RingReader
from native_pipeline.ring_writer cimport RingWriter

cdef extern from "<sched.h>" nogil:
    int sched_yield()


def produce(RingWriter ring not None, uint64_t count, *, int batch, int symbols, int64_t recv_ns) -> int:
    """Append *count* trades of 120 bytes, publish once per *batch*; return the sum of their volumes."""
    cdef uint64_t i, total = 0
    cdef sise_trade* trade
    cdef char names[1024][24]
    cdef uint8_t kind = SISE_TRADE
    memset(names, 0, sizeof(names))
    for i in range(symbols):
        text = b"%06d" % i
        memcpy(names[i], <const char*>text, len(text))
    with nogil:
        for i in range(count):
            trade = <sise_trade*>ring.reserve(sizeof(sise_trade))
            while trade is NULL:
                ring.publish_head()
                sched_yield()
                trade = <sise_trade*>ring.reserve(sizeof(sise_trade))
            trade.header.kind = kind
            trade.header.venue = 1
            trade.header.market = 1
            trade.header.recv_ns = recv_ns
            memcpy(trade.symbol, names[i % symbols], SISE_SYMBOL_BYTES)
            trade.exchange_ns = recv_ns
            trade.price = 71000 + (i & 255)
            trade.volume = i & 1023
            trade.cum_volume = i
            trade.ask = 71100
            trade.bid = 71000
            trade.change_rate = 12
            memset(&trade.price_scale, 0, 8)
            total += i & 1023
            ring.commit(<char*>trade)
            if i % batch == 0:
                ring.publish_head()
        ring.publish_head()
    return total


def consume(RingReader ring not None, uint64_t count) -> tuple[int, int, int]:
    """Read *count* trades; return (how many, sum of seq, sum of volume)."""
    cdef uint64_t seen = 0, seqs = 0, volumes = 0, unread = 0
    cdef const sise_record_header* record
    with nogil:
        while seen < count:
            if ring.fetch(0) == 0:
                sched_yield()
                continue
            while True:
                record = ring.next()
                if record is NULL:
                    break
                if record.kind != SISE_TRADE:
                    continue
                seen += 1
                seqs += record.seq
                volumes += (<const sise_trade*>record).volume
                # the space is given back in steps, as the writer does per batch
                unread += 1
                if unread == 4096:
                    unread = 0
                    ring.commit_position()
            ring.commit_position()
    return seen, seqs, volumes
