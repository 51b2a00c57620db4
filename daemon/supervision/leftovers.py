"""What the rings and the spill files hold that the database does not have yet, read from themselves.

For the end of the daemon, when nobody else reads them: right also if the writer was killed or never ran.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from daemon import log
from daemon.errors import RingError
from daemon.rings import ring_paths
from native_pipeline.ring_file import RingFile
from native_pipeline.ring_reader import GatingReader

WRITER = "writer"
SPILL_DIR = "failed_batches"
SPILL_PATTERN = "batch_*.spill"
RECORDS_BETWEEN_LOOKS = 4096  # at the clock; a record takes 0.1 us


class Leftovers(NamedTuple):
    """Published in the rings, not committed; records of every kind, ledger rows and gaps too."""

    records: int
    size_bytes: int


def count(data_dir: Path, *, patience_s: float, clock_s: Callable[[], float] = time.monotonic) -> Leftovers:
    """Count over all rings of *data_dir*. Bytes are exact; records beyond *patience_s* are extrapolated from them."""
    deadline_s = clock_s() + patience_s
    records = counted_bytes = size_bytes = 0
    for path in ring_paths(data_dir):
        try:
            lag_bytes = _lag_bytes(path)
            size_bytes += lag_bytes
            more_records, more_bytes = _count_records(path, deadline_s, clock_s) if lag_bytes else (0, 0)
        except (RingError, OSError) as exc:
            log.get().warning("ring_not_readable", path=str(path), error=str(exc))
            continue
        records += more_records
        counted_bytes += more_bytes
    if counted_bytes < size_bytes and counted_bytes:
        records = round(records * size_bytes / counted_bytes)
    return Leftovers(records, size_bytes)


def count_spilled(data_dir: Path) -> int:
    """Count the spill files that wait for the database."""
    return sum(1 for _ in (data_dir / SPILL_DIR).glob(SPILL_PATTERN))


def _lag_bytes(path: Path) -> int:
    ring = RingFile(path)
    writer = ring.consumers().get(WRITER)
    return 0 if writer is None else max(0, ring.head - writer["position"])


def _count_records(path: Path, deadline_s: float, clock_s: Callable[[], float]) -> tuple[int, int]:
    """Read behind the writer's position, commit nothing; return (records, bytes) as far as time allowed."""
    reader = GatingReader(path, WRITER)
    try:
        began, records = reader.position_bytes, 0
        reader.fetch_bytes()
        while reader.next_bytes() is not None:
            records += 1
            if records % RECORDS_BETWEEN_LOOKS == 0 and clock_s() >= deadline_s:
                break
        return records, reader.position_bytes - began
    finally:
        reader.close()
