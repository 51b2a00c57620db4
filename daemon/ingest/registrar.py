"""Performs what the subscriptions of one session decide, and tells them what the venue and the data say.

No decision is made here. Requests go out through the venue's encoder, interruptions to the gaps, trouble to the alerts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from daemon.ingest import subscription_states as subs
from daemon.ingest.gaps import MAX_TRANSIT_NS, GapReason, Place, Stream
from daemon.ingest.silence import Silence
from daemon.ingest.subscription_states import Habits, State, SubscriptionStatistics
from daemon.ingest.subscriptions import Subscriptions
from daemon.ingest.venues.venue import Registration, RegistrationRefused

if TYPE_CHECKING:
    from daemon.ingest.surroundings import Surroundings
    from daemon.ingest.venues.venue import Venue
    from daemon.shard_plan import PlannedConnection, PlannedSubscription

# enum sise_record_kind of layout.h; all other kinds of data are events.
DATA_KINDS = {"trade": 1, "orderbook": 2}
EVENT_KIND = 6
# Confirmed, whatever is thought of it.
CARRIED_STATES = (State.CONFIRMED, State.SUSPECTED)


def data_kind(kind: str) -> int:
    """Return the number under which the ring keeps the streams of *kind*."""
    return DATA_KINDS.get(kind, EVENT_KIND)


def place_of(stream: Stream) -> Place:
    """Return under what the ring keeps the records of *stream*."""
    return stream.symbol, data_kind(stream.kind), stream.exchange


def registration_of(planned: PlannedSubscription) -> Registration:
    """Return what to ask the venue for."""
    return Registration(planned.channel, planned.key)


def stream_of(venue: str, planned: PlannedSubscription) -> Stream:
    """Return the stream that *planned* brings."""
    return Stream(venue, planned.market, planned.exchange, planned.symbol, planned.kind, planned.channel, planned.key)


MOVED = "moved"  # no state of a subscription: it has none here any more
# A session remembers so many registrations that went elsewhere, for `sise status`.
MAX_DECLINED = 100
# What an open market is expected to send without long pauses.
CONTINUOUS_KINDS = ("trade", "orderbook")


class Registrar:
    """The registrations of one session."""

    def __init__(
        self,
        number: int,
        planned: PlannedConnection,
        *,
        limit: int,
        venue: Venue,
        around: Surroundings,
        send: Callable[[bytes], None],
    ) -> None:
        """number: of the session in its worker. limit: registrations of one session, 0: not known."""
        self._number = number
        self._account = planned.account
        self._venue = venue
        self._around = around
        self._send = send
        self._log: Any = around.log.bind(venue=venue.name, account=planned.account)
        settings = around.settings
        self._streams = {registration_of(s): stream_of(venue.name, s) for s in planned.subscriptions}
        self._subscriptions = Subscriptions(
            self._streams,
            interval_s=settings.subscribe_interval_ms / 1000.0,
            timeout_s=settings.subscribe_timeout_s,
            attempts=settings.subscribe_attempts,
            habits=Habits(
                acknowledges=venue.acknowledges,
                replaces_all=venue.replaces_all,
                max_batch=venue.max_batch,
                limit=limit,
            ),
        )
        self._silence = Silence(settings.symbol_silence_s)
        self._key = ""
        self._held_until = 0.0
        self._learned = 0  # the limit that was recorded last
        self._declined: dict[Registration, tuple[Stream, str]] = {}  # what this session could not have, and why

    # -- what the session calls ------------------------------------------------------------------------------------

    def set_planned(self, planned: PlannedConnection, limit: int) -> None:
        """Collect what *planned* says from now on, on a session that takes *limit*.

        What it has in common with the plan before is not touched.
        """
        streams = {registration_of(s): stream_of(self._venue.name, s) for s in planned.subscriptions}
        dropped = [stream for registration, stream in self._streams.items() if registration not in streams]
        self._streams = {**self._streams, **streams}  # what is being given up still has its stream
        self._subscriptions.set_desired(streams, self._around.clock(), limit)
        if self._venue.replaces_all:
            self._drop(dropped)
        self._forget_gone()
        self._silence.keep(streams)
        if len(self._declined) > MAX_DECLINED:
            self._declined = {r: found for r, found in self._declined.items() if r in streams}

    def set_settings(self, around: Surroundings) -> None:
        """Go by the settings of *around* from the next request on."""
        self._around = around
        settings = around.settings
        self._subscriptions.set_pace(
            interval_s=settings.subscribe_interval_ms / 1000.0,
            timeout_s=settings.subscribe_timeout_s,
            attempts=settings.subscribe_attempts,
        )
        self._silence.set_threshold(settings.symbol_silence_s)

    def on_ready(self, key: str) -> None:
        """Start registering on a new session."""
        self._key = key
        self._learned = 0
        self._subscriptions.on_ready(self._around.clock())

    def on_lost(self, until_ns: int) -> None:
        """The session is over; what it carried was whole until *until_ns*."""
        gaps = self._around.gaps
        gaps.on_dropped(gaps.carried_by(self._number), self._number, until_ns, GapReason.CONNECTION_LOST)
        self._subscriptions.on_lost()
        self._forget_gone()

    def due(self, now: float) -> None:
        """Do what time has brought, within the budget of requests."""
        at = self._subscriptions.next_deadline()
        if at is None or at > now:
            return
        wait_s = self._around.governor.request_wait_s(self._account, now)
        if wait_s > 0.0:
            if self._held_until <= now:
                self._around.counters.increment("attempts_withheld")
                self._log.info("requests_withheld", wait_s=round(wait_s, 3))
            self._held_until = now + wait_s
            return
        self._act(self._subscriptions.due(now))

    def next_deadline(self) -> float | None:
        """Return when `due` is needed."""
        at = self._subscriptions.next_deadline()
        return None if at is None else max(at, self._held_until)

    def renew_all(self, now: float) -> int:
        """Give up and request again whatever is confirmed, paced; return how many registrations that is."""
        return self._subscriptions.renew(self._subscriptions.in_state(*CARRIED_STATES), now)

    def look(self, now: float, newest: Mapping[Place, int], shared: frozenset[Place], *, is_flowing: bool) -> None:
        """Compare with what the ring has received. newest: wall ns of the newest record by stream.

        shared: streams whose records cannot be told apart by registration, because several bring them.
        """
        wall_ns = self._around.wall_ns()
        for registration in self._subscriptions.registrations():
            stream = self._streams[registration]
            place = place_of(stream)
            state = self._subscriptions.status(registration).state
            is_confirmed = state in CARRIED_STATES
            if self._silence.has_data(registration, newest.get(place, 0), now):
                if is_confirmed or place not in shared:
                    self._act(self._subscriptions.on_data(registration))
                continue
            if not is_confirmed:
                continue
            is_open = self._around.is_open(stream.market, stream.exchange, wall_ns)
            silent_s = self._silence.silent_s(registration, now, is_open=is_open, is_flowing=is_flowing)
            if silent_s is not None:
                self._suspect(registration, silent_s, now)

    def streams(self) -> Iterable[Stream]:
        """Return the streams of this session's registrations."""
        return self._streams.values()

    def transit_ns(self) -> int:
        """Return how long the newest record of this session was on its way, by the venue's clock; 0 if it cannot be."""
        times = self._around.transits()
        own = [times.get(place_of(stream), (0, 0)) for stream in self._streams.values()]
        recv_ns, exchange_ns = max(own, default=(0, 0))
        return recv_ns - exchange_ns if 0 <= recv_ns - exchange_ns <= MAX_TRANSIT_NS else 0

    def is_any_open(self, wall_ns: int) -> bool:
        """Return whether a market of this session's trades and books is open: other kinds may be silent for hours."""
        markets = {(s.market, s.exchange) for s in self._streams.values() if s.kind in CONTINUOUS_KINDS}
        return any(self._around.is_open(market, exchange, wall_ns) for market, exchange in markets)

    # -- what the venue says ---------------------------------------------------------------------------------------

    def on_subscribed(self, registration: Registration | None) -> None:
        """Take a confirmation."""
        self._act(self._subscriptions.on_confirmed(registration))

    def on_refused(self, refused: RegistrationRefused) -> None:
        """Take a refusal."""
        self._act(self._subscriptions.on_refused(refused, self._around.clock()))

    def decline_all(self, reason: str) -> None:
        """The session cannot have anything: offer all of it to others."""
        self._decline(dict.fromkeys(self._subscriptions.registrations(), reason))

    def on_released(self, registration: Registration | None) -> bool:
        """Take the reply that something is gone; False if nobody had asked for that."""
        actions = self._subscriptions.on_released(registration, self._around.clock())
        self._act(actions)
        return bool(actions)

    # -- what can be seen ------------------------------------------------------------------------------------------

    def statistics(self) -> SubscriptionStatistics:
        """Return the number of subscriptions in each state."""
        return self._subscriptions.statistics()

    def has_confirmed(self) -> bool:
        """Return whether anything is expected to arrive."""
        return bool(self._subscriptions.in_state(*CARRIED_STATES))

    def wanted(self) -> int:
        """Return the number of registrations that are wanted."""
        return len(self._subscriptions.registrations())

    def markets(self, newest: Mapping[Place, int]) -> dict[tuple[str, str], int]:
        """Return wall ns of the newest record (0: none yet) by (market, exchange); *newest*: as in `look`."""
        found: dict[tuple[str, str], int] = {}
        for stream in self._streams.values():
            market = stream.market, stream.exchange
            found[market] = max(found.get(market, 0), newest.get(place_of(stream), 0))
        return found

    def unconfirmed(self) -> list[tuple[Stream, str, int, str]]:
        """Return (stream, state, attempts, reason) of all that is wanted and not simply confirmed, and of what was
        wanted, could not be had and is tried on another session: state `moved`.
        """
        found = []
        for registration in self._subscriptions.registrations():
            status = self._subscriptions.status(registration)
            if status.state is not State.CONFIRMED:
                found.append((self._streams[registration], status.state.value, status.attempts, status.reason))
        for registration, (stream, reason) in self._declined.items():
            if registration not in self._streams:
                found.append((stream, MOVED, 0, f"tried on another session: {reason}"))
        return found

    # -- the actions -----------------------------------------------------------------------------------------------

    def _act(self, actions: Iterable[subs.Action]) -> None:
        declined: dict[Registration, str] = {}
        for action in actions:
            match action:
                case subs.Send(registrations=registrations):
                    self._request(registrations)
                case subs.Release(registrations=registrations):
                    self._drop(self._streams[registration] for registration in registrations)
                    self._spend()
                    self._send(self._venue.encode_unsubscribe(self._key, registrations))
                case subs.Confirmed(registration=registration):
                    self._on_confirmed(registration)
                case subs.Released(registration=registration, attempts=attempts):
                    self._on_released(registration, attempts)
                case subs.Rejected(registration=registration, reason=reason, may_fit_elsewhere=may_fit_elsewhere):
                    if may_fit_elsewhere:
                        declined[registration] = reason
                    self._log.error("subscription_rejected", key=registration.key, reason=reason)
                    self._alert("subscription_rejected", registration, f"refused for good: {reason}")
                case subs.Failed(registration=registration, attempts=attempts, reason=reason):
                    declined[registration] = reason
                    self._log.error("subscription_failed", key=registration.key, attempts=attempts, reason=reason)
                    self._alert("subscription_failed", registration, f"not confirmed in {attempts} requests: {reason}")
                case subs.Capped(confirmed=confirmed, left_out=left_out):
                    self._log.error("session_full", confirmed=confirmed, left_out=left_out)
                    message = f"the venue takes no more registrations: {confirmed} confirmed, {left_out} left out"
                    self._around.alerts.send("CRITICAL", "session_full", message, subject=self._account)
                    self._learn_limit()
        if declined:
            self._decline(declined)

    def _request(self, registrations: tuple[Registration, ...]) -> None:
        newest = self._around.streams()
        for registration in registrations:
            stream = self._streams[registration]
            if self._subscriptions.status(registration).state is State.PENDING:
                self._silence.on_requested(registration, newest.get(place_of(stream), 0))
        self._spend()
        self._send(self._venue.encode_subscribe(self._key, registrations))

    def _spend(self) -> None:
        self._around.governor.on_request(self._account, self._around.clock())

    def _on_confirmed(self, registration: Registration) -> None:
        self._around.gaps.on_carried(self._streams[registration], self._number, self._around.wall_ns())
        self._log.debug("subscription_confirmed", channel=registration.channel, key=registration.key)
        if self._subscriptions.is_capped:
            self._learn_limit()

    def _on_released(self, registration: Registration, attempts: int) -> None:
        if attempts:
            self._log.warning("unsubscribe_unanswered", key=registration.key, attempts=attempts)
        self._log.debug("subscription_released", channel=registration.channel, key=registration.key)
        self._forget_gone()

    def _suspect(self, registration: Registration, silent_s: float, now: float) -> None:
        reason = f"silent for {silent_s:.0f} s while its market is open"
        if not self._subscriptions.on_silent(registration, now, reason):
            return
        self._log.warning("subscription_suspected", key=registration.key, silent_s=round(silent_s, 1))
        self._alert("subscription_suspected", registration, f"{reason}: registering it anew", level="WARNING")

    def _learn_limit(self) -> None:
        """The venue has said how many registrations it takes: those that it has confirmed."""
        statistics = self._subscriptions.statistics()
        limit = statistics.confirmed + statistics.suspected
        if limit <= self._learned:
            return
        self._learned = limit
        self._log.info("limit_learned", limit=limit)
        try:
            self._around.learn_limit(self._account, limit)
        except OSError as exc:
            self._log.warning("limit_not_kept", error=exc.strerror)
        self._around.counters.increment("limits_learned")  # behind the record: whoever sees the count finds it

    def _decline(self, reasons: Mapping[Registration, str]) -> None:
        """Let the next plan prefer other accounts for these; without any with room they stay here, tried again."""
        self._declined |= {r: (self._streams[r], reason) for r, reason in reasons.items() if r in self._streams}
        try:
            is_new = self._around.decline(self._account, {(r.channel, r.key): why for r, why in reasons.items()})
        except OSError as exc:
            self._log.warning("decline_not_kept", error=exc.strerror)
            return
        if is_new:
            self._log.info("offered_elsewhere", registrations=len(reasons))
            self._around.counters.increment("limits_learned")  # behind the record: it makes the supervisor plan again

    def _drop(self, streams: Iterable[Stream]) -> None:
        """Their registration is being given up or renewed: each was whole until its newest record."""
        gaps, wall_ns, newest = self._around.gaps, self._around.wall_ns(), self._around.streams()
        for stream in streams:
            until_ns = newest.get(place_of(stream), wall_ns)
            gaps.on_dropped([stream], self._number, until_ns, GapReason.CONNECTION_LOST)

    def _forget_gone(self) -> None:
        """Keep only the streams of what is wanted or still being given up."""
        kept = {*self._subscriptions.registrations(), *self._subscriptions.in_state(State.LEAVING, State.RELEASING)}
        if len(kept) != len(self._streams):
            self._streams = {r: stream for r, stream in self._streams.items() if r in kept}

    def _alert(self, code: str, registration: Registration, message: str, *, level: Any = "CRITICAL") -> None:
        subject = f"{self._account} {registration.channel} {registration.key}"
        self._around.alerts.send(level, code, f"{self._venue.name} {subject}: {message}", subject=subject)
