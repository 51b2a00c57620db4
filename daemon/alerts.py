"""What people must know: any process says it, the monitor publishes it on Redis.

`send()` costs a log line and a datagram to `run/alerts.sock`. It never blocks and never raises: while the monitor is
away, alerts wait in a bounded queue that `flush()` empties, which the owner calls about once a second. The message and
the subject must hold no secret, and no text of a venue that may quote one.
"""

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import msgspec

Level = Literal["INFO", "WARNING", "CRITICAL"]
LEVELS: tuple[Level, ...] = get_args(Level)  # in order of weight

SOCKET = Path("run", "alerts.sock")  # in the data directory
MAX_DATAGRAM_BYTES = 4096
MAX_CODE_CHARS = 64
MAX_SUBJECT_CHARS = 120
MAX_MESSAGE_CHARS = 400  # all fits the datagram even if each character becomes six bytes: \uXXXX
QUEUE_ALERTS = 256
MAX_SOCKET_PATH_BYTES = 107  # sun_path of unix(7), without its end


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """As it is published; `subject` (which account, symbol, process) and `code` identify repetitions."""

    timestamp: str  # ISO 8601 with offset
    level: Level
    code: str
    message: str
    subject: str = ""
    source: str = ""  # the process that says it


class Counter(Protocol):
    """The part of a counters block that alerts need."""

    def increment(self, name: str, n: int = 1) -> None:
        """Add *n* to the counter called *name*."""


class Alerts(Protocol):
    """What every part of the daemon is given to speak with."""

    def send(self, level: Level, code: str, message: str, *, subject: str = "") -> None:
        """Log the alert and pass it on. Never blocks, never raises."""


class NullAlerts:
    """Says nothing to anybody."""

    def send(self, level: Level, code: str, message: str, *, subject: str = "") -> None:
        """Ignore it."""


class RecordingAlerts:
    """Keeps what was sent, for tests: (level, code, message, subject)."""

    def __init__(self) -> None:
        self.sent: list[tuple[Level, str, str, str]] = []

    def send(self, level: Level, code: str, message: str, *, subject: str = "") -> None:
        """Keep it."""
        self.sent.append((level, code, message, subject))

    def codes(self) -> list[str]:
        """Return the codes in order."""
        return [code for _, code, _, _ in self.sent]


class AlertQueue:
    """At most *limit* alerts; full: the oldest of the least weight gives way, and is handed back."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[Level, deque[Alert]] = {level: deque() for level in LEVELS}

    def __len__(self) -> int:
        return sum(len(alerts) for alerts in self._waiting.values())

    def put(self, alert: Alert) -> Alert | None:
        """Add *alert*; return the one that had to go for it, which may be *alert* itself."""
        self._waiting[alert.level].append(alert)
        if len(self) <= self._limit:
            return None
        return next(alerts for alerts in self._waiting.values() if alerts).popleft()

    def first(self) -> Alert | None:
        """Return the oldest alert of the greatest weight; it stays."""
        return next((alerts[0] for alerts in reversed(self._waiting.values()) if alerts), None)

    def remove(self, alert: Alert) -> None:
        """Take out *alert*, which first() returned, unless it has given way meanwhile."""
        alerts = self._waiting[alert.level]
        if alerts and alerts[0] is alert:
            alerts.popleft()

    def __iter__(self) -> Iterator[Alert]:
        for alerts in reversed(self._waiting.values()):
            yield from alerts


class DatagramAlerts:
    """Logs, and sends to the monitor's socket at *path*; *role* is the name of this process."""

    def __init__(
        self,
        path: Path,
        *,
        role: str,
        logger: Any,  # structlog's bound logger
        counters: Counter,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path = path
        self._role = role
        self._log = logger
        self._counters = counters
        self._now = now
        self._queue = AlertQueue(QUEUE_ALERTS)
        self._socket: socket.socket | None = None
        self._unreported = 0  # lost, not logged yet

    def send(self, level: Level, code: str, message: str, *, subject: str = "") -> None:
        """Log the alert and pass it on. Never blocks, never raises."""
        alert = make_alert(level, code, message, subject=subject, source=self._role, at=self._now())
        log_alert(self._log, alert)
        self._counters.increment("alerts_raised")
        if self._queue.put(alert) is not None:
            self._counters.increment("alerts_lost")
            self._unreported += 1
        self._send_waiting()

    def flush(self) -> None:
        """Pass on what had to wait; called about once a second."""
        if self._unreported:
            self._log.warning("alerts_lost", alerts=self._unreported, reason="the monitor is away")
            self._unreported = 0
        if len(self._queue):
            self._send_waiting()

    @property
    def waiting(self) -> int:
        """How many alerts the monitor has not got yet."""
        return len(self._queue)

    def close(self) -> None:
        """Send what can be sent, and free the socket."""
        self.flush()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send_waiting(self) -> None:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            with SocketAddress(self._path) as address:
                while (alert := self._queue.first()) is not None:
                    self._socket.sendto(encode(alert), address)
                    self._queue.remove(alert)
        except OSError:  # nobody listens, or it has not read the last ones yet: flush() tries again
            return


class SocketAddress:
    """The address of the socket at *path*, also where the path is longer than the kernel takes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._directory_fd = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= MAX_SOCKET_PATH_BYTES:
            return str(self._path)
        self._directory_fd = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._directory_fd}/{self._path.name}"

    def __exit__(self, *_exc: object) -> None:
        if self._directory_fd >= 0:
            os.close(self._directory_fd)


def make_alert(level: Level, code: str, message: str, *, subject: str, source: str, at: datetime) -> Alert:
    """Return an alert that fits a datagram."""
    return Alert(
        timestamp=at.isoformat(timespec="milliseconds"),
        level=level if level in LEVELS else "CRITICAL",  # a misspelt one must not be the reason for silence
        code=_cut(code, MAX_CODE_CHARS),
        message=_cut(message, MAX_MESSAGE_CHARS),
        subject=_cut(subject, MAX_SUBJECT_CHARS),
        source=source,
    )


def _cut(text: str, limit: int) -> str:
    text = str(text).encode("utf-8", "backslashreplace").decode("utf-8")  # lone surrogates are no JSON
    return text if len(text) <= limit else text[: limit - 1] + "…"


def encode(alert: Alert) -> bytes:
    """Return *alert* as JSON, as it travels and as it is published."""
    return msgspec.json.encode(alert)


def decode(datagram: bytes) -> Alert:
    """Return the alert of *datagram*. Raises msgspec.DecodeError."""
    return msgspec.json.decode(datagram, type=Alert)


def log_alert(logger: Any, alert: Alert) -> None:
    """Log *alert* at its level."""
    fields: dict[str, str] = {"code": alert.code, "message": alert.message}
    if alert.subject:
        fields["subject"] = alert.subject
    match alert.level:
        case "INFO":
            logger.info("alert", **fields)
        case "WARNING":
            logger.warning("alert", **fields)
        case _:
            logger.critical("alert", **fields)


def heavier(one: Level, other: Level) -> Level:
    """Return the level of more weight."""
    return max(one, other, key=LEVELS.index)
