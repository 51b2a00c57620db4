"""Drives one planned connection: performs what the connection and its subscriptions decide, and reports what happened.

No decision is made here. The data never passes through: the native listener takes it from the socket to the ring, and
only control frames and the end of the connection come to Python.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from picows import WSCloseCode, WSError, WSMsgType

from daemon.errors import InvariantBroken, Refused, Retryable, RingError
from daemon.ingest import connection as states
from daemon.ingest import subscriptions as subs
from daemon.ingest.connection import Connection
from daemon.ingest.gaps import GapReason, Gaps
from daemon.ingest.router import route
from daemon.ingest.subscriptions import Subscriptions, SubscriptionStatistics
from daemon.ingest.venues import MARKET_IDS, VENUE_IDS
from daemon.ingest.venues.venue import Registration, RegistrationRefused, SessionRefused, Unknown, Unsubscribed
from native_pipeline.frame_listener import FrameListener
from native_pipeline.records import BAD_CONTROL

if TYPE_CHECKING:
    from picows import WSTransport

    from daemon.config import Account
    from daemon.config import Ingest as IngestSettings
    from daemon.ingest.approval_key import KeyProvider
    from daemon.ingest.connector import Connector
    from daemon.ingest.venues.venue import Venue
    from daemon.shard_plan import PlannedConnection
    from native_pipeline.counters import CountersBlock
    from native_pipeline.ring import RingWriter

# A venue that does not answer our close frame within this time is disconnected.
CLOSE_TIMEOUT_S = 1.0
# While a socket is paused because the ring is short of room, this often we look whether there is room again.
RESUME_INTERVAL_S = 0.02
# What a closed connection had read and the ring had no room for waits this long at a stop; then it is lost, and said.
DRAIN_TIMEOUT_S = 5.0
# What the venue may repeat without end is logged once in this time.
WARN_INTERVAL_S = 60.0
DATA_KINDS = {"trade": 1, "orderbook": 2}  # enum sise_record_kind of layout.h


class Surroundings(msgspec.Struct, frozen=True):
    """What all sessions of a worker share."""

    ring: RingWriter
    counters: CountersBlock
    connector: Connector
    settings: IngestSettings
    clock: Callable[[], float]  # monotonic, seconds
    wall_ns: Callable[[], int]
    random: Callable[[], float]
    wake_timer: Callable[[], None]  # a deadline may have come nearer
    log: Any  # structlog's bound loggers have no common static type


class _Link:
    """One WebSocket. The first of the events that can end it wins; later ones are of no interest."""

    def __init__(self, make_listener: Callable[[Callable[[], None]], FrameListener]) -> None:
        """make_listener: is given what to call when the socket is gone."""
        self.ended: asyncio.Future[states.Event] = asyncio.get_running_loop().create_future()
        self.listener = make_listener(lambda: self.end(states.Event.LOST))
        self.transport: WSTransport | None = None  # until the upgrade is complete

    def end(self, event: states.Event) -> None:
        if not self.ended.done():
            self.ended.set_result(event)


class Session:
    """One account's connection, for as long as the worker lives. It is its router's `ControlHandler`."""

    def __init__(
        self,
        number: int,
        planned: PlannedConnection,
        *,
        account: Account,
        venue: Venue,
        keys: KeyProvider,
        around: Surroundings,
    ) -> None:
        """number: of the connection in its worker, stamped on its records."""
        self._number = number
        self._planned = planned
        self._account = account
        self._venue = venue
        self._keys = keys
        self._around = around
        self._log = around.log.bind(venue=venue.name, account=account.name)
        settings = around.settings
        self._connection = Connection(
            backoff_first_s=settings.backoff_first_s,
            backoff_max_s=settings.backoff_max_s,
            slot_held_backoff_s=settings.slot_held_backoff_s,
            link_timeout_s=settings.link_timeout_s,
            random=around.random,
        )
        self._kinds = {Registration(s.channel, s.symbol): s.kind for s in planned.subscriptions}
        self._subscriptions = Subscriptions(
            self._kinds,
            interval_s=settings.subscribe_interval_ms / 1000.0,
            timeout_s=settings.subscribe_timeout_s,
            attempts=settings.subscribe_attempts,
        )
        self._gaps = Gaps()
        self._key = ""
        self._warned: dict[str, tuple[float, int]] = {}  # event -> (when it was logged, how often it happened since)
        self._link: _Link | None = None

    # -- what the worker calls -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the connection up until cancelled (then close it properly) or until only the operator can help."""
        try:
            actions = self._connection.handle(states.Event.STARTED, self._around.clock())
            while actions:
                event = await self._perform(actions)
                actions = [] if event is None else self._connection.handle(event, self._around.clock())
        finally:
            await self._perform(self._connection.handle(states.Event.STOP_REQUESTED, self._around.clock()))
            await self._empty_at_stop()
            self._gaps.on_stopped(self._around.wall_ns())  # what is interrupted now, a successor cannot know
            self._write_gaps()

    def on_restarted(self, starts_ns: Mapping[tuple[str, int], int], default_ns: int) -> None:
        """An earlier process of this worker wrote the ring: gaps begin where each stream was last known to be whole."""
        for registration, kind in self._kinds.items():
            started_ns = starts_ns.get((registration.key, DATA_KINDS[kind]), default_ns)
            self._gaps.on_interrupted([registration], started_ns, GapReason.WORKER_RESTARTED)

    def tick(self, now: float) -> None:
        """Do what time has brought."""
        link = self._link
        if link is not None:
            if link.listener.paused and not link.listener.try_resume():
                self._connection.on_paused(now)
            event = self._connection.on_frames(link.listener.frames, now)
            if event is states.Event.FRAME_SEEN:
                self._connection.handle(event, now)
            elif event is not None:
                link.end(event)
        self._act(self._subscriptions.due(now))
        self._write_gaps()

    def next_deadline(self, now: float) -> float | None:
        """Return when `tick` is needed at the latest."""
        deadlines = [
            d for d in (self._subscriptions.next_deadline(), self._connection.next_deadline()) if d is not None
        ]
        if (self._link is not None and self._link.listener is not None and self._link.listener.paused) or (
            self._gaps.ended()
        ):
            deadlines.append(now + RESUME_INTERVAL_S)
        return min(deadlines, default=None)

    @property
    def state(self) -> states.State:
        """The state of the connection."""
        return self._connection.state

    def statistics(self) -> SubscriptionStatistics:
        """Return the number of subscriptions in each state."""
        return self._subscriptions.statistics()

    # -- what the router calls -------------------------------------------------------------------------------------

    def on_heartbeat(self, reply: bytes) -> None:
        """Echo it at once."""
        self._send(reply)
        self._around.counters.increment("pingpongs")

    def on_subscribed(self, registration: Registration | None) -> None:
        """Take a confirmation."""
        self._act(self._subscriptions.on_confirmed(registration))

    def on_refused(self, refused: RegistrationRefused) -> None:
        """Take a refusal of one registration."""
        self._log.info("request_refused", code=refused.code, refusal=refused.refusal.value, key=_key_of(refused))
        self._act(self._subscriptions.on_refused(refused, self._around.clock()))

    def on_session_refused(self, refused: SessionRefused) -> None:
        """End the session for the reason given. The text is not logged: it may quote the approval key."""
        self._log.warning("session_refused", code=refused.code, fault=refused.fault.value)
        if self._link is not None:
            self._link.end(states.SESSION_FAULT_EVENTS[refused.fault])

    def on_unexpected(self, message: Unsubscribed | Unknown) -> None:
        """Log it; the session goes on."""
        text = message.text if isinstance(message, Unknown) else ""
        for secret in (self._key, self._account.app_key, self._account.app_secret):
            text = text.replace(secret, "********") if secret else text
        self._warn_sometimes("unexpected_reply", code=message.code, text=text, key=_key_of(message))

    def on_undecodable(self, frame: bytes, reason: str) -> None:
        """Keep the frame in the ring as a quarantine record."""
        self._warn_sometimes("control_frame_quarantined", reason=reason, frame_bytes=len(frame))
        try:
            self._around.ring.append_quarantine_frame(
                BAD_CONTROL,
                frame,
                venue=VENUE_IDS[self._venue.name],
                market=MARKET_IDS[self._planned.market],
                recv_ns=self._around.wall_ns(),
            )
        except RingError:
            self._log.exception("quarantine_lost", frame_bytes=len(frame))
            return
        self._around.ring.publish()
        self._around.counters.increment("records_quarantined")

    # -- the actions of the connection -----------------------------------------------------------------------------

    async def _perform(self, actions: Iterable[states.Action]) -> states.Event | None:
        """Perform *actions* in order; return the event that the last one led to."""
        event: states.Event | None = None
        for action in actions:
            match action:
                case states.FetchKey(refresh=refresh):
                    event = await self._fetch_key(refresh)
                case states.Connect():
                    event = await self._connect()
                case states.Stream():
                    event = await self._stream()
                case states.Close(reason=reason):
                    await self._close(reason)
                case states.BackOff(delay_s=delay_s, reason=reason):
                    self._log.warning("backing_off", reason=reason, delay_s=round(delay_s, 3))
                    await asyncio.sleep(delay_s)
                    event = states.Event.BACKED_OFF
                case states.Halt(reason=reason, is_fault=is_fault):
                    self._halt(reason, is_fault)
        return event

    async def _fetch_key(self, refresh: bool) -> states.Event:
        try:
            self._key = await self._keys.get(refused=self._key if refresh else None)
        except Refused as exc:
            self._log.error("approval_key_refused", error=str(exc))
            return states.Event.CREDENTIAL_REFUSED
        except Retryable as exc:
            self._log.error("approval_key_unavailable", error=str(exc))
            return states.Event.KEY_UNAVAILABLE
        return states.Event.KEY_OBTAINED

    async def _connect(self) -> states.Event:
        await self._empty()
        link = _Link(self._make_listener)
        self._link = link  # from here on frames may arrive, also before `open` returns
        try:
            link.transport = await self._around.connector.open(self._venue.websocket_url(self._account), link.listener)
        except Retryable as exc:
            self._link = None
            self._log.warning("connect_failed", error=str(exc))
            return states.Event.OPEN_FAILED
        self._around.counters.increment("connections_opened")
        self._log.info("connected", registrations=len(self._kinds))
        return states.Event.OPENED

    def _make_listener(self, on_closed: Callable[[], None]) -> FrameListener:
        return FrameListener(
            self._around.ring,
            self._venue.make_parser(self._planned.market, self._number),
            self._around.counters,
            self._on_control,
            on_closed,
            max_message_bytes=self._around.settings.max_frame_bytes,
        )

    async def _stream(self) -> states.Event:
        link = self._link
        if link is None or link.transport is None:
            raise InvariantBroken("streaming without a connection")
        self._subscriptions.on_ready(self._around.clock())
        self._around.wake_timer()
        try:
            event = await link.ended
            confirmed = self._subscriptions.in_state(subs.State.CONFIRMED)
            self._gaps.on_interrupted(confirmed, link.listener.last_frame_ns, GapReason.CONNECTION_LOST)
        finally:
            self._subscriptions.on_lost()
        self._around.counters.increment("connections_lost")
        self._log.warning("connection_ended", reason=event.value)
        if event is states.Event.LOST:
            await self._surface(link.transport)
        return event

    async def _close(self, reason: str) -> None:
        """Send a close frame, give the venue time to answer it, then disconnect."""
        if self._link is None or self._link.transport is None:
            return
        transport = self._link.transport
        closed = asyncio.ensure_future(self._surface(transport))
        transport.send_close(WSCloseCode.OK)
        await asyncio.wait([closed], timeout=CLOSE_TIMEOUT_S)
        if not closed.done():
            self._log.info("close_unanswered", reason=reason)
            transport.disconnect(graceful=False)
        await closed

    async def _surface(self, transport: WSTransport) -> None:
        """Wait until disconnected; raise what our own code raised in a callback, which picows turned into a close."""
        try:
            await transport.wait_disconnected()
        except (WSError, OSError) as exc:
            self._log.warning("connection_broken", error=str(exc))

    async def _empty(self) -> None:
        """Let the ring take what the last connection had read; the worker's timer moves it."""
        while self._link is not None and self._link.listener.held_bytes:  # noqa: ASYNC110 - native code sets no events
            await asyncio.sleep(RESUME_INTERVAL_S)
        self._link = None

    async def _empty_at_stop(self) -> None:
        """The same with a limit: the consumers that make room may be gone themselves."""
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await self._empty()
        except TimeoutError:
            held_bytes = self._link.listener.held_bytes if self._link is not None else 0
            self._log.error("frames_lost_at_stop", held_bytes=held_bytes)

    def _halt(self, reason: str, is_fault: bool) -> None:
        if is_fault:
            self._log.error("connection_stopped", reason=reason)
        else:
            self._log.info("connection_closed", reason=reason)

    # -- the actions of the subscriptions --------------------------------------------------------------------------

    def _act(self, actions: Iterable[subs.Action]) -> None:
        for action in actions:
            match action:
                case subs.Send(registration=registration):
                    self._send(self._venue.encode_subscribe(self._key, registration))
                case subs.Confirmed(registration=registration):
                    self._gaps.on_resumed(registration, self._around.wall_ns())
                    self._log.debug("subscription_confirmed", channel=registration.channel, key=registration.key)
                case subs.Rejected(registration=registration, reason=reason):
                    self._log.error("subscription_rejected", key=registration.key, reason=reason)
                case subs.Failed(registration=registration, attempts=attempts, reason=reason):
                    self._log.error("subscription_failed", key=registration.key, attempts=attempts, reason=reason)
                case subs.Capped(confirmed=confirmed, left_out=left_out):
                    self._log.error("session_full", confirmed=confirmed, left_out=left_out)

    def _on_control(self, frame: bytes) -> None:
        """Called by the listener. An exception here closes the connection and comes out of `_surface`."""
        route(frame, decode=self._venue.decode_control, handler=self)
        self._around.wake_timer()

    def _send(self, frame: bytes) -> None:
        if self._link is not None and self._link.transport is not None:
            self._link.transport.send(WSMsgType.TEXT, frame)

    def _warn_sometimes(self, event: str, **fields: object) -> None:
        """Log the first of a series, then one line a minute with the number of those in between: the venue decides how
        many there are.
        """
        now = self._around.clock()
        logged_at, unlogged = self._warned.get(event, (-WARN_INTERVAL_S, 0))
        if now - logged_at < WARN_INTERVAL_S:
            self._warned[event] = (logged_at, unlogged + 1)
            return
        self._warned[event] = (now, 0)
        self._log.warning(event, unlogged=unlogged, **fields)

    def _write_gaps(self) -> None:
        """Append the gaps that have ended; what finds no room waits for the next tick."""
        gaps = self._gaps.ended()
        for gap in gaps:
            try:
                self._around.ring.append_gap(
                    gap.registration.key,
                    DATA_KINDS[self._kinds[gap.registration]],
                    gap.started_ns,
                    gap.ended_ns,
                    int(gap.reason),
                    venue=VENUE_IDS[self._venue.name],
                    market=MARKET_IDS[self._planned.market],
                )
            except RingError:
                break
            self._gaps.on_written(gap)
            self._around.counters.increment("gaps_recorded")
        if gaps:
            self._around.ring.publish()


def _key_of(message: RegistrationRefused | Unsubscribed | Unknown) -> str | None:
    return message.registration.key if message.registration is not None else None
