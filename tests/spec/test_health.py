"""Alive and ready: from readings alone."""

import pytest

from daemon.watching.health import dead_reasons, unready_reasons
from tests.spec.made_readings import CAPACITY, process, reading, ring

LIMIT_S = 30.0


def unready(*history: object) -> list[str]:
    return unready_reasons(history, silence_limit_s=LIMIT_S)  # type: ignore[arg-type]


def test_a_healthy_daemon_is_alive_and_ready() -> None:
    assert dead_reasons(reading(), silence_limit_s=LIMIT_S) == []
    assert unready(reading()) == []


def test_a_process_without_a_heartbeat_makes_the_daemon_neither_alive_nor_ready() -> None:
    silent = reading(writer=process("writer", silent_for_s=31.0, database_connected=1))

    assert dead_reasons(silent, silence_limit_s=LIMIT_S) == ["writer: no heartbeat for 31 s"]
    assert unready(silent) == ["writer: no heartbeat for 31 s"]


def test_a_process_that_has_not_started_yet_is_waited_for_as_long_as_a_heartbeat() -> None:
    young = reading(100.0, supervisor=process("supervisor", started_s=80.0), missing=("worker-1",))
    old = reading(100.0, supervisor=process("supervisor", started_s=60.0), missing=("worker-1",))

    assert dead_reasons(young, silence_limit_s=LIMIT_S) == []
    assert dead_reasons(old, silence_limit_s=LIMIT_S) == ["worker-1: has not started"]
    assert unready(young) == ["worker-1: has not started"]


@pytest.mark.parametrize("state", ["starting", "draining", "stopped"])
def test_a_process_in_any_state_but_running_makes_the_daemon_unready(state: str) -> None:
    stale_gauges = process("worker-0", state=state, connections_planned=2, connections_ready=2)

    assert unready(reading(worker=stale_gauges)) == [f"worker-0: is {state}"]


def test_every_planned_connection_must_stream() -> None:
    one_of_two = process("worker-0", connections_planned=2, connections_ready=1, subscriptions_confirmed=1)
    no_plan = process("worker-0")

    assert unready(reading(worker=one_of_two)) == ["worker-0: 1 of 2 connections stream"]
    assert unready(reading(worker=no_plan)) == ["worker-0: plans no connection yet"]


@pytest.mark.requirement("SUB-RETRY-01")
@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"subscriptions_confirmed": 0}, "no subscription is confirmed"),
        ({"subscriptions_confirmed": 3, "subscriptions_pending": 1}, "1 subscriptions wait for the venue's answer"),
        ({"subscriptions_confirmed": 3, "subscriptions_failed": 2}, "2 subscriptions failed"),
    ],
)
def test_every_planned_subscription_must_be_confirmed(counts: dict[str, int], reason: str) -> None:
    worker = process("worker-0", connections_planned=1, connections_ready=1, **counts)

    assert unready(reading(worker=worker)) == [f"worker-0: {reason}"]
    assert dead_reasons(reading(worker=worker), silence_limit_s=LIMIT_S) == []


def test_the_database_must_be_connected() -> None:
    assert unready(reading(writer=process("writer"))) == ["writer: the database is not connected"]


def test_a_quarter_of_a_ring_may_wait_for_the_writer() -> None:
    quarter = ring(head=CAPACITY, writer=CAPACITY - CAPACITY // 4)
    more = ring(head=CAPACITY, writer=CAPACITY // 2)

    assert unready(reading(rings=(quarter,))) == []
    assert unready(reading(rings=(more,))) == ["worker-0: 50% of the ring waits for the writer"]


def test_records_may_wait_five_seconds_for_the_writer() -> None:
    then = reading(100.0, rings=(ring(head=1000, writer=500),))
    still_waiting = (ring(head=2000, writer=999),)
    late = ["worker-0: records wait for the writer for more than 5 s"]

    assert unready(then, reading(104.9, rings=still_waiting)) == []
    assert unready(then, reading(105.0, rings=still_waiting)) == late


def test_a_writer_that_is_behind_but_committed_everything_older_than_five_seconds_keeps_up() -> None:
    then = reading(100.0, rings=(ring(head=1000, writer=500),))

    assert unready(then, reading(105.0, rings=(ring(head=9000, writer=1000),))) == []


def test_a_slow_publisher_does_not_make_the_daemon_unready() -> None:
    then = reading(100.0, rings=(ring(head=CAPACITY, publisher=0),))

    assert unready(then, reading(110.0, rings=(ring(head=CAPACITY, publisher=0),))) == []
