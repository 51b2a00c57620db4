# Numbers that other processes read: one block per process in a mapped file; layout in layout.h, labels in counters.pyx.

from libc.stdint cimport int64_t, uint64_t

from native_pipeline.record cimport sise_counters_block


cdef class CountersBlock:
    """The block of one process: it alone writes, anybody reads."""
    cdef sise_counters_block* block
    cdef object _map
    cdef readonly int index
    cdef readonly bint writable

    cdef void add(self, int counter, uint64_t n) noexcept nogil
    cdef void store(self, int counter, uint64_t value) noexcept nogil
    # *weight* records had this age at a stage (0: received -> ring/committed/published; 1: spare)
    cdef void observe(self, int histogram, int64_t age_ns, uint64_t weight) noexcept nogil
