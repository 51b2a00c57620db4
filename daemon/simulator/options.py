"""The settings of one simulator, checked where they are made."""

import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

VENUE_MAX_REGISTRATIONS = 41  # per session, over all TRs (official notices of 2025-08-07 and 2026-04-20)
# Kiwoom documents no total and Upbit none at all: large enough that only a fault meets them.
MAX_REGISTRATIONS = {"kis": VENUE_MAX_REGISTRATIONS, "kiwoom": 2_000, "upbit": 10_000}
VENUES = tuple(MAX_REGISTRATIONS)


class SimulatorOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the simulator offers, how fast, and what goes wrong.

    venues is a list of NAME or NAME=SHARE of the rate, separated by commas; without shares, the rate is divided evenly.
    rate is records per second in total over all registrations, open loop: a late record is sent at once, not left out.
    Raises ValueError from the constructor if a number is outside its range.
    """

    venues: str = "kis"
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0  # WebSocket of the first venue; 0: any free port
    rest_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    rate: float = 1000.0
    seed: int = 1
    records_per_frame: int = 1  # at most so many trades in one frame; each frame has a random 1..n
    book_share: float = 0.5  # part of the records that are order books, when both kinds are registered
    fragment: float = 0.0  # probability that a message travels as several WebSocket fragments
    journal: str | None = None
    seconds: float | None = None  # stop offering after so many seconds of offering
    start_after: int = 0  # offer nothing until so many registrations exist
    max_registrations: int | None = None  # None: as the venue has it
    event_interval_s: float = 1.0  # between two records of a stream that is neither trades nor order books
    clock: str | None = None  # ISO 8601 with offset: the exchanges' time at the start; None: now
    idle_timeout_s: float = 120.0  # Upbit: close a session that said nothing for so long; 0: never
    login_timeout_s: float = 5.0  # Kiwoom
    connects_per_s: int = 5  # Upbit: more are answered with 429; 0: no limit
    requests_per_s: int = 5  # Upbit, a connection; 0: no limit
    requests_per_min: int = 100
    chaos: str | None = None  # SEED or SEED:MEAN_SECONDS: faults at random moments, the same for the same seed
    pingpong_interval_s: float = 10.0
    pingpong_timeout_s: float = 100.0  # drop a session that echoed nothing for so long; 0: never
    faults: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, is_good, expected in (
            ("rate", self.rate > 0, "more than 0"),
            ("records_per_frame", 1 <= self.records_per_frame <= 999, "1 to 999"),  # the count has three digits
            ("book_share", 0 <= self.book_share <= 1, "0 to 1"),
            ("fragment", 0 <= self.fragment <= 1, "0 to 1"),
            ("seconds", self.seconds is None or self.seconds > 0, "more than 0"),
            ("start_after", self.start_after >= 0, "0 or more"),
            ("max_registrations", self.max_registrations is None or self.max_registrations >= 0, "0 or more"),
            ("event_interval_s", self.event_interval_s > 0, "more than 0"),
            ("pingpong_interval_s", self.pingpong_interval_s > 0, "more than 0"),
            ("pingpong_timeout_s", self.pingpong_timeout_s >= 0, "0 or more"),
        ):
            if not is_good:
                raise ValueError(f"{name}: expected {expected}, found {getattr(self, name)}")
        self.shares()
        self.clock_offset_ns(0)

    def shares(self) -> dict[str, float]:
        """Return the part of the rate that each venue gets, in the order given."""
        found: dict[str, float | None] = {}
        for item in self.venues.split(","):
            name, has_share, share = item.strip().partition("=")
            if name not in VENUES or name in found:
                raise ValueError(f"venues: expected each of {', '.join(VENUES)} at most once, found {name!r}")
            found[name] = _share(share) if has_share else None
        given = sum(share for share in found.values() if share is not None)
        open_count = sum(share is None for share in found.values())
        if given > 1.0 + 1e-9 or (open_count and given >= 1.0):
            raise ValueError(f"venues: expected shares of at most 1 together, found {self.venues}")
        rest = (1.0 - given) / open_count if open_count else 0.0
        return {name: rest if share is None else share for name, share in found.items()}

    def clock_offset_ns(self, wall_ns: int) -> int:
        """Return what to add to the machine's clock, which reads *wall_ns* at the start."""
        if self.clock is None:
            return 0
        try:
            moment = datetime.datetime.fromisoformat(self.clock)
        except ValueError:
            moment = datetime.datetime.min
        if moment.tzinfo is None:
            raise ValueError(f"clock: expected ISO 8601 with an offset, found {self.clock!r}")
        return int(moment.timestamp() * 1_000_000_000) - wall_ns


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ValueError(f"venues: expected a share of the rate above 0 and at most 1, found {text!r}")
    return share
