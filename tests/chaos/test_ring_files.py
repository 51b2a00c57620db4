"""Ring files that somebody deletes, replaces or cuts under a running daemon: new ones, a noted gap, no stop."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from daemon.rings import ring_path
from tests.rig import Rig, running, wait_for

RATE = 1_500.0


class SyncingRig(Rig):
    """Nothing is stored or published before it is on the disk."""

    def _config(self, address: dict[str, Any]) -> str:
        return super()._config(address).replace("capacity_mb = 64", 'capacity_mb = 64\nwal_sync = "batch"')


@pytest.fixture
def rig(
    tmp_path: Path, own_postgres: Callable[[], EmbeddedPostgres], own_redis: Callable[[], EmbeddedRedis]
) -> Iterator[Rig]:
    with Rig(tmp_path, own_postgres(), own_redis()) as rig:
        yield rig


def delete(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, 100_000)


def put_garbage(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"this is no ring" * 10_000)


@pytest.mark.requirement("F43", "CH-PROC-01")
@pytest.mark.parametrize(
    "break_it",
    [delete, pytest.param(cut, marks=pytest.mark.nightly), pytest.param(put_garbage, marks=pytest.mark.nightly)],
)
def test_a_ring_file_broken_under_a_running_daemon_is_made_again_and_read_from_then_on(
    rig: Rig, break_it: Callable[[Path], None]
) -> None:
    with running(rig, rate=RATE):
        rig.wait_received(2_000)
        path = ring_path(rig.data_dir, 0)
        with path.open("rb") as old:  # as long as it is open, no new file gets its number
            before = os.fstat(old.fileno()).st_ino

            break_it(path)

            wait_for(
                lambda: path.exists() and path.stat().st_ino != before and path.stat().st_size > 1 << 26,
                f"a new ring: {rig.tail()}",
            )
        with psycopg.connect(rig.postgres.dsn, autocommit=True) as connection:
            query = "SELECT count(DISTINCT epoch) FROM ingest_cursor WHERE ring = 0"
            wait_for(lambda: connection.execute(query).fetchone() == (2,), f"a cursor in it: {rig.tail()}")
            query = "SELECT count(*) FROM feed_gaps WHERE reason = 'ring lost'"
            wait_for(lambda: connection.execute(query).fetchone() != (0,), f"the gaps: {rig.tail()}")
        rig.wait_received(2_000)
        rig.stop_simulator()
        assert rig.stop_daemon() == 0, rig.tail()

        verdict = rig.compare()
        found = verdict.lost, verdict.duplicated, verdict.wrong, verdict.unknown
        assert found == (0, 0, 0, 0), f"{verdict}\n{rig.tail()}"


@pytest.mark.requirement("F43", "F31", "GS-01")
def test_a_stop_right_behind_a_deleted_ring_file_leaves_nothing_in_the_new_one_and_notes_the_gap(rig: Rig) -> None:
    with running(rig, rate=RATE):
        rig.wait_received(1_000)
        wait_for(lambda: rig.total("rows_committed") >= 100, f"rows: {rig.tail()}")
        delete(ring_path(rig.data_dir, 0))
        wait_for(lambda: rig.events("ring_file_gone"), f"a new ring: {rig.tail()}")  # the writer looks once a second

        assert rig.stop_daemon() == 0, rig.tail()

        assert rig.events("Graceful Shutdown Complete")[-1]["remaining_in_rings"] == 0
        with psycopg.connect(rig.postgres.dsn) as connection:
            query = "SELECT DISTINCT source FROM feed_gaps WHERE reason = 'ring lost'"
            assert connection.execute(query).fetchall() == [(0,)]
        rig.stop_simulator()


@pytest.mark.requirement("F43", "F37")
def test_a_ring_file_deleted_or_cut_while_nothing_runs_does_not_stop_the_next_start(rig: Rig) -> None:
    with running(rig, rate=RATE):
        rig.wait_received(1_000)
        wait_for(lambda: rig.total("rows_committed") >= 100, f"rows: {rig.tail()}")  # else nobody misses any
        rig.kill_roles(signal.SIGKILL)
        assert rig.daemon is not None
        rig.daemon.kill()
        rig.daemon.wait()
        delete(ring_path(rig.data_dir, 0))
        cut(ring_path(rig.data_dir, 1))

        rig.start_daemon()
        rig.wait_received(1_000)
        rig.stop_simulator()
        assert rig.stop_daemon() == 0, rig.tail()

    verdict = rig.compare()
    assert (verdict.lost, verdict.duplicated, verdict.wrong, verdict.unknown) == (0, 0, 0, 0), (
        f"{verdict}\n{rig.tail()}"
    )
    with psycopg.connect(rig.postgres.dsn) as connection:
        rows = connection.execute("SELECT DISTINCT source FROM feed_gaps WHERE reason = 'ring lost'").fetchall()
    assert {row[0] for row in rows} == {0, 1}


@pytest.mark.requirement("F26", "F27", "CH-PROC-01", "DLP-01")
def test_with_group_commit_killed_workers_and_writers_lose_and_double_nothing(
    tmp_path: Path, own_postgres: Callable[[], EmbeddedPostgres], own_redis: Callable[[], EmbeddedRedis]
) -> None:
    with SyncingRig(tmp_path, own_postgres(), own_redis()) as rig, running(rig, rate=RATE):
        for role in ("worker", "writer", "worker"):
            rig.wait_received(1_000)
            killed = wait_for(lambda: rig.kill_roles(signal.SIGKILL, role), f"a {role} to kill")  # noqa: B023
            wait_for(lambda: set(rig.pids(role)) - set(killed), f"another {role}")  # noqa: B023
        rig.wait_received(1_000)
        rig.stop_simulator()
        assert rig.stop_daemon() == 0, rig.tail()

        verdict = rig.compare()
        assert verdict.is_exact, f"{verdict}\n{rig.tail()}"
    assert '"batch"' in rig.log_path.read_text() or "wal_sync=batch" in rig.log_path.read_text()
