"""Notices that the wall clock has jumped: a step of NTP, an operator, a virtual machine that was asleep.

Deadlines go by the monotonic clock and are not touched. Receive times are wall clock: the first record behind a jump
carries `SISE_FLAG_CLOCK_STEP` (64), so that whoever orders or measures by receive time knows where it is broken.
"""

CLOCK_STEP_FLAG = 64  # SISE_FLAG_CLOCK_STEP of native_pipeline/layout.h
# Looks are half a second apart; slewing by NTP is 500 us a second at most.
SMALLEST_STEP_NS = 1_500_000_000


class ClockStep:
    """Compares two clocks from one look to the next; pure."""

    def __init__(self) -> None:
        self._difference_ns: int | None = None

    def look(self, mono_s: float, wall_ns: int) -> float:
        """Return by how many seconds the wall clock has jumped since the last look, 0.0 if it has not."""
        difference_ns = wall_ns - round(mono_s * 1e9)
        step_ns = 0 if self._difference_ns is None else difference_ns - self._difference_ns
        self._difference_ns = difference_ns
        return step_ns / 1e9 if abs(step_ns) >= SMALLEST_STEP_NS else 0.0
