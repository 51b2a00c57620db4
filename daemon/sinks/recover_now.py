"""`sise recover`: store every spilled batch now, with the daemon stopped or beside it.

Only the writer may move the cursors of a running daemon, so beside it only batches that it has registered, or that its
cursors are beyond, are stored; each by whoever is first. With the daemon stopped everything is registered here, under
its lock. That is released before anything is stored: a daemon that starts meanwhile must not wait for that.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import msgspec

from daemon.config import Config
from daemon.identity import owner_of
from daemon.planning import planned_streams
from daemon.sinks.database import Database
from daemon.sinks.isolation import new_batch
from daemon.sinks.recovery import Registrar, Replayer
from daemon.sinks.spill import DIRECTORY, SpillDirectory, SpillFile
from daemon.sinks.stream_gaps import StreamGaps
from daemon.supervision.directory_lock import LOCK_FILE, Holder, identify

WAIT_S = 5.0  # for another `sise recover` that registers, and for what is left of a daemon
POLL_S = 0.05


class _Ignored:
    """Counters of a process that has none."""

    def increment(self, name: str, n: int = 1, /) -> None:
        pass

    def set(self, name: str, value: int, /) -> None:
        pass


def recover(config: Config, *, tell: Callable[[str], object]) -> int:
    """Store what waits in the data directory; return how many files remain. Raises psycopg.Error."""
    data_dir = Path(config.data_dir)
    directory = SpillDirectory(data_dir / DIRECTORY, quota_bytes=0, min_free_bytes=0)
    directory.files()  # moves aside what is damaged
    total, _ = directory.size()
    if not total and directory.unreadable:  # the directory itself: nobody knows what is in it
        _tell_unreadable(directory, tell)
        return len(directory.unreadable)
    if not total:
        tell("nothing to do: no batch is spilled")
        return 0

    done = 0

    def show(file: SpillFile) -> None:
        nonlocal done
        done += 1
        tell(f"{done}/{total} {file.path.name}: {file.header.records:,} records")

    owner = owner_of(data_dir, supervisor=0)  # nobody: a command ends, and that is nobody's death
    gaps = StreamGaps(partial(planned_streams, data_dir))
    with closing(Database(config.database, owner, gaps)) as database:
        with _daemon_kept_away(data_dir) as is_stopped:
            if is_stopped:
                Registrar(
                    directory=directory, database=database, counters=_Ignored(), first={}, gaps=gaps
                ).bring_up_to_date()
            else:
                tell("the daemon is running: what it has registered is stored beside it")
        replayer = Replayer(directory=directory, database=database, batch=new_batch(), counters=_Ignored(), gaps=gaps)
        found = replayer.replay(after_each=show)
    left, _ = directory.size()
    _tell_unreadable(directory, tell)
    tell(f"{found.records} records of {found.stored} files stored, {found.lost} batches lost, {left} files remain")
    return left + found.lost


def _tell_unreadable(directory: SpillDirectory, tell: Callable[[str], object]) -> None:
    for name, reason in directory.unreadable.items():
        tell(f"{name} cannot be read: {reason}")


@contextmanager
def _daemon_kept_away(data_dir: Path) -> Iterator[bool]:
    """Hold the daemon's lock if it is free; yields whether it was."""
    run_dir = data_dir / "run"
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _is_locked(fd)
    finally:
        os.close(fd)


def _is_locked(fd: int) -> bool:
    """Take the lock; False if a daemon has it. Whoever else has it does not for long."""
    give_up_at_s = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _is_daemons(fd) or time.monotonic() >= give_up_at_s:
                return False
            time.sleep(POLL_S)
        else:
            return True


def _is_daemons(fd: int) -> bool:
    """Whether the supervisor that the lock's file names lives; that of another container is only waited for."""
    try:
        holder = msgspec.json.decode(os.pread(fd, 4096, 0), type=Holder)
    except msgspec.DecodeError:
        return False
    return identify(holder.supervisor.pid) == holder.supervisor
