"""The ring between processes that run at full speed and die at random moments."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from native_pipeline.ring_accounts import flush_ledger
from native_pipeline.ring_creation import LOSSY, create_ring
from native_pipeline.ring_reader import GatingReader, LossyReader
from native_pipeline.ring_writer import RingWriter
from tests.effort import examples
from tests.reference.packed_records import LEDGER, TRADE, Trade, append
from tests.spec.ring_support import MIB, Seen, drain, new_ring, parsed

ROOT = Path(__file__).parents[2]

PRODUCER = """
import random, sys, time
from native_pipeline.ring_accounts import flush_ledger
from native_pipeline.ring_writer import RingWriter
from daemon.errors import RingError
from tests.reference.packed_records import Trade

path, count, seed, cyclic = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "ledger"
rng = random.Random(seed)
writer = RingWriter(path)
bodies = [Trade(symbol=b"%06d" % n).body() for n in range(7)]
print(writer.recovered_bytes, flush=True)
done = 0
while done < count:
    for _ in range(rng.randrange(1, 60)):
        number = writer.last_seq + 1 - writer.first_seq
        body = bodies[number % 7] if cyclic else number.to_bytes(8, "little") * rng.randrange(1, 40)
        try:
            writer.append(1, body, venue=1, market=1, recv_ns=1_763_596_801_000_000_000 + number * 10_000_000)
        except RingError:
            break
        done += 1
        if done == count:
            break
    writer.publish()
    if cyclic:
        flush_ledger(writer, time.time_ns(), force=rng.random() < 0.01)
print("done", flush=True)
"""


@contextmanager
def producer(path: Path, count: int, *, seed: int = 0, mode: str = "numbers") -> Iterator[subprocess.Popen[str]]:
    """A producer process that has opened the ring."""
    with subprocess.Popen(
        [sys.executable, "-c", PRODUCER, str(path), str(count), str(seed), mode],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "0\n", "a process's death damages nothing that was published"
            yield process
        finally:
            process.kill()


def whole(seen: Seen, first_seq: int) -> bool:
    """Does every word of the body say the record's own number?"""
    return seen.body == (seen.seq - first_seq).to_bytes(8, "little") * (len(seen.body) // 8)


@pytest.mark.requirement("DLP-01")
def test_a_gating_reader_sees_every_record_of_a_producer_at_full_speed(tmp_path: Path) -> None:
    path, count, seen = new_ring(tmp_path), 200_000, 0
    reader = GatingReader(path, "writer")

    with producer(path, count):
        while seen < count:
            for record in drain(reader):
                assert record.seq == reader.first_seq + seen
                assert whole(record, reader.first_seq)
                seen += 1
            reader.commit()

    assert (reader.corrupt_records, reader.lapped_records) == (0, 0)


def test_a_lossy_reader_that_is_lapped_all_the_time_never_sees_a_torn_record(tmp_path: Path) -> None:
    path, count, seen, last = tmp_path / "lossy.ring", 300_000, 0, 0
    create_ring(path, ring=0, capacity_bytes=MIB, consumers=(("publisher", LOSSY),))
    reader = LossyReader(path, "publisher")

    with producer(path, count):
        while last < reader.first_seq + count - 1:
            while reader.fetch_bytes():
                while (raw := reader.next_bytes()) is not None:
                    record = parsed(raw)
                    assert record.seq > last
                    assert whole(record, reader.first_seq)
                    last = record.seq
                    seen += 1
                if seen < count // 2:
                    time.sleep(0.002)  # slow on purpose: be overtaken

    assert reader.lapped_records > 0
    assert count == seen + reader.lapped_records
    assert reader.corrupt_records == 0


FAST_PRODUCER = """
import sys, time
from pathlib import Path
from native_pipeline.parse_kis import KisParser
from native_pipeline.ring_writer import RingWriter
writer, parser = RingWriter(sys.argv[1]), KisParser(venue=1, market=1)
parser.keeps_all = True
frames = [Path("tests/frames/kis/data/H0STCNT0_single.txt").read_bytes().strip()] * 64
print("ready", flush=True)
while True:
    assert parser.parse_many(writer, frames, 1) == 64
"""


def test_a_lossy_reader_at_the_edge_of_being_overwritten_never_sees_a_torn_record(tmp_path: Path) -> None:
    """A producer at native speed laps the ring a thousand times a second, so that many copies are hit half-way."""
    path, seen = tmp_path / "lossy.ring", 0
    create_ring(path, ring=0, capacity_bytes=MIB, consumers=(("publisher", LOSSY),))
    reader, rng = LossyReader(path, "publisher"), random.Random(3)
    with subprocess.Popen(
        [sys.executable, "-c", FAST_PRODUCER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while seen < 400_000:
            time.sleep(rng.random() * 0.001)
            if reader.fetch_bytes():
                while reader.next_bytes() is not None:
                    seen += 1
        process.kill()
    assert reader.corrupt_records == 0
    assert reader.lapped_records > seen // 10


@pytest.mark.requirement("CH-PROC-01", "DLP-01", "E2E-OBS-01")
def test_killed_producers_lose_and_repeat_nothing_and_the_ledger_still_adds_up(tmp_path: Path) -> None:
    path, rng = new_ring(tmp_path), random.Random(7)
    reader = GatingReader(path, "writer")
    next_seq = reader.first_seq
    stored: Counter[str] = Counter()
    ledger: Counter[str] = Counter()

    def take(records: list[Seen]) -> None:
        nonlocal next_seq
        for record in records:
            assert record.seq == next_seq, "lost or repeated"
            next_seq += 1
            symbol = record.body[:24].rstrip(b"\0").decode()
            if record.kind == TRADE:
                stored[symbol] += 1
            else:
                assert record.kind == LEDGER
                ledger[symbol] += int.from_bytes(record.body[40:44], "little")

    for seed in range(examples(15)):
        with producer(path, 10**9, seed=seed, mode="ledger") as process:
            stop = time.monotonic() + rng.random() * 0.03
            while time.monotonic() < stop:
                take(drain(reader))
                reader.commit()
            process.kill()
            process.wait()
        if rng.random() < 0.3:  # the consumer dies too, and comes back with the database's cursor
            reader.close()
            reader = GatingReader(path, "writer")
            assert reader.seek_after(next_seq - 1) == 0
        take(drain(reader))
        if rng.random() < 0.5:
            reader.commit()

    reader.commit()
    writer = RingWriter(path)
    append(writer, Trade(symbol=b"000000"))  # the last producer may have died behind a checkpoint: nothing to flush
    writer.publish()
    while not flush_ledger(writer, time.time_ns(), force=True):  # no room yet, as after every full ring
        take(drain(reader))
        reader.commit()
    take(drain(reader))

    assert sum(stored.values()) > 1000
    assert stored == ledger
    assert (reader.corrupt_records, reader.lapped_records) == (0, 0)


WAITER = """
import json, os, select, sys
from native_pipeline.ring_reader import GatingReader
path, fd, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
reader = GatingReader(path, "writer")
print("ready", flush=True)
seen = sleeps = 0
while seen < count:
    while reader.fetch_bytes():
        while reader.next_bytes() is not None:
            seen += 1
    reader.commit()
    if seen < count and reader.prepare_sleep():
        sleeps += 1
        if not select.select([fd], [], [], 10)[0]:
            sys.exit(f"not woken after {seen} records")
        os.eventfd_read(fd)
print(json.dumps({"seen": seen, "sleeps": sleeps}))
"""


def test_a_sleeping_process_is_woken_by_another_process_every_time(tmp_path: Path) -> None:
    path, count = new_ring(tmp_path), 10_000
    wake = os.eventfd(0)
    writer = RingWriter(path, wake_fds={"writer": wake})
    with subprocess.Popen(
        [sys.executable, "-c", WAITER, str(path), str(wake), str(count)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, pass_fds=[wake],
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(count):
            writer.append(3, b"tick")
            writer.publish()
            while process.poll() is None and writer.consumers()["writer"]["position"] != writer.head:
                pass
        assert process.wait(20) == 0, "a wake-up was lost"
        result = json.loads(process.stdout.read())
    os.close(wake)
    assert count == result["seen"]
    assert result["sleeps"] > 0
