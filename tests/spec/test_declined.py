"""Registrations that one session could not have: kept for a day, preferred elsewhere, never left out."""

import datetime
from pathlib import Path

import pytest

from daemon.declined import DeclinedRegistrations
from daemon.learned_limits import RETRY_AFTER, Lapses, LearnedLimits
from daemon.placement import Demand, Standing, place

NOW = datetime.datetime(2026, 11, 23, 9, 0, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)
ONE, OTHER = ("TRADES", "005930"), ("TRADES", "000660")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime.datetime:
        return self.now


@pytest.mark.requirement("SUB-RETRY-01")
def test_only_news_is_kept_and_for_a_day(tmp_path: Path) -> None:
    clock = Clock()
    declined = DeclinedRegistrations(tmp_path, now=clock)

    assert [declined.record("a/b", {ONE: "no reply"}) for _ in range(2)] == [True, False]
    clock.now += RETRY_AFTER - SECOND
    assert declined.record("a/b", {ONE: "again", OTHER: "no reply"})
    assert declined.all_of(["a/b", "c"]) == {"a/b": {ONE, OTHER}}

    clock.now += SECOND
    assert declined.all_of(["a/b"]) == {"a/b": {OTHER}}
    assert declined.record("a/b", {ONE: "again"})
    assert declined.path("a/b").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"account":"other","declined":[]}'])
def test_a_file_that_cannot_be_read_costs_the_preference_only(tmp_path: Path, content: bytes) -> None:
    declined = DeclinedRegistrations(tmp_path)
    declined.record("a", {ONE: "x"})
    declined.path("a").write_bytes(content)

    assert declined.all_of(["a"]) == {}


def test_reading_makes_nothing(tmp_path: Path) -> None:
    assert DeclinedRegistrations(tmp_path).all_of(["a"]) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.requirement("F08")
def test_a_limit_is_put_to_the_test_after_a_day_and_that_is_noticed_once(tmp_path: Path) -> None:
    clock = Clock()
    limits = LearnedLimits(tmp_path, now=clock)
    lapses = Lapses(limits)
    limits.record("a", 20, NOW)

    assert lapses.count(["a", "b"]) == 0
    clock.now += RETRY_AFTER
    assert [lapses.count(["a", "b"]) for _ in range(2)] == [1, 0]
    assert limits.get("a") is None
    assert limits.read("a") is not None

    assert limits.record("a", 20, clock.now)  # refused again
    assert limits.get("a") == 20


@pytest.mark.requirement("SUB-RETRY-01")
def test_what_an_account_declined_moves_to_one_with_room_and_nothing_else_does() -> None:
    demands = [Demand("trade", ("x", "y"), avoid=("x",)), Demand("trade", ("x", "y")), Demand("trade", ("x", "y"))]

    found = place(demands, {"x": 3, "y": 3}, standing=Standing({"x": [0, 1], "y": [2]}))

    assert found.placed == {"x": [1], "y": [2, 0]}


@pytest.mark.requirement("SUB-RETRY-01")
def test_without_room_elsewhere_it_stays_where_it_is_and_is_not_left_out() -> None:
    pool = ("x", "y", "z")
    demands = [Demand("trade", pool, avoid=("x", "z")), *[Demand("trade", pool)] * 3]

    # the other account that declined it is emptier each time
    for standing in ({"x": [], "y": [1], "z": [0, 2, 3]}, {"x": [0, 2, 3], "y": [1], "z": []}):
        found = place(demands, {"x": 4, "y": 1, "z": 4}, standing=Standing(standing))

        assert {account: sorted(numbers) for account, numbers in found.placed.items()} == standing
        assert found.unplaced == []


@pytest.mark.requirement("SUB-RETRY-01")
def test_an_account_for_order_books_takes_a_trade_that_the_one_for_trades_declined() -> None:
    demands = [Demand("trade", ("x", "y"), avoid=("x",)), Demand("orderbook", ("x", "y"))]

    found = place(demands, {"x": 3, "y": 3}, standing=Standing({"x": [0], "y": [1]}))

    assert found.placed == {"x": [], "y": [1, 0]}
