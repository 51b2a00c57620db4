"""The sync thread: regular, last, and honest about failure."""

import os
import select
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.ingest.ring_sync import RingSync, sync_of
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.spec.ring_support import MIB, QUARANTINE, drain, new_ring

PATIENCE_S = 10.0
SLOW_S = 0.1


class Disk:
    """Counts syncs; fails when told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.syncs = 0
        self.synced_twice = threading.Event()

    def wait_written(self, timeout_s: float, /) -> bool:
        raise AssertionError("only group commit waits for data")

    def wake_sync(self) -> None:
        """Nobody sleeps in it."""

    def sync(self) -> int:
        self.syncs += 1
        if self.syncs == 2:
            self.synced_twice.set()
        if self.fails:
            raise OSError(5, "Input/output error")
        return 0


def test_the_ring_is_synced_again_and_again() -> None:
    disk = Disk()
    sync = RingSync(disk, interval_s=0.001)

    sync.start()

    assert disk.synced_twice.wait(10.0)
    sync.stop()
    sync.raise_error()


@pytest.mark.requirement("GS-01", "LEAK-02")
def test_a_stop_syncs_once_more_and_ends_the_thread() -> None:
    disk = Disk()
    sync = RingSync(disk, interval_s=3600.0)
    sync.start()

    sync.stop()

    assert disk.syncs == 1
    assert "sync" not in {thread.name for thread in threading.enumerate()}


def test_a_failed_sync_is_not_repeated_and_comes_out_in_the_owners_loop() -> None:
    disk = Disk(fails=True)
    sync = RingSync(disk, interval_s=0.0)
    sync.start()

    sync.stop()

    assert disk.syncs == 1
    with pytest.raises(OSError, match="Input/output error"):
        sync.raise_error()


# ---- group commit: synced first, then published ------------------------------------------------------------------


class SlowDisk:
    """A ring on a disk whose every sync takes its time, or fails."""

    def __init__(self, ring: RingWriter, delay_s: float = 0.0) -> None:
        self.ring = ring
        self.delay_s = delay_s
        self.error: OSError | None = None
        self.syncs = 0

    def wait_written(self, timeout_s: float, /) -> bool:
        return self.ring.wait_written(timeout_s)

    def wake_sync(self) -> None:
        self.ring.wake_sync()

    def sync(self) -> int:
        self.syncs += 1
        time.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        return self.ring.sync()


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[RingWriter]:
    writer = RingWriter(new_ring(tmp_path, capacity=4 * MIB), syncs_first=True)
    yield writer
    writer.close()


def wait_for_head(ring: RingWriter, position: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while ring.head != position:
        assert time.monotonic() < deadline, f"published up to {ring.head}, expected {position}"
        time.sleep(0.001)


def test_nothing_is_visible_before_it_is_synced(ring: RingWriter) -> None:
    reader = GatingReader(ring.path, "writer")
    seq = ring.append(QUARANTINE, b"one")
    ring.publish()

    assert (ring.head, reader.fetch_bytes()) == (0, 0)
    assert reader.prepare_sleep()
    assert ring.wait_written(0.0)
    assert ring.unsynced_bytes > 0

    ring.append(QUARANTINE, b"handed over by the next publish() only")
    end = ring.sync()

    assert (end, end, end) == (40, ring.head, ring.synced)
    assert not ring.wait_written(0.0)
    assert [seq] == [seen.seq for seen in drain(reader)]


def test_the_thread_publishes_and_wakes_a_sleeping_consumer(tmp_path: Path) -> None:
    wake = os.eventfd(0)
    ring = RingWriter(new_ring(tmp_path), wake_fds={"writer": wake}, syncs_first=True)
    os.eventfd_read(wake)  # a new producer wakes everybody once
    reader = GatingReader(ring.path, "writer")
    sync = sync_of(ring, "batch")
    assert sync is not None
    sync.start()
    for number in range(200):
        assert reader.prepare_sleep()
        ring.append(QUARANTINE, number.to_bytes(8, "little"))
        ring.publish()
        assert select.select([wake], [], [], PATIENCE_S)[0], "a wake-up was lost"
        os.eventfd_read(wake)
        assert [number.to_bytes(8, "little")] == [seen.body for seen in drain(reader)]
        assert ring.synced == ring.head
    sync.stop()
    sync.raise_error()
    ring.close()
    os.close(wake)


@pytest.mark.requirement("F45", "DLP-01")
def test_a_slow_disk_makes_larger_groups_and_never_holds_up_who_writes(ring: RingWriter) -> None:
    disk = SlowDisk(ring, SLOW_S)
    sync = RingSync(disk, interval_s=None)
    sync.start()
    took, count = [], 2_000
    begin = time.monotonic()
    for _ in range(count):
        before = time.perf_counter()
        ring.append(QUARANTINE, bytes(100))
        ring.publish()
        took.append(time.perf_counter() - before)
        time.sleep(0.0001)
    elapsed_s = time.monotonic() - begin

    wait_for_head(ring, count * 136)
    sync.stop()

    assert statistics.quantiles(took, n=100)[98] < SLOW_S / 20, "the feed thread waited for the disk"
    assert disk.syncs <= elapsed_s / SLOW_S + 4, "one sync for everything that had arrived"


@pytest.mark.requirement("F40", "DLP-01")
def test_what_a_failing_disk_did_not_take_is_never_published(ring: RingWriter) -> None:
    disk = SlowDisk(ring)
    disk.error = OSError(5, "Input/output error")
    sync = RingSync(disk, interval_s=None)
    sync.start()
    ring.append(QUARANTINE, b"one")
    ring.publish()

    deadline = time.monotonic() + PATIENCE_S
    while disk.syncs == 0:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    sync.stop()

    assert (ring.head, disk.syncs) == (0, 1)
    with pytest.raises(OSError, match="Input/output error"):
        sync.raise_error()


@pytest.mark.requirement("F45", "BP-01")
def test_the_ring_is_full_of_what_is_written_not_of_what_is_published(ring: RingWriter) -> None:
    while ring.room_bytes >= MIB // 8:
        ring.append(QUARANTINE, bytes(MIB // 8 - 40))
        ring.publish()

    assert ring.head == 0
    assert ring.room_bytes < MIB // 8
    ring.sync()
    assert ring.head > 3 * MIB


def test_a_close_publishes_what_the_thread_had_not(tmp_path: Path) -> None:
    ring = RingWriter(new_ring(tmp_path), syncs_first=True)
    seq = ring.append(QUARANTINE, b"last")
    ring.close()

    assert ring.synced == ring.head == 40
    assert [seq] == [seen.seq for seen in drain(GatingReader(ring.path, "writer"))]


@pytest.mark.requirement("DLP-01", "CH-PROC-01")
@pytest.mark.parametrize("syncs_first", [False, True])
def test_what_a_dead_producer_had_not_published_is_taken_over(tmp_path: Path, syncs_first: bool) -> None:
    path = new_ring(tmp_path)
    first = RingWriter(path, syncs_first=syncs_first)
    seqs = [first.append(QUARANTINE, bytes(50)) for _ in range(3)]
    first.publish()
    seqs += [first.append(QUARANTINE, bytes(50)) for _ in range(4)]
    del first

    successor = RingWriter(path, syncs_first=syncs_first)

    assert successor.adopted_records == (7 if syncs_first else 4)
    assert successor.last_seq == seqs[-1]
    assert seqs == [seen.seq for seen in drain(GatingReader(path, "writer"))]
