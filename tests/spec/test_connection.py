"""The connection as lists of events: what the driver is told to do, and how long it waits."""

import pytest

from daemon.errors import InvariantBroken
from daemon.ingest.connection import (
    HEALTHY_AFTER_S,
    SESSION_FAULT_EVENTS,
    SLOT_HELD_MAX_S,
    TRANSITIONS,
    BackOff,
    Close,
    Connect,
    Connection,
    Event,
    FetchKey,
    Halt,
    LogIn,
    State,
    Stream,
)
from daemon.ingest.venues.venue import SessionFault

LINK_TIMEOUT_S = 100.0


def connection(random: float = 1.0, *, needs_login: bool = False) -> Connection:
    return Connection(
        backoff_first_s=1.0,
        backoff_max_s=60.0,
        slot_held_backoff_s=20.0,
        link_timeout_s=LINK_TIMEOUT_S,
        random=lambda: random,
        needs_login=needs_login,
    )


def opened(now: float = 0.0, random: float = 1.0) -> Connection:
    subject = connection(random)
    for event in (Event.STARTED, Event.KEY_OBTAINED, Event.OPENED):
        subject.handle(event, now)
    return subject


def reopen(subject: Connection, now: float) -> None:
    for event in (Event.BACKED_OFF, Event.KEY_OBTAINED, Event.OPENED):
        subject.handle(event, now)


@pytest.mark.requirement("CONN-READY-01")
def test_a_connection_fetches_its_key_then_connects_then_subscribes() -> None:
    subject = connection()

    assert subject.handle(Event.STARTED, 0.0) == [FetchKey(refresh=False)]
    assert subject.handle(Event.KEY_OBTAINED, 0.0) == [Connect()]
    assert subject.handle(Event.OPENED, 0.0) == [Stream()]
    assert subject.state is State.READY


@pytest.mark.requirement("CONN-READY-01")
def test_subscribing_is_never_asked_for_before_the_connection_is_open() -> None:
    for source, events in TRANSITIONS.items():
        if source not in (State.CONNECTING, State.LOGGING_IN):
            assert State.READY not in events.values()


@pytest.mark.requirement("CONN-READY-01")
def test_a_venue_that_wants_a_login_is_subscribed_to_only_after_it_has_accepted_us() -> None:
    subject = connection(needs_login=True)
    subject.handle(Event.STARTED, 0.0)
    subject.handle(Event.KEY_OBTAINED, 0.0)

    states = [subject.state]
    assert subject.handle(Event.OPENED, 0.0) == [LogIn()]
    states.append(subject.state)
    assert subject.on_frames(1, 0.5) is None
    assert subject.handle(Event.LOGGED_IN, 1.0) == [Stream()]
    states.append(subject.state)
    assert states == [State.CONNECTING, State.LOGGING_IN, State.READY]


def test_a_login_that_is_not_answered_is_given_up_and_backed_off() -> None:
    subject = connection(needs_login=True)
    for event in (Event.STARTED, Event.KEY_OBTAINED, Event.OPENED):
        subject.handle(event, 0.0)

    assert subject.handle(Event.LOGIN_TIMED_OUT, 10.0) == [Close("login timed out"), BackOff(1.0, "login timed out")]


@pytest.mark.requirement("KEY-01")
def test_a_key_that_is_refused_at_the_login_is_refreshed() -> None:
    subject = connection(needs_login=True)
    for event in (Event.STARTED, Event.KEY_OBTAINED, Event.OPENED):
        subject.handle(event, 0.0)

    assert subject.handle(Event.KEY_EXPIRED, 0.1) == [Close("key expired"), FetchKey(refresh=True)]


def test_a_session_that_a_newer_one_has_taken_over_is_never_tried_again() -> None:
    subject = opened()

    assert subject.handle(Event.SUPERSEDED, 1.0) == [Close("superseded"), Halt("superseded", is_fault=True)]
    assert subject.state is State.STOPPED


@pytest.mark.requirement("WDG-01")
def test_a_session_without_data_is_closed_and_made_anew() -> None:
    subject = opened()

    assert subject.handle(Event.DATA_SILENT, 180.0) == [Close("data silent"), BackOff(1.0, "data silent")]


def test_the_first_frame_of_any_kind_makes_it_streaming() -> None:
    subject = opened()

    assert subject.on_frames(0, 1.0) is None
    assert subject.on_frames(1, 2.0) is Event.FRAME_SEEN
    assert subject.handle(Event.FRAME_SEEN, 2.0) == []
    assert subject.state is State.STREAMING
    assert subject.on_frames(2, 3.0) is None


def test_a_lost_connection_backs_off_and_then_starts_again() -> None:
    subject = opened()

    assert subject.handle(Event.LOST, 5.0) == [BackOff(1.0, "lost")]
    assert subject.handle(Event.BACKED_OFF, 6.0) == [FetchKey(refresh=False)]


def test_delays_double_up_to_the_maximum_and_are_jittered_down_to_zero() -> None:
    for random, expected in ((1.0, [1, 2, 4, 8, 16, 32, 60, 60]), (0.5, [0.5, 1, 2, 4, 8, 16, 30, 30]), (0.0, [0] * 8)):
        subject = connection(random)
        subject.handle(Event.STARTED, 0.0)
        delays = []
        for _ in expected:
            subject.handle(Event.KEY_OBTAINED, 0.0)
            (action,) = subject.handle(Event.OPEN_FAILED, 0.0)
            assert isinstance(action, BackOff)
            delays.append(action.delay_s)
            subject.handle(Event.BACKED_OFF, 0.0)

        assert delays == pytest.approx(expected)


def test_a_venue_that_accepts_and_kicks_is_not_asked_at_full_speed() -> None:
    subject = opened()
    now, delays = 0.0, []
    for _ in range(5):
        subject.on_frames(1, now)
        subject.handle(Event.FRAME_SEEN, now)
        now += 1.0
        (action,) = subject.handle(Event.LOST, now)
        assert isinstance(action, BackOff)
        delays.append(action.delay_s)
        now += action.delay_s
        reopen(subject, now)

    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_session_that_streamed_for_a_while_ends_the_series_of_failures() -> None:
    subject = opened()
    subject.handle(Event.LOST, 0.0)
    reopen(subject, 1.0)
    subject.handle(Event.LOST, 1.0)
    reopen(subject, 3.0)
    subject.handle(Event.FRAME_SEEN, 3.0)

    assert subject.handle(Event.LOST, 3.0 + HEALTHY_AFTER_S) == [BackOff(1.0, "lost")]


def test_a_held_slot_is_left_alone_for_at_least_twenty_seconds_and_longer_each_time() -> None:
    for random in (0.0, 0.999):
        subject = opened(random=random)
        now, bases = 0.0, [20.0, 40.0, 80.0, 160.0, SLOT_HELD_MAX_S, SLOT_HELD_MAX_S]
        for base in bases:
            close, back_off = subject.handle(Event.SLOT_HELD, now)
            assert close == Close("slot held")
            assert isinstance(back_off, BackOff)
            assert base <= back_off.delay_s <= base * 1.25
            now += back_off.delay_s
            reopen(subject, now)


@pytest.mark.requirement("KEY-01")
def test_an_expired_key_is_refreshed_once_and_the_connection_made_anew() -> None:
    subject = opened()

    assert subject.handle(Event.KEY_EXPIRED, 0.1) == [Close("key expired"), FetchKey(refresh=True)]
    assert subject.handle(Event.KEY_OBTAINED, 0.2) == [Connect()]


@pytest.mark.requirement("KEY-01")
def test_a_venue_that_refuses_the_new_key_too_is_given_time_and_never_looped_on() -> None:
    subject = opened()
    subject.handle(Event.KEY_EXPIRED, 0.1)
    now, delays = 0.2, []
    for _ in range(4):
        subject.handle(Event.KEY_OBTAINED, now)
        subject.handle(Event.OPENED, now)
        close, back_off = subject.handle(Event.KEY_EXPIRED, now)
        assert close == Close("key still refused")
        assert isinstance(back_off, BackOff)
        delays.append(back_off.delay_s)
        now += back_off.delay_s
        assert subject.handle(Event.BACKED_OFF, now) == [FetchKey(refresh=True)]

    assert delays == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.requirement("KEY-01")
def test_after_a_healthy_session_an_expired_key_is_refreshed_at_once_again() -> None:
    subject = opened()
    subject.handle(Event.KEY_EXPIRED, 0.0)
    subject.handle(Event.KEY_OBTAINED, 0.0)
    subject.handle(Event.OPENED, 0.0)
    subject.handle(Event.FRAME_SEEN, 0.0)

    assert subject.handle(Event.KEY_EXPIRED, 86_400.0) == [Close("key expired"), FetchKey(refresh=True)]


@pytest.mark.requirement("KEY-01")
def test_a_failed_refresh_backs_off() -> None:
    subject = opened()
    subject.handle(Event.KEY_EXPIRED, 0.0)

    assert subject.handle(Event.KEY_UNAVAILABLE, 0.0) == [BackOff(1.0, "key unavailable")]


@pytest.mark.requirement("KEY-01")
def test_wrong_credentials_stop_the_connection_for_good() -> None:
    asking, streaming = connection(), opened()
    asking.handle(Event.STARTED, 0.0)

    assert asking.handle(Event.CREDENTIAL_REFUSED, 0.0) == [Halt("credential refused", is_fault=True)]
    assert streaming.handle(Event.CREDENTIAL_REFUSED, 0.0) == [
        Close("credential refused"),
        Halt("credential refused", is_fault=True),
    ]
    assert (asking.state, streaming.state) == (State.STOPPED, State.STOPPED)


@pytest.mark.requirement("WDG-01")
def test_a_link_without_any_frame_is_closed_and_made_anew() -> None:
    subject = opened(now=1000.0)

    assert subject.next_deadline() == 1000.0 + LINK_TIMEOUT_S
    assert subject.on_frames(0, 1000.0 + LINK_TIMEOUT_S - 0.1) is None
    assert subject.on_frames(0, 1000.0 + LINK_TIMEOUT_S) is Event.LINK_SILENT
    assert subject.handle(Event.LINK_SILENT, 1100.0) == [Close("link silent"), BackOff(1.0, "link silent")]


@pytest.mark.requirement("WDG-01")
def test_every_frame_feeds_the_link_watchdog() -> None:
    subject = opened()
    for number in range(1, 20):
        event = subject.on_frames(number, number * (LINK_TIMEOUT_S - 1.0))
        assert event is not Event.LINK_SILENT
        if event is not None:
            subject.handle(event, 0.0)


@pytest.mark.requirement("WDG-01")
def test_a_socket_that_we_paused_ourselves_is_not_silent() -> None:
    subject = opened()

    subject.on_paused(LINK_TIMEOUT_S)

    assert subject.on_frames(0, LINK_TIMEOUT_S + 1.0) is None
    assert subject.on_frames(0, 2 * LINK_TIMEOUT_S) is Event.LINK_SILENT


def test_a_closed_connection_has_no_watchdog() -> None:
    subject = opened()
    subject.handle(Event.LOST, 0.0)

    assert subject.on_frames(0, 10_000.0) is None
    assert subject.next_deadline() is None


def test_a_stop_closes_an_open_socket_and_is_no_fault() -> None:
    subject = opened()

    assert subject.handle(Event.STOP_REQUESTED, 0.0) == [
        Close("stop requested"),
        Halt("stop requested", is_fault=False),
    ]
    assert subject.handle(Event.STOP_REQUESTED, 0.0) == []


def test_every_state_can_be_stopped() -> None:
    for events in TRANSITIONS.values():
        assert events[Event.STOP_REQUESTED] is State.STOPPED


def test_every_fault_of_a_session_has_an_event() -> None:
    assert set(SESSION_FAULT_EVENTS) == set(SessionFault)


def test_an_event_that_the_table_does_not_list_is_our_bug() -> None:
    with pytest.raises(InvariantBroken, match=r"Event\.OPENED in State\.IDLE"):
        connection().handle(Event.OPENED, 0.0)
