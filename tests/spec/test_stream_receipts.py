"""When each stream was heard last, told apart by exchange, also from the ring of another process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.errors import RingError
from native_pipeline.ring_creation import create_ring
from native_pipeline.ring_file import RingFile
from native_pipeline.ring_writer import RingWriter
from native_pipeline.stream_receipts import EXCHANGE_FLAGS, append_gap, newest_receipts, receipts_in
from tests.spec.ring_support import MIB

TRADE, BOOK = 1, 2
NXT = EXCHANGE_FLAGS["nxt"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_ring(tmp_path / "worker-0.ring", ring=0, capacity_bytes=MIB)
    return tmp_path / "worker-0.ring"


def gap(ring: RingWriter, symbol: str, exchange: str, ended_ns: int, kind: int = TRADE) -> None:
    append_gap(ring, (symbol, kind, exchange), ended_ns - 1, ended_ns, 1, venue=1, market=1)


def test_streams_of_one_symbol_on_several_exchanges_are_told_apart(path: Path) -> None:
    ring = RingWriter(path)
    gap(ring, "005930", "", 1_000)
    gap(ring, "005930", "nxt", 2_000)
    gap(ring, "005930", "sor", 3_000)
    gap(ring, "005930", "nxt", 4_000, kind=BOOK)
    gap(ring, "005930", "", 5_000)
    ring.publish()

    expected = {
        ("005930", TRADE, ""): (5_000, 5_000),
        ("005930", TRADE, "nxt"): (2_000, 2_000),
        ("005930", TRADE, "sor"): (3_000, 3_000),
        ("005930", BOOK, "nxt"): (4_000, 4_000),
    }
    assert receipts_in(ring) == expected
    ring.close()
    assert receipts_in(RingFile(path)) == expected


def test_an_empty_ring_has_none(path: Path) -> None:
    assert receipts_in(RingFile(path)) == {}
    with_writer = RingWriter(path)
    assert newest_receipts(with_writer) == {}
    with_writer.close()


def test_a_ring_that_has_gone_round_many_times_is_read_while_it_is_written(path: Path) -> None:
    """What is near to being overwritten is not looked at; what is read is whole."""
    code = (
        "import sys\n"
        "from native_pipeline.ring_writer import RingWriter\n"
        "from native_pipeline.stream_receipts import append_gap\n"
        "ring = RingWriter(sys.argv[1])\n"
        "print('on', flush=True)\n"
        "at = 0\n"
        "while True:\n"
        "    at += 1\n"
        "    append_gap(ring, (f'{at % 50:06d}', 1, ''), at, at + 1, 1, venue=1, market=1)\n"
        "    if at % 64 == 0: ring.publish()\n"
    )
    lossy = path.with_name("lossy.ring")
    create_ring(lossy, ring=1, capacity_bytes=MIB, consumers=(("publisher", 2),))
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(lossy)], stdout=subprocess.PIPE, env={**os.environ}, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "on\n"
        ring = RingFile(lossy)
        seen = 0
        while ring.head < 20 * ring.capacity_bytes:
            for (symbol, *_), (recv_ns, exchange_ns) in receipts_in(ring).items():
                seen += 1
                assert recv_ns == exchange_ns
                assert symbol == f"{(recv_ns - 1) % 50:06d}"
        assert seen > 0
        child.kill()
        child.wait()
        newest = sorted(recv_ns for recv_ns, _ in receipts_in(ring).values())
        assert len(newest) == 50
        assert newest[-1] - newest[0] == 49
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def test_a_full_ring_and_a_name_that_is_too_long_are_refused(path: Path) -> None:
    ring = RingWriter(path)

    with pytest.raises(ValueError, match="longer than"):
        gap(ring, "x" * 25, "", 1)
    with pytest.raises(RingError, match="full"):  # noqa: PT012 - how many there is room for is the ring's business
        while True:
            gap(ring, "005930", "", 1)
    ring.close()
