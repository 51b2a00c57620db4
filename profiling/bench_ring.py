"""Question: how many records a second pass from one process to another through the ring?

    producer process --(reserve, fill, commit, publish)--> ring file --(fetch, next, commit)--> consumer process

Trade records of 120 bytes, with checksum and ledger, as in production: published once per 64 records, the consumer
checks every checksum and gives space back per 4,096 records. Both loops are native. Several runs; median and spread
are reported. The baseline is `multiprocessing.Queue` with tuples of the same fields, in the same run. Checks its own
answer: number of records, sum of their sequence numbers and of their volumes.

With --wal-sync it also asks what `ring.wal_sync` costs: each mode in turn, in the same run; records/s as above, and the
age in the ring of groups that arrive 2 ms apart, from append() until a consumer can read them. Give --directory on the
disk of production: a temporary directory in memory syncs in no time.

    python profiling/bench_ring.py [--json] [--records N] [--repeats N] [--capacity-mb N] [--wal-sync]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from daemon.ingest.ring_sync import sync_of
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter

ROOT = Path(__file__).resolve().parents[1]
TARGET_PER_S = 15_000_000
BATCH = 64  # records per publish: a network read of a busy socket
SYMBOLS = 200
RECV_NS = 1_763_596_801_123_456_789
QUEUE_RECORDS = 100_000
WalSync = Literal["off", "1s", "batch"]
WAL_SYNC_MODES: tuple[WalSync, ...] = ("off", "1s", "batch")
PACED_GROUPS = 1_000
PACE_S = 0.002


def native_loops() -> ModuleType:
    """Build `ring_loops.pyx` if needed (into build/profiling) and import it."""
    target = ROOT / "build" / "profiling"
    source = ROOT / "profiling" / "ring_loops.pyx"
    newest = max(path.stat().st_mtime for path in [source, *(ROOT / "native_pipeline").glob("*.pxd")])
    built = sorted(target.glob("ring_loops.*.so"))
    if not built or built[0].stat().st_mtime < newest:
        _build(source, target)
        built = sorted(target.glob("ring_loops.*.so"))
    spec = importlib.util.spec_from_file_location("ring_loops", built[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _build(source: Path, target: Path) -> None:
    script = f"""
from Cython.Build import cythonize
from setuptools import Extension, setup
extension = Extension("ring_loops", [{str(source)!r}], include_dirs=["native_pipeline"],
                      extra_compile_args=["-O3", "-std=gnu11"])
setup(name="ring_loops", packages=[], script_args=["-q", "build_ext", "--build-lib", {str(target)!r},
      "--build-temp", {str(target / "temp")!r}],
      ext_modules=cythonize([extension], build_dir={str(target)!r}, quiet=True, force=True,
                            compiler_directives={{"language_level": "3"}}))
"""
    target.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"cannot build {source}:\n{done.stderr}")


def produce(path: str, count: int, batch: int, wal_sync: WalSync) -> None:
    """Body of the producer process: waits for a line, produces, prints the seconds it took and the volumes' sum."""
    loops = native_loops()
    writer = RingWriter(path, syncs_first=wal_sync == "batch")
    sync = sync_of(writer, wal_sync)
    if sync is not None:
        sync.start()
    print("ready", flush=True)
    sys.stdin.readline()
    begin, cpu = time.monotonic_ns(), time.process_time_ns()
    total = loops.produce(writer, count, batch=batch, symbols=SYMBOLS, recv_ns=RECV_NS)
    print(json.dumps({"wall_ns": time.monotonic_ns() - begin, "cpu_ns": time.process_time_ns() - cpu, "sum": total}))
    if sync is not None:
        sync.stop()
        sync.raise_error()


def ring_run(directory: Path, count: int, capacity_mb: int, batch: int, wal_sync: str = "off") -> dict[str, float]:
    """One run through a fresh ring; returns records/s and CPU ns a record of both sides."""
    path = directory / f"bench-{time.monotonic_ns()}.ring"
    create_ring(path, ring=0, capacity_bytes=capacity_mb << 20, consumers=(("writer", GATING),))
    loops = native_loops()
    try:
        with subprocess.Popen(
            [
                sys.executable,
                __file__,
                "--produce",
                str(path),
                "--records",
                str(count),
                "--batch",
                str(batch),
                "--mode",
                wal_sync,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            reader = GatingReader(path, "writer")
            first = reader.first_seq
            begin, cpu = time.monotonic_ns(), time.process_time_ns()
            process.stdin.write("go\n")
            process.stdin.flush()
            seen, seqs, volumes = loops.consume(reader, count)
            wall, cpu = time.monotonic_ns() - begin, time.process_time_ns() - cpu
            produced = json.loads(process.stdout.readline())
        expected = (count, sum(range(first, first + count)) % 2**64, produced["sum"])
        if expected != (seen, seqs, volumes) or reader.corrupt_records or reader.lapped_records:
            sys.exit(f"wrong answer: expected {expected}, found {(seen, seqs, volumes)}")
        return {
            "records_per_s": count * 1e9 / wall,
            "producer_ns": produced["cpu_ns"] / count,
            "consumer_ns": cpu / count,
        }
    finally:
        path.unlink()


def age_run(directory: Path, wal_sync: WalSync) -> dict[str, float]:
    """Age in the ring, in us, of groups at a steady pace; the consumer looks without pause."""
    path = directory / f"age-{time.monotonic_ns()}.ring"
    create_ring(path, ring=0, capacity_bytes=16 << 20, consumers=(("writer", GATING),))
    writer, ages = RingWriter(path, syncs_first=wal_sync == "batch"), []
    reader, sync = GatingReader(path, "writer"), sync_of(writer, wal_sync)
    if sync is not None:
        sync.start()
    due, begin = time.perf_counter(), 0.0
    for _ in range(PACED_GROUPS):
        due += PACE_S
        while (begin := time.perf_counter()) < due:
            time.sleep(0)
        for _ in range(8):
            writer.append(1, bytes(88))
        writer.publish()
        while not reader.fetch_bytes():
            time.sleep(0)
        ages.append(time.perf_counter() - begin)
        while reader.next_bytes() is not None:
            pass
        reader.commit()
    if sync is not None:
        sync.stop()
        sync.raise_error()
    writer.close()
    path.unlink()
    cuts = statistics.quantiles(ages, n=100)
    return {"p50_us": round(cuts[49] * 1e6, 1), "p99_us": round(cuts[98] * 1e6, 1), "max_us": round(max(ages) * 1e6, 1)}


def wal_sync_runs(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Every mode in turn, as often as asked, so that a slow minute of the disk hits all of them."""
    rates: dict[str, list[float]] = {mode: [] for mode in WAL_SYNC_MODES}
    for _ in range(options.repeats):
        for mode in WAL_SYNC_MODES:
            run = ring_run(directory, options.records, options.capacity_mb, options.batch, mode)
            rates[mode].append(run["records_per_s"])
    baseline = statistics.median(rates["off"])
    return {
        mode: {
            "records_per_s": round(statistics.median(rates[mode])),
            "ratio_to_off": round(statistics.median(rates[mode]) / baseline, 3),
            "age": age_run(directory, mode),
        }
        for mode in WAL_SYNC_MODES
    }


def _queue_consumer(queue: Any, count: int, result: Any) -> None:
    total = 0
    for _ in range(count):
        total += queue.get()[0]
    result.put(total)


def queue_run(count: int) -> float:
    """Records/s through multiprocessing.Queue."""
    context = multiprocessing.get_context("spawn")
    queue, result = context.Queue(maxsize=10_000), context.Queue()
    process = context.Process(target=_queue_consumer, args=(queue, count, result))
    process.start()
    begin = time.monotonic_ns()
    for number in range(count):
        queue.put((number, "005930", RECV_NS, 71_000.0, 10, number, 71_100.0, 71_000.0, 0.12, "buy"))
    total = result.get()
    elapsed = time.monotonic_ns() - begin
    process.join()
    if total != count * (count - 1) // 2:
        sys.exit(f"wrong answer from the queue: {total}")
    return count * 1e9 / elapsed


def main() -> None:
    """Measure, check, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print only the JSON object")
    parser.add_argument("--records", type=int, default=20_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--capacity-mb", type=int, default=256, help="as in production")
    parser.add_argument("--batch", type=int, default=BATCH, help="records per publish")
    parser.add_argument("--directory", type=Path, help="where the ring file lies (default: the temporary directory)")
    parser.add_argument("--wal-sync", action="store_true", help="compare the modes of ring.wal_sync too")
    parser.add_argument("--produce", help=argparse.SUPPRESS)
    parser.add_argument("--mode", default="off", choices=WAL_SYNC_MODES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.produce:
        produce(options.produce, options.records, options.batch, options.mode)
        return
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        runs = [
            ring_run(Path(directory), options.records, options.capacity_mb, options.batch)
            for _ in range(options.repeats + 1)
        ][1:]  # the first warms up
        modes = wal_sync_runs(Path(directory), options) if options.wal_sync else None
    rates = [run["records_per_s"] for run in runs]
    baseline = queue_run(QUEUE_RECORDS)
    result = {
        "bench": "ring",
        "question": "records per second between two processes through the ring",
        "machine": {"cpu": platform.processor() or platform.machine(), "cpus": os.cpu_count()},
        "records": options.records,
        "record_bytes": 120,
        "batch": options.batch,
        "capacity_mb": options.capacity_mb,
        "records_per_s": {
            "median": round(statistics.median(rates)),
            "min": round(min(rates)),
            "max": round(max(rates)),
        },
        "producer_cpu_ns": round(statistics.median(run["producer_ns"] for run in runs), 1),
        "consumer_cpu_ns": round(statistics.median(run["consumer_ns"] for run in runs), 1),
        "queue_records_per_s": round(baseline),
        "ratio_to_queue": round(statistics.median(rates) / baseline, 1),
        "target_records_per_s": TARGET_PER_S,
        "reached": statistics.median(rates) >= TARGET_PER_S,
    }
    if modes is not None:
        result["wal_sync"] = modes
    if not options.json:
        print(f"ring: {statistics.median(rates) / 1e6:.1f} M records/s, multiprocessing.Queue {baseline / 1e3:.0f} k/s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
