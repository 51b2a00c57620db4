"""A producer that dies between two steps on one ring: nothing torn is read, nothing appended is lost or comes twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from native_pipeline.ring_accounts import flush_ledger
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference.packed_records import LEDGER, TRADE
from tests.spec.ring_support import Seen, drain, lose_power, new_ring

ROOT = Path(__file__).parents[2]
GROUP = 7  # records of one network read

PRODUCER = """
import sys, threading, time
from daemon.ingest.ring_sync import RingSync
from native_pipeline.ring_accounts import flush_ledger
from native_pipeline.ring_writer import RingWriter
from daemon.errors import RingError
from tests.reference.packed_records import Trade

path, mode, group = sys.argv[1], sys.argv[2], int(sys.argv[3])
writer = RingWriter(path, syncs_first=mode == "batch")
if mode == "batch":
    RingSync(writer, interval_s=None).start()
bodies = [Trade(symbol=b"%06d" % n).body() for n in range(5)]
print("ready", flush=True)
while True:
    for _ in range(group):
        number = writer.last_seq + 1 - writer.first_seq
        try:
            writer.append(1, bodies[number % 5], venue=1, market=1, recv_ns=1_763_596_801_000_000_000 + number)
        except RingError:
            break
    writer.publish()
    # as a worker does, so that the ring always holds the newest checkpoint; and more often, to be killed there
    flush_ledger(writer, time.time_ns(), force=number % 5 == 0)
"""


class Oracle:
    """What has come out of the ring so far: by sequence without a hole, and the ledger's sum beside it."""

    def __init__(self, reader: GatingReader) -> None:
        self.reader = reader
        self.next_seq = reader.first_seq
        self.stored: Counter[str] = Counter()
        self.ledger: Counter[str] = Counter()

    def take(self, records: list[Seen]) -> int:
        for record in records:
            assert record.seq == self.next_seq, "lost or repeated"
            self.next_seq += 1
            symbol = record.body[:24].rstrip(b"\0").decode()
            if record.kind == TRADE:
                self.stored[symbol] += 1
            else:
                assert record.kind == LEDGER
                self.ledger[symbol] += int.from_bytes(record.body[40:44], "little")
        return len(records)

    def read(self) -> int:
        count = self.take(drain(self.reader))
        self.reader.commit()
        assert self.reader.corrupt_records == 0
        return count


def die_at(path: Path, points: Path, point: str, order: str, *, mode: str, oracle: Oracle) -> None:
    """Run a producer until it dies at *point*; the reader goes on meanwhile."""
    points.mkdir(exist_ok=True)
    (points / point).write_text(order)
    words = [sys.executable, "-c", PRODUCER, str(path), mode, str(GROUP)]
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "SISE_FAILPOINTS": str(points)}
    ) as process:
        deadline = time.monotonic() + 30.0
        while process.poll() is None and time.monotonic() < deadline:
            oracle.read()
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (points / point).exists(), "it died there"


@pytest.mark.requirement("F27", "CH-PROC-01", "DLP-01")
@pytest.mark.parametrize(
    ("point", "order", "mode"),
    [
        ("ring.before_publish", "kill 5", "off"),
        ("ring.before_wake", "kill 5", "off"),
        ("ring.in_checkpoint", "kill 2", "off"),
        ("ring.in_checkpoint", "kill 5", "off"),
        ("ring.before_publish", "kill 5", "batch"),
        ("ring.before_sync", "kill 5", "batch"),
        ("ring.before_head", "kill 5", "batch"),
    ],
)
def test_a_producer_killed_there_leaves_every_record_once(tmp_path: Path, point: str, order: str, mode: str) -> None:
    path = new_ring(tmp_path)
    oracle = Oracle(GatingReader(path, "writer"))

    die_at(path, tmp_path / "points", point, order, mode=mode, oracle=oracle)
    oracle.read()
    successor = RingWriter(path)
    seen = oracle.read()

    if point == "ring.before_publish":
        assert seen >= successor.adopted_records >= 1
    if point == "ring.in_checkpoint":
        assert successor.adopted_records == (0 if order == "kill 2" else 5)
    assert successor.recovered_bytes == 0
    flush_ledger(successor, time.time_ns(), force=True)
    oracle.read()
    assert oracle.stored
    assert oracle.stored == oracle.ledger
    assert successor.last_seq + 1 == oracle.next_seq


@pytest.mark.requirement("F41", "CH-PROC-01")
def test_a_repair_that_is_interrupted_is_done_again(tmp_path: Path) -> None:
    path, points = new_ring(tmp_path), tmp_path / "points"
    writer = RingWriter(path)
    seqs = [writer.append(3, bytes(100)) for _ in range(10)]
    writer.publish()
    del writer
    lose_power(path)
    points.mkdir()
    (points / "ring.in_repair").write_text("kill")

    code = f"from native_pipeline.ring_writer import RingWriter; RingWriter({str(path)!r})"
    died = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "SISE_FAILPOINTS": str(points)}, check=False
    )
    assert died.returncode == -signal.SIGKILL

    writer = RingWriter(path)
    assert writer.append(3, b"after") > seqs[-1] + 1000
    writer.publish()
    assert [seen.seq for seen in drain(GatingReader(path, "writer"))] == [*seqs, writer.last_seq]


def kill_at_random(tmp_path: Path, kills: int, seed: str) -> None:
    """Producers that die at whatever instruction they are."""
    path, rng = new_ring(tmp_path), random.Random(seed)
    oracle = Oracle(GatingReader(path, "writer"))
    adopted = 0
    for number in range(kills):
        mode = rng.choice(("off", "batch"))
        with subprocess.Popen(
            [sys.executable, "-c", PRODUCER, str(path), mode, str(rng.choice((1, GROUP, 100)))],
            cwd=ROOT, stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            stop = time.monotonic() + rng.random() * 0.02
            while time.monotonic() < stop:
                oracle.read()
            process.kill()
        successor = RingWriter(path)
        assert successor.recovered_bytes == 0, f"seed {seed}, kill {number}"
        adopted += successor.adopted_records
        oracle.read()
        assert successor.last_seq + 1 == oracle.next_seq, f"seed {seed}, kill {number}"
        del successor
    successor = RingWriter(path)
    flush_ledger(successor, time.time_ns(), force=True)
    oracle.read()
    assert oracle.stored == oracle.ledger
    assert adopted > 0


@pytest.mark.requirement("F26", "CH-PROC-01", "DLP-01")
def test_producers_killed_at_random_instructions_leave_every_record_once(tmp_path: Path, chaos_seed: str) -> None:
    kill_at_random(tmp_path, 12, chaos_seed)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.requirement("F26", "CH-PROC-01", "DLP-01", "NIGHT-01")
def test_a_thousand_producers_killed_at_random_instructions(tmp_path: Path, chaos_seed: str) -> None:
    kill_at_random(tmp_path, 1000, chaos_seed)
