"""The publisher against a real Redis: what subscribers receive, what Redis counts, what happens when either dies."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from daemon.config import Redis as RedisSettings
from daemon.embedded import EmbeddedRedis
from daemon.sinks.redis_link import RedisAway, RedisLink
from native_pipeline.redis_encoder import PublishBatch
from native_pipeline.redis_replies import TransactionReplies
from native_pipeline.ring_reader import LossyReader
from tests.integration.publisher_rig import (
    MARKETS,
    MINUTE_NS,
    VENUES,
    RedisFactory,
    Rig,
    Subscriber,
    counted,
    counted_by_minute,
    wait_until,
)
from tests.reference.packed_records import Book, Event, Ledger, Quarantine, Record, Trade


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.writer.close()


@pytest.fixture
def subscriber(redis_url: str) -> Iterator[Subscriber]:
    subscriber = Subscriber(redis_url)
    yield subscriber
    subscriber.close()


def validate_as_existing_consumers_do(channel: str, message: dict[str, Any]) -> None:
    if channel.startswith("ticker."):
        assert message["type"] == "ticker"
        assert message["price"] > 0
        assert message["volume"] >= 0
        assert isinstance(message["change"], int | float)
    elif channel.startswith("event."):
        assert message["type"] in {"expected", "status"}
        assert message["detail"] == "\ufffd^\ufffd"
    else:
        assert message["type"] == "orderbook"
        for level in [*message["asks"], *message["bids"]]:
            assert level["price"] > 0
            assert level["vol"] >= 0
    assert isinstance(message["symbol"], str)
    assert message["timestamp"].endswith("+09:00")


def a_mixed_load(n: int) -> list[Record]:
    records: list[Record] = []
    for number in range(n):
        market, symbol = 1 + number % 2, b"%06d" % (number % 7)
        recv_ns = 29_393_280 * MINUTE_NS + number * 1_000_000_000
        records.append(Trade(market=market, symbol=symbol, price=(1000 + number, 1), recv_ns=recv_ns))
        if number % 3 == 0:
            records.append(Book(market=market, symbol=symbol, asks=[((7, 0), (1, 0))], recv_ns=recv_ns))
        if number % 5 == 0:
            event_type = 1 if number % 2 else 4
            records.append(Event(market=market, symbol=symbol, type=event_type, text=b"\0^\xff", recv_ns=recv_ns))
        if number % 50 == 0:
            records += [Quarantine(frame=b"?", recv_ns=recv_ns), Ledger(recv_ns=recv_ns)]
    return records


@pytest.mark.requirement("E2E-OBS-01")
def test_subscribers_receive_what_the_counters_of_redis_say(rig: Rig, redis_url: str, subscriber: Subscriber) -> None:
    records = a_mixed_load(500)

    with rig.publisher(redis_url, batch_messages=64):
        rig.put(*records)

    market_records = [record for record in records if isinstance(record, Trade | Book | Event)]
    wait_until(lambda: len(subscriber.messages) >= len(market_records), "every message")
    for channel, message in subscriber.messages:
        validate_as_existing_consumers_do(channel, message)
    assert subscriber.counts() == counted(redis_url)
    assert rig.published() == len(market_records) == sum(counted(redis_url).values())
    kinds = {Trade: "trade", Book: "orderbook", Event: "event"}
    expected = Counter(
        (record.recv_ns // MINUTE_NS, f"{MARKETS[record.market]}|{record.symbol.decode()}|{kinds[type(record)]}")
        for record in market_records
    )
    assert counted_by_minute(redis_url) == expected
    assert rig.drained
    snapshot = rig.counters.snapshot()
    assert snapshot is not None
    assert sum(snapshot["histograms"][0]) == len(market_records)
    assert rig.counters.get("publisher_lag_bytes") == 0


class CrashesAfterExec(RedisLink):
    """The transaction happens, but the process dies before it knows."""

    class Died(Exception):
        pass

    def send(self, payload: memoryview, commands: int) -> TransactionReplies:
        super().send(payload, commands)
        raise self.Died


class LosesTheReply(RedisLink):
    """The first transaction happens, but the connection breaks before its replies arrive."""

    broken = False

    def send(self, payload: memoryview, commands: int) -> TransactionReplies:
        replies = super().send(payload, commands)
        if not self.broken:
            self.broken = True
            self.close()
            raise RedisAway("connection reset before the reply")
        return replies


@pytest.mark.requirement("CH-PROC-01")
def test_a_publisher_killed_after_exec_is_not_repeated_by_its_successor(
    rig: Rig, redis_url: str, subscriber: Subscriber
) -> None:
    seqs = rig.put(*[Trade(price=(n, 0)) for n in range(1, 101)])

    with pytest.raises(CrashesAfterExec.Died), rig.publisher(redis_url, link=CrashesAfterExec, batch_messages=40):
        wait_until(lambda: counted(redis_url).total() > 0, "the transaction")
    assert counted(redis_url) == {"ticker.kr": 40}

    with rig.publisher(redis_url):
        seqs += rig.put(Trade(price=(7, 0)))
        wait_until(lambda: len(subscriber.messages) >= 101, "the rest")

    assert subscriber.seqs() == seqs
    assert counted(redis_url) == {"ticker.kr": 101}


def test_a_transaction_whose_reply_was_lost_is_counted_and_not_repeated(
    rig: Rig, redis_url: str, subscriber: Subscriber
) -> None:
    seqs = rig.put(*[Trade(price=(n, 0)) for n in range(1, 101)])

    with rig.publisher(redis_url, link=LosesTheReply, batch_messages=40):
        wait_until(lambda: rig.published() == 100, "all counted")

    wait_until(lambda: len(subscriber.messages) >= 100, "all received")
    assert subscriber.seqs() == seqs
    assert counted(redis_url) == {"ticker.kr": 100}
    assert rig.counters.get("publish_errors") == 1


@pytest.mark.requirement("QG-IT-01")
def test_publishing_catches_up_after_redis_was_killed(rig: Rig, own_redis: RedisFactory) -> None:
    server = own_redis()
    seqs = rig.put(Trade())
    with rig.publisher(server.url):
        wait_until(lambda: rig.published() == 1, "the first message")

        server.kill()
        seqs += rig.put(*[Trade(price=(n, 0)) for n in range(1, 5001)])
        wait_until(lambda: rig.counters.get("publish_errors") > 2, "failed attempts")
        assert rig.counters.get("redis_connected") == 0
        assert rig.published() == 1
        server.start()

        wait_until(lambda: rig.published() == len(seqs), "the backlog")
        assert rig.counters.get("redis_connected") == 1

    assert counted(server.url) == {"ticker.kr": len(seqs)}
    assert rig.counters.get("publish_lapped") == 0


@pytest.mark.requirement("QG-IT-01")
@pytest.mark.requirement("BP-01")
def test_a_ring_that_goes_round_while_redis_is_away_costs_counted_messages_and_blocks_nobody(
    tmp_path: Path, own_redis: RedisFactory
) -> None:
    rig = Rig(tmp_path, capacity_bytes=1 << 20)
    server = own_redis()
    with rig.publisher(server.url, batch_messages=100):
        total = len(rig.put(Trade()))
        wait_until(lambda: rig.published() == 1, "the first message")
        server.kill()
        for _ in range(5):
            total += len(rig.put(*[Trade()] * 5000))
        wait_until(lambda: rig.counters.get("publish_errors") > 2, "failed attempts")

        server.start()
        wait_until(lambda: rig.counters.get("publisher_lag_bytes") == 0 and rig.published() > 1, "what is left")

    assert rig.counters.get("publish_lapped") > 0  # bursts of nearly a whole ring
    dropped = rig.counters.get("records_dropped_on_redis")
    assert rig.published() + rig.counters.get("publish_lapped") + dropped == total
    assert counted(server.url) == {"ticker.kr": rig.published()}
    rig.writer.close()


def test_a_stop_does_not_wait_for_a_redis_that_is_away(rig: Rig) -> None:
    rig.put(Trade())

    started = time.monotonic()
    with rig.publisher("redis://127.0.0.1:1/0"):
        wait_until(lambda: rig.counters.get("publish_errors") > 0, "a failed attempt")

    assert time.monotonic() - started < 5
    assert not rig.drained
    assert rig.published() == 0


def test_what_a_stop_left_in_the_ring_is_published_by_the_successor(
    rig: Rig, redis_url: str, subscriber: Subscriber
) -> None:
    seqs = rig.put(Trade(), Trade())
    with rig.publisher("redis://127.0.0.1:1/0"):
        wait_until(lambda: rig.counters.get("publish_errors") > 0, "a failed attempt")

    with rig.publisher(redis_url):
        pass

    assert rig.drained
    wait_until(lambda: len(subscriber.messages) >= 2, "both messages")
    assert subscriber.seqs() == seqs


@pytest.mark.parametrize("batch_messages", [1, 1000])
def test_a_redis_that_refuses_to_write_is_reported_and_gets_everything_later(
    rig: Rig, own_redis: RedisFactory, batch_messages: int
) -> None:
    server = own_redis()
    subscriber = Subscriber(server.url)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")
        with rig.publisher(server.url, batch_messages=batch_messages):
            seqs = rig.put(*[Trade()] * 10)
            wait_until(lambda: rig.counters.get("publish_errors") > 2, "-OOM")
            assert subscriber.messages == []

            client.config_set("maxmemory", "0")
            wait_until(lambda: len(subscriber.messages) >= len(seqs), "the messages")

    assert subscriber.seqs() == seqs
    assert counted(server.url) == {"ticker.kr": len(seqs)}
    assert rig.published() == len(seqs)
    subscriber.close()


def test_a_paused_predecessor_cannot_publish_again_after_its_successor(
    rig: Rig, redis_url: str, subscriber: Subscriber
) -> None:
    seqs = rig.put(*[Trade(price=(n, 0)) for n in range(1, 11)])
    settings = RedisSettings(url=redis_url)
    predecessor = RedisLink(settings)
    stale = PublishBatch(venues=VENUES, markets=MARKETS, minute_counts_kept_s=3600)
    reader = LossyReader(rig.ring_path, "publisher")
    predecessor.connect([0])
    stale.append_from(reader, 5)  # and here it is paused
    reader.close()

    with rig.publisher(redis_url):
        wait_until(lambda: len(subscriber.messages) >= len(seqs), "the successor's messages")
    with stale.payload() as payload:
        replies = predecessor.send(payload, stale.commands)
    predecessor.close()

    assert replies.aborted
    assert not replies.executed
    assert counted(redis_url) == {"ticker.kr": len(seqs)}
    assert subscriber.seqs() == seqs


def test_a_cursor_of_another_ring_file_is_ignored(rig: Rig, redis_url: str, subscriber: Subscriber) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.hset("published:cursor", "ring-0", f"123:{2**62}")
    seqs = rig.put(Trade())

    with rig.publisher(redis_url):
        wait_until(lambda: len(subscriber.messages) >= 1, "the message")

    assert subscriber.seqs() == seqs
    with redis.Redis.from_url(redis_url) as client:
        assert client.hget("published:cursor", "ring-0") == f"{seqs[0]}:{seqs[0]}".encode()


def test_a_heartbeat_is_shown_while_redis_hangs(rig: Rig, own_redis: RedisFactory) -> None:
    server = own_redis()
    with rig.publisher(server.url, timeout_s=3.0):
        rig.put(Trade())
        wait_until(lambda: rig.published() == 1, "the first message")
        with redis.Redis.from_url(server.url) as client:
            client.client_pause(1500, all=True)
        rig.put(Trade())
        started_ns = time.monotonic_ns()
        beats = set()
        while rig.published() < 2:
            snapshot = rig.counters.snapshot()
            assert snapshot is not None
            beats.add(snapshot["heartbeat_mono_ns"])
            assert time.monotonic_ns() - started_ns < 10_000_000_000
            time.sleep(0.01)

    assert len([beat for beat in beats if beat > started_ns]) >= 3


def test_a_password_and_a_database_number_of_the_url_are_used(rig: Rig, own_redis: RedisFactory) -> None:
    server = own_redis()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", "sesame")
    url = server.url_for(3).replace("redis://", "redis://:sesame@")

    with rig.publisher(server.url_for(3)):
        rig.put(Trade())
        wait_until(lambda: rig.counters.get("publish_errors") > 0, "a refusal without the password")
    with rig.publisher(url):
        wait_until(lambda: rig.published() == 1, "the message")

    assert counted(url) == {"ticker.kr": 1}


def test_a_unix_socket_is_as_good_as_tcp(rig: Rig, tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    with EmbeddedRedis(tmp_path / "redis", {"unixsocket": str(socket)}) as server:
        with rig.publisher(f"unix://{socket}?db=2"):
            rig.put(Trade())
            wait_until(lambda: rig.published() == 1, "the message")

        assert counted(server.url_for(2)) == {"ticker.kr": 1}
