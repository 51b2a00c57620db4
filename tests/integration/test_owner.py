"""A database and a Redis belong to one data directory at a time, whatever becomes of its daemon."""

import dataclasses
import errno
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import redis
from structlog.testing import capture_logs

from daemon import identity
from daemon.config import Config, Database, Redis
from daemon.errors import ConfigError, Refused
from daemon.identity import LEASE_S, Owner, is_dead, owner_of, token_of
from daemon.sinks import boot_check
from daemon.sinks.database import Database as Store
from daemon.sinks.database import UnknownSchema
from daemon.sinks.failures import FailureKind, classify
from daemon.sinks.owner import OwnedByAnother
from daemon.sinks.redis_errors import Reaction
from daemon.sinks.redis_link import OWNER_KEY, RedisLink, RedisOwned

OURS = Owner(uuid.UUID(int=1), "here:/data")
THEIRS = Owner(uuid.UUID(int=2), "there:/data")
NOBODY = "postgresql://sise@127.0.0.1:1/sise"


def stores(dsn: str) -> tuple[Store, Store]:
    settings = Database(dsn=dsn, retention_days=0)
    return Store(settings, OURS), Store(settings, THEIRS)


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn) as connection:
        for statement in statements:
            connection.execute(statement)


def tables(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        return {name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


@pytest.mark.requirement("F36")
def test_a_directory_keeps_its_identity_and_gets_another_one_only_for_a_damaged_one(tmp_path: Path) -> None:
    first = owner_of(tmp_path, os.getpid())
    assert owner_of(tmp_path, os.getpid()) == first
    assert owner_of(tmp_path / "other", os.getpid()).identity != first.identity
    assert first.place.endswith(f":{tmp_path}")

    (tmp_path / "state" / "identity").write_bytes(b"\0" * 37)

    again = owner_of(tmp_path, os.getpid())
    assert again.identity != first.identity
    assert owner_of(tmp_path, os.getpid()) == again
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["identity"]


@pytest.mark.requirement("F36")
def test_two_that_make_the_identity_at_once_agree_on_it(tmp_path: Path) -> None:
    program = "import sys, pathlib; from daemon.identity import owner_of; print(owner_of(pathlib.Path(sys.argv[1]), 1))"
    words = [sys.executable, "-c", program, str(tmp_path)]
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]

    assert len({process.communicate(timeout=60)[0] for process in started}) == 1


@pytest.mark.requirement("F35", "F36")
def test_a_database_is_one_directorys_until_it_gives_it_up_or_has_not_been_seen_for_long(postgres_dsn: str) -> None:
    ours, theirs = stores(postgres_dsn)
    with closing(ours), closing(theirs):
        ours.start_cursors({(0, 100): 99})
        with pytest.raises(OwnedByAnother, match=r"belongs to the daemon of here:/data, seen there \d s ago") as caught:
            theirs.start_cursors({(0, 200): 199})
        assert classify(caught.value) is FailureKind.SETUP
        ours.keep_owner()

        ours.give_up_owner()
        assert theirs.start_cursors({(0, 200): 199}) == {(0, 200): 199}
        with pytest.raises(OwnedByAnother, match="there:/data"):
            ours.keep_owner()
        with pytest.raises(OwnedByAnother):  # and on no other connection either
            ours.start_cursors({(0, 100): 99})

        theirs.give_up_owner()
        ours.keep_owner()
        execute(postgres_dsn, f"UPDATE ingest_owner SET seen_at = seen_at - interval '{LEASE_S - 5} s'")
        with pytest.raises(OwnedByAnother):
            theirs.keep_owner()
        execute(postgres_dsn, "UPDATE ingest_owner SET seen_at = seen_at - interval '6 s'")
        theirs.keep_owner()
        with pytest.raises(OwnedByAnother):
            ours.keep_owner()
        ours.give_up_owner()  # which is not ours to give
        theirs.keep_owner()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.mark.requirement("F36")
def test_only_a_process_that_would_be_seen_is_known_to_be_dead(process: subprocess.Popen[bytes]) -> None:
    token = token_of(process.pid)
    boot, names, pid, started = token.split("/")
    assert not is_dead(token)
    assert is_dead(f"{boot}/{names}/{pid}/{int(started) - 1}")  # another process had the number
    process.kill()
    process.wait()
    assert is_dead(token)
    assert token_of(process.pid) == ""
    assert not is_dead(f"another{boot}/{names}/{pid}/{started}")
    assert not is_dead(f"{boot}/pid:[1]/{pid}/{started}")
    assert not is_dead("")


@pytest.mark.requirement("F36")
@pytest.mark.parametrize("found", [None, OSError(errno.EMFILE, "Too many open files")])
def test_a_process_that_lives_and_cannot_be_looked_at_is_not_taken_for_dead(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, found: OSError | None
) -> None:
    token = token_of(process.pid)

    def identify(_: int) -> None:
        if found is not None:
            raise found

    monkeypatch.setattr(identity, "identify", identify)  # None: /proc hides the processes of other users
    assert not is_dead(token)


@pytest.mark.requirement("F35", "F36")
def test_a_database_is_taken_at_once_from_who_is_seen_to_be_dead(
    postgres_dsn: str, process: subprocess.Popen[bytes]
) -> None:
    settings = Database(dsn=postgres_dsn, retention_days=0)
    killed = Store(settings, dataclasses.replace(OURS, process=token_of(process.pid)))
    theirs = Store(settings, THEIRS)
    with closing(killed), closing(theirs):
        killed.keep_owner()
        with pytest.raises(OwnedByAnother):
            theirs.keep_owner()
        process.kill()
        process.wait()
        theirs.keep_owner()
        with pytest.raises(OwnedByAnother, match="there:/data"):
            killed.keep_owner()


@pytest.mark.requirement("F35", "F36")
def test_a_redis_is_taken_at_once_from_who_is_seen_to_be_dead(redis_url: str, process: subprocess.Popen[bytes]) -> None:
    settings = Redis(url=redis_url)
    killed = RedisLink(settings, dataclasses.replace(OURS, process=token_of(process.pid)))
    theirs = RedisLink(settings, THEIRS)
    with closing(killed), closing(theirs):
        killed.connect([0])
        with pytest.raises(RedisOwned):
            theirs.connect([0])
        process.kill()
        process.wait()
        theirs.connect([0])
        with pytest.raises(RedisOwned, match="there:/data"):
            killed.keep_owner()


@pytest.mark.requirement("F35")
def test_nothing_is_made_in_a_database_that_is_anothers(empty_postgres_dsn: str) -> None:
    ours, theirs = stores(empty_postgres_dsn)
    with closing(ours), closing(theirs):
        ours.keep_owner()
        with pytest.raises(OwnedByAnother):
            theirs.start_cursors({})
        assert tables(empty_postgres_dsn) == {"ingest_owner"}


@pytest.mark.requirement("F35", "F47", "F53")
def test_tables_of_a_newer_version_are_left_alone_and_their_daemons_records_wait(postgres_dsn: str) -> None:
    execute(postgres_dsn, "INSERT INTO schema_migrations VALUES (9001, 'later', 'x')")
    ours, _ = stores(postgres_dsn)
    with closing(ours):
        with pytest.raises(
            UnknownSchema, match=r"has migration 9001 \(later\), this version of Sise does not"
        ) as caught:
            ours.start_cursors({(0, 100): 99})
        assert classify(caught.value) is FailureKind.SETUP
        execute(postgres_dsn, "DELETE FROM schema_migrations WHERE version = 9001")
        assert ours.start_cursors({(0, 100): 99}) == {(0, 100): 99}


@pytest.fixture
def links(redis_url: str) -> Iterator[tuple[RedisLink, RedisLink]]:
    settings = Redis(url=redis_url)
    with closing(RedisLink(settings, OURS)) as ours, closing(RedisLink(settings, THEIRS)) as theirs:
        yield ours, theirs


@pytest.mark.requirement("F36")
def test_a_redis_is_one_directorys_until_it_gives_it_up_or_it_expires(
    redis_url: str, links: tuple[RedisLink, RedisLink]
) -> None:
    ours, theirs = links
    ours.connect([0])
    with pytest.raises(RedisOwned, match=r"belongs to the daemon of here:/data, seen there \d s ago") as caught:
        theirs.connect([0])
    assert caught.value.reaction is Reaction.WAIT

    with redis.Redis.from_url(redis_url) as client:
        client.expire(OWNER_KEY, 1)
        ours.keep_owner()
        assert client.ttl(OWNER_KEY) > LEASE_S - 5
        ours.give_up_owner()
        theirs.connect([0])
        with pytest.raises(RedisOwned):
            ours.keep_owner()
        client.delete(OWNER_KEY)
        ours.connect([0])
        with pytest.raises(RedisOwned):
            theirs.keep_owner()


@pytest.mark.requirement("F36", "F56")
def test_a_redis_that_is_full_is_used_as_before(redis_url: str, links: tuple[RedisLink, RedisLink]) -> None:
    """It takes no key, so nobody owns it; who could publish nothing mixes nothing."""
    with redis.Redis.from_url(redis_url) as client:
        before = client.config_get("maxmemory")["maxmemory"]
        client.config_set("maxmemory", 1)
        try:
            links[0].connect([0])
            links[0].keep_owner()
        finally:
            client.config_set("maxmemory", before)
        assert client.get(OWNER_KEY) is None
        links[0].keep_owner()
        assert client.get(OWNER_KEY) is not None


@pytest.mark.requirement("F35", "F36")
def test_a_start_is_refused_when_the_owner_is_seen_alive(postgres_dsn: str, redis_url: str) -> None:
    config = Config(database=Database(dsn=postgres_dsn), redis=Redis(url=redis_url))
    elsewhere = Config(database=Database(dsn=NOBODY), redis=config.redis)
    boot_check.check_servers(config, OURS)
    boot_check.check_servers(config, OURS, sleep=unexpected)

    def ours_renews(_: float) -> None:
        boot_check.check_servers(config, OURS)

    execute(postgres_dsn, "UPDATE ingest_owner SET seen_at = clock_timestamp() - interval '9 s'")
    with redis.Redis.from_url(redis_url) as client:
        client.expire(OWNER_KEY, LEASE_S - 9)
    with pytest.raises(Refused, match=r"database\.dsn: this database belongs to the daemon of here:/data"):
        boot_check.check_servers(config, THEIRS, sleep=ours_renews)
    with redis.Redis.from_url(redis_url) as client:
        client.expire(OWNER_KEY, LEASE_S - 9)
    with pytest.raises(Refused, match=r"redis\.url: this Redis belongs to the daemon of here:/data"):
        boot_check.check_servers(elsewhere, THEIRS, sleep=ours_renews)


@pytest.mark.requirement("F35", "F36")
def test_a_start_waits_for_an_owner_that_is_dead_and_not_for_servers_that_are_away(
    postgres_dsn: str, redis_url: str
) -> None:
    config = Config(database=Database(dsn=postgres_dsn), redis=Redis(url=redis_url))
    boot_check.check_servers(config, OURS)
    slept = []

    def time_passes(seconds: float) -> None:
        """Redis was seen last: its owner is younger when that of the database has expired."""
        slept.append(seconds)
        if len(slept) < 3:
            execute(
                postgres_dsn, f"UPDATE ingest_owner SET seen_at = clock_timestamp() - interval '{20 * len(slept)} s'"
            )
        with redis.Redis.from_url(redis_url) as client:
            client.expire(OWNER_KEY, LEASE_S - 5 * len(slept) if len(slept) < 4 else 0)

    with capture_logs() as logs:
        boot_check.check_servers(config, THEIRS, sleep=time_passes)

    assert len(slept) == 4
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["waiting_for_owner"]
    away = Config(database=Database(dsn=NOBODY), redis=Redis(url="redis://127.0.0.1:1/0"))
    boot_check.check_servers(away, OURS, sleep=unexpected)


@pytest.mark.requirement("F35", "F47")
def test_a_start_is_refused_where_the_tables_are_of_a_newer_version(postgres_dsn: str, redis_url: str) -> None:
    config = Config(database=Database(dsn=postgres_dsn), redis=Redis(url=redis_url))
    execute(postgres_dsn, "INSERT INTO schema_migrations VALUES (9001, 'later', 'x')")
    with pytest.raises(ConfigError, match=r"has migration 9001 \(later\)"):
        boot_check.check_servers(config, OURS, sleep=unexpected)
    assert "ingest_owner" not in tables(postgres_dsn)


def unexpected(_: float) -> None:
    raise AssertionError("nobody is to be waited for")
