"""Refusals that nobody explains: one bad symbol is no limit, and a full session is full at its limit."""

from collections.abc import Callable

import pytest

from daemon.ingest.subscription_states import (
    Capped,
    Confirmed,
    Habits,
    Rejected,
    Send,
    State,
)
from daemon.ingest.subscriptions import CAPPED_FOR_S, Subscriptions
from daemon.ingest.venues.venue import Refusal, Registration
from tests.spec.subscription_support import A, B, ready, refused, state


def batched(*registrations: Registration) -> Subscriptions:
    subject = Subscriptions(
        registrations, interval_s=0.1, timeout_s=5.0, attempts=3, habits=Habits(max_batch=100)
    )  # fmt: skip
    subject.on_ready(0.0)
    return subject


def ask_all(subject: Subscriptions, accepts: Callable[[tuple[Registration, ...]], bool]) -> list[object]:
    """Let a venue that explains nothing answer until nothing more is asked; return what came of it but for requests."""
    found: list[object] = []
    now = 0.0
    for _ in range(500):
        now += 0.1
        sent = [action for action in subject.due(now) if isinstance(action, Send)]
        if not sent:
            return found
        (send,) = sent
        if accepts(send.registrations):
            found += subject.on_confirmed(None)
        else:
            found += subject.on_refused(refused(None, Refusal.UNEXPLAINED), now)
    raise AssertionError("it never ends")


@pytest.mark.requirement("F08")
@pytest.mark.parametrize("bad", [0, 1, 17, 98, 99])
def test_one_bad_symbol_that_is_refused_without_a_reason_is_no_limit(bad: int) -> None:
    wanted = [Registration("TRADES", f"{number:06d}") for number in range(100)]
    subject = batched(*wanted)

    found = ask_all(subject, lambda asked: wanted[bad] not in asked)

    assert [action.registration for action in found if isinstance(action, Rejected)] == [wanted[bad]]
    assert not any(isinstance(action, Capped) for action in found)
    assert subject.statistics().confirmed == 99


@pytest.mark.requirement("F08")
@pytest.mark.parametrize("limit", [1, 40, 64, 97])
def test_a_session_that_is_full_without_saying_so_is_full_at_its_limit(limit: int) -> None:
    wanted = [Registration("TRADES", f"{number:06d}") for number in range(100)]
    subject = batched(*wanted)

    found = ask_all(subject, lambda asked: subject.statistics().confirmed + len(asked) <= limit)

    assert [action for action in found if not isinstance(action, Confirmed)] == [Capped(limit, 100 - limit)]


@pytest.mark.requirement("F08", "SUB-RETRY-01")
@pytest.mark.parametrize("limit", [98, 99])
def test_the_last_ones_without_a_reason_teach_nothing_and_may_fit_elsewhere(limit: int) -> None:
    wanted = [Registration("TRADES", f"{number:06d}") for number in range(100)]
    subject = batched(*wanted)

    found = ask_all(subject, lambda asked: subject.statistics().confirmed + len(asked) <= limit)

    rejected = [action for action in found if isinstance(action, Rejected)]
    assert len(rejected) == 100 - limit
    assert all(action.may_fit_elsewhere for action in rejected)
    assert not subject.is_capped


@pytest.mark.requirement("F08")
def test_what_a_full_session_left_out_is_asked_for_again_after_a_day() -> None:
    subject = ready(A, B)
    subject.due(0.0)
    subject.on_refused(refused(A, Refusal.CAP_REACHED), 0.05)
    assert state(subject, B) is State.CAPPED

    assert subject.next_deadline() == pytest.approx(CAPPED_FOR_S + 0.05)
    assert subject.due(CAPPED_FOR_S) == []
    (asked,) = subject.due(CAPPED_FOR_S + 0.05)

    assert isinstance(asked, Send)
    assert not subject.is_capped
