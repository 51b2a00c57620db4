"""What it means that a venue refuses a single registration without saying why: is the session full, or the symbol bad?

Pure. Only others can tell. Where another one is taken afterwards, the session was not full: the refused one is bad.
Where several in a row are refused one by one, the session is full. Where nothing else is left to ask, nobody can tell:
this session gives it up, another may try, and nothing is learned from it.
"""

from __future__ import annotations

from enum import Enum

from daemon.ingest.venues.venue import Registration

# So many different registrations refused in a row, each alone and none taken in between, are not all bad symbols.
FULL_AFTER = 3


class Verdict(Enum):
    """What to do about the refused registration."""

    ASK_LATER = "ask later"  # others first
    BAD = "bad"
    UNDECIDED = "undecided"
    FULL = "full"


class Unexplained:
    """Refusals without a reason, of one session."""

    def __init__(self) -> None:
        self._taken = 0  # answers that confirmed something
        self._refused: dict[Registration, int] = {}  # -> what had been taken when it was refused first

    def clear(self) -> None:
        """The session is over."""
        self._refused.clear()

    def on_taken(self) -> None:
        """The venue has confirmed something."""
        self._taken += 1

    def forget(self, registration: Registration) -> None:
        """*registration* was confirmed, or is not wanted any more."""
        self._refused.pop(registration, None)

    def judge(self, registration: Registration, others_waiting: int) -> Verdict:
        """Take a refusal of *registration* alone. others_waiting: registrations that have not been refused yet."""
        if self._refused.setdefault(registration, self._taken) < self._taken:
            return Verdict.BAD
        in_a_row = sum(taken == self._taken for taken in self._refused.values())
        if in_a_row >= FULL_AFTER:
            return Verdict.FULL
        return Verdict.ASK_LATER if others_waiting > 0 else Verdict.UNDECIDED

    def __contains__(self, registration: Registration) -> bool:
        """Return whether *registration* was refused, and nothing has come of it yet."""
        return registration in self._refused
