from collections.abc import Sequence
from typing import Self

from typing_extensions import disjoint_base

MINUTE_KEY: str

@disjoint_base
class MinuteCounts:
    def __new__(cls, *, markets: Sequence[str], kept_s: int) -> Self: ...
