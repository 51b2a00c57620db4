from native_pipeline.ring_reader import RingReader

def read_raw_frames(
    reader: RingReader, max_bytes: int
) -> list[tuple[int, bool, int, int, int, bool, bool, bytes]]: ...
