"""Whatever ends takes its tasks, threads and timers with it, in whatever moment it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from daemon.config import Account, Config, Http
from daemon.config import Redis as RedisSettings
from daemon.ingest.connection import State
from daemon.ingest.venues.venue import HttpRequest
from daemon.shard_plan import WorkerPlan
from daemon.supervision.process import Assignment, Child
from daemon.watching import monitor
from native_pipeline.counters import CountersBlock, create_counters_file
from tests.integration.invented_venue import InventedVenue, Server
from tests.integration.test_sessions import Running, planned, settings, working
from tests.integration.test_worker import PATIENCE_S, QUICK, Bench, bench, wait_until

__all__ = ["bench"]  # a fixture

SYMBOLS = ("005930", "000660")
# What may live on behind a stop: an attempt to connect, or a call for a key, that must not be interrupted. No longer
# than this.
SHORT = msgspec.structs.replace(QUICK, connect_timeout_s=0.5)


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(nowhere))
        yield
        structlog.reset_defaults()


class Left:
    """What runs on this loop and in this process, beside the test itself; only asyncio's own loop shows its timers."""

    def __init__(self) -> None:
        self.tasks = asyncio.all_tasks()
        self.threads = set(threading.enumerate())

    def more(self, *, of_timers: bool = True) -> list[object]:
        loop: Any = asyncio.get_running_loop()
        timers = [handle for handle in loop._scheduled if not handle.cancelled()] if of_timers else []
        return [*(asyncio.all_tasks() - self.tasks), *(set(threading.enumerate()) - self.threads), *timers]

    async def nothing_more(self) -> None:
        """Wait until nothing is left: without `asyncio.timeout`, which would be a timer."""
        deadline_s = time.monotonic() + PATIENCE_S
        while (more := self.more()) and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)
        assert more == []

    def names(self) -> set[str]:
        """Of the tasks and threads."""
        tasks = {task.get_name() for task in asyncio.all_tasks() - self.tasks}
        return tasks | {thread.name for thread in set(threading.enumerate()) - self.threads}


@asynccontextmanager
async def mute() -> AsyncIterator[str]:
    """A port that takes connections and says nothing, for WebSockets and HTTP alike; yields host:port."""
    peers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _reader, writer: peers.append(writer), "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for peer in peers:
            peer.close()
        await server.wait_closed()


class WithLogin(InventedVenue):
    needs_login = True


class WithKey(InventedVenue):
    needs_approval_key = True

    def approval_request(self, account: Account) -> HttpRequest:
        return HttpRequest(url=account.rest_url, headers={}, body=b"")


def is_in(state: State) -> Callable[[Running], bool]:
    return lambda running: running.states == [state]


def silent(_do: str, _keys: list[str]) -> tuple[()]:
    return ()


@pytest.mark.requirement("LEAK-02")
@pytest.mark.parametrize(
    ("venue", "answer", "moment"),
    [
        pytest.param(InventedVenue, None, lambda r: r.confirmed == len(SYMBOLS), id="streaming"),
        pytest.param(InventedVenue, silent, is_in(State.READY), id="unanswered"),
        pytest.param(WithLogin, silent, is_in(State.LOGGING_IN), id="logging-in"),
    ],
)
async def test_a_worker_that_stops_leaves_no_task_no_thread_and_no_timer(
    bench: Bench, venue: type[InventedVenue], answer: Any, moment: Callable[[Running], bool]
) -> None:
    left = Left()
    async with Server(answer) as server:
        async with working(bench, settings(server.url, ingest=SHORT), planned(*SYMBOLS), venue=venue) as running:
            await wait_until(lambda: moment(running))
            assert {"timer", "connection-0", "sync"} <= left.names()
        assert left.more(of_timers=False) == []
    assert left.more() == []


@pytest.mark.requirement("LEAK-02")
async def test_a_worker_that_stops_while_it_backs_off_leaves_nothing(bench: Bench) -> None:
    left = Left()
    async with mute() as gone:
        pass
    slow = msgspec.structs.replace(SHORT, backoff_first_s=3600.0, backoff_max_s=3600.0)
    async with working(bench, settings(f"ws://{gone}", ingest=slow), planned(*SYMBOLS)) as running:
        await wait_until(lambda: running.states == [State.BACKING_OFF])

    assert left.more() == []


@pytest.mark.requirement("LEAK-02")
async def test_an_attempt_to_connect_ends_at_its_timeout_also_when_the_worker_has_stopped(bench: Bench) -> None:
    left = Left()
    async with mute() as somewhere:
        async with working(bench, settings(f"ws://{somewhere}", ingest=SHORT), planned(*SYMBOLS)) as running:
            await wait_until(lambda: running.states == [State.CONNECTING])
            await wait_until(lambda: any("ws_connect" in repr(thing) for thing in left.more()))
        assert "connection-0" not in left.names()
        await left.nothing_more()

    await left.nothing_more()


@pytest.mark.requirement("LEAK-02")
async def test_a_call_for_a_key_ends_at_its_timeout_also_when_the_worker_has_stopped(bench: Bench) -> None:
    left = Left()
    async with mute() as somewhere:
        config = settings(f"ws://{somewhere}", ingest=SHORT)
        account = msgspec.structs.replace(config.accounts[0], rest_url=f"http://{somewhere}/key")
        config = msgspec.structs.replace(config, accounts=(account,))
        async with working(bench, config, planned(*SYMBOLS), venue=WithKey):
            await wait_until(lambda: "approval-key" in left.names())
        assert "connection-0" not in left.names()
        await left.nothing_more()

    await left.nothing_more()


@pytest.mark.requirement("LEAK-02")
async def test_an_account_that_is_taken_out_of_the_plan_takes_its_task_with_it(bench: Bench) -> None:
    async with Server() as server:
        config = settings(server.url, "a", "b", ingest=SHORT)
        one, two = planned(SYMBOLS[0], account="a"), planned(SYMBOLS[1], account="b")
        async with working(bench, config, one) as running:
            await wait_until(lambda: running.confirmed == 1)
            left = Left()
            await running.worker.apply(config, WorkerPlan(0, (one, two)))
            await wait_until(lambda: running.confirmed == 2)
            assert left.names() == {"connection-1"}
            await running.worker.apply(config, WorkerPlan(0, (one,)))
            assert left.more(of_timers=False) == []


@pytest.mark.requirement("LEAK-02")
async def test_a_monitor_that_stops_leaves_no_task_no_thread_and_no_timer(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "rings").mkdir()
    counters = tmp_path / "run" / "counters"
    create_counters_file(counters, 1)
    assignment = Assignment(
        name="monitor", role="monitor", index=None, parent_pid=os.getppid(), data_dir=str(tmp_path),
        counters_path=str(counters), counters_block=0, processes={"monitor": 0}, wake_fds={}, lock_fd=0, drain_s=5.0,
        config=Config(data_dir=str(tmp_path), redis=RedisSettings(url=redis_url), http=Http(port=0)), payload=b"",
    )  # fmt: skip
    block = CountersBlock(counters, 0)
    block.take("monitor")
    stop_fd, stop_write_fd = os.pipe()
    child = Child(assignment, block, stop_fd, stop_write_fd)
    loop = asyncio.get_running_loop()
    left = Left()

    running = asyncio.create_task(monitor._monitor(child), name="monitor")
    try:
        await wait_until(lambda: {"sampler", "http-server", "alert-publisher"} <= left.names())
        await wait_until((tmp_path / "run" / monitor.ADDRESS_FILE).exists)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait([running])
        running.result()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        os.close(stop_fd)
        os.close(stop_write_fd)

    del running
    await left.nothing_more()
