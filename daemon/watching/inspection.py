"""Look at a daemon from outside: which processes it has, and whether it runs.

It reads files under `data_dir` and asks nobody. So it works also when HTTP is off, the monitor is dead or the daemon
hangs.
"""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from daemon.supervision.directory_lock import CHILDREN_FILE, LOCK_FILE, ChildEntry, Holder, identify
from daemon.supervision.process import ProcessState
from daemon.supervision.supervisor import NAME as SUPERVISOR
from daemon.watching import health
from daemon.watching.readings import Instruments, Reading, role_of
from native_pipeline.counters import BLOCK_BYTES, CountersBlock

RUN_DIR = "run"
COUNTERS_FILE = "counters"
ROLES = ("supervisor", "worker", "writer", "publisher", "recorder", "monitor")


class NotRunning(Exception):
    """No daemon runs on the directory; the message says how that is known."""


def find_processes(counters_path: Path) -> dict[str, int]:
    """Return {process: its block} of a counters file; empty: there is none. In the order of ROLES."""
    try:
        blocks = counters_path.stat().st_size // BLOCK_BYTES
    except OSError:
        return {}
    found = {}
    for number in range(blocks):
        snapshot = CountersBlock(counters_path, number, writable=False).snapshot()
        if snapshot is not None and role_of(snapshot["role"]) in ROLES:
            found[snapshot["role"]] = number
    return dict(sorted(found.items(), key=lambda item: (ROLES.index(role_of(item[0])), len(item[0]), item[0])))


class Inspection:
    """The running daemon of *data_dir*; read() as often as wanted."""

    def __init__(
        self,
        data_dir: Path,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        mono_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._data_dir = data_dir
        self._counters_path = data_dir / RUN_DIR / COUNTERS_FILE
        self._wall_ns = wall_ns
        self._mono_ns = mono_ns
        self._processes: dict[str, int] = {}
        self._instruments: Instruments | None = None

    def read(self) -> Reading:
        """Return the present numbers, without processes of an earlier plan. Raises NotRunning."""
        self._require_supervisor()
        processes = find_processes(self._counters_path)
        if SUPERVISOR not in processes:
            raise NotRunning(f"{self._data_dir}: no daemon has run here")
        if self._instruments is None or processes != self._processes:
            self._instruments = Instruments(
                counters_path=self._counters_path,
                processes=processes,
                data_dir=self._data_dir,
                wall_ns=self._wall_ns,
                mono_ns=self._mono_ns,
            )
            self._processes = processes
        reading = self._instruments.read()
        supervisor = next((one for one in reading.processes if one.name == SUPERVISOR), None)
        if supervisor is None:
            raise NotRunning(f"{self._data_dir}: the counters were written by another version")
        if supervisor.state == health.STOPPED:
            raise NotRunning(f"{self._data_dir}: the daemon has stopped")
        children = self._children()
        # What began before this supervisor, and is no child of it, belongs to an earlier plan.
        present = [
            one
            for one in reading.processes
            if one is supervisor or one.name in children or one.started_ns >= supervisor.started_ns
        ]
        known = {one.name for one in present}
        return msgspec.structs.replace(
            reading,
            processes=present,
            missing=sorted(children - known),
            workers={name: status for name, status in reading.workers.items() if name in known},
        )

    def _children(self) -> set[str]:
        """Return the names of the processes that the supervisor has at this moment."""
        try:
            content = (self._data_dir / RUN_DIR / CHILDREN_FILE).read_bytes()
            return {entry.name for entry in msgspec.json.decode(content, type=list[ChildEntry])}
        except (OSError, msgspec.DecodeError):  # a full disk: then only the counters say who there is
            return set()

    def _require_supervisor(self) -> None:
        """Raise NotRunning if the supervisor that the lock file names is dead. In another container: not knowable."""
        lock = self._data_dir / RUN_DIR / LOCK_FILE
        try:
            holder = msgspec.json.decode(lock.read_bytes(), type=Holder)
        except FileNotFoundError:
            raise NotRunning(f"{self._data_dir}: no daemon has run here") from None
        except PermissionError:
            raise NotRunning(f"{lock}: cannot be read: permission denied") from None
        except msgspec.DecodeError:
            return
        is_here = holder.pid_namespace == Path("/proc/self/ns/pid").stat().st_ino
        if is_here and identify(holder.supervisor.pid) != holder.supervisor:
            if self._has_stopped(holder.supervisor.pid):
                raise NotRunning(f"{self._data_dir}: the daemon has stopped")
            raise NotRunning(f"{self._data_dir}: the supervisor (pid {holder.supervisor.pid}) is dead")

    def _has_stopped(self, supervisor_pid: int) -> bool:
        """Whether it came to its own end, the last thing of which is its state."""
        number = find_processes(self._counters_path).get(SUPERVISOR)
        if number is None:
            return False
        snapshot = CountersBlock(self._counters_path, number, writable=False).snapshot()
        return (
            snapshot is not None
            and snapshot["pid"] == supervisor_pid
            and snapshot["state"] == ProcessState.STOPPED.value
        )
