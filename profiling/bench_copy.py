"""How close does the writer come to `psql \\copy` of a ready-made binary file into the same table on the same server?

Topology: ring file -> Writer (reads, encodes, COPY, cursor, commit; batches of 20,000 rows) -> PostgreSQL with
durability on; baseline: psql with a file that holds the same rows, one transaction. Both start with an empty table
and include their own connection. They alternate, A B A B, because the machine is shared; the ratio is taken pair by
pair. After each run the rows are counted and their volumes summed in SQL. Server CPU is that of all its processes.

    python profiling/bench_copy.py [--json] [--rows 300000] [--repeats 5]
"""

import argparse
import json
import os
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))

from daemon.config import Database as DatabaseSettings
from daemon.embedded import EmbeddedPostgres
from daemon.sinks import schema
from daemon.sinks.host import Host
from daemon.sinks.isolation import new_batch
from daemon.sinks.writer_process import run
from native_pipeline.counters import CountersBlock, create_counters_file
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter

TRADE, BOOK = 1, 2
TABLES = {TRADE: "market_ticks", BOOK: "market_orderbook"}
SYMBOLS = [f"{5930 + 10 * i:06d}".encode() for i in range(200)]
RING_BYTES = 256 << 20
LIMIT = 0.8


def fill(path: Path, kind: int, rows: int) -> int:
    """Put *rows* records of *kind* into a new ring; return the sum of their (first) sizes."""
    create_ring(path, ring=0, capacity_bytes=RING_BYTES, consumers=(("writer", GATING), ("baseline", GATING)))
    ring = RingWriter(path)
    now_ns = time.time_ns()
    total = 0
    for i in range(rows):
        exchange_ns = now_ns // 10**9 * 10**9
        size = i % 997 + 1
        total += size
        if kind == TRADE:
            body = struct.pack(
                "<24sq6q8B", SYMBOLS[i % 200], exchange_ns, 71_200 + i % 50 * 100, size, i + 1, 71_300, 71_200, 42,
                0, 0, 0, 0, 0, 2, 1 + i % 2, 0,
            )  # fmt: skip
        else:
            levels = [71_200 + 100 * n for n in range(10)], [size] + [10 * n for n in range(1, 10)]
            body = struct.pack(
                "<24sq40q40B", SYMBOLS[i % 200], exchange_ns, *levels[0], *levels[1], *levels[0], *levels[1], *[0] * 40
            )
        ring.append(kind, body, venue=1, market=1, recv_ns=now_ns + i, utc_offset_min=540)
    ring.publish()
    ring.close()
    return total


def server_cpu_s(server: EmbeddedPostgres) -> float:
    """CPU seconds of the postmaster and its living and ended children."""
    postmaster = psutil.Process(server.pid)
    while postmaster.name() != "postgres":  # a launcher may stand before it
        (postmaster,) = postmaster.children()
    processes = [postmaster, *postmaster.children(recursive=True)]
    own = sum(sum(p.cpu_times()[:2]) for p in processes)
    return own + sum(postmaster.cpu_times()[2:4])


def make_file(ring: Path, table: str, rows: int, path: Path) -> None:
    """The same rows as one binary COPY file."""
    reader = GatingReader(ring, "baseline")
    batch = new_batch()
    while batch.records < rows:
        assert batch.append_from(reader, rows - batch.records)
    with path.open("wb") as file, batch.block(table) as block:
        file.write(block)
    reader.close()


def run_writer(ring: Path, dsn: str, counters: CountersBlock) -> float:
    """Drain the ring; return the CPU seconds it took."""
    settings = DatabaseSettings(dsn=dsn)
    host = Host(wait=lambda _s: None, beat=lambda: None, stopping=lambda: True, drain_s=600.0)
    before = time.process_time()
    assert run(
        settings, ring.parent, counters, host, on_ready=lambda: None, spill_directory=ring.parent / "failed_batches"
    )
    return time.process_time() - before


def check(dsn: str, table: str, rows: int, total: int) -> None:
    size = "volume" if table == "market_ticks" else "ask_vol1"
    with psycopg.connect(dsn) as connection:
        assert connection.execute(f"SELECT count(*), sum({size}) FROM {table}").fetchone() == (rows, total)
        connection.execute(f"TRUNCATE {table}, ingest_cursor")
        connection.commit()
        connection.autocommit = True
        connection.execute("CHECKPOINT")


def measure(kind: int, rows: int, repeats: int, directory: Path) -> dict[str, Any]:
    table = TABLES[kind]
    copy_file = directory / f"{table}.bin"
    pairs = []
    with EmbeddedPostgres(directory / f"pg-{table}") as server:
        schema.migrate(server.dsn)
        create_counters_file(str(directory / "counters"), 1)
        counters = CountersBlock(str(directory / "counters"), 0)
        counters.take("writer")
        for repeat in range(repeats + 1):  # the first pair warms up
            ring = directory / "worker-0.ring"
            total = fill(ring, kind, rows)
            make_file(ring, table, rows, copy_file)

            start, cpu_before = time.perf_counter(), server_cpu_s(server)
            writer_cpu_s = run_writer(ring, server.dsn, counters)
            writer_s, writer_server_cpu_s = time.perf_counter() - start, server_cpu_s(server) - cpu_before
            check(server.dsn, table, rows, total)

            start = time.perf_counter()
            copy = f"\\copy {table} from '{copy_file}' (format binary)"
            subprocess.run([server.binaries / "psql", "-q", "-d", server.dsn, "-c", copy], check=True)
            psql_s = time.perf_counter() - start
            check(server.dsn, table, rows, total)
            ring.unlink()
            if repeat:
                pairs.append((writer_s, psql_s, writer_cpu_s, writer_server_cpu_s))
    ratios = [psql / writer for writer, psql, _, _ in pairs]
    return {
        "rows": rows,
        "writer_rows_per_s": round(rows / statistics.median(p[0] for p in pairs)),
        "psql_copy_rows_per_s": round(rows / statistics.median(p[1] for p in pairs)),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min_max": [round(min(ratios), 3), round(max(ratios), 3)],
        "writer_cpu_us_per_row": round(1e6 * statistics.median(p[2] for p in pairs) / rows, 3),
        "server_cpu_us_per_row": round(1e6 * statistics.median(p[3] for p in pairs) / rows, 3),
        "within_limit": statistics.median(ratios) >= LIMIT
        and statistics.median(p[2] for p in pairs) < statistics.median(p[3] for p in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sise-bench-copy-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        result = {
            "bench": "copy",
            "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
            "limit_ratio": LIMIT,
            "market_ticks": measure(TRADE, options.rows, options.repeats, directory),
            "market_orderbook": measure(BOOK, options.rows // 3, options.repeats, directory),
        }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
