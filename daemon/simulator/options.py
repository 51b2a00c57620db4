"""The settings of one simulator, checked where they are made."""

from typing import Annotated

import msgspec
from msgspec import Meta

VENUE_MAX_REGISTRATIONS = 41  # per session, over all TRs (official notices of 2025-08-07 and 2026-04-20)


class SimulatorOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the simulator offers, how fast, and what goes wrong.

    rate is records per second in total over all registrations, open loop: a late record is sent at once, not left out.
    Raises ValueError from the constructor if a number is outside its range.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0  # WebSocket; 0: any free port
    rest_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    rate: float = 1000.0
    seed: int = 1
    records_per_frame: int = 1  # at most so many trades in one frame; each frame has a random 1..n
    book_share: float = 0.5  # part of the records that are order books, when both kinds are registered
    fragment: float = 0.0  # probability that a message travels as several WebSocket fragments
    journal: str | None = None
    seconds: float | None = None  # stop offering after so many seconds of offering
    start_after: int = 0  # offer nothing until so many registrations exist
    max_registrations: int = VENUE_MAX_REGISTRATIONS
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
            ("max_registrations", self.max_registrations >= 0, "0 or more"),
            ("pingpong_interval_s", self.pingpong_interval_s > 0, "more than 0"),
            ("pingpong_timeout_s", self.pingpong_timeout_s >= 0, "0 or more"),
        ):
            if not is_good:
                raise ValueError(f"{name}: expected {expected}, found {getattr(self, name)}")
