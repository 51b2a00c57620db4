"""The database is away for long: killed, stopped and full meanwhile, the daemon stores every record once afterwards."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.rig import ROLES, Rig, wait_for

RATE = 4_000.0
RECORDS = 2_000
SPILL = "min_free_mb = 0\nsegment_mb = 1\ninterval_s = 0.2\nprobe_s = 0.2"
# Of each ring, each part was stored after the one before. Between rings there is no order of receipt: a file takes
# what one has until it is full, and what the other had longer goes into the next.
OUT_OF_ORDER = """
SELECT count(*) FROM (
    SELECT stored_at < lag(stored_at) OVER (PARTITION BY ring, epoch ORDER BY through_seq) AS is_early
    FROM spilled_batches, unnest(rings, epochs, through_seqs) AS part (ring, epoch, through_seq)
) AS stored WHERE is_early"""


@pytest.fixture
def rig(
    tmp_path: Path, own_postgres: Callable[[], EmbeddedPostgres], own_redis: Callable[[], EmbeddedRedis]
) -> Iterator[Rig]:
    with Rig(tmp_path, own_postgres(), own_redis()) as rig:
        yield rig


def start(rig: Rig, *, rate: float = RATE, spill: str = SPILL, ring_mb: int = 64) -> None:
    """Stream, with quick retries and small segments."""
    rig.start_simulator(rate=rate)
    text = rig.config_path.read_text().replace(
        "[redis]", f"retry_delays_s = [0.05, 0.1, 0.2]\n[spill]\n{spill}\n[redis]"
    )
    rig.config_path.write_text(text.replace("capacity_mb = 64", f"capacity_mb = {ring_mb}"))
    rig.start_daemon()
    rig.wait_received(RECORDS)


def spill_files(rig: Rig) -> list[Path]:
    return sorted((rig.data_dir / "failed_batches").glob("batch_*.spill"))


def spill_more(rig: Rig, files: int = 2) -> None:
    """Wait until that many more files are there."""
    wanted = len(spill_files(rig)) + files
    wait_for(lambda: len(spill_files(rig)) >= wanted, f"{wanted} spill files: {rig.tail()}")


def kill_all(rig: Rig) -> None:
    rig.kill_roles(signal.SIGKILL)
    assert rig.daemon is not None
    rig.daemon.kill()
    rig.daemon.wait()
    wait_for(lambda: not any(rig.pids(role) for role in ROLES), "all to be dead")


def finish(rig: Rig) -> None:
    """End the offer, wait until nothing waits, stop, and put the books side by side."""
    rig.wait_received(RECORDS)
    rig.stop_simulator()
    rig.wait_committed()
    wait_for(lambda: not spill_files(rig), f"every spill file to be stored: {rig.tail()}")
    assert rig.stop_daemon() == 0, rig.tail()
    verdict = rig.compare()
    assert verdict.is_exact, f"{verdict}\n{rig.tail()}"
    with psycopg.connect(rig.postgres.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM spilled_batches WHERE stored_at IS NULL").fetchone() == (0,)


@pytest.mark.nightly  # short: tests/chaos/test_harness.py, everything dies during recovery
@pytest.mark.requirement("DLP-01", "DLP-02", "DLP-03", "CH-PROC-01", "F26")
def test_everything_killed_while_spilled_and_again_during_the_recovery_loses_and_repeats_nothing(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = tmp_path / "points"
    points.mkdir()
    monkeypatch.setenv("SISE_FAILPOINTS", str(points))
    start(rig)
    rig.postgres.stop("immediate")
    spill_more(rig)
    kill_all(rig)
    rig.start_daemon()
    spill_more(rig)

    for point in ("recovery.before_commit", "recovery.after_commit"):
        (points / point).write_text("stop")  # there it stands when it is killed
        if point == "recovery.before_commit":
            rig.postgres.start()
        wait_for(lambda: not (points / point).exists(), f"the recovery: {rig.tail()}")  # noqa: B023 - awaited here
        kill_all(rig)
        rig.start_daemon()

    finish(rig)


@pytest.mark.requirement("GS-01", "DLP-02", "DLP-03", "CH-RES-01")
def test_a_stop_while_the_database_is_away_leaves_everything_in_files_and_the_next_start_stores_it(rig: Rig) -> None:
    start(rig)
    rig.postgres.stop("immediate")
    spill_more(rig)

    began_s = time.monotonic()
    assert rig.stop_daemon() == 0, rig.tail()

    assert time.monotonic() - began_s < 15.0
    (end,) = rig.events("Graceful Shutdown Complete")
    assert end["remaining_spill_files"] == len(spill_files(rig)) > 0
    assert (end["remaining_in_rings"], end["remaining_bytes_in_rings"]) == (0, 0)

    rig.postgres.start()
    rig.start_daemon()
    finish(rig)


@pytest.mark.nightly  # short: tests/integration/test_spill.py, two replays at once
@pytest.mark.requirement("DLP-03")
def test_sise_recover_beside_the_running_daemon_stores_nothing_twice(rig: Rig) -> None:
    start(rig)
    rig.postgres.stop("immediate")
    spill_more(rig, files=8)
    rig.postgres.start()
    command = [sys.executable, "-m", "daemon.cli", "recover", "-c", str(rig.config_path)]
    beside = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate(timeout=60)[0] for one in beside]

    finish(rig)

    for text in said:
        assert "the daemon is running" in text or "nothing to do" in text, text


@pytest.mark.requirement("F46", "BP-01", "DLP-02", "DLP-03")
@pytest.mark.parametrize(
    ("rate", "quota_gb", "full_s", "share"),
    # The short one is drained within milliseconds: nothing to be measured meanwhile.
    [(3_000.0, 0.0001, 1.0, 0.0), pytest.param(8_000.0, 0.004, 20.0, 0.8, marks=pytest.mark.nightly)],
)
def test_an_outage_that_fills_the_quota_pauses_sockets_and_is_drained_in_order_beside_the_live_rows(
    rig: Rig, rate: float, quota_gb: float, full_s: float, share: float
) -> None:
    """share: of the rate before the outage, so much at least is received while the files are drained."""
    start(rig, rate=rate, spill=f"{SPILL}\nquota_gb = {quota_gb}", ring_mb=1)
    began_s, received = time.monotonic(), rig.total("records_received")
    rig.wait_received(int(2 * rate))
    rate_before = (rig.total("records_received") - received) / (time.monotonic() - began_s)
    rig.postgres.stop("immediate")
    wait_for(lambda: rig.total("spill_failures"), f"the quota: {rig.tail()}")
    wait_for(lambda: rig.total("socket_pauses"), f"paused sockets: {rig.tail()}")
    until_s = time.monotonic() + full_s
    wait_for(lambda: time.monotonic() > until_s, "a while without a place for anything")
    full = len(spill_files(rig))
    assert rig.total("spill_bytes") <= quota_gb * (1 << 30)
    assert any(event["code"] == "spill_impossible" for event in rig.events("alert"))

    rig.postgres.start()
    wait_for(lambda: rig.total("batches_recovered") or not spill_files(rig), f"the drain to begin: {rig.tail()}")
    began_s, received = time.monotonic(), rig.total("records_received")
    wait_for(lambda: not spill_files(rig), f"the drain: {rig.tail()}")
    drain_s, received_meanwhile = time.monotonic() - began_s, rig.total("records_received") - received
    wait_for(lambda: any(event["code"] == "spill_recovered" for event in rig.events("alert")), "the all-clear")
    finish(rig)

    assert full > 0
    assert received_meanwhile >= share * rate_before * drain_s, f"{received_meanwhile} in {drain_s:.2f} s"
    with psycopg.connect(rig.postgres.dsn) as connection:
        assert connection.execute(OUT_OF_ORDER).fetchone() == (0,)
