"""The writer or its server ends at any moment, asked or not: nothing is missing, nothing is double."""

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable

import pytest

from daemon.embedded import EmbeddedPostgres
from daemon.errors import RingReplaced
from native_pipeline.ring_creation import create_ring
from tests.effort import examples
from tests.integration import writer_rig
from tests.integration.cutting_proxy import Cut, CuttingProxy
from tests.integration.writer_rig import (
    MARKET_TABLES,
    MIXTURE,
    Rings,
    RunningWriter,
    drain,
    query,
    settings_for,
    stored,
    wait_until,
    writer_process,
)
from tests.reference.packed_records import Event

make_rings = writer_rig.make_rings

KILLS = examples(6, nightly=100)


@pytest.mark.requirement("DLP-01")
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_a_batch_one_row_short_of_full_survives_the_end_of_the_writer(
    make_rings: Callable[..., Rings], postgres_dsn: str, signal_number: signal.Signals
) -> None:
    rings = make_rings()
    with writer_process(rings, postgres_dsn, batch_rows=100, flush_interval_ms=300_000) as child:
        rings.fill(100)
        wait_until(lambda: stored(postgres_dsn)[0] == 100)  # it runs, and the next batch begins
        rings.fill(99)
        child.send_signal(signal_number)
        code = child.wait(30)

    assert code == (0 if signal_number == signal.SIGTERM else -signal.SIGKILL)
    if signal_number == signal.SIGKILL:
        assert stored(postgres_dsn) == (100, 100)
        drain(rings, postgres_dsn)
    assert stored(postgres_dsn) == (199, 199)


@pytest.mark.requirement("DLP-01")
@pytest.mark.requirement("QG-IT-01")
def test_events_one_row_short_of_a_batch_survive_the_kill_of_the_writer_once(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    events = [record for record in MIXTURE if isinstance(record, Event)]
    with writer_process(rings, postgres_dsn, batch_rows=100, flush_interval_ms=300_000) as child:
        rings.fill(100, mixture=events)
        wait_until(lambda: stored(postgres_dsn, "market_events")[0] == 100)
        rings.fill(99, mixture=events)
        child.kill()
        child.wait(30)

    assert stored(postgres_dsn, "market_events") == (100, 100)
    drain(rings, postgres_dsn)
    assert stored(postgres_dsn, "market_events") == (199, 199)
    by_type = "SELECT type, count(*), count(DISTINCT detail) FROM market_events GROUP BY 1 ORDER BY 1"
    assert query(postgres_dsn, by_type) == [("expected", 100, 1), ("status", 99, 1)]


@pytest.mark.timeout(900)
@pytest.mark.requirement("DLP-01", "CH-PROC-01")
def test_a_writer_killed_at_random_moments_under_load_loses_and_repeats_nothing(
    make_rings: Callable[..., Rings], postgres_dsn: str, chaos_seed: str
) -> None:
    rings = make_rings()
    chance = random.Random(chaos_seed)
    is_over = threading.Event()
    sent = itertools.count()

    def offer() -> None:
        while not is_over.wait(0.005):  # a rate that no writer catches up with for good, until the last kill
            rings.fill(100, mixture=MIXTURE)
            next(sent)

    load = threading.Thread(target=offer, daemon=True)
    load.start()
    try:
        for _ in range(KILLS):
            with writer_process(rings, postgres_dsn, batch_rows=500, flush_interval_ms=5) as child:
                wait_until(lambda: rings.writer_pid() == child.pid)
                time.sleep(chance.uniform(0.0, 0.4))  # the moment of the kill is what is random, nothing is awaited
                child.kill()
                child.wait()
    finally:
        is_over.set()
    with writer_process(rings, postgres_dsn, batch_rows=5_000, flush_interval_ms=5) as child:
        load.join(60)
        wait_until(lambda: rings.writer_pid() == child.pid)
        child.terminate()
        assert child.wait(60) == 0

    records = next(sent) * 100
    assert stored(postgres_dsn, *MARKET_TABLES) == (records, records)
    assert stored(postgres_dsn, "market_events") == (records // 2, records // 2)


@pytest.mark.requirement("CH-RES-01")
@pytest.mark.parametrize("how", ["kill", "immediate", "fast"])
def test_nothing_is_missing_or_double_when_the_server_goes_away_under_load(
    make_rings: Callable[..., Rings], own_postgres: Callable[[], EmbeddedPostgres], how: str
) -> None:
    rings = make_rings()
    server = own_postgres()
    is_over = threading.Event()
    sent = itertools.count()

    def offer() -> None:
        while not is_over.wait(0.005):  # a rate that leaves the server time to catch up
            rings.fill(100)
            next(sent)

    load = threading.Thread(target=offer)
    with RunningWriter(rings, settings_for(server.dsn, batch_rows=1_000)) as running:
        load.start()
        for _ in (1, 2):
            before = rings.counters.get("rows_committed")
            wait_until(lambda: rings.counters.get("rows_committed") >= before + 2_000)  # noqa: B023 - awaited here
            server.kill() if how == "kill" else server.stop("immediate" if how == "immediate" else "fast")
            wait_until(lambda: not rings.counters.get("database_connected"))
            server.start()
        is_over.set()
        load.join(60)
        assert running.stop() is True
    drain(rings, server.dsn)

    records = next(sent) * 100
    assert stored(server.dsn) == (records, records)
    assert rings.counters.get("commit_retries") + rings.counters.get("batches_spilled") >= 2


@pytest.mark.requirement("DLP-01")
@pytest.mark.parametrize("cut", ["request", "answer"])
def test_a_connection_lost_during_commit_neither_loses_nor_repeats_the_batch(
    make_rings: Callable[..., Rings], postgres_dsn: str, cut: Cut
) -> None:
    rings = make_rings()

    with CuttingProxy(postgres_dsn) as proxy, RunningWriter(rings, settings_for(proxy.dsn)) as running:
        rings.fill(50)
        wait_until(lambda: rings.counters.get("rows_committed") == 50)
        sent = 50
        while not rings.counters.get("commit_retries"):  # the cut may hit a question of the recovery
            proxy.cut = cut
            rings.fill(70)
            sent += 70
            wait_until(lambda: rings.counters.get("rows_committed") == sent)  # noqa: B023 - awaited here
        assert running.stop() is True

    assert stored(postgres_dsn) == (sent, sent)
    assert rings.counters.get("commit_retries") == 1
    assert rings.counters.get("batches_spilled") == 0


@pytest.mark.requirement("GS-01")
def test_a_stop_stores_everything_and_leaves_no_connection(make_rings: Callable[..., Rings], postgres_dsn: str) -> None:
    rings = make_rings()
    with RunningWriter(rings, settings_for(postgres_dsn, flush_interval_ms=300_000)) as running:
        rings.fill(3_000)
        assert running.stop() is True

    assert stored(postgres_dsn) == (3_000, 3_000)
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sise writer'"
    wait_until(lambda: query(postgres_dsn, sessions) == [(0,)])  # the server notices a closed socket by itself


@pytest.mark.requirement("GS-01", "DLP-02")
def test_a_stop_while_the_database_is_away_spills_what_is_left_in_time(
    make_rings: Callable[..., Rings], own_postgres: Callable[[], EmbeddedPostgres]
) -> None:
    rings = make_rings()
    server = own_postgres()
    with RunningWriter(rings, settings_for(server.dsn), drain_s=1.5) as running:
        rings.fill(10)
        wait_until(lambda: rings.counters.get("rows_committed") == 10)
        server.stop()
        rings.fill(30)
        started = time.monotonic()
        assert running.stop() is True
        assert time.monotonic() - started < 3.0
    assert rings.counters.get("writer_lag_bytes") == 0

    server.start()
    drain(rings, server.dsn)
    assert stored(server.dsn) == (40, 40)


def test_it_beats_every_second_while_the_server_hangs(
    make_rings: Callable[..., Rings], own_postgres: Callable[[], EmbeddedPostgres]
) -> None:
    rings = make_rings()
    server = own_postgres()
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        rings.fill(10)
        wait_until(lambda: rings.counters.get("rows_committed") == 10)
        sessions = "SELECT pid FROM pg_stat_activity WHERE application_name = 'sise writer'"
        wait_until(lambda: len(query(server.dsn, sessions)) == 1)  # the recovery has nothing to do
        (backend,) = query(server.dsn, sessions)
        os.kill(backend[0], signal.SIGSTOP)
        hung_at = time.monotonic()
        rings.fill(10)
        looks = [hung_at]

        def is_over() -> bool:
            looks.append(time.monotonic())
            return running.beats[-1] > hung_at + 3.0

        wait_until(is_over)
        pause_s = running.longest_pause_s(hung_at)
        os.kill(backend[0], signal.SIGCONT)
        wait_until(lambda: rings.counters.get("rows_committed") == 20)

    machine_s = max(later - earlier for earlier, later in itertools.pairwise(looks))  # nobody ran that long
    assert pause_s < 1.1 + machine_s, "the idle pace is a second"


def test_a_server_that_is_away_at_the_start_is_waited_for(
    make_rings: Callable[..., Rings], own_postgres: Callable[[], EmbeddedPostgres]
) -> None:
    rings = make_rings()
    server = own_postgres()
    server.stop()
    rings.fill(10)

    with RunningWriter(rings, settings_for(server.dsn)) as running:
        assert running.is_ready.wait(10), "a database that is away is no reason not to boot"
        wait_until(lambda: rings.counters.get("commit_retries") >= 2)
        server.start()
        wait_until(lambda: rings.counters.get("rows_committed") == 10)
        assert rings.counters.get("database_connected") == 1


@pytest.mark.requirement("F43", "F31", "GS-01")
@pytest.mark.parametrize("is_beside", [True, False], ids=["a ring more", "a ring instead"])
def test_a_writer_does_not_call_the_rings_drained_while_there_is_one_that_it_has_not_opened(
    make_rings: Callable[..., Rings], postgres_dsn: str, *, is_beside: bool
) -> None:
    """Whatever it has seen until then: it looks once a second only."""
    rings = make_rings()
    rings.fill(10)
    with RunningWriter(rings, settings_for(postgres_dsn)) as running:
        wait_until(lambda: stored(postgres_dsn)[0] == 10)
        if not is_beside:
            rings.paths[0].unlink()
        create_ring(rings.directory / f"worker-{int(is_beside)}.ring", ring=int(is_beside), capacity_bytes=1 << 20)
        running.stop()

    assert isinstance(running.error, RingReplaced)
