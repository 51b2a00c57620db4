"""The budgets of connection attempts and requests: no window of time anywhere sees more than was allowed."""

import pytest

from daemon.ingest.connection import BackOff, Connection, Event
from daemon.ingest.governor import CONNECT_WINDOW_S, Budgets, Governor, share_of_address

BUDGETS = Budgets(connects_per_account=5, connects_per_address=8, requests_per_account=3)


def attempts_within(times: list[float], window_s: float) -> int:
    """The most attempts that any window of that length has seen."""
    return max(sum(start <= at < start + window_s for at in times) for start in times)


def connect(governor: Governor, account: str, now: float) -> float:
    """Connect as soon as allowed; return when that was."""
    now += governor.connect_wait_s(account, "venue", now)
    assert governor.connect_wait_s(account, "venue", now) == 0.0
    governor.on_connect(account, "venue", now)
    return now


@pytest.mark.requirement("F10")
def test_an_account_connects_freely_until_its_budget_is_spent_and_then_waits_for_the_oldest() -> None:
    governor = Governor(BUDGETS)
    for second in range(5):
        assert connect(governor, "a", float(second)) == second

    assert governor.connect_wait_s("a", "venue", 5.0) == CONNECT_WINDOW_S - 5.0
    assert governor.connect_wait_s("a", "venue", CONNECT_WINDOW_S) == 0.0


@pytest.mark.requirement("F10")
def test_the_accounts_of_one_address_share_its_budget() -> None:
    governor = Governor(BUDGETS)
    for account in "ab":
        for _ in range(4):
            connect(governor, account, 0.0)

    assert governor.connect_wait_s("c", "venue", 0.0) == CONNECT_WINDOW_S
    assert governor.connect_wait_s("c", "elsewhere", 0.0) == 0.0


@pytest.mark.requirement("F10")
def test_a_venue_that_accepts_and_kicks_for_ten_minutes_sees_no_more_attempts_than_the_budget() -> None:
    governor = Governor(BUDGETS)
    subject = Connection(
        backoff_first_s=0.1, backoff_max_s=1.0, slot_held_backoff_s=20.0, link_timeout_s=100.0, random=lambda: 0.5
    )
    subject.handle(Event.STARTED, 0.0)
    now, attempts = 0.0, []
    while now < 3 * CONNECT_WINDOW_S:
        subject.handle(Event.KEY_OBTAINED, now)
        now = connect(governor, "a", now)
        attempts.append(now)
        subject.handle(Event.OPENED, now)
        (action,) = subject.handle(Event.LOST, now + 0.05)
        assert isinstance(action, BackOff)
        now += action.delay_s
        subject.handle(Event.BACKED_OFF, now)

    assert attempts_within(attempts, CONNECT_WINDOW_S) <= BUDGETS.connects_per_account
    assert len(attempts) >= 15


@pytest.mark.requirement("F09")
def test_a_held_slot_is_asked_for_a_handful_of_times_in_ten_minutes() -> None:
    subject = Connection(
        backoff_first_s=1.0, backoff_max_s=60.0, slot_held_backoff_s=20.0, link_timeout_s=100.0, random=lambda: 0.0
    )
    subject.handle(Event.STARTED, 0.0)
    now, attempts = 0.0, []
    while now < 2 * CONNECT_WINDOW_S:
        for event in (Event.KEY_OBTAINED, Event.OPENED):
            subject.handle(event, now)
        attempts.append(now)
        _, action = subject.handle(Event.SLOT_HELD, now)
        assert isinstance(action, BackOff)
        now += action.delay_s
        subject.handle(Event.BACKED_OFF, now)

    assert attempts_within(attempts, CONNECT_WINDOW_S) <= 6


def test_requests_have_a_budget_only_where_one_is_set() -> None:
    limited, free = Governor(BUDGETS), Governor(Budgets(5, 8))
    for governor in (limited, free):
        for _ in range(3):
            governor.on_request("a", 10.0)

    assert limited.request_wait_s("a", 11.0) == 59.0
    assert limited.request_wait_s("b", 11.0) == 0.0
    assert free.request_wait_s("a", 11.0) == 0.0


def test_a_smaller_budget_applies_to_what_was_spent_already() -> None:
    governor = Governor(BUDGETS)
    for second in range(4):
        governor.on_connect("a", "venue", float(second))

    governor.set_budgets(Budgets(2, 8))

    assert governor.connect_wait_s("a", "venue", 10.0) == CONNECT_WINDOW_S + 2.0 - 10.0


@pytest.mark.requirement("F61")
def test_years_of_attempts_leave_no_more_than_a_window_full() -> None:
    governor = Governor(BUDGETS)
    for number in range(10_000):
        connect(governor, "a", number * 120.0)

    assert len(governor._accounts["a"]._spent) <= BUDGETS.connects_per_account
    assert len(governor._addresses["venue"]._spent) <= BUDGETS.connects_per_address


def test_accounts_that_are_gone_are_forgotten() -> None:
    governor = Governor(BUDGETS)
    for account in "ab":
        connect(governor, account, 0.0)

    governor.keep(["a"])

    assert list(governor._accounts) == ["a"]


def test_workers_divide_the_budget_of_an_address_and_each_session_may_connect_once() -> None:
    assert share_of_address(60, workers=2, sessions=10) == 30
    assert share_of_address(60, workers=2, sessions=50) == 50
    assert share_of_address(3, workers=8, sessions=0) == 1
