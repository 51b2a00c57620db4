"""One daemon per data directory, also after its supervisor was killed and its children are still draining.

`run/sise.lock` is flock'ed by the supervisor; every child inherits the open file, so the lock ends with the last
process of the daemon. The file names the supervisor, `run/children.json` its children. Who finds the lock taken either
refuses (that supervisor lives) or ends the orphans: those that hold nothing are killed at once, the others drain by
themselves and are killed when they outstay the grace period. A pid is only trusted together with its start time: pids
are reused.
"""

import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path

import msgspec

from daemon.errors import Refused

LOCK_FILE = "sise.lock"
CHILDREN_FILE = "children.json"
POLL_S = 0.05
AFTER_KILL_S = 5.0  # a killed process is gone in milliseconds, unless it sits in the kernel
START_TIME_FIELD = 19  # of /proc/PID/stat, counted behind the command's closing parenthesis: field 22 of proc(5)
ZOMBIE_STATES = frozenset({b"Z", b"X"})


class ProcessId(msgspec.Struct, frozen=True):
    """A process for all time: pids are reused, pids with a start time are not."""

    pid: int
    start_ticks: int  # since boot


class Holder(msgspec.Struct, frozen=True):
    """Content of the lock file."""

    supervisor: ProcessId
    pid_namespace: int  # inode: a pid of another container means nothing here
    started_at: str


class ChildEntry(msgspec.Struct, frozen=True):
    """A line of children.json."""

    name: str
    process: ProcessId


def identify(pid: int) -> ProcessId | None:
    """Return *pid* with its start time; None if there is no such process, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(b")")[2].split()
    if fields[0] in ZOMBIE_STATES:
        return None
    return ProcessId(pid=pid, start_ticks=int(fields[START_TIME_FIELD]))


class DirectoryLock:
    """The lock on `<data_dir>/run`, held until close() in this process and in all that inherit `fd`."""

    def __init__(
        self,
        run_dir: Path,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.fd = -1
        self._run_dir = run_dir
        self._clock_s = clock_s
        self._sleep = sleep

    def acquire(
        self,
        *,
        orphan_grace_s: float,
        expendable: Container[str] = frozenset(),
        on_orphans: Callable[[list[str]], None] = lambda names: None,
    ) -> None:
        """Take the lock; wait *orphan_grace_s* for orphans of a dead supervisor, then kill them.

        Orphans with an *expendable* name are killed at once. *on_orphans* is told once who is there.
        Raises Refused, with the pid, if another daemon runs here.
        """
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._run_dir.chmod(0o700)
        self.fd = os.open(self._run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._acquire(orphan_grace_s, expendable, on_orphans)
        except BaseException:
            self.close()
            raise
        self._write_holder()

    def _acquire(
        self, orphan_grace_s: float, expendable: Container[str], on_orphans: Callable[[list[str]], None]
    ) -> None:
        kill_at_s = self._clock_s() + orphan_grace_s
        give_up_at_s = kill_at_s + AFTER_KILL_S
        is_waiting = False
        killed: set[ProcessId] = set()
        while not self._try_flock():
            orphans = self._orphans()
            self._refuse_if_alive()  # after the list was read: it is not that of somebody who has just taken over
            if not is_waiting:
                on_orphans([orphan.name for orphan in orphans])
                is_waiting = True
            is_overdue = self._clock_s() >= kill_at_s
            for orphan in orphans:
                if orphan.process not in killed and (is_overdue or orphan.name in expendable):
                    kill(orphan.process)
                    killed.add(orphan.process)
            if self._clock_s() >= give_up_at_s:
                raise Refused(f"{self._run_dir / LOCK_FILE}: its daemon is dead, but an unknown process still holds it")
            self._sleep(POLL_S)

    def _try_flock(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _refuse_if_alive(self) -> None:
        """Raise Refused if the recorded supervisor lives. A half-written record is read again at the next round."""
        try:
            holder = msgspec.json.decode(os.pread(self.fd, 4096, 0), type=Holder)
        except msgspec.DecodeError:
            return
        data_dir = self._run_dir.parent
        if holder.pid_namespace != _pid_namespace():
            raise Refused(f"{data_dir}: a daemon in another container uses it (pid {holder.supervisor.pid} there)")
        if identify(holder.supervisor.pid) == holder.supervisor:
            raise Refused(f"{data_dir}: a daemon is already running here (pid {holder.supervisor.pid})")

    def _write_holder(self) -> None:
        me = identify(os.getpid())
        assert me is not None
        holder = Holder(me, _pid_namespace(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        content = msgspec.json.encode(holder) + b"\n"
        os.pwrite(self.fd, content, 0)
        os.ftruncate(self.fd, len(content))

    def _orphans(self) -> list[ChildEntry]:
        """Return the recorded children that still live."""
        try:
            entries = msgspec.json.decode((self._run_dir / CHILDREN_FILE).read_bytes(), type=list[ChildEntry])
        except (FileNotFoundError, msgspec.DecodeError):
            return []
        return [entry for entry in entries if identify(entry.process.pid) == entry.process]

    def close(self) -> None:
        """Give up our share of the lock. The file stays: unlinking a lock file lets two owners in."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def kill(process: ProcessId) -> bool:
    """SIGKILL exactly that process, never one that has its pid now; False if it is gone."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if identify(process.pid) != process:  # read after the open: the pidfd is what gets the signal
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def write_atomically(path: Path, content: bytes) -> None:
    """Replace *path* (mode 0600); a reader sees the old content or the new. Raises OSError: the old one stays."""
    unfinished = path.with_name(path.name + ".new")
    try:
        _write_file(unfinished, content)
        unfinished.rename(path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def _write_file(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        if os.write(fd, content) < len(content):  # the disk took a part
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(fd)


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino
