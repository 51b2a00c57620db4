"""Streams, the chain of messages of a channel, and what is said about a loss."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from native_pipeline.redis_encoder import PublishBatch
from native_pipeline.redis_replies import TransactionReplies
from native_pipeline.ring_creation import LOSSY, create_ring
from native_pipeline.ring_reader import LossyReader
from native_pipeline.ring_writer import RingWriter
from tests.reference import redis_messages
from tests.reference.packed_records import Book, Ledger, Quarantine, Record, Trade, append

VENUES = ("", "kis", "kiwoom")
MARKETS = ("", "kr", "us")
RING = 3


class Pipe:
    """A small ring, its producer and a lossy reader."""

    def __init__(self, path: Path) -> None:
        create_ring(path, ring=RING, capacity_bytes=1 << 20, consumers=(("publisher", LOSSY),))
        self.path = path
        self.writer = RingWriter(path)
        self.reader = LossyReader(path, "publisher")

    def put(self, *records: Record) -> list[int]:
        seqs = [append(self.writer, record) for record in records]
        self.writer.publish()
        return seqs

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path / "worker-3.ring")
    yield pipe
    pipe.close()


def new_batch(*streams: str, maxlen: int = 1000) -> PublishBatch:
    return PublishBatch(
        venues=VENUES, markets=MARKETS, minute_counts_kept_s=60, streams=streams, stream_maxlen=maxlen
    )  # fmt: skip


def commands(batch: PublishBatch, *names: bytes) -> list[list[bytes]]:
    with batch.payload() as view:
        found = redis_messages.commands(bytes(view))
    return [words for words in found if not names or words[0] in names]


def gaps(batch: PublishBatch) -> list[dict[str, Any]]:
    return [json.loads(words[2]) for words in commands(batch, b"PUBLISH") if words[1] == b"system:gaps"]


def chain(batch: PublishBatch, channel: bytes) -> list[tuple[int, int]]:
    """(prev_seq, seq) of each message of *channel*."""
    found = [json.loads(words[2]) for words in commands(batch, b"PUBLISH") if words[1] == channel]
    return [(message["prev_seq"], message["seq"]) for message in found]


@pytest.mark.requirement("RDS-01")
def test_a_channel_with_a_stream_has_its_messages_there_under_the_number_of_the_record(pipe: Pipe) -> None:
    batch = new_batch("ticker.kr")
    [first, second, _, _] = pipe.put(Trade(), Trade(price=(7, 0)), Trade(market=2), Book())

    batch.append_from(pipe.reader, 10)

    published = [words[2] for words in commands(batch, b"PUBLISH") if words[1] == b"ticker.kr"]
    assert commands(batch, b"XADD") == [
        [b"XADD", b"stream:ticker.kr:3", *limit, f"{seq}-0".encode(), b"message", message]
        for limit, seq, message in zip(((b"MAXLEN", b"~", b"1000"), ()), (first, second), published, strict=True)
    ]
    assert batch.entries == 2
    assert batch.commands == len(commands(batch)) - 3


def test_all_channels_have_streams_if_all_are_asked_for_and_none_by_default(pipe: Pipe) -> None:
    records: list[Record] = [Trade(), Book(), Trade(market=2)]
    everything, nothing = new_batch("all"), new_batch()

    pipe.put(*records)
    everything.append_from(pipe.reader, 10)
    pipe.put(*records)
    nothing.append_from(pipe.reader, 10)

    keys = [words[1] for words in commands(everything, b"XADD")]
    assert keys == [b"stream:ticker.kr:3", b"stream:orderbook.kr:3", b"stream:ticker.us:3"]
    assert commands(nothing, b"XADD") == []


def test_a_message_names_the_one_before_it_on_its_channel_whatever_lies_between(pipe: Pipe) -> None:
    batch = new_batch()
    seqs = pipe.put(Trade(), Book(), Quarantine(frame=b"?"), Trade(), Ledger(), Trade(market=2), Trade())

    batch.append_from(pipe.reader, 5)
    first = chain(batch, b"ticker.kr")
    batch.clear()
    batch.append_from(pipe.reader, 5)

    assert first == [(0, seqs[0]), (seqs[0], seqs[3])]
    assert chain(batch, b"ticker.kr") == [(seqs[3], seqs[6])]
    assert chain(batch, b"ticker.us") == [(0, seqs[5])]


def test_the_chain_goes_on_behind_a_restart_from_what_redis_was_told(pipe: Pipe) -> None:
    batch = new_batch()
    seqs = pipe.put(Trade(), Book(), Trade(), Book())
    batch.append_from(pipe.reader, 2)
    [[_, _, *told]] = [words for words in commands(batch, b"HSET") if words[1] == b"published:last"]
    last = {key.decode().partition(":")[2]: int(seq) for key, seq in zip(told[::2], told[1::2], strict=True)}

    successor = new_batch()
    successor.resume(pipe.reader, seqs[1], last)
    successor.append_from(pipe.reader, 10)

    assert chain(successor, b"ticker.kr") == [(seqs[0], seqs[2])]
    assert chain(successor, b"orderbook.kr") == [(seqs[1], seqs[3])]
    assert gaps(successor) == []


@pytest.mark.requirement("F56")
def test_what_was_given_up_is_told_by_channel_in_front_of_what_follows(pipe: Pipe) -> None:
    batch = new_batch("all")
    seqs = pipe.put(Trade(), Book(), Trade(market=2), Trade(), Trade(), Ledger(), Book(), Trade(), Trade(market=2))
    batch.append_from(pipe.reader, 3)
    batch.clear()

    assert batch.skip_from(pipe.reader, 4) == 4
    batch.append_from(pipe.reader, 10)

    assert batch.dropped == {"ticker.kr": 2, "orderbook.kr": 1}
    notice = {"type": "gap", "source": RING, "after_seq": seqs[2], "through_seq": seqs[6], "records": 4,
              "reason": "dropped"}  # fmt: skip
    assert gaps(batch) == [notice | {"missing": {"ticker.kr": 2, "orderbook.kr": 1}}]
    assert commands(batch)[1][1] == b"system:gaps"
    entries = {words[1]: words[5:] for words in commands(batch, b"XADD") if words[6] == b"gap"}
    assert {key: json.loads(words[2]) for key, words in entries.items()} == {
        b"stream:ticker.kr:3": notice | {"missing": 2},
        b"stream:orderbook.kr:3": notice | {"missing": 1},
    }
    assert {words[0] for words in entries.values()} == {f"{seqs[2]}-1".encode()}
    assert batch.gap_entries == 2
    assert [b"INCRBY", b"published:dropped:ticker.kr", b"2"] in commands(batch)
    assert chain(batch, b"ticker.kr") == [(seqs[6], seqs[7])]  # nobody has that one: something is missing
    assert chain(batch, b"ticker.us") == [(seqs[2], seqs[8])]  # nothing of this channel is
    assert batch.progress == {RING: (pipe.reader.epoch, seqs[7], seqs[8])}
    batch.clear()
    pipe.put(Trade())
    batch.append_from(pipe.reader, 10)
    assert gaps(batch) == []


def test_records_can_be_given_up_while_a_payload_is_on_its_way(pipe: Pipe) -> None:
    batch = new_batch()
    pipe.put(Trade(), Trade(), Trade())
    batch.append_from(pipe.reader, 1)

    with batch.payload() as view:
        before = bytes(view)
        assert batch.skip_from(pipe.reader, 1) == 1
        assert bytes(view) == before

    assert gaps(batch) == []
    batch.clear()
    batch.append_from(pipe.reader, 1)
    assert [gap["records"] for gap in gaps(batch)] == [1]


@pytest.mark.requirement("F57")
def test_a_ring_that_went_round_breaks_the_chain_of_every_channel_and_says_so(pipe: Pipe) -> None:
    batch = new_batch("all")
    seqs = pipe.put(Trade(), Trade(market=2))
    batch.append_from(pipe.reader, 2)
    batch.clear()
    for _ in range(3):
        seqs += pipe.put(*[Trade()] * 4000)
    seqs += pipe.put(Trade(market=2))

    while batch.append_from(pipe.reader, 10_000):
        pass

    [gap] = gaps(batch)
    kr, us = chain(batch, b"ticker.kr"), chain(batch, b"ticker.us")
    assert gap["reason"] == "lapped"
    assert gap["after_seq"] == seqs[1]
    assert gap["records"] == pipe.reader.lapped_records == gap["through_seq"] - gap["after_seq"]
    assert gap["missing"] is None
    assert kr[0] == (gap["through_seq"], gap["through_seq"] + 1)
    assert us == [(gap["through_seq"], seqs[-1])]
    assert batch.gap_entries == 2
    told = next(words for words in commands(batch, b"HSET") if words[1] == b"published:last")
    assert dict(zip(told[2::2], told[3::2], strict=True))[b"3:lost"] == str(gap["through_seq"]).encode()


def test_a_ring_that_went_round_while_no_publisher_lived_is_noticed_by_its_successor(pipe: Pipe) -> None:
    batch = new_batch("all")
    seqs = pipe.put(Trade())
    batch.append_from(pipe.reader, 1)
    pipe.reader.commit()
    pipe.reader.close()
    for _ in range(3):
        seqs += pipe.put(*[Trade()] * 4000)

    pipe.reader = LossyReader(pipe.path, "publisher")
    successor = new_batch("all")
    pipe.reader.seek_after(seqs[0])
    successor.resume(pipe.reader, seqs[0], {"ticker.kr": seqs[0]})
    while successor.append_from(pipe.reader, 10_000):
        pass

    [gap] = gaps(successor)
    assert (gap["after_seq"], gap["reason"]) == (seqs[0], "lapped")
    assert gap["records"] == successor.unread + pipe.reader.lapped_records == len(seqs) - 1 - successor.messages


def test_the_loss_of_an_earlier_ring_file_is_possible_and_therefore_told(pipe: Pipe) -> None:
    batch = new_batch("all")
    old = pipe.reader.first_seq - 1_000_000
    batch.resume(pipe.reader, 0, {"ticker.kr": old}, replaced_seq=old)
    [seq] = pipe.put(Trade())

    batch.append_from(pipe.reader, 10)

    [gap] = gaps(batch)
    assert (gap["after_seq"], gap["records"], gap["missing"]) == (old, None, None)
    assert gap["reason"] == "ring replaced"
    assert chain(batch, b"ticker.kr") == [(seq - 1, seq)]


def test_the_key_of_a_command_can_be_looked_up(pipe: Pipe) -> None:
    batch = new_batch("all")
    pipe.put(Trade(), Book())
    batch.append_from(pipe.reader, 10)
    batch.payload().release()

    assert batch.keys_of([3, 0, 1]) == ["ticker.kr", "stream:ticker.kr:3", "stream:orderbook.kr:3"]


# ---- replies ----------------------------------------------------------------------------------------------

ADDED = b"$18\r\n1763596800000000-0\r\n"
IN_IT = b"-ERR The ID specified in XADD is equal or smaller than the target stream top item\r\n"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_ids_of_added_entries_are_read_and_an_entry_that_is_there_already_is_no_error(size: int) -> None:
    text = b"+OK\r\n" + 5 * b"+QUEUED\r\n" + b"*5\r\n:1\r\n" + ADDED + IN_IT + b"-WRONGTYPE no\r\n:0\r\n+OK\r\n"
    replies = TransactionReplies(5)

    for start in range(0, len(text), size):
        assert replies.feed(text[start : start + size]) == 0

    assert replies.complete
    assert replies.executed
    assert replies.repeated == [2]
    assert replies.failures == [(3, b"WRONGTYPE no")]
    assert (replies.errors, replies.first_error) == (1, b"WRONGTYPE no")


def test_what_was_given_up_before_redis_could_be_asked_is_told_once_and_joined_to_its_cursor(pipe: Pipe) -> None:
    batch = new_batch("all")
    seqs = pipe.put(*[Trade()] * 10)
    pipe.reader.fetch_bytes()
    for _ in range(4):
        pipe.reader.next_bytes()
    pipe.reader.commit()
    batch.skip_from(pipe.reader, 3)
    pipe.reader.commit()

    pipe.reader.seek_after(seqs[3])
    batch.resume(pipe.reader, seqs[3], {"ticker.kr": seqs[3]})
    batch.append_from(pipe.reader, 10)

    [gap] = gaps(batch)
    assert (gap["after_seq"], gap["through_seq"], gap["records"]) == (seqs[3], seqs[6], 3)
    assert gap["missing"] == {"ticker.kr": 3}


@pytest.mark.requirement("F56")
def test_what_redis_has_forgotten_is_told_in_front_of_a_batch_that_was_encoded_before(pipe: Pipe) -> None:
    batch = new_batch("all")
    seqs = pipe.put(*[Trade()] * 10)
    batch.append_from(pipe.reader, 6)
    batch.clear()
    batch.append_from(pipe.reader, 4)
    messages = commands(batch)[1:9]

    batch.tell_forgotten(pipe.reader, seqs[2])

    assert commands(batch)[3:11] == messages
    [gap] = gaps(batch)
    assert (gap["after_seq"], gap["through_seq"], gap["records"]) == (seqs[2], seqs[5], 3)
    assert commands(batch)[2][5:7] == [f"{seqs[2]}-1".encode(), b"gap"]
    assert batch.commands == len(commands(batch)) - 3
    assert batch.keys_of([0, 1, 3]) == ["system:gaps", "stream:ticker.kr:3", "stream:ticker.kr:3"]
    batch.tell_forgotten(pipe.reader, seqs[5])  # nothing lies between
    assert len(gaps(batch)) == 1
