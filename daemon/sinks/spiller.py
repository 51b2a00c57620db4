"""Takes records out of the rings and puts them into spill files, while the database cannot have them.

A ring's space may be given back only after the file is durable: `take()` reads, `SpillDirectory.append` writes, and
what was taken is committed by the caller, who then knows that the directory has it.
"""

import builtins
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from daemon.sinks.segment import Range
from native_pipeline.record_block import RecordBlock

Ring = tuple[int, int]  # number, epoch

TYPICAL_RECORD_BYTES = 200  # for the first step, before any record was seen
UNKNOWN_SEQ = 0  # of after_seq: nobody knows what the database has; its cursor decides
_SEQ_AND_RECEIPT = struct.Struct("<8xQQ")
_FLAGS_OFFSET = 25
_RESUMED = 128  # the sequence has jumped here: layout.h, SISE_FLAG_RESUMED


class Reader(Protocol):
    """What `native_pipeline.ring_reader.GatingReader` offers to the spiller."""

    @property
    def ring(self) -> int:
        """Number of the ring."""

    @property
    def epoch(self) -> int:
        """Epoch of the ring file."""

    @property
    def lag_bytes(self) -> int:
        """Published and not committed."""

    @property
    def corrupt_records(self) -> int:
        """Records skipped because they were damaged."""

    def seek_after(self, seq: int, /) -> int:
        """Go behind *seq*."""

    def rewind(self) -> None:
        """Go back to the committed position."""

    def fetch_bytes(self) -> int:
        """Make what follows available; return its size."""

    def next_bytes(self) -> bytes | None:
        """Return a copy of the next record."""


class Block(Protocol):
    """What `native_pipeline.record_block.RecordBlock` offers to the spiller."""

    @property
    def records(self) -> int:
        """Records in it."""

    @property
    def bytes(self) -> int:
        """Their size."""

    @property
    def parts(self) -> list[tuple[int, int, int, memoryview]]:
        """(ring, first record, records, bytes) of each run of one ring."""

    def append_from(self, reader: Any, through_seq: int, /) -> int:  # Any: the native block takes the native reader
        """Copy records through *through_seq*; return how many."""

    def record_bytes(self, i: int, /) -> "builtins.bytes":
        """Return a copy of record *i*."""

    def clear(self) -> None:
        """Forget every record."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Records copied out of the rings, not durable yet."""

    ranges: tuple[Range, ...]
    raw: bytes
    damaged: Mapping[Ring, int]  # records that were passed over, of the rings that had any

    @property
    def records(self) -> int:
        """How many they are."""
        return sum(one.records for one in self.ranges)

    @property
    def reached(self) -> dict[Ring, int]:
        """Seq of the last record of each ring."""
        return {(one.ring, one.epoch): one.through_seq for one in self.ranges}


class Spiller:
    """Copies records for one segment at a time."""

    def __init__(self, readers: Sequence[Reader], *, segment_bytes: int) -> None:
        self._readers = readers
        self._segment_bytes = segment_bytes
        self._block: Block = RecordBlock()

    def forget(self) -> None:
        """Free what the last segment was copied into."""
        self._block = RecordBlock()

    def is_full(self) -> bool:
        """Whether a whole segment waits in the rings."""
        return sum(reader.lag_bytes for reader in self._readers) >= self._segment_bytes

    def take_exactly(self, cursors: Mapping[Ring, int], reached: Mapping[Ring, int]) -> Taken:
        """Copy the records behind *cursors* through *reached*: a batch whose fate is unknown, and nothing else.

        If it was stored after all, that shows in the cursors of exactly these ranges.
        """
        self._block.clear()
        ranges = []
        for reader in self._readers:
            ring = (reader.ring, reader.epoch)
            if ring in reached:
                begin, before = self._block.records, self._block.bytes
                self._go_to_start(reader, cursors[ring])
                self._block.append_from(reader, reached[ring])
                ranges.append(self._range(ring, cursors[ring], begin, before, through_seq=reached[ring]))
        return Taken(tuple(ranges), self._raw(), {})

    def take(self, cursors: Mapping[Ring, int]) -> Taken:
        """Copy up to about segment_bytes behind *cursors*, of each ring in proportion to what waits there.

        A ring without a cursor is read from where it was committed: nobody could ask the database.
        """
        self._block.clear()
        lags = [reader.lag_bytes for reader in self._readers]
        ranges = []
        damaged: dict[Ring, int] = {}
        for reader, lag in zip(self._readers, lags, strict=True):
            if lag:
                ring = (reader.ring, reader.epoch)
                begin, before = self._block.records, self._block.bytes
                skipped = self._copy(reader, cursors.get(ring), self._segment_bytes * lag // sum(lags))
                if skipped:
                    damaged[ring] = skipped
                if self._block.records > begin:
                    ranges.append(self._range(ring, cursors.get(ring), begin, before))
        return Taken(tuple(ranges), self._raw(), damaged)

    def _go_to_start(self, reader: Reader, cursor: int | None) -> None:
        """Behind the cursor, where a failed attempt may have left the reader further on."""
        if cursor is None:
            reader.rewind()
        else:
            reader.seek_after(cursor)

    def _next_seq(self, reader: Reader, cursor: int | None) -> int | None:
        """Return the seq of the first record behind *cursor*, where the reader then is; None: there is none.

        It need not be the cursor's successor: a repaired ring goes on with a higher number.
        """
        self._go_to_start(reader, cursor)
        reader.fetch_bytes()
        record = reader.next_bytes()
        if record is None:
            return None
        seq, _ = _SEQ_AND_RECEIPT.unpack_from(record)
        self._go_to_start(reader, cursor)
        return int(seq)

    def _copy(self, reader: Reader, cursor: int | None, size_bytes: int) -> int:
        """Append about *size_bytes* of records behind *cursor*, in steps of as many as should fit.

        Returns how many damaged ones were passed over.
        """
        begin, before = self._block.records, self._block.bytes
        damaged = 0
        while (room := size_bytes - (self._block.bytes - before)) > 0 or self._block.records == begin:
            next_seq = self._next_seq(reader, cursor)
            if next_seq is None:
                break
            taken = self._block.records - begin
            mean = (self._block.bytes - before) / taken if taken else TYPICAL_RECORD_BYTES
            skipped = reader.corrupt_records
            if not self._block.append_from(reader, next_seq + max(0, int(room / mean))):
                break
            damaged += reader.corrupt_records - skipped
            cursor = self._seq_and_receipt(self._block.records - 1)[0]
        return damaged

    def _range(self, ring: Ring, cursor: int | None, begin: int, before: int, through_seq: int | None = None) -> Range:
        first_seq, first_recv_ns = self._seq_and_receipt(begin) if self._block.records > begin else (0, 0)
        last_seq, last_recv_ns = self._seq_and_receipt(self._block.records - 1) if first_seq else (0, 0)
        if cursor is None:
            has_jumped = self._block.record_bytes(begin)[_FLAGS_OFFSET] & _RESUMED
            cursor = UNKNOWN_SEQ if has_jumped else first_seq - 1
        return Range(
            ring=ring[0],
            epoch=ring[1],
            after_seq=cursor,
            through_seq=last_seq if through_seq is None else through_seq,
            records=self._block.records - begin,
            raw_bytes=self._block.bytes - before,
            first_recv_ns=first_recv_ns,
            last_recv_ns=last_recv_ns,
        )

    def _seq_and_receipt(self, i: int) -> tuple[int, int]:
        seq, recv_ns = _SEQ_AND_RECEIPT.unpack_from(self._block.record_bytes(i))
        return seq, recv_ns

    def _raw(self) -> bytes:
        return b"".join(raw for _, _, _, raw in self._block.parts)
