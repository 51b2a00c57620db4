from collections.abc import Sequence
from os import PathLike

GATING: int
LOSSY: int

def create_ring(
    path: str | PathLike[str],
    *,
    ring: int,
    capacity_bytes: int,
    consumers: Sequence[tuple[str, int]] = (("writer", 1), ("publisher", 2)),
) -> None: ...
