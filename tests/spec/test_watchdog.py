"""The data watchdog: a clock that tests move, and never an action at night."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.ingest.watchdog import TRANSITIONS, Action, DataWatchdog, Event, Limits, State

pytestmark = pytest.mark.requirement("WDG-01")

OPEN, CLOSED = True, False


class Clock:
    """A day of one session: asks the watchdog once a second, as its owner does."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.dog = DataWatchdog(self.limits)
        self.now_s = 1000.0
        self.actions: list[tuple[float, Action]] = []
        self.is_obedient = False  # reconnects when told to, and confirms its registrations a second later

    def pass_s(self, seconds: float, *, is_open: bool = OPEN, data_every_s: float | None = None) -> None:
        end_s = self.now_s + seconds
        data_s = self.now_s
        while self.now_s < end_s:
            self.now_s += 1.0
            if data_every_s is not None and self.now_s - data_s >= data_every_s:
                data_s = self.now_s
                self.dog.on_data(self.now_s)
            action = self.dog.due(self.now_s, is_open)
            if action is not None:
                self.actions.append((self.now_s, action))
            if action is Action.RECONNECT and self.is_obedient:
                self.dog.on_lost()
                self.dog.on_subscribed(self.now_s)

    def since(self, start_s: float) -> list[tuple[float, str]]:
        return [(at_s - start_s, action.value) for at_s, action in self.actions]


@pytest.fixture
def clock() -> Clock:
    """A session that has data, in market hours."""
    clock = Clock()
    clock.dog.on_subscribed(clock.now_s)
    clock.pass_s(100, data_every_s=1)
    return clock


def test_silence_warns_after_60_s_resubscribes_after_120_s_and_reconnects_after_180_s(clock: Clock) -> None:
    silent_since_s = clock.now_s

    clock.pass_s(200)

    assert clock.since(silent_since_s) == [(60, "warn"), (120, "resubscribe"), (180, "reconnect")]


def test_any_data_ends_the_silence(clock: Clock) -> None:
    clock.pass_s(150)
    clock.dog.on_data(clock.now_s)
    resumed_s = clock.now_s
    clock.actions.clear()

    clock.pass_s(70)

    assert clock.since(resumed_s) == [(60, "warn")]


def test_data_every_minute_is_no_silence(clock: Clock) -> None:
    clock.pass_s(3600, data_every_s=59)

    assert clock.actions == []


@pytest.mark.requirement("F05")
def test_a_night_without_data_causes_nothing(clock: Clock) -> None:
    clock.pass_s(17 * 3600, is_open=CLOSED)

    assert clock.actions == []
    assert clock.dog.next_deadline() is None


@pytest.mark.requirement("F05")
def test_the_opening_starts_the_count(clock: Clock) -> None:
    clock.pass_s(10_000, is_open=CLOSED)
    opening_s = clock.now_s

    clock.pass_s(70)

    assert clock.since(opening_s) == [(61, "warn")]  # the opening is noticed a second later


def test_a_session_that_closes_in_the_middle_of_a_silence_forgets_it(clock: Clock) -> None:
    clock.pass_s(130)
    clock.pass_s(600, is_open=CLOSED)
    reopened_s = clock.now_s
    clock.actions.clear()

    clock.pass_s(62)

    assert clock.since(reopened_s) == [(61, "warn")]


def test_a_session_without_a_confirmed_registration_is_expected_to_be_silent() -> None:
    clock = Clock()

    clock.pass_s(1000)

    assert clock.actions == []


def test_the_confirmation_starts_the_count() -> None:
    clock = Clock()
    clock.pass_s(500)
    clock.dog.on_subscribed(clock.now_s)
    confirmed_s = clock.now_s

    clock.pass_s(200)

    assert [action for _, action in clock.since(confirmed_s)] == ["warn", "resubscribe", "reconnect"]
    assert clock.since(confirmed_s)[0][0] == pytest.approx(60, abs=1)


def test_data_before_any_confirmation_counts_as_one() -> None:
    clock = Clock()
    clock.dog.on_data(clock.now_s)
    first_s = clock.now_s

    clock.pass_s(70)

    assert clock.since(first_s) == [(61, "warn")]


def test_the_answers_to_its_own_resubscription_do_not_put_off_the_reconnect(clock: Clock) -> None:
    silent_since_s = clock.now_s
    clock.pass_s(121)
    for _ in range(41):
        clock.dog.on_subscribed(clock.now_s)

    clock.pass_s(80)

    assert clock.since(silent_since_s)[-1] == (180, "reconnect")


def test_a_lost_connection_ends_the_count_until_something_is_confirmed_again(clock: Clock) -> None:
    clock.pass_s(100)
    clock.dog.on_lost()
    clock.actions.clear()

    clock.pass_s(1000)

    assert clock.actions == []
    assert clock.dog.silent_for_s(clock.now_s) == 0.0


@pytest.mark.parametrize("is_obedient", [True, False])
def test_reconnects_that_do_not_help_grow_further_apart(clock: Clock, is_obedient: bool) -> None:
    clock.is_obedient = is_obedient
    clock.pass_s(10 * 3600)

    reconnects = [at_s for at_s, action in clock.actions if action is Action.RECONNECT]
    pauses = [later - earlier for earlier, later in pairwise(reconnects)]

    assert pauses[:5] == pytest.approx([360, 720, 1440, 2880, 3600], abs=2)
    assert max(pauses) <= 3602
    assert len(reconnects) < 15


def test_a_quiet_market_with_a_record_now_and_then_is_no_reconnect_loop(clock: Clock) -> None:
    clock.is_obedient = True
    clock.pass_s(10 * 3600, data_every_s=240)  # each silence is longer than the limit

    assert len([action for _, action in clock.actions if action is Action.RECONNECT]) == 1


def test_a_session_that_has_recovered_is_watched_as_before(clock: Clock) -> None:
    clock.is_obedient = True
    clock.pass_s(1000)
    clock.pass_s(120, data_every_s=1)
    clock.actions.clear()
    silent_since_s = clock.now_s

    clock.pass_s(200)

    assert clock.since(silent_since_s) == [(60, "warn"), (120, "resubscribe"), (180, "reconnect")]


@pytest.mark.requirement("F58")
def test_a_process_that_was_stopped_for_an_hour_looks_at_its_sockets_first(clock: Clock) -> None:
    clock.now_s += 3600
    assert clock.dog.due(clock.now_s, OPEN) is None
    resumed_s = clock.now_s

    clock.pass_s(200)

    assert clock.since(resumed_s) == [(60, "warn"), (120, "resubscribe"), (180, "reconnect")]


@pytest.mark.requirement("F58")
def test_a_stop_in_the_middle_of_the_ladder_repeats_no_step(clock: Clock) -> None:
    clock.pass_s(70)
    clock.now_s += 3600
    resumed_s = clock.now_s
    clock.actions.clear()

    assert clock.dog.due(clock.now_s, OPEN) is None
    clock.pass_s(125)

    assert clock.since(resumed_s) == [(60, "resubscribe"), (120, "reconnect")]


def test_months_of_silence_are_no_arithmetic_problem() -> None:
    dog = DataWatchdog(Limits())
    now_s = 0.0
    dog.on_subscribed(now_s)
    dog.due(now_s, OPEN)
    for _ in range(3000):
        deadline_s = dog.next_deadline()
        assert deadline_s is not None
        assert dog.due(deadline_s, OPEN) is not None


def test_it_can_be_served_by_its_deadlines_alone() -> None:
    dog = DataWatchdog(Limits())
    dog.on_subscribed(0.0)
    assert dog.due(0.0, OPEN) is None

    found = []
    for _ in range(4):
        deadline_s = dog.next_deadline()
        assert deadline_s is not None
        found.append((deadline_s, dog.due(deadline_s, OPEN)))

    assert found == [
        (60.0, Action.WARN),
        (120.0, Action.RESUBSCRIBE),
        (180.0, Action.RECONNECT),
        (540.0, Action.RECONNECT),
    ]


@pytest.mark.parametrize(
    "limits",
    [
        Limits(warn_s=60, resubscribe_s=60),
        Limits(resubscribe_s=200),
        Limits(warn_s=0),
    ],
)
def test_limits_in_the_wrong_order_are_refused(limits: Limits) -> None:
    with pytest.raises(ValueError, match="expected warn_s"):
        DataWatchdog(limits)


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    reached = {state for table in TRANSITIONS.values() for state in table.values()}

    assert set(TRANSITIONS) == set(State)
    assert reached == set(State)
    assert {event for table in TRANSITIONS.values() for event in table} == set(Event)


steps = st.lists(
    st.tuples(
        st.sampled_from(["wait", "data", "subscribed", "lost", "open", "close"]),
        st.floats(min_value=0, max_value=500, allow_nan=False),
    ),
    max_size=60,
)


@pytest.mark.requirement("F05")
@given(steps)
def test_whatever_happens_it_acts_only_in_market_hours_and_never_quickly(
    steps: list[tuple[str, float]],
) -> None:
    clock, is_open = Clock(), CLOSED
    opened_s = fed_s = clock.now_s
    subscribed = False
    for what, seconds in steps:
        match what:
            case "data":
                clock.dog.on_data(clock.now_s)
                fed_s, subscribed = clock.now_s, True
            case "subscribed":
                clock.dog.on_subscribed(clock.now_s)
                subscribed = True
            case "lost":
                clock.dog.on_lost()
                subscribed = False
            case "open":
                is_open, opened_s = True, clock.now_s if not is_open else opened_s
            case "close":
                is_open = False
        before = len(clock.actions)
        clock.pass_s(seconds, is_open=is_open)
        new = clock.actions[before:]
        assert new == [] or (is_open and subscribed)
        assert all(at_s - max(opened_s, fed_s) >= 60 for at_s, _ in new)
    reconnects = [at_s for at_s, action in clock.actions if action is Action.RECONNECT]
    assert all(later - earlier >= 180 for earlier, later in pairwise(reconnects))


@given(steps, st.floats(min_value=0, max_value=300))
def test_whatever_has_happened_silence_in_market_hours_always_ends_in_a_reconnect(
    steps: list[tuple[str, float]], pause_s: float
) -> None:
    clock = Clock()
    for what, seconds in steps:
        match what:
            case "data":
                clock.dog.on_data(clock.now_s)
            case "subscribed":
                clock.dog.on_subscribed(clock.now_s)
            case "lost":
                clock.dog.on_lost()
        clock.pass_s(seconds, is_open=what != "close")
    clock.dog.on_subscribed(clock.now_s)
    clock.actions.clear()
    clock.pass_s(pause_s, is_open=CLOSED)

    clock.pass_s(4000)

    assert Action.RECONNECT in [action for _, action in clock.actions]
