"""Which capture files go: the old ones, then the oldest while the disk is full, never those of the last two days."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.recording.capture import HOUR_NS
from daemon.recording.retention import Disk, StoredFile, Verdict, judge

pytestmark = pytest.mark.requirement("RAW-01")

NOW_H = 500_000
POLICY = {"keep_h": 120, "protect_h": 48, "disk_percent": 90.0}


def file(age_h: int, size: int = 1) -> StoredFile:
    """A file whose hour ended so long ago."""
    return StoredFile(f"kis_{age_h}", (NOW_H - age_h - 1) * HOUR_NS, size)


def verdict(files: list[StoredFile], used: int, free: int) -> Verdict:
    return judge(files, now_ns=NOW_H * HOUR_NS, disk=Disk(used, free), **POLICY)  # type: ignore[arg-type]


def test_what_is_older_than_five_days_goes_and_nothing_else() -> None:
    found = verdict([file(age) for age in (0, 48, 119, 120, 121, 300)], used=1, free=99)

    assert Verdict(("kis_300", "kis_121"), is_still_full=False) == found


def test_on_a_full_disk_the_oldest_go_until_there_is_room() -> None:
    found = verdict([file(age, size=2) for age in (60, 70, 80, 90)], used=92, free=8)

    assert Verdict(("kis_90", "kis_80"), is_still_full=False) == found


def test_the_last_two_days_stay_even_if_that_is_not_enough() -> None:
    found = verdict([file(age) for age in (-1, 0, 47, 48, 49)], used=99, free=1)

    assert Verdict(("kis_49", "kis_48"), is_still_full=True) == found


def test_an_empty_file_system_counts_as_full() -> None:
    assert verdict([file(60)], used=0, free=0) == Verdict(("kis_60",), is_still_full=True)
    assert Disk(0, 0).used_percent == 100.0
    assert Disk(90, 10).used_percent == 90.0


@given(
    ages=st.lists(st.tuples(st.integers(-5, 400), st.integers(0, 50)), max_size=40),
    used=st.integers(0, 1000),
    free=st.integers(0, 1000),
)
def test_whatever_the_disk_says(ages: list[tuple[int, int]], used: int, free: int) -> None:
    files = [file(age, size) for age, size in ages]
    found = verdict(files, used, free)

    deleted = [each for each in files if each.name in found.delete]
    age_of = {each.name: age for (age, _), each in zip(ages, files, strict=True)}
    assert all(age_of[name] >= 48 for name in found.delete)
    assert all(age <= 120 for name, age in age_of.items() if name not in found.delete)
    left = max(0, used - sum(each.bytes for each in deleted))
    assert found.is_still_full == (left * 100 >= 90 * (used + free))
    if found.is_still_full:  # nothing was spared that might have gone
        assert {name for name, age in age_of.items() if age >= 48} == set(found.delete)
    in_time = [name for name in found.delete if age_of[name] <= 120]
    if in_time:  # only because of the disk, and the last of them was needed
        last = next(each for each in files if each.name == in_time[-1])
        needed = left + sum(each.bytes for each in deleted if each.name == last.name)
        assert needed * 100 >= 90 * (used + free)
    assert list(found.delete) == sorted(found.delete, key=lambda name: -age_of[name])
