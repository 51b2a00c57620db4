"""Which data directory this is: an identity that is made once, and is what the servers know of their owner.

`sinks/owner.py` says why a database and a Redis belong to one data directory at a time.
"""

import os
import socket
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

IDENTITY_FILE = "identity"  # in state/ of the data directory
RENEW_S = 5.0
LEASE_S = 30  # several renewals, and a batch that takes long; who replaces a burnt machine waits that long at most


@dataclass(frozen=True, slots=True)
class Owner:
    """One data directory."""

    identity: uuid.UUID
    place: str


def owner_of(data_dir: Path) -> Owner:
    """Return who *data_dir* is; it gets its identity now if it has none, or none that can be read. Raises OSError."""
    path = data_dir / "state" / IDENTITY_FILE
    with suppress(FileNotFoundError, ValueError):
        return _owner(data_dir, path)
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
            return _owner(data_dir, path)
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
    return _owner(data_dir, path)


def _owner(data_dir: Path, path: Path) -> Owner:
    return Owner(uuid.UUID(path.read_text().strip()), f"{socket.gethostname()}:{data_dir.absolute()}")


def refusal(server: str, place: str, age_s: int, key: str) -> str:
    """Say in one line that *server* is another's."""
    return (
        f"{key}: this {server} belongs to the daemon of {place}, seen there {age_s} s ago: stop that one, or give each"
        f" a {server} of its own"
    )
