from collections.abc import Callable

from picows import WSFrame, WSListener, WSTransport
from typing_extensions import disjoint_base

from native_pipeline.counters import CountersBlock
from native_pipeline.frame_parser import FrameParser
from native_pipeline.ring_writer import RingWriter

@disjoint_base
class FrameListener(WSListener):
    def __init__(
        self,
        ring: RingWriter,
        parser: FrameParser,
        counters: CountersBlock,
        on_control: Callable[[bytes], object],
        on_closed: Callable[[], object],
        *,
        max_message_bytes: int = ...,
        raw: RingWriter | None = None,
    ) -> None: ...
    @property
    def last_frame_ns(self) -> int: ...
    @property
    def last_data_ns(self) -> int: ...
    @property
    def frames(self) -> int: ...
    @property
    def paused(self) -> bool: ...
    @property
    def close_received(self) -> bool: ...
    @property
    def held_bytes(self) -> int: ...
    def on_ws_connected(self, transport: WSTransport) -> None: ...
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None: ...
    def on_ws_disconnected(self, transport: WSTransport) -> None: ...
    def try_resume(self) -> bool: ...
