"""What can go wrong at a moment, and schedules of it: at fixed intervals, on request, or at random from a seed.

An act concerns one session, or with None the whole venue. The schedule of a seed is pure, so that a run that failed can
be repeated.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from daemon.simulator import framing
from daemon.simulator.session import Session
from daemon.simulator.venue import Venue

MEAN_INTERVAL_S = 5.0
STALL_S = 2.0
REPLAYED = 20
BIG_BYTES = 10 << 20
TINY_FRAMES = 100_000


class Scheduled(NamedTuple):
    """One act of a random schedule: so long after the one before; *choice* (0 to 1) picks the session."""

    delay_s: float
    act: str
    choice: float


def schedule(seed: str, mean_s: float = MEAN_INTERVAL_S) -> Iterator[Scheduled]:
    """Yield the acts of a seed, for ever: the same for the same seed."""
    draw = random.Random(f"chaos:{seed}")  # noqa: S311 - faults, not secrets
    names = sorted(ACTS)
    while True:
        yield Scheduled(draw.expovariate(1 / mean_s), draw.choice(names), draw.random())


def parse_chaos(text: str) -> tuple[str, float]:
    """Return the seed and the mean interval of SEED or SEED:MEAN_SECONDS; ValueError otherwise."""
    seed, _, mean = text.partition(":")
    try:
        mean_s = float(mean) if mean else MEAN_INTERVAL_S
    except ValueError:
        mean_s = 0.0
    if not seed or not 0 < mean_s < float("inf"):
        raise ValueError(f"chaos: expected SEED or SEED:MEAN_SECONDS, found {text!r}")
    return seed, mean_s


def garbage_act(session: Session) -> None:
    """Send the next malformed frame."""
    venue = session.venue
    if session.registrations and session.accepts_records:
        shapes = venue.speech.garbage()
        shape, text = shapes[venue.garbage.total() % len(shapes)]
        venue.garbage[shape] += 1
        session.send(text)


def replay_act(session: Session) -> None:
    """Send again what the session's streams still remember; without a `replay` fault that is nothing."""
    for registration in list(session.registrations.values()):
        for record in list(registration.stream.recent)[-REPLAYED:]:
            session.put_frame(session.compose([(registration, record)]))
            session.venue.counts["duplicates"] += 1
    session.flush()


def skip_act(session: Session) -> None:
    """Leave out the next record of one registration."""
    _of_one_registration(session, "skip_next")


def swap_act(session: Session) -> None:
    """Send the next record of one registration after the one that follows it."""
    _of_one_registration(session, "swap_next")


def _of_one_registration(session: Session, name: str) -> None:
    places = sorted(session.registrations)
    if places:
        setattr(session.registrations[session.venue.draw.choice(places)], name, True)
        session.is_meddled = True
        session.venue.note_change()


def supersede_act(session: Session) -> None:
    """End the session as if its app key logged in elsewhere."""
    session.supersede()


def big_frame_act(session: Session, size_bytes: int = BIG_BYTES) -> None:
    """Send one meaningless frame of 10 MB."""
    _, text = session.venue.speech.garbage()[0]
    session.venue.garbage["big"] += 1
    session.write_raw(session.frame_of(text[:16] + "x" * (size_bytes - 16)).encode("latin-1"))


def tiny_act(session: Session, frames: int = TINY_FRAMES) -> None:
    """Send 100,000 tiny frames in one write."""
    session.venue.garbage["tiny"] += frames
    session.write_raw(framing.frame("0|Z|1|").encode("latin-1") * frames)


ACTS: Final[Mapping[str, Callable[[Session], None]]] = {
    "close": Session.close,
    "abort": Session.abort,
    "half_open": Session.half_open,
    "stall": lambda session: session.stall(STALL_S),
    "garbage": garbage_act,
    "replay": replay_act,
    "skip": skip_act,
    "swap": swap_act,
}
# On request only: too much for a random schedule, or the end of it.
MORE_ACTS: Final[Mapping[str, Callable[[Session], None]]] = {
    "supersede": supersede_act,
    "big_frame": big_frame_act,
    "tiny": tiny_act,
    "expire_keys": lambda session: session.venue.approvals.expire(session.app_key),
}


def sessions_of(venue: Venue, tag: str | None) -> list[Session]:
    """Return the sessions that *tag* means, oldest first; None: all."""
    return [s for _, s in sorted(venue.sessions.items()) if tag in (None, s.app_key, venue.name)]
