"""Work that a short-lived process does for the daemon from time to time, before the others start and while they run."""

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from daemon import log
from daemon.config import Config

INTERVAL_S = 6 * 3600.0
RETRY_S = 600.0  # after a failure
PATIENCE_S = 1.0  # that the start waits for it; then it goes on beside the others
LIMIT_S = 120.0  # afterwards it is killed
POLL_S = 0.02
NS_PER_S = 1_000_000_000


class ChoreSpec(msgspec.Struct, frozen=True):
    """A command, and what it reads on standard input. is_done: its result is there already, and good."""

    name: str
    argv: tuple[str, ...]
    told: Callable[[Config], bytes]
    is_done: Callable[[Config], bool] = lambda _config: False


class Chore:
    """One chore; all calls come from the supervisor's loop and none blocks, except first()."""

    def __init__(self, spec: ChoreSpec, *, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._spec = spec
        self._clock_ns = clock_ns
        self._popen: subprocess.Popen[bytes] | None = None
        self._due_ns = 0
        self._kill_at_ns = 0
        self._log = log.get()

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._popen is None else self._popen.pid

    def first(self, config: Config, *, sleep: Callable[[float], None]) -> None:
        """Do it, and wait for its end for a few seconds at most."""
        self.tick(config)
        give_up_ns = self._clock_ns() + int(PATIENCE_S * NS_PER_S)
        while self._popen is not None and self._clock_ns() < give_up_ns:
            sleep(POLL_S)
            self.tick(config)

    def ask(self) -> None:
        """Do it again at the next tick() or, if it is under way, after that."""
        self._due_ns = 0

    def tick(self, config: Config) -> None:
        """Start it when it is due, end it when it takes too long, and log how it went."""
        now_ns = self._clock_ns()
        if self._popen is None:
            if now_ns >= self._due_ns:
                self._due_ns = now_ns + int(INTERVAL_S * NS_PER_S)
                if not self._spec.is_done(config):
                    self._start(config, now_ns)
            return
        code = self._popen.poll()
        if code is None:
            if now_ns >= self._kill_at_ns:
                self._popen.kill()
            return
        self._popen = None
        if code == 0:
            self._log.info("chore_done", chore=self._spec.name)
        else:
            self._fail(now_ns, f"exit code {code}")

    def stop(self) -> None:
        """End it at once."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
            self._popen = None

    def _start(self, config: Config, now_ns: int) -> None:
        self._kill_at_ns = now_ns + int(LIMIT_S * NS_PER_S)
        try:
            self._popen = subprocess.Popen(  # noqa: S603 - argv comes from the composition root
                self._spec.argv, stdin=subprocess.PIPE, start_new_session=True
            )
        except OSError as exc:
            self._fail(now_ns, str(exc))
            return
        assert self._popen.stdin is not None
        with suppress(OSError):  # it has ended already: its exit code tells
            self._popen.stdin.write(self._spec.told(config))  # far below what a pipe holds
        with suppress(OSError):
            self._popen.stdin.close()

    def _fail(self, now_ns: int, error: str) -> None:
        self._due_ns = now_ns + int(RETRY_S * NS_PER_S)
        self._log.warning("chore_failed", chore=self._spec.name, error=error, again_in_s=RETRY_S)
