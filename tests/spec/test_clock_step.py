"""A jump of the wall clock is seen by comparing it with the monotonic one."""

from __future__ import annotations

import pytest

from daemon.ingest.clock_step import ClockStep

SECOND = 10**9
START = 1_795_143_600 * SECOND


@pytest.mark.requirement("F58")
@pytest.mark.parametrize("step_s", [3600.0, -3600.0, 2.0, -2.0])
def test_a_jump_is_told_once_with_its_size(step_s: float) -> None:
    clock = ClockStep()
    assert clock.look(100.0, START) == 0.0, "nothing to compare with"
    assert clock.look(100.5, START + SECOND // 2) == 0.0

    assert clock.look(101.0, START + SECOND + int(step_s * SECOND)) == pytest.approx(step_s)
    assert clock.look(101.5, START + SECOND * 3 // 2 + int(step_s * SECOND)) == 0.0


@pytest.mark.requirement("F58")
def test_a_clock_that_is_slewed_or_a_process_that_was_stopped_is_no_jump() -> None:
    clock = ClockStep()
    assert [clock.look(at, START + int(at * SECOND * 1.0005)) for at in (1.0, 1.5, 2.0, 1000.0)] == [0.0] * 4
