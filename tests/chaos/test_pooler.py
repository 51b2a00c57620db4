"""A pooler in transaction mode between daemon and database: nothing relies on a session, and the numbers match."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from daemon.sinks import schema
from tests.chaos.network_rig import NetworkRig
from tests.chaos.pooler import pooler, why_not
from tests.rig import TIMEOUT_S, wait_for

RATE = 1_500.0
MakeRig = Callable[..., NetworkRig]
pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
def make_rig(tmp_path: Path, redis_url: str) -> Iterator[MakeRig]:
    def make(dsn: str, **more: str) -> NetworkRig:
        settings = {"database": "retry_delays_s = [0.1]", "spill": "probe_s = 0.3\nrecover_every_s = 1", **more}
        rig = NetworkRig(
            tmp_path, dsn, redis_url, accounts=2, workers=2, symbols=4, connects_per_10min=1000, more_settings=settings
        )
        return stack.enter_context(rig)

    with ExitStack() as stack:
        yield make


def command(rig: NetworkRig, *words: str) -> str:
    """Return what a command says, with the daemon's own settings."""
    done = subprocess.run(
        [sys.executable, "-m", "daemon.cli", *words, "-c", str(rig.config_path)],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def sessions_ended(dsn: str) -> int:
    """End every session in that database; return how many there were. From another one, as nobody may be let in."""
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    with elsewhere(dsn) as connection:
        return connection.execute(query, [conninfo_to_dict(dsn)["dbname"]]).rowcount


def elsewhere(dsn: str) -> psycopg.Connection[Any]:
    """Return a connection to another database of the same server, in autocommit mode."""
    return psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True)


def alter(dsn: str, change: str) -> None:
    """Change the table of trades, whoever writes to it: a deadlock with the writer is tried again, here and there."""

    def is_done() -> bool:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(f"ALTER TABLE market_ticks {change}".encode())
        except psycopg.errors.DeadlockDetected:
            return False
        return True

    wait_for(is_done, change)


def let_in(dsn: str, is_let_in: bool) -> None:
    name = conninfo_to_dict(dsn)["dbname"]
    with elsewhere(dsn) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {is_let_in}')


@pytest.mark.requirement("F55")
def test_migrations_run_through_a_pooler_again_and_again(empty_postgres_dsn: str) -> None:
    with pooler(empty_postgres_dsn) as address:
        assert schema.migrate(address, retention_days=30)
        for _ in range(8):  # more often than a driver needs to prepare a statement
            assert schema.migrate(address, retention_days=30) == []


@pytest.mark.requirement("F55", "F48")
def test_the_daemon_stores_spills_and_recovers_through_a_pooler_of_transactions(
    make_rig: MakeRig, postgres_dsn: str
) -> None:
    with pooler(postgres_dsn) as address:
        rig = make_rig(address)
        rig.start(rate=RATE)
        rig.wait_ready()
        rig.wait_received(int(RATE))

        assert sessions_ended(postgres_dsn) > 0
        rig.wait_received(int(RATE / 2))
        rig.kill_roles(signal.SIGKILL, "writer")
        rig.wait_received(int(RATE / 2))
        stored = rig.total("rows_committed")
        wait_for(lambda: rig.total("rows_committed") > stored, f"rows behind that: {rig.tail()}")

        verdict, _ = rig.finish()

        assert verdict.stored > RATE
        assert "nothing is missing" in command(rig, "verify")


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.requirement("F55", "F46", "F51")
def test_everything_that_speaks_to_the_database_does_so_through_a_pooler_of_transactions(
    make_rig: MakeRig, empty_postgres_dsn: str
) -> None:
    """Migrations, an outage with spill files, refused rows and their replay, reconciliation, captures."""
    with pooler(empty_postgres_dsn, sessions=2) as address:
        rig = make_rig(address, raw="enabled = true")
        rig.start(rate=RATE)
        rig.wait_ready()
        rig.wait_received(int(RATE))
        alter(empty_postgres_dsn, "ADD CONSTRAINT odd CHECK (volume <> 7) NOT VALID")
        wait_for(lambda: rig.total("rows_refused") > 0, f"a refused row: {rig.tail()}")
        alter(empty_postgres_dsn, "DROP CONSTRAINT odd")
        wait_for(lambda: rig.total("minutes_reconciled") > 0, f"a compared minute: {rig.tail()}", 200.0)

        let_in(empty_postgres_dsn, False)
        assert sessions_ended(empty_postgres_dsn) > 0
        wait_for(lambda: rig.total("batches_spilled") > 1, f"spill files: {rig.tail()}")
        rig.wait_received(int(RATE))
        let_in(empty_postgres_dsn, True)
        wait_for(lambda: rig.total("spill_files") == 0, f"the files to be stored: {rig.tail()}")

        assert "rows" in command(rig, "quarantine", "replay", "--all")
        captures = [str(path) for path in sorted((rig.data_dir / "raw").iterdir())]
        rig.finish()
        command(rig, "replay", *captures)
        command(rig, "replay", *captures)
        assert rig.compare().is_exact
        assert "nothing is missing" in command(rig, "verify")
