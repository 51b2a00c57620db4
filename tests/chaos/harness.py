"""The daemon as its user starts it, with everything around it to break: the acceptance harness.

Written from the documents, beside `tests/rig.py`: another venue, another journal, another verdict. Processes are found
by their working directory and told apart by the role in their title, as documented.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psycopg
import redis

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.chaos.harness_proxy import CuttingProxy
from tests.chaos.harness_verdict import Verdict, judge

ROOT = Path(__file__).parents[2]
SISE = Path(sys.executable).parent / "sise"
ROLES = ("worker", "writer", "publisher", "recorder", "monitor", "supervisor")
SYMBOLS_EACH = 20
NEVER_LOGGED = (
    "role_failed",
    "records_damaged",
    "records_missing_in_ring",
    "records_missing_before_spill",
    "spill_file_damaged",
    "spilled_batch_lost",
    "ring_lost",
    "ring_file_gone",
    "restart_budget_spent",
)
POLL_S = 0.02
FLOWING_S = 30.0
SETTLED_S = 90.0
STOPPED_S = 30.0

CONFIG = """
data_dir = "{data}"
workers = 2
[database]
dsn = "{dsn}"
retry_delays_s = [0.2, 0.3, 0.5]
connect_timeout_s = 2
[redis]
url = "{redis}"
retry_max_s = 1.0
[http]
port = 0
[ring]
capacity_mb = {ring_mb}
wal_sync = "{wal_sync}"
[raw]
enabled = {raw}
ring_mb = 4
[spill]
min_free_mb = 0
interval_s = 0.3
probe_s = 0.5
recover_every_s = 5.0
[ingest]
subscribe_interval_ms = 2
backoff_first_s = 0.1
backoff_max_s = 1.0
slot_held_backoff_s = 0.5
connects_per_10min = 1000
connects_per_10min_address = 1000
[supervision]
grace_s = 10.0
restarts_per_hour = 1000
"""


class Harness:
    """One daemon, one venue, one PostgreSQL behind a proxy, one Redis; everything below *directory*."""

    def __init__(
        self, directory: Path, postgres: EmbeddedPostgres, redis_server: EmbeddedRedis, *, rate: float, seed: str
    ) -> None:
        self.directory = directory
        self.postgres = postgres
        self.redis_server = redis_server
        self.data = directory / "data"
        self.config = directory / "sise.toml"
        self.journal = directory / "journal"
        self.log = directory / "daemon.log"
        self.proxy = CuttingProxy(postgres.port)
        self.files_destroyed = False
        self._rate, self._seed = rate, seed
        self._home = directory / "home"  # of the daemon and nobody else: so its processes are told from all others
        self._venue: subprocess.Popen[str] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None
        self._log_file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._home.mkdir(parents=True, exist_ok=True)
        self.proxy.__enter__()
        accounts = {
            f"key-{name}": [f"{group}{number:05d}" for number in range(SYMBOLS_EACH)]
            for group, name in enumerate(("main", "spare"), start=1)
        }
        words = [f"{key}={','.join(symbols)}" for key, symbols in accounts.items()]
        self._venue = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.harness_venue", "--journal", str(self.journal), "--rate",
             str(self._rate), "--seed", self._seed, "--accounts", *words],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._venue.stdout is not None
        port = int(self._venue.stdout.readline())
        dsn = self.postgres.dsn.replace(f":{self.postgres.port}/", f":{self.proxy.port}/")
        choice = random.Random(f"settings {self._seed}")
        text = CONFIG.format(
            data=self.data, dsn=dsn, redis=self.redis_server.url,
            ring_mb=choice.choice((2, 4, 16)),
            wal_sync=choice.choice(("off", "1s", "batch")),
            raw=choice.choice(("true", "false")),
        )  # fmt: skip
        for key, symbols in accounts.items():
            name = key.removeprefix("key-")
            text += (
                f'[[accounts]]\nname = "{name}"\nvenue = "kis"\napp_key = "{key}"\napp_secret = "secret-{name}"\n'
                f'ws_url = "ws://127.0.0.1:{port}"\nrest_url = "http://127.0.0.1:{port}"\nmax_subscriptions = 41\n'
                f'[[feeds]]\naccount = "{name}"\nmarket = "kr"\nkinds = ["trade", "orderbook"]\n'
                f"symbols = {json.dumps(symbols)}\n"
            )
        self.config.write_text(text, encoding="utf-8")
        self._log_file = self.log.open("ab")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill_all()
        if self._venue is not None:
            assert self._venue.stdin is not None
            assert self._venue.stdout is not None
            self._venue.stdin.close()
            self._venue.wait(10)
            self._venue.stdout.close()
        self.proxy.__exit__(kind, value, trace)
        if self._log_file is not None:
            self._log_file.close()

    # The daemon

    def start(self) -> None:
        """`sise run -c FILE`, the one before it being dead."""
        if self._daemon is not None:
            self._daemon.wait(10)
        self._daemon = subprocess.Popen(
            [str(SISE), "run", "-c", str(self.config)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=self._log_file, cwd=self._home, start_new_session=True,
        )  # fmt: skip

    def stop(self) -> int:
        """SIGTERM to the supervisor; return the exit code. AssertionError: it outstays its time, or leaves somebody."""
        assert self._daemon is not None
        self._daemon.terminate()
        code = self._daemon.wait(STOPPED_S)
        assert not self.pids(), "processes are left after the daemon has ended"
        return code

    @property
    def is_running(self) -> bool:
        """Whether the process that was started last lives."""
        return self._daemon is not None and self._daemon.poll() is None

    def sise(self, *words: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run another command of `sise` on the same settings."""
        command = [str(SISE), *words, "-c", str(self.config)]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)

    def pids(self, role: str | None = None) -> list[int]:
        """Every process of the daemon that lives, of one role if named."""
        found = []
        for directory in Path("/proc").iterdir():
            if not directory.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if (directory / "cwd").readlink() != self._home:
                    continue
                title = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if (role is None or role in title) and title:
                    found.append(int(directory.name))
        return found

    def signal(self, role: str, number: signal.Signals) -> list[int]:
        """Send a signal to the processes of a role; return who got it."""
        pids = self.pids(role)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids

    def kill_supervisor(self) -> None:
        """SIGKILL to what `start` started, also before it has its title."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait(10)

    def kill_all(self) -> None:
        """SIGKILL to everything of the daemon, until nothing is left."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_S)
        if self._daemon is not None:
            self._daemon.wait(10)

    # What can be seen

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """AssertionError with *what*: it did not become true in time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"after {timeout_s} s still not: {what}"
            time.sleep(POLL_S)

    def stored(self) -> int:
        """Newest position in the tables, 0 if nobody answers: grows while rows are stored."""
        try:
            with psycopg.connect(self.postgres.dsn, connect_timeout=2) as connection:
                row = connection.execute("SELECT coalesce(sum(seq), 0) FROM ingest_cursor").fetchone()
        except psycopg.Error:
            return 0
        assert row is not None
        return int(row[0])

    def wait_flowing(self) -> None:
        """Rows are being stored."""
        before = 0

        def grows() -> bool:
            nonlocal before
            now = self.stored()
            before, grown = before or now, bool(before) and now > before
            return grown

        self.wait_until(grows, FLOWING_S, "rows being stored")

    def spill_files(self) -> list[Path]:
        """Segments that wait, oldest first."""
        directory = self.data / "failed_batches"
        return sorted(one for one in directory.glob("batch_*") if one.name.endswith(".spill"))

    def logged(self) -> Iterator[dict[str, object]]:
        """The daemon's log so far."""
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)

    def quiet(self) -> None:
        """The venue sends no more data."""
        assert self._venue is not None
        assert self._venue.stdin is not None
        assert self._venue.stdout is not None
        self._venue.stdin.write("quiet\n")
        self._venue.stdin.flush()
        assert self._venue.stdout.readline() == "quiet\n"

    def finish(self) -> Verdict:
        """Heal, let the tail pass, stop, and judge. AssertionError: what is wrong, with the numbers."""
        if not self.is_running:
            self.kill_all()
            self.start()
        self.wait_flowing()
        self.quiet()
        self.wait_until(lambda: not self.spill_files(), SETTLED_S, "spilled batches stored")
        said = self._settle()
        assert self.is_running, "the daemon has ended by itself"
        assert self.stop() == 0, "exit code of an orderly stop"
        verdict = judge(self.postgres.dsn, self.journal)
        after = self.sise("verify")
        violations = verdict.violations(files_destroyed=self.files_destroyed)
        # With a ring destroyed, its own counts of what was received are gone too, or messages lack on Redis only.
        if after.returncode != 0 and not self.files_destroyed:
            violations.append(f"sise verify exits {after.returncode}: {after.stdout[-1500:]}{after.stderr[-300:]}")
        with psycopg.connect(self.postgres.dsn) as connection:
            (lost,) = connection.execute(
                "SELECT count(*) FROM spilled_batches WHERE lost_at IS NOT NULL"
            ).fetchone() or (0,)
        if lost and after.returncode != 1:
            violations.append(f"sise verify exits {after.returncode} though {lost} spilled batches are lost")
        if not self.files_destroyed:
            violations += [f"in the log: {one}" for one in self.logged() if one.get("event") in NEVER_LOGGED]
        if said is not None:
            violations.append(f"verify before the stop: {said}")
        assert not violations, f"{violations}\n{verdict}"
        return verdict

    def _settle(self) -> str | None:
        """Ask `sise verify` beside the running daemon until it agrees; what it says if it never does."""
        deadline = time.monotonic() + SETTLED_S
        while True:  # without a pause: to ask is to start a process
            asked = self.sise("verify")
            if asked.returncode == 0 or self.files_destroyed:
                return None
            if time.monotonic() > deadline:
                return asked.stdout[-1500:] + asked.stderr[-500:]

    def redis(self) -> redis.Redis:
        """A client of the server that the daemon publishes to."""
        return redis.Redis.from_url(self.redis_server.url)
