"""Subscriptions under any sequence of events: every promise is kept, and nothing grows."""

import random

import pytest

from daemon.ingest.subscription_states import (
    Habits,
    Release,
    Send,
)
from daemon.ingest.subscriptions import Subscriptions
from daemon.ingest.venues.venue import Refusal, Registration
from tests.spec.subscription_support import BATCH, STATES_ALL, A, B, C, D, E, F, G, refused, subscriptions


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
