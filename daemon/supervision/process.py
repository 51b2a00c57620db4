"""What every child of the supervisor does first and last, so that a role's own module holds nothing but the role.

A role module ends in three lines, and runs as `python -m daemon.sinks.writer_process`:

    if __name__ == "__main__":
        process.main(run)

where `run(child: Child) -> int | None` is given

    child.name, .role, .index        "worker-0", "worker", 0
    child.config, .data_dir          resolved settings (secrets included: never log them)
    child.counters                   its CountersBlock, taken; gauges are 0, counters go on from the predecessor's
    child.counters_path, .processes  the counters file and {name: block} of every process
    child.wake_fds                   {consumer role: eventfd}, the same for all processes and across restarts
    child.unpack(WorkerPlan)         what the supervisor's ProcessSpec was given as `payload=pack(plan)`
    child.log                        structlog logger with role, shard and pid on every line

    child.running()                  call once when set up: until then an error means "cannot boot"
    child.stopping                   True once asked to stop: drain, then return
    child.drain_s                    the time a drain may take, counted from that moment; afterwards comes SIGKILL
    child.orphaned                   True if the supervisor has died: everybody drains at once, nobody restarts us
    child.beat()                     call at least each second; the supervisor kills a child that stops beating

    child.wait("writer", 0.2)        synchronous roles: sleep until the eventfd rings, a stop is asked for or time is up
    child.stop_fd                    the same for a role with its own poll: readable from the stop on, for ever
    child.stop_into(loop, event)     asyncio roles: set *event* when asked to stop (replaces the plain handler)
    child.on_reload(loop, callback)  workers: called with the new (Config, WorkerPlan) when their part has changed

The return value is the exit code (None: OK). A raised ConfigError exits with CONFIG, RingReplaced with RING_REPLACED;
RingError or Refused before running() with CANNOT_BOOT; everything else is logged with its traceback and exits with
FAILED. After RING_REPLACED and FAILED the process is restarted.
Settings reach the child through an anonymous file on its standard input: never through argv or the environment,
which other users could read.
"""

import ctypes
import enum
import faulthandler
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec
import setproctitle

from daemon import log
from daemon.config import Config
from daemon.errors import ConfigError, Refused, RingError, RingReplaced
from daemon.supervision import handover
from native_pipeline.counters import COUNTERS, CountersBlock

if TYPE_CHECKING:  # synchronous roles need not load them
    import asyncio

    from daemon.shard_plan import WorkerPlan

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
RSS_INTERVAL_NS = 5_000_000_000  # reading /proc costs 20 us: not on every beat
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MAX_WAIT_S = 1.0  # a waiting process must still beat

T = TypeVar("T")


class ExitCode(enum.IntEnum):
    """Why a process ended; the supervisor reads nothing else."""

    OK = 0
    FAILED = 1
    CONFIG = 2  # what the operator wrote cannot work: restarting changes nothing
    CANNOT_BOOT = 3  # a resource at the start is not what it must be: ring file, port, database schema
    ORPHANED = 4  # the supervisor was gone before the child had begun
    RING_REPLACED = 5  # the file of a ring is another one than at the start: the restart opens it


class ProcessState(enum.IntEnum):
    """Life of a process, stored in its counters block."""

    STARTING = 1  # set up by main(), the role is preparing itself
    RUNNING = 2  # the role said so
    DRAINING = 3  # asked to stop, emptying what it has
    STOPPED = 4  # ended; stored by the process or, if it was killed, by the supervisor


class Restart(enum.Enum):
    """Always restarted; the difference is at whose expense."""

    ESSENTIAL = "essential"  # spends the restart budget: a crash loop stops the daemon
    BEST_EFFORT = "best_effort"  # outside the budget: the daemon lives without it


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the desired state. A smaller `drain_order` stops earlier; equal ones stop together."""

    role: str
    argv: tuple[str, ...]
    counters_block: int
    drain_order: int
    index: int | None = None
    wakes: tuple[str, ...] = ()  # consumer roles whose eventfd it waits on or rings
    payload: bytes = b""  # pack()ed plan of the role
    accounts: tuple[str, ...] = ()  # that it uses: a change of their settings is told to it
    restart: Restart = Restart.ESSENTIAL

    @property
    def name(self) -> str:
        """`worker-0`, `writer`: unique, and the name in logs, metrics and the counters file."""
        return self.role if self.index is None else f"{self.role}-{self.index}"


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is told on its standard input. It holds secrets: never print or log it."""

    name: str
    role: str
    index: int | None
    parent_pid: int
    data_dir: str
    counters_path: str
    counters_block: int
    processes: dict[str, int]
    wake_fds: dict[str, int]
    lock_fd: int  # of the data directory: merely held, so that the directory stays locked while a child lives
    drain_s: float
    config: Config
    payload: bytes


def module_argv(module: str) -> tuple[str, ...]:
    """Return the command line that runs *module* with this interpreter; the module's path names the role."""
    return (sys.executable, "-m", module)


def pack(plan: Any) -> bytes:  # any msgspec type
    """Encode what a role needs beyond the settings, for `ProcessSpec.payload`."""
    return msgspec.msgpack.encode(plan)


class Pulse:
    """The heartbeat of one process, with its resident memory every few seconds."""

    def __init__(self, counters: CountersBlock) -> None:
        self._counters = counters
        self._rss_due_ns = 0

    def beat(self) -> None:
        """Store the time, and sometimes the resident memory, in the counters block."""
        self._counters.heartbeat()
        now_ns = time.monotonic_ns()
        if now_ns >= self._rss_due_ns:
            self._rss_due_ns = now_ns + RSS_INTERVAL_NS
            resident_pages = Path("/proc/self/statm").read_bytes().split()[1]
            self._counters.set("rss_bytes", int(resident_pages) * PAGE_BYTES)


class Child:
    """One child process, seen from inside; the module's docstring says how a role uses it."""

    def __init__(
        self, assignment: Assignment, counters: CountersBlock, stop_fd: int, stop_write_fd: int, told_fd: int = -1
    ) -> None:
        self.name = assignment.name
        self.role = assignment.role
        self.index = assignment.index
        self.config = assignment.config
        self.data_dir = Path(assignment.data_dir)
        self.counters = counters
        self.counters_path = Path(assignment.counters_path)
        self.processes = assignment.processes
        self.wake_fds = assignment.wake_fds
        self.drain_s = assignment.drain_s
        self.stopping = False
        self.stop_fd = stop_fd
        self.log = log.get()
        self._stop_write_fd = stop_write_fd
        self._parent_pid = assignment.parent_pid
        self._payload = assignment.payload
        self._told_fd = told_fd
        self._generation = 0  # of what we were told
        self._pulse = Pulse(counters)
        self._state = ProcessState.STARTING

    @property
    def orphaned(self) -> bool:
        """True if the supervisor has died."""
        return os.getppid() != self._parent_pid

    @property
    def state(self) -> ProcessState:
        """How far the process has come."""
        return self._state

    def unpack(self, type_: type[T]) -> T:
        """Decode the payload of this process's spec."""
        return msgspec.msgpack.decode(self._payload, type=type_)

    def running(self) -> None:
        """Say that the role is set up and does its work from here on."""
        if self._state is ProcessState.STARTING:
            self.set_state(ProcessState.RUNNING)
        self.beat()

    def beat(self) -> None:
        """Show that the main loop is alive. Costs about 200 ns."""
        self._pulse.beat()

    def set_state(self, state: ProcessState) -> None:
        """Store the state where supervisor and monitor see it."""
        self._state = state
        self.counters.set_state(state)

    def ask_to_stop(self) -> None:
        """Begin the drain; a second call changes nothing."""
        if self.stopping:
            return
        self.stopping = True
        if self._state is ProcessState.RUNNING:
            self.set_state(ProcessState.DRAINING)
        os.write(self._stop_write_fd, b"s")

    def wait(self, wake: str | None, timeout_s: float) -> bool:
        """Sleep until the eventfd called *wake* rings; True if it did. Beats before and after.

        Returns early when a stop is asked for; once it was, only *wake* and the time end the sleep, which is cut to
        one second so that the process keeps beating.
        """
        self.beat()
        poll = select.poll()
        wake_fd = -1 if wake is None else self.wake_fds[wake]
        if wake_fd >= 0:
            poll.register(wake_fd, select.POLLIN)
        if not self.stopping:
            poll.register(self.stop_fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(min(timeout_s, MAX_WAIT_S) * 1000)}
        self.beat()
        if wake_fd not in ready:
            return False
        try:
            os.eventfd_read(wake_fd)
        except BlockingIOError:  # the eventfd was read by a predecessor that is still going
            return False
        return True

    def stop_into(self, loop: "asyncio.AbstractEventLoop", stop: "asyncio.Event") -> None:
        """Set *stop* in *loop* when asked to stop, also if that was before this call."""

        def on_stop() -> None:
            self.ask_to_stop()
            stop.set()

        loop.add_signal_handler(signal.SIGTERM, on_stop)
        if self.stopping:
            stop.set()

    def on_reload(self, loop: "asyncio.AbstractEventLoop", callback: "Callable[[Config, WorkerPlan], None]") -> None:
        """Call *callback* in *loop* with each new part of a worker, also if one came before this call.

        Several that come quickly may arrive as one, the last. `config` and `unpack()` give the new values from then on.
        """
        from daemon.shard_plan import WorkerPlan  # noqa: PLC0415 - only workers have one

        def deliver() -> None:
            if self._take_news():
                callback(self.config, self.unpack(WorkerPlan))

        loop.add_signal_handler(signal.SIGHUP, deliver)
        loop.call_soon(deliver)

    def _take_news(self) -> bool:
        """Read again what the supervisor tells; False: nothing new, or half of it, and a signal is on its way."""
        told = handover.read(self._told_fd) if self._told_fd >= 0 else None
        if told is None or told[0] <= self._generation:
            return False
        assignment = msgspec.msgpack.decode(told[1], type=Assignment)
        self._generation = told[0]
        self.config = assignment.config
        self._payload = assignment.payload
        return True


def main(entry: Callable[[Child], int | None]) -> NoReturn:
    """Become the child that the supervisor describes on standard input, run *entry*, and exit with a named code."""
    assignment, told_fd = _read_assignment()
    _follow_parent(assignment.parent_pid)
    child = bootstrap(assignment, told_fd)
    code = run_entry(child, entry)
    # One that comes while the interpreter ends would be what we died of, whatever the code.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if child.state is not ProcessState.STARTING:  # what never ran stays STARTING: the supervisor can tell
        child.set_state(ProcessState.STOPPED)
    child.log.info("process_ended", exit_code=code)
    sys.stdout.flush()
    sys.exit(code)


def bootstrap(assignment: Assignment, told_fd: int = -1) -> Child:
    """Set title, logging, signals and counters of this process. told_fd: where the supervisor tells news."""
    setproctitle.setproctitle(f"sise: {assignment.name.replace('-', ' ')}")
    faulthandler.enable()  # the supervisor ends a hung process with SIGABRT: the traceback says where it hung
    settings = assignment.config.log
    context: dict[str, object] = {"role": assignment.role, "pid": os.getpid()}
    if assignment.index is not None:
        context["shard"] = assignment.index
    log.configure(settings.level, settings.format, **context)

    counters = CountersBlock(assignment.counters_path, assignment.counters_block)
    counters.take(assignment.name)
    counters.set_state(ProcessState.STARTING)
    for name in momentary_gauges():
        counters.set(name, 0)

    stop_fd, stop_write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    child = Child(assignment, counters, stop_fd, stop_write_fd, told_fd)

    def on_sigterm(_signal: int, _frame: FrameType | None) -> None:
        child.ask_to_stop()

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor, which stops us in order
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_sigterm)
    # A signal between the last bytecode and poll() would wait for poll's end if only the Python handler wrote.
    signal.set_wakeup_fd(stop_write_fd, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGHUP})  # blocked since the supervisor's fork
    return child


def momentary_gauges() -> tuple[str, ...]:
    """Return the gauges that describe a live process, and so are 0 at its start: not the times of the newest event."""
    return tuple(name for name, unit, meaning in COUNTERS if meaning.endswith("(gauge)") and unit != "ns")


def _read_assignment() -> tuple[Assignment, int]:
    """Take the assignment and its file from standard input, and leave /dev/null there.

    News that the supervisor has told meanwhile may be in it already: they are delivered once more, which is harmless.
    Through a pipe comes the bare assignment, and no news (-1).
    """
    try:
        told = handover.read(0)
        told_fd = os.dup(0)
    except OSError:  # a pipe or a terminal has no positions
        told = (0, b"" if sys.stdin.isatty() else sys.stdin.buffer.read())
        told_fd = -1
    try:
        assignment = msgspec.msgpack.decode(told[1] if told else b"", type=Assignment)
    except msgspec.DecodeError:
        sys.stderr.write("sise: this process is started by `sise run`, not by hand\n")
        sys.exit(ExitCode.CONFIG)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for fd in (*assignment.wake_fds.values(), assignment.lock_fd):
        os.set_inheritable(fd, False)  # ours, but not our own children's
    return assignment, told_fd


def _follow_parent(parent_pid: int) -> None:
    """Ask for SIGTERM when the supervisor dies: then the socket is closed properly and the rings are drained."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it died before the prctl
        sys.exit(ExitCode.ORPHANED)


def run_entry(child: Child, entry: Callable[[Child], int | None]) -> int:
    """Run the role; turn what it raises into an exit code."""
    try:
        code = entry(child)
    except ConfigError as exc:
        child.log.error("config_error", error=str(exc))  # noqa: TRY400 - the message is the whole story
        return ExitCode.CONFIG
    except RingReplaced as exc:
        return _start_anew(child, exc)
    except (RingError, Refused) as exc:
        child.log.exception("role_failed", error=str(exc))
        return ExitCode.CANNOT_BOOT if child.state is ProcessState.STARTING else ExitCode.FAILED
    except Exception as exc:
        if isinstance(exc, ExceptionGroup) and exc.split(RingReplaced)[1] is None:  # of a task group, and nothing else
            return _start_anew(child, exc)
        child.log.exception("role_failed")
        return ExitCode.FAILED
    return ExitCode.OK if code is None else code


def _start_anew(child: Child, cause: Exception) -> ExitCode:
    """Nothing is wrong with this process: one line says why it ends. What became of the ring, the next worker says."""
    while isinstance(cause, ExceptionGroup):
        cause = cause.exceptions[0]
    child.log.warning("ring_to_be_opened_anew", reason=str(cause))
    return ExitCode.RING_REPLACED
