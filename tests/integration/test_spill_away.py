"""Spill files that were moved away: what came of them while they were gone, and when they are back."""

import fcntl
import os
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

import msgspec
import pytest

from daemon.config import Config
from daemon.embedded import EmbeddedPostgres
from daemon.sinks.recover_now import recover
from daemon.supervision.directory_lock import LOCK_FILE, DirectoryLock
from tests.integration.test_spill_doubts import spill
from tests.integration.writer_rig import (
    QUICK_SPILL,
    Rings,
    RunningWriter,
    drain,
    make_rings,
    query,
    settings_for,
    spilled_files,
    stored,
    wait_until,
)
from tests.reference.packed_records import Trade

__all__ = ["make_rings"]  # the fixture

Servers = Callable[[], EmbeddedPostgres]


@pytest.mark.requirement("DLP-03", "F43")
def test_a_file_that_is_put_back_beside_the_running_writer_is_stored_without_a_restart(
    make_rings: Callable[..., Rings], own_postgres: Servers
) -> None:
    rings = make_rings()
    server = own_postgres()
    spill(rings, server)
    kept = {path: path.read_bytes() for path in spilled_files(rings)}
    for path in kept:
        path.unlink()
    server.start()

    with RunningWriter(
        rings, settings_for(server.dsn), spill=msgspec.structs.replace(QUICK_SPILL, recover_every_s=0.2)
    ) as running:
        rings.fill(500)
        wait_until(lambda: stored(server.dsn) == (500, 500))
        for path, data in kept.items():
            path.write_bytes(data)
        wait_until(lambda: stored(server.dsn) == (3_500, 3_500))
        wait_until(lambda: spilled_files(rings) == [])
        rings.fill(10)  # the writer is not disturbed: its cursors are where it left them
        wait_until(lambda: stored(server.dsn) == (3_510, 3_510))
        assert running.stop() is True


@pytest.mark.requirement("DLP-03", "F43", "F46")
def test_the_gap_of_a_missing_file_ends_where_the_next_one_begins(
    make_rings: Callable[..., Rings], own_postgres: Servers
) -> None:
    """Not when the database came back: an outage of hours would be one hole."""
    rings = make_rings()
    server = own_postgres()
    rings.fill(100)
    drain(rings, server.dsn)
    spill(rings, server, files=4)
    files = spilled_files(rings)
    assert len(files) >= 4
    files[1].unlink()
    files[2].unlink()
    server.start()
    drain(rings, server.dsn)

    missing = 3_000 + 1_100 - stored(server.dsn)[0]
    assert missing > 0
    inside = """
SELECT count(*) FROM feed_gaps AS gap JOIN market_ticks AS tick
    ON gap.symbol = tick.symbol AND gap.reason = 'missing before spill file'
    AND tick.recv_time > gap.started + INTERVAL '1 ms' AND tick.recv_time < gap.ended - INTERVAL '1 ms'"""
    assert query(server.dsn, inside) == [(0,)]
    assert query(server.dsn, "SELECT count(*) > 0 FROM feed_gaps") == [(True,)]


@pytest.mark.requirement("DLP-01", "F43")
@pytest.mark.parametrize("is_known", [True, False], ids=["of a known ring", "of a ring that the database never saw"])
def test_a_file_lost_before_anything_of_a_stream_was_stored_is_a_gap_of_that_stream_too(
    make_rings: Callable[..., Rings], own_postgres: Servers, *, is_known: bool
) -> None:
    rings = make_rings()
    rings.planned = [("kis", "kr", "000660", "trade"), ("kis", "kr", "000660", "orderbook")]
    server = own_postgres()
    if is_known:
        drain(rings, server.dsn)
    server.stop("immediate")
    began = datetime.now(UTC)
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        for spilled in (300, 600):
            rings.fill(300, mixture=[Trade(symbol=b"000660")])
            wait_until(lambda: rings.counters.get("records_spilled") == spilled)  # noqa: B023
        assert running.stop() is True
    spilled_files(rings)[0].unlink()
    server.start()
    drain(rings, server.dsn)

    reason = "reason = 'missing before spill file'"
    told = query(server.dsn, f"SELECT symbol, kind, started, ended FROM feed_gaps WHERE {reason} ORDER BY 2")
    first_stored = query(server.dsn, "SELECT min(recv_time) FROM market_ticks")[0][0]
    assert [row[:2] for row in told] == [("000660", "orderbook"), ("000660", "trade")]
    assert all(started <= began and ended == first_stored for _, _, started, ended in told)


@pytest.mark.requirement("DLP-03", "F36")
def test_sise_recover_waits_for_another_that_registers_and_lets_a_daemon_start_while_it_stores(
    make_rings: Callable[..., Rings], own_postgres: Servers
) -> None:
    rings = make_rings()
    server = own_postgres()
    spill(rings, server)
    server.start()
    run_dir = rings.directory / "run"
    run_dir.mkdir(exist_ok=True)
    other = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(other, fcntl.LOCK_EX)
    threading.Timer(0.3, os.close, [other]).start()
    told: list[str] = []
    starts: list[int] = []

    def tell(line: str) -> None:
        told.append(line)
        with closing(DirectoryLock(run_dir)) as lock:
            lock.acquire(orphan_grace_s=0.0)
            starts.append(lock.fd)

    assert recover(Config(data_dir=str(rings.directory), database=settings_for(server.dsn)), tell=tell) == 0

    assert told[0].startswith("1/")
    assert len(starts) == len(told)
    assert stored(server.dsn) == (3_000, 3_000)
    assert spilled_files(rings) == []


@pytest.mark.requirement("DLP-03", "GS-01")
def test_a_stop_right_after_the_database_has_come_back_stores_what_is_spilled(
    make_rings: Callable[..., Rings], own_postgres: Servers
) -> None:
    """Whenever the next look at it would have been."""
    rings = make_rings()
    server = own_postgres()
    server.stop("immediate")
    rarely = msgspec.structs.replace(QUICK_SPILL, probe_s=3600.0)
    with RunningWriter(rings, settings_for(server.dsn), spill=rarely) as running:
        rings.fill(300)
        wait_until(lambda: rings.counters.get("records_spilled") == 300)
        server.start()

        assert running.stop() is True

    assert spilled_files(rings) == []
    assert stored(server.dsn) == (300, 300)
