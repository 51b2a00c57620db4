"""Faults are written as text; what cannot be read is named."""

import pytest

from daemon.simulator.faults import FAULTS, GARBAGE, Countdown, parse_faults
from daemon.simulator.kis_trs import TRS as KINDS
from daemon.simulator.options import SimulatorOptions


def test_no_faults_is_a_plan_in_which_nothing_goes_wrong() -> None:
    plan = parse_faults(())

    assert not any((plan.no_ack, plan.errors, plan.silent, plan.late_ack_s, plan.garbage_per_s))
    assert plan.limit is None
    assert not plan.refuse_approval.take()


def test_each_fault_is_read_into_the_plan() -> None:
    plan = parse_faults(
        [
            "no_ack:005930:2", "lost_ack:000660:1", "late_ack:0.5", "error:035720:opsp0009", "error:035420:OPSP0007:3",
            "ack_wrong_tr", "silent:0000d0", "limit:3", "close:1.5", "abort:2", "garbage:10", "expire_key", "stall:5:1",
            "pingpong_only", "refuse_approval:2", "burst:1:2:10",
        ]
    )  # fmt: skip

    assert {"005930": Countdown(2)} == plan.no_ack
    assert {"000660": Countdown(1)} == plan.lost_ack
    assert {"035720": ("OPSP0009", Countdown(None)), "035420": ("OPSP0007", Countdown(3))} == plan.errors
    assert {"0000D0"} == plan.silent
    assert (
        plan.late_ack_s,
        plan.limit,
        plan.close_every_s,
        plan.abort_every_s,
        plan.garbage_per_s,
    ) == (0.5, 3, 1.5, 2.0, 10.0)
    assert (plan.stall_after_s, plan.stall_for_s) == (5.0, 1.0)
    assert plan.burst == (1.0, 2.0, 10.0)
    assert plan.ack_wrong_tr
    assert plan.expire_key
    assert plan.pingpong_only
    assert Countdown(2) == plan.refuse_approval


@pytest.mark.parametrize(
    "text",
    [
        "", "nonsense", "no_ack", "no_ack:005930", "no_ack::2", "no_ack:005930:0", "no_ack:005930:two", "late_ack:-1",
        "late_ack:nan", "late_ack:inf", "limit:1:2", "error:005930", "error:005930:", "pingpong_only:1", "stall:1",
    ],
)  # fmt: skip
def test_a_fault_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"fault '{text}'"):
        parse_faults(["limit:5", text])


@pytest.mark.parametrize("name", FAULTS)
def test_the_complaint_says_how_the_fault_is_written(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected {name}"):
        parse_faults([f"{name}:a:b:c:d"])


def test_a_countdown_ends_unless_it_has_no_number() -> None:
    counted, endless = Countdown(2), Countdown(None)

    assert [counted.take() for _ in range(4)] == [True, True, False, False]
    assert all(endless.take() for _ in range(10))


@pytest.mark.parametrize(("shape", "text"), GARBAGE)
def test_garbage_is_never_a_whole_record_of_a_known_kind(shape: str, text: str) -> None:
    _, tr_id, count, payload = text.split("|", 3)
    fields = payload.split("^")

    is_whole = tr_id in KINDS and len(fields) == 47 * int(count) and fields[2].isascii() and fields[2].isdigit()

    assert not is_whole, shape


@pytest.mark.parametrize(
    ("name", "value"),
    [("rate", 0.0), ("records_per_frame", 0), ("book_share", 1.5), ("fragment", -0.1), ("seconds", 0.0)],
)
def test_an_option_outside_its_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected"):
        SimulatorOptions(**{name: value})  # type: ignore[arg-type]
