"""What does one look of the reconciliation cost the database: a minute compared in full, and one read by its digest?

Topology: an embedded PostgreSQL with the settings of the demo, one connection, nothing else. Input: whole minutes of
trades and order books in equal parts, 200 symbols, with their ledger rows. Measured: processor time of the server and
of this process, and elapsed time; median and spread of repeats. The answer is checked: no minute differs.

    python profiling/bench_reconcile.py [--json] [--rows 3000000] [--minutes 2] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))

from daemon.embedded import EmbeddedPostgres
from daemon.sinks import schema
from daemon.sinks.count_queries import read_checkpoints, read_counts
from daemon.sinks.counts import time_of
from daemon.sinks.counts_digests import read_changes, read_digests

EPOCH = 1_000_000
SYMBOLS = 200
NEVER = 1 << 40
SIDES = [f"{side}_{what}{level}" for side in ("ask", "bid") for level in range(1, 11) for what in ("price", "vol")]
MOMENTS = """
FROM (
    SELECT i, to_timestamp(%(start)s + i * 60.0 / %(rows)s) AS moment FROM generate_series(0, %(rows)s - 1) AS i
) AS numbered"""
SYMBOL = f"lpad(((i::int8 * 7919) %% {SYMBOLS})::text, 6, '0')"
TICKS = f"""
INSERT INTO market_ticks (time, symbol, price, volume, market, venue, recv_time, flags, source, seq)
SELECT moment, {SYMBOL}, 70000 + i %% 97, 1 + i %% 50, 'kr', 'kis', moment, 0, 0, %(seq)s + 2 * i {MOMENTS}"""
BOOKS = f"""
INSERT INTO market_orderbook (time, symbol, {", ".join(SIDES)}, market, venue, recv_time, flags, source, seq)
SELECT moment, {SYMBOL}, {", ".join(f"70000 + (i + {n}) %% 97" for n in range(len(SIDES)))}, 'kr', 'kis', moment, 0, 0,
    %(seq)s + 2 * i + 1 {MOMENTS}"""
LEDGER = f"""
INSERT INTO ingest_ledger (minute, market, venue, symbol, kind, received, through_seq, source, seq)
SELECT to_timestamp(%(start)s), 'kr', 'kis', lpad(n::text, 6, '0'), kind, %(rows)s / {SYMBOLS},
    %(seq)s + 2 * %(rows)s - 1, 0, %(seq)s + 2 * %(rows)s - 1
FROM generate_series(0, {SYMBOLS} - 1) AS n, unnest(ARRAY['trade', 'orderbook']) AS kind"""

Connection = psycopg.Connection[tuple[Any, ...]]


def fill(connection: Connection, first: int, minutes: int, rows: int) -> None:
    connection.execute("SET synchronous_commit = off")
    connection.execute("INSERT INTO ingest_cursor (ring, epoch, seq) VALUES (0, %s, %s)", [EPOCH, EPOCH])
    for number in range(minutes):
        values = {"start": (first + number) * 60, "rows": rows // 2, "seq": EPOCH + number * rows}
        for query in (TICKS, BOOKS, LEDGER):
            connection.execute(query.encode(), values)
    for table in ("market_ticks", "market_orderbook", "ingest_ledger"):
        connection.execute(f"VACUUM ANALYZE {table}".encode())


def cpu_s(pid: int) -> float:
    """Processor time of a process, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(name: str, server: int, action: Callable[[], object], repeats: int) -> dict[str, Any]:
    found = []
    for _ in range(repeats):
        before, own, started = cpu_s(server), time.process_time(), time.perf_counter()
        action()
        found.append((cpu_s(server) - before, time.process_time() - own, time.perf_counter() - started))
    database, own_s, elapsed = zip(*found, strict=True)
    return {
        "case": name, "database_cpu_s": round(statistics.median(database), 3), "min": round(min(database), 3),
        "max": round(max(database), 3), "own_cpu_s": round(statistics.median(own_s), 3),
        "elapsed_s": round(statistics.median(elapsed), 3),
    }  # fmt: skip


def compare(connection: Connection, minute: int) -> None:
    with connection.transaction():
        counts = read_counts(connection, read_checkpoints(connection, time_of(minute)), minute, minute + 1)
    if dict(counts.stored) != counts.received or counts.duplicated:
        raise SystemExit("the minute differs")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true", help="print only the JSON object, on one line")
    arguments.add_argument("--rows", type=int, default=3_000_000, help="of a minute, both tables together")
    arguments.add_argument("--minutes", type=int, default=2)
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    rows = options.rows // (2 * SYMBOLS) * 2 * SYMBOLS
    with tempfile.TemporaryDirectory(prefix="sise-bench-") as name, EmbeddedPostgres(Path(name) / "pg") as server:
        schema.migrate(server.dsn)
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            minute = int(time.time() // 60) - options.minutes - 5
            fill(connection, minute, options.minutes, rows)
            backend = connection.info.backend_pid
            cases = [
                measured("compare", backend, lambda: compare(connection, minute), options.repeats),
                measured(
                    "digest", backend,
                    lambda: read_digests(connection, None, minute, minute + 1, published_from=NEVER), options.repeats,
                ),
                measured(
                    "digest_30_empty_minutes", backend,
                    lambda: read_digests(connection, None, minute - 60, minute - 30, published_from=NEVER),
                    options.repeats,
                ),
                measured("changes", backend, lambda: read_changes(connection), options.repeats),
            ]  # fmt: skip
    result = {"benchmark": "reconcile", "cpus": os.cpu_count(), "rows_per_minute": rows, "cases": cases}
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
