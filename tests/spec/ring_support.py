"""What the ring's specifications share: records as bytes, and rings of the smallest size."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from native_pipeline.ring_creation import GATING, LOSSY, create_ring
from native_pipeline.ring_reader import RingReader

MIB = 1 << 20
HEADER_BYTES = 8192
RECORD_HEADER = struct.Struct("<IIQqBBBBhH")
QUARANTINE = 3
RESUMED = 128

# Offsets in the file, from docs/formats.md.
MAGIC, VERSION, HEADER_SIZE, CAPACITY, CLEAN, BOOT_ID = 0, 8, 12, 16, 44, 48
HEAD, CLAIMED, SYNCED, CONSUMERS, INDEX = 128, 136, 192, 256, 4096


@dataclass(frozen=True)
class Seen:
    """One record as a reader saw it."""

    seq: int
    kind: int
    flags: int
    body: bytes


def parsed(record: bytes) -> Seen:
    """Take the bytes of a record apart."""
    length, _crc, seq, _recv, kind, flags, _venue, _market, _offset, _connection = RECORD_HEADER.unpack_from(record)
    assert length == len(record)
    return Seen(seq=seq, kind=kind, flags=flags, body=record[RECORD_HEADER.size :])


def padded(body: bytes) -> bytes:
    """The body as it is stored: NUL padded to a multiple of 8."""
    return body + bytes(-len(body) % 8)


def drain(reader: RingReader, *, max_bytes: int = 0) -> list[Seen]:
    """Read everything that is published; nothing is committed."""
    seen = []
    while reader.fetch_bytes(max_bytes):
        while (record := reader.next_bytes()) is not None:
            seen.append(parsed(record))
    return seen


def new_ring(directory: Path, *, capacity: int = MIB, name: str = "worker-0.ring") -> Path:
    """An empty ring with the two usual consumers."""
    path = directory / name
    create_ring(path, ring=0, capacity_bytes=capacity, consumers=(("writer", GATING), ("publisher", LOSSY)))
    return path


def patch(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of the file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int, mask: int = 0xFF) -> None:
    """Flip bits of one byte of the file."""
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([old ^ mask]))


def read_u64(path: Path, offset: int) -> int:
    """A number of the header."""
    with path.open("rb") as file:
        file.seek(offset)
        return int.from_bytes(file.read(8), "little")


def lose_power(path: Path) -> None:
    """Make the file look as if the machine had rebooted without an orderly close."""
    patch(path, CLEAN, (0).to_bytes(4, "little"))
    patch(path, BOOT_ID, bytes(16))
