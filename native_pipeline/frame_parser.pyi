from typing_extensions import Buffer, disjoint_base

from native_pipeline.ring_writer import RingWriter

@disjoint_base
class FrameParser:
    connection: int
    records: int
    quarantined: int
    duplicates: int
    is_redundant: bool
    keeps_all: bool
    @property
    def venue(self) -> int: ...
    def parse(self, ring: RingWriter, frame: bytes, recv_ns: int, *, is_text: bool = True) -> int: ...
    def parse_view(self, ring: RingWriter, frame: Buffer, recv_ns: int, *, is_text: bool = True) -> int: ...
    def parse_many(self, ring: RingWriter, frames: list[bytes], recv_ns: int) -> int: ...
