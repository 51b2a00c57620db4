"""How fast are records spilled, and how fast are they stored afterwards, against storing them at once?

Three runs over rings with the same trades: ring -> writer -> PostgreSQL (the COPY rate); ring -> spill files, synced;
those files -> PostgreSQL through the recovery. Rows are counted in SQL after both. Ratios are taken in one repeat.

    python profiling/bench_spill.py [--rows 300000] [--repeats 3]
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from daemon.config import Database as DatabaseSettings
from daemon.embedded import EmbeddedPostgres
from daemon.sinks import schema
from daemon.sinks.database import Database
from daemon.sinks.isolation import new_batch
from daemon.sinks.recovery import Registrar, Replayer
from daemon.sinks.spill import SpillDirectory
from daemon.sinks.spiller import Spiller
from native_pipeline.counters import CountersBlock, create_counters_file
from native_pipeline.ring_reader import GatingReader
from profiling.bench_copy import TRADE, check, fill, run_writer

SEGMENT_BYTES = 16 << 20


def spill(ring: Path, directory: SpillDirectory) -> float:
    """Move a whole ring into files; return the seconds."""
    reader = GatingReader(ring, "writer")
    cursors = {(reader.ring, reader.epoch): reader.first_seq - 1}
    spiller = Spiller([reader], segment_bytes=SEGMENT_BYTES)
    start = time.perf_counter()
    while reader.lag_bytes:
        taken = spiller.take(cursors)
        directory.append(taken.ranges, taken.raw)
        cursors.update(taken.reached)
        reader.commit()
    seconds = time.perf_counter() - start
    reader.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="sise-bench-spill-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        create_counters_file(str(directory / "counters"), 1)
        counters = CountersBlock(str(directory / "counters"), 0)
        counters.take("writer")
        with EmbeddedPostgres(directory / "pg") as server:
            schema.migrate(server.dsn)
            for repeat in range(options.repeats):
                runs.append(_measure(directory, server.dsn, counters, options.rows, repeat))
    result: dict[str, Any] = {
        "bench": "spill",
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "rows": options.rows,
        **{key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]},
    }
    print(json.dumps(result, indent=2))


def _measure(directory: Path, dsn: str, counters: CountersBlock, rows: int, repeat: int) -> dict[str, float]:
    live, away = directory / f"live-{repeat}.ring", directory / f"away-{repeat}.ring"
    total = fill(live, TRADE, rows)
    start = time.perf_counter()
    run_writer(live, dsn, counters)
    copy_s = time.perf_counter() - start
    check(dsn, "market_ticks", rows, total)

    fill(away, TRADE, rows)
    files = SpillDirectory(directory / f"spill-{repeat}", quota_bytes=0, min_free_bytes=0)
    spill_s = spill(away, files)
    size_bytes = files.size()[1]
    database = Database(DatabaseSettings(dsn=dsn))
    start = time.perf_counter()
    Registrar(directory=files, database=database, counters=counters, first={}).bring_up_to_date()
    Replayer(directory=files, database=database, batch=new_batch(), counters=counters).replay()
    drain_s = time.perf_counter() - start
    database.close()
    check(dsn, "market_ticks", rows, total)
    live.unlink()
    away.unlink()
    return {
        "copy_rows_per_s": rows / copy_s,
        "spill_rows_per_s": rows / spill_s,
        "drain_rows_per_s": rows / drain_s,
        "spill_over_copy": copy_s / spill_s,
        "drain_over_copy": copy_s / drain_s,
        "file_bytes_per_row": size_bytes / rows,
    }


if __name__ == "__main__":
    main()
