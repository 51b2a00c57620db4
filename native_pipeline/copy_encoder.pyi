from collections.abc import Mapping, Sequence
from typing import Self, final

from typing_extensions import disjoint_base

from native_pipeline.counters import CountersBlock
from native_pipeline.record_block import RecordBlock
from native_pipeline.ring_reader import RingReader

COLUMNS: Mapping[str, tuple[str, ...]]
TABLE_OF_KIND: Mapping[int, str]

@final
class CopyBlock: ...

@disjoint_base
class CopyBatch:
    def __new__(
        cls,
        *,
        venues: Sequence[str],
        markets: Sequence[str],
        quarantine_reasons: Sequence[str],
        gap_reasons: Sequence[str],
    ) -> Self: ...
    @property
    def records(self) -> int: ...
    @property
    def rows(self) -> dict[str, int]: ...
    @property
    def bytes(self) -> int: ...
    @property
    def min_recv_ns(self) -> int: ...
    @property
    def max_recv_ns(self) -> int: ...
    def append_from(self, reader: RingReader, max_records: int) -> int: ...
    def append_block(self, block: RecordBlock, begin: int = 0, end: int | None = None) -> int: ...
    def block(self, table: str) -> memoryview: ...
    def observe_ages(self, counters: CountersBlock, histogram: int, now_ns: int) -> None: ...
    def clear(self) -> None: ...
