"""Start daemons of dummies and watch them: see dummy_daemon.py."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from daemon.config import Supervision
from tests.integration.dummy_daemon import Behaviour, Dummy, Plan

REPOSITORY = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "dummy_daemon.py"
PATIENCE_S = 30.0
QUICK = Supervision(grace_s=3.0, restart_first_s=0.05, restart_max_s=0.2)


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Daemon:
    """One run of dummy_daemon.py on a data directory."""

    def __init__(self, data_dir: Path, plan: Plan) -> None:
        self.data_dir = data_dir
        plan_file = data_dir.with_suffix(".plan.json")
        plan_file.write_bytes(msgspec.json.encode(plan))
        self._log_file = data_dir.with_suffix(f".{time.monotonic_ns()}.log")
        with self._log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, PROGRAM, data_dir, plan_file],
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )

    def events(self, name: str) -> list[tuple[str, int, int]]:
        """Return (event, pid, monotonic time) of one child, over all its lives."""
        with suppress(FileNotFoundError):
            lines = (self.data_dir / "events" / name).read_text().splitlines()
            return [(event, int(pid), int(at)) for event, pid, at in map(str.split, lines)]
        return []

    def lives(self, name: str) -> list[int]:
        """Return the pids under which *name* came to run."""
        return [pid for event, pid, _ in self.events(name) if event.startswith("running")]

    def wait_running(self, name: str, lives: int = 1) -> int:
        """Wait for the *lives*-th time that *name* runs; return its pid."""
        pids: list[int] = wait_for(lambda: self.lives(name)[lives - 1 :], f"{name} to run ({self.log_text()})")
        return pids[0]

    def wait_logged(self, event: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = wait_for(
            lambda: [line for line in self.log() if line["event"] == event], f"{event} in {self.log_text()}"
        )
        return found[0]

    def log_text(self) -> str:
        return self._log_file.read_text()

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{") and line[-1] == "}"]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def end_all(self) -> None:
        """Leave nothing behind, whatever the test did."""
        names = [file.name for file in (self.data_dir / "events").glob("*")]
        pids = {pid for name in names for _, pid, _ in self.events(name)}
        self.process.kill()
        self.process.wait()
        for pid in filter(is_alive, pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


Start = Callable[..., Daemon]


@contextmanager
def dummies(tmp_path: Path) -> Iterator[Start]:
    """Yield what starts a daemon of dummies; a second call is a second daemon on the same data directory."""
    daemons = []
    data_dir = tmp_path / "data"
    data_dir.mkdir()

    def make(*processes: Dummy, supervision: Supervision = QUICK, chore: str = "", waits: bool = False) -> Daemon:
        daemons.append(Daemon(data_dir, Plan(processes=processes, supervision=supervision, chore=chore, waits=waits)))
        return daemons[-1]

    try:
        yield make
    finally:
        for daemon in daemons:
            daemon.end_all()


WORKER = Dummy(role="worker", index=0, drain_order=1, wakes=("writer",))
WRITER = Dummy(role="writer", drain_order=2, wakes=("writer",))
PUBLISHER = Dummy(role="publisher", drain_order=2)
MONITOR = Dummy(role="monitor", drain_order=3, best_effort=True)


def behaving(dummy: Dummy, **behaviour: Any) -> Dummy:
    return msgspec.structs.replace(dummy, behaviour=Behaviour(**behaviour))
