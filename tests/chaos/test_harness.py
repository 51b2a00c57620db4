"""The acceptance harness: real processes and servers, everything broken at random, the verdict of a foreign journal."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.chaos.harness import Harness
from tests.chaos.harness_faults import (
    DESTRUCTIVE,
    FAULTS,
    NEEDS_SMALL_DISK,
    Fault,
    everything_killed_in_recovery,
    run_faults,
)
from tests.chaos.harness_verdict import Verdict, judge

RATE = 1_500.0
STEPS = 6
NIGHTLY_RUNS = 40
SMALL_DISK_BYTES = 1 << 20

Servers = tuple[EmbeddedPostgres, EmbeddedRedis]


@pytest.fixture
def servers(own_postgres: Callable[[], EmbeddedPostgres], own_redis: Callable[[], EmbeddedRedis]) -> Servers:
    """Servers that may be killed."""
    return own_postgres(), own_redis()


def break_and_judge(
    directory: Path, servers: Servers, seed: str, steps: int, faults: tuple[Fault, ...], rate: float = RATE
) -> Verdict:
    """One run; what was done is in the notes of its failure."""
    with Harness(directory, *servers, rate=rate, seed=seed) as harness:
        done = run_faults(harness, seed, steps, faults)
        try:
            return harness.finish()
        except BaseException as exc:
            exc.add_note(f"seed {seed}: {done}")
            raise


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A data directory whose spill directory is a file system of its own, of one megabyte."""
    directory = tmp_path / "run" / "data" / "failed_batches"
    directory.mkdir(parents=True, mode=0o700)
    directory.parent.chmod(0o700)
    options = f"size={SMALL_DISK_BYTES},mode=700"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    yield tmp_path / "run"
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.mark.requirement("F67", "F28", "F46", "DLP-02", "DLP-03", "E2E-OBS-01")
def test_nothing_is_lost_or_doubled_when_everything_dies_during_recovery(servers: Servers, tmp_path: Path) -> None:
    directory = tmp_path / "run"

    verdict = break_and_judge(directory, servers, "short", 1, (everything_killed_in_recovery,), rate=500.0)

    assert verdict.sent > 500
    tampered_with = {  # the verdict would have seen it
        # the newest that no gap covers: what a gap tells is not lost
        "lost_on_open_sockets": "DELETE FROM market_ticks WHERE (symbol, cum_volume) = (SELECT symbol, cum_volume"
        " FROM market_ticks AS tick WHERE NOT EXISTS (SELECT FROM feed_gaps AS gap WHERE gap.symbol = tick.symbol"
        " AND recv_time BETWEEN started - INTERVAL '0.1 s' AND ended + INTERVAL '0.1 s')"
        " ORDER BY recv_time DESC LIMIT 1)",
        "doubled": "INSERT INTO market_orderbook SELECT * FROM market_orderbook LIMIT 1",
        "altered": "UPDATE market_orderbook SET bid_vol10 = bid_vol10 + 1 WHERE seq = (SELECT min(seq)"
        " FROM market_orderbook WHERE source = 0) AND source = 0",
        "unknown": "UPDATE quarantine SET frame = 'x' WHERE seq = (SELECT min(seq) FROM quarantine)",
    }
    with psycopg.connect(servers[0].dsn, autocommit=True) as connection:
        for statement in tampered_with.values():
            assert connection.execute(statement).rowcount >= 1
    seen = judge(servers[0].dsn, directory / "journal")
    assert all(getattr(seen, name) for name in ("lost", *tampered_with)), seen


@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.parametrize("run", range(NIGHTLY_RUNS))
@pytest.mark.requirement("F67", "F26", "F28", "F29", "F30", "F31", "F36", "F46", "F48", "F49", "F56", "CH-PROC-01")
def test_nothing_is_lost_or_doubled_whatever_breaks(
    servers: Servers, tmp_path: Path, chaos_seed: str, run: int
) -> None:
    break_and_judge(tmp_path / "run", servers, f"{chaos_seed}-{run}", STEPS, FAULTS)


@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.parametrize("run", range(NIGHTLY_RUNS // 4))
@pytest.mark.requirement("F39", "F40", "BP-01")
def test_nothing_is_lost_when_the_disk_of_the_spill_files_is_full(
    servers: Servers, small_disk: Path, chaos_seed: str, run: int
) -> None:
    faults = (*FAULTS, *NEEDS_SMALL_DISK * 8)

    break_and_judge(small_disk, servers, f"{chaos_seed}-{run}", STEPS, faults)


@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.parametrize("run", range(NIGHTLY_RUNS // 4))
@pytest.mark.requirement("F37", "F42", "F43", "CH-PROC-01")
def test_what_was_in_a_destroyed_file_is_a_gap_and_nothing_else_is_missing(
    servers: Servers, tmp_path: Path, chaos_seed: str, run: int
) -> None:
    faults = (*FAULTS, *DESTRUCTIVE * 6)

    break_and_judge(tmp_path / "run", servers, f"{chaos_seed}-{run}", STEPS, faults)
