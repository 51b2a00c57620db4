from typing import TypedDict

from native_pipeline.ring_file import RingFile

class _Walk(TypedDict):
    begin: int
    end: int
    records: int
    bytes: int
    first_seq: int
    last_seq: int
    first_recv_ns: int
    last_recv_ns: int
    missing: int
    damaged: list[tuple[int, int]]
    damaged_places: int
    damaged_bytes: int

def check_ring(ring: RingFile) -> _Walk: ...
