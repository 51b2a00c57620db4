"""The worker as a process of its own: started as the supervisor starts it, stopped and killed."""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.config import Account, Config, Feed, Ingest, Ring
from daemon.rings import prepare_rings, ring_path
from daemon.shard_plan import make_plan
from daemon.supervision.process import Assignment, ProcessState, module_argv, pack
from native_pipeline.counters import CountersBlock, create_counters_file
from native_pipeline.records import GAP_REASONS, read_records
from native_pipeline.ring_reader import GatingReader

SYMBOLS = ("005930", "000660")
REGISTRATIONS = 2 * len(SYMBOLS)
PATIENCE_S = 30.0


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


@pytest.fixture
def simulator() -> Iterator[dict[str, Any]]:
    """A simulator in a process of its own; {"ws_url", "rest_url"}."""
    code = (
        "import asyncio, json, sys\n"
        "from daemon.simulator import Simulator, SimulatorOptions\n"
        "async def main():\n"
        "    simulator = Simulator(SimulatorOptions(rate=2000.0))\n"
        "    await simulator.start()\n"
        "    print(json.dumps({'ws_url': simulator.ws_url, 'rest_url': simulator.rest_url}), flush=True)\n"
        "    await asyncio.to_thread(sys.stdin.read)\n"
        "    await simulator.stop()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield msgspec.json.decode(process.stdout.readline())
        process.communicate()


class Shard:
    """One worker's data directory, and the processes that run on it one after another."""

    def __init__(self, directory: Path, urls: dict[str, Any]) -> None:
        self.directory = directory
        account = Account(name="main", venue="kis", app_key="k" * 36, app_secret="s" * 180, **urls)
        self.config = Config(
            data_dir=str(directory),
            workers=1,
            ring=Ring(capacity_mb=16),
            ingest=Ingest(subscribe_interval_ms=1, backoff_first_s=0.05, slot_held_backoff_s=0.1),
            accounts=(account,),
            feeds=(Feed(account="main", market="kr", symbols=SYMBOLS),),
        )
        prepare_rings(directory, workers=1, capacity_mb=16)
        self.counters_path = directory / "counters"
        create_counters_file(self.counters_path, 1)
        self.counters = CountersBlock(self.counters_path, 0, writable=False)
        self.reader = GatingReader(ring_path(directory, 0), "writer")
        self.records: list[dict[str, Any]] = []

    def start(self) -> subprocess.Popen[bytes]:
        lock_fd = os.open(os.devnull, os.O_RDONLY)
        assignment = Assignment(
            name="worker-0", role="worker", index=0, parent_pid=os.getpid(), data_dir=str(self.directory),
            counters_path=str(self.counters_path), counters_block=0, processes={"worker-0": 0}, wake_fds={},
            lock_fd=lock_fd, drain_s=5.0, config=self.config, payload=pack(make_plan(self.config).workers[0]),
        )  # fmt: skip
        process = subprocess.Popen(
            module_argv("daemon.ingest.worker"), stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[lock_fd]
        )
        os.close(lock_fd)
        assert process.stdin is not None
        process.stdin.write(msgspec.msgpack.encode(assignment))
        process.stdin.close()
        process.stdin = None
        return process

    def value(self, name: str) -> int:
        value: int = self.counters.get(name)
        return value

    def state(self) -> int:
        snapshot = self.counters.snapshot()
        assert snapshot is not None
        return snapshot["state"]

    def has_received(self, records: int) -> bool:
        return self.value("records_received") >= records

    def read(self) -> None:
        while found := read_records(self.reader, 10_000):
            self.records += found
            self.reader.commit()

    def of_kind(self, *kinds: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["kind"] in kinds]


@pytest.fixture
def shard(tmp_path: Path, simulator: dict[str, Any]) -> Shard:
    return Shard(tmp_path, simulator)


@pytest.mark.requirement("GS-01")
def test_sigterm_ends_a_worker_in_order(shard: Shard) -> None:
    with shard.start() as process:
        wait_until(lambda: shard.value("records_received") > 100)
        assert shard.state() == ProcessState.RUNNING

        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)

    shard.read()
    assert process.returncode == 0, errors
    assert shard.state() == ProcessState.STOPPED
    assert len(shard.of_kind("trade", "orderbook")) == shard.value("records_received")
    assert b"s" * 180 not in errors


@pytest.mark.requirement("CH-PROC-01", "DLP-01")
def test_a_killed_worker_loses_nothing_it_had_received_and_its_successor_records_the_hole(shard: Shard) -> None:
    kills = 3
    for _ in range(kills):
        enough = shard.value("records_received") + 500
        with shard.start() as process:
            wait_until(functools.partial(shard.has_received, enough))
            process.kill()
            process.communicate(timeout=PATIENCE_S)
    received = shard.value("records_received")

    with shard.start() as process:
        wait_until(lambda: shard.value("subscriptions_confirmed") == REGISTRATIONS)
        wait_until(lambda: shard.value("gaps_recorded") >= kills * REGISTRATIONS)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)

    shard.read()
    sequence = [record["seq"] for record in shard.records]
    assert sequence == list(range(sequence[0], sequence[0] + len(sequence)))
    assert len(shard.of_kind("trade", "orderbook")) >= received
    assert sum(record["count"] for record in shard.of_kind("ledger")) == len(shard.of_kind("trade", "orderbook"))
    # what the venue sent meanwhile also shows in the cumulative volumes: those gaps say how many shares
    gaps = [gap for gap in shard.of_kind("gap") if gap["missing"] is None]
    assert len(gaps) == kills * REGISTRATIONS
    assert {GAP_REASONS[gap["reason"]] for gap in gaps} == {"worker restarted"}
