from typing import Final

from native_pipeline.ring_file import RingFile
from native_pipeline.ring_writer import RingWriter

EXCHANGES: Final[dict[int, str]]
EXCHANGE_FLAGS: Final[dict[str, int]]

def newest_receipts(ring: RingWriter) -> dict[tuple[str, int, str], tuple[int, int]]: ...
def receipts_in(ring: RingFile) -> dict[tuple[str, int, str], tuple[int, int]]: ...
def append_gap(
    ring: RingWriter,
    stream: tuple[str, int, str],
    started_ns: int,
    ended_ns: int,
    reason: int,
    *,
    venue: int,
    market: int,
) -> None: ...
