"""How the grace period is shared among the stages of a stop."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.supervision.drain import START_S, stages

pytestmark = pytest.mark.requirement("GS-01")


def test_workers_sinks_and_monitor_follow_each_other_and_leave_a_margin() -> None:
    workers, sinks, monitor = stages([2, 2, 1, 1, 3], grace_s=20.0)

    assert [workers.order, sinks.order, monitor.order] == [1, 2, 3]
    assert [stage.begins_at_latest_s for stage in (workers, sinks, monitor)] == pytest.approx([0.0, 4.0, 14.0])
    assert [stage.ends_at_latest_s for stage in (workers, sinks, monitor)] == pytest.approx([4.0, 14.0, 18.0])


def test_the_sinks_have_half_of_the_grace_period_in_any_case() -> None:
    assert stages([1, 2, 3], grace_s=20.0)[1].guaranteed_s == pytest.approx(10.0)


def test_no_process_needs_no_stage() -> None:
    assert stages([], grace_s=20.0) == ()


@given(orders=st.lists(st.integers(0, 9), min_size=1), grace_s=st.floats(0.1, 600.0))
def test_every_stop_ends_within_the_grace_period_and_every_stage_has_time(orders: list[int], grace_s: float) -> None:
    found = stages(orders, grace_s)

    assert [stage.order for stage in found] == sorted(set(orders))
    assert all(stage.guaranteed_s > 0 for stage in found)
    assert found[-1].ends_at_latest_s < grace_s
    assert all(a.ends_at_latest_s == b.begins_at_latest_s for a, b in itertools.pairwise(found))


def test_who_is_started_during_a_stop_has_what_is_left_of_its_stage_less_the_start() -> None:
    _, sinks, _ = stages([1, 2, 3], 20.0)  # 4 s, 10 s, 4 s

    assert sinks.drain_s(None) == pytest.approx(10.0)
    assert sinks.drain_s(3.0) == pytest.approx(10.0)  # the workers were quick
    assert sinks.drain_s(6.5) == pytest.approx(14.0 - 6.5 - START_S)
    assert sinks.drain_s(13.9) == 0.0
