"""In which order the processes stop, and how long each may take: pure.

Workers stop first, so that nothing new arrives; then writer and publisher, until the rings are empty; the monitor last,
so that the others can be watched. The grace period is shared out beforehand: a stage that is quicker leaves its rest to
the next, one that is not is killed at its deadline, and the whole always ends within the grace period.
"""

from collections.abc import Iterable
from dataclasses import dataclass

CONSUMER_SHARE = 0.5  # of the grace period for the stages between first and last: they have something to empty
START_S = 0.5  # what a process that is started during a stop takes until it hears of it
LEAST_S = 0.5  # to drain: with less it is not worth a start
MARGIN = 0.1  # of the grace period kept back for killing, reaping and the last log lines


@dataclass(frozen=True, slots=True)
class Stage:
    """The processes with one `drain_order`. Times count from the beginning of the stop."""

    order: int
    begins_at_latest_s: float
    ends_at_latest_s: float

    @property
    def guaranteed_s(self) -> float:
        """The time that a process of this stage has in any case before it is killed."""
        return self.ends_at_latest_s - self.begins_at_latest_s

    def drain_s(self, stopping_for_s: float | None) -> float:
        """Return how long one may drain that is started so long after the beginning of the stop; None: before it."""
        if stopping_for_s is None:
            return self.guaranteed_s
        return max(0.0, min(self.guaranteed_s, self.ends_at_latest_s - stopping_for_s - START_S))


def stages(orders: Iterable[int], grace_s: float) -> tuple[Stage, ...]:
    """Share *grace_s* among the distinct *orders*, smallest first.

    With three stages: 20 % workers, 50 % consumers, 20 % monitor, 10 % margin.
    """
    distinct = sorted(set(orders))
    available = 1.0 - MARGIN
    middle = len(distinct) - 2
    if middle > 0:
        outer = (available - CONSUMER_SHARE) / 2
        shares = [outer, *(CONSUMER_SHARE / middle for _ in range(middle)), outer]
    else:
        shares = [available / max(len(distinct), 1) for _ in distinct]
    result = []
    begins_s = 0.0
    for order, share in zip(distinct, shares, strict=True):
        result.append(Stage(order, begins_s, begins_s + share * grace_s))
        begins_s += share * grace_s
    return tuple(result)
