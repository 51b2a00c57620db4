"""Subscriptions as lists of events: what is sent when, and what every answer, late answer and silence leads to."""

import pytest

from daemon.errors import InvariantBroken
from daemon.ingest.subscription_states import (
    TRANSITIONS,
    Capped,
    Confirmed,
    Event,
    Failed,
    Rejected,
    Send,
    State,
)
from daemon.ingest.subscriptions import RETRY_DELAY_S, REVIVE_AFTER_S
from daemon.ingest.venues.venue import Refusal, Registration
from tests.spec.subscription_support import A, B, C, ready, refused, state, subscriptions


@pytest.mark.requirement("CONN-READY-01")
def test_nothing_is_sent_before_the_connection_is_ready() -> None:
    subject = subscriptions(A)

    assert subject.due(1000.0) == []
    assert subject.next_deadline() is None

    subject.on_ready(1000.0)

    assert subject.due(1000.0) == [Send((A,), 1)]


def test_requests_are_paced() -> None:
    subject = ready(A, B, C)

    assert subject.due(0.0) == [Send((A,), 1)]
    assert subject.due(0.05) == []
    assert subject.next_deadline() == pytest.approx(0.1)
    assert subject.due(0.1) == [Send((B,), 1)]
    assert subject.due(10.0)[0] == Send((C,), 1)


def test_without_pacing_everything_is_sent_at_once() -> None:
    assert ready(A, B, C, interval_s=0.0).due(0.0) == [Send((A,), 1), Send((B,), 1), Send((C,), 1)]


@pytest.mark.requirement("SUB-CONF-01")
def test_a_request_is_pending_until_the_venue_confirms_it() -> None:
    subject = ready(A)

    subject.due(0.0)

    assert state(subject, A) is State.PENDING
    assert subject.on_confirmed(A) == [Confirmed(A)]
    assert state(subject, A) is State.CONFIRMED
    assert subject.next_deadline() is None


@pytest.mark.requirement("BUG-001")
def test_a_second_confirmation_changes_nothing() -> None:
    subject = ready(A)
    subject.due(0.0)
    subject.on_confirmed(A)

    assert subject.on_confirmed(A) == []
    assert state(subject, A) is State.CONFIRMED


def test_the_first_data_confirms_where_the_reply_is_lost() -> None:
    subject = ready(A)
    subject.due(0.0)

    assert subject.on_confirmed(A) == [Confirmed(A)]
    assert subject.due(100.0) == []


@pytest.mark.requirement("SUB-CONF-02")
def test_an_invalid_symbol_is_rejected_for_good_with_its_reason() -> None:
    subject = ready(A)
    subject.due(0.0)

    assert subject.on_refused(refused(A, Refusal.INVALID, "X8"), 0.1) == [Rejected(A, "X8 no")]
    assert subject.due(1000.0) == []

    subject.on_lost()
    subject.on_ready(2000.0)

    assert subject.due(2000.0) == []
    assert subject.status(A).state is State.REJECTED
    assert subject.status(A).reason == "X8 no"


def test_missing_entitlement_is_not_asked_for_again() -> None:
    subject = ready(A)
    subject.due(0.0)

    assert subject.on_refused(refused(A, Refusal.NOT_ENTITLED), 0.1) == [Rejected(A, "X1 no", may_fit_elsewhere=True)]
    assert subject.next_deadline() is None


@pytest.mark.requirement("SUB-CONF-03", "SUB-RETRY-01")
def test_an_unanswered_request_times_out_and_after_three_attempts_it_has_failed() -> None:
    subject = ready(A)

    assert subject.due(0.0) == [Send((A,), 1)]
    assert subject.due(4.99) == []
    assert subject.due(5.0) == [Send((A,), 2)]
    assert subject.due(10.0) == [Send((A,), 3)]
    assert subject.due(15.0) == [Failed(A, 3, "no reply within 5 s")]
    assert state(subject, A) is State.FAILED
    assert subject.statistics().pending == 0


@pytest.mark.requirement("SUB-RETRY-01")
def test_a_failed_registration_is_tried_again_much_later() -> None:
    subject = ready(A)
    for now in (0.0, 5.0, 10.0, 15.0):
        subject.due(now)

    assert subject.next_deadline() == 15.0 + REVIVE_AFTER_S
    assert subject.due(15.0 + REVIVE_AFTER_S) == [Send((A,), 1)]


@pytest.mark.requirement("SUB-RETRY-01")
def test_the_venues_own_trouble_is_retried_with_growing_delays_and_then_fails() -> None:
    subject = ready(A)

    subject.due(0.0)
    assert subject.on_refused(refused(A, Refusal.RETRY), 0.0) == []
    assert subject.due(RETRY_DELAY_S - 0.01) == []
    assert subject.due(RETRY_DELAY_S) == [Send((A,), 2)]
    assert subject.on_refused(refused(A, Refusal.RETRY), 1.0) == []
    assert subject.due(1.0 + 2 * RETRY_DELAY_S) == [Send((A,), 3)]
    assert subject.on_refused(refused(A, Refusal.RETRY), 3.0) == [Failed(A, 3, "X1 no")]


@pytest.mark.requirement("LEAK-01")
def test_an_answer_after_the_timeout_still_confirms() -> None:
    subject = ready(A)
    for now in (0.0, 5.0, 10.0, 15.0):
        subject.due(now)

    assert subject.on_confirmed(A) == [Confirmed(A)]
    assert subject.due(1000.0) == []


def test_a_late_refusal_of_a_repeated_request_does_not_undo_a_confirmation() -> None:
    subject = ready(A)
    subject.due(0.0)
    subject.due(5.0)
    subject.on_confirmed(A)

    for refusal in (Refusal.RETRY, Refusal.INVALID, Refusal.CAP_REACHED):
        subject.on_refused(refused(A, refusal), 5.1)

    assert state(subject, A) is State.CONFIRMED


def test_a_late_retry_while_the_next_request_is_planned_keeps_the_plan() -> None:
    subject = ready(A, B)
    subject.due(0.0)
    subject.due(0.1)
    subject.due(5.05)  # A timed out and was sent again; B is pending
    subject.due(5.1)  # B timed out, and waits for its turn

    assert state(subject, B) is State.DESIRED
    assert subject.on_refused(refused(B, Refusal.RETRY), 5.11) == []
    assert subject.due(5.2) == [Send((B,), 2)]


@pytest.mark.requirement("SUB-CONF-02")
def test_a_nameless_refusal_belongs_to_the_only_outstanding_request() -> None:
    subject = ready(A, B)
    subject.due(0.0)

    assert subject.on_refused(refused(None, Refusal.INVALID), 0.05) == [Rejected(A, "X1 no")]


@pytest.mark.requirement("SUB-CONF-03")
def test_a_nameless_refusal_with_several_outstanding_requests_is_left_to_the_timeout() -> None:
    subject = ready(A, B, interval_s=0.0)
    subject.due(0.0)

    assert subject.on_refused(refused(None, Refusal.INVALID), 0.1) == []
    assert subject.on_confirmed(None) == []
    assert (state(subject, A), state(subject, B)) == (State.PENDING, State.PENDING)


def test_a_request_that_timed_out_may_still_be_the_one_that_a_nameless_refusal_means() -> None:
    subject = ready(A, B, interval_s=6.0)
    subject.due(0.0)
    subject.due(5.0)  # A timed out; B is requested next, since A has to wait for its turn again

    subject.due(6.0)
    assert state(subject, A) is State.PENDING or state(subject, B) is State.PENDING
    assert subject.on_refused(refused(None, Refusal.INVALID), 6.1) == []


def test_requests_of_a_lost_session_are_no_candidates_for_a_nameless_refusal() -> None:
    subject = ready(A, B)
    subject.due(0.0)
    subject.due(0.1)
    subject.on_lost()
    subject.on_ready(10.0)
    subject.due(10.0)

    assert subject.on_refused(refused(None, Refusal.INVALID), 10.05) == [Rejected(A, "X1 no")]


def test_replies_for_what_was_never_asked_are_ignored() -> None:
    subject = ready(A, B, interval_s=0.0)
    subject.due(0.0)
    stranger = Registration("TRADES", "Z")

    assert subject.on_confirmed(stranger) == []
    assert subject.on_refused(refused(stranger, Refusal.INVALID), 0.1) == []
    assert subject.statistics().pending == 2


@pytest.mark.requirement("SUB-CONF-02")
def test_a_full_session_gets_no_more_requests_and_says_what_is_left_out() -> None:
    subject = ready(A, B, C)
    subject.due(0.0)
    subject.on_confirmed(A)
    subject.due(0.1)

    assert subject.on_refused(refused(B, Refusal.CAP_REACHED), 0.15) == [Capped(confirmed=1, left_out=2)]
    assert subject.due(1000.0) == []
    assert [state(subject, r) for r in (A, B, C)] == [State.CONFIRMED, State.CAPPED, State.CAPPED]
    assert subject.statistics().capped == 2


def test_requests_that_were_on_their_way_when_the_session_was_full_are_not_repeated() -> None:
    subject = ready(A, B, C, interval_s=0.0)
    subject.due(0.0)

    assert subject.on_refused(refused(B, Refusal.CAP_REACHED), 0.1) == [Capped(0, 1)]
    assert subject.on_refused(refused(C, Refusal.CAP_REACHED), 0.1) == []
    assert subject.due(5.0) == []
    assert [state(subject, r) for r in (A, B, C)] == [State.CAPPED] * 3


def test_what_failed_before_the_session_was_full_is_not_revived_in_it() -> None:
    subject = ready(A, B, interval_s=20.0)
    for now in (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 40.0, 45.0, 60.0, 65.0):
        subject.due(now)
        subject.on_confirmed(B)
    assert state(subject, A) is State.FAILED

    subject.on_refused(refused(B, Refusal.CAP_REACHED), 66.0)

    assert subject.due(65.0 + REVIVE_AFTER_S) == []
    assert state(subject, A) is State.CAPPED


@pytest.mark.requirement("CONN-READY-01", "SUB-CONF-01")
def test_a_lost_connection_loses_every_confirmation_and_the_next_one_requests_all_again() -> None:
    subject = ready(A, B, C, interval_s=0.0)
    subject.due(0.0)
    subject.on_confirmed(A)
    subject.on_refused(refused(B, Refusal.CAP_REACHED), 0.1)

    subject.on_lost()

    assert subject.statistics().desired == 3
    assert subject.due(100.0) == []
    assert subject.on_confirmed(A) == []  # of the old session
    assert subject.on_refused(refused(B, Refusal.INVALID), 0.2) == []

    subject.on_ready(200.0)

    assert subject.due(200.0) == [Send((A,), 1), Send((B,), 1), Send((C,), 1)]


def test_an_event_that_the_table_does_not_list_is_our_bug() -> None:
    subject = subscriptions(A)

    with pytest.raises(InvariantBroken, match=r"Event\.REVIVED in State\.DESIRED"):
        subject._entries[A].apply(Event.REVIVED)


def test_every_state_can_be_reached_and_only_rejection_survives_a_lost_connection() -> None:
    assert {target for events in TRANSITIONS.values() for target in events.values()} == set(State)
    for source, events in TRANSITIONS.items():
        assert events[Event.FORGOTTEN] is State.GONE
        expected = State.REJECTED if source is State.REJECTED else State.DESIRED
        assert events[Event.CONNECTION_LOST] is expected
