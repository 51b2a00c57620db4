"""Venues that answer a request as a whole, or not at all: a batch is asked for, halved, repeated, stated anew."""

import gc
import random
import tracemalloc

import pytest

from daemon.ingest.subscription_states import (
    Capped,
    Confirmed,
    Failed,
    Habits,
    Rejected,
    Release,
    Released,
    Send,
    State,
)
from daemon.ingest.subscriptions import RETRY_DELAY_S, Subscriptions
from daemon.ingest.venues.venue import Refusal, Registration
from tests.effort import examples
from tests.spec.subscription_support import (
    BATCH,
    STATES_ALL,
    A,
    B,
    C,
    D,
    E,
    batches,
    confirmed,
    refused,
    state,
)


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
