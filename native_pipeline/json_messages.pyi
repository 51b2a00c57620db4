from collections.abc import Sequence
from typing import Self

from typing_extensions import disjoint_base

@disjoint_base
class JsonMessages:
    def __new__(cls, *, venues: Sequence[str], markets: Sequence[str]) -> Self: ...
