from collections.abc import Iterable
from typing import Any, final

from typing_extensions import Buffer

from native_pipeline.frame_parser import FrameParser

@final
class KisParser(FrameParser):
    market: int
    hands_over_encrypted: bool
    def __init__(
        self,
        *,
        venue: int,
        market: int = 0,
        connection: int = 0,
        hands_over_encrypted: bool = False,
        layouts: Iterable[str] = (),
    ) -> None: ...

def native_layouts() -> dict[str, dict[str, Any]]: ...  # Any: str, int or list of int, as in kis_layouts.toml
def probe_decimal(frame: bytes, begin: int, end: int) -> tuple[int, int] | None: ...
def probe_hhmmss(frame: bytes, begin: int, end: int) -> int | None: ...
def probe_yyyymmdd(frame: bytes, begin: int, end: int) -> int | None: ...
def probe_symbol(field: bytes) -> bytes | None: ...
def probe_separators(text: Buffer, separator: int) -> list[list[int]]: ...
def probe_integers(frame: bytes, begins: list[int], numbers: list[int]) -> list[list[int | None]]: ...
def probe_decimals(frame: bytes, begins: list[int], numbers: list[int]) -> list[list[tuple[int, int] | None]]: ...
