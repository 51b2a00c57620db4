"""Subscriptions as lists of events: what is sent when, and what every answer, late answer and silence leads to."""

import gc
import random
import tracemalloc
from collections.abc import Callable

import pytest

from daemon.errors import InvariantBroken
from daemon.ingest.subscription_states import (
    TRANSITIONS,
    Capped,
    Confirmed,
    Event,
    Failed,
    Habits,
    Rejected,
    Release,
    Released,
    Send,
    State,
)
from daemon.ingest.subscriptions import CAPPED_FOR_S, RETRY_DELAY_S, REVIVE_AFTER_S, Subscriptions
from daemon.ingest.venues.venue import Refusal, Registration, RegistrationRefused
from tests.effort import examples

A, B, C = (Registration("TRADES", symbol) for symbol in "ABC")


def subscriptions(*registrations: Registration, interval_s: float = 0.1) -> Subscriptions:
    return Subscriptions(registrations, interval_s=interval_s, timeout_s=5.0, attempts=3)


def ready(*registrations: Registration, interval_s: float = 0.1) -> Subscriptions:
    subject = subscriptions(*registrations, interval_s=interval_s)
    subject.on_ready(0.0)
    return subject


def refused(registration: Registration | None, refusal: Refusal, code: str = "X1") -> RegistrationRefused:
    return RegistrationRefused(registration, refusal, code, "no")


def state(subject: Subscriptions, registration: Registration) -> State:
    return subject.status(registration).state


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


@pytest.mark.requirement("LEAK-01")
def test_a_thousand_symbols_with_missing_and_late_replies_leave_nothing_pending() -> None:
    registrations = [Registration("TRADES", f"{number:06d}") for number in range(1000)]
    subject = Subscriptions(registrations, interval_s=0.0, timeout_s=5.0, attempts=3)
    fate = random.Random(7)  # a fixed seed: the same run each time
    late: list[tuple[float, Registration]] = []
    subject.on_ready(0.0)
    highest, now = 0, 0.0

    while now < 50.0:
        for action in subject.due(now):
            if isinstance(action, Send):
                (registration,) = action.registrations
                outcome = fate.random()
                if outcome < 0.4:
                    subject.on_confirmed(registration)
                elif outcome < 0.7:
                    late.append((now + fate.uniform(1.0, 12.0), registration))
        while late and min(late)[0] <= now:
            late.remove(answer := min(late))
            subject.on_confirmed(answer[1])
        highest = max(highest, subject.statistics().pending)
        now += 0.25

    counts = subject.statistics()
    assert (counts.pending, counts.desired) == (0, 0)
    assert counts.confirmed + counts.failed == 1000
    assert counts.unanswered == 0
    assert 500 < highest <= 1000
    assert subject.registrations() == tuple(registrations)


def test_any_sequence_of_events_keeps_every_registration_in_exactly_one_state() -> None:
    fate = random.Random(11)
    registrations = (A, B, C)
    subject = subscriptions(*registrations)
    is_ready, now = False, 0.0
    for _ in range(20_000):
        now += fate.choice((0.0, 0.05, 0.3, 5.0, 70.0))
        chosen = fate.choice((*registrations, None))
        match fate.randrange(6):
            case 0 if not is_ready:
                subject.on_ready(now)
                is_ready = True
            case 1 if fate.random() < 0.2:
                subject.on_lost()
                is_ready = False
            case 2:
                subject.on_confirmed(chosen)
            case 3:
                subject.on_refused(refused(chosen, fate.choice(list(Refusal))), now)
            case _:
                sent = [action for action in subject.due(now) if isinstance(action, Send)]
                assert is_ready or not sent
        counts = subject.statistics()
        total = counts.desired + counts.pending + counts.confirmed + counts.rejected + counts.failed + counts.capped
        assert total == 3
        deadline = subject.next_deadline()
        assert counts.pending == 0 or deadline is not None, "a pending request without a deadline would stay for ever"


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


# -- changes of what is wanted -----------------------------------------------------------------------------------------


def confirmed(*registrations: Registration, habits: Habits | None = None) -> Subscriptions:
    subject = Subscriptions(registrations, interval_s=0.1, timeout_s=5.0, attempts=3, habits=habits or Habits())
    subject.on_ready(0.0)
    now = 0.0
    while subject.statistics().confirmed < len(registrations):
        for action in subject.due(now):
            assert isinstance(action, Send)
            if subject._habits.is_serial:
                subject.on_confirmed(None)
            else:
                for registration in action.registrations:
                    subject.on_confirmed(registration)
        now += 0.1
    return subject


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


# -- venues that answer a request as a whole ---------------------------------------------------------------------------

BATCH = Habits(max_batch=4)
D, E, F, G = (Registration("TRADES", symbol) for symbol in "DEFG")


def batches(*registrations: Registration, habits: Habits = BATCH) -> Subscriptions:
    subject = Subscriptions(registrations, interval_s=0.1, timeout_s=5.0, attempts=3, habits=habits)
    subject.on_ready(0.0)
    return subject


def test_a_batch_is_one_request_and_its_reply_is_for_all_of_it() -> None:
    subject = batches(A, B, C, D, E)

    assert subject.due(0.0) == [Send((A, B, C, D), 1)]
    assert subject.due(1.0) == []  # one on its way
    assert subject.on_confirmed(None) == [Confirmed(r) for r in (A, B, C, D)]
    assert subject.due(1.1) == [Send((E,), 1)]
    assert subject.on_confirmed(None) == [Confirmed(E)]
    assert subject.statistics().unanswered == 0


@pytest.mark.requirement("SUB-CONF-02")
def test_one_bad_symbol_of_a_batch_is_found_by_halves_and_costs_no_other() -> None:
    for culprit in (A, B, C, D):
        subject = batches(A, B, C, D)
        now, sent, rejected = 0.0, 0, []
        while subject.statistics().confirmed < 3 and sent < 20:
            for action in subject.due(now):
                assert isinstance(action, Send)
                sent += 1
                if culprit in action.registrations:
                    rejected += subject.on_refused(refused(None, Refusal.INVALID), now)
                else:
                    subject.on_confirmed(None)
            now += 0.1
        while actions := subject.due(now):
            assert actions == [Send((culprit,), 1)]
            rejected += subject.on_refused(refused(None, Refusal.INVALID), now)
            now += 0.1

        assert rejected == [Rejected(culprit, "X1 no")]
        assert state(subject, culprit) is State.REJECTED
        assert subject.due(1000.0) == []


def test_the_limit_of_a_batch_venue_is_found_to_the_last_registration() -> None:
    subject = batches(A, B, C, D, E, habits=Habits(max_batch=8))
    now, taken, capped = 0.0, 0, []
    for _ in range(50):
        for action in subject.due(now):
            assert isinstance(action, Send)
            if taken + len(action.registrations) <= 3:
                taken += len(action.registrations)
                subject.on_confirmed(None)
            else:
                capped += subject.on_refused(refused(None, Refusal.CAP_REACHED), now)
        now += 0.1

    assert capped == [Capped(confirmed=3, left_out=2)]
    assert subject.statistics().confirmed == 3


def test_an_unanswered_batch_is_repeated_as_it_was_and_then_fails_as_a_whole() -> None:
    subject = batches(A, B, C, D, E)

    assert subject.due(0.0) == [Send((A, B, C, D), 1)]
    assert subject.due(5.0) == [Send((A, B, C, D), 2)]
    assert subject.due(10.0) == [Send((A, B, C, D), 3)]
    assert [type(action) for action in subject.due(15.0)] == [Failed] * 4
    assert subject.due(19.9) == []  # the answer may still come: it must not be taken for that of another request
    assert subject.due(20.0) == [Send((E,), 1)]


@pytest.mark.requirement("SUB-CONF-01")
def test_a_late_reply_to_one_batch_does_not_confirm_the_next() -> None:
    subject = batches(A, B, C, D, E)
    subject.due(0.0)
    subject.due(5.0)
    assert len(subject.on_confirmed(None)) == 4  # of the first request; the reply to the second is still to come

    assert subject.due(5.2) == []
    assert subject.on_confirmed(None) == []
    assert state(subject, E) is State.DESIRED
    assert subject.due(5.3) == [Send((E,), 1)]


def test_the_venues_own_trouble_with_a_batch_is_waited_out() -> None:
    subject = batches(A, B)
    subject.due(0.0)

    assert subject.on_refused(refused(None, Refusal.RETRY), 0.1) == []
    assert subject.due(0.5) == []
    assert subject.due(0.1 + RETRY_DELAY_S) == [Send((A, B), 2)]


def test_a_batch_is_released_as_a_batch_before_others_are_requested() -> None:
    subject = confirmed(A, B, C, habits=BATCH)
    subject.set_desired([C, D], 10.0)

    assert subject.due(10.0) == [Release((A, B), 1)]
    assert subject.due(10.2) == []
    assert subject.on_released(None, 10.3) == [Released(A), Released(B)]
    assert subject.due(10.3) == [Send((D,), 1)]


def test_a_batch_that_is_refused_while_part_of_it_is_not_wanted_any_more_costs_nothing_else() -> None:
    subject = batches(A, B)
    subject.due(0.0)
    subject.set_desired([B], 0.05)

    assert subject.on_refused(refused(None, Refusal.INVALID), 0.1) == []
    assert subject.due(0.1) == [Release((A,), 1)]
    subject.on_released(None, 0.2)
    assert subject.due(0.2) == [Send((B,), 1)]


# -- venues that do not answer -----------------------------------------------------------------------------------------


def test_silence_of_a_venue_that_never_answers_is_consent_and_data_are_quicker() -> None:
    subject = batches(A, B, habits=Habits(acknowledges=False))

    assert subject.due(0.0) == [Send((A,), 1)]
    assert subject.due(0.1) == [Send((B,), 1)]
    assert subject.on_data(B) == [Confirmed(B)]
    assert subject.due(4.9) == []
    assert subject.due(5.0) == [Confirmed(A)]
    assert subject.statistics().unanswered == 0 or subject.statistics().confirmed == 2


STATES_ALL = Habits(acknowledges=False, replaces_all=True, max_batch=1000)


def test_a_venue_that_is_told_everything_at_once_is_told_again_when_that_changes() -> None:
    subject = batches(A, B, C, habits=STATES_ALL)

    assert subject.due(0.0) == [Send((A, B, C), 1)]
    assert subject.on_data(A) == [Confirmed(A)]
    assert subject.due(5.0) == [Confirmed(B), Confirmed(C)]
    assert subject.due(100.0) == []

    subject.set_desired([B, C, D], 100.0)
    assert subject.due(100.0) == [Send((B, C, D), 1)]
    assert subject.registrations() == (B, C, D)
    assert subject.due(105.0) == [Confirmed(D)]

    subject.set_desired([B], 200.0)
    assert subject.due(200.0) == [Send((B,), 1)]
    assert subject.due(1000.0) == []


def test_one_bad_symbol_of_everything_is_found_and_the_others_are_stated_without_it() -> None:
    subject = batches(A, B, C, D, habits=STATES_ALL)
    now, last = 0.0, tuple[Registration, ...]()
    for _ in range(400):
        for action in subject.due(now):
            if isinstance(action, Send):
                last = action.registrations
                if C in last:
                    subject.on_refused(refused(None, Refusal.INVALID), now)
        now += 0.1

    assert set(last) == {A, B, D}
    assert state(subject, C) is State.REJECTED
    assert subject.statistics().confirmed == 3


def test_a_suspected_stream_of_such_a_venue_makes_it_be_told_everything_again() -> None:
    subject = batches(A, B, habits=STATES_ALL)
    subject.due(0.0)
    subject.due(5.0)

    assert subject.on_silent(A, 300.0, "silent")
    assert subject.due(300.0) == [Send((A, B), 1)]
    assert state(subject, A) is State.SUSPECTED
    assert subject.on_data(A) == []
    assert state(subject, A) is State.CONFIRMED


# -- nothing grows -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("LEAK-01", "F62")
@pytest.mark.parametrize("habits", [Habits(), BATCH, STATES_ALL, Habits(acknowledges=False)], ids=repr)
def test_thousands_of_cycles_with_missing_and_late_replies_leave_nothing_behind(habits: Habits) -> None:
    subject = Subscriptions((), interval_s=0.01, timeout_s=0.5, attempts=3, habits=habits)
    subject.on_ready(0.0)
    fate = random.Random(3)
    late: list[tuple[float, bool, Registration | None]] = []
    now = 0.0

    def answer(is_release: bool, registration: Registration | None) -> None:
        if is_release:
            subject.on_released(registration, now)
        elif fate.random() < 0.1:
            subject.on_refused(refused(registration, fate.choice((Refusal.RETRY, Refusal.INVALID))), now)
        else:
            subject.on_confirmed(registration)

    def run(cycles: int) -> None:
        nonlocal now
        for cycle in range(cycles):
            subject.set_desired([Registration("TRADES", f"{fate.randrange(50):06d}") for _ in range(5)], now)
            if cycle % 997 == 0:
                subject.on_lost()
                subject.on_ready(now)
            for _ in range(2):
                for action in subject.due(now):
                    if isinstance(action, Send | Release):
                        names = (None,) if habits.is_serial else action.registrations
                        for name in names:
                            outcome = fate.random()
                            if outcome < 0.6:
                                answer(isinstance(action, Release), name)
                            elif outcome < 0.8:
                                late.append((now + fate.uniform(0.1, 2.0), isinstance(action, Release), name))
                now += 0.02
            for reply in [reply for reply in late if reply[0] <= now]:
                late.remove(reply)
                answer(*reply[1:])

    run(1000)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    run(examples(1_500))
    subject.set_desired((), now)
    late.clear()
    end = now + 200.0
    while now < end:
        subject.due(now)
        now += 0.1
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    counts = subject.statistics()
    assert subject._entries == {}
    assert subject._replies._unanswered == set()
    assert subject._replies.flight is None
    assert subject._queue._parts == []
    assert (counts.pending, counts.releasing) == (0, 0)
    assert after - before < 20_000


@pytest.mark.requirement("SUB-CONF-01", "F62")
@pytest.mark.parametrize("habits", [Habits(), Habits(limit=3), BATCH, STATES_ALL, Habits(acknowledges=False)], ids=repr)
def test_any_sequence_of_events_keeps_the_promises_of_every_kind_of_venue(habits: Habits) -> None:
    fate = random.Random(17)
    everything = (A, B, C, D, E, F, G)
    subject = Subscriptions((A, B), interval_s=0.1, timeout_s=5.0, attempts=3, habits=habits)
    is_ready, now, sent_at, wanted = False, 0.0, -1.0, {A, B}
    for _ in range(15_000):
        now += fate.choice((0.0, 0.05, 0.3, 5.0, 70.0))
        chosen = fate.choice((*everything, None))
        match fate.randrange(11):
            case 0 if not is_ready:
                subject.on_ready(now)
                is_ready, sent_at = True, -1.0
            case 1 if fate.random() < 0.2:
                subject.on_lost()
                is_ready = False
            case 2:
                subject.on_confirmed(chosen)
            case 3:
                subject.on_refused(refused(chosen, fate.choice(list(Refusal))), now)
            case 4:
                subject.on_released(chosen, now)
            case 5 if chosen is not None:
                subject.on_silent(chosen, now, "silent")
            case 6 if chosen is not None:
                subject.on_data(chosen)
            case 7 if fate.random() < 0.3:
                wanted = set(fate.sample(everything, fate.randrange(1, 7)))
                subject.set_desired(sorted(wanted), now)
            case 8 if fate.random() < 0.1:
                subject.renew(everything, now)
            case _:
                for action in subject.due(now):
                    if isinstance(action, Send | Release):
                        assert is_ready
                        assert now >= sent_at + 0.1 - 1e-9
                        assert action.registrations
                        assert habits.replaces_all or len(action.registrations) <= habits.max_batch
                        sent_at = now
        assert set(subject.registrations()) == wanted
        counts = subject.statistics()
        deadline = subject.next_deadline()
        assert not (counts.pending or counts.releasing) or deadline is not None, "would stay for ever"
        assert deadline is None or is_ready
        if habits.limit and is_ready:
            live = counts.pending + counts.confirmed + counts.suspected + counts.leaving + counts.releasing
            assert live <= 7
    subject.on_lost()
    subject.on_ready(now)
    for _ in range(2000):  # left alone, with a venue that answers, everything is confirmed
        for action in subject.due(now):
            if isinstance(action, Send):
                for name in (None,) if habits.is_serial else action.registrations:
                    subject.on_confirmed(name)
        now += 0.1
    counts = subject.statistics()
    assert counts.confirmed + counts.rejected + counts.failed + (counts.desired if habits.limit else 0) == len(wanted)


def test_a_deadline_is_never_in_the_past_when_there_is_nothing_to_do() -> None:
    """Else the worker's timer would be a busy loop."""
    fate = random.Random(23)
    for habits in (Habits(), Habits(limit=2), BATCH, STATES_ALL):
        subject = Subscriptions((A, B, C, D), interval_s=0.1, timeout_s=5.0, attempts=3, habits=habits)
        subject.on_ready(0.0)
        now = 0.0
        for _ in range(3000):
            actions = subject.due(now)
            deadline = subject.next_deadline()
            assert deadline is None or deadline > now
            if actions and fate.random() < 0.5:
                subject.on_confirmed(None if habits.is_serial else A)
            if fate.random() < 0.1:
                subject.on_silent(fate.choice((A, B, C)), now, "silent")
            now = max(now, deadline or now + 1.0) if fate.random() < 0.8 else now + 0.03


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
