"""What does a message to Redis cost, from the ring to the checked reply, and what would redis-py alone need for it?

Topology: one process and one Valkey (append-only file on, no subscriber) on the same machine. Sise: ring file ->
`Publisher` -> Redis, everything included: connecting, reading the cursor, encoding, the transaction with its counters,
replies checked, position committed. Baseline, in the same run: the same transactions through redis-py's pipeline, from
ready-made dicts with orjson. The encoders alone (Redis and COPY) are measured on the same records, and their Python
twins with them.

Input: seeded, all records different. The answer is checked: after each repeat the counters that Redis holds must have
grown by exactly the messages sent. CPU time of this process is without the server's; median and spread of repeats.

    python profiling/bench_publish.py [--json] [--messages 100000] [--repeats 5]
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
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import redis

sys.path.insert(0, str(Path(__file__).parents[1]))

from daemon.config import Redis as RedisSettings
from daemon.embedded import EmbeddedRedis
from daemon.sinks.publisher import Host, Publisher
from daemon.sinks.redis_link import RedisLink
from native_pipeline.copy_encoder import CopyBatch
from native_pipeline.counters import CountersBlock, create_counters_file
from native_pipeline.redis_encoder import PublishBatch
from native_pipeline.ring_creation import LOSSY, create_ring
from native_pipeline.ring_reader import LossyReader
from native_pipeline.ring_writer import RingWriter
from tests.reference import copy_rows, redis_messages
from tests.reference.packed_records import Book, Trade, append

LIMITS_NS = {"copy_trade": 120, "copy_book": 400, "redis_trade": 400}
SYMBOLS = 200
RECV_NS = 1_763_596_800_000_000_000
RING_BYTES = 128 << 20
TWIN_RECORDS = 2_000
NAMES = copy_rows.Names(venues=("", "kis"), markets=("", "kr"), quarantine_reasons=(), gap_reasons=())

Record = Trade | Book


def make_records(kind: str, count: int) -> list[Record]:
    rng = random.Random(20261120)
    records: list[Record] = []
    for number in range(count):
        symbol = b"%06d" % (5930 * rng.randrange(1, SYMBOLS + 1) % 1_000_000)
        price = rng.choice((rng.randrange(900, 9_999), rng.randrange(10_000, 99_950, 50)))
        times = {"recv_ns": RECV_NS + number * 20_000, "exchange_ns": RECV_NS + number // 50_000 * 1_000_000_000}
        if kind == "trade":
            records.append(
                Trade(
                    symbol=symbol, price=(price, 0), volume=(int(rng.paretovariate(0.7)), 0), ask=(price + 50, 0),
                    bid=(price, 0), change_rate=(rng.randrange(-3000, 3001), 2), side=rng.randrange(1, 3),
                    cum_volume=(rng.randrange(1_000, 40_000_000), 0), **times,
                )
            )  # fmt: skip
        else:
            asks = [((price + 50 * level, 0), (int(50 * rng.paretovariate(0.9)), 0)) for level in range(1, 11)]
            bids = [((price - 5 * level, 0), (int(50 * rng.paretovariate(0.9)), 0)) for level in range(10)]
            records.append(Book(symbol=symbol, asks=asks, bids=bids, **times))
    return records


class Rig:
    """A ring, the publisher's counters and a server."""

    def __init__(self, directory: Path, server: EmbeddedRedis) -> None:
        path = directory / "worker-0.ring"
        create_ring(path, ring=0, capacity_bytes=RING_BYTES, consumers=(("publisher", LOSSY),))
        self.writer = RingWriter(path)
        self.reader = LossyReader(path, "publisher")
        create_counters_file(directory / "counters", 1)
        self.counters = CountersBlock(directory / "counters", 0)
        self.counters.take("publisher")
        self.url = server.url
        self.client = redis.Redis.from_url(server.url)

    def fill(self, records: Sequence[Record]) -> None:
        for record in records:
            append(self.writer, record)
        self.writer.publish()

    def counted(self) -> int:
        return sum(int(self.client.get(key) or 0) for key in self.client.keys("published:count:*"))


def new_publish_batch(*streams: str) -> PublishBatch:
    return PublishBatch(venues=NAMES.venues, markets=NAMES.markets, minute_counts_kept_s=3600, streams=streams)


def new_copy_batch() -> CopyBatch:
    return CopyBatch(
        venues=NAMES.venues,
        markets=NAMES.markets,
        quarantine_reasons=NAMES.quarantine_reasons,
        gap_reasons=NAMES.gap_reasons,
    )


def encode_once(rig: Rig, batch: PublishBatch | CopyBatch, records: Sequence[Record], batch_records: int) -> float:
    """Return CPU ns per record; the transaction's counters are part of the Redis encoder's work."""
    rig.fill(records)
    taken = 0
    started = time.process_time_ns()
    while part := batch.append_from(rig.reader, batch_records):
        taken += part
        if isinstance(batch, PublishBatch):
            batch.payload().release()
        batch.clear()
    elapsed = time.process_time_ns() - started
    rig.reader.commit()
    if taken != len(records):
        raise SystemExit(f"{taken} records instead of {len(records)}")
    return elapsed / taken


def twin_once(encode: Callable[[Record, int], object], records: Sequence[Record]) -> float:
    sample = records[:TWIN_RECORDS]
    started = time.process_time_ns()
    for number, record in enumerate(sample):
        encode(record, number)
    return (time.process_time_ns() - started) / len(sample)


def copy_twin(record: Record, seq: int) -> bytes:
    return copy_rows.stream([copy_rows.row(record, source=0, seq=seq, names=NAMES)[1]])


def redis_twin(record: Record, seq: int) -> bytes:
    channel, text = redis_messages.message(record, source=0, seq=seq, venues=NAMES.venues, markets=NAMES.markets)
    return redis_messages.command("PUBLISH", channel, text)


def encoder_case(name: str, rig: Rig, records: Sequence[Record], options: argparse.Namespace) -> dict[str, Any]:
    sink, _, _ = name.partition("_")
    batch = new_copy_batch() if sink == "copy" else new_publish_batch()
    rows = 20_000 if sink == "copy" else 2_000  # the defaults of the two sinks
    measured = [encode_once(rig, batch, records, rows) for _ in range(options.repeats + 1)][1:]
    rig.client.flushdb()  # a cursor in there would be behind the ring now
    twin = twin_once(copy_twin if sink == "copy" else redis_twin, records)
    median = statistics.median(measured)
    case: dict[str, Any] = {
        "case": f"encode_{name}", "cpu_ns_per_record": round(median, 1), "min": round(min(measured), 1),
        "max": round(max(measured), 1), "python_twin_ns_per_record": round(twin), "ratio": round(twin / median, 1),
    }  # fmt: skip
    if name in LIMITS_NS:
        case |= {"limit_ns": LIMITS_NS[name], "within_limit": median <= LIMITS_NS[name]}
    return case


def publish_by_sise(rig: Rig, count: int, *streams: str) -> None:
    """Empty the ring: a publisher that is already asked to stop returns when it has published everything."""
    settings = RedisSettings(url=rig.url)
    host = Host(wait=time.sleep, beat=rig.counters.heartbeat, stopping=lambda: True, drain_s=60.0)
    publisher = Publisher(
        readers=[rig.reader],
        batch=new_publish_batch(*streams),
        link=RedisLink(settings),
        settings=settings,
        counters=rig.counters,
        host=host,
    )
    if not publisher.run():
        raise SystemExit(f"{count} messages were not published in 60 s")


def publish_by_redis_py(rig: Rig, messages: Sequence[tuple[str, dict[str, Any]]], batch_messages: int) -> None:
    for start in range(0, len(messages), batch_messages):
        part = messages[start : start + batch_messages]
        pipeline = rig.client.pipeline(transaction=True)
        channels: Counter[str] = Counter()
        minutes: Counter[tuple[int, str]] = Counter()
        for channel, message in part:
            pipeline.publish(channel, orjson.dumps(message))
            channels[channel] += 1
            minutes[message["recv_ns"] // 60_000_000_000, f"kr|{message['symbol']}|{message['type']}"] += 1
        for channel, n in channels.items():
            pipeline.incrby(f"published:count:{channel}", n)
        for (minute, field), n in minutes.items():
            pipeline.hincrby(f"published:minute:{minute}", field, n)
        for minute in {minute for minute, _ in minutes}:
            pipeline.expire(f"published:minute:{minute}", 3600)
        pipeline.hset("baseline:cursor", "ring-0", str(start))
        pipeline.execute()


def publish_case(kind: str, rig: Rig, records: Sequence[Record], options: argparse.Namespace) -> dict[str, Any]:
    sise: list[tuple[float, float]] = []
    with_streams: list[tuple[float, float]] = []
    baseline: list[tuple[float, float]] = []
    messages = []
    for seq, record in enumerate(records[: options.messages // 5]):
        channel, text = redis_messages.message(record, source=0, seq=seq, venues=NAMES.venues, markets=NAMES.markets)
        messages.append((channel, json.loads(text)))
    cases: tuple[tuple[list[tuple[float, float]], int, Callable[[], None]], ...] = (
        (sise, len(records), lambda: publish_by_sise(rig, len(records))),
        (with_streams, len(records), lambda: publish_by_sise(rig, len(records), "all")),
        (baseline, len(messages), lambda: publish_by_redis_py(rig, messages, RedisSettings().batch_messages)),
    )
    for repeat in range(options.repeats + 1):
        for measured, count, publish in cases:
            if measured is not baseline:
                rig.fill(records)
            before, wall, cpu = rig.counted(), time.perf_counter_ns(), time.process_time_ns()
            publish()
            wall, cpu = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
            if rig.counted() - before != count:
                raise SystemExit(f"Redis counted {rig.counted() - before} messages instead of {count}")
            if repeat:
                measured.append((wall / count, cpu / count))
    wall_ns, cpu_ns = (statistics.median(column) for column in zip(*sise, strict=True))
    stream_wall_ns, stream_cpu_ns = (statistics.median(column) for column in zip(*with_streams, strict=True))
    base_wall_ns, base_cpu_ns = (statistics.median(column) for column in zip(*baseline, strict=True))
    return {
        "case": f"publish_{kind}", "messages": len(records), "messages_per_s": round(1e9 / wall_ns),
        "messages_per_s_min": round(1e9 / max(wall for wall, _ in sise)), "cpu_ns_per_message": round(cpu_ns),
        "with_streams_messages_per_s": round(1e9 / stream_wall_ns), "with_streams_cpu_ns": round(stream_cpu_ns),
        "ratio_streams": round(wall_ns / stream_wall_ns, 2),
        "redis_py_messages_per_s": round(1e9 / base_wall_ns), "redis_py_cpu_ns_per_message": round(base_cpu_ns),
        "ratio_messages_per_s": round(base_wall_ns / wall_ns, 1), "ratio_cpu": round(base_cpu_ns / cpu_ns, 1),
    }  # fmt: skip


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true", help="print only the JSON object, on one line")
    arguments.add_argument("--messages", type=int, default=100_000)
    arguments.add_argument("--repeats", type=int, default=5)
    options = arguments.parse_args()
    cases = []
    with tempfile.TemporaryDirectory(prefix="sise-bench-") as name, EmbeddedRedis(Path(name) / "redis") as server:
        rig = Rig(Path(name), server)
        for kind in ("trade", "book"):
            records = make_records(kind, options.messages)
            cases += [encoder_case(f"{sink}_{kind}", rig, records, options) for sink in ("copy", "redis")]
            cases.append(publish_case(kind, rig, records, options))
        rig.client.close()
    result = {
        "benchmark": "publish", "machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(),
        "python": platform.python_version(), "repeats": options.repeats, "cases": cases,
    }  # fmt: skip
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
