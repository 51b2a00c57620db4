"""Faults of every kind at random, from a seed: whatever happens, the journal and the tables agree."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.chaos.network_rig import NetworkRig
from tests.chaos.schedule import FAULTS, Stage, plan

RATE = 2_000.0
STEPS = 6
NIGHTLY_RUNS = 40


def run_schedule(directory: Path, postgres: EmbeddedPostgres, redis_server: EmbeddedRedis, seed: str) -> None:
    """One daemon, STEPS faults, the verdict."""
    steps = list(plan(seed, STEPS))
    with ExitStack() as stack:
        settings: dict[str, Any] = {"link_timeout_s": 2.0, "connect_timeout_s": 2.0, "connects_per_10min": 100_000}
        rig = NetworkRig(
            directory, postgres.dsn, redis_server.url, accounts=2, workers=2, symbols=4,
            connects_per_10min_address=100_000, **settings,
        )  # fmt: skip
        stack.enter_context(rig)
        rig.start(rate=RATE, extra=("--pingpong-interval", "0.3", "--pingpong-timeout", "2"))
        stage = Stage(rig, postgres, redis_server)
        try:
            for step in steps:
                stage.perform(step)
            stage.recover()
            rig.wait_received(1_000)
            rig.finish()
        except BaseException as exc:
            exc.add_note(f"chaos seed {seed}: {[step.fault for step in steps]}")
            raise


@pytest.mark.requirement("F67", "CH-PROC-01", "CH-RES-01", "CH-NET-01")
def test_a_random_schedule_of_faults_loses_doubles_and_invents_nothing(
    tmp_path: Path,
    own_postgres: Callable[[], EmbeddedPostgres],
    own_redis: Callable[[], EmbeddedRedis],
    chaos_seed: str,
) -> None:
    run_schedule(tmp_path, own_postgres(), own_redis(), chaos_seed)


@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.requirement("F67", "F28", "F48")
@pytest.mark.parametrize("number", range(NIGHTLY_RUNS))
def test_many_random_schedules_of_faults_lose_double_and_invent_nothing(
    tmp_path: Path,
    own_postgres: Callable[[], EmbeddedPostgres],
    own_redis: Callable[[], EmbeddedRedis],
    chaos_seed: str,
    number: int,
) -> None:
    run_schedule(tmp_path, own_postgres(), own_redis(), f"{chaos_seed}-{number}")


@pytest.mark.requirement("F67")
def test_a_schedule_is_the_same_for_the_same_seed_and_every_fault_has_its_turn() -> None:
    assert list(plan("7", 50)) == list(plan("7", 50))
    assert list(plan("7", 50)) != list(plan("8", 50))
    assert {step.fault for step in plan("9", 1_000)} == set(FAULTS)
