"""The simulator as a whole: REST and WebSocket servers, the load, and the faults that run by the clock."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web
from picows import WSCloseCode, WSUpgradeRequest, ws_create_server

from daemon.simulator.approval import approval_application
from daemon.simulator.faults import GARBAGE
from daemon.simulator.offer import Offer
from daemon.simulator.options import SimulatorOptions
from daemon.simulator.session import Session
from daemon.simulator.venue import Venue

STOP_GRACE_S = 2.0  # for clients to answer the close frame


class Simulator:
    """One simulated venue. `await start()`, use `ws_url` and `rest_url`, `await stop()`.

    ValueError from the constructor names a fault that cannot be read.
    """

    def __init__(self, options: SimulatorOptions | None = None) -> None:
        self.options = options or SimulatorOptions()
        self._venue = Venue(self.options)
        self._offer = Offer(self._venue)
        self._server: asyncio.Server | None = None
        self._runner: web.AppRunner | None = None
        self._tasks: asyncio.Task[None] | None = None
        self._ports = (0, 0)

    async def start(self) -> None:
        """Listen on both ports. OSError if a port is taken or the journal cannot be opened."""
        try:
            await self._listen()
        except OSError:
            await self.stop()
            raise
        self._tasks = asyncio.create_task(self._run(), name="simulator")

    async def _listen(self) -> None:
        venue, options = self._venue, self.options
        if venue.journal is not None:
            venue.journal.open()
        application = approval_application(venue.approvals, venue.faults.refuse_approval, venue.approval_counts)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, options.host, options.rest_port).start()
        self._server = await ws_create_server(self._accept, options.host, options.port)
        self._ports = (self._server.sockets[0].getsockname()[1], self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop offering, close every session, and write the journal to its end."""
        if self._tasks is not None:
            self._tasks.cancel()
            await asyncio.wait([self._tasks])
        if self._server is not None:
            self._server.close()
        await self._close_sessions()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._venue.journal is not None:
            await asyncio.to_thread(self._venue.journal.close)

    async def wait_failed(self) -> None:
        """Wait until something unexpected (a full disk, a bug) ends the load, and raise it."""
        assert self._tasks is not None, "start() comes first"
        await asyncio.shield(self._tasks)

    async def wait_finished(self) -> None:
        """Wait until everything that `seconds` allows has been offered."""
        await self._offer.finished.wait()

    @property
    def ws_url(self) -> str:
        """Where clients connect; any path is accepted."""
        return f"ws://{self.options.host}:{self._ports[0]}"

    @property
    def rest_url(self) -> str:
        """Where approval keys are issued."""
        return f"http://{self.options.host}:{self._ports[1]}"

    @property
    def registrations(self) -> int:
        """How many registrations all sessions have now."""
        return len(self._venue.registrations)

    @property
    def is_finished(self) -> bool:
        """Whether everything that `seconds` allows has been offered."""
        return self._offer.finished.is_set()

    def totals(self) -> dict[str, Any]:
        """Return the counts so far: records sent, replies, heartbeats, keys, and what the faults did."""
        venue, counts = self._venue, self._venue.counts
        symbols = {
            symbol: {"trade": instrument.trade_count, "orderbook": instrument.book_count}
            for symbol, instrument in sorted(venue.market.instruments.items())
        }
        trades = sum(symbol["trade"] for symbol in symbols.values())
        books = sum(symbol["orderbook"] for symbol in symbols.values())
        return {
            "sent": {"trade": trades, "orderbook": books, "total": trades + books},
            "withheld": counts["withheld"],
            "symbols": symbols,
            "messages": counts["messages"],
            "fragmented": counts["fragmented"],
            "bytes": counts["bytes"],
            "sessions": counts["sessions"],
            "sessions_open": len(venue.sessions),
            "registrations": len(venue.registrations),
            "replies": dict(venue.replies),
            "pingpong": {
                "sent": counts["pingpong_sent"],
                "echoed": counts["pingpong_echoed"],
                "timeouts": counts["pingpong_timeouts"],
                "echo_max_ms": round(venue.pingpong_echo_max_ms, 3),
            },
            "approvals": dict(venue.approval_counts),
            "garbage": dict(venue.garbage),
            "offered_s": round(self._offer.pacer.elapsed_s, 3),
            "finished": self.is_finished,
        }

    def _accept(self, request: WSUpgradeRequest) -> Session:
        return Session(self._venue)

    async def _run(self) -> None:
        faults = self._venue.faults
        timed: list[tuple[str, Coroutine[Any, Any, None]]] = [("offer", self._offer.run())]
        if faults.close_every_s:
            timed.append(("close", self._every(faults.close_every_s, Session.close)))
        if faults.abort_every_s:
            timed.append(("abort", self._every(faults.abort_every_s, Session.abort)))
        if faults.garbage_per_s:
            timed.append(("garbage", self._send_garbage(faults.garbage_per_s)))
        if faults.stall_for_s:
            timed.append(("stall", self._stall(faults.stall_after_s, faults.stall_for_s)))
        async with asyncio.TaskGroup() as group:
            for name, coroutine in timed:
                group.create_task(coroutine, name=name)

    async def _every(self, seconds: float, act: Callable[[Session], None]) -> None:
        while True:
            await asyncio.sleep(seconds)
            for session in list(self._venue.sessions.values()):
                act(session)

    async def _send_garbage(self, rate: float) -> None:
        shapes = itertools.cycle(GARBAGE)
        while True:
            await asyncio.sleep(1 / rate)
            for session in list(self._venue.sessions.values()):
                if session.registrations and session.accepts_records and not self._venue.is_stalled:
                    shape, text = next(shapes)
                    self._venue.garbage[shape] += 1
                    session.send(text)
                    break

    async def _stall(self, after_s: float, for_s: float) -> None:
        await self._offer.started.wait()
        await asyncio.sleep(after_s)
        self._venue.is_stalled = True
        await asyncio.sleep(for_s)
        self._venue.is_stalled = False

    async def _close_sessions(self) -> None:
        sessions = list(self._venue.sessions.values())
        for session in sessions:
            session.close(WSCloseCode.GOING_AWAY)
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                for session in sessions:
                    await session.closed.wait()
        except TimeoutError:
            for session in sessions:
                session.cut()
                await session.closed.wait()
