"""How much CPU does the KIS parser need per record, the append to the ring with its checksum included?

Topology: one process; frames in memory -> KisParser.parse_many -> ring file without consumers. No socket. Input:
seeded frames of one record each, all different, so that the branch predictor cannot learn them; and of five trades.
Before the clock starts every frame's records are compared with those of the Python twin, which is also the baseline,
measured in the same run. CPU time of the process (system time included), warm-up first, median and spread of repeats.

    python profiling/bench_parse.py [--json] [--frames 4096] [--repeats 15]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from native_pipeline.parse_kis import KisParser
from native_pipeline.records import read_records
from native_pipeline.ring import GATING, GatingReader, RingWriter, create_ring
from tests.reference import kis as twin

LIMITS_NS = {"H0STCNT0": 200, "H0STASP0": 600}
RING_BYTES = 16 << 20
FRAMES_PER_READ = 16  # published together, as after one network read
RECORDS_PER_REPEAT = 200_000
TWIN_FRAMES = 500
RECV_NS = 1_795_143_600 * 10**9  # 2026-11-20 12:00 KST
SYMBOLS = 200
VENUE = MARKET = 1
SAMPLES = Path(__file__).parents[1] / "tests" / "frames" / "kis" / "data"


def template(name: str) -> list[str]:
    return (SAMPLES / name).read_text(encoding="ascii").split("|")[3].split("^")


def trade_fields(rng: random.Random) -> list[str]:
    fields = template("H0STCNT0_single.txt")
    price = rng.choice(
        (rng.randrange(900, 9_999), rng.randrange(10_000, 99_950, 50), rng.randrange(100_000, 990_000, 500))
    )
    change = rng.randrange(-3000, 3001) / 100
    values = {
        0: f"{5930 * rng.randrange(1, SYMBOLS + 1) % 1_000_000:06}",
        1: f"{rng.randrange(9, 16):02}{rng.randrange(60):02}{rng.randrange(60):02}",
        2: price, 5: f"{change:.2f}", 10: price + 50, 11: price, 12: int(rng.paretovariate(0.7)),
        13: rng.randrange(1_000, 40_000_000), 14: rng.randrange(10**9, 10**12), 21: rng.choice("15"),
    }  # fmt: skip
    for position, value in values.items():
        fields[position] = str(value)
    return fields


def book_fields(rng: random.Random) -> list[str]:
    fields = template("H0STASP0_single.txt")
    price, tick = rng.choice(((rng.randrange(900, 9_999), 5), (rng.randrange(10_000, 99_950, 50), 50)))
    fields[0] = f"{5930 * rng.randrange(1, SYMBOLS + 1) % 1_000_000:06}"
    for level in range(10):
        fields[3 + level] = str(price + tick * (level + 1))
        fields[13 + level] = str(price - tick * level)
        fields[23 + level] = str(int(50 * rng.paretovariate(0.9)))
        fields[33 + level] = str(int(50 * rng.paretovariate(0.9)))
    return fields


def make_frames(tr: str, records: int, frames: int) -> list[bytes]:
    rng = random.Random(20261120)
    make = trade_fields if tr == "H0STCNT0" else book_fields
    return [
        f"0|{tr}|{records:03}|{'^'.join('^'.join(make(rng)) for _ in range(records))}".encode() for _ in range(frames)
    ]


def check_answer(frames: list[bytes], directory: Path) -> str | None:
    """Return what is wrong with the native records of *frames*, None if they are those of the twin."""
    path = directory / "check.ring"
    create_ring(path, ring=0, capacity_bytes=RING_BYTES, consumers=(("bench", GATING),))
    ring, reader = RingWriter(path), GatingReader(path, "bench")
    parser = KisParser(venue=VENUE, market=MARKET)
    for frame in frames:
        parser.parse_many(ring, [frame], RECV_NS)
        found = read_records(reader, 1000)
        reader.commit()
        expected = twin.parse_frame(frame, RECV_NS, venue=VENUE, market=MARKET) or []
        if [{key: value for key, value in record.items() if key != "seq"} for record in found] != expected:
            return f"native and reference differ for {frame!r}"
    ring.close()
    path.unlink()
    return None if parser.quarantined == 0 else f"{parser.quarantined} records were quarantined"


def native_ns(frames: list[bytes], records: int, repeats: int, directory: Path) -> list[float]:
    """Return CPU ns per record of each repeat, after one that is not counted."""
    path = directory / "bench.ring"
    create_ring(path, ring=0, capacity_bytes=RING_BYTES, consumers=())
    ring, parser = RingWriter(path), KisParser(venue=VENUE, market=MARKET)
    parser.keeps_all = True
    reads = [frames[at : at + FRAMES_PER_READ] for at in range(0, len(frames), FRAMES_PER_READ)]
    rounds = max(1, RECORDS_PER_REPEAT // (len(frames) * records))
    measured = []
    for _ in range(repeats + 1):
        started = time.process_time_ns()
        for _ in range(rounds):
            for read in reads:
                parser.parse_many(ring, read, RECV_NS)
        measured.append((time.process_time_ns() - started) / (rounds * len(frames) * records))
    ring.close()
    path.unlink()
    if parser.records != (repeats + 1) * rounds * len(frames) * records:
        raise SystemExit(f"{parser.records} records instead of {(repeats + 1) * rounds * len(frames) * records}")
    return measured[1:]


def twin_ns(frames: list[bytes], records: int) -> float:
    sample = frames[:TWIN_FRAMES]
    started = time.process_time_ns()
    for frame in sample:
        twin.parse_frame(frame, RECV_NS, venue=VENUE, market=MARKET)
    return (time.process_time_ns() - started) / (len(sample) * records)


def bench(tr: str, records: int, options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    frames = make_frames(tr, records, max(FRAMES_PER_READ, options.frames // records))
    if (problem := check_answer(frames, directory)) is not None:
        return {"tr": tr, "problem": problem}
    native = native_ns(frames, records, options.repeats, directory)
    median, baseline = statistics.median(native), twin_ns(frames, records)
    return {
        "tr": tr,
        "records_per_frame": records,
        "bytes_per_record": round(sum(map(len, frames)) / (len(frames) * records)),
        "ns_per_record": round(median, 1),
        "ns_min": round(min(native), 1),
        "ns_max": round(max(native), 1),
        "python_twin_ns_per_record": round(baseline),
        "ratio": round(baseline / median, 1),
        "limit_ns": LIMITS_NS[tr],
        "within_limit": median <= LIMITS_NS[tr],
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true", help="print only the JSON object")
    arguments.add_argument("--frames", type=int, default=4096, help="different frames per case")
    arguments.add_argument("--repeats", type=int, default=15)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="sise-bench-") as name:
        cases = [bench(tr, records, options, Path(name)) for tr, records in
                 (("H0STCNT0", 1), ("H0STCNT0", 5), ("H0STASP0", 1))]  # fmt: skip
    result = {
        "benchmark": "parse", "machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(),
        "python": platform.python_version(), "repeats": options.repeats, "cases": cases,
    }  # fmt: skip
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 1 if any("problem" in case for case in cases) else 0


if __name__ == "__main__":
    sys.exit(main())
