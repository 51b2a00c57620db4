"""What the supervisor writes down in `run/`: its pid, and its children for a successor that finds them orphaned.

Neither is needed to go on: a disk that is full costs the record, never the daemon. What could not be written is tried
again.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from daemon import log
from daemon.supervision.directory_lock import CHILDREN_FILE, ChildEntry, write_atomically

PID_FILE = "sise.pid"


class RunRecords:
    """The files in *run_dir*; errors are logged once for each change."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._unwritten: dict[str, bytes] = {}
        self._problem = ""

    def write_pid(self, pid: int) -> None:
        """Store the supervisor's own pid, for service managers."""
        self._write(PID_FILE, f"{pid}\n".encode())

    def write_children(self, children: Sequence[ChildEntry]) -> None:
        """Store the living children."""
        self._write(CHILDREN_FILE, msgspec.json.encode(children) + b"\n")

    def retry(self) -> None:
        """Write what could not be written before."""
        for name, content in list(self._unwritten.items()):
            self._write(name, content)

    def remove(self) -> None:
        """Delete both files: nobody is left."""
        for name in (PID_FILE, CHILDREN_FILE):
            with suppress(OSError):
                (self._run_dir / name).unlink(missing_ok=True)

    def _write(self, name: str, content: bytes) -> None:
        try:
            write_atomically(self._run_dir / name, content)
        except OSError as exc:
            self._unwritten[name] = content
            self._note(exc.strerror or str(exc), name)
        else:
            self._unwritten.pop(name, None)
            if not self._unwritten:
                self._note("", name)

    def _note(self, problem: str, name: str) -> None:
        if problem == self._problem:
            return
        self._problem = problem
        if problem:
            log.get().error("run_record_not_written", path=str(self._run_dir / name), error=problem)
        else:
            log.get().info("run_records_written_again")
