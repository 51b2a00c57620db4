"""What a publisher is about to do, for the one that follows it: so that its counters are exact over a kill.

Before a batch is sent it says what the counters will be if Redis takes it; before a ring's position moves over records
that were given up, what these were. Redis' cursor tells the successor whether the batch has happened, and what is
given up and not told yet it takes over with its counts.

A file of two slots in shared memory, written in turn: a process that is killed while it writes leaves the other one.
Nothing is synced: a power loss takes the counters themselves too.
"""

import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec

FILE = Path("run", "publisher.journal")  # in the data directory
SLOT_BYTES = 1 << 16  # 64 rings with every channel take less
HEADER = struct.Struct("<QII")  # number of the state, bytes, crc32 of both and of them


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Records of one ring: (after, through], by channel."""

    epoch: int
    after: int
    through: int
    records: int  # -1: not known
    messages: dict[str, int] | None  # by channel; None: not known

    def then(self, later: "Span") -> "Span":
        """Return both as one; what is unknown of one is unknown of both."""
        messages: dict[str, int] | None = None
        if self.messages is not None and later.messages is not None:
            messages = dict(self.messages)
            for channel, count in later.messages.items():
                messages[channel] = messages.get(channel, 0) + count
        records = -1 if self.records < 0 or later.records < 0 else self.records + later.records
        return Span(self.epoch, min(self.after, later.after), max(self.through, later.through), records, messages)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Counters are values, not increments: setting one twice counts once."""

    batch: dict[int, Span] = {}  # by ring: sent, perhaps in vain
    told: dict[int, Span] = {}  # given up before, and told in that batch
    given_up: dict[int, Span] = {}  # and not told yet
    before: dict[str, int] = {}  # counters when this was written
    always: dict[str, int] = {}  # what they are by now
    then: dict[str, int] = {}  # what they are if the batch has happened


class Journal:
    """Belongs to the one publisher of a data directory; the file is there until somebody removes it."""

    def __init__(self, path: Path) -> None:
        """Open *path*, or make it. Raises OSError."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, 2 * SLOT_BYTES)  # a full disk is an error here, not a signal later
            self._map = mmap.mmap(fd, 2 * SLOT_BYTES)
        finally:
            os.close(fd)
        self._number, self.state = max(self._read(0), self._read(1), key=lambda found: found[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def write(self, state: State) -> None:
        """Remember *state* in place of the last one."""
        text = msgspec.msgpack.encode(state)
        if len(text) > SLOT_BYTES - HEADER.size:
            text = msgspec.msgpack.encode(State())  # cannot be: rather nothing than the state before
        self._number += 1
        self.state = state
        at = self._number % 2 * SLOT_BYTES
        self._map[at + HEADER.size : at + HEADER.size + len(text)] = text
        self._map[at : at + HEADER.size] = HEADER.pack(self._number, len(text), _checksum(self._number, text))

    def _read(self, slot: int) -> tuple[int, State]:
        at = slot * SLOT_BYTES
        number, size, checksum = HEADER.unpack_from(self._map, at)
        text = self._map[at + HEADER.size : at + HEADER.size + min(size, SLOT_BYTES - HEADER.size)]
        if number == 0 or checksum != _checksum(number, text):
            return 0, State()
        try:
            return number, msgspec.msgpack.decode(text, type=State)
        except msgspec.MsgspecError:  # of another version
            return number, State()


def _checksum(number: int, text: bytes) -> int:
    return zlib.crc32(text, number & 0xFFFFFFFF)


def lost_with(state: State, ring: int, epoch: int, cursor: int | None) -> tuple[Span | None, int]:
    """Return what the successor has to tell of *ring*, and how many messages of the batch are lost with it.

    cursor: of Redis for that epoch; None: it knows none.
    """
    published = -1 if cursor is None else cursor
    batch, told, given_up = (
        span if span is not None and span.epoch == epoch else None
        for span in (state.batch.get(ring), state.told.get(ring), state.given_up.get(ring))
    )
    if batch is not None and batch.through <= published:
        batch = told = None
    if told is not None and told.through <= published:
        told = None
    if given_up is None or given_up.through <= published:
        return told, 0  # the batch is read again
    span = given_up
    lost = 0
    # The ring's position has passed the batch as well.
    if batch is not None and batch.through <= given_up.after:
        span = batch.then(span)
        lost = sum((batch.messages or {}).values())
    if told is not None:
        span = told.then(span)
    return span, lost


def has_happened(state: State, cursors: Mapping[int, tuple[int, int]]) -> bool:
    """Whether Redis has taken the batch; *cursors*: epoch and seq by ring. All of it happens or nothing."""
    return bool(state.batch) and all(
        ring in cursors and cursors[ring][0] == span.epoch and cursors[ring][1] >= span.through
        for ring, span in state.batch.items()
    )
