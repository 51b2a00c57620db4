"""The format of a spill file: what was written comes back exactly, and whatever else is noticed."""

import hashlib
import struct
import uuid
from dataclasses import replace

import pytest
import zstandard

from daemon.sinks import segment
from daemon.sinks.segment import Header, Range, SegmentDamaged, SegmentError, SegmentVersion

BATCH = uuid.UUID(int=0x1234)
RANGES = (
    Range(0, 7, 100, 103, 3, 24, 1_000, 1_002),
    Range(3, 9, 2**60, 2**60 + 2, 2, 16, 900, 2**62),
)
RAW = bytes(range(40))


def make() -> bytes:
    return segment.encode(BATCH, RANGES, RAW, created_ns=5)[1]


def test_a_segment_gives_back_what_was_put_in() -> None:
    header, parts = segment.decode(make())

    assert (header.batch, header.created_ns, header.ranges, header.records) == (BATCH, 5, RANGES, 5)
    assert parts == [(RANGES[0], RAW[:24]), (RANGES[1], RAW[24:])]


def test_the_header_can_be_read_without_the_body() -> None:
    data = make()
    header = segment.decode_header(data[: segment.MAX_HEADER_BYTES])

    assert header.file_bytes == len(data)
    assert header == segment.decode(data)[0]


@pytest.mark.requirement("F42", "DLP-02")
def test_a_flipped_bit_at_any_place_is_noticed() -> None:
    data = make()
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises(SegmentError):
                segment.decode(bytes(flipped))


@pytest.mark.requirement("F42")
def test_a_segment_that_is_cut_or_has_something_behind_it_is_noticed() -> None:
    data = make()
    for size in range(len(data)):
        with pytest.raises(SegmentDamaged):
            segment.decode(data[:size])
    with pytest.raises(SegmentDamaged):
        segment.decode(data + b"\0")


def test_a_whole_segment_of_another_version_is_told_from_a_damaged_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "VERSION", 2)
    data = make()
    monkeypatch.undo()

    with pytest.raises(SegmentVersion, match="version 2"):
        segment.decode(data)


def test_ranges_that_do_not_add_up_to_the_records_are_refused() -> None:
    with pytest.raises(ValueError, match="does not add up"):
        segment.encode(BATCH, RANGES, RAW + b"\0", created_ns=5)
    with pytest.raises(ValueError, match="does not add up"):
        segment.encode(BATCH, (), b"", created_ns=5)


def sealed(header: Header, body: bytes, *, ranges: int | None = None) -> bytes:
    """A file whose checksums are right, whatever it says; *ranges*: how many it claims to have."""
    header = replace(header, body_bytes=len(body), body_digest=hashlib.sha256(body).digest())
    data = bytearray(segment._encode_header(header))
    if ranges is not None:
        at = segment.FIXED_BYTES - 8
        data[at : at + 4] = struct.pack("<I", ranges)
        data[16:48] = hashlib.sha256(bytes(data[:16]) + bytes(data[48:])).digest()
    return bytes(data) + body


@pytest.mark.requirement("F42", "DLP-02")
def test_a_segment_of_right_checksums_that_does_not_add_up_is_damaged() -> None:
    header, _ = segment.decode(make())
    body = zstandard.compress(RAW)
    longer = replace(header, raw_bytes=41, ranges=(RANGES[0], replace(RANGES[1], raw_bytes=17)))
    huge = replace(RANGES[0], raw_bytes=segment.MAX_RAW_BYTES + 1)
    assert segment.decode(sealed(header, body))[1][0] == (RANGES[0], RAW[:24])

    for data, what in [
        (sealed(replace(header, raw_bytes=41), body), "add up"),
        (sealed(replace(header, raw_bytes=huge.raw_bytes, ranges=(huge,)), body), "add up"),
        (sealed(header, body, ranges=1), "says 1 ranges"),
        (sealed(longer, body), "expected 41"),
        (sealed(header, b"no zstd"), "body: "),
    ]:
        with pytest.raises(SegmentDamaged, match=what):
            segment.decode(data)
