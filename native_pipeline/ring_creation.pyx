"""A new ring: a file that is complete, with all of its disk space, or not there at all."""

import os
import time
from pathlib import Path

from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from native_pipeline.record cimport (
    SISE_CONSUMER_GATING,
    SISE_CONSUMER_LOSSY,
    SISE_CONSUMERS,
    SISE_INDEX_BLOCKS,
    SISE_LAYOUT_VERSION,
    SISE_RING_HEADER_BYTES,
    SISE_RING_MAGIC,
    sise_ring_header,
)
from native_pipeline.ring_file cimport IDENTITY_BYTES, MAX_CAPACITY, MIN_CAPACITY, boot_id, slot_name
from native_pipeline.ring_records cimport NO_POSITION, sise_crc32c

from daemon.errors import RingError

GATING = SISE_CONSUMER_GATING
LOSSY = SISE_CONSUMER_LOSSY


def create_ring(path, *, int ring, uint64_t capacity_bytes,
                consumers=(("writer", GATING), ("publisher", LOSSY))) -> None:
    """Create the file of ring number *ring*, preallocated, with a slot for each of *consumers* (name, mode).

    capacity_bytes is rounded up to a power of two, at least 1 MiB. The file appears complete or not at all.
    Raises RingError if *path* exists, OSError (ENOSPC) if the disk is too small.
    """
    cdef sise_ring_header header
    cdef uint64_t capacity = MIN_CAPACITY
    if capacity_bytes > MAX_CAPACITY:
        raise ValueError(f"capacity of {capacity_bytes} bytes: at most {MAX_CAPACITY}")
    while capacity < capacity_bytes:
        capacity *= 2
    if len(consumers) > SISE_CONSUMERS:
        raise ValueError(f"{len(consumers)} consumers: a ring has {SISE_CONSUMERS} slots")
    path = Path(path)
    memset(&header, 0, sizeof(header))
    header.magic = SISE_RING_MAGIC
    header.layout_version = SISE_LAYOUT_VERSION
    header.header_bytes = SISE_RING_HEADER_BYTES
    header.capacity_bytes = capacity
    header.epoch = time.time_ns() // 1000
    header.first_seq = header.epoch
    header.ring = ring
    header.identity_crc32c = sise_crc32c(<const char*>&header, IDENTITY_BYTES)
    header.clean = 1
    header.head_seq = header.first_seq
    header.head_check = ~(header.head ^ header.head_seq)
    for number, (name, mode) in enumerate(consumers):
        encoded = slot_name(name)
        memcpy(header.consumers[number].name, <const char*>encoded, len(encoded))
        header.consumers[number].mode = mode
        header.consumers[number].position_check = ~header.consumers[number].position
    for number in range(SISE_INDEX_BLOCKS):
        header.index[number].position = NO_POSITION
    boot = boot_id()
    memcpy(header.boot_id, <const char*>boot, 16)

    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)  # never truncated: it may be a finished ring, its maker killed behind link()
    fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, SISE_RING_HEADER_BYTES + capacity)  # ENOSPC now, not SIGBUS later
        os.pwrite(fd, (<char*>&header)[:sizeof(header)], 0)
        os.fsync(fd)
        os.link(unfinished, path)
    except FileExistsError as exc:
        raise RingError(f"{path}: exists already") from exc
    finally:
        os.close(fd)
        unfinished.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
