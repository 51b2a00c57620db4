"""Real PostgreSQL and Redis servers for tests: one pair for the session, and own ones for tests that kill them.

Under pytest-xdist each worker process has its own pair.
"""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import sql

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from daemon.sinks import schema

PostgresFactory = Callable[[], EmbeddedPostgres]
RedisFactory = Callable[[], EmbeddedRedis]

# A test server starts in a fifth of a second less and takes a third of the disk; it is thrown away afterwards.
SMALL_POSTGRES = {"shared_buffers": "32MB", "max_wal_size": "256MB", "wal_buffers": "4MB"}
# Nobody kills the session's server: it may be quick instead of durable. Databases come and go in a third of the time,
# and no autovacuum holds up a copy of the template.
QUICK_POSTGRES = {**SMALL_POSTGRES, "fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
REDIS_DATABASES = 16
MIGRATED_TEMPLATE = "sise_migrated"

_numbers = itertools.count(1)


@contextmanager
def _directory(prefix: str) -> Iterator[Path]:
    """Not tmp_path: the paths stay short, the server's user can reach them, and the data are removed at once."""
    directory = Path(tempfile.mkdtemp(prefix=f"sise-test-{prefix}-"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """The session's PostgreSQL; a test that stops or kills a server takes `own_postgres` instead."""
    with _directory("pg") as directory, EmbeddedPostgres(directory, QUICK_POSTGRES) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """The session's Redis; a test that stops or kills a server takes `own_redis` instead."""
    with _directory("redis") as directory, EmbeddedRedis(directory) as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres_server: EmbeddedPostgres) -> str:
    """A database with all migrations, to make copies of."""
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(MIGRATED_TEMPLATE)))
    schema.migrate(postgres_server.dsn_for(MIGRATED_TEMPLATE))
    return MIGRATED_TEMPLATE


@contextmanager
def _fresh_database(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        query = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
            sql.Identifier(name), sql.Identifier(template)
        )
        connection.execute(query)
    try:
        yield server.dsn_for(name)
    finally:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def empty_postgres_dsn(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """A fresh database without any table."""
    with _fresh_database(postgres_server, "template1") as dsn:
        yield dsn


@pytest.fixture
def postgres_dsn(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """A fresh database with all migrations applied."""
    with _fresh_database(postgres_server, migrated_template) as dsn:
        yield dsn


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """An empty numbered database of the session's Redis. Channels are not per database: mind left-over subscribers."""
    url = redis_server.url_for(next(_numbers) % REDIS_DATABASES)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def own_postgres() -> Iterator[PostgresFactory]:
    """Make servers that the test may stop and kill: each call starts one, with the tables in database `postgres`."""
    with ExitStack() as stack:

        def make() -> EmbeddedPostgres:
            directory = stack.enter_context(_directory("own-pg"))
            server = stack.enter_context(EmbeddedPostgres(directory, SMALL_POSTGRES))
            schema.migrate(server.dsn)
            return server

        yield make


@pytest.fixture
def own_redis() -> Iterator[RedisFactory]:
    """Make servers that the test may stop and kill: each call starts one."""
    with ExitStack() as stack:

        def make() -> EmbeddedRedis:
            return stack.enter_context(EmbeddedRedis(stack.enter_context(_directory("own-redis"))))

        yield make
