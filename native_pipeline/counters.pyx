"""Counters in shared memory: one file, one block per process, read by anybody and asked of nobody.

Values are cumulative over the life of the file, not of the process: a restarted worker goes on counting where its
predecessor was killed. Layout: `layout.h` (`sise_counters_block`); labels and units: `COUNTERS` below.
"""

import mmap
import os
import time

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from native_pipeline.record cimport (
    SISE_COUNTERS,
    SISE_COUNTERS_BLOCK_BYTES,
    SISE_COUNTERS_MAGIC,
    SISE_HISTOGRAM_BUCKETS,
    SISE_HISTOGRAMS,
    SISE_LAYOUT_VERSION,
    SISE_NAME_BYTES,
    sise_counters_block,
    sise_load_acquire,
    sise_load_relaxed,
    sise_store_relaxed,
    sise_store_release,
)

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char* text, size_t limit)

BLOCK_BYTES = SISE_COUNTERS_BLOCK_BYTES

# id -> (name, unit, meaning); the id is the position in the block and never changes its meaning.
COUNTERS = (
    ("frames_received", "frames", "data and control frames read from sockets"),
    ("bytes_received", "bytes", "payload of those frames"),
    ("records_received", "records", "trades, order books and events appended to the ring"),
    ("records_quarantined", "records", "frames or records that could not be parsed, kept raw in the ring"),
    ("control_frames", "frames", "frames handed to the control router"),
    ("ring_full_waits", "events", "times the worker had to stop reading because the ring was full"),
    ("socket_pauses", "events", "times a socket was paused for lack of room in the ring"),
    ("connections_opened", "events", "WebSocket connections established"),
    ("connections_lost", "events", "WebSocket connections lost"),
    ("connections_ready", "connections", "connections streaming now (gauge)"),
    ("connections_planned", "connections", "connections of this worker's plan (gauge)"),
    ("subscriptions_confirmed", "subscriptions", "confirmed now (gauge)"),
    ("subscriptions_pending", "subscriptions", "requested, not answered yet (gauge)"),
    ("subscriptions_failed", "subscriptions", "rejected or timed out for good (gauge)"),
    ("records_published", "records", "messages published on Redis"),
    ("publish_batches", "batches", "transactions sent to Redis"),
    ("publish_lapped", "records", "records the publisher lost to a ring that went round"),
    ("publish_errors", "events", "failed attempts to reach Redis"),
    ("redis_connected", "flag", "1 while connected (gauge)"),
    ("rows_committed", "rows", "rows committed to the database"),
    ("batches_committed", "batches", "transactions committed"),
    ("commit_retries", "events", "batches tried again"),
    ("database_connected", "flag", "1 while connected (gauge)"),
    ("writer_lag_bytes", "bytes", "published in the rings, not committed yet (gauge)"),
    ("writer_lag_records", "records", "the same in records (gauge)"),
    ("publisher_lag_bytes", "bytes", "published in the rings, not sent to Redis yet (gauge)"),
    ("corrupt_records", "records", "ring records skipped because their checksum was wrong"),
    ("writer_lapped", "records", "records the database's cursor expected and the ring no longer had"),
    ("restarts", "events", "children restarted by the supervisor"),
    ("pingpongs", "frames", "heartbeats echoed to the venue"),
    ("gaps_recorded", "records", "gap records appended to the ring"),
    ("tail_bytes_cut", "bytes", "unpublished or damaged bytes cut from the ring at start"),
    ("rss_bytes", "bytes", "resident memory of the process (gauge)"),
    ("last_data_ns", "ns", "receive time of the newest record (gauge)"),
    ("last_commit_ns", "ns", "wall clock of the newest commit (gauge)"),
    ("duplicates_dropped", "records", "what had arrived before, from the other session or replayed by the venue"),
    ("volume_gaps", "events", "holes found by the cumulative volume of a stream"),
    ("records_late", "records", "trades that arrived behind a later one of their stream"),
    ("subscriptions_suspected", "subscriptions", "confirmed, but silent while their market is open (gauge)"),
    ("limits_learned", "events", "session limits learned from a venue's refusal"),
    ("attempts_withheld", "events", "connection attempts or requests put off by the governor"),
    ("watchdog_warnings", "events", "data watchdog: silence noticed"),
    ("watchdog_resubscriptions", "events", "data watchdog: everything of a session requested again"),
    ("watchdog_reconnections", "events", "data watchdog: a session closed for its silence"),
    ("order_notices", "frames", "private order notices decoded; not stored"),
    ("alerts_raised", "alerts", "alerts handed to the monitor"),
    ("alerts_published", "alerts", "alerts published on Redis"),
    ("alerts_suppressed", "alerts", "repeated alerts that were counted instead of published"),
    ("alerts_lost", "alerts", "alerts that found their queue full; they are in the log"),
    ("account_keys_fetched", "events", "access keys obtained from a venue"),
    ("batches_spilled", "batches", "batches written to failed_batches because the database was away"),
    ("records_spilled", "records", "records in them"),
    ("spill_files", "files", "spill files that wait for the database (gauge)"),
    ("spill_bytes", "bytes", "their size (gauge)"),
    ("spill_failures", "events", "batches that could not be spilled: no room, quota, or an error of the disk"),
    ("batches_recovered", "batches", "spilled batches stored after all"),
    ("records_recovered", "records", "records in them"),
    ("rows_refused", "rows", "rows that the database refuses, kept in quarantine with its reason"),
    ("rows_already_stored", "rows", "rows that a unique index of the database had already"),
    ("raw_frames", "frames", "frames handed to the recorder"),
    ("raw_frames_recorded", "frames", "frames in capture files"),
    ("raw_frames_dropped", "frames", "frames that the recorder was too slow for"),
    ("raw_bytes_written", "bytes", "size of the capture files written"),
    ("stream_gaps", "events", "gap entries added to streams of Redis"),
    ("synced_lag_bytes", "bytes", "in the ring, not yet safe from a power loss (gauge)"),
    ("minutes_reconciled", "minutes", "minutes whose received, published and stored counts were compared"),
    ("reconcile_differences", "differences", "symbols and minutes whose counts were not the same"),
    ("quarantine_replayed", "frames", "quarantined frames parsed again into rows"),
    ("records_dropped_on_redis", "records", "messages that a full or refusing Redis did not take"),
)
COUNTER_IDS = {name: position for position, (name, _, _) in enumerate(COUNTERS)}
assert len(COUNTERS) <= SISE_COUNTERS

# Histogram: ages in microseconds, 8 buckets per power of two: relative error below 12.5 %.
HISTOGRAM_BUCKETS = SISE_HISTOGRAM_BUCKETS


cdef inline int _bucket(uint64_t us) noexcept nogil:
    cdef int exponent = 0, bucket
    if us < 16:
        return <int>us
    while (us >> exponent) >= 16:
        exponent += 1
    bucket = 16 + (exponent - 1) * 8 + <int>((us >> exponent) - 8)
    return bucket if bucket < SISE_HISTOGRAM_BUCKETS else SISE_HISTOGRAM_BUCKETS - 1


def bucket_upper_us(int bucket) -> int:
    """Return the largest age, in microseconds, that falls into *bucket*."""
    if bucket < 16:
        return bucket
    exponent, step = divmod(bucket - 16, 8)
    return ((step + 9) << (exponent + 1)) - 1


def percentile_us(buckets, double fraction):
    """Return the upper bound, in microseconds, of the bucket that holds the *fraction* quantile; None if all are 0."""
    total = sum(buckets)
    if total == 0:
        return None
    rank = fraction * total
    seen = 0
    for position, count in enumerate(buckets):
        seen += count
        if seen >= rank and count:
            return bucket_upper_us(position)
    return bucket_upper_us(len(buckets) - 1)


def create_counters_file(path, int blocks) -> None:
    """Create the file with room for *blocks* processes, or keep the one that is there if its size fits."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size != blocks * SISE_COUNTERS_BLOCK_BYTES:
            os.ftruncate(fd, 0)
            os.posix_fallocate(fd, 0, blocks * SISE_COUNTERS_BLOCK_BYTES)
    finally:
        os.close(fd)


cdef class CountersBlock:
    """The block of one process: it alone writes, anybody reads."""

    def __cinit__(self, path, int index, *, bint writable=True):
        cdef const unsigned char[::1] read_view
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            if index < 0 or os.fstat(fd).st_size < (index + 1) * SISE_COUNTERS_BLOCK_BYTES:
                raise ValueError(f"{path}: no block {index}: the file has {os.fstat(fd).st_size} bytes")
            self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
        finally:
            os.close(fd)
        read_view = self._map
        self.index = index
        self.writable = writable
        self.block = <sise_counters_block*>(&read_view[0] + index * SISE_COUNTERS_BLOCK_BYTES)

    def take(self, str role not None) -> None:
        """Claim the block for this process: role, pid, start time and a first heartbeat.

        Values go on where a predecessor left them, unless that was another version with another layout.
        """
        self._require_writable()
        if self.block.layout_version != SISE_LAYOUT_VERSION:  # never taken, or numbers of another meaning
            memset(self.block, 0, SISE_COUNTERS_BLOCK_BYTES)
        name = role.encode("ascii")[:SISE_NAME_BYTES]
        memset(self.block.role, 0, SISE_NAME_BYTES)
        memcpy(self.block.role, <const char*>name, len(name))
        self.block.layout_version = SISE_LAYOUT_VERSION
        self.block.pid = os.getpid()
        self.block.started_ns = time.time_ns()
        self.block.starts += 1
        self.heartbeat()
        sise_store_release(&self.block.magic, SISE_COUNTERS_MAGIC)

    def _require_writable(self):
        if not self.writable:
            raise ValueError(f"counters block {self.index} is open for reading only")

    def heartbeat(self) -> None:
        """Store the monotonic clock: the supervisor compares it with its own."""
        self._require_writable()
        self.block.heartbeat_mono_ns = time.monotonic_ns()

    def set_state(self, int state) -> None:
        """Store the process state (`daemon.supervision.process.ProcessState`)."""
        self._require_writable()
        self.block.state = state

    cdef void add(self, int counter, uint64_t n) noexcept nogil:
        sise_store_relaxed(&self.block.values[counter], self.block.values[counter] + n)

    cdef void store(self, int counter, uint64_t value) noexcept nogil:
        sise_store_relaxed(&self.block.values[counter], value)

    cdef void observe(self, int histogram, int64_t age_ns, uint64_t weight) noexcept nogil:
        cdef uint64_t us = 0 if age_ns < 0 else <uint64_t>age_ns // 1000
        cdef uint64_t* cell = &self.block.histograms[histogram][_bucket(us)]
        sise_store_relaxed(cell, cell[0] + weight)

    def increment(self, str name not None, uint64_t n=1) -> None:
        """Add *n* to the counter called *name*. Raises KeyError for a name not in `COUNTERS`."""
        self._require_writable()
        self.add(COUNTER_IDS[name], n)

    def set(self, str name not None, uint64_t value) -> None:
        """Set the gauge called *name*."""
        self._require_writable()
        self.store(COUNTER_IDS[name], value)

    def get(self, str name not None) -> int:
        """Return the value of the counter called *name*."""
        return sise_load_relaxed(&self.block.values[COUNTER_IDS[name]])

    def observe_ns(self, int histogram, int64_t age_ns, uint64_t weight=1) -> None:
        """Count *weight* records that were *age_ns* old."""
        self._require_writable()
        if not 0 <= histogram < SISE_HISTOGRAMS:
            raise ValueError(f"histogram {histogram}: there are {SISE_HISTOGRAMS}")
        self.observe(histogram, age_ns, weight)

    def snapshot(self):
        """Return everything as a dict: role, pid, starts, started_ns, heartbeat_mono_ns, state, values, histograms.

        None if no process of this layout version ever took the block.
        """
        if sise_load_acquire(&self.block.magic) != SISE_COUNTERS_MAGIC:
            return None
        if self.block.layout_version != SISE_LAYOUT_VERSION:
            return None
        return {
            "role": self.block.role[:strnlen(self.block.role, SISE_NAME_BYTES)].decode("ascii", "replace"),
            "pid": self.block.pid,
            "starts": self.block.starts,
            "started_ns": self.block.started_ns,
            "heartbeat_mono_ns": self.block.heartbeat_mono_ns,
            "state": self.block.state,
            "values": {name: sise_load_relaxed(&self.block.values[i]) for i, (name, _, _) in enumerate(COUNTERS)},
            "histograms": [
                [self.block.histograms[h][b] for b in range(SISE_HISTOGRAM_BUCKETS)] for h in range(SISE_HISTOGRAMS)
            ],
        }
