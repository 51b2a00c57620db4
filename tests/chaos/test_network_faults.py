"""The network between venue and daemon is slow, uneven, silent or gone: the session outlasts it or comes back."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from daemon.rings import ring_paths
from daemon.watching.exchange_delays import DelayReading, ExchangeDelays
from daemon.watching.inspection import Inspection
from tests.chaos import lossy_link
from tests.chaos.network_rig import NetworkRig
from tests.chaos.venue_rig import VenueRig
from tests.rig import wait_for

RATE = 1_000.0
# A gap starts with the receipt of the last frame: what was on its way then was sent before.
SAME_MOMENT_S = 0.1
MakeRig = Callable[..., NetworkRig]


@pytest.fixture
def make_rig(tmp_path: Path, postgres_dsn: str, redis_url: str) -> Iterator[MakeRig]:
    with ExitStack() as stack:
        yield lambda **fields: stack.enter_context(NetworkRig(tmp_path, postgres_dsn, redis_url, **fields))


def unheard_outside_gaps(rig: NetworkRig, on_the_way_s: float) -> tuple[int, int]:
    """Return how much was traded with nobody connected, and how much of it no gap covers (*on_the_way_s* earlier)."""
    ((unheard, outside),) = rig.query(
        """
        SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (
            SELECT FROM feed_gaps g WHERE g.symbol = j.symbol AND g.kind = j.kind AND g.venue = j.venue
            AND j.sent_ns / 1e9 BETWEEN extract(epoch FROM g.started) - %s AND extract(epoch FROM g.ended)
        )) FROM journal j WHERE fate = 'unheard'
        """,
        on_the_way_s,
    )
    return unheard, outside


@pytest.mark.requirement("F23", "CH-NET-01")
def test_half_a_second_of_latency_with_jitter_and_hiccups_is_no_reason_to_disconnect(make_rig: MakeRig) -> None:
    rig = make_rig(link_timeout_s=4.0, subscribe_timeout_s=4.0, data_warn_s=3.0, symbol_silence_s=5.0)
    rig.start_venue(rate=RATE, extra=("--pingpong-interval", "0.5", "--pingpong-timeout", "6"))
    for line in (rig.ws, rig.rest):
        line.latency_s, line.jitter_s, line.hiccup = 0.5, 0.2, (0.02, 0.6)
    rig.start_daemon()
    wait_for(lambda: rig.total("records_received") > 0, f"first data: {rig.tail()}")
    rig.wait_received(int(4 * RATE))
    assert rig.total("connections_lost") == 0
    assert rig.total("connections_opened") == 1
    assert rig.total("pingpongs") > 0

    rig.finish()

    assert rig.gaps() == []


@pytest.mark.requirement("F23")
def test_half_a_second_more_on_the_line_is_half_a_second_more_in_the_delays_that_people_see(make_rig: MakeRig) -> None:
    """KIS tells seconds: a record without any delay seems up to a second old, and none at all just behind its turn."""
    rig = make_rig(link_timeout_s=4.0)
    rig.start(rate=RATE)
    rig.wait_ready()

    def delays() -> DelayReading:
        """Of records from now on, until one of each tenth of a second has come."""
        looks = ExchangeDelays()
        looks.look(ring_paths(rig.data_dir), time.time_ns() - 3600 * 10**9)  # forgotten again: it is an hour ago
        began_ns = time.time_ns()
        looks.look(ring_paths(rig.data_dir), began_ns)
        found: list[DelayReading] = []

        def second_is_over() -> bool:
            found[:] = looks.look(ring_paths(rig.data_dir), time.time_ns())
            return time.time_ns() > began_ns + 2 * 10**9

        wait_for(second_is_over, "two seconds of records")
        return found[0]

    without = delays()
    rig.ws.latency_s = 0.5
    rig.wait_received(int(RATE))
    shown = Inspection(rig.data_dir).read()  # what `sise status` shows
    with_it = delays()

    assert (without.venue, without.market) == ("kis", "kr")
    assert -0.05 < without.smallest_s < 0.2
    assert 0.4 < with_it.smallest_s - without.smallest_s < 0.9
    assert 0.3 < with_it.p50_s - without.p50_s < 0.9
    assert shown.delays[0].records > 0
    assert rig.total("connections_lost") == 0
    rig.finish()
    assert rig.gaps() == []


@pytest.mark.requirement("CH-NET-01", "F03", "F11")
def test_a_partition_ends_the_session_and_its_end_brings_it_back_with_a_new_key(make_rig: MakeRig) -> None:
    rig = make_rig(link_timeout_s=1.5, connect_timeout_s=1.0, connects_per_10min=1000, connects_per_10min_address=1000)
    rig.start(
        rate=RATE,
        # a fault that concerns no symbol makes the venue look at each record, so that it trades on without a listener
        faults=("market_goes_on", "drop:NONE:9"),
        extra=("--pingpong-interval", "0.3", "--pingpong-timeout", "1"),
    )
    rig.wait_ready()
    rig.wait_received(int(RATE))
    keys = rig.total("account_keys_fetched")

    rig.inject("expire_keys@key-a0")
    rig.ws.is_partitioned = rig.rest.is_partitioned = True
    wait_for(lambda: rig.total("connections_lost") == 1, f"the link watchdog: {rig.tail()}")
    wait_for(lambda: any(e["event"] == "disconnect" for e in rig.happened()), "the venue to give the session up")
    wait_for(lambda: len(rig.events("backing_off")) >= 2, f"attempts in vain: {rig.tail()}")
    opened = rig.total("connections_opened")
    rig.ws.is_partitioned = rig.rest.is_partitioned = False
    rig.wait_ready()
    rig.wait_received(int(RATE))

    verdict, _ = rig.finish()

    assert rig.total("account_keys_fetched") > keys
    assert rig.total("connections_opened") > opened
    unheard, outside = unheard_outside_gaps(rig, SAME_MOMENT_S)
    assert unheard > 0
    assert outside == 0
    told = {(symbol, kind) for symbol, kind, reason, _ in rig.gaps() if reason == "connection lost"}
    assert told == {(symbol, kind) for symbol in rig.feeds[0].symbols for kind in ("trade", "orderbook")}
    assert verdict.in_gaps > 0  # sent before the venue noticed, and arrived nowhere


@pytest.mark.requirement("CH-NET-01", "F02", "F03")
def test_stalls_are_waited_for_and_resets_half_open_links_and_refusals_are_not(make_rig: MakeRig) -> None:
    rig = make_rig(link_timeout_s=2.0, connects_per_10min=1000, connects_per_10min_address=1000)
    rig.start(rate=RATE, extra=("--pingpong-interval", "0.3", "--pingpong-timeout", "1.5"))
    rig.wait_ready()

    rig.ws.is_partitioned = True
    stalled_until = time.monotonic() + 1.0
    wait_for(lambda: time.monotonic() > stalled_until, "a stall shorter than any limit")
    rig.ws.is_partitioned = False
    rig.wait_received(int(1.5 * RATE))
    assert rig.total("connections_lost") == 0

    for number, harm in enumerate((rig.ws.reset, rig.ws.half_open, rig.ws.reset), start=1):
        began_ns = time.time_ns()
        assert harm() >= 1
        rig.wait_registered(rig.wanted, after_ns=began_ns)
        rig.wait_received(int(0.5 * RATE))
        assert rig.total("connections_lost") == number

    began_ns = time.time_ns()
    rig.ws.refuse()
    rig.ws.reset()
    attempts = len(rig.events("backing_off"))
    wait_for(lambda: len(rig.events("backing_off")) >= attempts + 3, f"attempts that are refused: {rig.tail()}")
    rig.ws.take_again()
    rig.wait_registered(rig.wanted, after_ns=began_ns)
    rig.wait_received(int(0.5 * RATE))
    assert rig.total("connections_lost") == 4

    rig.finish()


@pytest.mark.requirement("CH-NET-01", "BP-01")
def test_a_narrow_line_delays_what_the_venue_sends_and_loses_nothing(make_rig: MakeRig) -> None:
    rig = make_rig(link_timeout_s=10.0, data_warn_s=30.0)
    rig.start_venue(rate=RATE, extra=("--pingpong-interval", "1", "--pingpong-timeout", "30"))
    rig.start_daemon()
    rig.wait_received(int(RATE))
    rig.ws.bytes_per_s = 100_000.0  # a third of the offer
    narrow_until = time.monotonic() + 2.0
    wait_for(lambda: time.monotonic() > narrow_until, "an offer that piles up")
    rig.ws.bytes_per_s = 0.0
    rig.wait_received(int(2 * RATE))
    assert rig.total("connections_lost") == 0

    verdict, totals = rig.finish()

    assert totals["sent"]["total"] == verdict.stored
    assert rig.gaps() == []


class FarRig(NetworkRig):
    """Venue and daemon in namespaces of their own; databases are reached over Unix sockets."""

    def __init__(self, link: dict[str, str], *arguments: Any, **fields: Any) -> None:
        super().__init__(*arguments, **fields)
        self.link = link
        self.launcher = ["nsenter", f"--net={link['near']}"]

    def _config(self, address: dict[str, Any]) -> str:
        return VenueRig._config(self, address)

    def start_simulator(self, *, rate: float, faults: tuple[str, ...] = (), extra: tuple[str, ...] = ()) -> None:
        words = ["--rate", str(rate), "--journal", str(self.journal), "--host", self.link["far_ip"], *extra]
        for fault in faults:
            words += ["--fault", fault]
        self.simulator = subprocess.Popen(
            ["nsenter", f"--net={self.link['far']}", sys.executable, "-m", "daemon.simulator", *words],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.simulator.stdout is not None
        self.config_path.write_text(self._config(json.loads(self.simulator.stdout.readline())))


@pytest.fixture
def make_far_rig(
    tmp_path: Path, postgres_server: EmbeddedPostgres, postgres_dsn: str, chaos_seed: str
) -> Iterator[Callable[..., FarRig]]:
    if reason := lossy_link.why_not():
        pytest.skip(reason)
    with ExitStack() as stack:
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sise-test-far-")))
        redis_server = stack.enter_context(EmbeddedRedis(short, {"unixsocket": str(short / "redis.sock")}))
        assert redis_server.pid
        dsn = postgres_server.dsn_for(urlsplit(postgres_dsn).path[1:], unix_socket=True)

        def make(delay_s: float, loss: float, reorder: float, **fields: Any) -> FarRig:
            words = [sys.executable, str(lossy_link.PROGRAM), str(delay_s), str(loss), str(reorder), chaos_seed]
            carrier = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
            stack.callback(carrier.kill)
            assert carrier.stdout is not None
            link = json.loads(carrier.stdout.readline())
            return stack.enter_context(FarRig(link, tmp_path, dsn, f"unix://{short / 'redis.sock'}", **fields))

        yield make


@pytest.mark.requirement("F23")
def test_packets_late_lost_and_out_of_order_end_no_session_and_lose_no_record(
    make_far_rig: Callable[..., FarRig],
) -> None:
    """Half a second there and back, every fiftieth packet lost, every tenth overtaken."""
    rig = make_far_rig(0.25, 0.02, 0.1, link_timeout_s=15.0, subscribe_timeout_s=10.0, connect_timeout_s=20.0)
    rig.start_venue(rate=200.0, extra=("--pingpong-interval", "1", "--pingpong-timeout", "30"))
    rig.start_daemon()
    rig.wait_received(1_000)
    assert rig.total("connections_lost") == 0
    assert rig.total("connections_opened") == 1

    rig.finish()

    assert rig.gaps() == []
