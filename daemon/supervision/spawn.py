"""One child process, seen from outside: start it, signal it, learn how it ended."""

import os
import signal
import subprocess
from collections.abc import Iterable

import msgspec

from daemon.supervision import handover
from daemon.supervision.directory_lock import ProcessId, identify
from daemon.supervision.process import Assignment, ExitCode


class ChildHandle:
    """A started child; `pidfd` becomes readable when it ends. Signals go through it and so never to a reused pid."""

    def __init__(self, popen: subprocess.Popen[bytes], told_fd: int) -> None:
        self.pid = popen.pid
        self.pidfd = os.pidfd_open(popen.pid)
        self._popen = popen
        self._told_fd = told_fd
        self._generation = 0

    def identity(self) -> ProcessId:
        """Return pid and start time; valid until try_reap() has returned a code."""
        return identify(self.pid) or ProcessId(self.pid, 0)  # 0: a zombie, whom nobody needs to kill

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the process has ended."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def tell(self, assignment: Assignment) -> None:
        """Replace what the child was told, and ring. Raises OSError: it goes on with what it has."""
        self._generation += 1
        handover.write(self._told_fd, self._generation, msgspec.msgpack.encode(assignment))
        self.send(signal.SIGHUP)

    def try_reap(self) -> int | None:
        """Return the exit code (negative: the signal) and free everything; None while the process lives."""
        code = self._popen.poll()
        if code is not None and self.pidfd >= 0:
            os.close(self.pidfd)
            os.close(self._told_fd)
            self.pidfd = self._told_fd = -1
        return code


def spawn(argv: tuple[str, ...], assignment: Assignment, pass_fds: Iterable[int]) -> ChildHandle:
    """Start *argv* in a session of its own, with *assignment* on its standard input and *pass_fds* open.

    SIGTERM and SIGHUP are blocked until the child's `process.bootstrap` handles them: one that comes early is kept, not
    fatal.
    Raises OSError if the process cannot be started.
    """
    told = handover.create()
    try:
        handover.write(told, 0, msgspec.msgpack.encode(assignment))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
        try:
            # A session of its own: Ctrl-C on the terminal reaches the supervisor only.
            popen = subprocess.Popen(  # noqa: S603 - argv comes from topology
                argv, stdin=told, pass_fds=tuple(pass_fds), close_fds=True, start_new_session=True
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except BaseException:
        os.close(told)
        raise
    return ChildHandle(popen, told)


def reap_strays(ours: Iterable[int]) -> None:
    """Reap orphans of others that were given to us, which happens to process 1 of a container; never one of *ours*."""
    known = frozenset(ours)
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in known:
            return
        os.waitpid(found.si_pid, 0)


def describe_exit(code: int) -> str:
    """Return `signal SIGKILL` or `exit code 3 (CANNOT_BOOT)` for a code of try_reap()."""
    if code < 0:
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:  # real-time signals have no names
            return f"signal {-code}"
    try:
        return f"exit code {code} ({ExitCode(code).name})"
    except ValueError:
        return f"exit code {code}"
