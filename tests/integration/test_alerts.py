"""Alerts on their whole way: a process says it, the monitor hears it, Redis carries it; also when Redis is away."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import redis.asyncio

from daemon import log
from daemon.alerts import SOCKET, DatagramAlerts
from daemon.config import Alerts as AlertSettings
from daemon.config import Config, Http
from daemon.config import Redis as RedisSettings
from daemon.supervision.process import Assignment
from daemon.watching.alert_desk import AlertDesk
from daemon.watching.alert_inbox import AlertInbox
from daemon.watching.alert_publisher import CHANNEL, AlertPublisher
from native_pipeline.counters import CountersBlock, create_counters_file
from tests.conftest import RedisFactory

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 30.0
UNREACHABLE = RedisSettings(url="redis://127.0.0.1:1/0", retry_max_s=0.05)


class Counters:
    """The counters of a sender."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def increment(self, name: str, n: int = 1) -> None:
        self.values[name] = self.values.get(name, 0) + n


class Heard:
    """A subscriber of system:alerts."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._pubsub: Any = self._client.pubsub(  # type: ignore[no-untyped-call]
            ignore_subscribe_messages=True
        )
        self._pubsub.subscribe(CHANNEL)
        self._pubsub.get_message(timeout=PATIENCE_S)  # the confirmation
        self.alerts: list[dict[str, Any]] = []

    def take(self, timeout_s: float = 0.01) -> None:
        while (message := self._pubsub.get_message(timeout=timeout_s)) is not None:
            self.alerts.append(json.loads(message["data"]))

    def codes(self) -> list[str]:
        self.take()
        return [alert["code"] for alert in self.alerts]

    def wait_for(self, code: str) -> dict[str, Any]:
        deadline_s = time.monotonic() + PATIENCE_S
        while code not in self.codes():
            assert time.monotonic() < deadline_s, self.alerts
        return next(alert for alert in self.alerts if alert["code"] == code)

    def close(self) -> None:
        self._pubsub.close()
        self._client.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


class Office:
    """Inbox, desk and publisher in this process."""

    def __init__(self, path: Path, settings: RedisSettings) -> None:
        self.desk = AlertDesk(repeat_s=300, per_minute=1000, queue=20)
        self.inbox = AlertInbox(path, accept=lambda one: self.desk.accept(one, time.monotonic()), logger=log.get())
        self.published = 0
        self.publisher = AlertPublisher(self.desk, settings, logger=log.get(), on_published=self._count)
        self.counters = Counters()
        self.alerts = DatagramAlerts(path, role="worker-0", logger=log.get(), counters=self.counters)
        self.task: asyncio.Task[None] | None = None

    def _count(self) -> None:
        self.published += 1

    def open(self) -> None:
        self.inbox.open()
        self.task = asyncio.create_task(self.publisher.run(), name="publisher")

    async def close(self) -> None:
        self.alerts.close()
        self.inbox.close()
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])


@pytest.fixture
async def office(tmp_path: Path, redis_url: str) -> AsyncIterator[Office]:
    office = Office(tmp_path / "alerts.sock", RedisSettings(url=redis_url))
    office.open()
    yield office
    await office.close()


@pytest.fixture
def heard(redis_url: str) -> Iterator[Heard]:
    heard = Heard(redis_url)
    yield heard
    heard.close()


async def test_what_a_process_says_is_published_as_the_contract_says(office: Office, heard: Heard) -> None:
    office.alerts.send("CRITICAL", "subscription_failed", "unanswered three times: 삼성전자", subject="main/005930")

    await until(heard.codes)

    (alert,) = heard.alerts
    assert {key: alert[key] for key in ("level", "code", "message", "subject", "source")} == {
        "level": "CRITICAL",
        "code": "subscription_failed",
        "message": "unanswered three times: 삼성전자",
        "subject": "main/005930",
        "source": "worker-0",
    }
    assert alert["timestamp"].endswith("+00:00")


@pytest.mark.requirement("F66")
async def test_repetitions_are_published_once(office: Office, heard: Heard) -> None:
    for _ in range(30):
        office.alerts.send("WARNING", "again", "m")
    office.alerts.send("WARNING", "other", "m")
    while office.alerts.waiting:
        await asyncio.sleep(0)
        office.alerts.flush()

    await until(lambda: "other" in heard.codes())

    assert heard.codes() == ["again", "other"]
    assert office.desk.suppressed == 29


async def test_garbage_on_the_socket_harms_nobody(office: Office, heard: Heard, tmp_path: Path) -> None:
    import socket  # noqa: PLC0415

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for datagram in (b"", b"\xff", b"{}", b'{"level": "LOUD"}', b"x" * 9000):
            stranger.sendto(datagram, str(tmp_path / "alerts.sock"))
    office.alerts.send("INFO", "after", "m")

    await until(heard.codes)

    assert heard.codes() == ["after"]


async def test_the_socket_is_ours_alone_and_gone_afterwards(office: Office, tmp_path: Path) -> None:
    path = tmp_path / "alerts.sock"
    assert path.stat().st_mode & 0o777 == 0o600

    office.inbox.close()

    assert not path.exists()


async def test_a_socket_that_cannot_be_made_is_no_reason_to_stop(tmp_path: Path) -> None:
    inbox = AlertInbox(tmp_path / "missing" / "alerts.sock", accept=lambda _one: None, logger=log.get())
    inbox.open()
    inbox.close()


@pytest.mark.requirement("F66")
async def test_alerts_wait_for_redis_and_the_least_important_give_way(tmp_path: Path, own_redis: RedisFactory) -> None:
    server = own_redis()
    url = server.url
    server.stop()
    office = Office(tmp_path / "alerts.sock", RedisSettings(url=url, retry_max_s=0.05, timeout_s=1.0))
    office.open()
    for number in range(25):
        office.alerts.send("WARNING", f"code_{number}", "m")
        office.alerts.send("CRITICAL" if number == 24 else "INFO", f"more_{number}", "m")
        office.alerts.flush()
        await asyncio.sleep(0)
    while office.alerts.waiting:
        office.alerts.flush()
        await asyncio.sleep(0)
    await until(lambda: office.publisher.is_away)
    assert office.desk.waiting == 20
    assert office.desk.lost == 30

    server.start()
    heard = Heard(url)
    await until(lambda: office.published >= 20)

    codes = heard.codes()
    assert "more_24" in codes
    assert [code for code in codes if code.startswith("code")][-1] == "code_24"
    assert not office.publisher.is_away
    heard.close()
    await office.close()


@pytest.mark.requirement("F66")
async def test_a_redis_that_hangs_holds_up_nothing_else_in_the_process(tmp_path: Path) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.close()
        closed.set()

    closed = asyncio.Event()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    office = Office(tmp_path / "alerts.sock", RedisSettings(url=f"redis://127.0.0.1:{port}/0", timeout_s=1.5))
    office.open()
    office.alerts.send("INFO", "c", "m")
    await until(lambda: office.desk.waiting)

    longest_s, last_s = 0.0, time.monotonic()
    while not office.publisher.is_away:
        await asyncio.sleep(0)
        longest_s, last_s = max(longest_s, time.monotonic() - last_s), time.monotonic()

    assert longest_s < 1.0, "as long as it takes to give Redis up"
    assert office.desk.waiting == 1
    await office.close()
    await closed.wait()
    server.close()
    await server.wait_closed()


async def test_last_words_go_out_and_are_given_up_in_time(tmp_path: Path, redis_url: str, heard: Heard) -> None:
    office = Office(tmp_path / "one.sock", RedisSettings(url=redis_url))
    office.inbox.open()
    for code in ("a", "b"):
        office.alerts.send("INFO", code, "m")
    office.inbox.close()
    assert await office.publisher.publish_rest(5.0) == 0
    assert heard.codes() == ["a", "b"]

    nowhere = Office(tmp_path / "two.sock", UNREACHABLE)
    nowhere.inbox.open()
    nowhere.alerts.send("INFO", "a", "m")
    nowhere.inbox.close()
    assert await nowhere.publisher.publish_rest(1.0) == 1
    office.alerts.close()
    nowhere.alerts.close()


@pytest.mark.requirement("LEAK-02")
async def test_the_publisher_leaves_no_task_and_no_connection_behind(tmp_path: Path, redis_url: str) -> None:
    tasks = asyncio.all_tasks()
    office = Office(tmp_path / "alerts.sock", RedisSettings(url=redis_url))
    office.open()
    office.alerts.send("INFO", "c", "m")
    await until(lambda: office.published)

    await office.close()

    assert asyncio.all_tasks() == tasks
    with redis.Redis.from_url(redis_url) as client:
        names = {entry["name"] for entry in client.client_list()}
        deadline_s = time.monotonic() + PATIENCE_S
        while "sise-monitor" in names and time.monotonic() < deadline_s:
            names = {entry["name"] for entry in client.client_list()}
        assert "sise-monitor" not in names


# ---- the monitor process ------------------------------------------------------------------------------------


class Monitor:
    """A real monitor of a daemon whose other processes are blocks in a counters file."""

    PROCESSES = {"supervisor": 0, "writer": 1, "publisher": 2, "monitor": 3}  # noqa: RUF012

    def __init__(self, data_dir: Path, url: str) -> None:
        run = data_dir / "run"
        run.mkdir(parents=True, exist_ok=True)
        (data_dir / "rings").mkdir(exist_ok=True)
        self.data_dir = data_dir
        self.counters = run / "counters"
        create_counters_file(self.counters, len(self.PROCESSES))
        self.blocks = {name: CountersBlock(self.counters, number) for name, number in self.PROCESSES.items()}
        for name in ("supervisor", "writer", "publisher"):
            self.blocks[name].take(name)
            self.blocks[name].set_state(2)
        self.blocks["writer"].set("database_connected", 1)
        self.blocks["publisher"].set("redis_connected", 1)
        config = Config(
            data_dir=str(data_dir),
            redis=RedisSettings(url=url, retry_max_s=0.1),
            http=Http(port=0),
            alerts=AlertSettings(repeat_s=300),
        )
        assignment = Assignment(
            name="monitor",
            role="monitor",
            index=None,
            parent_pid=os.getpid(),
            data_dir=str(data_dir),
            counters_path=str(self.counters),
            counters_block=3,
            processes=self.PROCESSES,
            wake_fds={},
            lock_fd=0,
            drain_s=5.0,
            config=config,
            payload=b"",
        )
        self.log = data_dir / "monitor.log"
        with self.log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daemon.watching.monitor"],
                stdin=subprocess.PIPE,
                stderr=stderr,
                cwd=REPOSITORY,
            )
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.msgpack.encode(assignment))
        self.process.stdin.close()

    def beat(self) -> None:
        for name in ("supervisor", "writer", "publisher"):
            self.blocks[name].heartbeat()

    def wait_listening(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not (self.data_dir / SOCKET).exists():
            assert time.monotonic() < deadline_s, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)

    def stop(self) -> int:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def monitor(tmp_path: Path, redis_url: str) -> Iterator[Monitor]:
    monitor = Monitor(tmp_path / "data", redis_url)
    monitor.wait_listening()
    yield monitor
    monitor.stop()


def test_the_monitor_publishes_what_others_say_and_what_it_sees_itself(monitor: Monitor, heard: Heard) -> None:
    sender = DatagramAlerts(monitor.data_dir / SOCKET, role="supervisor", logger=log.get(), counters=Counters())

    sender.send("WARNING", "process_restarted", "worker-0: signal SIGKILL", subject="worker-0")
    assert heard.wait_for("process_restarted")["source"] == "supervisor"
    monitor.blocks["writer"].increment("corrupt_records", 2)
    found = heard.wait_for("records_damaged")

    assert (found["level"], found["source"]) == ("CRITICAL", "monitor")
    assert "2 records" in found["message"]
    assert monitor.blocks["monitor"].get("alerts_published") == 2
    sender.close()


def test_the_last_words_of_others_are_published_by_a_monitor_that_stops(monitor: Monitor, heard: Heard) -> None:
    sender = DatagramAlerts(monitor.data_dir / SOCKET, role="supervisor", logger=log.get(), counters=Counters())
    sender.send("CRITICAL", "restart_budget_spent", "the daemon stops")

    assert monitor.stop() == 0

    heard.wait_for("restart_budget_spent")
    assert not (monitor.data_dir / SOCKET).exists()
    sender.close()


@pytest.mark.requirement("F66")
def test_a_monitor_that_was_killed_is_followed_by_one_that_hears_what_was_said_meanwhile(
    monitor: Monitor, heard: Heard, redis_url: str
) -> None:
    path = monitor.data_dir / SOCKET
    monitor.process.kill()
    monitor.process.wait()
    assert path.exists()  # nobody has cleaned up
    sender = DatagramAlerts(path, role="worker-0", logger=log.get(), counters=Counters())
    sender.send("WARNING", "said_to_nobody", "m")
    assert sender.waiting == 1

    successor = Monitor(monitor.data_dir, redis_url)
    deadline_s = time.monotonic() + PATIENCE_S
    while sender.waiting and time.monotonic() < deadline_s:
        sender.flush()

    heard.wait_for("said_to_nobody")
    assert successor.stop() == 0
    sender.close()
