"""The ledger: what was received, per minute, symbol and kind, as records of the ring itself."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from native_pipeline.ring_accounts import flush_ledger
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference.packed_records import LEDGER, Book, Quarantine, Trade, append
from tests.spec.ring_support import MIB, drain, lose_power, new_ring

MINUTE = 60 * 10**9
START = 1_763_596_800 * 10**9

Key = tuple[bytes, int, int]  # symbol, minute, kind


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_ring(tmp_path, capacity=4 * MIB)


def ledger(reader: GatingReader) -> Counter[Key]:
    """The sum of the ledger records read."""
    counts: Counter[Key] = Counter()
    for seen in drain(reader):
        if seen.kind == LEDGER:
            body = seen.body
            key = (body[:24].rstrip(b"\0"), int.from_bytes(body[24:32], "little"), body[44])
            counts[key] += int.from_bytes(body[40:44], "little")
    reader.commit()
    return counts


@pytest.mark.requirement("E2E-OBS-01")
def test_the_counts_are_those_of_a_counter(path: Path) -> None:
    writer, reader, rng = RingWriter(path), GatingReader(path, "writer"), random.Random(1)
    expected: Counter[Key] = Counter()
    for _ in range(5000):
        symbol, recv_ns = b"%06d" % rng.randrange(3000), START + rng.randrange(5 * MINUTE)
        record = rng.choice([Trade, Book])(symbol=symbol, recv_ns=recv_ns)
        append(writer, record)
        expected[(symbol, recv_ns - recv_ns % MINUTE, record.kind)] += 1
    append(writer, Quarantine(frame=b"not counted"))
    writer.publish()
    drain(reader)
    reader.commit()

    assert len(expected) == flush_ledger(writer, START, force=True)
    assert expected == ledger(reader)
    assert flush_ledger(writer, START, force=True) == 0, "nothing new"


def test_a_minute_is_flushed_when_it_has_ended_and_not_before(path: Path) -> None:
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    append(writer, Trade(recv_ns=START + MINUTE - 1))
    assert flush_ledger(writer, START + MINUTE - 1) == 0

    append(writer, Trade(recv_ns=START + MINUTE))
    assert flush_ledger(writer, START + MINUTE) == 2
    assert ledger(reader) == {(b"005930", START, 1): 1, (b"005930", START + MINUTE, 1): 1}


def test_a_quarter_of_the_ring_is_flushed_within_the_minute(path: Path) -> None:
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    append(writer, Trade(recv_ns=START))
    flush_ledger(writer, START, force=True)
    for _ in range(MIB // 120 - 10):
        append(writer, Trade(recv_ns=START))
    assert flush_ledger(writer, START) == 0
    for _ in range(20):
        append(writer, Trade(recv_ns=START))
    assert flush_ledger(writer, START) == 1
    assert ledger(reader).total() == MIB // 120 + 11


@pytest.mark.requirement("CH-PROC-01", "E2E-OBS-01")
@pytest.mark.parametrize("deaths", [1, 2, 5])
def test_what_no_ledger_record_covers_is_counted_again_by_the_next_producer(path: Path, deaths: int) -> None:
    reader = GatingReader(path, "writer")
    for death in range(deaths):  # all within one block of the index
        writer = RingWriter(path)
        for number in range(3):
            append(writer, Trade(symbol=b"%d" % number, recv_ns=START))
        if death == 1:
            assert flush_ledger(writer, START, force=True) == 4
            append(writer, Trade(symbol=b"0", recv_ns=START))
        writer.publish()
        append(writer, Trade(symbol=b"unpublished", recv_ns=START))  # its successor takes it over
        del writer

    flush_ledger(RingWriter(path), START, force=True)

    extra = 1 if deaths > 1 else 0
    expected = {(b"0", START, 1): deaths + extra, (b"1", START, 1): deaths, (b"2", START, 1): deaths}
    assert {**expected, (b"unpublished", START, 1): deaths} == ledger(reader)


def test_a_power_loss_keeps_the_counts_of_what_is_left(path: Path) -> None:
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    append(writer, Trade(recv_ns=START))
    writer.publish()
    del writer
    lose_power(path)

    flush_ledger(RingWriter(path), START, force=True)

    assert ledger(reader) == {(b"005930", START, 1): 1}


def test_a_flush_without_room_is_tried_again_and_loses_nothing(tmp_path: Path) -> None:
    path = new_ring(tmp_path)
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    count = 0
    while writer.room_bytes >= 240:
        append(writer, Trade(symbol=b"%06d" % (count % 500), recv_ns=START))
        count += 1
    writer.publish()

    assert flush_ledger(writer, START + MINUTE) == 0
    drain(reader)
    reader.commit()
    assert flush_ledger(writer, START + MINUTE) == 500
    assert count == ledger(reader).total()
