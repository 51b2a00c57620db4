"""Streams of a real Redis: nothing twice, nothing skipped, losses visible, whatever is killed."""

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import redis

from daemon import failpoints
from daemon.sinks.redis_link import RedisLink
from native_pipeline.redis_replies import TransactionReplies
from tests.integration.publisher_rig import RedisFactory, Rig, Subscriber, counted, wait_until
from tests.reference.packed_records import Book, Trade

Entry = tuple[str, dict[str, str]]


@pytest.fixture
def rig(tmp_path: Path) -> Any:
    rig = Rig(tmp_path)
    yield rig
    rig.writer.close()


def entries(url: str, key: str = "stream:ticker.kr:0") -> list[Entry]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        found: list[Entry] = client.xrange(key)
        return found


def seqs_of(found: list[Entry]) -> list[int]:
    return [json.loads(fields["message"])["seq"] for _, fields in found if "message" in fields]


class DiesAfterExec(RedisLink):
    """The transaction happens, but the process dies before it knows."""

    class Died(Exception):
        pass

    def send(self, payload: memoryview, commands: int) -> TransactionReplies:
        super().send(payload, commands)
        raise self.Died


@pytest.mark.requirement("RDS-01")
def test_a_stream_has_what_subscribers_heard_under_the_same_numbers(rig: Rig, redis_url: str) -> None:
    subscriber = Subscriber(redis_url)

    with rig.publisher(redis_url, streams=("ticker.kr",), batch_messages=64):
        seqs = rig.put(*[Trade(price=(n, 0)) if n % 3 else Book() for n in range(1, 501)])

    wait_until(lambda: len(subscriber.messages) == 500, "every message")
    found = entries(redis_url)
    heard = [message for channel, message in subscriber.messages if channel == "ticker.kr"]
    assert [json.loads(fields["message"]) for _, fields in found] == heard
    assert [entry for entry, _ in found] == [f"{seqs[n - 1]}-0" for n in range(1, 501) if n % 3]
    assert entries(redis_url, "stream:orderbook.kr:0") == []
    subscriber.close()


@pytest.mark.requirement("RDS-01", "CH-PROC-01")
def test_publishers_that_are_killed_again_and_again_neither_skip_nor_repeat(rig: Rig, redis_url: str) -> None:
    subscriber = Subscriber(redis_url)
    seqs = rig.put(*[Trade(price=(n, 0)) for n in range(1, 101)])

    for done in range(13, 66, 13):
        with (
            pytest.raises(DiesAfterExec.Died),
            rig.publisher(redis_url, link=DiesAfterExec, batch_messages=13, streams=("all",)),
        ):
            wait_until(lambda: counted(redis_url).total() == done, "the transaction")  # noqa: B023 - used at once
    with rig.publisher(redis_url, streams=("all",)):
        pass

    assert seqs_of(entries(redis_url)) == seqs
    assert counted(redis_url) == {"ticker.kr": 100}
    wait_until(lambda: len(subscriber.messages) >= 100, "every message")
    assert subscriber.seqs() == seqs
    chain = [(message["prev_seq"], message["seq"]) for _, message in subscriber.messages]
    assert chain == [*itertools.pairwise([0, *seqs])]
    subscriber.close()


def test_an_entry_that_the_stream_has_already_counts_as_done(rig: Rig, redis_url: str) -> None:
    seqs = rig.put(*[Trade(price=(n, 0)) for n in range(1, 21)])
    with (
        pytest.raises(DiesAfterExec.Died),
        rig.publisher(redis_url, link=DiesAfterExec, batch_messages=7, streams=("all",)),
    ):
        wait_until(lambda: counted(redis_url).total() == 7, "the transaction")
    with redis.Redis.from_url(redis_url) as client:
        client.delete("published:cursor")  # the memory of what was done is lost, the entries are not

    with rig.publisher(redis_url, streams=("all",)):
        seqs += rig.put(Trade())
        wait_until(lambda: len(entries(redis_url)) == 21, "the rest")

    assert seqs_of(entries(redis_url)) == seqs
    assert rig.counters.get("publish_errors") == 0
    assert rig.counters.get("records_dropped_on_redis") == 0


@pytest.mark.requirement("RDS-01")
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_hundred_messages_before_a_restart_of_redis_and_a_hundred_after_it_are_all_there(
    rig: Rig, own_redis: RedisFactory, mode: Any
) -> None:
    server = own_redis()  # with the configuration that is shipped
    with rig.publisher(server.url, streams=("all",)):
        seqs = rig.put(*[Trade(price=(n, 0)) for n in range(1, 101)])
        wait_until(lambda: rig.published() == 100, "the first hundred")

        server.kill() if mode == "immediate" else server.stop()
        server.start()

        assert counted(server.url) == {"ticker.kr": 100}
        assert seqs_of(entries(server.url)) == seqs
        seqs += rig.put(*[Trade(price=(n, 0)) for n in range(1, 101)])
        wait_until(lambda: rig.published() == 200, "the second hundred")

    server.kill() if mode == "immediate" else server.stop()
    server.start()
    assert counted(server.url) == {"ticker.kr": 200}
    assert seqs_of(entries(server.url)) == seqs


@pytest.mark.requirement("F56", "F57")
def test_a_ring_that_ran_full_leaves_an_entry_about_exactly_what_is_missing(
    tmp_path: Path, own_redis: RedisFactory
) -> None:
    rig = Rig(tmp_path, capacity_bytes=2 << 20)
    server = own_redis()
    subscriber = Subscriber(server.url)
    with rig.publisher(server.url, streams=("all",), timeout_s=0.2):
        seqs = rig.put(Trade(), Book())
        wait_until(lambda: rig.published() == 2, "the first messages")
        os.kill(server.pid, signal.SIGSTOP)
        for n in range(150):
            rig.wait_room()
            seqs += rig.put(*[Trade(price=(n + 1, 0))] * 90, *[Book()] * 10)
        os.kill(server.pid, signal.SIGCONT)
        wait_until(lambda: rig.counters.get("publisher_lag_bytes") == 0 and rig.published() > 2, "what is left")

    dropped = rig.counters.get("records_dropped_on_redis")
    assert rig.counters.get("publish_lapped") == 0
    assert dropped > 0
    assert rig.published() + dropped == len(seqs)
    with redis.Redis.from_url(server.url) as client:
        by_channel = {name: int(client.get(f"published:dropped:{name}")) for name in ("ticker.kr", "orderbook.kr")}
    assert sum(by_channel.values()) == dropped
    for channel, missing in by_channel.items():
        found = entries(server.url, f"stream:{channel}:0")
        told = [json.loads(fields["gap"]) for _, fields in found if "gap" in fields]
        assert sum(gap["missing"] for gap in told) == missing
        assert counted(server.url)[channel] == len(seqs_of(found))
        total = 13_501 if channel == "ticker.kr" else 1_501
        assert len(seqs_of(found)) + missing == total
    wait_until(lambda: len([m for m in subscriber.messages if m[0] != "system:gaps"]) == rig.published(), "all heard")
    heard = [message for channel, message in subscriber.messages if channel == "ticker.kr"]
    holes = [1 for before, after in itertools.pairwise(heard) if after["prev_seq"] != before["seq"]]
    assert len(holes) == rig.counters.get("stream_gaps") / 2 == len(told)
    subscriber.close()
    rig.writer.close()


@pytest.mark.requirement("F56", "F57", "CH-PROC-01")
def test_a_publisher_that_dies_while_it_gives_messages_up_leaves_a_gap_with_its_counts(
    tmp_path: Path, own_redis: RedisFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path / "rig", capacity_bytes=2 << 20)
    server = own_redis()
    monkeypatch.setattr(failpoints, "_directory", str(tmp_path))
    armed = tmp_path / "publisher.gave_up"
    armed.write_text("raise EIO")
    seqs = rig.put(Trade())

    def publish_until_it_dies() -> None:
        with rig.publisher(server.url, streams=("all",), timeout_s=0.2):
            wait_until(lambda: rig.published() == 1, "the first message")
            os.kill(server.pid, signal.SIGSTOP)
            while armed.exists():
                seqs.extend(rig.put(*[Trade()] * 50))
                rig.wait_room()
            os.kill(server.pid, signal.SIGCONT)

    with pytest.raises(OSError, match=r"publisher\.gave_up"):
        publish_until_it_dies()
    with rig.publisher(server.url, streams=("all",)):
        wait_until(lambda: rig.lag() == 0, "what is left")

    found = entries(server.url)
    published = seqs_of(found)
    (gap,) = [json.loads(fields["gap"]) for _, fields in found if "gap" in fields]
    assert gap["reason"] == "dropped"
    assert gap["missing"] == gap["records"] == len(seqs) - len(published) > 0
    assert rig.counters.get("records_dropped_on_redis") == gap["records"]
    assert published == [seq for seq in seqs if not gap["after_seq"] < seq <= gap["through_seq"]]
    assert counted(server.url) == {"ticker.kr": len(published)}
    rig.writer.close()


def test_a_key_of_another_kind_in_the_way_of_a_stream_costs_its_entries_and_they_are_counted(
    rig: Rig, redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("stream:ticker.kr:0", "not ours")

    with rig.publisher(redis_url, streams=("all",)):
        rig.put(*[Trade()] * 10, Book())

    assert rig.published() == 11
    assert counted(redis_url) == {"ticker.kr": 10, "orderbook.kr": 1}
    assert rig.counters.get("records_dropped_on_redis") == 10
    assert len(entries(redis_url, "stream:orderbook.kr:0")) == 1


def test_a_stream_keeps_about_as_many_entries_as_it_is_told_to(rig: Rig, redis_url: str) -> None:
    with rig.publisher(redis_url, streams=("all",), stream_maxlen=200):
        seqs = rig.put(*[Trade()] * 2000)

    found = seqs_of(entries(redis_url))
    assert 200 <= len(found) < 400
    assert found == seqs[-len(found) :]
