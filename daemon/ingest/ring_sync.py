"""A thread that writes the ring to the disk: each second, or before anything is published (group commit)."""

from __future__ import annotations

import threading
from typing import Literal, Protocol

from daemon.failpoints import reach

# The interval that `wal_sync = "1s"` names.
INTERVAL_S = 1.0
# With `wal_sync = "batch"`: how long the thread sleeps at most when nothing arrives.
IDLE_WAIT_S = 1.0


class Syncable(Protocol):
    """What is written to the disk: `RingWriter`."""

    def sync(self) -> int:
        """Write everything that is complete; return that position. Raises OSError."""

    def wait_written(self, timeout_s: float, /) -> bool:
        """Wait until there is something for sync(), at most that long. Never blocks who writes."""

    def wake_sync(self) -> None:
        """End a wait_written()."""


def sync_of(ring: Syncable, mode: Literal["off", "1s", "batch"]) -> RingSync | None:
    """Return what `ring.wal_sync` asks for; None: the kernel decides when pages reach the disk."""
    return None if mode == "off" else RingSync(ring, interval_s=INTERVAL_S if mode == "1s" else None)


class RingSync:
    """Syncs until stopped. A sync that fails is never repeated as if nothing was: the pages may be gone.

    interval_s: between two syncs. None: as soon as there is something; what arrives during a sync goes into the next
    one together, so that a slow disk makes larger groups and no queue.
    """

    def __init__(self, ring: Syncable, *, interval_s: float | None = INTERVAL_S) -> None:
        self._ring = ring
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def raise_error(self) -> None:
        """Raise what a sync failed with, if one did: to be called from the owner's own loop."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the thread behind one last sync; does not raise."""
        self._stop.set()
        self._ring.wake_sync()
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._wait()
            try:
                reach("ring.before_sync")
                self._ring.sync()
            except OSError as exc:
                self._error = exc
                return

    def _wait(self) -> bool:
        """Wait until the next sync is due; True if it is the last one."""
        if self._interval_s is not None:
            return self._stop.wait(self._interval_s)
        while not self._ring.wait_written(IDLE_WAIT_S) and not self._stop.is_set():
            pass
        return self._stop.is_set()
