"""A publisher in a thread on a ring of its own, and a plain subscriber that keeps what it hears."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from daemon.config import Redis as RedisSettings
from daemon.embedded import EmbeddedRedis
from daemon.sinks.host import Host
from daemon.sinks.publisher import Publisher
from daemon.sinks.publisher_journal import Journal
from daemon.sinks.redis_link import RedisLink
from native_pipeline.counters import CountersBlock, create_counters_file
from native_pipeline.redis_encoder import PublishBatch
from native_pipeline.ring_creation import create_ring
from native_pipeline.ring_reader import LossyReader
from native_pipeline.ring_writer import RingWriter
from tests.reference.packed_records import Record, append

RedisFactory = Callable[[], EmbeddedRedis]

VENUES = ("", "kis", "kiwoom")
MARKETS = ("", "kr", "us")
TIMEOUT_S = 20.0
MINUTE_NS = 60_000_000_000


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {TIMEOUT_S} s for {what}"
        time.sleep(0.005)


class Subscriber:
    """A plain redis-py subscriber of every channel of the contract, in its own thread."""

    def __init__(self, url: str) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self._client = redis.Redis.from_url(url, protocol=2)
        self._pubsub = self._client.pubsub()  # type: ignore[no-untyped-call]
        self._pubsub.psubscribe("ticker.*", "orderbook.*", "event.*", "system:gaps")
        for _ in range(4):
            assert self._pubsub.get_message(timeout=TIMEOUT_S) is not None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                found = self._pubsub.get_message(timeout=0.05)
            except (redis.ConnectionError, redis.TimeoutError):
                return  # the server was killed
            if found is not None and found["type"] == "pmessage":
                self.messages.append((found["channel"].decode(), json.loads(found["data"])))

    def close(self) -> None:
        self._ended.set()
        self._thread.join(TIMEOUT_S)
        self._pubsub.close()
        self._client.close()

    def counts(self) -> Counter[str]:
        return Counter(channel for channel, _ in list(self.messages))

    def seqs(self) -> list[int]:
        return [message["seq"] for _, message in list(self.messages)]


@dataclass
class Rig:
    """One ring, its producer, and publishers on it, one after the other."""

    directory: Path
    capacity_bytes: int = 1 << 24
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.ring_path = self.directory / "worker-0.ring"
        create_ring(self.ring_path, ring=0, capacity_bytes=self.capacity_bytes, consumers=(("publisher", 2),))
        self.writer = RingWriter(self.ring_path)
        create_counters_file(self.directory / "counters", 1)
        self.counters = CountersBlock(self.directory / "counters", 0)
        self.counters.take("publisher")

    def put(self, *records: Record) -> list[int]:
        seqs = [append(self.writer, record) for record in records]
        self.writer.publish()
        return seqs

    def wait_room(self) -> None:
        """Until the publisher has read, or given up, enough that the next thousand records do not overtake it."""
        wait_until(lambda: self.lag() < 0.92 * self.capacity_bytes, "room in the ring")

    def lag(self) -> int:
        """Bytes that the publisher has neither published nor given up."""
        return self.writer.head - self.writer.consumers()["publisher"]["position"]

    def host(self) -> Host:
        return Host(
            wait=lambda seconds: self.stop.wait(min(seconds, 0.01)),
            beat=self.counters.heartbeat,
            stopping=self.stop.is_set,
            drain_s=10.0,
        )

    @contextmanager
    def publisher(self, url: str, link: type[RedisLink] = RedisLink, **settings: Any) -> Iterator[Publisher]:
        """A publisher that runs in a thread until the block ends, and then drains."""
        reader = LossyReader(self.ring_path, "publisher")
        journal = Journal(self.directory / "publisher.journal")
        chosen = RedisSettings(**{"url": url, "retry_max_s": 0.05, "flush_interval_ms": 1, **settings})
        publisher = Publisher(
            readers=[reader],
            batch=PublishBatch(
                venues=VENUES,
                markets=MARKETS,
                minute_counts_kept_s=3600,
                streams=chosen.streams,
                stream_maxlen=chosen.stream_maxlen,
            ),
            link=link(chosen),
            settings=chosen,
            counters=self.counters,
            host=self.host(),
            journal=journal,
        )
        self.stop.clear()
        failure: list[BaseException] = []

        def run() -> None:
            try:
                self.drained = publisher.run()
            except BaseException as exc:
                failure.append(exc)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield publisher
        finally:
            self.stop.set()
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
            reader.close()
            journal.__exit__()
        if failure:
            raise failure[0]

    def published(self) -> int:
        return self.counters.get("records_published")


def counted(url: str) -> Counter[str]:
    """What `published:count:*` says, by channel."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        keys = client.keys("published:count:*")
        return Counter({key.removeprefix("published:count:"): int(client.get(key)) for key in keys})


def counted_by_minute(url: str) -> Counter[tuple[int, str]]:
    """What `published:minute:*` says, by minute and field."""
    found: Counter[tuple[int, str]] = Counter()
    with redis.Redis.from_url(url, decode_responses=True) as client:
        for key in client.keys("published:minute:*"):
            assert client.ttl(key) > 0
            for name, count in client.hgetall(key).items():
                found[int(key.rpartition(":")[2]), name] = int(count)
    return found
