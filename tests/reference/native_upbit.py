"""The native Upbit parser as tests use it: frame in, dicts out, through a real ring; compared digit by digit."""

from __future__ import annotations

from pathlib import Path

from native_pipeline.parse_upbit import UpbitParser
from native_pipeline.records import read_records
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference import upbit as twin
from tests.reference.native_kis import exact

FRAMES = Path(__file__).parents[1] / "frames" / "upbit"
VENUE, MARKET, CONNECTION = 3, 3, 7
RECEIVED = 1_795_138_215_200_000_000


def sample(name: str) -> bytes:
    return (FRAMES / name).read_bytes()


def capture() -> list[bytes]:
    return sample("capture_2021-04-17_simple.jsonl").splitlines()


class Native:
    """A ring with one parser in front and one gating reader behind."""

    def __init__(self, path: Path, capacity_bytes: int = 8 << 20, *, snapshot_trades: bool = True) -> None:
        create_ring(path, ring=0, capacity_bytes=capacity_bytes, consumers=(("test", GATING),))
        self.ring = RingWriter(path)
        self.reader = GatingReader(path, "test")
        self.parser = self.new_parser(snapshot_trades=snapshot_trades)

    @staticmethod
    def new_parser(*, snapshot_trades: bool = True, keeps_all: bool = True) -> UpbitParser:
        """keeps_all: the tests parse the same frames again and again."""
        parser = UpbitParser(venue=VENUE, market=MARKET, connection=CONNECTION, snapshot_trades=snapshot_trades)
        parser.keeps_all = keeps_all
        return parser

    def read(self) -> list[twin.Record]:
        records = read_records(self.reader, 100_000)
        self.reader.commit()
        for record in records:
            del record["seq"]
        return records

    def parse(self, frame: bytes, *, is_text: bool = False) -> list[twin.Record] | None:
        result = self.parser.parse(self.ring, frame, RECEIVED, is_text=is_text)
        records = self.read()
        if result < 0:
            assert (result, records) == (-1, [])
            return None
        assert result == len(records)
        return records


def reference(frame: bytes, *, snapshot_trades: bool = True) -> list[twin.Record] | None:
    return twin.parse_frame(
        frame, RECEIVED, venue=VENUE, market=MARKET, connection=CONNECTION, snapshot_trades=snapshot_trades
    )


def assert_same(native: Native, frame: bytes, *, is_text: bool = False) -> None:
    expected = reference(frame, snapshot_trades=native.parser.snapshot_trades)
    assert exact(expected) == exact(native.parse(frame, is_text=is_text))
