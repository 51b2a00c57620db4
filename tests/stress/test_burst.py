"""Ten times as many records at the open: the ring takes them in, nothing is lost, and the database catches up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from tests.chaos.venue_rig import Feed, VenueRig
from tests.rig import wait_for

FACTOR = 10
CALM_S = 1.0  # before the burst, of offering
MOST_LAG_S = 1.0  # between receipt and storage, once it is over
MakeRig = Callable[..., VenueRig]


@pytest.fixture
def make_rig(tmp_path: Path, postgres_dsn: str, redis_url: str) -> Iterator[MakeRig]:
    with ExitStack() as stack:
        yield lambda **fields: stack.enter_context(VenueRig(tmp_path, postgres_dsn, redis_url, **fields))


def lag_s(connection: psycopg.Connection) -> float:
    """How old the newest stored trade is, while trades go on."""
    row = connection.execute("SELECT extract(epoch FROM now() - max(recv_time)) FROM market_ticks").fetchone()
    connection.rollback()  # now() is the time of the transaction
    assert row is not None
    return float("inf") if row[0] is None else float(row[0])


@pytest.mark.requirement("F18", "BP-01", "DLP-01")
@pytest.mark.parametrize(
    ("rate", "burst_s", "recovers_in_s", "may_pause"),
    [
        (1_000, 1.0, 10.0, False),
        pytest.param(2_000, 60.0, 120.0, True, marks=[pytest.mark.nightly, pytest.mark.timeout(400)]),
    ],
    ids=["for a moment", "for a minute"],
)
def test_a_burst_at_the_open_is_absorbed_and_stored_soon(
    make_rig: MakeRig, rate: int, burst_s: float, recovers_in_s: float, may_pause: bool
) -> None:
    wanted = [f"100{10 * i:03d}" for i in range(10)]
    rig = make_rig(accounts={"a": "kis", "b": "kis"}, feeds=[Feed(["a"], wanted[:5]), Feed(["b"], wanted[5:])])
    rig.start(rate=rate, faults=(f"burst:{CALM_S}:{burst_s}:{FACTOR}",))
    offered = rate * (CALM_S + FACTOR * burst_s)
    wait_for(lambda: rig.total("records_received") > offered, f"the end of the burst: {rig.tail()}", 3 * burst_s + 60.0)
    ended_s = time.monotonic()
    with psycopg.connect(rig.postgres.dsn) as connection:
        wait_for(lambda: lag_s(connection) < MOST_LAG_S, f"the writer to catch up: {rig.tail()}", recovers_in_s)
    caught_up_s = time.monotonic() - ended_s
    pauses = rig.total("socket_pauses")
    print(
        f"stored again within {MOST_LAG_S} s: {caught_up_s:.2f} s after the burst; the sockets were paused {pauses} x"
    )

    assert rig.total("connections_lost") == 0
    assert may_pause or pauses == 0
    rig.finish()

    assert rig.gaps() == []
    ((calm, busy),) = rig.query(
        "SELECT min(count), max(count) FROM (SELECT count(*) FROM journal GROUP BY sent_ns / 500000000) AS by_half"
        " WHERE count > %s",
        rate // 10,
    )
    assert busy > FACTOR / 2 * calm
