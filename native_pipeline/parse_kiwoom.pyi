from typing import final

from typing_extensions import Buffer

from native_pipeline.frame_parser import FrameParser
from native_pipeline.ring import RingWriter

@final
class KiwoomParser(FrameParser):
    market: int
    def __init__(self, *, venue: int, market: int = 0, connection: int = 0) -> None: ...
    def parse_view(self, ring: RingWriter, frame: Buffer, recv_ns: int, *, is_text: bool = True) -> int: ...
    def parse_many(self, ring: RingWriter, frames: list[bytes], recv_ns: int) -> int: ...
