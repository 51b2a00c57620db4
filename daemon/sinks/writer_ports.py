"""What the writer needs of rings, batches and database: fakes stand in for them in tests of its loop."""

from collections.abc import Mapping
from datetime import date
from typing import Any, Protocol

from daemon.sinks.database import Batch, Claim, Isolated, Ring
from native_pipeline.record_block import RecordBlock


class Reader(Protocol):
    """What `native_pipeline.ring_reader.GatingReader` offers to the writer."""

    @property
    def ring(self) -> int:
        """Number of the ring."""

    @property
    def epoch(self) -> int:
        """Epoch of the ring file."""

    @property
    def first_seq(self) -> int:
        """Seq of the epoch's first record."""

    @property
    def last_seq(self) -> int:
        """Seq of the newest record that was read."""

    @property
    def lag_bytes(self) -> int:
        """Published and not committed."""

    @property
    def capacity_bytes(self) -> int:
        """Size of the ring."""

    @property
    def corrupt_records(self) -> int:
        """Records skipped because they were damaged."""

    def seek_after(self, seq: int, /) -> int:
        """Go behind *seq*; return how many of the following records are gone."""

    def rewind(self) -> None:
        """Go back to the committed position."""

    def fetch_bytes(self) -> int:
        """Make what follows available; return its size."""

    def next_bytes(self) -> bytes | None:
        """Return a copy of the next record."""

    def commit(self) -> None:
        """Give back the space of everything read."""

    def prepare_sleep(self) -> bool:
        """Ask the producer for a wake-up; False if there is something to read."""

    def cancel_sleep(self) -> None:
        """Ask for no wake-up any more."""

    def close(self) -> None:
        """Give the consumer's slot back."""


class RowBatch(Batch, Protocol):
    """What `native_pipeline.copy_encoder.CopyBatch` offers to the writer."""

    @property
    def records(self) -> int:
        """Records taken since clear()."""

    def append_from(self, reader: Any, max_records: int, /) -> int:  # Any: the native batch takes the native reader
        """Encode up to *max_records* of *reader*; return how many."""

    def observe_ages(self, counters: Any, histogram: int, now_ns: int, /) -> None:
        """Count how old each record was at *now_ns*."""

    def clear(self) -> None:
        """Forget all rows."""


class Store(Protocol):
    """What `database.Database` offers to the writer."""

    def start_cursors(self, first: Mapping[Ring, int], /) -> dict[Ring, int]:
        """Return the stored cursor of each ring, made if there was none."""

    def add_lapped_gaps(self, ring: Ring, /) -> None:
        """Note that what follows the ring's cursor is missing."""

    def store(self, batch: Batch, claim: Claim, /, *, lock_timeout: str = ...) -> None:
        """Store the rows and take the claim: move the cursors."""

    def store_isolated(self, block: RecordBlock, claim: Claim, /, *, puts_aside: bool = False) -> Isolated:
        """Store the rows that the server takes, the others in quarantine, and late ones if *puts_aside*."""

    def keep_owner(self) -> None:
        """Say that the database is still ours. Raises owner.OwnedByAnother."""

    def give_up_owner(self) -> None:
        """Let another have it."""

    def maintain(self, today: date, /) -> None:
        """Do the hourly upkeep."""

    def cancel(self) -> None:
        """End a running statement, from another thread."""

    def close(self) -> None:
        """Close the connection."""


def ring_of(reader: Reader) -> Ring:
    """Return which ring, and which file of that number, *reader* reads."""
    return reader.ring, reader.epoch
