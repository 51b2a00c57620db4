"""What is wanted changes, and what is registered is doubted: only what changed is asked for or given up."""

import pytest

from daemon.ingest.subscription_states import (
    Capped,
    Confirmed,
    Habits,
    Release,
    Released,
    Send,
    State,
)
from daemon.ingest.subscriptions import RETRY_DELAY_S, Subscriptions
from daemon.ingest.venues.venue import Refusal
from tests.spec.subscription_support import A, B, C, confirmed, ready, refused, state, subscriptions


@pytest.mark.requirement("F63")
def test_a_changed_set_touches_only_what_changed() -> None:
    subject = confirmed(A, B)

    subject.set_desired([B, C], 10.0)

    assert subject.due(10.0) == [Release((A,), 1)]
    assert subject.due(10.1) == [Send((C,), 1)]
    assert subject.on_released(A, 10.2) == [Released(A)]
    assert subject.on_confirmed(C) == [Confirmed(C)]
    assert subject.due(1000.0) == []
    assert subject.registrations() == (B, C)
    assert state(subject, B) is State.CONFIRMED


def test_what_was_never_requested_is_simply_forgotten() -> None:
    subject = subscriptions(A, B)
    subject.set_desired([B], 0.0)
    subject.on_ready(0.0)

    assert subject.due(0.0) == [Send((B,), 1)]
    assert subject.registrations() == (B,)


def test_a_request_that_is_not_answered_yet_is_given_up_and_its_late_answer_is_harmless() -> None:
    subject = ready(A, B)
    subject.due(0.0)

    subject.set_desired([B], 0.05)
    assert subject.due(0.1) == [Release((A,), 1)]
    assert subject.on_confirmed(A) == []
    assert state(subject, A) is State.RELEASING
    assert subject.on_released(A, 0.3) == [Released(A)]
    assert subject.on_confirmed(A) == []
    assert subject.on_released(A, 0.4) == []


@pytest.mark.requirement("LEAK-01")
def test_a_release_that_is_never_answered_is_repeated_and_then_forgotten() -> None:
    subject = confirmed(A, B)
    subject.set_desired([B], 10.0)

    assert subject.due(10.0) == [Release((A,), 1)]
    assert subject.due(15.0) == [Release((A,), 2)]
    assert subject.due(20.0) == [Release((A,), 3)]
    assert subject.due(25.0) == [Released(A, attempts=3)]
    assert subject.statistics().releasing == 0
    assert subject.statistics().unanswered == 0


def test_a_refused_release_means_that_there_is_nothing_to_give_up_unless_the_venue_is_in_trouble() -> None:
    subject = confirmed(A, B)
    subject.set_desired([], 10.0)
    subject.due(10.0)
    subject.due(10.1)

    assert subject.on_refused(refused(A, Refusal.INVALID), 10.2) == [Released(A)]
    assert subject.on_refused(refused(B, Refusal.RETRY), 10.2) == []
    assert subject.due(10.2 + RETRY_DELAY_S) == [Release((B,), 2)]


def test_what_is_wanted_again_before_it_was_given_up_is_requested_again() -> None:
    subject = confirmed(A, B)
    subject.set_desired([B], 10.0)
    subject.set_desired([A, B], 10.0)

    assert subject.due(10.0) == [Send((A,), 1)]


def test_what_is_wanted_again_while_it_is_given_up_is_requested_after_that() -> None:
    subject = confirmed(A, B)
    subject.set_desired([B], 10.0)
    subject.due(10.0)
    subject.set_desired([A, B], 10.05)

    assert subject.due(10.1) == []
    assert subject.on_released(A, 10.2) == [Released(A)]
    assert subject.due(10.2) == [Send((A,), 1)]


def test_a_lost_connection_gives_up_what_was_being_given_up() -> None:
    subject = confirmed(A, B)
    subject.set_desired([B], 10.0)
    subject.due(10.0)

    subject.on_lost()

    assert subject.registrations() == (B,)
    assert subject.statistics().releasing == 0


def test_a_full_session_makes_room_before_it_asks_for_more() -> None:
    subject = confirmed(A, B, habits=Habits(limit=2))
    subject.set_desired([B, C], 10.0)

    assert subject.due(10.0) == [Release((A,), 1)]
    assert subject.due(12.0) == []
    assert subject.next_deadline() == 15.0
    subject.on_released(A, 12.1)
    assert subject.due(12.1) == [Send((C,), 1)]


@pytest.mark.requirement("F08")
def test_what_the_limit_had_left_out_takes_the_place_of_what_is_given_up() -> None:
    subject = ready(A, B, C, interval_s=0.0)
    subject.due(0.0)
    subject.on_confirmed(A)
    subject.on_confirmed(B)
    assert subject.on_refused(refused(C, Refusal.CAP_REACHED), 0.1) == [Capped(2, 1)]

    subject.set_desired([B, C], 10.0)
    subject.due(10.0)
    subject.on_released(A, 10.1)

    assert subject.due(10.1) == [Send((C,), 1)]


# -- suspicion ---------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("F04")
def test_a_silent_registration_is_made_anew_and_stays_suspected_until_data_arrive() -> None:
    subject = confirmed(A, B)

    assert subject.on_silent(A, 300.0, "silent")
    assert subject.statistics().doubted == 1
    assert subject.due(300.0) == [Release((A,), 1)]
    subject.on_released(A, 300.1)
    assert subject.due(300.1) == [Send((A,), 1)]
    assert subject.on_confirmed(A) == [Confirmed(A)]
    assert subject.status(A).state is State.SUSPECTED
    assert subject.status(A).reason == "silent"
    assert subject.due(900.0) == []

    assert subject.on_data(A) == []
    assert subject.status(A).state is State.CONFIRMED
    assert subject.statistics().doubted == 0


def test_data_that_were_on_their_way_do_not_confirm_what_has_been_given_up() -> None:
    subject = confirmed(A)
    subject.renew([A], 10.0)
    subject.due(10.0)
    subject.on_released(A, 10.05)

    assert subject.on_data(A) == []
    assert state(subject, A) is State.DESIRED
    assert subject.due(10.1) == [Send((A,), 1)]


@pytest.mark.requirement("F06")
def test_data_younger_than_the_request_confirm_it() -> None:
    subject = ready(A)
    assert subject.on_data(A) == []  # not requested yet: not ours

    subject.due(0.0)

    assert subject.on_data(A) == [Confirmed(A)]
    assert subject.due(100.0) == []


def test_what_is_not_confirmed_is_not_suspected() -> None:
    subject = ready(A)
    subject.due(0.0)

    assert not subject.on_silent(A, 1.0, "silent")
    assert subject.renew([A], 1.0) == 0
    assert state(subject, A) is State.PENDING


@pytest.mark.requirement("F63")
def test_a_raised_limit_lets_in_what_waited_for_room() -> None:
    subject = Subscriptions((A, B), interval_s=0.1, timeout_s=5.0, attempts=3, habits=Habits(limit=2))
    subject.on_ready(0.0)
    for now in (0.0, 0.1):
        for action in subject.due(now):
            assert isinstance(action, Send)
            subject.on_confirmed(action.registrations[0])

    subject.set_desired((A, B, C), 1.0)
    assert subject.due(1.0) == []
    subject.set_desired((A, B, C), 2.0, limit=3)
    assert subject.due(2.0) == [Send((C,), 1)]
