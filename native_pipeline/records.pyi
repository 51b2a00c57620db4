from typing import Any, Final, NamedTuple

from native_pipeline.ring_reader import RingReader

QUARANTINE_REASONS: Final[tuple[str, ...]]
BAD_CONTROL: Final[int]
TOO_LONG: Final[int]
GAP_REASONS: Final[tuple[str, ...]]
FLAG_NAMES: Final[dict[int, str]]
EVENT_NAMES: Final[dict[int, str]]
KIND_NAMES: Final[dict[int, str]]
SIDE_NAMES: Final[dict[int, str]]

class MarketData(NamedTuple):
    kind: int
    name: str
    table: str
    channel: str

MARKET_DATA: Final[tuple[MarketData, ...]]

def describe_record(record: bytes) -> dict[str, Any]: ...  # Any: as below
def flag_names(flags: int) -> list[str]: ...
def exchange_name(flags: int) -> str | None: ...
def read_records(reader: RingReader, max_records: int) -> list[dict[str, Any]]: ...  # Any: the fields differ by kind
