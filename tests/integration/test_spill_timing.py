"""Servers that are slow or silent at the wrong moment: no false outage, no stop that hangs, no batch mistaken."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest

from daemon.embedded import EmbeddedPostgres
from daemon.sinks.spill import DIRECTORY, SpillDirectory
from daemon.sinks.spill_ledger import RegisterClaim
from daemon.sinks.stream_gaps import StreamGaps
from tests.integration.test_spill_doubts import spill
from tests.integration.writer_rig import (
    Rings,
    RunningWriter,
    drain,
    execute,
    freeze,
    make_rings,
    query,
    settings_for,
    spilled_files,
    stored,
    wait_until,
)

__all__ = ["make_rings"]  # the fixture

Servers = Callable[[], EmbeddedPostgres]
SLOW = """
CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.6); RETURN NULL; END $$;
CREATE TRIGGER slow AFTER INSERT ON market_ticks FOR EACH STATEMENT EXECUTE FUNCTION be_slow()"""
WAITS_FOR_A_LOCK = """
SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sise writer' AND wait_event_type = 'Lock'"""


@pytest.mark.requirement("BP-01", "CH-RES-01")
def test_a_start_with_a_full_ring_and_a_slow_server_is_no_outage(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    execute(postgres_dsn, SLOW)
    records = 7_000  # of 8,738 that the ring has room for
    rings.fill(records)

    with RunningWriter(rings, settings_for(postgres_dsn, batch_rows=4_000)) as running:
        wait_until(lambda: stored(postgres_dsn)[0] == records)
        assert running.stop() is True

    assert stored(postgres_dsn) == (records, records)
    assert rings.counters.get("batches_spilled") == rings.counters.get("commit_retries") == 0
    assert running.alerts.codes() == []


@pytest.mark.requirement("GS-01", "DLP-02", "DLP-03")
def test_a_stop_while_the_server_answers_nothing_spills_the_rest_in_time(
    make_rings: Callable[..., Rings], own_postgres: Servers
) -> None:
    rings = make_rings()
    server = own_postgres()
    with RunningWriter(rings, settings_for(server.dsn), drain_s=6.0) as running:
        rings.fill(10)
        wait_until(lambda: rings.counters.get("rows_committed") == 10)
        frozen = freeze(server)
        try:
            rings.fill(500)
            wait_until(lambda: rings.counters.get("writer_lag_bytes"))
            began_s = time.monotonic()
            is_drained = running.stop()
            took_s = time.monotonic() - began_s
        finally:
            for pid in frozen:
                with suppress(ProcessLookupError):  # one that was just ending
                    os.kill(pid, signal.SIGCONT)
        assert is_drained is True
        assert took_s < 8.0
    assert rings.counters.get("records_spilled") == 500

    drain(rings, server.dsn)
    assert stored(server.dsn) == (510, 510)


@pytest.mark.requirement("DLP-01", "DLP-03", "F49")
@pytest.mark.parametrize("is_committed", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_a_registration_that_the_server_is_still_committing_is_waited_for(
    make_rings: Callable[..., Rings], own_postgres: Servers, is_committed: bool
) -> None:
    """The writer was killed at its COMMIT: its successor must not take the moved cursor for stored rows."""
    rings = make_rings()
    server = own_postgres()
    spill(rings, server, files=2)
    server.start()
    directory = SpillDirectory(rings.directory / DIRECTORY, quota_bytes=0, min_free_bytes=0)
    headers = [file.header for file in directory.files()]
    with psycopg.connect(server.dsn) as predecessor:
        RegisterClaim(headers, StreamGaps()).take(predecessor)
        successor = threading.Thread(target=drain, args=(rings, server.dsn))
        successor.start()
        wait_until(lambda: query(server.dsn, WAITS_FOR_A_LOCK) == [(1,)])
        if is_committed:
            predecessor.commit()
        else:
            predecessor.rollback()
        successor.join(60)

    assert not successor.is_alive()
    assert stored(server.dsn) == (2_000, 2_000)
    assert spilled_files(rings) == []
    assert query(server.dsn, "SELECT count(*), count(stored_at) FROM spilled_batches") == [(len(headers),) * 2]
