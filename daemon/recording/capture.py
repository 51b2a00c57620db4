"""The files of the raw capture: what a venue sent in one hour, a JSON object a line, compressed with zstd.

A file is a sequence of blocks. A block is a skippable zstd frame that says what follows, then one complete zstd frame
with whole lines; `zstdcat` and every other reader of zstd passes over the first. A block is written with one call, so
that whatever kills the recorder leaves whole blocks and perhaps a torn last one, which the next recorder cuts off and
every reader leaves out.
"""

import base64
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import msgspec
import zstandard

from daemon.errors import IngestError

DIRECTORY = "raw"  # in the data directory
SUFFIX = ".jsonl.zst"
NAME = re.compile(r"(?P<venue>[a-z0-9]+)_(?P<hour>\d{8}_\d{2})\.jsonl\.zst")
HOUR_FORMAT = "%Y%m%d_%H"  # UTC
HOUR_NS = 3600 * 10**9
# The fourth of the sixteen numbers that the zstd format leaves to applications (RFC 8878, 3.1.2).
SKIPPABLE = struct.Struct("<II")
MAGIC = 0x184D2A53
MAX_NOTE_BYTES = 1 << 16
MAX_BLOCK_BYTES = 1 << 30
READ_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20

Through = Mapping[int, tuple[int, int]]  # worker -> epoch and seq of its raw ring


class CaptureDamaged(IngestError):
    """Bytes that are no capture. The message names the file and the place."""


class CapturedFrame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line: a message as it was received."""

    recv_ns: int  # wall clock of the network read
    worker: int
    connection: int  # its number in the worker
    venue: str
    seq: int  # in the worker's raw ring: what is missing between two lines was dropped, or is in another venue's file
    binary: bool = False  # a binary WebSocket message
    redundant: bool = False  # another session of the worker brought the same streams
    base64: bool = False  # the message was not UTF-8
    frame: str

    def payload(self) -> bytes:
        """Return the message. Raises ValueError if it is not what `base64` says."""
        return base64.b64decode(self.frame, validate=True) if self.base64 else self.frame.encode()


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What the skippable frame in front of a block says, as JSON."""

    bytes: int  # of the zstd frame that follows
    crc32: int  # of its bytes
    frames: int  # lines in it
    through: dict[str, tuple[int, int]]  # worker -> epoch and seq of its newest line


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(CapturedFrame)
_note_decoder = msgspec.json.Decoder(Note)


def hour_of(wall_ns: int) -> int:
    """Return the start of the UTC hour of *wall_ns*, in ns."""
    return wall_ns - wall_ns % HOUR_NS


def file_name(venue: str, hour_ns: int) -> str:
    """Return the name of the file of *venue* for the hour that begins at *hour_ns*."""
    return f"{venue}_{datetime.fromtimestamp(hour_ns // 10**9, UTC).strftime(HOUR_FORMAT)}{SUFFIX}"


def parse_name(name: str) -> tuple[str, int] | None:
    """Return venue and start of the hour that *name* says, None if it is no capture file's."""
    found = NAME.fullmatch(name)
    if found is None:
        return None
    try:
        moment = datetime.strptime(found["hour"], HOUR_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None
    return found["venue"], int(moment.timestamp()) * 10**9


def encode_line(
    message: bytes,
    *,
    recv_ns: int,
    worker: int,
    connection: int,
    venue: str,
    seq: int,
    is_text: bool,
    is_redundant: bool,
) -> bytes:
    """Return the line of *message*, line break included."""
    try:
        text, is_base64 = message.decode(), False
    except UnicodeDecodeError:
        text, is_base64 = base64.b64encode(message).decode("ascii"), True
    line = CapturedFrame(
        recv_ns=recv_ns,
        worker=worker,
        connection=connection,
        venue=venue,
        seq=seq,
        binary=not is_text,
        redundant=is_redundant,
        base64=is_base64,
        frame=text,
    )
    return _encoder.encode(line) + b"\n"


def decode_line(line: bytes) -> CapturedFrame:
    """Return what *line* holds. Raises msgspec.DecodeError (a ValueError) if it is no line of a capture."""
    return _decoder.decode(line)


class CaptureFile:
    """A file that is being written. Making one opens nothing; the first append() does."""

    def __init__(self, path: Path, *, level: int) -> None:
        self.path = path
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        self._fd = -1
        self._size = 0

    def append(self, lines: bytes | bytearray, *, frames: int, through: Through) -> int:
        """Add a block of *frames* whole *lines*; return its size. Raises OSError: the file is then as it was before."""
        if self._fd < 0:
            self._open()
        packed = self._compressor.compress(lines)
        note = _encoder.encode(
            Note(
                bytes=len(packed),
                crc32=zlib.crc32(packed),
                frames=frames,
                through={str(worker): reached for worker, reached in through.items()},
            )
        )
        block = SKIPPABLE.pack(MAGIC, len(note)) + note + packed
        try:
            written = os.pwrite(self._fd, block, self._size)
            while written < len(block):  # a full disk takes a part and refuses the rest
                written += os.pwrite(self._fd, block[written:], self._size + written)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(block)
        return len(block)

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        """Open or create it, and cut a torn block off its end: nothing behind it could be read."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(os.dup(fd), "rb") as file:
                end = sum(size for _, size, _ in _walk(file))
            os.ftruncate(fd, end)
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._size = fd, end


def read_through(path: Path) -> dict[int, tuple[int, int]]:
    """Return the newest line of each worker in *path*, as epoch and seq; what is torn does not count."""
    newest: dict[int, tuple[int, int]] = {}
    with path.open("rb") as file:
        for note, _, is_whole in _walk(file):
            if is_whole:
                newest |= {int(worker): reached for worker, reached in note.through.items()}
    return newest


@dataclass(slots=True)
class Damage:
    """What of a file could not be read."""

    blocks: int = 0  # in its midst
    is_torn: bool = False  # its end is missing: the recorder was killed, or still writes


def read_lines(path: Path, damage: Damage) -> Iterator[bytes]:
    """Yield the lines of a capture file, without line breaks; what cannot be read is noted in *damage* and left out.

    Any zstd file with lines is read; one that is not the recorder's only as far as it is whole. Raises CaptureDamaged
    if it is no zstd file at all, OSError if it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        if len(head) == SKIPPABLE.size // 2 and int.from_bytes(head, "little") == MAGIC:
            yield from _lines_of_blocks(file, damage)
        else:
            yield from _lines_of_stream(path, file, damage)


def _lines_of_blocks(file: IO[bytes], damage: Damage) -> Iterator[bytes]:
    reader = zstandard.ZstdDecompressor()
    at, size = 0, os.fstat(file.fileno()).st_size
    for note, length, is_whole in _walk(file, check=True):
        at += length
        if not is_whole:
            damage.blocks += 1
            continue
        file.seek(at - note.bytes)
        with reader.stream_reader(file.read(note.bytes)) as stream:
            lines = stream.read()
        yield from lines.split(b"\n")[:-1]
    damage.is_torn = at < size


def _lines_of_stream(path: Path, file: IO[bytes], damage: Damage) -> Iterator[bytes]:
    rest = b""
    try:
        for chunk in _decompressed(file, damage):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                raise CaptureDamaged(f"{path}: has a line of more than {MAX_LINE_BYTES} bytes")
            yield from lines
    except zstandard.ZstdError as exc:
        raise CaptureDamaged(f"{path}: is no zstd file, or damaged: {exc}") from exc
    damage.is_torn = damage.is_torn or bool(rest)


def _decompressed(file: IO[bytes], damage: Damage) -> Iterator[bytes]:
    """Yield the contents of every frame of *file*; one that is not complete is torn."""
    frame = None
    while data := file.read(READ_BYTES):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data = frame.unused_data
            if frame.eof:
                frame = None
    damage.is_torn = frame is not None


def _walk(file: IO[bytes], *, check: bool = False) -> Iterator[tuple[Note, int, bool]]:
    """Yield each complete block: what it says, its whole size, and (if asked to *check*) whether its bytes are right.

    The last block is always checked, because that is the one which may be torn: a wrong one counts as missing.
    """
    size = os.fstat(file.fileno()).st_size
    at = 0
    while True:
        note, length = _read_note(file, at)
        if note is None or at + length > size:
            return
        is_whole = True
        if check or at + length == size:
            file.seek(at + length - note.bytes)
            is_whole = zlib.crc32(file.read(note.bytes)) == note.crc32
            if not is_whole and at + length == size:
                return
        at += length
        yield note, length, is_whole


def _read_note(file: IO[bytes], at: int) -> tuple[Note | None, int]:
    """Return what the block at *at* says, and its whole size; None: no block begins there."""
    file.seek(at)
    head = file.read(SKIPPABLE.size)
    if len(head) < SKIPPABLE.size:
        return None, 0
    magic, length = SKIPPABLE.unpack(head)
    if magic != MAGIC or length > MAX_NOTE_BYTES:
        return None, 0
    try:
        note = _note_decoder.decode(file.read(length))
    except ValueError:
        return None, 0
    if not 0 < note.bytes <= MAX_BLOCK_BYTES:
        return None, 0
    return note, SKIPPABLE.size + length + note.bytes
