"""The database is taken away from a writer and comes back: what SQL counts afterwards is what went into the rings."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from daemon.config import Config, Database
from daemon.embedded import EmbeddedPostgres
from daemon.identity import Owner
from daemon.sinks.database import Database as RealDatabase
from daemon.sinks.isolation import new_batch
from daemon.sinks.owner import OwnedByAnother
from daemon.sinks.recover_now import recover
from daemon.sinks.recovery import Replayer
from daemon.sinks.spill import DIRECTORY, SpillDirectory
from tests.integration import writer_rig
from tests.integration.cutting_proxy import CuttingProxy
from tests.integration.writer_rig import (
    CHILD,
    MARKET_TABLES,
    MIXTURE,
    ROOT,
    Rings,
    RunningWriter,
    drain,
    execute,
    query,
    settings_for,
    spilled_files,
    stored,
    wait_until,
)

make_rings = writer_rig.make_rings
Servers = Callable[[], EmbeddedPostgres]
WAITING = "SELECT count(*) FROM spilled_batches WHERE stored_at IS NULL"


@contextmanager
def writer_process(rings: Rings, dsn: str, points: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The writer as a process whose failpoints can be armed; small batches, quick retries."""
    points.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SISE_FAILPOINTS": str(points)}
    command = [sys.executable, str(CHILD), dsn, str(rings.paths[0]), str(rings.directory / "counters"), "500", "5"]
    with subprocess.Popen(command, env=environment) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def recovered(rings: Rings) -> bool:
    return bool(rings.counters.get("batches_spilled")) and not spilled_files(rings)


@pytest.mark.requirement("GS-01", "DLP-03", "F31")
def test_a_stop_stores_what_is_spilled_if_the_database_answers(
    make_rings: Callable[..., Rings], own_postgres: Servers
) -> None:
    rings = make_rings()
    server = own_postgres()
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        rings.fill(100, mixture=MIXTURE)
        wait_until(lambda: rings.counters.get("rows_committed") == 100)
        server.stop("immediate")
        for _ in range(20):
            rings.fill(5_000, mixture=MIXTURE)
        wait_until(lambda: rings.counters.get("records_spilled") == 100_000)
        server.start()
        wait_until(lambda: rings.counters.get("database_connected"))
        assert running.stop() is True
    assert stored(server.dsn, *MARKET_TABLES) == (100_100, 100_100)
    assert spilled_files(rings) == []


@pytest.mark.requirement("DLP-02", "DLP-03", "F46")
def test_an_outage_is_spilled_completely_after_three_retries_and_stored_once_when_the_database_is_back(
    make_rings: Callable[..., Rings], own_postgres: Servers
) -> None:
    rings = make_rings(2)
    server = own_postgres()
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        rings.fill(100, mixture=MIXTURE)
        wait_until(lambda: rings.counters.get("rows_committed") == 100)
        server.stop("immediate")
        rings.fill(100, mixture=MIXTURE)
        wait_until(lambda: rings.counters.get("records_spilled") == 100)
        assert rings.counters.get("commit_retries") == 3
        for _ in range(10):
            rings.fill(3_000, ring=0, mixture=MIXTURE)
            rings.fill(2_000, ring=1, mixture=MIXTURE)
        wait_until(lambda: rings.counters.get("records_spilled") == 50_100)
        assert rings.counters.get("writer_lag_bytes") == 0
        assert rings.counters.get("spill_files") == len(spilled_files(rings)) > 1
        assert running.alerts.codes() == ["database_spilling"]

        server.start()
        rings.fill(500, mixture=MIXTURE)
        wait_until(lambda: recovered(rings) and stored(server.dsn, *MARKET_TABLES)[0] == 50_700)
        wait_until(lambda: running.alerts.codes() == ["database_spilling", "spill_recovered"])
        assert running.stop() is True

    assert stored(server.dsn, *MARKET_TABLES) == (50_700, 50_700)
    assert rings.counters.get("records_recovered") == rings.counters.get("records_spilled") >= 50_100
    assert rings.counters.get("rows_committed") == 50_700
    assert rings.counters.get("spill_files") == rings.counters.get("spill_bytes") == 0
    assert query(server.dsn, WAITING) == [(0,)]


@pytest.mark.requirement("DLP-03")
def test_replaying_twice_and_from_two_processes_stores_once(
    make_rings: Callable[..., Rings], own_postgres: Servers, tmp_path: Path
) -> None:
    rings = make_rings()
    server = own_postgres()
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        wait_until(lambda: rings.counters.get("database_connected"))
        server.stop("immediate")
        rings.fill(2_000)
        wait_until(lambda: rings.counters.get("records_spilled") == 2_000)
        assert running.stop() is True
    copies = {path: path.read_bytes() for path in spilled_files(rings)}
    server.start()
    drain(rings, server.dsn)
    assert stored(server.dsn) == (2_000, 2_000)

    for path, data in copies.items():
        path.write_bytes(data)
    execute(server.dsn, "UPDATE spilled_batches SET stored_at = NULL")
    execute(server.dsn, "TRUNCATE market_ticks")

    def replay() -> None:
        directory = SpillDirectory(rings.directory / DIRECTORY, quota_bytes=0, min_free_bytes=0)
        database = RealDatabase(Database(dsn=server.dsn))
        Replayer(directory=directory, database=database, batch=new_batch(), counters=rings.counters).replay()
        database.close()

    both = [threading.Thread(target=replay) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(60)
    assert stored(server.dsn) == (2_000, 2_000)

    for path, data in copies.items():  # a power loss undid the unlink
        path.write_bytes(data)
    drain(rings, server.dsn)
    assert stored(server.dsn) == (2_000, 2_000)
    assert spilled_files(rings) == []


@pytest.mark.requirement("F49", "DLP-03")
def test_a_batch_whose_acknowledgement_was_lost_before_the_database_went_away_is_not_stored_again(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    with CuttingProxy(postgres_dsn) as proxy:
        settings = settings_for(proxy.dsn, retry_delays_s=(0.01,), connect_timeout_s=1)
        with RunningWriter(rings, settings) as running:
            rings.fill(50)
            wait_until(lambda: rings.counters.get("rows_committed") == 50)
            proxy.of = b"UPDATE ingest_cursor AS cursor"  # the writer's, whatever the recovery asks meanwhile
            proxy.is_refusing_after_cut = True
            proxy.cut = "answer"
            rings.fill(70)
            wait_until(lambda: rings.counters.get("batches_spilled") >= 1)
            assert stored(postgres_dsn) == (120, 120)
            proxy.is_refusing_after_cut = False
            wait_until(lambda: not spilled_files(rings))
            assert running.stop() is True

    assert stored(postgres_dsn) == (120, 120)
    assert query(postgres_dsn, "SELECT count(*) FROM spilled_batches WHERE stored_at IS NULL") == [(0,)]


AWAY, BACK = True, False
KILLS = {
    "writer.in_copy": BACK,
    "writer.before_commit": BACK,
    "writer.after_commit": BACK,
    "spill.written": AWAY,
    "spill.synced": AWAY,
    "spill.renamed": AWAY,
    "spill.directory_synced": AWAY,
    "registration.before_commit": BACK,
    "recovery.registered": BACK,
    "recovery.before_commit": BACK,
    "recovery.after_commit": BACK,
    "recovery.removed": BACK,
}
IN_SHORT = ("writer.in_copy", "writer.before_commit", "writer.after_commit", "spill.renamed", "recovery.after_commit")


@pytest.mark.requirement("DLP-01", "DLP-03", "F26", "F28")
@pytest.mark.parametrize(
    "point", [point if point in IN_SHORT else pytest.param(point, marks=pytest.mark.nightly) for point in KILLS]
)
def test_a_writer_killed_at_any_point_loses_and_repeats_nothing(
    make_rings: Callable[..., Rings], own_postgres: Servers, tmp_path: Path, point: str
) -> None:
    is_away = KILLS[point] is AWAY
    rings = make_rings()
    server = own_postgres()
    points = tmp_path / "points"
    with writer_process(rings, server.dsn, points) as child:
        rings.fill(1_000)
        wait_until(lambda: rings.counters.get("rows_committed") == 1_000)
        server.stop("immediate")
        rings.fill(1_500)
        wait_until(lambda: rings.counters.get("records_spilled") == 1_500)
        if not is_away:
            child.kill()
            child.wait()

    if not is_away:
        server.start()
    (points / point).write_text("kill")
    with writer_process(rings, server.dsn, points) as child:
        rings.fill(1_500)
        assert child.wait(60) == -signal.SIGKILL
    if is_away:
        server.start()
    drain(rings, server.dsn)

    assert stored(server.dsn) == (4_000, 4_000)
    assert spilled_files(rings) == []
    assert not list((rings.directory / DIRECTORY).iterdir())


@pytest.mark.requirement("F39", "F40", "BP-01")
def test_where_nothing_can_be_spilled_the_records_stay_in_the_ring_and_it_goes_on_without_a_restart(
    make_rings: Callable[..., Rings], own_postgres: Servers
) -> None:
    rings = make_rings()
    server = own_postgres()
    directory = rings.directory / DIRECTORY
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        rings.fill(10)
        wait_until(lambda: rings.counters.get("rows_committed") == 10)
        directory.rmdir()
        directory.write_text("in the way")
        server.stop("immediate")
        rings.fill(300)
        wait_until(lambda: rings.counters.get("spill_failures") >= 2)
        assert running.alerts.codes() == ["spill_impossible"]
        assert rings.counters.get("writer_lag_bytes") > 0

        directory.unlink()
        wait_until(lambda: rings.counters.get("records_spilled") == 300)
        server.start()
        wait_until(lambda: stored(server.dsn)[0] == 310)
        assert running.stop() is True
    assert stored(server.dsn) == (310, 310)


@pytest.mark.requirement("F44", "DLP-03")
def test_a_database_that_is_away_at_the_start_and_has_more_than_the_ring_knows_gets_nothing_twice(
    make_rings: Callable[..., Rings], own_postgres: Servers, tmp_path: Path
) -> None:
    rings = make_rings()
    server = own_postgres()
    points = tmp_path / "points"
    points.mkdir()
    (points / "writer.after_commit").write_text("kill")  # the ring's own position stays behind
    with writer_process(rings, server.dsn, points) as child:
        rings.fill(400)
        assert child.wait(60) == -signal.SIGKILL
    in_database = stored(server.dsn)[0]
    assert in_database > 0
    server.stop("immediate")
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        rings.fill(200)
        wait_until(lambda: rings.counters.get("records_spilled") == 600)
        server.start()
        wait_until(lambda: recovered(rings))
        assert running.stop() is True

    assert stored(server.dsn) == (600, 600)


@pytest.mark.requirement("F43", "F42")
def test_a_spill_file_that_is_lost_or_damaged_is_a_gap_and_no_obstacle(
    make_rings: Callable[..., Rings], own_postgres: Servers
) -> None:
    rings = make_rings()
    server = own_postgres()
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        wait_until(lambda: rings.counters.get("database_connected"))
        server.stop("immediate")
        for count in range(1, 4):
            rings.fill(1_000)
            wait_until(lambda: rings.counters.get("records_spilled") == count * 1_000)  # noqa: B023 - awaited here
        assert running.stop() is True
    files = spilled_files(rings)
    assert len(files) >= 3
    data = bytearray(files[1].read_bytes())
    data[-1] ^= 1
    files[1].write_bytes(data)
    server.start()
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        wait_until(lambda: "spilled_batch_lost" in running.alerts.codes())
        wait_until(lambda: not [path for path in spilled_files(rings) if path.suffix == ".spill"])
        assert running.stop() is True

    rows, different = stored(server.dsn)
    assert rows == different
    assert 0 < rows < 3_000
    assert query(server.dsn, "SELECT sum(records) FROM spilled_batches WHERE lost_at IS NOT NULL") == [(3_000 - rows,)]
    # Also with an empty ledger, as in the first minute of a new database.
    untold = "SELECT symbol FROM market_ticks EXCEPT SELECT symbol FROM feed_gaps WHERE reason = 'spill file lost'"
    assert query(server.dsn, untold) == []


@pytest.mark.requirement("DLP-01", "F43")
def test_a_writer_killed_while_it_notes_a_lost_spill_file_notes_it_once(
    make_rings: Callable[..., Rings], own_postgres: Servers, tmp_path: Path
) -> None:
    rings = make_rings()
    server = own_postgres()
    points = tmp_path / "points"
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        wait_until(lambda: rings.counters.get("database_connected"))
        server.stop("immediate")
        rings.fill(1_000)
        wait_until(lambda: rings.counters.get("records_spilled") == 1_000)
        assert running.stop() is True
    (file,) = spilled_files(rings)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    server.start()

    points.mkdir()
    (points / "lost.before_commit").write_text("kill")
    with writer_process(rings, server.dsn, points) as child:
        assert child.wait(60) == -signal.SIGKILL
    lost = "SELECT sum(records) FROM spilled_batches WHERE lost_at IS NOT NULL"
    assert query(server.dsn, lost) == [(None,)]
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        wait_until(lambda: "spilled_batch_lost" in running.alerts.codes())
        assert running.stop() is True

    assert query(server.dsn, lost) == [(1_000,)]
    assert stored(server.dsn) == (0, 0)


@pytest.mark.requirement("DLP-03")
def test_sise_recover_registers_and_stores_everything_while_the_daemon_is_stopped(
    make_rings: Callable[..., Rings], own_postgres: Servers
) -> None:
    rings = make_rings()
    server = own_postgres()
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        wait_until(lambda: rings.counters.get("database_connected"))
        server.stop("immediate")
        rings.fill(2_000)
        wait_until(lambda: rings.counters.get("records_spilled") == 2_000)
        assert running.stop() is True
    server.start()
    config = Config(data_dir=str(rings.directory), database=settings_for(server.dsn))
    told: list[str] = []
    other = RealDatabase(config.database, Owner(uuid.UUID(int=1), "there:/data"))
    with closing(other):
        other.keep_owner()
        with pytest.raises(OwnedByAnother):
            recover(config, tell=told.append)
        assert stored(server.dsn) == (0, 0)
        other.give_up_owner()

    assert recover(config, tell=told.append) == 0
    assert recover(config, tell=told.append) == 0

    assert told[-1] == "nothing to do: no batch is spilled"
    assert stored(server.dsn) == (2_000, 2_000)
    drain(rings, server.dsn)
    assert stored(server.dsn) == (2_000, 2_000)
