from typing import final

from native_pipeline.frame_parser import FrameParser

NAMES: dict[int, tuple[str, str]]

@final
class UpbitParser(FrameParser):
    def __init__(self, *, venue: int, market: int, connection: int = 0, snapshot_trades: bool = True) -> None: ...
    @property
    def market(self) -> int: ...
    @property
    def snapshot_trades(self) -> bool: ...
