"""When a dead process is started again, and when that makes no sense any more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.supervision.restarts import HOUR_NS, Backoff, RestartBudget

pytestmark = pytest.mark.requirement("CH-PROC-01")


def test_the_delay_doubles_up_to_its_maximum() -> None:
    backoff = Backoff(0.5, 3.0)

    assert [backoff.next_delay_s(was_healthy=False) for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_the_delay_is_short_again_once_the_process_was_healthy() -> None:
    backoff = Backoff(0.5, 3.0)
    for _ in range(4):
        backoff.next_delay_s(was_healthy=False)

    assert [backoff.next_delay_s(was_healthy=healthy) for healthy in (True, False, False)] == [0.5, 1.0, 2.0]


def test_the_delay_stays_at_its_maximum_for_ever() -> None:
    assert Backoff(0.1, 10.0, consecutive=10**9).next_delay_s(was_healthy=False) == 10.0


def test_the_budget_refuses_one_restart_more_than_its_limit_in_an_hour() -> None:
    budget = RestartBudget(2)

    assert [budget.try_spend(now_ns) for now_ns in (0, 1, HOUR_NS - 1)] == [True, True, False]


def test_a_restart_is_forgotten_after_an_hour() -> None:
    budget = RestartBudget(2)
    budget.try_spend(0)
    budget.try_spend(10)

    assert [budget.try_spend(now_ns) for now_ns in (HOUR_NS, HOUR_NS + 1, HOUR_NS + 10)] == [True, False, True]


@given(limit=st.integers(1, 5), gaps_s=st.lists(st.integers(0, 2000), max_size=60))
def test_no_window_of_an_hour_holds_more_restarts_than_the_limit(limit: int, gaps_s: list[int]) -> None:
    budget = RestartBudget(limit)
    now_ns, granted = 0, []
    for gap_s in gaps_s:
        now_ns += gap_s * 1_000_000_000
        if budget.try_spend(now_ns):
            granted.append(now_ns)

    for first in granted:
        assert len([at for at in granted if first <= at < first + HOUR_NS]) <= limit
