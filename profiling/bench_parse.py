"""How much CPU do the parsers need per record, the append to the ring with its checksum included?

Topology: one process; frames in memory -> parse_many() -> ring file without consumers. No socket. Input:
seeded frames of one record each, all different, so that the branch predictor cannot learn them; and of five trades.
The same frames are parsed over and over, so the parser is told to keep all: what telling a repeated trade from a new
one costs is in bench_hot_path.
Before the clock starts every frame's records are compared with those of the Python twin, which is also the baseline,
measured in the same run. CPU time of the process (system time included), warm-up first, median and spread of repeats.

    python profiling/bench_parse.py [--json] [--frames 4096] [--repeats 15]
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from native_pipeline.frame_parser import FrameParser
from native_pipeline.parse_kis import KisParser
from native_pipeline.parse_kiwoom import KiwoomParser
from native_pipeline.parse_upbit import UpbitParser
from native_pipeline.records import read_records
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference import kis as twin
from tests.reference import kiwoom as kiwoom_twin
from tests.reference import upbit as upbit_twin

# trades and events, and books
LIMITS_NS = {"H0STCNT0": 200, "H0STASP0": 600, "HDFSCNT0": 250, "HDFSASP0": 700, "H0IFASP0": 700, "H0STANC0": 250}
CASES = (("H0STCNT0", 1), ("H0STCNT0", 5), ("H0STASP0", 1), ("HDFSCNT0", 1), ("HDFSASP0", 1), ("H0IFASP0", 1),
         ("H0STANC0", 1))  # fmt: skip
RING_BYTES = 16 << 20
FRAMES_PER_READ = 16  # published together, as after one network read
RECORDS_PER_REPEAT = 200_000
TWIN_FRAMES = 500
RECV_NS = 1_795_143_600 * 10**9  # 2026-11-20 12:00 KST
SYMBOLS = 200
VENUE = 1
US_TICKERS = ("A", "GE", "SPY", "AAPL", "MSFT", "GOOGL", "BRK/B")
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


def us_price(rng: random.Random) -> float:
    return rng.choice((rng.uniform(1, 10), rng.uniform(10, 1_000), rng.uniform(1_000, 6_000)))


def us_trade_fields(rng: random.Random) -> list[str]:
    fields = template("HDFSCNT0_single.txt")
    ticker, price, second = rng.choice(US_TICKERS), us_price(rng), rng.randrange(9 * 3600, 16 * 3600)
    local = datetime.datetime(2026, 11, 19) + datetime.timedelta(seconds=second)
    kst = local + datetime.timedelta(hours=14)
    values = {
        0: f"DNAS{ticker}", 1: ticker, 4: f"{local:%Y%m%d}", 5: f"{local:%H%M%S}", 6: f"{kst:%Y%m%d}",
        7: f"{kst:%H%M%S}", 11: f"{price:.4f}", 14: f"{rng.uniform(-9, 9):+.2f}", 15: f"{price - 0.01:.4f}",
        16: f"{price:.4f}", 19: int(rng.paretovariate(0.6)), 20: rng.randrange(1_000, 200_000_000),
    }  # fmt: skip
    for position, value in values.items():
        fields[position] = str(value)
    return fields


def us_book_fields(rng: random.Random) -> list[str]:
    fields, price = template("HDFSASP0_71.txt"), us_price(rng)
    for level in range(10):
        fields[11 + 6 * level] = f"{max(price - 0.01 * level, 0.01):.4f}"
        fields[12 + 6 * level] = f"{price + 0.01 * (level + 1):.4f}"
        fields[13 + 6 * level] = str(int(50 * rng.paretovariate(0.9)))
        fields[14 + 6 * level] = str(int(50 * rng.paretovariate(0.9)))
    return fields


def futures_book_fields(rng: random.Random) -> list[str]:
    fields, price = template("H0IFASP0_single.txt"), rng.uniform(300, 600)
    for level in range(5):
        fields[2 + level] = f"{price + 0.05 * (level + 1):.2f}"
        fields[7 + level] = f"{price - 0.05 * level:.2f}"
        fields[22 + level] = str(int(5 * rng.paretovariate(0.9)))
        fields[27 + level] = str(int(5 * rng.paretovariate(0.9)))
    return fields


def expected_fields(rng: random.Random) -> list[str]:
    fields = template("H0STANC0_single.txt")
    values = trade_fields(rng)
    for position in (0, 1, 2, 5, 12):
        fields[position] = values[position]
    return fields


MAKERS = {
    "H0STCNT0": trade_fields, "H0STASP0": book_fields, "HDFSCNT0": us_trade_fields, "HDFSASP0": us_book_fields,
    "H0IFASP0": futures_book_fields, "H0STANC0": expected_fields,
}  # fmt: skip


def make_frames(tr: str, records: int, frames: int) -> list[bytes]:
    rng = random.Random(20261120)
    make = MAKERS[tr]
    return [
        f"0|{tr}|{records:03}|{'^'.join('^'.join(make(rng)) for _ in range(records))}".encode() for _ in range(frames)
    ]


def check_answer(frames: list[bytes], directory: Path) -> str | None:
    """Return what is wrong with the native records of *frames*, None if they are those of the twin."""
    path = directory / "check.ring"
    create_ring(path, ring=0, capacity_bytes=RING_BYTES, consumers=(("bench", GATING),))
    ring, reader = RingWriter(path), GatingReader(path, "bench")
    parser = KisParser(venue=VENUE)
    parser.keeps_all = True
    for frame in frames:
        parser.parse_many(ring, [frame], RECV_NS)
        found = read_records(reader, 1000)
        reader.commit()
        expected = twin.parse_frame(frame, RECV_NS, venue=VENUE) or []
        if [{key: value for key, value in record.items() if key != "seq"} for record in found] != expected:
            return f"native and reference differ for {frame!r}"
    ring.close()
    path.unlink()
    return None if parser.quarantined == 0 else f"{parser.quarantined} records were quarantined"


def native_ns(frames: list[bytes], records: int, repeats: int, directory: Path) -> list[float]:
    """Return CPU ns per record of each repeat, after one that is not counted."""
    path = directory / "bench.ring"
    create_ring(path, ring=0, capacity_bytes=RING_BYTES, consumers=())
    ring, parser = RingWriter(path), KisParser(venue=VENUE)
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
        twin.parse_frame(frame, RECV_NS, venue=VENUE)
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


# ---- Kiwoom: the same for JSON, with all the fields that the venue documents -----------------------------------------

KIWOOM_LIMIT_NS = 1500
KIWOOM_VENUE, KOREA = 2, 1
TRADE_FIDS = (
    20, 10, 11, 12, 27, 28, 15, 13, 14, 16, 17, 18, 25, 26, 29, 30, 31, 32, 228, 311, 290, 691, 567, 568, 851, 1890,
    1891, 1892, 1030, 1031, 1032, 1071, 1072, 1313, 1315, 1316, 1314, 1497, 1498, 620, 732, 852, 9081,
)  # fmt: skip
BOOK_FIDS = (
    21, *(first + level for level in range(10) for first in (41, 61, 81, 51, 71, 91)), 121, 122, 125, 126, 23, 24, 128,
    129, 138, 139, 200, 201, 238, 291, 292, 293, 294, 295, *range(621, 641), 13, 299, 215, 216, *range(6044, 6088),
    *range(6100, 6116),
)  # fmt: skip


def kiwoom_frame(code: str, rng: random.Random) -> bytes:
    price, tick = rng.choice(((rng.randrange(900, 9_999), 5), (rng.randrange(10_000, 99_950, 50), 50)))
    colour = rng.choice(("+", "-", ""))
    size = lambda: int(50 * rng.paretovariate(0.9))  # noqa: E731 - drawn anew for every field
    values = {fid: rng.choice(("", "0", str(size()), f"{rng.randrange(-3000, 3001) / 100:.2f}"))
              for fid in (TRADE_FIDS if code == "0B" else BOOK_FIDS)}  # fmt: skip
    time_fid = 20 if code == "0B" else 21
    values[time_fid] = f"{rng.randrange(9, 16):02}{rng.randrange(60):02}{rng.randrange(60):02}"
    if code == "0B":
        values |= {10: f"{colour}{price}", 27: f"{colour}{price + tick}", 28: f"{colour}{price}",
                   15: f"{rng.choice('+-')}{size()}", 13: str(rng.randrange(1_000, 40_000_000))}  # fmt: skip
    for level in range(10 if code == "0D" else 0):
        values |= {41 + level: f"{colour}{price + tick * (level + 1)}", 51 + level: f"{colour}{price - tick * level}",
                   61 + level: str(size()), 71 + level: str(size())}  # fmt: skip
    item = f"{5930 * rng.randrange(1, SYMBOLS + 1) % 1_000_000:06}"
    entry = {"type": code, "name": "주식체결", "item": item, "values": {str(fid): text for fid, text in values.items()}}
    return json.dumps({"trnm": "REAL", "data": [entry]}, ensure_ascii=False, separators=(",", ":")).encode()


# ---- Upbit: JSON in binary frames, names in full or short -----------------------------------------------------------

UPBIT_LIMIT_NS = 1000
UPBIT_VENUE, CRYPTO = 3, 3
LEVELS = 15


def upbit_frame(kind: str, rng: random.Random) -> bytes:
    ns = rng.randrange(1_795_138_000_000, 1_795_139_000_000)
    price = rng.choice((rng.randrange(90_000_000, 140_000_000, 1000), round(rng.uniform(0.01, 99.0), 4)))
    size = lambda: round(rng.paretovariate(0.9) / 1000, 8)  # noqa: E731 - drawn anew for every field
    message: dict[str, Any] = {
        "type": kind,
        "code": f"KRW-{rng.choice(('BTC', 'ETH', 'XRP', 'DOGE'))}",
        "timestamp": ns,
    }
    if kind == "trade":
        message |= {
            "trade_date": "2026-11-20", "trade_time": "01:30:15", "trade_timestamp": ns - 25, "trade_price": price,
            "trade_volume": size(), "ask_bid": rng.choice(("ASK", "BID")), "prev_closing_price": price,
            "change": "EVEN", "change_price": 0.0, "sequential_id": ns * 10_000, "best_ask_price": price,
            "best_ask_size": size(), "best_bid_price": price, "best_bid_size": size(),
        }  # fmt: skip
    else:
        units = [
            {
                "ask_price": round(price * (1 + n / 1000), 4),
                "bid_price": round(price * (1 - n / 1000), 4),
                "ask_size": size(),
                "bid_size": size(),
            }
            for n in range(LEVELS)
        ]
        message |= {"total_ask_size": size(), "total_bid_size": size(), "orderbook_units": units}
    message["stream_type"] = "REALTIME"
    if kind == "orderbook":
        message["level"] = 0
    return json.dumps(message, separators=(",", ":")).encode()


def bench_json(
    what: str,
    frames: list[bytes],
    parser: FrameParser,
    reference: Callable[[bytes], Any],
    limit_ns: int,
    options: argparse.Namespace,
    directory: Path,
) -> dict[str, Any]:
    """Measure one kind of a JSON venue: one record a frame, each compared with *reference* first."""
    path = directory / "json.ring"
    create_ring(path, ring=0, capacity_bytes=RING_BYTES, consumers=(("bench", GATING),))
    ring, reader = RingWriter(path), GatingReader(path, "bench")
    parser.keeps_all = True
    for frame in frames:
        parser.parse_many(ring, [frame], RECV_NS)
        found = [{key: value for key, value in record.items() if key != "seq"} for record in read_records(reader, 9)]
        if found != reference(frame) or len(found) != 1 or parser.quarantined:
            return {"tr": what, "problem": f"native and reference differ for {frame!r}"}
        reader.commit()
    reader.close()
    ring.close()
    path.unlink()
    create_ring(path, ring=0, capacity_bytes=RING_BYTES, consumers=())
    ring = RingWriter(path)
    rounds, measured = max(1, RECORDS_PER_REPEAT // len(frames) // 4), []
    for _ in range(options.repeats + 1):
        started = time.process_time_ns()
        for _ in range(rounds):
            for at in range(0, len(frames), FRAMES_PER_READ):
                parser.parse_many(ring, frames[at : at + FRAMES_PER_READ], RECV_NS)
        measured.append((time.process_time_ns() - started) / (rounds * len(frames)))
    ring.close()
    path.unlink()
    sample = frames[:TWIN_FRAMES]
    started = time.process_time_ns()
    for frame in sample:
        reference(frame)
    baseline = (time.process_time_ns() - started) / len(sample)
    median = statistics.median(measured[1:])
    return {
        "tr": what, "records_per_frame": 1, "bytes_per_record": round(sum(map(len, frames)) / len(frames)),
        "ns_per_record": round(median, 1), "ns_min": round(min(measured[1:]), 1),
        "ns_max": round(max(measured[1:]), 1), "python_twin_ns_per_record": round(baseline),
        "ratio": round(baseline / median, 1), "limit_ns": limit_ns, "within_limit": median <= limit_ns,
    }  # fmt: skip


def json_cases(options: argparse.Namespace, directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the measurements of the venues that speak JSON."""
    rng, count = random.Random(20261120), options.frames // 4
    for code in ("0B", "0D"):
        frames = [kiwoom_frame(code, rng) for _ in range(count)]
        twin_of = functools.partial(kiwoom_twin.parse_frame, recv_ns=RECV_NS, venue=KIWOOM_VENUE, market=KOREA)
        parser: FrameParser = KiwoomParser(venue=KIWOOM_VENUE)
        yield bench_json(f"kiwoom {code}", frames, parser, twin_of, KIWOOM_LIMIT_NS, options, directory)
    for kind in ("trade", "orderbook"):
        frames = [upbit_frame(kind, rng) for _ in range(count)]
        twin_of = functools.partial(upbit_twin.parse_frame, recv_ns=RECV_NS, venue=UPBIT_VENUE, market=CRYPTO)
        parser = UpbitParser(venue=UPBIT_VENUE, market=CRYPTO)
        yield bench_json(f"upbit {kind}", frames, parser, twin_of, UPBIT_LIMIT_NS, options, directory)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true", help="print only the JSON object")
    arguments.add_argument("--frames", type=int, default=4096, help="different frames per case")
    arguments.add_argument("--repeats", type=int, default=15)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="sise-bench-") as name:
        cases = [bench(tr, records, options, Path(name)) for tr, records in CASES]
        cases += json_cases(options, Path(name))
    result = {
        "benchmark": "parse", "machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(),
        "python": platform.python_version(), "repeats": options.repeats, "cases": cases,
    }  # fmt: skip
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 1 if any("problem" in case for case in cases) else 0


if __name__ == "__main__":
    sys.exit(main())
