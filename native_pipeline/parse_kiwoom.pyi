from typing import final

from native_pipeline.frame_parser import FrameParser

@final
class KiwoomParser(FrameParser):
    market: int
    def __init__(self, *, venue: int, market: int = 0, connection: int = 0) -> None: ...
