"""Find the rows that the server refuses, by storing ever smaller parts of what it refused. Pure: it asks, and divides.

A server refuses a COPY as a whole and names one row of it at most. Where it says which row that was, the row is cut
out at once; where it does not, or where there are many such rows, parts are halved: one bad row of n takes at most
2 * log2(n) more questions, rounded up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# So many rows are cut out at the place that the server names. After that parts are halved: if every row is bad, the
# server names the first one each time, and n rows would be sent n times.
CUTS = 8


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the server refused a part."""

    state: str  # SQLSTATE
    message: str
    row: int | None = None  # the row that it names, counted from the start of the part


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """One row that the server refuses even alone."""

    row: int
    refusal: Refusal


Attempt = Callable[[int, int], Refusal | None]


def store_parts(rows: int, attempt: Attempt, *, refused: Refusal | None = None) -> Sequence[RefusedRow]:
    """Store rows [0, *rows*) in parts, in their order, and return those that are refused.

    attempt(begin, end) stores the rows [begin, end) or changes nothing and says why. It is asked for each row in
    exactly one part that was stored, or alone. refused: how all of them together were refused, if that was tried.
    """
    found: list[RefusedRow] = []
    waiting: list[tuple[int, int, Refusal | None]] = [(0, rows, refused)] if rows else []
    cuts = CUTS
    while waiting:
        begin, end, why = waiting.pop()
        if why is None:
            why = attempt(begin, end)
        if why is None:
            continue
        if end - begin == 1:
            found.append(RefusedRow(begin, why))
        elif why.row is not None and 0 <= why.row < end - begin and cuts:
            cuts -= 1
            bad = begin + why.row
            waiting += [
                part for part in ((bad + 1, end, None), (bad, bad + 1, None), (begin, bad, None)) if _size(part)
            ]
        else:
            middle = (begin + end) // 2
            waiting += [(middle, end, None), (begin, middle, None)]
    return found


def _size(part: tuple[int, int, Refusal | None]) -> int:
    return part[1] - part[0]
