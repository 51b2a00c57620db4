"""What the publisher needs of its ring readers, its batch and its connection: small enough for a test to stand in."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from daemon.sinks.redis_link import Cursor
from native_pipeline.redis_replies import TransactionReplies


class Reader(Protocol):
    """What `native_pipeline.ring_reader.LossyReader` offers to the publisher."""

    @property
    def ring(self) -> int:
        """Number of the ring."""

    @property
    def epoch(self) -> int:
        """Epoch of the ring file."""

    @property
    def capacity_bytes(self) -> int:
        """Size of the ring."""

    @property
    def first_seq(self) -> int:
        """Number of the first record that the ring file ever had."""

    @property
    def lag_bytes(self) -> int:
        """Published in the ring and not committed."""

    @property
    def lapped_records(self) -> int:
        """Records that the ring lost before this consumer read them."""

    @property
    def corrupt_records(self) -> int:
        """Records skipped because their checksum was wrong."""

    def seek_after(self, seq: int, /) -> int:
        """Go behind *seq*; return how many of the following records are gone."""

    def commit(self) -> None:
        """Remember the position for a successor."""

    def prepare_sleep(self) -> bool:
        """Ask the producer for a wake-up; False if there is something to read."""

    def cancel_sleep(self) -> None:
        """Ask for no wake-up any more."""


class Batch(Protocol):
    """What `native_pipeline.redis_encoder.PublishBatch` offers to the publisher."""

    @property
    def messages(self) -> int:
        """Messages in the batch."""

    @property
    def records(self) -> int:
        """Records taken, those without a message included."""

    @property
    def commands(self) -> int:
        """Commands of the last payload."""

    @property
    def progress(self) -> Mapping[int, tuple[int, int, int]]:
        """For each ring: epoch, first and last seq."""

    @property
    def parts(self) -> Mapping[int, tuple[int, int, int, Mapping[str, int] | None]]:
        """For each ring: epoch, first and last seq, messages by channel (None: some records are missing)."""

    @property
    def gaps(self) -> Mapping[int, tuple[int, int, int, int, Mapping[str, int] | None]]:
        """For each ring with losses to be told: epoch, after, through, records or -1, messages by channel or None."""

    @property
    def entries(self) -> int:
        """Messages added to streams."""

    @property
    def gap_entries(self) -> int:
        """Gaps added to streams."""

    @property
    def unread(self) -> int:
        """Records that were overwritten before a reader could count them, ever."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """Messages given up, by channel, ever."""

    def append_from(self, reader: Any, max_records: int, /) -> int:  # Any: the native batch takes the native reader
        """Encode up to *max_records* of *reader*; return how many."""

    def skip_from(self, reader: Any, max_records: int, /) -> int:
        """Give up at most *max_records* of *reader*; return how many."""

    def resume(self, reader: Any, seq: int, last: Mapping[str, int], /, *, replaced_seq: int | None = None) -> None:
        """Take over what Redis says about a ring."""

    def restore_gap(
        self, reader: Any, after: int, through: int, records: int, missing: Mapping[str, int] | None, /
    ) -> None:
        """Tell what a predecessor has given up."""

    def tell_forgotten(self, reader: Any, seq: int, /) -> None:
        """Say that Redis has lost what lies between *seq* and the batch."""

    def keys_of(self, commands: Iterable[int], /) -> Sequence[str]:
        """Return the keys that commands of the last payload are about."""

    def payload(self) -> memoryview:
        """Return the transaction."""

    def observe_ages(self, counters: Any, histogram: int, now_ns: int, /) -> None:
        """Count how old each record was at *now_ns*."""

    def clear(self) -> None:
        """Forget everything."""


class Link(Protocol):
    """What `redis_link.RedisLink` offers to the publisher; all but close() raise RedisAway."""

    def connect(self, rings: Sequence[int], /) -> Mapping[int, Cursor]:
        """Connect and return the cursors."""

    def send(self, payload: memoryview, commands: int, /) -> TransactionReplies:
        """Send a transaction and return its replies."""

    def keep_owner(self) -> None:
        """Say that the server is still ours. Raises RedisAway."""

    def give_up_owner(self) -> None:
        """Let another have it. Raises RedisAway."""

    def close(self) -> None:
        """Disconnect."""
