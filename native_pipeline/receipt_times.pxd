# When the records of a batch were received: remembered while encoding, counted as ages once the batch is safe.

from libc.stdint cimport int64_t
from libc.stdlib cimport realloc

from native_pipeline.counters cimport CountersBlock


ctypedef struct receipt_times:
    int64_t* recv_ns   # in the order of the batch; free() it
    size_t count
    size_t capacity
    int64_t first_ns   # smallest and largest, 0 while there are none
    int64_t last_ns


cdef inline int note_receipt(receipt_times* times, int64_t recv_ns) noexcept nogil:
    """Remember one record; 0, or -1 if there is no memory."""
    cdef size_t capacity
    cdef int64_t* grown
    if times.count == times.capacity:
        capacity = 2 * times.capacity if times.capacity else 4096
        grown = <int64_t*>realloc(times.recv_ns, capacity * sizeof(int64_t))
        if grown == NULL:
            return -1
        times.recv_ns = grown
        times.capacity = capacity
    times.recv_ns[times.count] = recv_ns
    times.count += 1
    if times.count == 1:
        times.first_ns = times.last_ns = recv_ns
    elif recv_ns < times.first_ns:
        times.first_ns = recv_ns
    elif recv_ns > times.last_ns:
        times.last_ns = recv_ns
    return 0


cdef inline void forget_receipts(receipt_times* times) noexcept nogil:
    times.count = 0
    times.first_ns = 0
    times.last_ns = 0


cdef inline void observe_receipts(const receipt_times* times, CountersBlock counters, int histogram,
                                  int64_t now_ns) noexcept nogil:
    """Count every record's age in *histogram*; those of one socket read share their time and are counted at once."""
    cdef size_t first = 0, end
    while first < times.count:
        end = first + 1
        while end < times.count and times.recv_ns[end] == times.recv_ns[first]:
            end += 1
        counters.observe(histogram, now_ns - times.recv_ns[first], end - first)
        first = end
