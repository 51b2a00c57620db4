"""The sync thread: regular, last, and honest about failure."""

import threading

import pytest

from daemon.ingest.ring_sync import RingSync


class Disk:
    """Counts syncs; fails when told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.syncs = 0
        self.synced_twice = threading.Event()

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
