"""Drives one planned connection: performs what the connection and its subscriptions decide, and reports what happened.

No decision is made here. The data never passes through: the native listener takes it from the socket to the ring, and
only control frames and the end of the connection come to Python.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from picows import WSCloseCode, WSError, WSMsgType

from daemon.errors import InvariantBroken, Refused, Retryable, RingError, Untrusted
from daemon.ingest import connection as states
from daemon.ingest.connection import Connection
from daemon.ingest.link import Link
from daemon.ingest.registrar import Registrar
from daemon.ingest.repeated_warnings import RepeatedWarnings
from daemon.ingest.router import route
from daemon.ingest.session_times import connection_times, watchdog_limits
from daemon.ingest.subscription_states import SubscriptionStatistics
from daemon.ingest.venues import VENUE_IDS
from daemon.ingest.venues.venue import (
    Notice,
    Registration,
    RegistrationRefused,
    SessionFault,
    SessionRefused,
    Unknown,
    Unsubscribed,
)
from daemon.ingest.watchdog import Action as WatchdogAction
from daemon.ingest.watchdog import DataWatchdog
from native_pipeline.frame_listener import FrameListener
from native_pipeline.records import BAD_CONTROL

if TYPE_CHECKING:
    from picows import WSTransport

    from daemon.alerts import Level
    from daemon.config import Account
    from daemon.config import Ingest as IngestSettings
    from daemon.ingest.approval_key import KeyProvider
    from daemon.ingest.gaps import Place
    from daemon.ingest.surroundings import Surroundings
    from daemon.ingest.venues.venue import Venue
    from daemon.shard_plan import PlannedConnection
    from native_pipeline.frame_parser import FrameParser

# A venue that does not answer our close frame within this time is disconnected.
CLOSE_TIMEOUT_S = 1.0
# While a socket is paused because the ring is short of room, this often we look whether there is room again.
RESUME_INTERVAL_S = 0.02
# What a closed connection had read and the ring had no room for waits this long at a stop; then it is lost, and said.
DRAIN_TIMEOUT_S = 5.0
# A session whose newest data are younger than this brings data: a silent symbol of it is the symbol's own trouble.
FLOWING_S = 30.0
# So often in a row the venue says that somebody else holds the slot before others are asked to carry the registrations.
SLOT_REFUSALS = 3
# So many failures in a row to obtain a key are no hiccup any more.
KEY_FAILURES_CRITICAL = 3

SESSION_ALERTS: Mapping[SessionFault, tuple[Level, str, str]] = {
    SessionFault.KEY_EXPIRED: ("INFO", "key_expired", "the access key has expired; a new one is fetched"),
    SessionFault.CREDENTIAL_REFUSED: ("CRITICAL", "credential_refused", "the venue does not accept the credentials"),
    SessionFault.SLOT_HELD: ("WARNING", "slot_held", "another session uses this account; tried again slowly"),
    SessionFault.SUPERSEDED: ("CRITICAL", "session_superseded", "a newer session has taken over; not tried again"),
}
# Nothing but the operator ends these.
HOPELESS = frozenset({SessionFault.CREDENTIAL_REFUSED, SessionFault.SUPERSEDED})


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
        self._account = account
        self._venue = venue
        self._keys = keys
        self._around = around
        self._log = around.log.bind(venue=venue.name, account=account.name)
        self._connection = Connection(
            random=around.random, needs_login=venue.needs_login, **connection_times(around.settings)
        )
        limit = account.max_subscriptions or venue.default_max_subscriptions
        self.registrar = Registrar(number, planned, limit=limit, venue=venue, around=around, send=self._send)
        self._watchdog = DataWatchdog(watchdog_limits(around.settings))
        self._last_data_ns = 0  # of the link, as last seen
        self._last_data_at = float("-inf")
        self._keep_alive_at = 0.0
        self._key = ""
        self._key_failures = 0  # in a row
        self._slot_refusals = 0  # in a row
        self._warnings = RepeatedWarnings(self._log, around.clock)
        self._link: Link | None = None
        self._parser: FrameParser | None = None  # of the newest link

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

    def set_planned(self, planned: PlannedConnection, account: Account) -> None:
        """Collect what *planned* says; *account* is used from the next key or connection on."""
        self._account = account
        self.registrar.set_planned(planned, account.max_subscriptions or self._venue.default_max_subscriptions)
        if self._parser is not None:
            self._parser.is_redundant = self._around.is_redundant(self.registrar.streams())
        self._around.wake_timer()

    def set_settings(self, settings: IngestSettings) -> None:
        """Go by *settings* from now on; what is on its way, and a pause that has begun, keep theirs."""
        self._around = msgspec.structs.replace(self._around, settings=settings)
        self._connection.set_times(**connection_times(settings))
        self._watchdog.set_limits(watchdog_limits(settings))
        self.registrar.set_settings(self._around)

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
            self._keep_alive(now)
        self.registrar.due(now)

    def look(self, now: float, newest: Mapping[Place, int], shared: frozenset[Place]) -> None:
        """Judge silence, about once a second: of the session, and of each of its streams; see `Registrar.look`."""
        link = self._link
        if link is None or self._connection.state not in (states.State.READY, states.State.STREAMING):
            return
        if link.listener.paused:  # what the venue has sent meanwhile waits in the socket
            self._watchdog.on_lost()
            return
        if link.listener.last_data_ns != self._last_data_ns:
            self._last_data_ns = link.listener.last_data_ns
            self._last_data_at = now
            self._watchdog.on_data(now)
        elif self.registrar.has_confirmed():
            self._watchdog.on_subscribed(now)
        self.registrar.look(now, newest, shared, is_flowing=now - self._last_data_at < FLOWING_S)
        silent_s = self._watchdog.silent_for_s(now)
        action = self._watchdog.due(now, self.registrar.is_any_open(self._around.wall_ns()))
        if action is not None:
            self._remedy(link, action, silent_s, now)

    def next_deadline(self, now: float) -> float | None:
        """Return when `tick` is needed at the latest."""
        deadlines = [d for d in (self.registrar.next_deadline(), self._connection.next_deadline()) if d is not None]
        if self._link is not None and self._link.listener.paused:
            deadlines.append(now + RESUME_INTERVAL_S)
        if self._venue.keep_alive is not None and self._connection.state in states.OPEN_STATES:
            deadlines.append(self._keep_alive_at)
        return min(deadlines, default=None)

    @property
    def state(self) -> states.State:
        """The state of the connection."""
        return self._connection.state

    def statistics(self) -> SubscriptionStatistics:
        """Return the number of subscriptions in each state."""
        return self.registrar.statistics()

    @property
    def number(self) -> int:
        """Of the session in its worker."""
        return self._number

    @property
    def account(self) -> Account:
        """Whose session it is."""
        return self._account

    @property
    def venue(self) -> Venue:
        """Where it is."""
        return self._venue

    # -- what the router calls -------------------------------------------------------------------------------------

    def on_heartbeat(self, reply: bytes) -> None:
        """Echo it at once; what answers our own question has nothing to echo."""
        if reply:
            self._send(reply)
            self._around.counters.increment("pingpongs")

    def on_logged_in(self) -> None:
        """The venue accepts the session."""
        if self._link is not None and not self._link.logged_in.done():
            self._link.logged_in.set_result(None)

    def on_notice(self, notice: Notice) -> None:
        """Count what the venue says without consequence; its text may be private."""
        self._around.counters.increment("order_notices")

    def on_subscribed(self, registration: Registration | None) -> None:
        """Take a confirmation."""
        self._slot_refusals = 0
        self.registrar.on_subscribed(registration)

    def on_refused(self, refused: RegistrationRefused) -> None:
        """Take a refusal of one registration."""
        refused = msgspec.structs.replace(refused, text=self._masked(refused.text))  # it is shown to people
        self._log.info("request_refused", code=refused.code, refusal=refused.refusal.value, key=_key_of(refused))
        self.registrar.on_refused(refused)

    def on_unsubscribed(self, message: Unsubscribed) -> None:
        """Take the answer to our own request; log it where nobody had asked."""
        if not self.registrar.on_released(message.registration):
            self.on_unexpected(message)

    def on_session_refused(self, refused: SessionRefused) -> None:
        """End the session for the reason given. The text is not logged: it may quote the approval key."""
        self._log.warning("session_refused", code=refused.code, fault=refused.fault.value)
        level, code, message = SESSION_ALERTS[refused.fault]
        self._alert(level, code, f"{message} ({refused.code})")
        self._slot_refusals += refused.fault is SessionFault.SLOT_HELD
        if refused.fault in HOPELESS or self._slot_refusals >= SLOT_REFUSALS:
            self.registrar.decline_all(message)
        if self._link is not None:
            self._link.end(states.SESSION_FAULT_EVENTS[refused.fault])

    def on_unexpected(self, message: Unsubscribed | Unknown) -> None:
        """Log it; the session goes on."""
        text = self._masked(message.text) if isinstance(message, Unknown) else ""
        self._warnings.warn("unexpected_reply", code=message.code, text=text, key=_key_of(message))

    def _masked(self, text: str) -> str:
        """Return a text of the venue without our secrets, which it may quote."""
        for secret in (self._key, self._account.app_key, self._account.app_secret):
            text = text.replace(secret, "********") if secret else text
        return text

    def on_undecodable(self, frame: bytes, reason: str) -> None:
        """Keep the frame in the ring as a quarantine record; the listener publishes it at the end of its read."""
        self._warnings.warn("control_frame_quarantined", reason=reason, frame_bytes=len(frame))
        try:
            self._around.ring.append_quarantine_frame(
                BAD_CONTROL,
                frame,
                venue=VENUE_IDS[self._venue.name],
                recv_ns=self._around.wall_ns(),
            )
        except RingError:
            self._warnings.fail("quarantine_lost", frame_bytes=len(frame))
            return
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
                case states.LogIn():
                    event = await self._log_in()
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
            self._alert("CRITICAL", "credential_refused", "the venue does not accept app key or secret")
            self.registrar.decline_all("no access key: the credentials are refused")
            return states.Event.CREDENTIAL_REFUSED
        except Retryable as exc:
            self._log.error("approval_key_unavailable", error=str(exc))
            self._key_failures += 1
            if isinstance(exc, Untrusted):
                self._alert("CRITICAL", "certificate_refused", f"nothing is sent to this peer: {exc}")
                return states.Event.KEY_UNAVAILABLE
            level: Level = "CRITICAL" if self._key_failures >= KEY_FAILURES_CRITICAL else "WARNING"
            self._alert(level, "key_unavailable", f"no access key after {self._key_failures} attempts; tried again")
            return states.Event.KEY_UNAVAILABLE
        self._key_failures = 0
        return states.Event.KEY_OBTAINED

    async def _connect(self) -> states.Event:
        await self._empty()
        url = self._venue.websocket_url(self._account)
        await self._wait_for_leave(urlsplit(url).netloc)
        self._venue.on_session_start()
        link = Link(self._make_listener)
        self._link = link  # from here on frames may arrive, also before `open` returns
        try:
            link.transport = await self._around.connector.open(url, link.listener)
        except Retryable as exc:
            self._link = None
            self._log.warning("connect_failed", error=str(exc))
            if isinstance(exc, Untrusted):
                self._alert("CRITICAL", "certificate_refused", f"nothing is sent to this peer: {exc}")
            return states.Event.OPEN_FAILED
        self._around.counters.increment("connections_opened")
        self._log.info("connected", registrations=self.registrar.wanted())
        if self._venue.keep_alive is not None:
            self._keep_alive_at = self._around.clock() + self._venue.keep_alive.interval_s
        return states.Event.OPENED

    async def _wait_for_leave(self, address: str) -> None:
        """Wait until the budgets allow another attempt; say so once for each attempt that has to wait."""
        governor, account = self._around.governor, self._account.name
        is_told = False
        while (wait_s := governor.connect_wait_s(account, address, self._around.clock())) > 0.0:
            if not is_told:
                is_told = True
                self._around.counters.increment("attempts_withheld")
                self._log.warning("connect_withheld", wait_s=round(wait_s, 3))
                self._alert(
                    "WARNING", "connect_withheld", f"too many attempts to connect: the next in {wait_s:.0f} s at most"
                )
            await asyncio.sleep(wait_s)
        governor.on_connect(account, address, self._around.clock())

    async def _log_in(self) -> states.Event:
        """Send the login; return what comes first of its reply, the end of the connection and the end of patience."""
        link = self._open_link()
        self._send(self._venue.encode_login(self._key))
        answers: list[asyncio.Future[Any]] = [link.ended, link.logged_in]
        await asyncio.wait(
            answers,
            timeout=self._around.settings.connect_timeout_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if link.ended.done():
            return await self._note_end(link, link.ended.result())
        if link.logged_in.done():
            return states.Event.LOGGED_IN
        return await self._note_end(link, states.Event.LOGIN_TIMED_OUT)

    def _open_link(self) -> Link:
        if self._link is None or self._link.transport is None:
            raise InvariantBroken("a session without a connection")
        return self._link

    def _make_listener(self, on_closed: Callable[[], None]) -> FrameListener:
        self._parser = self._venue.make_parser(self._venue.decode_market, self._number)
        self._parser.is_redundant = self._around.is_redundant(self.registrar.streams())
        return FrameListener(
            self._around.ring,
            self._parser,
            self._around.counters,
            self._on_control,
            on_closed,
            max_message_bytes=self._around.settings.max_frame_bytes,
            raw=self._around.raw,
        )

    async def _stream(self) -> states.Event:
        link = self._open_link()
        self._last_data_ns = link.listener.last_data_ns
        self.registrar.on_ready(self._key)
        self._around.wake_timer()
        try:
            event = await link.ended
        finally:
            self.registrar.on_lost(link.whole_until(self._around.wall_ns(), self.registrar.transit_ns()))
            self._watchdog.on_lost()
        return await self._note_end(link, event)

    async def _note_end(self, link: Link, event: states.Event) -> states.Event:
        self._around.counters.increment("connections_lost")
        self._log.warning("connection_ended", reason=event.value)
        if event is states.Event.LOST and link.transport is not None:
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

    # -- the rest --------------------------------------------------------------------------------------------------

    def _remedy(self, link: Link, action: WatchdogAction, silent_s: float, now: float) -> None:
        """Do what the data watchdog asks for."""
        fields = {"silent_s": round(silent_s, 1)}
        silence = f"no data for {silent_s:.0f} s while a market is open"
        match action:
            case WatchdogAction.WARN:
                self._around.counters.increment("watchdog_warnings")
                self._log.warning("data_silent", **fields)
                self._alert("WARNING", "data_silent", silence)
            case WatchdogAction.RESUBSCRIBE:
                self._around.counters.increment("watchdog_resubscriptions")
                self._log.warning("data_resubscribed", registrations=self.registrar.renew_all(now), **fields)
                self._alert("WARNING", "data_resubscribed", f"{silence}: everything is requested anew")
            case WatchdogAction.RECONNECT:
                self._around.counters.increment("watchdog_reconnections")
                self._log.error("data_reconnect", **fields)
                self._alert("CRITICAL", "data_reconnect", f"{silence}: connecting anew")
                link.end(states.Event.DATA_SILENT)

    def _keep_alive(self, now: float) -> None:
        """Say what the venue wants to hear from time to time."""
        keep_alive = self._venue.keep_alive
        if keep_alive is None or self._connection.state not in states.OPEN_STATES or now < self._keep_alive_at:
            return
        self._keep_alive_at = now + keep_alive.interval_s
        self._send(keep_alive.frame)

    def _alert(self, level: Level, code: str, message: str) -> None:
        subject = self._account.name
        self._around.alerts.send(level, code, f"{self._venue.name} {subject}: {message}", subject=subject)

    def _on_control(self, frame: bytes) -> None:
        """Called by the listener. An exception here closes the connection and comes out of `_surface`."""
        route(frame, decode=self._venue.decode_control, handler=self)
        self._around.wake_timer()

    def _send(self, frame: bytes) -> None:
        if self._link is not None and self._link.transport is not None:
            self._link.transport.send(WSMsgType.TEXT, frame)


def _key_of(message: RegistrationRefused | Unsubscribed | Unknown) -> str | None:
    return message.registration.key if message.registration is not None else None
