"""Everything behind the socket is slow, one part at a time: memory stays bounded, and the measures come in their order.

Spilling first (a database that is away), then the pause of the socket, never a loss. Each of pytest-xdist's processes
has servers of its own, so that one's locks and stops disturb no other.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.chaos import limits
from tests.chaos.network import Line
from tests.chaos.network_rig import NetworkRig
from tests.rig import wait_for

RATE = 6_000.0
RING_MB = 4  # filled in a few seconds
SMALL_RING_MB = 1
RECORDS_OF_A_SMALL_RING = 1.5 * (SMALL_RING_MB << 20) / 144  # more than fit into it: no market record is smaller
# Each process beyond its rings: buffers of sockets, one batch as text, one as bytes.
MOST_GROWTH_BYTES = 48 << 20
KIB = 1024
MakeRig = Callable[..., NetworkRig]


@pytest.fixture
def servers(
    own_postgres: Callable[[], EmbeddedPostgres], own_redis: Callable[[], EmbeddedRedis]
) -> tuple[EmbeddedPostgres, EmbeddedRedis]:
    """A pair that this test may harm."""
    return own_postgres(), own_redis()


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeRig]:
    def make(dsn: str, redis_url: str, *, ring_mb: int = RING_MB, **fields: Any) -> NetworkRig:
        settings: dict[str, Any] = {"symbols": 8, "link_timeout_s": 60.0, "data_warn_s": 60.0, **fields}
        rig = NetworkRig(tmp_path, dsn, redis_url, more_settings={"ring": f"capacity_mb = {ring_mb}"}, **settings)
        return stack.enter_context(rig)

    with ExitStack() as stack:
        yield make


def start(rig: NetworkRig) -> None:
    rig.start(rate=RATE, extra=("--pingpong-timeout", "0"))
    rig.wait_ready()
    rig.wait_received(int(RATE / 2))


def memory(rig: NetworkRig) -> dict[str, int]:
    """Anonymous memory of each process: without the rings, which are files."""
    found = {}
    for name, block in rig.counters().items():
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{block['pid']}/status").read_text().splitlines()
            found[name] = int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * KIB
    return found


class Bounded:
    """Compares memory with what it was."""

    def __init__(self, rig: NetworkRig) -> None:
        self._rig = rig
        self._before = memory(rig)

    def check(self) -> None:
        grown = {name: now - self._before[name] for name, now in memory(self._rig).items() if name in self._before}
        assert all(more < MOST_GROWTH_BYTES for more in grown.values()), grown


def wait_paused(rig: NetworkRig) -> None:
    """Wait until the venue is held back."""
    wait_for(lambda: rig.total("socket_pauses") > 0, f"the socket to be paused: {rig.tail()}")


@pytest.mark.requirement("BP-01")
def test_a_database_that_does_not_answer_holds_the_venue_back_and_nothing_is_lost(
    make_rig: MakeRig, servers: tuple[EmbeddedPostgres, EmbeddedRedis]
) -> None:
    postgres, redis_server = servers
    rig = make_rig(postgres.dsn, redis_server.url, ring_mb=SMALL_RING_MB)
    start(rig)
    bounded = Bounded(rig)
    published = rig.total("records_published")

    with psycopg.connect(postgres.dsn) as connection:
        connection.execute("LOCK TABLE market_ticks, market_orderbook IN ACCESS EXCLUSIVE MODE")
        wait_paused(rig)
        bounded.check()
        assert rig.total("records_published") > published  # fan-out goes on as long as data come
        assert rig.total("connections_lost") == 0
    committed = rig.total("rows_committed")
    rig.wait_received(int(2 * RATE))
    assert rig.total("rows_committed") > committed

    rig.finish()

    assert rig.gaps() == []
    bounded.check()


@pytest.mark.requirement("BP-01", "DLP-02")
def test_a_database_that_is_away_is_spilled_for_before_any_socket_is_paused(
    make_rig: MakeRig, servers: tuple[EmbeddedPostgres, EmbeddedRedis]
) -> None:
    postgres, redis_server = servers
    rig = make_rig(postgres.dsn, redis_server.url)
    rig.more_settings["database"] = "retry_delays_s = [0.1, 0.2, 0.3]"
    start(rig)
    bounded = Bounded(rig)

    postgres.stop("fast")
    wait_for(lambda: rig.total("batches_spilled") > 0 or rig.total("socket_pauses") > 0, f"a measure: {rig.tail()}")
    assert rig.total("batches_spilled") > 0
    assert rig.total("socket_pauses") == 0
    rig.wait_received(int(2 * RATE))
    assert rig.total("socket_pauses") == 0  # files take what comes
    bounded.check()
    postgres.start()
    wait_for(lambda: rig.total("records_recovered") == rig.total("records_spilled"), f"the recovery: {rig.tail()}")

    rig.finish()

    assert rig.gaps() == []


@pytest.mark.nightly
@pytest.mark.requirement("BP-01", "CH-NET-01")
def test_a_narrow_way_to_the_database_slows_the_venue_and_loses_nothing(
    make_rig: MakeRig, servers: tuple[EmbeddedPostgres, EmbeddedRedis]
) -> None:
    postgres, redis_server = servers
    with Line(("127.0.0.1", postgres.port)) as line:
        rig = make_rig(postgres.dsn.replace(f":{postgres.port}/", f":{line.port}/"), redis_server.url)
        start(rig)
        bounded = Bounded(rig)
        line.bytes_per_s = 200_000.0
        wait_paused(rig)
        bounded.check()
        line.bytes_per_s = 0.0
        rig.wait_received(int(RATE))
        # What was given up as away in between is in files: they wait for the next start if they are not stored now.
        wait_for(lambda: rig.total("database_connected"), f"the database to be found again: {rig.tail()}")
        wait_for(lambda: rig.total("spill_files") == 0, f"the files to be stored: {rig.tail()}")

        rig.finish()
        assert rig.gaps() == []


@pytest.mark.requirement("BP-01", "QG-IT-01")
@pytest.mark.parametrize("how", [pytest.param("narrow", marks=pytest.mark.nightly), "frozen"])
def test_a_slow_redis_costs_messages_and_never_the_database(
    make_rig: MakeRig, servers: tuple[EmbeddedPostgres, EmbeddedRedis], how: str
) -> None:
    postgres, redis_server = servers
    with Line(("127.0.0.1", redis_server.port)) as line:
        rig = make_rig(postgres.dsn, f"redis://127.0.0.1:{line.port}/0", ring_mb=SMALL_RING_MB)
        start(rig)
        bounded = Bounded(rig)
        if how == "narrow":
            line.bytes_per_s = 50_000.0
        else:
            os.kill(redis_server.pid, signal.SIGSTOP)
        rig.wait_received(int(RECORDS_OF_A_SMALL_RING))
        bounded.check()
        assert rig.total("socket_pauses") == 0
        if how == "narrow":
            line.bytes_per_s = 0.0
        else:
            os.kill(redis_server.pid, signal.SIGCONT)
        wait_for(lambda: rig.total("records_dropped_on_redis") > 0, f"messages given up: {rig.tail()}")
        published = rig.total("records_published")
        wait_for(lambda: rig.total("records_published") > published + RATE, f"publishing to go on: {rig.tail()}")

        rig.finish()

    assert rig.gaps() == []
    not_published = rig.total("records_dropped_on_redis") + rig.total("publish_lapped")
    assert rig.total("records_published") + not_published == rig.total("records_received")


@pytest.mark.requirement("BP-01")
def test_a_frozen_writer_is_a_slow_consumer_that_holds_the_venue_back(
    make_rig: MakeRig, servers: tuple[EmbeddedPostgres, EmbeddedRedis]
) -> None:
    postgres, redis_server = servers
    rig = make_rig(postgres.dsn, redis_server.url, ring_mb=SMALL_RING_MB)
    start(rig)
    bounded = Bounded(rig)

    assert len(rig.kill_roles(signal.SIGSTOP, "writer")) == 1
    wait_paused(rig)
    bounded.check()
    rig.kill_roles(signal.SIGCONT, "writer")
    rig.wait_received(int(RATE))

    rig.finish()

    assert rig.gaps() == []
    assert rig.events("child_hung") == []


@pytest.mark.nightly
@pytest.mark.requirement("BP-01")
def test_a_database_server_that_crawls_delays_commits_and_never_the_receipt(
    make_rig: MakeRig, servers: tuple[EmbeddedPostgres, EmbeddedRedis]
) -> None:
    """Its processes get a twentieth of a processor, which is what a slow disk looks like from outside."""
    postgres, redis_server = servers
    rig = make_rig(postgres.dsn, redis_server.url)
    start(rig)
    with limits.group("cpu", {"cpu.cfs_period_us": "500000", "cpu.cfs_quota_us": "25000"}) as group:
        group.take(postgres.pid, *descendants(postgres.pid))
        began_s, received = time.monotonic(), rig.total("records_received")
        rig.wait_received(int(2 * RATE))
        rate = (rig.total("records_received") - received) / (time.monotonic() - began_s)
        assert rate > RATE / 4

    rig.finish()

    assert rig.gaps() == []


def descendants(pid: int) -> list[int]:
    """Return the children of a server."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
