"""Processes that stop, hang, crash in a loop or meet a second daemon: judged by the venue's journal."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.chaos import limits
from tests.chaos.network_rig import NetworkRig
from tests.rig import TIMEOUT_S, wait_for

RATE = 1_500.0
HEARTBEAT_S = 3.0
STOP_WITHIN_S = 10.0  # F31
IMPATIENT = {"supervision": f"heartbeat_timeout_s = {HEARTBEAT_S}"}
MakeRig = Callable[..., NetworkRig]


@pytest.fixture
def make_rig(tmp_path: Path, postgres_dsn: str, redis_url: str) -> Iterator[MakeRig]:
    def make(**fields: Any) -> NetworkRig:
        settings: dict[str, Any] = {"accounts": 2, "workers": 2, "symbols": 4, "connects_per_10min": 1000, **fields}
        return stack.enter_context(NetworkRig(tmp_path, postgres_dsn, redis_url, **settings))

    with ExitStack() as stack:
        yield make


def one(rig: NetworkRig, role: str) -> int:
    """Return the pid of the only process of *role*, as soon as there is exactly one."""
    pids: list[int] = wait_for(lambda: len(rig.pids(role)) == 1 and rig.pids(role), f"one {role}: {rig.tail()}")
    return pids[0]


def pid_of(rig: NetworkRig, name: str) -> int:
    """Return the pid under which *name* counts now."""
    pid: int = rig.counters()[name]["pid"]
    return pid


def kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@pytest.mark.requirement("F30", "CH-PROC-01")
@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.nightly)])
def test_a_writer_that_stood_still_is_replaced_once_and_never_writes_beside_its_successor(
    make_rig: MakeRig, times: int
) -> None:
    rig = make_rig(more_settings=IMPATIENT)
    rig.start(rate=RATE)
    rig.wait_ready()

    for _ in range(times):
        rig.wait_received(int(RATE / 2))
        still = one(rig, "writer")
        kill(still, signal.SIGSTOP)
        wait_for(lambda: pid_of(rig, "writer") != still, f"a successor: {rig.tail()}")  # noqa: B023
        kill(still, signal.SIGCONT)
        committed = rig.total("rows_committed")
        wait_for(lambda: rig.total("rows_committed") > committed, "the successor's rows")  # noqa: B023
        assert not psutil.pid_exists(still)

    rig.finish()

    assert [event["child"] for event in rig.events("child_hung")] == ["writer"] * times


@pytest.mark.requirement("F29", "F30", "CH-PROC-01")
def test_a_writer_that_stood_still_while_its_supervisor_died_is_gone_before_another_one_writes(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(more_settings={"supervision": "grace_s = 3"})
    rig.start(rate=RATE)
    rig.wait_ready()
    rig.wait_received(int(RATE))
    still = one(rig, "writer")
    kill(still, signal.SIGSTOP)
    assert rig.daemon is not None
    rig.daemon.kill()
    rig.daemon.wait()

    rig.start_daemon()
    wait_for(lambda: pid_of(rig, "writer") != still, f"another writer: {rig.tail()}")
    assert not psutil.pid_exists(still) or psutil.Process(still).status() == psutil.STATUS_ZOMBIE
    kill(still, signal.SIGCONT)
    rig.wait_received(int(RATE))

    rig.finish()


@pytest.mark.requirement("F31", "GS-01")
def test_a_second_and_a_third_request_to_stop_change_nothing(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.start(rate=RATE)
    rig.wait_received(int(2 * RATE))
    assert rig.daemon is not None

    began_s = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        rig.daemon.send_signal(number)
    code = rig.daemon.wait(TIMEOUT_S)
    stopped_s = time.monotonic() - began_s

    assert code == 0, rig.tail()
    assert stopped_s <= STOP_WITHIN_S
    assert rig.backlog() == 0
    rig.stop_simulator()
    assert rig.compare().is_exact
    assert len(rig.events("Graceful Shutdown Complete")) == 1


@pytest.mark.requirement("F32", "CH-PROC-01")
def test_a_worker_whose_loop_hangs_says_where_and_is_replaced_while_the_other_goes_on(make_rig: MakeRig) -> None:
    rig = make_rig(more_settings=IMPATIENT)
    rig.start(rate=RATE)
    rig.wait_ready()
    hung, other = pid_of(rig, "worker-0"), pid_of(rig, "worker-1")

    # The state of its sessions is in a file that it replaces when that changes: a pipe in the way of the new file, and
    # opening it waits for a reader that never comes.
    in_the_way = rig.data_dir / "run" / "worker-0.status.json.new"
    os.mkfifo(in_the_way)
    received = rig.counters()["worker-1"]["values"]["records_received"]
    rig.inject("abort@key-a0")
    wait_for(lambda: rig.events("child_hung"), f"the supervisor to notice: {rig.tail()}")
    in_the_way.unlink()
    wait_for(lambda: pid_of(rig, "worker-0") != hung, f"another worker: {rig.tail()}")
    assert rig.counters()["worker-1"]["values"]["records_received"] > received + RATE
    rig.wait_ready()
    rig.wait_received(int(RATE))

    rig.finish()

    assert [event["child"] for event in rig.events("child_hung")] == ["worker-0"]
    assert pid_of(rig, "worker-1") == other
    assert "Current thread" in rig.log_path.read_text(errors="replace")


@pytest.mark.requirement("F33", "CH-PROC-01")
@pytest.mark.parametrize("times", [3, pytest.param(6, marks=pytest.mark.nightly)])
def test_a_worker_that_crashes_again_and_again_waits_longer_each_time_and_touches_no_other(
    make_rig: MakeRig, times: int
) -> None:
    rig = make_rig(more_settings={"supervision": "restart_first_s = 0.1\nrestart_max_s = 30\nrestarts_per_hour = 60"})
    rig.start(rate=RATE)
    rig.wait_ready()
    rig.wait_received(int(RATE))
    others = {role: pid_of(rig, role) for role in ("worker-0", "writer", "publisher")}

    crashed = 0
    for _ in range(times):
        wait_for(lambda: pid_of(rig, "worker-1") != crashed, f"worker 1: {rig.tail()}")  # noqa: B023
        crashed = pid_of(rig, "worker-1")
        kill(crashed, signal.SIGSEGV)
        wait_for(lambda: pid_gone(crashed), "its end")  # noqa: B023
    rig.wait_ready()
    rig.wait_received(int(RATE))

    rig.finish()

    delays = [event["restart_in_s"] for event in rig.events("child_died")]
    assert len(delays) == times
    assert all(later == 2 * earlier for earlier, later in itertools.pairwise(delays)), delays
    assert {role: pid_of(rig, role) for role in others} == others
    assert "process_restarted" in rig.alerts()


def pid_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


@pytest.mark.requirement("F34", "CH-PROC-01")
def test_a_worker_that_runs_out_of_memory_dies_alone(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.start(rate=RATE)
    rig.wait_ready()
    rig.wait_received(int(RATE))
    victim = pid_of(rig, "worker-0")
    others = {role: pid_of(rig, role) for role in ("worker-1", "writer", "publisher")}

    with limits.group("memory", {"memory.limit_in_bytes": "0"}) as group:
        group.take(victim)
        rig.inject("abort@key-a0")  # records alone make it take next to no memory, another session does
        wait_for(lambda: pid_of(rig, "worker-0") != victim, f"another worker: {rig.tail()}")
    rig.wait_ready()
    rig.wait_received(int(RATE))

    rig.finish()

    assert {role: pid_of(rig, role) for role in others} == others
    assert [event["exit"] for event in rig.events("child_died")] == ["signal SIGKILL"]


@pytest.mark.requirement("F36")
def test_a_second_daemon_on_the_same_directory_is_refused_in_words_and_disturbs_nothing(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.start(rate=RATE)
    rig.wait_ready()
    pids = {name: block["pid"] for name, block in rig.counters().items()}

    second = subprocess.run(
        [sys.executable, "-m", "daemon.cli", "run", "-c", str(rig.config_path)],
        capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip

    assert second.returncode == 1
    assert f"a daemon is already running here (pid {pids['supervisor']})" in second.stderr
    rig.wait_received(int(RATE))
    assert {name: rig.counters()[name]["pid"] for name in pids} == pids
    rig.finish()
