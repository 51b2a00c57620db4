"""The worker against the simulated venue, over real sockets, into a real ring."""

import asyncio
import contextlib
import functools
import io
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

from daemon.config import Account, Config, Feed, Ingest
from daemon.errors import ConfigError, InvariantBroken, RingError
from daemon.ingest.connection import State
from daemon.ingest.connector import NetworkConnector
from daemon.ingest.gaps import Gaps
from daemon.ingest.governor import Budgets, Governor
from daemon.ingest.session import Session
from daemon.ingest.surroundings import Outside, Surroundings
from daemon.ingest.venues.kis import KisVenue
from daemon.ingest.venues.venue import ControlMessage
from daemon.ingest.worker import run_worker
from daemon.shard_plan import WorkerPlan, make_plan
from daemon.simulator import Simulator, SimulatorOptions
from native_pipeline.counters import CountersBlock, create_counters_file
from native_pipeline.records import GAP_REASONS, read_records
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter

SYMBOLS = ("005930", "000660", "035720")
APP_KEY, APP_SECRET = "k" * 36, "s" * 180
RING_BYTES = 1 << 20
# Everything that production does in seconds to minutes, in fractions of a second.
QUICK = Ingest(
    subscribe_interval_ms=1,
    subscribe_timeout_s=0.3,
    connect_timeout_s=5.0,
    backoff_first_s=0.05,
    backoff_max_s=0.2,
    slot_held_backoff_s=0.2,
    link_timeout_s=30.0,
    connects_per_10min=1000,
    connects_per_10min_address=1000,
)
PATIENCE_S = 30.0


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run *test* on the loop that the worker runs on in production."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        uvloop.run(test(**fixtures))

    return run


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the worker logs."""
    stream = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory(stream)
    )
    yield stream
    structlog.reset_defaults()


async def wait_until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


class Bench:
    """A ring, counters, and the workers that run on them one after another; reads the ring as the writer would."""

    def __init__(self, directory: Path) -> None:
        self.ring_path = directory / "worker-0.ring"
        create_ring(self.ring_path, ring=0, capacity_bytes=RING_BYTES, consumers=(("writer", GATING),))
        create_counters_file(directory / "counters", 2)
        self.counters = CountersBlock(directory / "counters", 0)
        self.counters.take("worker-0")
        self.reader = GatingReader(self.ring_path, "writer")
        self.records: list[dict[str, Any]] = []
        self.is_reading = True

    def value(self, name: str) -> int:
        value: int = self.counters.get(name)
        return value

    def beaten_ns(self) -> int:
        snapshot = self.counters.snapshot()
        assert snapshot is not None
        return snapshot["heartbeat_mono_ns"]

    def has(self, name: str, value: int) -> bool:
        return self.value(name) == value

    def read(self) -> None:
        while found := read_records(self.reader, 10_000):
            self.records += found
            self.reader.commit()

    def of_kind(self, *kinds: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["kind"] in kinds]

    def received(self) -> dict[str, dict[str, int]]:
        """Records per symbol and kind, as the simulator counts them."""
        counts = Counter((record["symbol"], record["kind"]) for record in self.of_kind("trade", "orderbook"))
        return {
            symbol: {kind: counts[symbol, kind] for kind in ("trade", "orderbook")}
            for symbol in sorted({symbol for symbol, _ in counts})
        }

    @contextlib.asynccontextmanager
    async def working(
        self, config: Config, plan: WorkerPlan | None = None, outside: Outside | None = None
    ) -> AsyncIterator[None]:
        """Run a worker on *config*; at the end stop it and read what is left."""
        stop = asyncio.Event()
        worker = run_worker(
            config,
            plan or make_plan(config).workers[0],
            ring_path=self.ring_path,
            counters=self.counters,
            wake_fds={},
            stop=stop,
            beat=self.counters.heartbeat,
            outside=outside or Outside(),
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(worker, name="worker")
            reading = group.create_task(self._read_on(), name="reader")
            try:
                yield
            finally:
                stop.set()
                await asyncio.wait([running])
                reading.cancel()
        self.read()

    async def _read_on(self) -> None:
        while True:
            if self.is_reading:
                self.read()
            await asyncio.sleep(0.005)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@contextlib.asynccontextmanager
async def simulating(**options: Any) -> AsyncIterator[Simulator]:
    simulator = Simulator(SimulatorOptions(**{"rate": 500.0, **options}))
    await simulator.start()
    try:
        yield simulator
    finally:
        await simulator.stop()


def config_for(simulator: Simulator, *, ingest: Ingest = QUICK, app_keys: tuple[str, ...] = (APP_KEY,)) -> Config:
    """One account per app key, each with all symbols of its own."""
    return Config(
        workers=1,
        ingest=ingest,
        accounts=tuple(
            Account(
                name=f"account-{number}",
                venue="kis",
                app_key=app_key,
                app_secret=APP_SECRET,
                ws_url=simulator.ws_url,
                rest_url=simulator.rest_url,
            )
            for number, app_key in enumerate(app_keys)
        ),
        feeds=tuple(
            Feed(account=f"account-{number}", market="kr", symbols=tuple(f"{symbol[:5]}{number}" for symbol in SYMBOLS))
            for number in range(len(app_keys))
        ),
    )


REGISTRATIONS = 2 * len(SYMBOLS)


@pytest.mark.requirement("SUB-CONF-01", "CONN-READY-01", "BP-01")
@on_uvloop
async def test_every_subscription_is_confirmed_and_every_record_reaches_the_ring(bench: Bench) -> None:
    async with simulating(rate=3000.0, seconds=1.0, start_after=REGISTRATIONS, fragment=0.1) as simulator:
        async with bench.working(config_for(simulator)):
            await wait_until(lambda: bench.value("subscriptions_confirmed") == REGISTRATIONS)
            await wait_until(lambda: bench.value("connections_ready") == 1)
            await simulator.wait_finished()
            await wait_until(lambda: bench.value("records_received") == simulator.totals()["sent"]["total"])
            assert bench.value("subscriptions_pending") == 0
        totals = simulator.totals()

    assert bench.received() == totals["symbols"]
    assert totals["sent"]["total"] > 1000
    assert bench.of_kind("gap", "quarantine") == []


@pytest.mark.requirement("GS-01")
@on_uvloop
async def test_a_stop_closes_the_sockets_properly_and_leaves_a_clean_ring(bench: Bench, lines: io.StringIO) -> None:
    async with simulating() as simulator:
        async with bench.working(config_for(simulator)):
            await wait_until(lambda: bench.value("records_received") > 0)
        await wait_until(lambda: simulator.totals()["sessions_open"] == 0)

    assert "close_unanswered" not in lines.getvalue()
    RingWriter(str(bench.ring_path)).close()  # not held by anybody
    assert sum(record["count"] for record in bench.of_kind("ledger")) == len(bench.of_kind("trade", "orderbook"))


@pytest.mark.requirement("CONN-READY-01", "SUB-CONF-01")
@on_uvloop
async def test_a_connection_closed_by_the_venue_is_made_anew_and_the_hole_is_on_record(bench: Bench) -> None:
    async with simulating(faults=("close:0.5",)) as simulator, bench.working(config_for(simulator)):
        await wait_until(lambda: bench.value("connections_lost") >= 2)
        await wait_until(lambda: len(bench.of_kind("gap")) >= 2 * REGISTRATIONS)

    gaps = bench.of_kind("gap")[:REGISTRATIONS]
    assert {(gap["symbol"], gap["data_kind"]) for gap in gaps} == {
        (symbol, kind) for symbol in SYMBOLS for kind in ("trade", "orderbook")
    }
    for gap in gaps:
        assert 0 < gap["started_ns"] < gap["ended_ns"]
        assert GAP_REASONS[gap["reason"]] == "connection lost"
        stream = [r["recv_ns"] for r in bench.of_kind(gap["data_kind"]) if r["symbol"] == gap["symbol"]]
        # the reply that ends a gap may come in one read with the first data, so that they are received a moment before
        inside = [ns for ns in stream if gap["started_ns"] < ns < gap["ended_ns"] - 20_000_000]
        assert inside == []
        assert min(stream) <= gap["started_ns"] < gap["ended_ns"] <= max(stream)


@on_uvloop
async def test_a_connection_reset_inside_a_fragmented_frame_leaves_no_half_record(bench: Bench) -> None:
    async with simulating(faults=("abort:0.4",)) as simulator, bench.working(config_for(simulator)):
        await wait_until(lambda: bench.value("connections_opened") >= 3)

    assert bench.of_kind("quarantine") == []
    assert bench.of_kind("gap") != []


@pytest.mark.requirement("CH-PROC-01")
@on_uvloop
async def test_a_restarted_worker_records_the_hole_since_its_predecessor(bench: Bench) -> None:
    async with simulating() as simulator:
        config = config_for(simulator)
        async with bench.working(config):
            await wait_until(lambda: bench.value("records_received") > 10)
        assert bench.of_kind("gap") == []
        ticks = bench.of_kind("trade", "orderbook")

        async with bench.working(config):
            await wait_until(lambda: len(bench.of_kind("gap")) == REGISTRATIONS)

    for gap in bench.of_kind("gap"):
        assert GAP_REASONS[gap["reason"]] == "worker restarted"
        own = [tick for tick in ticks if (tick["symbol"], tick["kind"]) == (gap["symbol"], gap["data_kind"])]
        if own:  # since when its newest record was sent, by the venue's clock of whole seconds
            assert gap["started_ns"] == own[-1]["exchange_ns"]
        else:
            assert gap["started_ns"] == ticks[0]["recv_ns"]
        assert gap["ended_ns"] > ticks[-1]["recv_ns"]


@pytest.mark.requirement("SUB-CONF-03", "SUB-RETRY-01")
@on_uvloop
async def test_a_request_whose_answer_is_lost_is_sent_again(bench: Bench) -> None:
    async with simulating(faults=(f"no_ack:{SYMBOLS[0]}:1",)) as simulator, bench.working(config_for(simulator)):
        await wait_until(lambda: bench.value("subscriptions_confirmed") == REGISTRATIONS)

    assert bench.value("subscriptions_failed") == 0


@pytest.mark.requirement("BUG-001")
@on_uvloop
async def test_a_repeated_request_answered_with_already_in_subscribe_is_confirmed(bench: Bench) -> None:
    async with simulating(faults=(f"lost_ack:{SYMBOLS[0]}:1",)) as simulator:
        async with bench.working(config_for(simulator)):
            await wait_until(lambda: bench.value("subscriptions_confirmed") == REGISTRATIONS)
        assert simulator.totals()["replies"]["OPSP0002"] >= 1

    assert bench.value("connections_lost") == 0


@pytest.mark.requirement("SUB-RETRY-01", "LEAK-01")
@on_uvloop
async def test_a_symbol_that_is_never_answered_fails_visibly_and_the_others_stream(
    bench: Bench, lines: io.StringIO
) -> None:
    async with simulating(faults=(f"no_ack:{SYMBOLS[0]}:1000",)) as simulator, bench.working(config_for(simulator)):
        await wait_until(lambda: bench.value("subscriptions_failed") == 2)
        assert bench.value("subscriptions_confirmed") == REGISTRATIONS - 2
        assert bench.value("subscriptions_pending") == 0
        await wait_until(lambda: bench.received().keys() == set(SYMBOLS[1:]))

    assert lines.getvalue().count('"subscription_failed"') == 2


@pytest.mark.requirement("SUB-CONF-02")
@on_uvloop
async def test_a_refused_symbol_is_rejected_with_its_reason_and_the_others_stream(
    bench: Bench, lines: io.StringIO
) -> None:
    async with simulating(faults=(f"error:{SYMBOLS[1]}:OPSP0009",)) as simulator, bench.working(config_for(simulator)):
        await wait_until(lambda: bench.value("subscriptions_confirmed") == REGISTRATIONS - 2)
        await wait_until(lambda: bench.value("subscriptions_failed") == 2)

    assert "OPSP0009" in lines.getvalue()
    assert bench.value("connections_lost") == 0


@on_uvloop
async def test_a_venue_that_takes_fewer_registrations_than_planned_streams_what_it_took(
    bench: Bench, lines: io.StringIO
) -> None:
    async with simulating(faults=("limit:4",)) as simulator, bench.working(config_for(simulator)):
        await wait_until(lambda: bench.value("subscriptions_confirmed") == 4)
        await wait_until(lambda: bench.value("subscriptions_failed") == REGISTRATIONS - 4)

    assert '"session_full"' in lines.getvalue()


@pytest.mark.requirement("KEY-01")
@on_uvloop
async def test_an_expired_approval_key_is_refreshed_once_and_never_logged(bench: Bench, lines: io.StringIO) -> None:
    async with simulating(faults=("expire_key",)) as simulator:
        async with bench.working(config_for(simulator)):
            await wait_until(lambda: bench.value("subscriptions_confirmed") == REGISTRATIONS)
        assert simulator.totals()["approvals"]["issued"] == 2
        keys = list(simulator._venue.approvals._app_keys)

    assert len(keys) == 2
    for secret in (*keys, APP_KEY, APP_SECRET):
        assert secret not in lines.getvalue()


@pytest.mark.requirement("KEY-01")
@on_uvloop
async def test_a_failed_approval_request_backs_off_and_is_repeated(bench: Bench, lines: io.StringIO) -> None:
    async with simulating(faults=("refuse_approval:1",)) as simulator, bench.working(config_for(simulator)):
        await wait_until(lambda: bench.value("subscriptions_confirmed") == REGISTRATIONS)

    assert "approval_key_unavailable" in lines.getvalue()


@pytest.mark.requirement("DUAL-ISO-01")
@on_uvloop
async def test_an_account_in_use_elsewhere_is_left_alone_until_it_is_free(bench: Bench, lines: io.StringIO) -> None:
    async with simulating() as simulator:
        config = config_for(simulator, app_keys=(APP_KEY, APP_KEY))
        async with bench.working(config):
            await wait_until(lambda: '"session_refused"' in lines.getvalue())
            await wait_until(lambda: bench.value("subscriptions_confirmed") == REGISTRATIONS)
            assert bench.value("connections_ready") == 1
            streaming = bench.received()
            await wait_until(lambda: bench.received() != streaming)

    assert '"slot held"' in lines.getvalue()


@pytest.mark.requirement("WDG-01")
@on_uvloop
async def test_a_silent_link_is_found_and_replaced(bench: Bench) -> None:
    quick = msgspec.structs.replace(QUICK, link_timeout_s=0.5)
    async with simulating(faults=("stall:0.2:5",)) as simulator, bench.working(config_for(simulator, ingest=quick)):
        await wait_until(lambda: bench.value("connections_opened") >= 2)

    assert bench.value("connections_lost") >= 1


@on_uvloop
async def test_heartbeats_are_echoed(bench: Bench) -> None:
    async with simulating(pingpong_interval_s=0.05, pingpong_timeout_s=0.5) as simulator:
        async with bench.working(config_for(simulator)):
            await wait_until(lambda: bench.value("pingpongs") >= 20)
        pingpong = simulator.totals()["pingpong"]

    assert pingpong["timeouts"] == 0
    assert pingpong["echoed"] >= 19


@pytest.mark.requirement("SCH-01")
@on_uvloop
async def test_malformed_frames_are_quarantined_and_the_stream_goes_on(bench: Bench) -> None:
    async with simulating(faults=("garbage:100",)) as simulator, bench.working(config_for(simulator)):
        await wait_until(lambda: bench.value("records_quarantined") >= 10)
        await wait_until(lambda: bench.value("records_received") >= 10)

    assert bench.value("connections_lost") == 0
    assert len(bench.of_kind("quarantine")) == bench.value("records_quarantined")


@pytest.mark.requirement("BP-01")
@on_uvloop
async def test_a_full_ring_pauses_the_socket_and_loses_nothing(bench: Bench) -> None:
    async with simulating(rate=20_000.0, seconds=1.0, start_after=REGISTRATIONS) as simulator:
        bench.is_reading = False
        async with bench.working(config_for(simulator)):
            await wait_until(lambda: bench.value("socket_pauses") > 0)
            await simulator.wait_finished()
            bench.is_reading = True
            await wait_until(lambda: bench.value("records_received") == simulator.totals()["sent"]["total"])
        totals = simulator.totals()

    assert bench.received() == totals["symbols"]
    assert bench.value("connections_lost") == 0


@on_uvloop
async def test_a_venue_that_is_not_there_yet_is_tried_again(bench: Bench, lines: io.StringIO) -> None:
    async with simulating() as gone:
        config = config_for(gone)
    port, rest_port = (int(url.rpartition(":")[2]) for url in (gone.ws_url, gone.rest_url))

    async with bench.working(config):
        await wait_until(lambda: '"backing_off"' in lines.getvalue())
        async with simulating(port=port, rest_port=rest_port):
            await wait_until(lambda: bench.value("subscriptions_confirmed") == REGISTRATIONS)


class OddVenue(WSListener):
    """Answers the first request with frames that no dialect knows."""

    frames: tuple[bytes, ...] = (
        b'{"header":{"tr_id":"H0ST',
        b"[1]",
        *[b'{"body":{"msg_cd":"OPSP7777","rt_cd":"1"}}'] * 100,
        b'{"header":{"tr_id":"PINGPONG"}}',
    )

    def __init__(self) -> None:
        self.requests = 0

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            self.requests += 1
            for answer in self.frames if self.requests == 1 else ():
                transport.send(WSMsgType.TEXT, answer)


@pytest.mark.requirement("SCH-01")
@on_uvloop
async def test_undecodable_control_frames_are_quarantined_with_their_bytes(bench: Bench, lines: io.StringIO) -> None:
    odd = OddVenue()
    async with await ws_create_server(lambda _request: odd, "127.0.0.1", 0) as server, simulating() as simulator:
        config = config_for(simulator)
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        account = msgspec.structs.replace(config.accounts[0], ws_url=url)
        config = msgspec.structs.replace(config, accounts=(account,))
        async with bench.working(config):
            await wait_until(lambda: bench.value("records_quarantined") == 2)
            await wait_until(lambda: bench.value("pingpongs") == 1)

    assert [record["frame"] for record in bench.of_kind("quarantine")] == list(OddVenue.frames[:2])
    assert lines.getvalue().count('"unexpected_reply"') == 1  # a venue that repeats itself does not fill the log
    assert bench.value("connections_lost") == 0


@pytest.mark.requirement("KEY-01")
@on_uvloop
async def test_wrong_credentials_stop_the_connection_and_are_not_tried_again(bench: Bench, lines: io.StringIO) -> None:
    async with simulating() as simulator:
        config = config_for(simulator)
        account = msgspec.structs.replace(config.accounts[0], app_secret="wrong")
        async with bench.working(msgspec.structs.replace(config, accounts=(account,))):
            await wait_until(lambda: '"connection_stopped"' in lines.getvalue())
        approvals = simulator.totals()["approvals"]

    assert (approvals["issued"], approvals["rejected"]) == (0, 1)


@on_uvloop
async def test_a_stop_while_the_venue_is_away_leaves_the_hole_on_record(bench: Bench, lines: io.StringIO) -> None:
    slow = msgspec.structs.replace(QUICK, backoff_first_s=3600.0, backoff_max_s=3600.0)
    async with simulating(faults=("close:0.3",)) as simulator, bench.working(config_for(simulator, ingest=slow)):
        await wait_until(lambda: '"backing_off"' in lines.getvalue())

    gaps = bench.of_kind("gap")
    assert len(gaps) == REGISTRATIONS
    assert {GAP_REASONS[gap["reason"]] for gap in gaps} == {"connection lost"}


class BrokenVenue(KisVenue):
    """Has a bug."""

    def decode_control(self, frame: bytes) -> ControlMessage:
        raise InvariantBroken("a bug in a callback")


@on_uvloop
async def test_a_bug_in_a_callback_ends_the_role_instead_of_reconnecting_for_ever(
    bench: Bench, lines: io.StringIO
) -> None:
    async with simulating() as simulator:
        config = config_for(simulator)
        ring = RingWriter(str(bench.ring_path))
        around = Surroundings(
            ring=ring,
            counters=bench.counters,
            connector=NetworkConnector(connect_timeout_s=5.0, max_frame_bytes=65536),
            settings=config.ingest,
            clock=time.monotonic,
            wall_ns=time.time_ns,
            random=lambda: 0.0,
            wake_timer=lambda: None,
            log=structlog.get_logger(),
            gaps=Gaps(),
            governor=Governor(Budgets(100, 100)),
        )
        (planned,) = make_plan(config).workers[0].connections
        approval_key = simulator._venue.approvals.issue(APP_KEY)
        session = Session(
            0, planned, account=config.accounts[0], venue=BrokenVenue(), keys=FixedKey(approval_key), around=around
        )
        running = asyncio.ensure_future(session.run())
        await wait_until(lambda: session.state is State.READY)
        session.tick(time.monotonic())
        await asyncio.wait([running], timeout=PATIENCE_S)
        ring.close()

    with pytest.raises(InvariantBroken, match="a bug in a callback"):
        running.result()
    assert session.state is State.STOPPED


class FixedKey:
    """A key provider for one session."""

    def __init__(self, key: str) -> None:
        self.key = key

    async def get(self, *, refused: str | None = None) -> str:
        return self.key

    def forget(self) -> None:
        raise AssertionError


class DeafVenue(OddVenue):
    """Does not answer a close frame."""

    frames = (b'{"header":{"tr_id":"PINGPONG"}}',)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.CLOSE:
            super().on_ws_frame(transport, frame)


@pytest.mark.requirement("GS-01")
@on_uvloop
async def test_a_venue_that_does_not_answer_the_close_frame_cannot_hold_up_a_stop(
    bench: Bench, lines: io.StringIO
) -> None:
    deaf = DeafVenue()
    async with await ws_create_server(lambda _request: deaf, "127.0.0.1", 0) as server, simulating() as simulator:
        config = config_for(simulator)
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        account = msgspec.structs.replace(config.accounts[0], ws_url=url)
        async with bench.working(msgspec.structs.replace(config, accounts=(account,))):
            await wait_until(lambda: bench.value("pingpongs") == 1)
            started = time.monotonic()

    assert time.monotonic() - started < 3.0
    assert '"close_unanswered"' in lines.getvalue()


@pytest.mark.requirement("GS-01")
@on_uvloop
async def test_a_stop_does_not_wait_for_a_back_off(bench: Bench, lines: io.StringIO) -> None:
    async with simulating() as gone:
        slow = msgspec.structs.replace(QUICK, backoff_first_s=3600.0, backoff_max_s=3600.0)
        config = config_for(gone, ingest=slow)

    async with bench.working(config):
        await wait_until(lambda: '"backing_off"' in lines.getvalue())
        started = time.monotonic()

    assert time.monotonic() - started < 1.0


@on_uvloop
async def test_a_plan_for_an_account_that_is_not_configured_is_refused(bench: Bench) -> None:
    async with simulating() as simulator:
        config = config_for(simulator)
    plan = make_plan(config).workers[0]

    with pytest.raises(ConfigError, match="'account-0', which is not configured"):
        await run_worker(
            Config(), plan, ring_path=bench.ring_path, counters=bench.counters, wake_fds={}, stop=asyncio.Event(),
            beat=bench.counters.heartbeat,
        )  # fmt: skip


@on_uvloop
async def test_a_second_worker_on_the_same_ring_is_refused(bench: Bench) -> None:
    async with simulating() as simulator:
        config = config_for(simulator)
        async with bench.working(config):
            await wait_until(lambda: bench.value("connections_ready") == 1)
            with pytest.raises(RingError, match="another producer"):
                await run_worker(
                    config, make_plan(config).workers[0], ring_path=bench.ring_path, counters=bench.counters,
                    wake_fds={}, stop=asyncio.Event(), beat=bench.counters.heartbeat,
                )  # fmt: skip


@on_uvloop
async def test_a_worker_without_connections_beats_and_stops(bench: Bench) -> None:
    async with bench.working(Config(workers=1), WorkerPlan(0, ())):
        before = bench.beaten_ns()
        await wait_until(lambda: bench.beaten_ns() > before)

    assert bench.value("connections_planned") == 0
