"""The native Kiwoom parser as tests use it: message in, dicts out, through a real ring; compared digit by digit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from native_pipeline.parse_kiwoom import KiwoomParser
from native_pipeline.records import read_records
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference import kiwoom as twin
from tests.reference.kis import Record
from tests.reference.native_kis import NOON, exact

FRAMES = Path(__file__).parents[1] / "frames" / "kiwoom"
MANIFEST: list[dict[str, Any]] = json.loads((FRAMES / "manifest.json").read_text(encoding="utf-8"))

VENUE, MARKET, CONNECTION = 2, 1, 7


def sample(name: str) -> bytes:
    return (FRAMES / name).read_bytes()


def named(*classes: str) -> list[Any]:
    return [pytest.param(entry, id=entry["file"]) for entry in MANIFEST if entry["cls"] in classes]


class Native:
    """A ring with one parser in front and one gating reader behind."""

    def __init__(self, path: Path, capacity_bytes: int = 8 << 20) -> None:
        create_ring(path, ring=0, capacity_bytes=capacity_bytes, consumers=(("test", GATING),))
        self.ring = RingWriter(path)
        self.reader = GatingReader(path, "test")
        self.parser = self.new_parser()

    @staticmethod
    def new_parser() -> KiwoomParser:
        """A parser that also keeps what has arrived before."""
        parser = KiwoomParser(venue=VENUE, connection=CONNECTION)
        parser.keeps_all = True
        return parser

    def read(self) -> list[Record]:
        records = read_records(self.reader, 100_000)
        self.reader.commit()
        for record in records:
            del record["seq"]
        return records

    def parse(self, frame: bytes, recv_ns: int = NOON, *, is_text: bool = True) -> list[Record] | None:
        result = self.parser.parse(self.ring, frame, recv_ns, is_text=is_text)
        records = self.read()
        if result < 0:
            assert (result, records) == (-1, [])
            return None
        assert result == len(records)
        return records


def reference(frame: bytes, recv_ns: int = NOON, *, is_text: bool = True) -> list[Record] | None:
    return twin.parse_frame(frame, recv_ns, is_text=is_text, venue=VENUE, market=MARKET, connection=CONNECTION)


def assert_same(native: Native, frame: bytes, recv_ns: int = NOON, *, is_text: bool = True) -> None:
    assert exact(reference(frame, recv_ns, is_text=is_text)) == exact(native.parse(frame, recv_ns, is_text=is_text))
