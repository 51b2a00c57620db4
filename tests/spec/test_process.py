"""What a child is told, and what it tells."""

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from daemon.config import Account, Config
from daemon.errors import ConfigError, Refused, RingError, RingReplaced
from daemon.supervision import process
from daemon.supervision.process import Assignment, Child, ExitCode, ProcessSpec, ProcessState
from native_pipeline.counters import COUNTERS, CountersBlock, create_counters_file


class Plan(msgspec.Struct, frozen=True):
    symbols: tuple[str, ...]


@pytest.fixture
def assignment(tmp_path: Path) -> Assignment:
    create_counters_file(tmp_path / "counters", 2)
    return Assignment(
        name="worker-0",
        role="worker",
        index=0,
        parent_pid=os.getppid(),
        data_dir=str(tmp_path),
        counters_path=str(tmp_path / "counters"),
        counters_block=1,
        processes={"supervisor": 0, "worker-0": 1},
        wake_fds={"writer": os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)},
        lock_fd=-1,
        drain_s=9.0,
        config=Config(accounts=(Account(name="main", venue="kis", app_secret="s3cret"),)),
        payload=process.pack(Plan(("005930",))),
    )


@pytest.fixture
def child(assignment: Assignment) -> Iterator[Child]:
    stop_fd, stop_write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    counters = CountersBlock(assignment.counters_path, assignment.counters_block)
    counters.take(assignment.name)
    yield Child(assignment, counters, stop_fd, stop_write_fd)
    for fd in (stop_fd, stop_write_fd, *assignment.wake_fds.values()):
        os.close(fd)


def is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_a_name_is_the_role_with_the_index_if_there_is_one() -> None:
    spec = ProcessSpec(role="worker", index=3, argv=(), counters_block=1, drain_order=1)

    assert spec.name == "worker-3"
    assert msgspec.structs.replace(spec, role="writer", index=None).name == "writer"


def test_an_assignment_survives_the_way_to_the_child(assignment: Assignment) -> None:
    told = msgspec.msgpack.encode(assignment)

    assert msgspec.msgpack.decode(told, type=Assignment) == assignment


def test_a_role_gets_the_plan_of_its_spec(child: Child) -> None:
    assert Plan(("005930",)) == child.unpack(Plan)


def test_states_follow_the_life_of_the_process(child: Child) -> None:
    seen = [child.state]
    child.running()
    seen.append(child.state)
    child.ask_to_stop()
    seen.append(child.state)
    child.running()
    seen.append(child.state)

    assert seen == [ProcessState.STARTING, ProcessState.RUNNING, ProcessState.DRAINING, ProcessState.DRAINING]
    assert (child.counters.snapshot() or {})["state"] == ProcessState.DRAINING


@pytest.mark.requirement("GS-01")
def test_stop_fd_is_readable_from_the_stop_on(child: Child) -> None:
    before = is_readable(child.stop_fd)
    child.ask_to_stop()
    child.ask_to_stop()

    assert (before, child.stopping) == (False, True)
    assert [is_readable(child.stop_fd) for _ in range(2)] == [True, True]


def test_wait_takes_the_wake_up(child: Child) -> None:
    os.eventfd_write(child.wake_fds["writer"], 3)

    assert [child.wait("writer", 0.0) for _ in range(2)] == [True, False]


@pytest.mark.requirement("GS-01")
def test_wait_ends_when_a_stop_is_asked_for_but_not_again_while_draining(child: Child) -> None:
    previous = signal.signal(signal.SIGALRM, lambda *_: child.ask_to_stop())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        while not child.stopping:
            assert not child.wait("writer", 60.0)
    finally:
        signal.signal(signal.SIGALRM, previous)

    os.eventfd_write(child.wake_fds["writer"], 1)
    assert [child.wait("writer", 0.0) for _ in range(2)] == [True, False]


def test_waiting_beats(child: Child) -> None:
    before = (child.counters.snapshot() or {})["heartbeat_mono_ns"]

    child.wait(None, 0.0)

    assert (child.counters.snapshot() or {})["heartbeat_mono_ns"] > before
    assert child.counters.get("rss_bytes") > 1_000_000


def test_a_child_whose_parent_is_another_process_is_orphaned(assignment: Assignment, child: Child) -> None:
    adopted = Child(msgspec.structs.replace(assignment, parent_pid=1 + os.getppid()), child.counters, -1, -1)

    assert (child.orphaned, adopted.orphaned) == (False, True)


def test_gauges_of_a_living_process_begin_at_zero_but_not_counters_and_times() -> None:
    gauges = process.momentary_gauges()

    assert {"connections_ready", "database_connected", "writer_lag_records"} <= set(gauges)
    assert not {"last_commit_ns", "records_received"} & set(gauges)
    assert set(gauges) <= {name for name, _, _ in COUNTERS}


@pytest.mark.parametrize(
    ("raised", "while_starting", "while_running"),
    [
        (ConfigError("file: key: wrong"), ExitCode.CONFIG, ExitCode.CONFIG),
        (RingError("not a ring"), ExitCode.CANNOT_BOOT, ExitCode.FAILED),
        (RingReplaced("gone"), ExitCode.RING_REPLACED, ExitCode.RING_REPLACED),
        (ExceptionGroup("tasks", [RingReplaced("gone")]), ExitCode.RING_REPLACED, ExitCode.RING_REPLACED),
        (ExceptionGroup("tasks", [RingReplaced("gone"), KeyError(1)]), ExitCode.FAILED, ExitCode.FAILED),
        (Refused("login"), ExitCode.CANNOT_BOOT, ExitCode.FAILED),
        (RuntimeError("bug"), ExitCode.FAILED, ExitCode.FAILED),
    ],
)
def test_what_a_role_raises_becomes_an_exit_code(
    child: Child, raised: Exception, while_starting: ExitCode, while_running: ExitCode
) -> None:
    def fail(_child: Child) -> int:
        raise raised

    codes = [process.run_entry(child, fail)]
    child.running()
    codes.append(process.run_entry(child, fail))

    assert codes == [while_starting, while_running]


@pytest.mark.requirement("F43")
def test_a_ring_that_was_deleted_is_one_line_without_a_traceback(child: Child) -> None:
    def fail(_child: Child) -> int:
        raise ExceptionGroup("tasks", [RingReplaced("/data/rings/worker-0.ring: the file was deleted")])

    with structlog.testing.capture_logs() as logs:
        process.run_entry(child, fail)

    (line,) = logs
    assert line == {
        "event": "ring_to_be_opened_anew",
        "log_level": "warning",
        "reason": "/data/rings/worker-0.ring: the file was deleted",
    }


def test_returning_nothing_is_fine_and_a_code_is_passed_on(child: Child) -> None:
    assert process.run_entry(child, lambda _: None) == 0
    assert process.run_entry(child, lambda _: 3) == 3
