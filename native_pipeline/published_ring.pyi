from typing import Self

from typing_extensions import disjoint_base

LOSS_NAMES: tuple[str, ...]

@disjoint_base
class PublishedRing:
    def __new__(cls, ring: int, epoch: int, losses_seen: int) -> Self: ...
    @property
    def ring(self) -> int: ...
    @property
    def epoch(self) -> int: ...
