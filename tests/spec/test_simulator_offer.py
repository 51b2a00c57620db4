"""The load is open loop: a record is due at its time, whether or not the last one was late."""

from daemon.simulator.offer import Burst, Pacer


def test_records_are_due_in_proportion_to_time() -> None:
    pacer = Pacer(rate=1000)

    taken = [pacer.due(now_s, is_offering=True) for now_s in (10.0, 10.5, 10.625, 12.0)]

    assert taken == [0, 500, 125, 1375]


def test_what_was_late_is_caught_up_in_steps() -> None:
    pacer = Pacer(rate=1000)
    pacer.due(0.0, is_offering=True)

    assert [pacer.due(1.0, is_offering=True, at_most=600) for _ in range(3)] == [600, 400, 0]


def test_a_pause_leaves_no_debt() -> None:
    pacer = Pacer(rate=1000)
    pacer.due(0.0, is_offering=True)
    pacer.due(1.0, is_offering=True)

    assert pacer.due(2.0, is_offering=False) == 0
    assert [pacer.due(now_s, is_offering=True) for now_s in (100.0, 101.0)] == [0, 1000]


def test_seconds_of_offering_end_the_offer_at_an_exact_count() -> None:
    pacer = Pacer(rate=1000, seconds=2.5)
    pacer.due(0.0, is_offering=True)

    assert sum(pacer.due(now_s, is_offering=True) for now_s in (1.0, 2.0, 3.0, 4.0)) == 2500
    assert pacer.is_finished


def test_a_burst_multiplies_the_rate_for_its_time() -> None:
    pacer = Pacer(rate=100, burst=Burst(after_s=2.0, for_s=3.0, factor=10.0))

    assert [pacer.due(now_s, is_offering=True) for now_s in (0.0, 1.0, 2.0, 3.0, 5.0, 6.0)] == [
        0, 100, 100, 1000, 2000, 100,
    ]  # fmt: skip


def test_a_burst_is_part_of_the_seconds_of_an_offer() -> None:
    pacer = Pacer(rate=100, seconds=3.0, burst=Burst(after_s=2.0, for_s=5.0, factor=10.0))
    pacer.due(0.0, is_offering=True)

    assert pacer.due(60.0, is_offering=True) == 1200
    assert pacer.is_finished
