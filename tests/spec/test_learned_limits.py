"""Limits learned from refusals: kept, checked, and never believed when they cannot be right."""

import datetime
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.learned_limits import LearnedLimits

NOW = datetime.datetime(2026, 11, 23, 9, 0, tzinfo=datetime.timezone(datetime.timedelta(hours=9)))


def limits_in(data_dir: Path) -> LearnedLimits:
    return LearnedLimits(data_dir, now=lambda: NOW)


def files(data_dir: Path) -> list[str]:
    return sorted(path.name for path in (data_dir / "state" / "limits").glob("*"))


@pytest.mark.requirement("F08")
def test_a_limit_is_kept_across_restarts_with_its_date(tmp_path: Path) -> None:
    assert limits_in(tmp_path).record("main", 20, NOW)

    found = limits_in(tmp_path).read("main")

    assert found is not None
    assert (found.limit, found.learned_at) == (20, NOW)
    assert limits_in(tmp_path).get("main") == 20
    assert limits_in(tmp_path).path("main").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state" / "limits").stat().st_mode & 0o777 == 0o700


def test_nothing_is_known_of_an_account_that_was_never_refused_and_nothing_is_made(tmp_path: Path) -> None:
    assert limits_in(tmp_path).get("main") is None
    assert limits_in(tmp_path / "none" / "such").all_of(["main"]) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.requirement("F08")
def test_a_limit_is_never_below_what_the_venue_has_confirmed(tmp_path: Path) -> None:
    limits = limits_in(tmp_path)

    assert limits.record("main", 3, NOW, confirmed=20)
    assert limits.get("main") == 20


@pytest.mark.parametrize("limit", [0, -1])
def test_a_session_that_is_refused_everything_teaches_nothing(tmp_path: Path, limit: int) -> None:
    assert not limits_in(tmp_path).record("main", limit, NOW)
    assert limits_in(tmp_path).get("main") is None


def test_only_news_is_written_and_the_newest_counts(tmp_path: Path) -> None:
    limits = limits_in(tmp_path)

    assert [limits.record("main", limit, NOW) for limit in (20, 20, 25, 20)] == [True, False, True, True]
    assert limits.get("main") == 20


def test_deleting_the_file_forgets_the_limit(tmp_path: Path) -> None:
    limits = limits_in(tmp_path)
    limits.record("main", 20, NOW)

    limits.path("main").unlink()

    assert limits.get("main") is None


@pytest.mark.parametrize("name", ["a/b", "../../etc/passwd", "계좌", "x" * 500, "a b", "."])
def test_any_name_of_an_account_is_one_file_of_its_own(tmp_path: Path, name: str) -> None:
    limits = limits_in(tmp_path)
    limits.record(name, 7, NOW)
    limits.record(name + "!", 8, NOW)

    assert limits.all_of([name, name + "!", "other"]) == {name: 7, name + "!": 8}
    assert len(files(tmp_path)) == 2


@given(st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_file_is_moved_aside_and_never_believed(tmp_path: Path, data: st.DataObject) -> None:
    limits = limits_in(tmp_path)
    limits.record("main", 20, NOW)
    content = bytearray(limits.path("main").read_bytes())
    place = data.draw(st.integers(0, len(content) - 2))  # the line's end says nothing
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    limits.path("main").write_bytes(content)

    assert limits.get("main") in (None, 20)  # the order of JSON's characters may change without a change of meaning
    assert limits.record("main", 21, NOW)
    assert limits.get("main") == 21


def test_a_damaged_file_is_reported_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = limits_in(tmp_path)
    limits.record("main", 20, NOW)
    path = limits.path("main")
    path.write_bytes(path.read_bytes().replace(b"20", b"99", 1))

    assert limits.get("main") is None

    (aside,) = files(tmp_path)
    assert aside.startswith(f"{path.name}.damaged-")


def test_a_disk_that_takes_nothing_is_an_error_and_the_old_limit_stays(tmp_path: Path) -> None:
    limits = limits_in(tmp_path)
    limits.record("main", 20, NOW)
    path = limits.path("main")
    obstacle = path.with_name(f"{path.name}.{multiprocessing.current_process().pid}.new")
    obstacle.mkdir()  # as good as a full disk: opening the file is an OSError

    with pytest.raises(OSError, match="Is a directory"):
        limits.record("main", 10, NOW)

    assert limits.get("main") == 20


def record_many(data_dir: Path, account: str) -> None:
    limits = limits_in(data_dir)
    for limit in range(1, 101):
        limits.record(account, limit, NOW)
        limits.record("shared", limit, NOW)


def test_writers_at_the_same_time_never_damage_each_others_files(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=record_many, args=(tmp_path, f"a{number}")) for number in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)

    assert [writer.exitcode for writer in writers] == [0, 0]
    found = limits_in(tmp_path).all_of(["a0", "a1", "shared"])
    assert (found["a0"], found["a1"]) == (100, 100)
    assert 1 <= found["shared"] <= 100
    assert not [name for name in files(tmp_path) if not name.endswith(".json")]
