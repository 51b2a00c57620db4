"""What the supervisor tells a child, again and again: a file in memory that both have open.

It has no name that anybody else could open, so settings with secrets can pass. A frame is generation, length and
checksum, then the content; the supervisor overwrites it as a whole and then rings (SIGHUP). A reader that meets a
half-written frame sees it by the checksum, and knows that a ring is still to come.
"""

import os
import struct
import zlib

HEADER = struct.Struct("<QII")  # generation, length of the content, crc32 of the content
CHUNK_BYTES = 1 << 20


def create() -> int:
    """Return a new file, closed on exec."""
    return os.memfd_create("assignment", os.MFD_CLOEXEC)


def write(fd: int, generation: int, content: bytes) -> None:
    """Replace what *fd* says. Raises OSError: a reader may find nothing valid until the next write."""
    frame = HEADER.pack(generation, len(content), zlib.crc32(content)) + content
    written = 0
    while written < len(frame):
        written += os.pwrite(fd, frame[written:], written)


def read(fd: int) -> tuple[int, bytes] | None:
    """Return generation and content; None if there is no whole frame. The position of *fd* stays."""
    frame = bytearray()
    while chunk := os.pread(fd, CHUNK_BYTES, len(frame)):
        frame += chunk
    if len(frame) < HEADER.size:
        return None
    generation, length, checksum = HEADER.unpack_from(frame)
    content = bytes(frame[HEADER.size : HEADER.size + length])
    if len(content) < length or zlib.crc32(content) != checksum:
        return None
    return generation, content
