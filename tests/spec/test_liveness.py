"""Heartbeats to verdicts."""

import pytest

from daemon.supervision.liveness import ALIVE, Verdict, Vital, judge

LIMIT_NS = 30
NEVER_PAUSED = 0


def vital(*, heartbeat_ns: int, spawned_ns: int = 0, pid: int = 7, block_pid: int = 7) -> Vital:
    return Vital(
        name="writer", pid=pid, spawned_mono_ns=spawned_ns, block_pid=block_pid, heartbeat_mono_ns=heartbeat_ns
    )


def verdict(one: Vital, now_ns: int, watching_since_ns: int = NEVER_PAUSED) -> Verdict:
    return judge([one], now_ns, limit_ns=LIMIT_NS, watching_since_ns=watching_since_ns)["writer"]


@pytest.mark.requirement("CH-PROC-01")
@pytest.mark.parametrize(("silence_ns", "expected"), [(0, Verdict.OK), (30, Verdict.OK), (31, Verdict.HUNG)])
def test_a_process_is_hung_when_its_heartbeat_is_older_than_the_limit(silence_ns: int, expected: Verdict) -> None:
    assert verdict(vital(heartbeat_ns=100), now_ns=100 + silence_ns) is expected


@pytest.mark.parametrize(
    ("age_ns", "expected"), [(0, Verdict.STARTING), (30, Verdict.STARTING), (31, Verdict.NEVER_STARTED)]
)
def test_a_process_must_take_its_block_within_the_limit(age_ns: int, expected: Verdict) -> None:
    untouched = vital(heartbeat_ns=0, spawned_ns=100, block_pid=0)

    assert verdict(untouched, now_ns=100 + age_ns) is expected


def test_the_heartbeat_of_a_predecessor_says_nothing_about_its_successor() -> None:
    fresh_beat_of_another = vital(heartbeat_ns=199, spawned_ns=100, pid=8, block_pid=7)

    assert verdict(fresh_beat_of_another, now_ns=200) is Verdict.NEVER_STARTED


def test_silence_while_the_judge_itself_stood_still_proves_nothing() -> None:
    silent = vital(heartbeat_ns=100)

    assert verdict(silent, now_ns=1000, watching_since_ns=990) is Verdict.OK
    assert verdict(silent, now_ns=1021, watching_since_ns=990) is Verdict.HUNG


def test_each_process_gets_its_own_verdict() -> None:
    writer = vital(heartbeat_ns=0)
    worker = Vital(name="worker-0", pid=8, spawned_mono_ns=0, block_pid=8, heartbeat_mono_ns=90)

    assert judge([writer, worker], 100, limit_ns=LIMIT_NS, watching_since_ns=NEVER_PAUSED) == {
        "writer": Verdict.HUNG,
        "worker-0": Verdict.OK,
    }


def test_only_ok_and_starting_are_alive() -> None:
    assert {Verdict.OK, Verdict.STARTING} == ALIVE
