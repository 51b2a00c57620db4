"""Descriptors, processes and processor time run short: a clear refusal or a slower daemon, never a wrong one."""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.chaos import limits
from tests.chaos.network_rig import NetworkRig
from tests.rig import TIMEOUT_S, wait_for

RATE = 1_000.0
FEW_DESCRIPTORS = 256
NO_DESCRIPTORS = 12  # fewer than the supervisor needs for its own files
PERIOD_US = 100_000
MakeRig = Callable[..., NetworkRig]


@pytest.fixture
def make_rig(tmp_path: Path, postgres_dsn: str, redis_url: str) -> Iterator[MakeRig]:
    def make(**fields: Any) -> NetworkRig:
        settings: dict[str, Any] = {
            "symbols": 4,
            "connects_per_10min": 100_000,
            "connects_per_10min_address": 100_000,
            **fields,
        }
        return stack.enter_context(NetworkRig(tmp_path, postgres_dsn, redis_url, **settings))

    with ExitStack() as stack:
        yield make


def files_of(pid: int) -> int:
    """Return how many descriptors a process has."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.nightly  # short: a worker without descriptors, below
@pytest.mark.requirement("F60")
def test_with_256_descriptors_twenty_sessions_run_and_lose_nothing(make_rig: MakeRig) -> None:
    rig = make_rig(accounts=20, workers=2, symbols=2)
    rig.launcher = ["prlimit", f"--nofile={FEW_DESCRIPTORS}:{FEW_DESCRIPTORS}"]
    rig.start(rate=RATE)
    rig.wait_ready()
    rig.wait_received(int(RATE))
    for pid in rig.pids("worker"):
        assert files_of(pid) < FEW_DESCRIPTORS // 2

    rig.finish()


@pytest.mark.requirement("F60")
def test_with_too_few_descriptors_to_start_it_refuses_in_words(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.launcher = ["prlimit", f"--nofile={NO_DESCRIPTORS}:{NO_DESCRIPTORS}"]
    rig.start_venue(rate=RATE)
    rig.start_daemon()
    assert rig.daemon is not None

    code = rig.daemon.wait(TIMEOUT_S)

    assert code != 0
    assert "open files" in rig.log_path.read_text()
    assert rig.happened() == []


@pytest.mark.requirement("F60", "CH-NET-01")
def test_a_worker_without_descriptors_waits_and_connects_as_soon_as_there_are_some(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.start(rate=RATE)
    rig.wait_ready()
    (pid,) = rig.pids("worker")
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, before[1]))

    rig.ws.reset()
    failed = len(rig.events("connect_failed"))
    wait_for(lambda: len(rig.events("connect_failed")) > failed, f"an attempt in vain: {rig.tail()}")
    assert "open files" in rig.events("connect_failed")[-1]["error"]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    rig.wait_ready()
    rig.wait_received(int(RATE))

    rig.finish()

    assert rig.events("child_died") == []


@pytest.mark.requirement("F60", "CH-PROC-01")
def test_a_limit_of_processes_delays_a_restart_and_ends_nothing(make_rig: MakeRig) -> None:
    rig = make_rig(accounts=2, workers=2)
    with limits.group("pids", {}) as group:
        rig.launcher = group.launcher()
        rig.start(rate=RATE)
        rig.wait_ready()
        rig.wait_received(int(RATE))
        victim = rig.counters()["worker-0"]["pid"]
        others = {role: rig.counters()[role]["pid"] for role in ("worker-1", "writer", "supervisor")}

        group.set("pids.max", "1")
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: rig.events("child_died"), f"its end: {rig.tail()}")
        wait_for(lambda: len(rig.events("child_died")) >= 3, f"starts in vain: {rig.tail()}")
        assert "temporarily unavailable" in rig.events("child_died")[-1]["error"]
        group.set("pids.max", "max")
        wait_for(lambda: rig.counters()["worker-0"]["pid"] != victim, f"another worker: {rig.tail()}")
        rig.wait_ready()
        rig.wait_received(int(RATE))

        assert {role: rig.counters()[role]["pid"] for role in others} == others
        rig.finish()


@pytest.mark.nightly
@pytest.mark.requirement("F60")
def test_with_a_fifth_of_a_processor_it_falls_behind_and_loses_nothing(make_rig: MakeRig) -> None:
    rig = make_rig(link_timeout_s=60.0, data_warn_s=60.0)
    with limits.group("cpu", {"cpu.cfs_period_us": str(PERIOD_US)}) as group:
        rig.launcher = group.launcher()
        rig.start(rate=2 * RATE, extra=("--pingpong-timeout", "0"))
        rig.wait_ready()
        group.set("cpu.cfs_quota_us", str(PERIOD_US // 5))
        rig.wait_received(int(4 * RATE))
        throttled = int(_read(group.path / "cpu.stat", "nr_throttled"))
        assert throttled > 0
        assert rig.total("connections_lost") == 0
        group.set("cpu.cfs_quota_us", "-1")

        rig.finish()

    assert rig.events("child_died") == []
    assert rig.gaps() == []


def _read(path: Path, name: str) -> str:
    return next(line.split()[1] for line in path.read_text().splitlines() if line.startswith(name))


@pytest.mark.requirement("F60", "F61", "LEAK-02")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    "times", [pytest.param(60, id="60"), pytest.param(10_000, id="10k", marks=pytest.mark.nightly)]
)
def test_sessions_that_are_cut_again_and_again_leave_no_descriptor_and_no_memory(make_rig: MakeRig, times: int) -> None:
    rig = make_rig(symbols=1, backoff_first_s=0.01, backoff_max_s=0.02)
    rig.start(rate=200.0)
    rig.wait_ready()
    (pid,) = rig.pids("worker")

    def cut(count: int) -> None:
        for _ in range(count):
            opened = rig.total("connections_opened")
            if rig.ws.reset():
                wait_for(lambda: rig.total("connections_opened") > opened, f"a new session: {rig.tail()}")  # noqa: B023
        rig.wait_ready()

    cut(times // 2)
    files, rss = files_of(pid), psutil.Process(pid).memory_info().rss
    cut(times)

    assert files_of(pid) <= files + 1
    assert psutil.Process(pid).memory_info().rss - rss < 1 << 20
    assert rig.events("child_died") == []
    rig.finish()
