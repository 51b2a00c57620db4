"""What a spill file looks like: raw ring records of one batch, compressed, with all that is needed to store them once.

Pure: bytes in, bytes out. A header says which records of which rings the file holds; the body is those records as they
lay in the ring, ring by ring, one zstd frame. Header and body each have a SHA-256, so whatever was flipped, cut or
added is noticed before any record is looked at. Layout: docs/formats.md, "Spill files".
"""

import hashlib
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import zstandard

from daemon.errors import IngestError

MAGIC = b"SISESPIL"
VERSION = 1
# Level 1: on one core it compresses a ring's records faster than a worker can produce them (profiling/bench_spill.py).
COMPRESSION_LEVEL = 1
MAX_RANGES = 1024
MAX_RAW_BYTES = 1 << 31

_PREFIX = struct.Struct("<8sII32s")  # magic, version, header_bytes, digest: the same in every version to come
_FIELDS = struct.Struct("<16sQQQ32sII")  # batch, created_ns, body_bytes, raw_bytes, body digest, ranges, reserved
_RANGE = struct.Struct("<IIQQQQQQ")  # ring, records, epoch, after_seq, through_seq, raw_bytes, first and last recv_ns
FIXED_BYTES = _PREFIX.size + _FIELDS.size
MAX_HEADER_BYTES = FIXED_BYTES + MAX_RANGES * _RANGE.size


class SegmentError(IngestError):
    """A spill file cannot be used."""


class SegmentDamaged(SegmentError):
    """Its bytes are not those that were written."""


class SegmentVersion(SegmentError):
    """It is whole, and written by another version of this program."""


@dataclass(frozen=True, slots=True)
class Range:
    """The records of one ring in a segment: those behind *after_seq*, through *through_seq*."""

    ring: int
    epoch: int
    after_seq: int
    through_seq: int
    records: int  # fewer than the seqs say where records were damaged in the ring
    raw_bytes: int
    first_recv_ns: int
    last_recv_ns: int


@dataclass(frozen=True, slots=True)
class Header:
    """All that is known about a segment without its body."""

    batch: uuid.UUID
    created_ns: int
    body_bytes: int
    raw_bytes: int
    body_digest: bytes
    ranges: tuple[Range, ...]

    @property
    def records(self) -> int:
        """Records of all rings together."""
        return sum(one.records for one in self.ranges)

    @property
    def received_ns(self) -> tuple[int, int]:
        """When its first and its last record were received; if it holds none that is whole, when it was made."""
        times = [at for one in self.ranges for at in (one.first_recv_ns, one.last_recv_ns) if at]
        return min(times, default=self.created_ns), max(times, default=self.created_ns)

    @property
    def header_bytes(self) -> int:
        """Where the body begins."""
        return FIXED_BYTES + len(self.ranges) * _RANGE.size

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return self.header_bytes + self.body_bytes


def encode(batch: uuid.UUID, ranges: Sequence[Range], raw: bytes, *, created_ns: int) -> tuple[Header, bytes]:
    """Return the header and the whole file of a segment whose records are *raw*, in the order of *ranges*."""
    if not 0 < len(ranges) <= MAX_RANGES or sum(one.raw_bytes for one in ranges) != len(raw):
        raise ValueError(f"a segment of {len(ranges)} ranges and {len(raw)} bytes does not add up")
    body = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL).compress(raw)
    header = Header(batch, created_ns, len(body), len(raw), hashlib.sha256(body).digest(), tuple(ranges))
    return header, _encode_header(header) + body


def _encode_header(header: Header) -> bytes:
    fields = _FIELDS.pack(
        header.batch.bytes,
        header.created_ns,
        header.body_bytes,
        header.raw_bytes,
        header.body_digest,
        len(header.ranges),
        0,
    )
    ranges = b"".join(
        _RANGE.pack(
            one.ring,
            one.records,
            one.epoch,
            one.after_seq,
            one.through_seq,
            one.raw_bytes,
            one.first_recv_ns,
            one.last_recv_ns,
        )
        for one in header.ranges
    )
    prefix = MAGIC + struct.pack("<II", VERSION, header.header_bytes)
    digest = hashlib.sha256(prefix + fields + ranges).digest()
    return prefix + digest + fields + ranges


def decode_header(data: bytes) -> Header:
    """Return the header at the beginning of *data*, of which MAX_HEADER_BYTES are always enough.

    Raises SegmentDamaged, or SegmentVersion for a whole header of another version.
    """
    if len(data) < FIXED_BYTES:
        raise SegmentDamaged(f"expected a header of at least {FIXED_BYTES} bytes, found {len(data)}")
    magic, version, header_bytes, digest = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise SegmentDamaged(f"expected magic {MAGIC!r}, found {magic!r}")
    if not FIXED_BYTES <= header_bytes <= len(data):
        raise SegmentDamaged(f"header says {header_bytes} bytes, found {len(data)}")
    prefix_bytes = _PREFIX.size - len(digest)
    if hashlib.sha256(data[:prefix_bytes] + data[_PREFIX.size : header_bytes]).digest() != digest:
        raise SegmentDamaged("checksum of the header is wrong")
    if version != VERSION:
        raise SegmentVersion(f"written as version {version}, this program reads version {VERSION}")
    return _decode_fields(data, header_bytes)


def _decode_fields(data: bytes, header_bytes: int) -> Header:
    batch, created_ns, body_bytes, raw_bytes, body_digest, count, _ = _FIELDS.unpack_from(data, _PREFIX.size)
    if header_bytes != FIXED_BYTES + count * _RANGE.size:
        raise SegmentDamaged(f"header of {header_bytes} bytes says {count} ranges")
    ranges = []
    for ring, records, epoch, *rest in _RANGE.iter_unpack(data[FIXED_BYTES:header_bytes]):
        ranges.append(Range(ring, epoch, rest[0], rest[1], records, *rest[2:]))
    header = Header(uuid.UUID(bytes=batch), created_ns, body_bytes, raw_bytes, body_digest, tuple(ranges))
    if sum(one.raw_bytes for one in ranges) != raw_bytes or raw_bytes > MAX_RAW_BYTES:
        raise SegmentDamaged(f"{raw_bytes} bytes of records do not add up")
    return header


def decode(data: bytes) -> tuple[Header, list[tuple[Range, bytes]]]:
    """Return the header of the whole file *data*, and the raw records of each of its ranges.

    Raises SegmentDamaged if one bit is not as it was written, SegmentVersion if this program is the wrong one.
    """
    header = decode_header(data)
    if len(data) != header.file_bytes:
        raise SegmentDamaged(f"expected {header.file_bytes} bytes, found {len(data)}")
    body = memoryview(data)[header.header_bytes :]
    if hashlib.sha256(body).digest() != header.body_digest:
        raise SegmentDamaged("checksum of the body is wrong")
    try:
        raw = zstandard.ZstdDecompressor().decompress(body, max_output_size=header.raw_bytes)
    except zstandard.ZstdError as exc:
        raise SegmentDamaged(f"body: {exc}") from exc
    if len(raw) != header.raw_bytes:
        raise SegmentDamaged(f"body has {len(raw)} bytes of records, expected {header.raw_bytes}")
    parts, offset = [], 0
    for one in header.ranges:
        parts.append((one, raw[offset : offset + one.raw_bytes]))
        offset += one.raw_bytes
    return header, parts
