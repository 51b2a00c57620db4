"""What each worker writes about its sessions: `run/worker-N.status.json`, read when it has changed.

Numbers are in the counters; this file (`daemon/ingest/worker_status.py` writes it) holds what has a name: accounts,
symbols, reasons. A worker that has written none yet, or a file that cannot be read, shows no sessions.
"""

from pathlib import Path

import msgspec

SUFFIX = ".status.json"
RUN_DIR = "run"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A registration that is not confirmed, or confirmed and silent."""

    kind: str = ""
    market: str = ""
    exchange: str = ""
    symbol: str = ""
    state: str = ""
    attempts: int = 0
    reason: str = ""


class SessionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One session at a venue. `markets`: wall ns of the newest record, 0: none yet, of `kr`, `kr.nxt`, ..."""

    account: str = ""
    venue: str = ""
    state: str = ""
    is_degraded: bool = False
    confirmed: int = 0
    desired: int = msgspec.field(default=0, name="wanted")
    problems: list[Problem] = msgspec.field(default_factory=list, name="unconfirmed")
    unlisted: int = 0  # problems that the file left out
    markets: dict[str, int] = {}


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Content of the file."""

    sessions: list[SessionStatus] = []


class WorkerStatusFiles:
    """The files of the workers of one daemon."""

    def __init__(self, data_dir: Path) -> None:
        self._run_dir = data_dir / RUN_DIR
        self._known: dict[str, tuple[tuple[int, int, int], WorkerStatus]] = {}

    def read(self, worker: str) -> WorkerStatus:
        """Return what *worker* (`worker-0`) says of its sessions."""
        path = self._run_dir / f"{worker}{SUFFIX}"
        try:
            found = path.stat()
            identity = (found.st_ino, found.st_mtime_ns, found.st_size)
            if worker not in self._known or self._known[worker][0] != identity:
                self._known[worker] = (identity, _decode(path.read_bytes()))
        except OSError:
            self._known.pop(worker, None)
            return WorkerStatus()
        return self._known[worker][1]


def _decode(content: bytes) -> WorkerStatus:
    try:
        return msgspec.json.decode(content, type=WorkerStatus)
    except msgspec.DecodeError:
        return WorkerStatus()
