"""The native KIS parser as tests use it: frame in, dicts out, through a real ring; compared digit by digit."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from native_pipeline.parse_kis import KisParser
from native_pipeline.records import read_records
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference import kis as twin

FRAMES = Path(__file__).parents[1] / "frames" / "kis"
MANIFEST: list[dict[str, Any]] = json.loads((FRAMES / "manifest.json").read_text(encoding="utf-8"))

VENUE, CONNECTION = 1, 7
KST = datetime.timezone(datetime.timedelta(hours=9))
NS_PER_S = 10**9


def kst_ns(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).replace(tzinfo=KST).timestamp()) * NS_PER_S


NOON = kst_ns("2026-11-20T12:00:00")


def sample(name: str) -> bytes:
    return (FRAMES / name).read_bytes()


def named(*classes: str) -> list[Any]:
    return [pytest.param(entry, id=entry["file"]) for entry in MANIFEST if entry["cls"] in classes]


class Native:
    """A ring with one parser in front and one gating reader behind."""

    def __init__(self, path: Path, capacity_bytes: int = 8 << 20, *, layouts: Sequence[str] = ()) -> None:
        create_ring(path, ring=0, capacity_bytes=capacity_bytes, consumers=(("test", GATING),))
        self.ring = RingWriter(path)
        self.reader = GatingReader(path, "test")
        self.layouts = layouts
        self.parser = KisParser(venue=VENUE, connection=CONNECTION, layouts=layouts)
        self.parser.keeps_all = True  # samples are parsed again and again

    def read(self) -> list[twin.Record]:
        records = read_records(self.reader, 100_000)
        self.reader.commit()
        for record in records:
            del record["seq"]
        return records

    def parse(self, frame: bytes, recv_ns: int = NOON, *, is_text: bool = True) -> list[twin.Record] | None:
        result = self.parser.parse(self.ring, frame, recv_ns, is_text=is_text)
        records = self.read()
        if result < 0:
            assert (result, records) == (-1, [])
            return None
        assert result == len(records)
        return records


def reference(
    frame: bytes, recv_ns: int = NOON, *, is_text: bool = True, layouts: Sequence[str] = ()
) -> list[twin.Record] | None:
    return twin.parse_frame(frame, recv_ns, is_text=is_text, venue=VENUE, connection=CONNECTION, alternatives=layouts)


def exact(value: Any) -> Any:
    """Replace each Decimal by (mantissa, exponent): 0.50 and 0.5 are equal, but not the same."""
    if isinstance(value, Decimal):
        sign, digits, exponent = value.as_tuple()
        mantissa = int("".join(map(str, digits)))
        return (-mantissa if sign else mantissa, exponent)
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [exact(item) for item in value]
    return value


def assert_same(native: Native, frame: bytes, recv_ns: int = NOON, *, is_text: bool = True) -> None:
    expected = reference(frame, recv_ns, is_text=is_text, layouts=native.layouts)
    assert exact(expected) == exact(native.parse(frame, recv_ns, is_text=is_text))


TRADE_FIELDS = sample("data/H0STCNT0_single.txt").decode().split("|")[3].split("^")
BOOK_FIELDS = sample("data/H0STASP0_single.txt").decode().split("|")[3].split("^")


# One record of each TR: of the first sample that has it.
FIELDS: dict[str, list[str]] = {}
for _entry in MANIFEST:
    if _entry["cls"] == "data":
        _payload = sample(_entry["file"]).decode("latin-1").split("|", 3)[3].split("^")
        FIELDS.setdefault(_entry["tr"], _payload[: _entry["width"]])


def frame_of(tr: str, fields: Sequence[str], **values: str) -> bytes:
    """Return a frame of one record: *fields* with *values*, by role, put in."""
    changed = list(fields)
    for role, value in values.items():
        changed[twin.LAYOUTS[tr][role]] = value
    return f"0|{tr}|001|{'^'.join(changed)}".encode("latin-1")
