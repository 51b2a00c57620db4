"""`sise recover`: store every spilled batch now, with the daemon stopped or beside it.

Only the writer may move the cursors of a running daemon, so beside it only batches that it has registered are stored;
each by whoever is first. With the daemon stopped its lock is held meanwhile, and everything is registered here.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from daemon.config import Config
from daemon.sinks.database import Database
from daemon.sinks.isolation import new_batch
from daemon.sinks.recovery import Registrar, Replayer
from daemon.sinks.spill import DIRECTORY, SpillDirectory, SpillFile
from daemon.supervision.directory_lock import LOCK_FILE


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
    if not total:
        tell("nothing to do: no batch is spilled")
        return 0

    done = 0

    def show(file: SpillFile) -> None:
        nonlocal done
        done += 1
        tell(f"{done}/{total} {file.path.name}: {file.header.records} records")

    with _daemon_kept_away(data_dir) as is_stopped, closing(Database(config.database)) as database:
        if is_stopped:
            Registrar(directory=directory, database=database, counters=_Ignored(), first={}).bring_up_to_date()
        else:
            tell("the daemon is running: what it has registered is stored beside it")
        replayer = Replayer(directory=directory, database=database, batch=new_batch(), counters=_Ignored())
        found = replayer.replay(after_each=show)
    left, _ = directory.size()
    for name, reason in directory.unreadable.items():
        tell(f"{name} cannot be read: {reason}")
    tell(f"{found.records} records of {found.stored} files stored, {found.lost} batches lost, {left} files remain")
    return left + found.lost


@contextmanager
def _daemon_kept_away(data_dir: Path) -> Iterator[bool]:
    """Hold the daemon's lock if it is free; yields whether it was."""
    run_dir = data_dir / "run"
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)
