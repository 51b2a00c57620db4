"""Who carries what, without venues and symbols: the corner cases of the matching."""

from daemon.placement import Demand, Shortage, Standing, place

A, B = ("a0", "a2"), ("a1", "a3")  # the sides of a redundant feed
ROOM = dict.fromkeys(("a0", "a1", "a2", "a3"), 10)


def test_the_second_side_goes_beside_the_first_ones_worker_rather_than_to_the_emptiest_account() -> None:
    demands = [
        *[Demand("index", ("a0",))] * 2, Demand("index", ("a2",)), Demand("index", ("a1",)),
        *[Demand("index", ("a3",))] * 2, Demand("trade", A), Demand("trade", B, twin=6),
    ]  # fmt: skip
    standing = Standing(
        {"a0": [0, 1], "a2": [2], "a1": [3], "a3": [4, 5]}, {"a0": 0, "a1": 0, "a2": 1, "a3": 1}
    )  # fmt: skip

    placed = place(demands, ROOM, standing=standing).placed

    assert (6 in placed["a2"], 7 in placed["a3"]) == (True, True)
    assert 7 in place(demands, ROOM, standing=Standing(standing.accounts)).placed["a1"]


def test_room_is_made_through_several_accounts() -> None:
    demands = [
        Demand("trade", ("x", "y")),
        Demand("trade", ("y", "z")),
        Demand("trade", ("x",)),
        Demand("trade", ("y",)),
    ]
    standing = Standing({"x": [0], "y": [1]})

    found = place(demands, {"x": 1, "y": 2, "z": 1}, standing=standing)

    assert found.placed == {"x": [2], "y": [0, 3], "z": [1]}
    assert found.unplaced == []


def test_the_accounts_of_a_shortage_are_those_that_no_move_could_relieve() -> None:
    demands = [*[Demand("trade", ("x", "y"))] * 3, *[Demand("trade", ("y",))] * 2, *[Demand("trade", ("z",))] * 2]

    found = place(demands, {"x": 2, "y": 2, "z": 5})

    assert found.shortages == (Shortage(("x", "y"), needed=5, capacity=4),)
    assert found.unplaced == [4]
    assert found.shortages[0].excess == 1


def test_nothing_to_place_is_placed() -> None:
    assert place([], {"x": 1}).placed == {"x": []}
