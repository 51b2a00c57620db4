"""Real PostgreSQL and Redis servers for tests: one pair for the session, and own ones for tests that kill them.

Under pytest-xdist each worker process has its own pair; all start from copies of one data directory.
"""

import fcntl
import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import redis
from hypothesis import settings
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from daemon import embedded
from daemon.embedded import EmbeddedPostgres, EmbeddedRedis, postgres_binaries
from daemon.sinks import schema
from tests import servers
from tests.effort import IS_NIGHTLY
from tests.servers import RunningPostgres, make_postgres

PostgresFactory = Callable[[], EmbeddedPostgres]
RedisFactory = Callable[[], EmbeddedRedis]

# A test server starts in a fifth of a second less and takes a third of the disk; it is thrown away afterwards.
SMALL_POSTGRES = {"shared_buffers": "32MB", "max_wal_size": "256MB", "wal_buffers": "4MB"}
# Nobody kills the session's server: it may be quick instead of durable. Databases come and go in a third of the time,
# and no autovacuum holds up a copy of the template.
QUICK_POSTGRES = {**SMALL_POSTGRES, "fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
REDIS_DATABASES = 16
MIGRATED_TEMPLATE = "sise_migrated"
IMAGE_KEPT_S = 24 * 3600.0  # after its last use

# `make nightly` looks for longer: see tests/effort.py for those that say how many examples they want.
settings.register_profile("default", settings.get_profile("default"))
settings.register_profile("nightly", max_examples=1_000)
settings.load_profile("nightly" if IS_NIGHTLY else "default")

_numbers = itertools.count(1)


# A shell without job control starts what it puts into the background with SIGINT ignored, and so would be every process
# of a test that is to be ended with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the seed of everything that goes wrong at random."""
    parser.addoption(
        "--chaos-seed",
        default=os.environ.get("SISE_CHAOS_SEED", ""),
        help="seed of random faults; a test that fails says with which one (default: $SISE_CHAOS_SEED, else random)",
    )


@pytest.fixture
def chaos_seed(request: pytest.FixtureRequest) -> str:
    """The seed of this test's faults; printed, so that a failure can be repeated."""
    given: str = request.config.getoption("--chaos-seed")
    seed = given or str(random.SystemRandom().randrange(1 << 32))
    print(f"repeat with: pytest --chaos-seed {seed} '{request.node.nodeid}'")
    return seed


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
def postgres_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of a stopped server with the tables in database `postgres` and in MIGRATED_TEMPLATE.

    Made once for each state of the migrations, and kept beside pytest's own directories: a copy takes a third of what
    making the data and migrating them takes.
    """
    parents = tmp_path_factory.getbasetemp().parents
    shared = parents[1] if "PYTEST_XDIST_WORKER" in os.environ else parents[0]
    image = shared / f"sise-postgres-{os.geteuid()}-{_image_hash()}"
    with image.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            with _directory("image") as directory:
                with make_postgres(directory, QUICK_POSTGRES) as server:
                    with psycopg.connect(server.dsn, autocommit=True) as connection:
                        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(MIGRATED_TEMPLATE)))
                    for name in ("postgres", MIGRATED_TEMPLATE):
                        schema.migrate(server.dsn_for(name))
                    _close(server, MIGRATED_TEMPLATE)
                _copy(directory, image)
        assert image.stat().st_uid == os.geteuid(), f"{image} is somebody else's"
        os.utime(image)
    for other in shared.glob(f"sise-postgres-{os.geteuid()}-*[0-9a-f]"):
        with suppress(OSError):  # somebody else removes it too
            if time.time() - other.stat().st_mtime > IMAGE_KEPT_S:
                shutil.rmtree(other)
    return image


def _image_hash() -> str:
    """Everything that the content of an image depends on."""
    migrations = Path(schema.__file__).parent / "migrations"
    found = hashlib.sha256((servers.PROGRAMS or str(postgres_binaries())).encode())
    for path in (Path(schema.__file__), Path(embedded.__file__), Path(__file__), *sorted(migrations.glob("*.sql"))):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _copy(source: Path, target: Path) -> None:
    """Copy a directory with its owners and holes; it appears under its name when it is whole."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    subprocess.run(["cp", "--archive", "--sparse=always", source, unfinished], check=True)
    unfinished.rename(target)


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """The session's PostgreSQL; a test that stops or kills a server takes `own_postgres` instead."""
    if servers.DSN:
        yield RunningPostgres()
        return
    with _directory("pg") as parent:
        _copy(request.getfixturevalue("postgres_image"), parent / "s")
        with make_postgres(parent / "s", QUICK_POSTGRES) as server:
            yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """The session's Redis; a test that stops or kills a server takes `own_redis` instead."""
    with _directory("redis") as directory, EmbeddedRedis(directory) as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """A database with all migrations, to make copies of."""
    if not servers.DSN:
        assert postgres_server.pid
        yield MIGRATED_TEMPLATE
        return
    with _fresh_database(postgres_server, "template0") as dsn:
        schema.migrate(dsn)
        name = str(conninfo_to_dict(dsn)["dbname"])
        _close(postgres_server, name)
        yield name


def _close(server: EmbeddedPostgres, template: str) -> None:
    """Let no job of TimescaleDB's look into *template*: only a database that nobody is in can be copied."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(template)))
        query = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
        connection.execute(query, [template])


@contextmanager
def _fresh_database(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"test_{os.getpid()}_{next(_numbers)}"  # several workers may share a server
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
    with _fresh_database(postgres_server, "template0") as dsn:
        yield dsn


@pytest.fixture
def postgres_dsn(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """A fresh database with all migrations applied."""
    with _fresh_database(postgres_server, migrated_template) as dsn:
        yield dsn


@pytest.fixture
def timescale_dsn(request: pytest.FixtureRequest) -> str:
    """A fresh database with all migrations applied, on a native TimescaleDB."""
    if not servers.HAS_TIMESCALEDB:
        pytest.skip(servers.NEEDS_TIMESCALEDB)
    dsn: str = request.getfixturevalue("postgres_dsn")
    return dsn


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """An empty numbered database of the session's Redis. Channels are not per database: mind left-over subscribers."""
    url = redis_server.url_for(next(_numbers) % REDIS_DATABASES)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def own_postgres(request: pytest.FixtureRequest) -> Iterator[PostgresFactory]:
    """Make servers that the test may stop and kill: each call starts one, with the tables in database `postgres`."""
    if servers.DSN:
        pytest.skip(servers.STOPS_ITS_SERVER)
    postgres_image: Path = request.getfixturevalue("postgres_image")
    with ExitStack() as stack:

        def make() -> EmbeddedPostgres:
            directory = stack.enter_context(_directory("own-pg")) / "s"
            _copy(postgres_image, directory)
            return stack.enter_context(make_postgres(directory, SMALL_POSTGRES))

        yield make


@pytest.fixture
def own_redis() -> Iterator[RedisFactory]:
    """Make servers that the test may stop and kill: each call starts one."""
    with ExitStack() as stack:

        def make() -> EmbeddedRedis:
            return stack.enter_context(EmbeddedRedis(stack.enter_context(_directory("own-redis"))))

        yield make
