"""The writer as a process, to be killed: `python writer_child.py DSN RING COUNTERS BATCH_ROWS INTERVAL_MS`."""

import signal
import sys
import time
from pathlib import Path

from daemon.config import Database, Spill
from daemon.sinks import writer_process
from daemon.sinks.host import Host
from daemon.sinks.spill import DIRECTORY
from native_pipeline.counters import CountersBlock


def main() -> int:
    """Run until SIGTERM; exit code 0 if the ring was drained."""
    dsn, ring, counters_path, batch_rows, interval_ms = sys.argv[1:]
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    counters = CountersBlock(counters_path, 0)
    counters.take("writer")
    host = Host(
        wait=lambda seconds: time.sleep(min(seconds, 0.01)),
        beat=counters.heartbeat,
        stopping=lambda: bool(stopping),
        drain_s=30.0,
    )
    settings = Database(
        dsn=dsn,
        batch_rows=int(batch_rows),
        flush_interval_ms=int(interval_ms),
        retry_delays_s=(0.05, 0.1, 0.2),
        retention_days=0,
    )
    spill = Spill(min_free_mb=0, interval_s=0.05, probe_s=0.05)
    spill_directory = Path(ring).parent / DIRECTORY
    is_drained = writer_process.run(
        settings, Path(ring).parent, counters, host, on_ready=lambda: None, spill_directory=spill_directory, spill=spill
    )
    return 0 if is_drained else 1


if __name__ == "__main__":
    sys.exit(main())
