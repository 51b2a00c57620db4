"""A TCP proxy in front of PostgreSQL that cuts a connection at its COMMIT: the request is lost, or the answer."""

import contextlib
import socket
import threading
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit

Cut = Literal["request", "answer"]
READ_BYTES = 1 << 16


class CuttingProxy:
    """Forwards everything, until `cut` is set: then the next COMMIT, or its answer, is lost and the line is closed."""

    def __init__(self, dsn: str) -> None:
        self._target = urlsplit(dsn)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.cut: Cut | None = None
        self.of = b""  # only the COMMIT of a transaction that says this
        self.cuts = 0
        self.is_refusing_after_cut = False  # nobody gets through behind a cut, until this is False again

    @property
    def dsn(self) -> str:
        """Address of the same database through the proxy."""
        user = self._target.netloc.rpartition("@")[0]
        port = self._listener.getsockname()[1]
        return urlunsplit(self._target._replace(netloc=f"{user}@127.0.0.1:{port}"))

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._sockets):
            _close(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.is_refusing_after_cut and self.cuts:
                    client.close()
                    continue
                server = socket.create_connection((self._target.hostname or "", self._target.port or 0))
                self._sockets += [client, server]
                threading.Thread(target=self._forward, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        answers = threading.Thread(target=_pump, args=(server, client), daemon=True)
        answers.start()
        said = b""  # in the transaction that is under way
        with contextlib.suppress(OSError):
            while data := client.recv(READ_BYTES):
                said = data[data.rindex(b"BEGIN") :] if b"BEGIN" in data else said + data
                if b"COMMIT\0" in data:
                    if self.cut is not None and self.of in said:
                        self._lose(self.cut, data, client, server)
                        break
                    said = b""
                server.sendall(data)
        _close(client)
        _close(server)

    def _lose(self, cut: Cut, data: bytes, client: socket.socket, server: socket.socket) -> None:
        self.cut = None
        self.cuts += 1
        if cut == "answer":
            client.shutdown(socket.SHUT_WR)  # the pump can no longer deliver
            server.sendall(data)
            server.sendall(b"X\0\0\0\4")  # the server has handled the COMMIT before it reads this and hangs up
            with contextlib.suppress(OSError):
                while server.recv(READ_BYTES):
                    pass


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(READ_BYTES):
            target.sendall(data)


def _close(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
