"""The simulator's own account of what it sent, fsynced at least every second: the oracle for loss and duplication.

FILE is CSV with a header line, fit for `COPY ... (FORMAT csv, HEADER)`; FILE.events.jsonl has the life of sessions and
registrations. A thread writes both, so that a slow disk never delays a send.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec

# session: the first one that got it; key: what tells the record from all others of its venue, symbol and kind.
# fate: sent; damaged (in a frame that says or holds something wrong); dropped (left out on purpose); unheard (traded
# while nobody was connected). Each record of the market has one line, however many sessions got it, however often.
HEADER = "session,kind,symbol,key,price,size,sent_ns,venue,market,exchange,fate"
FLUSH_INTERVAL_S = 0.5  # half of what is promised, so that a slow fsync still fits
MAX_PENDING_BYTES = 64 << 20  # about 20 s of 50,000 records a second; beyond it `is_behind` halts the offer


def events_path(journal: str | Path) -> Path:
    """Return where the events of the journal at *journal* are."""
    return Path(f"{journal}.events.jsonl")


class Journal:
    """Two append-only files behind one thread. `record_lines()` and `event()` never block and never do I/O."""

    def __init__(
        self,
        path: str | Path,
        *,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        fsync: Callable[[int], None] = os.fsync,
    ) -> None:
        self._path = Path(path)
        self._max_pending_bytes = max_pending_bytes
        self._fsync = fsync
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._events: list[bytes] = []
        self._pending_bytes = 0
        self._stopping = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._records_file: IO[bytes] | None = None
        self._events_file: IO[bytes] | None = None

    def open(self) -> None:
        """Create or continue the files and start the thread. OSError if they cannot be written."""
        self._records_file = self._path.open("ab", buffering=0)
        self._events_file = events_path(self._path).open("ab", buffering=0)
        if self._records_file.tell() == 0:
            self._lines.append(HEADER + "\n")
        self._thread.start()

    def record_lines(self, lines: str) -> None:
        """Append whole lines (each with its newline) of records that have been handed to a transport."""
        with self._lock:
            self._lines.append(lines)
            self._pending_bytes += len(lines)

    def event(self, **fields: Any) -> None:
        """Append one event as a line of JSON."""
        line = msgspec.json.encode(fields) + b"\n"
        with self._lock:
            self._events.append(line)

    @property
    def is_behind(self) -> bool:
        """Whether the disk is so late that nothing more may be sent. Raises OSError once writing has failed."""
        if self._error is not None:
            raise self._error
        return self._pending_bytes > self._max_pending_bytes

    def close(self) -> None:
        """Write and fsync everything, then close. OSError if that, or any earlier write, failed."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for file in (self._records_file, self._events_file):
            if file is not None:
                file.close()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while not self._stopping.wait(FLUSH_INTERVAL_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
            events, self._events = self._events, []
        if self._error is not None or not (lines or events):
            return
        try:
            # Records first: an event that closes a session then never stands before the session's records.
            if lines:
                self._append(self._records_file, "".join(lines).encode())
            if events:
                self._append(self._events_file, b"".join(events))
        except OSError as exc:
            self._error = exc
            return
        with self._lock:
            self._pending_bytes -= sum(map(len, lines))

    def _append(self, file: IO[bytes] | None, data: bytes) -> None:
        assert file is not None
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        self._fsync(file.fileno())
