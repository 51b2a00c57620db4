"""What was published and what was given up is counted exactly, whenever the publisher dies or Redis forgets."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from daemon import failpoints
from daemon.config import Redis as RedisSettings
from daemon.embedded import EmbeddedRedis
from daemon.sinks.publisher import run
from daemon.sinks.publisher_journal import SLOT_BYTES, Journal, Span, State, lost_with
from tests.integration.publisher_rig import Rig, Subscriber, counted, counted_by_minute, wait_until
from tests.reference.packed_records import Book, Record, Trade

RedisFactory = Callable[[], EmbeddedRedis]
pytestmark = pytest.mark.requirement("E2E-OBS-01", "F56")

ROOT = Path(__file__).parents[2]
RING_BYTES = 1 << 20
CHANNELS = ("ticker.kr", "orderbook.kr")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "rig", capacity_bytes=RING_BYTES)
    yield rig
    rig.writer.close()


def dropped_on(url: str) -> Counter[str]:
    """What `published:dropped:*` says."""
    with redis.Redis.from_url(url) as client:
        return Counter({name: int(client.get(f"published:dropped:{name}") or 0) for name in CHANNELS})


def entries(url: str, channel: str) -> list[tuple[str, dict[str, str]]]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        found: Any = client.xrange(f"stream:{channel}:0")
        return list(found)


def require_all_counted(rig: Rig, url: str, put: Counter[str]) -> None:
    """Every message is published or given up: by channel, in the counters of Redis and the process, in the streams."""
    published, dropped = counted(url), dropped_on(url)
    assert published + dropped == put
    assert rig.published() == published.total() == counted_by_minute(url).total()
    assert rig.counters.get("records_dropped_on_redis") == dropped.total()
    assert rig.counters.get("publish_lapped") == 0
    for channel in CHANNELS:
        found = entries(url, channel)
        assert sum("message" in fields for _, fields in found) == published[channel]
        gaps = [json.loads(fields["gap"]) for _, fields in found if "gap" in fields]
        assert sum(gap["missing"] for gap in gaps) == dropped[channel]


def put_some(rig: Rig, put: Counter[str], count: int) -> None:
    records: list[Record] = [Book() if number % 5 == 4 else Trade(price=(number + 1, 0)) for number in range(count)]
    rig.put(*records)
    put.update("orderbook.kr" if isinstance(record, Book) else "ticker.kr" for record in records)


@pytest.mark.requirement("CH-PROC-01")
@pytest.mark.parametrize(
    "point", ["publisher.before_send", "publisher.after_exec", "publisher.counted", "publisher.committed"]
)
def test_the_successor_of_a_publisher_that_died_anywhere_has_its_counters_right(
    rig: Rig, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setattr(failpoints, "_directory", str(tmp_path))
    armed = tmp_path / point
    put: Counter[str] = Counter()

    def publish_until_it_dies() -> None:
        with rig.publisher(redis_url, streams=("all",), batch_messages=20):
            while armed.exists():
                put_some(rig, put, 30)
                wait_until(lambda: rig.lag() == 0 or not armed.exists(), "a batch")

    for _ in range(3):
        armed.write_text("raise EIO 2")
        with pytest.raises(OSError, match=point):
            publish_until_it_dies()
    put_some(rig, put, 1)
    with rig.publisher(redis_url, streams=("all",)):
        wait_until(lambda: rig.lag() == 0, "the rest")

    require_all_counted(rig, redis_url, put)


@pytest.mark.requirement("CH-PROC-01", "F57")
@pytest.mark.parametrize("point", ["publisher.giving_up", "publisher.gave_up"])
def test_what_a_publisher_that_died_had_given_up_is_told_and_counted_by_its_successor(
    rig: Rig, own_redis: RedisFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setattr(failpoints, "_directory", str(tmp_path))
    armed = tmp_path / point
    server = own_redis()
    put: Counter[str] = Counter()

    def publish_until_it_dies() -> None:
        with rig.publisher(server.url, streams=("all",), timeout_s=0.2):
            put_some(rig, put, 10)
            wait_until(lambda: rig.published() == 10, "the first messages")
            os.kill(server.pid, signal.SIGSTOP)
            armed.write_text("raise EIO 2")
            while armed.exists():
                put_some(rig, put, 50)
                wait_until(lambda: rig.lag() < 0.95 * RING_BYTES or not armed.exists(), "room")

    with pytest.raises(OSError, match=point):
        publish_until_it_dies()
    os.kill(server.pid, signal.SIGCONT)
    with rig.publisher(server.url, streams=("all",)):
        wait_until(lambda: rig.lag() == 0, "what is left")
        put_some(rig, put, 1)
        wait_until(lambda: rig.lag() == 0, "one more")

    assert rig.counters.get("records_dropped_on_redis") > 0
    require_all_counted(rig, server.url, put)


@pytest.mark.requirement("CH-PROC-01", "F57")
def test_a_successor_that_gives_up_more_before_redis_is_back_tells_each_loss_once(
    rig: Rig, own_redis: RedisFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failpoints, "_directory", str(tmp_path))
    armed = tmp_path / "publisher.gave_up"
    server = own_redis()
    put: Counter[str] = Counter()

    def put_while(goes_on: Callable[[], bool]) -> None:
        until = time.monotonic() + 20.0
        while goes_on():
            assert time.monotonic() < until
            if rig.lag() < 0.92 * RING_BYTES:  # never over a publisher that is only just starting
                put_some(rig, put, 50)
            else:
                time.sleep(0.001)

    def give_up_until_it_dies() -> None:
        with rig.publisher(server.url, streams=("all",), timeout_s=0.2):
            put_some(rig, put, 10)
            wait_until(lambda: rig.published() == 10, "the first messages")
            os.kill(server.pid, signal.SIGSTOP)
            armed.write_text("raise EIO 1")
            put_while(armed.exists)

    with pytest.raises(OSError, match=armed.name):
        give_up_until_it_dies()
    with rig.publisher(server.url, streams=("all",), timeout_s=0.2):
        put_while(lambda: rig.counters.get("records_dropped_on_redis") < 8_000)  # in portions, on top of the inherited
        os.kill(server.pid, signal.SIGCONT)
        wait_until(lambda: rig.lag() == 0, "what is left")
        put_some(rig, put, 1)
        wait_until(lambda: rig.lag() == 0, "one more")

    require_all_counted(rig, server.url, put)


def kill_again_and_again(rig: Rig, server: EmbeddedRedis, kills: int, seed: int) -> Counter[str]:
    """Publishers in processes of their own, killed at random moments, with a Redis that is stopped now and then."""
    chance = random.Random(seed)
    put: Counter[str] = Counter()
    command = [sys.executable, "-m", "tests.integration.publisher_child", str(rig.directory), server.url]

    def go_on(child: subprocess.Popen[bytes], seconds: float, *, starts: bool = False) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and child.poll() is None:
            if rig.lag() < 0.93 * RING_BYTES:  # a producer that laps a dead publisher costs what nobody can count
                put_some(rig, put, chance.randrange(1, 40))
            else:
                time.sleep(0.001)

    for number in range(kills):
        child = subprocess.Popen(command, cwd=ROOT)
        try:
            published = rig.published()
            wait_until(lambda: rig.counters.get("redis_connected") == 1 or rig.published() > published, "a publisher")  # noqa: B023
            go_on(child, chance.uniform(0.0, 0.3))
            if number % 3 == 1:
                os.kill(server.pid, signal.SIGSTOP)
                go_on(child, chance.uniform(0.2, 1.0))
            assert child.poll() is None
        finally:
            child.kill()
            child.wait()
            os.kill(server.pid, signal.SIGCONT)
        rig.counters.set("redis_connected", 0)
    child = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_until(lambda: rig.lag() == 0, "what is left")
        put_some(rig, put, 1)
        wait_until(lambda: rig.lag() == 0, "one more")
        child.terminate()
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()
    return put


@pytest.mark.requirement("CH-PROC-01")
def test_counts_are_exact_after_publishers_were_killed_at_random(rig: Rig, own_redis: RedisFactory) -> None:
    server = own_redis()
    put = kill_again_and_again(rig, server, 4, seed=20261123)
    require_all_counted(rig, server.url, put)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.requirement("CH-PROC-01")
@pytest.mark.parametrize("seed", range(5))
def test_counts_are_exact_after_publishers_were_killed_many_times(rig: Rig, own_redis: RedisFactory, seed: int) -> None:
    server = own_redis()
    put = kill_again_and_again(rig, server, 40, seed=seed)
    require_all_counted(rig, server.url, put)


@pytest.mark.requirement("F57")
@pytest.mark.parametrize("restarts", [False, True])
def test_a_redis_that_forgot_everything_is_told_what_it_does_not_have(
    rig: Rig, redis_url: str, capfd: pytest.CaptureFixture[str], restarts: bool
) -> None:
    put: Counter[str] = Counter()
    subscriber = Subscriber(redis_url)

    def forget() -> None:
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()

    with rig.publisher(redis_url, streams=("all",)):
        put_some(rig, put, 100)
        wait_until(lambda: rig.published() == 100, "the first messages")
        if not restarts:
            forget()
            put_some(rig, put, 50)
            wait_until(lambda: rig.published() == 150, "the rest")
    if restarts:
        forget()
        with rig.publisher(redis_url, streams=("all",)):
            put_some(rig, put, 50)
            wait_until(lambda: rig.published() == 150, "the rest")

    wait_until(lambda: len(subscriber.messages) == 151, "all, each once, and the notice")
    (gap,) = [message for channel, message in subscriber.messages if channel == "system:gaps"]
    assert (gap["records"], gap["reason"]) == (100, "unknown to Redis")
    assert counted(redis_url).total() == 50
    assert rig.published() == 150
    assert "redis_cursor_went_back" in capfd.readouterr().out
    subscriber.close()


def test_a_journal_that_was_torn_keeps_the_state_before(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        assert journal.state == State()
        for count in (1, 2):
            journal.write(State(then={"records_published": count}))
    content = bytearray(path.read_bytes())
    for at in (20, 0, 9, 13):  # body and header of the newest state
        damaged = bytearray(content)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        with Journal(path) as journal:
            assert journal.state == State(then={"records_published": 1})
            journal.write(State(then={"records_published": 3}))
        with Journal(path) as journal:
            assert journal.state == State(then={"records_published": 3})
    assert len(content) == 2 * SLOT_BYTES


def span(after: int, through: int, **messages: int) -> Span:
    return Span(7, after, through, through - after, messages or None)


@pytest.mark.parametrize(
    ("cursor", "expected"),
    [
        (10, (span(0, 40, a=40), 10)),  # neither told nor published: one loss
        (5, (span(0, 40, a=40), 10)),  # of which even the beginning was forgotten
        (30, (span(30, 40, a=10), 0)),  # the batch has happened
        (40, (None, 0)),  # told
        (None, (span(0, 40, a=40), 10)),
    ],
)
def test_what_is_lost_with_a_publisher_follows_from_the_cursor(
    cursor: int | None, expected: tuple[Span | None, int]
) -> None:
    state = State(
        told={0: span(0, 20, a=20)}, batch={0: span(20, 30, a=10)}, given_up={0: span(30, 40, a=10)}
    )  # fmt: skip

    assert lost_with(state, 0, 7, cursor) == expected
    assert lost_with(state, 0, 8, cursor) == (None, 0)  # another ring file


def test_a_batch_that_was_not_published_is_read_again_and_tells_what_was_given_up_before(tmp_path: Path) -> None:
    state = State(told={0: span(0, 20, a=20)}, batch={0: span(20, 30, a=10)})

    assert lost_with(state, 0, 7, 0) == (span(0, 20, a=20), 0)
    assert lost_with(state, 0, 7, 30) == (None, 0)


@pytest.mark.requirement("F39")
def test_a_journal_that_cannot_be_kept_holds_no_message_up(rig: Rig, redis_url: str) -> None:
    rig.put(*[Trade() for _ in range(5)])
    rig.stop.set()
    unusable = rig.directory / "journal"
    unusable.mkdir()  # as good as a full disk: opening the file is an OSError

    with capture_logs() as logs:
        settings = RedisSettings(url=redis_url)
        assert run(settings, rig.directory, rig.counters, rig.host(), on_ready=lambda: None, journal_path=unusable)

    assert counted(redis_url) == {"ticker.kr": 5}
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["publisher_journal_unusable"]
