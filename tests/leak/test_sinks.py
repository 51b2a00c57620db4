"""Writer and publisher under churn: batches, lost connections and refusals leave no memory and no descriptor behind."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import memray
import psycopg
import pytest
import redis

from tests.integration.publisher_rig import Rig as PublisherRig
from tests.integration.publisher_rig import wait_until as until
from tests.integration.writer_rig import Rings, RunningWriter, make_rings, settings_for, stored
from tests.leak.test_subscription_churn import leaked
from tests.reference.packed_records import Book, Event, Trade

__all__ = ["make_rings"]  # a fixture

MOST_BYTES = 1 << 20
RECORDS = 400  # a cycle
CYCLES = pytest.mark.parametrize(
    "cycles", [pytest.param(30, id="30"), pytest.param(2_000, id="2k", marks=pytest.mark.nightly)]
)
MIXTURE = (Trade(), Book(), Event())


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def tracker(capture: Path) -> memray.Tracker:
    return memray.Tracker(capture, trace_python_allocators=True, file_format=memray.FileFormat.AGGREGATED_ALLOCATIONS)


@pytest.mark.requirement("LEAK-02", "F61")
@pytest.mark.timeout(900)
@CYCLES
def test_a_writer_that_loses_its_connection_again_and_again_keeps_nothing(
    make_rings: Callable[..., Rings], postgres_dsn: str, tmp_path: Path, cycles: int
) -> None:
    capture, rings = tmp_path / "capture.bin", make_rings()
    written = 0

    with RunningWriter(rings, settings_for(postgres_dsn)) as running, psycopg.connect(postgres_dsn) as observer:
        observer.autocommit = True

        def churn(count: int) -> None:
            nonlocal written
            for number in range(count):
                if number % 3 == 2:
                    observer.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                rings.fill(RECORDS, mixture=MIXTURE)
                written += RECORDS
                until(lambda: rings.counters.get("rows_committed") >= written, "the rows")  # noqa: B023
            running.beats.clear()
            gc.collect()

        churn(10)
        files = open_files()
        with tracker(capture):
            churn(cycles)

        until(lambda: open_files() <= files + 2, "descriptors to be closed")  # ten connections or more were lost
        assert stored(postgres_dsn, "market_ticks", "market_orderbook", "market_events") == (written, written)

    size, places = leaked(capture)
    assert size < MOST_BYTES, f"{size} bytes:\n{places}"


@pytest.mark.requirement("LEAK-02", "F61")
@pytest.mark.timeout(900)
@CYCLES
def test_a_publisher_that_loses_its_connection_again_and_again_keeps_nothing(
    tmp_path: Path, redis_url: str, cycles: int
) -> None:
    capture, rig = tmp_path / "capture.bin", PublisherRig(tmp_path / "rig")
    written = 0

    with rig.publisher(redis_url), redis.Redis.from_url(redis_url) as observer:

        def churn(count: int) -> None:
            nonlocal written
            for number in range(count):
                if number % 3 == 2:
                    observer.client_kill_filter(_type="normal", skipme=True)
                rig.put(*(MIXTURE[i % len(MIXTURE)] for i in range(RECORDS)))
                written += RECORDS
                until(lambda: rig.published() >= written, "the messages")  # noqa: B023
            gc.collect()

        churn(10)
        files = open_files()
        with tracker(capture):
            churn(cycles)

        until(lambda: open_files() <= files + 2, "descriptors to be closed")  # ten connections or more were lost
    rig.writer.close()

    size, places = leaked(capture)
    assert size < MOST_BYTES, f"{size} bytes:\n{places}"
