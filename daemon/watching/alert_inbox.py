"""The socket on which the monitor hears the alerts of all processes: `run/alerts.sock`, for our own user only."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from daemon.alerts import MAX_DATAGRAM_BYTES, Alert, SocketAddress, decode

READ_AT_ONCE = 64  # the others of the loop get their turn between


class AlertInbox:
    """Hands every alert that arrives to *accept*. A predecessor's socket file is replaced."""

    def __init__(self, path: Path, *, accept: Callable[[Alert], None], logger: Any) -> None:  # Any: structlog's
        self._path = path
        self._accept = accept
        self._log = logger
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Listen. Without the file nobody can tell us anything; that is logged, and the monitor goes on."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._loop = asyncio.get_running_loop()
        try:
            self._path.unlink(missing_ok=True)
            with SocketAddress(self._path) as address:
                self._socket.bind(address)
            self._path.chmod(0o600)
        except OSError as exc:
            self._log.error("alerts_not_heard", path=str(self._path), error=exc.strerror or str(exc))
            self._socket.close()
            self._socket = None
            return
        self._loop.add_reader(self._socket.fileno(), self.read_waiting)

    def read_waiting(self) -> int:
        """Take what has arrived; return how many datagrams that were."""
        count = 0
        while self._socket is not None and count < READ_AT_ONCE:
            try:
                datagram = self._socket.recv(MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                break
            count += 1
            try:
                alert = decode(datagram)
            except msgspec.DecodeError as exc:
                self._log.warning("alert_unreadable", error=str(exc), bytes=len(datagram))
                continue
            self._accept(alert)
        return count

    def close(self) -> None:
        """Take what has arrived, and stop listening; who has something to say keeps it for our successor."""
        if self._socket is None or self._loop is None:
            return
        self._loop.remove_reader(self._socket.fileno())
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        while self.read_waiting():
            pass
        self._socket.close()
        self._socket = None
