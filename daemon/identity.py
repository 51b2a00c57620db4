"""Which data directory this is: an identity that is made once, and is what the servers know of their owner.

`sinks/owner.py` says why a database and a Redis belong to one data directory at a time.
"""

import os
import socket
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daemon.supervision.directory_lock import identify

IDENTITY_FILE = "identity"  # in state/ of the data directory
RENEW_S = 5.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PROCESS_NAMES = Path("/proc/self/ns/pid")
LEASE_S = 30  # several renewals, and a batch that takes long; who replaces a burnt machine waits that long at most


@dataclass(frozen=True, slots=True)
class Owner:
    """One data directory."""

    identity: uuid.UUID
    place: str  # for people
    process: str = ""  # token of its supervisor; empty: unknown


def owner_of(data_dir: Path, supervisor: int) -> Owner:
    """Return who *data_dir* is; it gets its identity now if it has none, or none that can be read. Raises OSError.

    supervisor: process id of the one that runs there.
    """
    path = data_dir / "state" / IDENTITY_FILE
    process = token_of(supervisor)
    with suppress(FileNotFoundError, ValueError):
        return _owner(data_dir, path, process)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    identity = uuid.uuid4()
    made = path.with_name(f"{path.name}.{os.getpid()}.new")
    with made.open("w") as file:
        file.write(f"{identity}\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(made, path)
    except FileExistsError:  # by another process, since we looked, or damaged
        with suppress(ValueError):
            return _owner(data_dir, path, process)
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
    return _owner(data_dir, path, process)


def _owner(data_dir: Path, path: Path, process: str) -> Owner:
    return Owner(uuid.UUID(path.read_text().strip()), f"{socket.gethostname()}:{data_dir.absolute()}", process)


def token_of(pid: int) -> str:
    """Name a process of this boot of this machine and of our name space for ever; empty: there is none, or no /proc."""
    try:
        process = identify(pid)
        return "" if process is None else f"{_here()}/{pid}/{process.start_ticks}"
    except OSError:
        return ""


def is_dead(token: str) -> bool:
    """Whether the process of *token* would be seen from here if it lived, and is not there."""
    place, _, started = token.rpartition("/")
    here, _, pid = place.rpartition("/")
    try:
        if here != _here() or not pid.isdecimal():
            return False
        found = identify(int(pid))
        return _is_gone(int(pid)) if found is None else str(found.start_ticks) != started
    except OSError:  # no descriptor left, say: that is no sign of death
        return False


def _is_gone(pid: int) -> bool:
    """Whether the kernel knows no such process: /proc may hide those of other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _here() -> str:
    """Name this boot of the machine, and the name space in which process ids mean something."""
    return f"{BOOT_ID.read_text().strip()}/{PROCESS_NAMES.readlink()}"


def refusal(server: str, place: str, age_s: int, key: str) -> str:
    """Say in one line that *server* is another's."""
    return (
        f"{key}: this {server} belongs to the daemon of {place}, seen there {age_s} s ago: stop that one, or give each"
        f" a {server} of its own"
    )
