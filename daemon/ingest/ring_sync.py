"""A thread that writes the ring to the disk every second, so that a power loss costs one second at most."""

from __future__ import annotations

import threading
from typing import Protocol

# The interval that `wal_sync = "1s"` names.
INTERVAL_S = 1.0


class Syncable(Protocol):
    """What is written to the disk: `RingWriter`."""

    def sync(self) -> int:
        """Write everything published so far; return that position. Raises OSError."""


class RingSync:
    """Syncs until stopped. A sync that fails is never repeated as if nothing was: the pages may be gone."""

    def __init__(self, ring: Syncable, *, interval_s: float = INTERVAL_S) -> None:
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
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stop.wait(self._interval_s)
            try:
                self._ring.sync()
            except OSError as exc:
                self._error = exc
                return
