"""Counters in shared memory: names, who may write, percentiles."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from native_pipeline.counters import (
    BLOCK_BYTES,
    COUNTER_IDS,
    COUNTERS,
    HISTOGRAM_BUCKETS,
    CountersBlock,
    bucket_upper_us,
    create_counters_file,
    percentile_us,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_counters_file(tmp_path / "counters", 3)
    return tmp_path / "counters"


def test_a_block_that_nobody_took_has_no_snapshot(path: Path) -> None:
    assert CountersBlock(path, 1, writable=False).snapshot() is None


def test_what_a_process_counts_is_read_by_another_mapping(path: Path) -> None:
    block, other = CountersBlock(path, 1), CountersBlock(path, 1, writable=False)
    block.take("worker-0")
    block.increment("frames_received", 5)
    block.set("connections_ready", 2)
    block.set_state(3)
    block.observe_ns(0, 1_500_000, 4)

    snapshot = other.snapshot()

    assert snapshot is not None
    assert ("worker-0", os.getpid(), 1, 3) == (
        snapshot["role"], snapshot["pid"], snapshot["starts"], snapshot["state"],
    )  # fmt: skip
    assert (snapshot["values"]["frames_received"], other.get("connections_ready")) == (5, 2)
    assert sum(snapshot["histograms"][0]) == 4
    assert CountersBlock(path, 0).snapshot() is None
    assert CountersBlock(path, 2).snapshot() is None


def test_a_successor_goes_on_counting(path: Path) -> None:
    first = CountersBlock(path, 0)
    first.take("writer")
    first.increment("rows_committed", 7)
    create_counters_file(path, 3)  # as at the next start

    second = CountersBlock(path, 0)
    second.take("writer")
    second.increment("rows_committed")

    snapshot = second.snapshot()
    assert snapshot is not None
    assert (snapshot["values"]["rows_committed"], snapshot["starts"]) == (8, 2)


def test_a_block_opened_for_reading_refuses_every_write(path: Path) -> None:
    block = CountersBlock(path, 0, writable=False)
    writes: tuple[Callable[[], None], ...] = (
        lambda: block.take("writer"), block.heartbeat, lambda: block.set_state(1),
        lambda: block.increment("restarts"), lambda: block.set("restarts", 1), lambda: block.observe_ns(0, 1),
    )  # fmt: skip
    for write in writes:
        with pytest.raises(ValueError, match="for reading only"):
            write()


@pytest.mark.parametrize("index", [-1, 3, 1000])
def test_a_block_that_does_not_exist_is_refused(path: Path, index: int) -> None:
    with pytest.raises(ValueError, match=f"no block {index}"):
        CountersBlock(path, index)


def test_unknown_names_and_histograms_are_refused(path: Path) -> None:
    block = CountersBlock(path, 0)
    with pytest.raises(KeyError):
        block.increment("no_such_counter")
    with pytest.raises(ValueError, match="histogram 2"):
        block.observe_ns(2, 1)


def test_a_block_of_another_layout_version_has_no_snapshot(path: Path) -> None:
    CountersBlock(path, 0).take("writer")
    with path.open("r+b") as file:
        file.seek(8)
        file.write((99).to_bytes(4, "little"))
    assert CountersBlock(path, 0).snapshot() is None


@pytest.mark.requirement("F35", "F47")
def test_a_block_of_another_layout_version_begins_anew_when_it_is_taken(path: Path) -> None:
    block = CountersBlock(path, 0)
    block.take("writer")
    block.increment("rows_committed", 5)
    block.observe_ns(1, 1)
    CountersBlock(path, 1).take("publisher")
    with path.open("r+b") as file:
        file.seek(8)
        file.write((2).to_bytes(4, "little"))

    block.take("writer")

    snapshot = block.snapshot()
    assert snapshot is not None
    assert (snapshot["starts"], snapshot["values"]["rows_committed"], sum(snapshot["histograms"][1])) == (1, 0, 0)
    assert CountersBlock(path, 1).snapshot() is not None


def test_every_counter_has_a_name_a_unit_and_a_meaning() -> None:
    assert len(COUNTER_IDS) == len(COUNTERS)
    assert all(name and unit and meaning for name, unit, meaning in COUNTERS)
    assert BLOCK_BYTES == 8192


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_are_within_an_eighth_of_the_exact_ones(path: Path, seed: int) -> None:
    rng, block = random.Random(seed), CountersBlock(path, 0)
    block.take("worker-0")
    ages = sorted(int(rng.lognormvariate(6, 3)) for _ in range(3001))
    for age in ages:
        block.observe_ns(0, age * 1000 + rng.randrange(1000))
    snapshot = block.snapshot()
    assert snapshot is not None

    for fraction in (0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0):
        exact = ages[math.ceil(fraction * len(ages)) - 1]
        found = percentile_us(snapshot["histograms"][0], fraction)
        assert found is not None
        assert exact <= found <= exact * 1.125


def test_every_age_falls_into_the_bucket_whose_bounds_hold_it(path: Path) -> None:
    block = CountersBlock(path, 0)
    block.take("worker-0")
    edges = sorted({bucket_upper_us(bucket) + step for bucket in range(HISTOGRAM_BUCKETS - 9) for step in (0, 1)})
    for age in edges:
        before = block.snapshot()
        block.observe_ns(1, age * 1000)
        after = block.snapshot()
        assert before is not None
        assert after is not None
        bucket = next(b for b in range(HISTOGRAM_BUCKETS) if before["histograms"][1][b] != after["histograms"][1][b])
        assert age <= bucket_upper_us(bucket)
        assert bucket == 0 or age > bucket_upper_us(bucket - 1)


def test_a_negative_or_endless_age_is_kept_at_the_ends(path: Path) -> None:
    block = CountersBlock(path, 0)
    block.take("worker-0")
    block.observe_ns(0, -5)
    block.observe_ns(0, 2**63 - 1)
    snapshot = block.snapshot()
    assert snapshot is not None
    assert sum(snapshot["histograms"][0]) == 2
    assert snapshot["histograms"][0][0] == 1
    assert percentile_us([0] * HISTOGRAM_BUCKETS, 0.5) is None
