"""Any process killed at any moment: nothing that reached a ring is lost, nothing is stored twice."""

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.rig import ROLES, Rig, running, wait_for

RATE = 4_000.0
RECORDS_BETWEEN = 2_000
CHILDREN = 5  # two workers, writer, publisher, monitor


@pytest.fixture
def rig(
    tmp_path: Path, own_postgres: Callable[[], EmbeddedPostgres], own_redis: Callable[[], EmbeddedRedis]
) -> Iterator[Rig]:
    with Rig(tmp_path, own_postgres(), own_redis()) as rig:
        yield rig


def finish(rig: Rig) -> None:
    """End the offer, let everything drain, stop the daemon, and put the books side by side."""
    rig.wait_received(RECORDS_BETWEEN)
    rig.stop_simulator()
    # a server that is slow to come back is spilled around, and a stop leaves the files for the next start
    wait_for(lambda: rig.total("spill_files") == 0, f"spilled batches to be stored: {rig.tail()}")
    assert rig.stop_daemon() == 0, rig.tail()
    verdict = rig.compare()
    assert verdict.is_exact, f"{verdict}\n{rig.tail()}"


@pytest.mark.requirement("CH-PROC-01", "DLP-01")
@pytest.mark.parametrize("role", ["writer", "publisher", "worker", pytest.param("monitor", marks=pytest.mark.nightly)])
def test_a_killed_process_is_restarted_and_nothing_is_lost_or_doubled(rig: Rig, role: str) -> None:
    with running(rig, rate=RATE):
        moments = random.Random(role)
        for _ in range(3):
            rig.wait_received(moments.randint(100, RECORDS_BETWEEN))
            killed = wait_for(lambda: rig.kill_roles(signal.SIGKILL, role), f"a {role} to kill")
            wait_for(lambda: set(rig.pids(role)) - set(killed), f"another {role}")  # noqa: B023

        finish(rig)

    assert rig.total("restarts") >= 3
    with psycopg.connect(rig.postgres.dsn) as connection:
        reasons = {row[0] for row in connection.execute("SELECT DISTINCT reason FROM feed_gaps")}
    assert ("worker restarted" in reasons) == (role == "worker")  # the venue's own end is "connection lost"


@pytest.mark.requirement("CH-PROC-01")
@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.nightly)])
def test_a_worker_killed_again_before_its_streams_have_resumed_still_accounts_for_every_record(
    tmp_path: Path, own_postgres: Callable[[], EmbeddedPostgres], own_redis: Callable[[], EmbeddedRedis], times: int
) -> None:
    with (
        Rig(tmp_path, own_postgres(), own_redis(), workers=1, subscribe_interval_ms=100) as rig,
        running(rig, rate=RATE),
    ):
        for _ in range(times):
            rig.wait_received(RECORDS_BETWEEN)
            for _ in range(2):
                killed = rig.kill_roles(signal.SIGKILL, "worker")
                wait_for(lambda: set(rig.pids("worker")) - set(killed), "another worker")  # noqa: B023
                wait_for(lambda: 0 < rig.total("subscriptions_confirmed") < 2 * len(rig.symbols), "some to resume")
            wait_for(lambda: rig.total("subscriptions_confirmed") == 2 * len(rig.symbols), "all streams to resume")

        finish(rig)


@pytest.mark.requirement("F29", "CH-PROC-01")
def test_a_killed_supervisor_leaves_no_orphans_and_its_successor_goes_on(rig: Rig) -> None:
    with running(rig, rate=RATE):
        for _ in range(2):
            rig.wait_received(RECORDS_BETWEEN)
            wait_for(lambda: len(children(rig)) == CHILDREN, f"every process: {rig.tail()}")
            orphans = children(rig)
            assert rig.daemon is not None
            rig.daemon.kill()
            rig.daemon.wait()
            rig.start_daemon()

            wait_for(lambda: children(rig) - orphans, f"a child of the successor: {rig.tail()}")  # noqa: B023
            assert not {orphan for orphan in orphans if is_alive(orphan)}, rig.tail()

        finish(rig)


def children(rig: Rig) -> set[psutil.Process]:
    """Living ones. A psutil.Process, unlike a pid, is equal to no later process."""
    found = set()
    for pid in (pid for role in ROLES if role != "supervisor" for pid in rig.pids(role)):
        with suppress(psutil.NoSuchProcess):
            found.add(psutil.Process(pid))
    return found


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.requirement("CH-PROC-01", "DLP-01")
def test_everything_killed_at_once_loses_nothing_that_had_reached_a_ring(rig: Rig) -> None:
    with running(rig, rate=RATE):
        for _ in range(3):
            rig.wait_received(RECORDS_BETWEEN)
            rig.kill_roles(signal.SIGKILL)
            assert rig.daemon is not None
            rig.daemon.wait()
            wait_for(lambda: not any(rig.pids(role) for role in ("worker", "writer", "publisher")), "all to be dead")
            rig.start_daemon()

        finish(rig)


@pytest.mark.requirement("CH-PROC-01", "DLP-01", "CH-RES-01")
def test_everything_killed_while_the_database_is_away_loses_nothing_that_had_reached_a_ring(rig: Rig) -> None:
    with running(rig, rate=RATE):
        rig.wait_received(RECORDS_BETWEEN)
        rig.postgres.stop("immediate")
        wait_for(lambda: rig.events("database_away"), "the writer to notice")
        rig.wait_received(RECORDS_BETWEEN)
        rig.kill_roles(signal.SIGKILL)
        assert rig.daemon is not None
        rig.daemon.wait()
        rig.postgres.start()
        rig.start_daemon()

        finish(rig)


@pytest.mark.requirement("CH-RES-01")
@pytest.mark.parametrize(
    "how",
    [pytest.param("fast", marks=pytest.mark.nightly), "immediate", pytest.param("kill", marks=pytest.mark.nightly)],
)
def test_the_database_stopped_and_started_under_load_misses_nothing(rig: Rig, how: str) -> None:
    with running(rig, rate=RATE):
        rig.wait_received(RECORDS_BETWEEN)
        if how == "kill":
            rig.postgres.kill()
        else:
            rig.postgres.stop("fast" if how == "fast" else "immediate")
        wait_for(lambda: rig.events("database_away"), "the writer to notice")
        rig.wait_received(2 * RECORDS_BETWEEN)
        rig.postgres.start()
        wait_for(lambda: rig.events("database_back"), "the writer to be back")

        finish(rig)


@pytest.mark.requirement("QG-IT-01")
def test_redis_killed_and_started_under_load_never_touches_the_database(rig: Rig) -> None:
    with running(rig, rate=RATE):
        rig.wait_received(RECORDS_BETWEEN)
        rig.redis.kill()
        wait_for(lambda: rig.counters()["publisher"]["values"]["redis_connected"] == 0, "the publisher to notice")
        committed = rig.total("rows_committed")
        wait_for(lambda: rig.total("rows_committed") > committed + RECORDS_BETWEEN, "rows to go on being committed")
        rig.redis.start()
        published = rig.total("records_published")
        wait_for(lambda: rig.total("records_published") > published + RECORDS_BETWEEN, "publishing to resume")

        finish(rig)


@pytest.mark.requirement("GS-01")
def test_sigterm_under_load_drains_everything_and_leaves_no_connection(rig: Rig) -> None:
    with running(rig, rate=RATE):
        rig.wait_received(RECORDS_BETWEEN)

        assert rig.stop_daemon() == 0, rig.tail()

        assert rig.backlog() == 0
        rig.stop_simulator()
        with psycopg.connect(rig.postgres.dsn) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sise%'"
            ).fetchone()
        assert row == (0,)
        (end,) = rig.events("Graceful Shutdown Complete")
        assert end["rows_committed"] > 0
