"""Decide whether and when a dead process is started again: pure, times are passed in.

A process that fails on its own is restarted after a delay that doubles, and each such restart spends from one budget
for the whole daemon: that is the crash loop, and it must end. A process that somebody else killed (SIGKILL of an
operator or of the kernel's OOM killer) proves nothing about the program: it is restarted too, but outside the budget.
"""

from collections import deque
from dataclasses import dataclass

HOUR_NS = 3_600_000_000_000
MAX_DOUBLINGS = 60  # beyond, a float would overflow one day


class RestartBudget:
    """At most *limit* restarts in any 60 minutes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._spent: deque[int] = deque()

    def try_spend(self, now_ns: int) -> bool:
        """Take one restart from the budget; False if it is used up."""
        while self._spent and now_ns - self._spent[0] >= HOUR_NS:
            self._spent.popleft()
        if len(self._spent) >= self.limit:
            return False
        self._spent.append(now_ns)
        return True


@dataclass(slots=True)
class Backoff:
    """The delay before the next start of one process: doubled at each death, and first_s again once it was healthy."""

    first_s: float
    max_s: float
    consecutive: int = 0

    def next_delay_s(self, *, was_healthy: bool) -> float:
        """Return the delay after one more death; *was_healthy*: it had been doing its work."""
        self.consecutive = 0 if was_healthy else self.consecutive
        delay_s = min(self.first_s * 2.0 ** min(self.consecutive, MAX_DOUBLINGS), self.max_s)
        self.consecutive += 1
        return delay_s
