"""The simulator as a whole: servers and load of each venue, and the faults that run by the clock."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

from aiohttp import web
from picows import WSCloseCode, WSListener, WSUpgradeRequest, WSUpgradeResponse, ws_create_server
from picows import WSUpgradeResponseWithListener as Answer

from daemon.simulator import chaos, framing, kis
from daemon.simulator.faults import FaultPlan
from daemon.simulator.kis import KisSession, KisSpeech
from daemon.simulator.kiwoom import KiwoomSession, KiwoomSpeech
from daemon.simulator.offer import Offer
from daemon.simulator.options import SimulatorOptions
from daemon.simulator.rest import fault_routes, kis_routes, kiwoom_routes
from daemon.simulator.session import Session
from daemon.simulator.streams import Fate
from daemon.simulator.upbit import ConnectLimit, UpbitSession, UpbitSpeech
from daemon.simulator.venue import Venue, World

STOP_GRACE_S = 2.0  # for clients to answer the close frame
TOO_MANY_REQUESTS = 429


class EarlyAnswer(WSUpgradeResponse):
    """The answer to an upgrade with the first message behind it, so that both leave in one segment."""

    first = b""

    def to_bytes(self) -> bytearray:
        """Return the answer and the message."""
        return bytearray(super().to_bytes() + self.first)


class House:
    """One venue with its ports and its load."""

    def __init__(self, world: World, name: str, rate: float) -> None:
        self._world = world
        self._session: Callable[[Venue], Session]
        if name == "kis":
            speech = KisSpeech(world)
            self.venue, self._session = Venue(world, speech), KisSession
            speech.venue = self.venue
        elif name == "kiwoom":
            kiwoom = KiwoomSpeech(world)
            self.venue, self._session = Venue(world, kiwoom), KiwoomSession
            kiwoom.venue = self.venue
        else:
            self.venue, self._session = Venue(world, UpbitSpeech(world)), UpbitSession
        self.offer = Offer(self.venue, rate)
        self._connects = ConnectLimit(world.options.connects_per_s if name == "upbit" else 0)
        self._server: asyncio.Server | None = None
        self._runner: web.AppRunner | None = None
        self._ports = (0, 0)

    async def listen(self, ports: tuple[int, int], inject: Callable[[str], None]) -> None:
        """Listen. OSError if a port is taken."""
        host, venue, faults = self._world.options.host, self.venue, self._world.faults
        application = web.Application()
        application.add_routes(fault_routes(inject))
        if venue.name == "kis":
            application.add_routes(kis_routes(venue.approvals, faults))
        elif venue.name == "kiwoom":
            application.add_routes(kiwoom_routes(venue.approvals, faults, self._world.exchange_ns))
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, ports[1]).start()
        self._server = await ws_create_server(self._accept, host, ports[0], enable_auto_pong=False)
        self._ports = (self._server.sockets[0].getsockname()[1], self._runner.addresses[0][1])

    async def close(self) -> None:
        """Close every session and both ports."""
        if self._server is not None:
            self._server.close()
        sessions = list(self.venue.sessions.values())
        for session in sessions:
            session.close(WSCloseCode.GOING_AWAY)
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                for session in sessions:
                    if session.is_half_open:
                        session.cut()
                    await session.closed.wait()
        except TimeoutError:
            for session in sessions:
                session.cut()
                await session.closed.wait()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def ws_url(self) -> str:
        """Where clients connect; any path is accepted."""
        return f"ws://{self._world.options.host}:{self._ports[0]}"

    @property
    def rest_url(self) -> str:
        """Where keys are issued and faults are taken."""
        return f"http://{self._world.options.host}:{self._ports[1]}"

    def _accept(self, request: WSUpgradeRequest) -> WSListener | Answer:
        venue = self.venue
        plan = self._world.faults.plan(venue.name)
        now_s = self._world.elapsed_s()
        if plan.refuse_connect.take() or not self._connects.take(now_s, has_origin=b"origin" in _names(request)):
            venue.counts["connects_refused"] += 1
            return Answer(WSUpgradeResponse.create_error_response(TOO_MANY_REQUESTS), None)
        session = self._session(venue)
        if not plan.early or venue.name != "kis":
            return session
        answer = EarlyAnswer.create_101_response()
        early = EarlyAnswer()
        early.version, early.status, early.headers, early.body = (
            answer.version, answer.status, answer.headers, answer.body,
        )  # fmt: skip
        text, line = kis.first_trade(venue, plan.early)
        early.first = framing.frame(text).encode("latin-1")
        venue.write_lines([line])
        venue.counts["early"] += 1
        return Answer(early, session)

    def totals(self) -> dict[str, Any]:
        """Return the counts so far."""
        venue, counts = self.venue, self.venue.counts
        symbols = venue.sent()
        trades = sum(symbol["trade"] for symbol in symbols.values())
        books = sum(symbol["orderbook"] for symbol in symbols.values())
        fates = {fate.value: 0 for fate in Fate}
        for stream in venue.streams.values():
            for fate, count in stream.counts.items():
                fates[fate.value] += count
        return {
            "sent": {"trade": trades, "orderbook": books, "total": trades + books},
            "withheld": counts["withheld"],
            "symbols": symbols,
            "fates": fates,
            "duplicates": counts["duplicates"],
            "messages": counts["messages"],
            "fragmented": counts["fragmented"],
            "bytes": counts["bytes"],
            "sessions": counts["sessions"],
            "sessions_open": len(venue.sessions),
            "registrations": venue.registrations,
            "replies": dict(venue.replies),
            "pingpong": {
                "sent": counts["pingpong_sent"],
                "echoed": counts["pingpong_echoed"],
                "timeouts": counts["pingpong_timeouts"],
                "echo_max_ms": round(venue.heartbeat_echo_max_ms, 3),
            },
            "connects_refused": counts["connects_refused"],
            "kicked": counts["kicked"],
            "approvals": dict(venue.approvals.counts),
            "garbage": dict(venue.garbage),
            "offered_s": round(self.offer.pacer.elapsed_s, 3),
            "finished": self.offer.finished.is_set(),
        }


def _names(request: WSUpgradeRequest) -> set[bytes]:
    return {name.lower().encode() for name in request.headers}


class Simulator:
    """One or more simulated venues. `await start()`, use `ws_url` and `rest_url`, `await stop()`.

    ValueError from the constructor names a fault that cannot be read. Where nothing else is said, the first venue is
    meant.
    """

    def __init__(self, options: SimulatorOptions | None = None) -> None:
        self.options = options or SimulatorOptions()
        self._chaos = chaos.parse_chaos(self.options.chaos) if self.options.chaos else None
        self._world = World(self.options)
        self._houses = {
            name: House(self._world, name, self.options.rate * share) for name, share in self.options.shares().items()
        }
        self._world.registered = lambda: self.registrations
        self._first = next(iter(self._houses.values()))
        self._venue = self._first.venue
        self._tasks: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen on every port. OSError if a port is taken or the journal cannot be opened."""
        try:
            if self._world.journal is not None:
                self._world.journal.open()
            ports = (self.options.port, self.options.rest_port)
            for house in self._houses.values():
                await house.listen(ports, self.inject)
                ports = (0, 0)
        except OSError:
            await self.stop()
            raise
        self._tasks = asyncio.create_task(self._run(), name="simulator")

    async def stop(self) -> None:
        """Stop offering, close every session, and write the journal to its end."""
        if self._tasks is not None:
            self._tasks.cancel()
            await asyncio.wait([self._tasks])
        for house in self._houses.values():
            await house.close()
        if self._world.journal is not None:
            await asyncio.to_thread(self._world.journal.close)

    async def wait_failed(self) -> None:
        """Wait until something unexpected (a full disk, a bug) ends the load, and raise it."""
        assert self._tasks is not None, "start() comes first"
        await asyncio.shield(self._tasks)

    async def wait_finished(self) -> None:
        """Wait until everything that `seconds` allows has been offered."""
        for house in self._houses.values():
            await house.offer.finished.wait()

    @property
    def ws_url(self) -> str:
        """Where clients of the first venue connect; any path is accepted."""
        return self._first.ws_url

    @property
    def rest_url(self) -> str:
        """Where keys of the first venue are issued."""
        return self._first.rest_url

    def addresses(self) -> dict[str, dict[str, str]]:
        """Return {venue: {"ws_url", "rest_url"}}."""
        return {name: {"ws_url": h.ws_url, "rest_url": h.rest_url} for name, h in self._houses.items()}

    @property
    def registrations(self) -> int:
        """How many registrations all sessions have now."""
        return sum(house.venue.registrations for house in self._houses.values())

    @property
    def is_finished(self) -> bool:
        """Whether everything that `seconds` allows has been offered."""
        return all(house.offer.finished.is_set() for house in self._houses.values())

    def totals(self) -> dict[str, Any]:
        """Return the counts so far: of the first venue, and with "sent" and "venues" of all."""
        venues = {name: house.totals() for name, house in self._houses.items()}
        first = next(iter(venues.values()))
        sent = {kind: sum(one["sent"][kind] for one in venues.values()) for kind in ("trade", "orderbook", "total")}
        return {**first, "sent": sent, "finished": self.is_finished, "venues": venues}

    def inject(self, text: str) -> None:
        """Put a fault into effect now: an act (`abort`, `close@APP_KEY`), or a fault as the options have it.

        Faults with a time of their own (`close:5`) count only from the start. ValueError if it cannot be read.
        """
        name, at, tag = text.strip().partition("@")
        act = {**chaos.ACTS, **chaos.MORE_ACTS}.get(name)
        if act is None:
            self._world.faults.add(text)
        for house in self._houses.values():
            for session in chaos.sessions_of(house.venue, tag if at else None):
                if act is None:
                    session.refresh_plan()
                else:
                    act(session)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name, house in self._houses.items():
                group.create_task(house.offer.run(), name=f"offer {name}")
                for number, task in enumerate(self._timed(house)):
                    group.create_task(task, name=f"fault {name} {number}")
                if self._chaos is not None:
                    group.create_task(self._act_at_random(house), name=f"chaos {name}")

    def _timed(self, house: House) -> Iterator[Coroutine[Any, Any, None]]:
        """Yield what the faults do by the clock: those of all sessions, then those of each tag."""
        faults = self._world.faults
        for tag in (None, *faults.tags):
            plan = faults.general if tag is None else faults.own(tag)
            yield from (_every(house, seconds, tag, act) for seconds, act in _repeated(plan) if seconds)
            if plan.garbage_per_s:
                yield _garbage(house, 1 / plan.garbage_per_s, tag)
            if plan.stall_for_s:
                yield _stall(house, plan, tag)
            if plan.expire_after_s:
                yield _after(plan.expire_after_s, partial(house.venue.approvals.expire, tag))
            if plan.roll_after_s:
                yield _after(plan.roll_after_s, house.venue.roll)

    async def _act_at_random(self, house: House) -> None:
        assert self._chaos is not None
        seed, mean_s = self._chaos
        await house.offer.started.wait()
        for delay_s, name, choice in chaos.schedule(f"{seed}:{house.venue.name}", mean_s):
            await asyncio.sleep(delay_s)
            sessions = chaos.sessions_of(house.venue, None)
            if sessions:
                session = sessions[int(choice * len(sessions))]
                house.venue.note(f"chaos_{name}", session.number)
                chaos.ACTS[name](session)


def _repeated(plan: FaultPlan) -> tuple[tuple[float, Callable[[Session], None]], ...]:
    return (
        (plan.close_every_s, Session.close),
        (plan.abort_every_s, Session.abort),
        (plan.half_open_every_s, Session.half_open),
        (plan.supersede_every_s, chaos.supersede_act),
        (plan.big_frame_every_s, partial(chaos.big_frame_act, size_bytes=int(plan.big_frame_mb * (1 << 20)))),
        (plan.tiny_every_s, partial(chaos.tiny_act, frames=plan.tiny_frames)),
    )


async def _every(house: House, seconds: float, tag: str | None, act: Callable[[Session], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        for session in chaos.sessions_of(house.venue, tag):
            act(session)


async def _garbage(house: House, interval_s: float, tag: str | None) -> None:
    while True:
        await asyncio.sleep(interval_s)
        for session in chaos.sessions_of(house.venue, tag):
            before = house.venue.garbage.total()
            chaos.garbage_act(session)
            if house.venue.garbage.total() > before:
                break


async def _stall(house: House, plan: FaultPlan, tag: str | None) -> None:
    await house.offer.started.wait()
    await asyncio.sleep(plan.stall_after_s)
    if tag is not None:
        for session in chaos.sessions_of(house.venue, tag):
            session.stall(plan.stall_for_s)
        return
    house.venue.is_stalled = True
    await asyncio.sleep(plan.stall_for_s)
    house.venue.is_stalled = False


async def _after(seconds: float, act: Callable[[], None]) -> None:
    await asyncio.sleep(seconds)
    act()
