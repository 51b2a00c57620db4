"""Sessions of every kind of venue: batches, logins, silence, budgets and changes while running."""

from __future__ import annotations

import asyncio
import functools
import io
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.alerts import RecordingAlerts
from daemon.config import Account, Config, Ingest
from daemon.errors import InvariantBroken, Refused, Retryable
from daemon.ingest.changes import Changes
from daemon.ingest.connection import State
from daemon.ingest.connector import NetworkConnector
from daemon.ingest.surroundings import Outside
from daemon.ingest.venues.venue import HttpRequest, KeepAlive
from daemon.ingest.worker import Worker
from daemon.ingest.worker_status import read_status, status_path
from daemon.shard_plan import Moved, PlannedConnection, PlannedSubscription, WorkerPlan
from native_pipeline.ring_writer import RingWriter
from tests.integration.invented_venue import InventedVenue, Server
from tests.integration.test_worker import QUICK, Bench, bench, lines, on_uvloop, wait_until

__all__ = ["bench", "lines"]  # fixtures

SYMBOLS = ("005930", "000660", "035720", "035420", "005380")


# ruff: noqa: SIM117 - the server first, then the worker that talks to it


def planned(*symbols: str, account: str = "main") -> PlannedConnection:
    return PlannedConnection(
        account, "kis", tuple(PlannedSubscription("trade", "kr", "", s, "TRADES", s) for s in symbols)
    )


def settings(url: str, *accounts: str, ingest: Ingest = QUICK, app_key: str = "key") -> Config:
    return Config(
        workers=1,
        ingest=ingest,
        accounts=tuple(
            Account(name=name, venue="kis", app_key=app_key, app_secret="secret", ws_url=url)
            for name in accounts or ("main",)
        ),
    )


class Data:
    """What the ring has received, as the worker is told: set by the test."""

    def __init__(self) -> None:
        self.newest: dict[tuple[str, int, str], int] = {}

    def __call__(self, _ring: RingWriter) -> Mapping[tuple[str, int, str], int]:
        return self.newest

    def arrive(self, symbol: str) -> None:
        self.newest[symbol, 1, ""] = time.time_ns()


class Running:
    """A worker, for as long as the test lasts."""

    def __init__(self, bench: Bench, config: Config, plan: WorkerPlan, outside: Outside) -> None:
        self.ring = RingWriter(str(bench.ring_path))
        self.worker = Worker(
            config, plan, ring=self.ring, counters=bench.counters, beat=bench.counters.heartbeat, outside=outside
        )

    @property
    def confirmed(self) -> int:
        """By now, not as last reported."""
        return sum(session.statistics().confirmed for session in self.worker.sessions)

    @property
    def states(self) -> list[State]:
        return [session.state for session in self.worker.sessions]


@asynccontextmanager
async def working(
    bench: Bench,
    config: Config,
    *connections: PlannedConnection,
    venue: type[InventedVenue] = InventedVenue,
    moved: tuple[Moved, ...] = (),
    **outside: Any,
) -> AsyncIterator[Running]:
    running = Running(
        bench, config, WorkerPlan(0, connections, moved), Outside(venues=lambda _name: venue(), **outside)
    )
    stop = asyncio.Event()
    task = asyncio.ensure_future(running.worker.run(stop))
    try:
        yield running
    finally:
        stop.set()
        await asyncio.wait([task])
        running.ring.close()
        bench.read()
    task.result()


class Batches(InventedVenue):
    max_batch = 4


@pytest.mark.requirement("SUB-CONF-02")
@on_uvloop
async def test_a_bad_symbol_of_a_batch_is_found_and_the_others_are_collected(bench: Bench, lines: io.StringIO) -> None:
    alerts = RecordingAlerts()

    def answer(do: str, keys: list[str]) -> Sequence[dict[str, Any]]:
        return [{"is": "refused", "why": "invalid"}] if SYMBOLS[2] in keys and do == "on" else [{"is": do}]

    async with Server(answer) as server:
        async with working(bench, settings(server.url), planned(*SYMBOLS), venue=Batches, alerts=alerts):
            await wait_until(lambda: bench.value("subscriptions_confirmed") == 4)
            await wait_until(lambda: bench.value("subscriptions_failed") == 1)

    assert server.asked("on")[0] == list(SYMBOLS[:4])
    assert alerts.sent == [
        ("CRITICAL", "subscription_rejected", f"kis main TRADES {SYMBOLS[2]}: refused for good: 1 no",
         f"main TRADES {SYMBOLS[2]}")
    ]  # fmt: skip


class Silent(InventedVenue):
    acknowledges = False
    replaces_all = True
    max_batch = 1000
    keep_alive = KeepAlive(0.05, b"PING")


@on_uvloop
async def test_a_venue_that_never_answers_is_believed_after_a_quiet_moment_and_kept_awake(bench: Bench) -> None:
    async with Server(lambda _do, _keys: ()) as server:
        async with working(bench, settings(server.url), planned(*SYMBOLS), venue=Silent):
            await wait_until(lambda: bench.value("subscriptions_confirmed") == 5)
            await wait_until(lambda: server.other.count(b"PING") >= 3)

    assert server.asked("on") == [list(SYMBOLS)]


@on_uvloop
async def test_the_first_data_confirm_before_the_quiet_moment_is_over(bench: Bench) -> None:
    slow = msgspec.structs.replace(QUICK, subscribe_timeout_s=60.0, symbol_silence_s=0.4)
    data = Data()
    async with Server(lambda _do, _keys: ()) as server:
        config = settings(server.url, ingest=slow)
        async with working(bench, config, planned(*SYMBOLS), venue=Silent, streams=data):
            await wait_until(lambda: server.requests)
            data.arrive(SYMBOLS[0])
            await wait_until(lambda: bench.value("subscriptions_confirmed") == 1)


class WithLogin(InventedVenue):
    needs_login = True
    max_batch = 100


@pytest.mark.requirement("CONN-READY-01")
@on_uvloop
async def test_nothing_is_subscribed_before_the_login_is_accepted(bench: Bench) -> None:
    async with Server(lambda do, _keys: () if do == "login" else [{"is": do}]) as server:
        async with working(bench, settings(server.url), planned(*SYMBOLS), venue=WithLogin) as running:
            await wait_until(lambda: server.requests)
            assert running.states == [State.LOGGING_IN]
            server.say({"is": "in"})
            await wait_until(lambda: bench.value("subscriptions_confirmed") == 5)

    assert [do for do, _ in server.requests] == ["login", "on"]


@on_uvloop
async def test_a_login_that_is_not_answered_is_tried_again(bench: Bench, lines: io.StringIO) -> None:
    hasty = msgspec.structs.replace(QUICK, connect_timeout_s=0.3)
    async with Server(lambda _do, _keys: ()) as server:
        async with working(bench, settings(server.url, ingest=hasty), planned(*SYMBOLS), venue=WithLogin):
            await wait_until(lambda: server.opened >= 2)

    assert '"login timed out"' in lines.getvalue()


@on_uvloop
async def test_a_session_that_was_superseded_is_never_opened_again(bench: Bench, lines: io.StringIO) -> None:
    alerts = RecordingAlerts()
    async with Server() as server:
        async with working(bench, settings(server.url), planned(*SYMBOLS), venue=WithLogin, alerts=alerts) as running:
            await wait_until(lambda: bench.value("subscriptions_confirmed") == 5)
            server.say({"is": "ended", "why": "superseded"})
            await wait_until(lambda: running.states == [State.STOPPED])

    assert server.opened == 1
    assert ("CRITICAL", "session_superseded") in [sent[:2] for sent in alerts.sent]


@pytest.mark.requirement("F04")
@on_uvloop
async def test_a_silent_symbol_of_a_live_session_is_registered_anew_and_only_it(
    bench: Bench, lines: io.StringIO
) -> None:
    alerts, data = RecordingAlerts(), Data()
    quick = msgspec.structs.replace(QUICK, symbol_silence_s=0.4)
    async with Server(lambda do, keys: [{"is": do, "key": keys[0]}]) as server:
        config = settings(server.url, ingest=quick)
        async with working(
            bench, config, planned(*SYMBOLS[:3]), alerts=alerts, streams=data, is_open=lambda *_place: True
        ):
            await wait_until(lambda: bench.value("subscriptions_confirmed") == 3)

            flowing = list(SYMBOLS[:2])

            def flows_until(condition: Callable[[], bool]) -> Callable[[], bool]:
                def check() -> bool:
                    for symbol in flowing:
                        data.arrive(symbol)
                        server.trade(symbol)
                    return condition()

                return check

            await wait_until(flows_until(lambda: len(server.asked("on")) == 4))
            await wait_until(flows_until(lambda: bench.value("subscriptions_suspected") == 1))
            flowing.append(SYMBOLS[2])
            await wait_until(flows_until(lambda: bench.value("subscriptions_suspected") == 0))

    assert {keys[0] for keys in server.asked("off")} == {SYMBOLS[2]}
    assert set(alerts.codes()) == {"subscription_suspected"}
    assert bench.value("connections_lost") == 0


@pytest.mark.requirement("F05")
@on_uvloop
async def test_silence_while_the_market_is_closed_causes_nothing_at_all(bench: Bench, lines: io.StringIO) -> None:
    alerts, looks = RecordingAlerts(), [0]
    quick = msgspec.structs.replace(
        QUICK, symbol_silence_s=0.2, data_warn_s=0.2, data_resubscribe_s=0.3, data_reconnect_s=0.4
    )

    def closed(_market: str, _exchange: str, _at: int) -> bool:
        looks[0] += 1
        return False

    async with Server(lambda do, keys: [{"is": do, "key": keys[0]}]) as server:
        config = settings(server.url, ingest=quick)
        async with working(bench, config, planned(*SYMBOLS[:2]), alerts=alerts, is_open=closed):
            await wait_until(lambda: bench.value("subscriptions_confirmed") == 2)
            await wait_until(lambda: looks[0] > 200)

    assert alerts.sent == []
    assert len(server.requests) == 2
    assert server.opened == 1


@pytest.mark.requirement("WDG-01")
@on_uvloop
async def test_a_session_without_data_is_warned_of_then_registered_anew_then_closed(
    bench: Bench, lines: io.StringIO
) -> None:
    alerts = RecordingAlerts()
    quick = msgspec.structs.replace(QUICK, data_warn_s=0.4, data_resubscribe_s=0.8, data_reconnect_s=1.6)
    async with Server(lambda do, keys: [{"is": do, "key": keys[0]}]) as server:
        config = settings(server.url, ingest=quick)
        async with working(bench, config, planned(*SYMBOLS[:2]), alerts=alerts, is_open=lambda *_place: True):
            await wait_until(lambda: server.opened == 2)

    assert alerts.codes()[:3] == ["data_silent", "data_resubscribed", "data_reconnect"]
    assert [bench.value(f"watchdog_{name}") for name in ("warnings", "resubscriptions", "reconnections")] == [1, 1, 1]
    assert sorted(keys[0] for keys in server.asked("off")) == sorted(SYMBOLS[:2])


@pytest.mark.requirement("F10")
@on_uvloop
async def test_a_venue_that_kicks_at_once_is_asked_no_more_often_than_the_budget_allows(
    bench: Bench, lines: io.StringIO
) -> None:
    alerts = RecordingAlerts()
    strict = msgspec.structs.replace(QUICK, connects_per_10min=4, backoff_first_s=0.01, backoff_max_s=0.02)

    async with Server() as server:
        server.answer = lambda _do, _keys: server.kick()
        async with working(bench, settings(server.url, ingest=strict), planned(*SYMBOLS), alerts=alerts):
            await wait_until(lambda: bench.value("attempts_withheld") == 1)
            assert server.opened == 4

    assert alerts.codes().count("connect_withheld") == 1
    assert server.opened == 4


class Desk:
    """The network, with a key desk that answers what the test wants."""

    def __init__(self, *errors: Exception) -> None:
        self.network = NetworkConnector(connect_timeout_s=5.0, max_frame_bytes=1 << 20)
        self.asked: list[bytes] = []
        self.errors = list(errors)

    async def open(self, url: str, listener: Any) -> Any:
        return await self.network.open(url, listener)

    async def post(self, request: HttpRequest) -> tuple[int, bytes]:
        self.asked.append(request.body)
        if self.errors:
            raise self.errors.pop(0)
        return 200, request.body


class WithKey(InventedVenue):
    needs_approval_key = True
    needs_login = True


@pytest.mark.requirement("KEY-01", "F12")
@on_uvloop
async def test_trouble_at_the_key_desk_touches_no_running_session(bench: Bench, lines: io.StringIO) -> None:
    alerts, desk = RecordingAlerts(), Desk()
    async with Server() as server:
        config = settings(server.url, "a", "b")
        one = planned(SYMBOLS[0], account="a")
        async with working(bench, config, one, connector=desk, venue=WithKey, alerts=alerts) as running:
            await wait_until(lambda: bench.value("subscriptions_confirmed") == 1)
            desk.errors = [Retryable("429") for _ in range(100)]
            await running.worker.apply(config, WorkerPlan(0, (one, planned(SYMBOLS[1], account="b"))))
            await wait_until(lambda: "key_unavailable" in alerts.codes())
            assert running.worker.sessions[0].state is State.STREAMING
            assert server.opened == 1

    assert bench.value("connections_lost") == 0


@pytest.mark.requirement("F63")
@on_uvloop
async def test_a_changed_plan_touches_only_what_changed(bench: Bench, tmp_path: Path) -> None:
    async with Server(lambda do, keys: [{"is": do, "key": keys[0]}]) as server, Server() as other:
        config = settings(server.url, "a", "b")
        config = msgspec.structs.replace(
            config, accounts=(*config.accounts[:1], msgspec.structs.replace(config.accounts[1], ws_url=other.url))
        )
        changes = Changes()
        before = planned(*SYMBOLS[:3], account="a")
        async with working(bench, config, before, changes=changes) as running:
            await wait_until(lambda: bench.value("subscriptions_confirmed") == 3)
            session = running.worker.sessions[0]
            server.requests.clear()

            changes.put(config, WorkerPlan(0, (planned(*SYMBOLS[1:4], account="a"), planned(SYMBOLS[4], account="b"))))
            await wait_until(lambda: bench.value("subscriptions_confirmed") == 4)
            await wait_until(lambda: bench.value("connections_planned") == 2)
            await wait_until(lambda: server.asked("off") == [[SYMBOLS[0]]])
            assert server.asked("on") == [[SYMBOLS[3]]]
            assert running.worker.sessions[0] is session

            changes.put(config, WorkerPlan(0, (planned(SYMBOLS[4], account="b"),)))
            await wait_until(lambda: server.sessions == [])
            await wait_until(lambda: len(running.worker.sessions) == 1)
            assert other.opened == 1

            changes.put(config, WorkerPlan(0, (planned(SYMBOLS[0], account="unknown"),)))
            changes.put(config, WorkerPlan(0, (planned(SYMBOLS[3], account="b"),)))
            await wait_until(lambda: other.asked("off") == [[SYMBOLS[4]]])

    assert (server.opened, other.opened) == (1, 1)
    assert bench.of_kind("gap") == []


@pytest.mark.requirement("F64")
@on_uvloop
async def test_new_credentials_revive_a_session_that_had_stopped_and_leave_a_live_one_alone(
    bench: Bench, lines: io.StringIO
) -> None:
    desk = Desk(Refused("wrong secret"))
    async with Server() as server:
        plan = WorkerPlan(0, (planned(SYMBOLS[0]),))
        old, new = settings(server.url, app_key="old"), settings(server.url, app_key="new")
        async with working(bench, old, *plan.connections, connector=desk, venue=WithKey) as running:
            await wait_until(lambda: running.states == [State.STOPPED])
            await running.worker.apply(new, plan)
            await wait_until(lambda: bench.value("subscriptions_confirmed") == 1)
            await running.worker.apply(settings(server.url, app_key="newest"), plan)
            assert running.states == [State.STREAMING]
            server.sessions[0].disconnect()
            await wait_until(lambda: len(server.asked("login")) == 2)

    assert desk.asked == [b"old", b"new", b"newest"]
    assert server.asked("login") == [["new"], ["newest"]]


@pytest.mark.requirement("F22")
@on_uvloop
async def test_a_stream_that_two_sessions_carry_has_no_hole_while_one_of_them_lives(bench: Bench) -> None:
    async with Server() as first, Server() as second:
        config = settings(first.url, "a", "b")
        config = msgspec.structs.replace(
            config, accounts=(*config.accounts[:1], msgspec.structs.replace(config.accounts[1], ws_url=second.url))
        )
        both = (planned(*SYMBOLS[:2], account="a"), planned(*SYMBOLS[:2], account="b"))
        async with working(bench, config, *both) as running:
            await wait_until(lambda: running.confirmed == 4)
            for number, server in enumerate((first, second), 1):
                frames = bench.value("frames_received")
                for side in (first, second):
                    side.trade(SYMBOLS[0])  # both are seen to live
                await wait_until(functools.partial(bench.has, "frames_received", frames + 2))
                server.sessions[0].disconnect(graceful=False)
                await wait_until(functools.partial(bench.has, "connections_lost", number))
                await wait_until(lambda: running.confirmed == 4)
            assert bench.value("gaps_recorded") == 0

            for server in (first, second):
                server.sessions[0].disconnect(graceful=False)
            await wait_until(lambda: bench.value("gaps_recorded") >= 2)

    assert {gap["symbol"] for gap in bench.of_kind("gap")} == set(SYMBOLS[:2])


@pytest.mark.requirement("F08")
@on_uvloop
async def test_the_limit_that_a_venue_shows_is_learned_and_the_status_says_what_is_left_out(
    bench: Bench, lines: io.StringIO, tmp_path: Path
) -> None:
    taken: list[str] = []
    learned: list[tuple[str, int]] = []
    (tmp_path / "run").mkdir()
    path = status_path(tmp_path, 0)

    def answer(do: str, keys: list[str]) -> Sequence[dict[str, Any]]:
        if len(taken) == 3:
            return [{"is": "refused", "why": "cap reached", "key": keys[0]}]
        taken.append(keys[0])
        return [{"is": do, "key": keys[0]}]

    async with Server(answer) as server, working(
        bench, settings(server.url), planned(*SYMBOLS), status_path=path,
        learn_limit=lambda account, limit: learned.append((account, limit)),
    ):  # fmt: skip
        await wait_until(lambda: bench.value("subscriptions_failed") == 2)
        await wait_until(lambda: (found := read_status(path)) and found.sessions[0].is_degraded)

    assert learned == [("main", 3)]
    assert bench.value("limits_learned") == 1
    status = read_status(path)
    assert status is not None
    (session,) = status.sessions
    assert (session.wanted, session.confirmed, session.unlisted) == (5, 3, 0)
    assert [(entry.symbol, entry.state) for entry in session.unconfirmed] == [(s, "capped") for s in SYMBOLS[3:]]


@on_uvloop
async def test_a_plan_with_two_sessions_of_one_account_is_our_bug(bench: Bench) -> None:
    plan = (planned(SYMBOLS[0]), planned(SYMBOLS[1]))

    with pytest.raises(InvariantBroken, match="two sessions of account 'main'"):
        async with working(bench, settings("ws://127.0.0.1:1/"), *plan):
            pass


@pytest.mark.requirement("F63")
@on_uvloop
async def test_new_times_reach_a_session_that_is_running(bench: Bench, lines: io.StringIO) -> None:
    alerts = RecordingAlerts()
    plan = WorkerPlan(0, (planned(*SYMBOLS[:2]),))

    def answer(do: str, keys: list[str]) -> list[dict[str, Any]]:
        return [] if keys == [SYMBOLS[1]] else [{"is": do, "key": keys[0]}]

    async with Server(answer) as server:
        patient = msgspec.structs.replace(QUICK, subscribe_timeout_s=0.5, subscribe_attempts=1000)
        config = settings(server.url, ingest=patient)
        async with working(bench, config, *plan.connections, alerts=alerts, is_open=lambda *_place: True) as running:
            await wait_until(lambda: server.asked("on").count([SYMBOLS[1]]) == 2)
            hasty = msgspec.structs.replace(
                patient, subscribe_timeout_s=0.1, subscribe_attempts=4, data_warn_s=0.1, data_resubscribe_s=0.2,
                data_reconnect_s=0.3,
            )  # fmt: skip
            await running.worker.apply(settings(server.url, ingest=hasty), plan)
            await wait_until(lambda: "subscription_failed" in alerts.codes() or "data_reconnect" in alerts.codes())
            await wait_until(lambda: "data_silent" in alerts.codes())
