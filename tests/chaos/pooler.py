"""PgBouncer in front of a server, in transaction mode: each transaction may get another session of the server."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from tests.rig import wait_for

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
UNPRIVILEGED = "nobody"  # it does not run as root
# Sessions of the server are handed out in turn, and nothing that somebody has set in one survives: the worst case.
SETTINGS = """
[databases]
* = host={host} port={server_port} user={user} password={password} pool_size={sessions}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
server_round_robin = 1
server_reset_query = DISCARD ALL
server_reset_query_always = 1
max_client_conn = 100
query_wait_timeout = {wait_s}
server_login_retry = 1
"""


def why_not() -> str:
    """Return why there is no pooler here; empty: there is."""
    return "" if PROGRAM else "pgbouncer is not installed (apt-get install pgbouncer)"


@contextlib.contextmanager
def pooler(dsn: str, *, sessions: int = 3, wait_s: int = 20) -> Iterator[str]:
    """Yield the address of *dsn*'s database by way of a pooler that has *sessions* of the server for everybody."""
    assert PROGRAM
    server = urlsplit(dsn)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="sise-test-pooler-") as directory:
        file = Path(directory) / "pgbouncer.ini"
        file.write_text(
            SETTINGS.format(
                host=server.hostname,
                server_port=server.port,
                user=server.username,
                password=server.password,
                port=port,
                sessions=sessions,
                wait_s=wait_s,
            )
        )
        words = [PROGRAM, str(file)]
        if os.geteuid() == 0:
            for path in (Path(directory), file):
                shutil.chown(path, UNPRIVILEGED)
            words[1:1] = ["-u", UNPRIVILEGED]
        with (Path(directory) / "log").open("wb") as log:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        address = f"postgresql://{server.username}@127.0.0.1:{port}{server.path}"
        try:
            wait_for(lambda: _answers(address), "the pooler", 10.0)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(address: str) -> bool:
    try:
        psycopg.connect(address, connect_timeout=2, prepare_threshold=None).close()
    except psycopg.OperationalError:
        return False
    return True
