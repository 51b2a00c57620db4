from typing import final

from typing_extensions import Buffer

from native_pipeline.frame_parser import FrameParser
from native_pipeline.ring import RingWriter

NAMES: dict[int, tuple[str, str]]

@final
class UpbitParser(FrameParser):
    def __init__(self, *, venue: int, market: int, connection: int = 0, snapshot_trades: bool = True) -> None: ...
    @property
    def market(self) -> int: ...
    @property
    def snapshot_trades(self) -> bool: ...
    def parse_view(self, ring: RingWriter, frame: Buffer, recv_ns: int, *, is_text: bool = True) -> int: ...
    def parse_many(self, ring: RingWriter, frames: list[bytes], recv_ns: int) -> int: ...
