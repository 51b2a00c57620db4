"""One daemon per data directory."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from daemon.errors import Refused
from daemon.supervision import directory_lock
from daemon.supervision.directory_lock import ChildEntry, DirectoryLock, Holder, ProcessId, identify, kill
from daemon.supervision.run_records import RunRecords

NOBODY = ProcessId(pid=2**22 + 1, start_ticks=1)  # above the largest pid


class Waiting:
    """A clock that only moves when somebody sleeps, and then lets something happen."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.at: dict[float, Callable[[], None]] = {}

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        for due_s in [due_s for due_s in self.at if due_s <= self.now_s]:
            self.at.pop(due_s)()

    def clock_s(self) -> float:
        return self.now_s


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


@pytest.fixture
def lock(tmp_path: Path, waiting: Waiting) -> DirectoryLock:
    return DirectoryLock(tmp_path / "run", clock_s=waiting.clock_s, sleep=waiting.sleep)


def held_by(run_dir: Path, supervisor: ProcessId, *, namespace: int | None = None) -> int:
    """Hold the lock as the children of *supervisor* would; return the file descriptor."""
    run_dir.mkdir(exist_ok=True)
    fd = os.open(run_dir / "sise.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    namespace = Path("/proc/self/ns/pid").stat().st_ino if namespace is None else namespace
    os.pwrite(fd, msgspec.json.encode(Holder(supervisor, namespace, "2026-11-22T00:00:00Z")), 0)
    return fd


def me() -> ProcessId:
    found = identify(os.getpid())
    assert found is not None
    return found


def test_a_free_directory_is_locked_at_once_and_names_its_supervisor(lock: DirectoryLock, tmp_path: Path) -> None:
    lock.acquire(orphan_grace_s=10.0)

    holder = msgspec.json.decode((tmp_path / "run" / "sise.lock").read_bytes(), type=Holder)
    assert holder.supervisor == me()
    lock.close()


def test_a_lock_file_that_was_left_behind_is_no_obstacle(lock: DirectoryLock, tmp_path: Path) -> None:
    os.close(held_by(tmp_path / "run", me()))

    lock.acquire(orphan_grace_s=10.0)

    lock.close()


def test_a_living_supervisor_is_named_in_the_refusal(lock: DirectoryLock, tmp_path: Path) -> None:
    fd = held_by(tmp_path / "run", me())

    with pytest.raises(Refused, match=rf"already running here \(pid {os.getpid()}\)"):
        lock.acquire(orphan_grace_s=10.0)

    os.close(fd)


def test_a_pid_that_was_reused_is_not_the_dead_supervisor(
    lock: DirectoryLock, tmp_path: Path, waiting: Waiting
) -> None:
    fd = held_by(tmp_path / "run", ProcessId(os.getpid(), me().start_ticks - 1))
    waiting.at[3.0] = lambda: os.close(fd)

    lock.acquire(orphan_grace_s=10.0)

    assert waiting.now_s == pytest.approx(3.0, abs=0.1)
    lock.close()


def test_a_daemon_in_another_container_is_refused_whatever_its_pid_is_here(lock: DirectoryLock, tmp_path: Path) -> None:
    fd = held_by(tmp_path / "run", NOBODY, namespace=1)

    with pytest.raises(Refused, match="another container"):
        lock.acquire(orphan_grace_s=10.0)

    os.close(fd)


def test_orphans_are_waited_for_and_reported_once(lock: DirectoryLock, tmp_path: Path, waiting: Waiting) -> None:
    fd = held_by(tmp_path / "run", NOBODY)
    entries = [ChildEntry("writer", me()), ChildEntry("worker-0", NOBODY)]
    (tmp_path / "run" / "children.json").write_bytes(msgspec.json.encode(entries))
    waiting.at[5.0] = lambda: os.close(fd)
    reported: list[list[str]] = []

    lock.acquire(orphan_grace_s=10.0, on_orphans=reported.append)

    assert reported == [["writer"]]
    lock.close()


def test_somebody_who_starts_while_we_wait_for_orphans_wins(
    lock: DirectoryLock, tmp_path: Path, waiting: Waiting
) -> None:
    fd = held_by(tmp_path / "run", NOBODY)
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    successor = msgspec.json.encode(Holder(me(), namespace, "now"))

    def take_over() -> None:
        os.ftruncate(fd, 0)
        os.pwrite(fd, successor, 0)

    waiting.at[1.0] = take_over

    with pytest.raises(Refused, match=f"pid {os.getpid()}"):
        lock.acquire(orphan_grace_s=10.0)

    os.close(fd)


def test_only_recorded_processes_with_their_start_time_are_killed(
    lock: DirectoryLock, tmp_path: Path, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = held_by(tmp_path / "run", NOBODY)
    reused = ProcessId(os.getppid(), 1)
    entries = [ChildEntry("writer", me()), ChildEntry("worker-0", reused)]
    (tmp_path / "run" / "children.json").write_bytes(msgspec.json.encode(entries))
    killed: list[ProcessId] = []
    monkeypatch.setattr(directory_lock, "kill", killed.append)
    waiting.at[9.9] = lambda: unkilled.extend(killed)
    waiting.at[11.0] = lambda: os.close(fd)
    unkilled: list[ProcessId] = []

    lock.acquire(orphan_grace_s=10.0)

    assert unkilled == []
    assert killed == [me()]
    lock.close()


@pytest.mark.requirement("CH-PROC-01")
def test_orphans_that_hold_nothing_are_killed_at_once_and_the_others_get_their_time(
    lock: DirectoryLock, tmp_path: Path, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = held_by(tmp_path / "run", NOBODY)
    parent = identify(os.getppid())
    assert parent is not None
    entries = [ChildEntry("writer", me()), ChildEntry("worker-0", parent), ChildEntry("publisher", NOBODY)]
    (tmp_path / "run" / "children.json").write_bytes(msgspec.json.encode(entries))
    killed: list[tuple[float, ProcessId]] = []
    monkeypatch.setattr(directory_lock, "kill", lambda process: killed.append((waiting.now_s, process)))
    waiting.at[2.0] = lambda: os.close(fd)

    lock.acquire(orphan_grace_s=10.0, expendable={"writer", "publisher"})

    assert killed == [(0.0, me())]
    lock.close()


def test_nobody_is_killed_for_a_supervisor_that_lives(
    lock: DirectoryLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = held_by(tmp_path / "run", me())
    (tmp_path / "run" / "children.json").write_bytes(msgspec.json.encode([ChildEntry("writer", me())]))
    killed: list[ProcessId] = []
    monkeypatch.setattr(directory_lock, "kill", killed.append)

    with pytest.raises(Refused):
        lock.acquire(orphan_grace_s=10.0, expendable={"writer"})

    assert killed == []
    os.close(fd)


def test_an_unknown_holder_is_not_waited_for_without_end(lock: DirectoryLock, tmp_path: Path, waiting: Waiting) -> None:
    fd = held_by(tmp_path / "run", NOBODY)

    with pytest.raises(Refused, match="unknown process"):
        lock.acquire(orphan_grace_s=10.0)

    assert waiting.now_s < 20.0
    os.close(fd)


def test_a_damaged_record_of_children_is_no_obstacle(lock: DirectoryLock, tmp_path: Path, waiting: Waiting) -> None:
    fd = held_by(tmp_path / "run", NOBODY)
    (tmp_path / "run" / "children.json").write_bytes(b'[{"name":')
    waiting.at[1.0] = lambda: os.close(fd)

    lock.acquire(orphan_grace_s=10.0)

    lock.close()


def test_kill_spares_whoever_has_the_pid_now() -> None:
    assert not kill(ProcessId(os.getpid(), me().start_ticks - 1))
    assert not kill(NOBODY)


def test_files_are_private(lock: DirectoryLock, tmp_path: Path) -> None:
    lock.acquire(orphan_grace_s=10.0)
    RunRecords(tmp_path / "run").write_children([ChildEntry("writer", me())])

    run_dir = tmp_path / "run"
    assert run_dir.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in run_dir.iterdir()} == {
        "sise.lock": 0o600,
        "children.json": 0o600,
    }
    lock.close()
