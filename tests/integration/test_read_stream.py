"""The documented reader of a stream: what it has not seen, it says."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.integration.publisher_rig import Rig
from tests.reference.packed_records import Book, Trade

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "read_stream.py"
KEY = "stream:ticker.kr:0"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.writer.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


def reader_of(client: Any, last_id: str = "0-0") -> Any:
    spec = importlib.util.spec_from_file_location("read_stream", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.StreamReader(client, KEY, last_id)


def publish(rig: Rig, url: str, *records: Trade | Book) -> list[int]:
    seqs = rig.put(*records)
    with rig.publisher(url, streams=("all",)):
        pass
    return seqs


@pytest.mark.requirement("F57")
def test_the_reader_of_the_documents_sees_everything_once(rig: Rig, redis_url: str, client: Any) -> None:
    seqs = publish(rig, redis_url, Trade(), Book(), Trade())
    reader = reader_of(client)
    first = list(reader.read(count=1))
    later = list(reader_of(client, reader.last_id).read())
    seqs += publish(rig, redis_url, Trade())

    assert [content["seq"] for _, content in first] == [seqs[0]]
    assert [content["seq"] for _, content in later] == [seqs[2]]
    assert [content["seq"] for _, content in reader.read()] == [seqs[2], seqs[3]]


@pytest.mark.requirement("F57")
@pytest.mark.parametrize(("trimmed", "is_told"), [(2, False), (3, True), (5, True)])
def test_what_was_trimmed_before_it_was_read_is_a_gap_and_what_was_read_is_none(
    rig: Rig, redis_url: str, client: Any, trimmed: int, is_told: bool
) -> None:
    seqs = publish(rig, redis_url, *[Trade()] * 10)
    reader = reader_of(client)
    list(reader.read(count=2))
    client.xtrim(KEY, minid=f"{seqs[trimmed]}-0", approximate=False)

    found = list(reader.read())

    gap = ("gap", {"type": "gap", "source": 0, "after_seq": seqs[1], "through_seq": seqs[trimmed - 1],
                   "missing": None, "reason": "trimmed"})  # fmt: skip
    assert found[:1] == [gap] if is_told else found[0][0] == "message"
    assert [content["seq"] for kind, content in found if kind == "message"] == seqs[trimmed:]


@pytest.mark.requirement("F56", "F57")
def test_a_loss_that_the_publisher_told_is_told_once(rig: Rig, redis_url: str, client: Any, tmp_path: Path) -> None:
    small = Rig(tmp_path / "small", capacity_bytes=1 << 20)
    seqs = publish(small, redis_url, Trade())
    reader = reader_of(client)
    list(reader.read())
    for _ in range(3):
        seqs += small.put(*[Trade()] * 4000)
    seqs += publish(small, redis_url, Trade())

    [first, *rest] = list(reader.read(count=100_000))

    assert first[0] == "gap"
    assert (first[1]["after_seq"], first[1]["reason"]) == (seqs[0], "lapped")
    assert {kind for kind, _ in rest} == {"message"}
    assert first[1]["records"] + len(rest) + 1 == len(seqs)
    small.writer.close()


@pytest.mark.requirement("F57")
def test_what_the_publisher_itself_trimmed_while_a_consumer_was_away_is_a_gap(
    rig: Rig, redis_url: str, client: Any
) -> None:
    seqs = publish(rig, redis_url, *[Trade()] * 10)
    reader = reader_of(client)
    list(reader.read(count=2))
    with rig.publisher(redis_url, streams=("all",), stream_maxlen=100):
        seqs += rig.put(*[Trade()] * 3000)

    [(kind, gap), *rest] = list(reader.read(count=100_000))

    assert (kind, gap["reason"], gap["after_seq"]) == ("gap", "trimmed", seqs[1])
    assert {kind for kind, _ in rest} == {"message"}
    assert [content["seq"] for _, content in rest] == [seq for seq in seqs if seq > gap["through_seq"]]
    assert 100 <= len(rest) < 400


@pytest.mark.requirement("F56", "F57")
def test_a_stream_that_redis_lost_is_a_gap_for_who_had_not_read_it(rig: Rig, redis_url: str, client: Any) -> None:
    seqs = publish(rig, redis_url, *[Trade()] * 10)
    reader = reader_of(client)
    list(reader.read(count=2))
    client.flushall()
    seqs += publish(rig, redis_url, Trade())

    found = list(reader.read())

    assert [kind for kind, _ in found] == ["gap", "message"]
    assert (found[0][1]["after_seq"], found[0][1]["through_seq"]) == (seqs[1], seqs[9])
    assert found[1][1]["seq"] == seqs[10]
