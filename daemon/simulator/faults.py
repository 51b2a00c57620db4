"""What goes wrong on command: each fault is a line of text, parsed into the plan that a session consults.

`name:argument:...` concerns every session; `name:argument:...@TAG` only those whose app key or venue is TAG, so that
one side of an A/B pair can fail alone.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

# A whole record whose identity cannot occur in the synthetic market: symbols there are registered, this one is not.
_RECORD = (
    "ZZZZZZ^103015^71200^2^300^0.42^71162.75^71100^71800^70600^71200^71100^37^7064640^503002368000^20311^21877^1566"
    "^104.37^3456789^3607851^1^0.50^61.20^090013^2^100^093312^5^-600^090241^2^600^20261120^20^N^12044^8307^1203345"
    "^998712^0.12^6123456^115.44^0^^71100^2"
)
# Frames that no parser may take for data, as latin-1 text (one character per byte).
GARBAGE: Final[tuple[tuple[str, str], ...]] = (
    ("short_record", "0|H0STCNT0|001|" + "^".join(_RECORD.split("^")[:30])),
    ("bad_count", f"0|H0STCNT0|002|{_RECORD}"),
    ("truncated", f"0|H0STCNT0|001|{_RECORD[:140]}"),
    ("unknown_tr", f"0|H0ZZZZZ9|001|{_RECORD}"),
    ("invalid_utf8", "0|H0STCNT0|001|" + _RECORD.replace("^71200^2^", "^712\xff\xfe0^2^", 1)),
)
BIG_FRAME_MB = 10.0
TINY_FRAMES = 100_000


@dataclass
class Countdown:
    """So many more times; None never ends."""

    left: int | None

    def take(self) -> bool:
        """Use one up; False when none is left."""
        if self.left is None:
            return True
        self.left -= 1
        return self.left >= 0


@dataclass
class FaultPlan:
    """Every fault of one session. Symbols are in upper case; times are seconds; 0 or None: the fault is off."""

    # Requests and their replies
    no_ack: dict[str, Countdown] = field(default_factory=dict)
    lost_ack: dict[str, Countdown] = field(default_factory=dict)
    errors: dict[str, tuple[str, Countdown]] = field(default_factory=dict)
    late_ack_s: float = 0.0
    ack_wrong_tr: bool = False
    limit: int | None = None
    # Keys and sessions
    expire_key: bool = False
    expire_after_s: float = 0.0
    slot_held_s: float = 0.0
    slot_held_attempts: int = 0
    refuse_approval: Countdown = field(default_factory=lambda: Countdown(0))
    throttle_approval: Countdown = field(default_factory=lambda: Countdown(0))
    refuse_connect: Countdown = field(default_factory=lambda: Countdown(0))
    kick_for_s: float = 0.0
    close_every_s: float = 0.0
    abort_every_s: float = 0.0
    half_open_every_s: float = 0.0
    supersede_every_s: float = 0.0
    stall_after_s: float = 0.0
    stall_for_s: float = 0.0
    early: str = ""
    # Which records are sent
    silent: set[str] = field(default_factory=set)
    pingpong_only: bool = False
    market_goes_on: bool = False
    drop_every: dict[str, int] = field(default_factory=dict)
    reorder_every: dict[str, int] = field(default_factory=dict)
    duplicate: float = 0.0
    replay: int = 0
    jitter_ms: tuple[float, float] | None = None
    # What the market does
    correct_every: dict[str, int] = field(default_factory=dict)
    roll_after_s: float = 0.0
    burst: tuple[float, float, float] = (0.0, 0.0, 1.0)
    # What frames look like
    garbage_per_s: float = 0.0
    pack: int = 0
    wrong_count_every: int = 0
    truncate_every: int = 0
    bad_utf8_every: int = 0
    new_fields: int = 0
    big_frame_every_s: float = 0.0
    big_frame_mb: float = BIG_FRAME_MB
    tiny_every_s: float = 0.0
    tiny_frames: int = TINY_FRAMES

    @property
    def touches_records(self) -> bool:
        """Whether records of a session must be looked at one by one, which the fast path does not do."""
        return bool(
            self.drop_every
            or self.reorder_every
            or self.duplicate
            or self.wrong_count_every
            or self.truncate_every
            or self.bad_utf8_every
            or self.new_fields
        )


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _symbol(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text.upper()


def _chance(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError(text)
    return value


def _no_ack(plan: FaultPlan, symbol: str, times: str) -> None:
    plan.no_ack[_symbol(symbol)] = Countdown(_count(times))


def _lost_ack(plan: FaultPlan, symbol: str, times: str) -> None:
    plan.lost_ack[_symbol(symbol)] = Countdown(_count(times))


def _error(plan: FaultPlan, symbol: str, code: str, times: str | None = None) -> None:
    if not code:
        raise ValueError(code)
    plan.errors[_symbol(symbol)] = (code.upper(), Countdown(None if times is None else _count(times)))


def _silent(plan: FaultPlan, symbol: str) -> None:
    plan.silent.add(_symbol(symbol))


def _drop(plan: FaultPlan, symbol: str, every: str) -> None:
    plan.drop_every[_symbol(symbol)] = _count(every)


def _reorder(plan: FaultPlan, symbol: str, every: str) -> None:
    plan.reorder_every[_symbol(symbol)] = max(2, _count(every))


def _correct(plan: FaultPlan, symbol: str, every: str) -> None:
    plan.correct_every[_symbol(symbol)] = max(3, _count(every))  # more often, the volume would fall for ever


def _slot_held(plan: FaultPlan, seconds: str, attempts: str = "0") -> None:
    plan.slot_held_s, plan.slot_held_attempts = _positive(seconds), int(attempts)


def _burst(plan: FaultPlan, after: str, seconds: str, factor: str) -> None:
    plan.burst = _positive(after), _positive(seconds), _positive(factor)


def _stall(plan: FaultPlan, after: str, seconds: str) -> None:
    plan.stall_after_s, plan.stall_for_s = _positive(after), _positive(seconds)


def _jitter(plan: FaultPlan, lowest: str, highest: str) -> None:
    low, high = float(lowest), _positive(highest)
    if not 0 <= low <= high:
        raise ValueError(lowest)
    plan.jitter_ms = (low, high)


def _big_frame(plan: FaultPlan, seconds: str, megabytes: str = str(BIG_FRAME_MB)) -> None:
    plan.big_frame_every_s, plan.big_frame_mb = _positive(seconds), _positive(megabytes)


def _tiny(plan: FaultPlan, seconds: str, frames: str = str(TINY_FRAMES)) -> None:
    plan.tiny_every_s, plan.tiny_frames = _positive(seconds), _count(frames)


def _set(name: str, read: Callable[[str], object]) -> Callable[..., None]:
    """Return a reader of the one argument of field *name*."""

    def reader(plan: FaultPlan, argument: str) -> None:
        setattr(plan, name, read(argument))

    return reader


def _switch(name: str) -> Callable[..., None]:
    """Return a reader of a fault without arguments."""

    def reader(plan: FaultPlan) -> None:
        setattr(plan, name, True)

    return reader


def _times(text: str) -> Countdown:
    return Countdown(_count(text))


# name -> (how it is written, what reads it). A new fault is a field of the plan, a reader and a line here.
FAULTS: Final[dict[str, tuple[str, Callable[..., None]]]] = {
    "no_ack": ("no_ack:SYMBOL:N  ignore the first N subscribe requests of SYMBOL", _no_ack),
    "lost_ack": ("lost_ack:SYMBOL:N  register, but lose the first N replies for SYMBOL", _lost_ack),
    "late_ack": ("late_ack:SECONDS  register at once, reply so much later", _set("late_ack_s", _positive)),
    "error": ("error:SYMBOL:CODE[:N]  refuse SYMBOL with this code, always or N times", _error),
    "ack_wrong_tr": ("ack_wrong_tr  before each success, a stray UNSUBSCRIBE SUCCESS", _switch("ack_wrong_tr")),
    "limit": ("limit:K  refuse more than K registrations of a session", _set("limit", _count)),
    "expire_key": ("expire_key  the first key of each app key is refused (OPSP0011, 8005)", _switch("expire_key")),
    "expire_after": (
        "expire_after:SECONDS  so long after the start, every key issued so far is refused",
        _set("expire_after_s", _positive),
    ),
    "slot_held": (
        "slot_held:SECONDS[:ATTEMPTS]  after an unclean drop, OPSP8996 for so long or so many attempts",
        _slot_held,
    ),
    "refuse_approval": (
        "refuse_approval:N  answer the first N key requests with 500",
        _set("refuse_approval", _times),
    ),
    "throttle_approval": (
        "throttle_approval:N  answer the first N key requests with 429 (EGW00201)",
        _set("throttle_approval", _times),
    ),
    "refuse_connect": (
        "refuse_connect:N  answer the first N upgrades with 429",
        _set("refuse_connect", _times),
    ),
    "kick": ("kick:SECONDS  for so long, accept each connection and close it at once", _set("kick_for_s", _positive)),
    "close": (
        "close:SECONDS  close every session properly, each so many seconds",
        _set("close_every_s", _positive),
    ),
    "abort": (
        "abort:SECONDS  reset every session inside a fragmented frame, each so many seconds",
        _set("abort_every_s", _positive),
    ),
    "half_open": (
        "half_open:SECONDS  each so many seconds, neither read nor write any session again, without closing it",
        _set("half_open_every_s", _positive),
    ),
    "supersede": (
        "supersede:SECONDS  each so many seconds, end every session as if the app key logged in elsewhere (R10001)",
        _set("supersede_every_s", _positive),
    ),
    "stall": ("stall:AFTER:SECONDS  after so long, send nothing at all for a while", _stall),
    "early": (
        "early:SYMBOL  the first trade of SYMBOL comes in the same segment as the upgrade's answer",
        _set("early", _symbol),
    ),
    "silent": ("silent:SYMBOL  acknowledge SYMBOL and never send data for it", _silent),
    "pingpong_only": (
        "pingpong_only  acknowledge and keep the link alive, but never send data",
        _switch("pingpong_only"),
    ),
    "market_goes_on": (
        "market_goes_on  trade on while nobody listens, and journal that as unheard",
        _switch("market_goes_on"),
    ),
    "drop": ("drop:SYMBOL:N  leave out each Nth record of SYMBOL; the journal says dropped", _drop),
    "reorder": ("reorder:SYMBOL:N  send each Nth record of SYMBOL after the next one", _reorder),
    "duplicate": ("duplicate:P  send a frame twice, with probability P", _set("duplicate", _chance)),
    "replay": ("replay:N  after a registration, send the last N frames of its symbol again", _set("replay", _count)),
    "jitter": ("jitter:MIN_MS:MAX_MS  delay what is sent by a random time; the order stays", _jitter),
    "correct": ("correct:SYMBOL:N  the cumulative volume of SYMBOL goes down at each Nth trade", _correct),
    "roll": ("roll:SECONDS  so long after the start, cumulative volumes begin again", _set("roll_after_s", _positive)),
    "burst": ("burst:AFTER:SECONDS:FACTOR  after so long, offer FACTOR times as much for a while", _burst),
    "garbage": ("garbage:RATE  so many malformed frames a second", _set("garbage_per_s", _positive)),
    "pack": ("pack:N  exactly N trades in a frame", _set("pack", _count)),
    "wrong_count": (
        "wrong_count:N  each Nth data frame says one record more than it has",
        _set("wrong_count_every", _count),
    ),
    "truncate": ("truncate:N  each Nth data frame ends inside its last record", _set("truncate_every", _count)),
    "bad_utf8": (
        "bad_utf8:N  each Nth data frame has bytes that are not UTF-8 in a text field",
        _set("bad_utf8_every", _count),
    ),
    "new_field": ("new_field:N  every record has N fields more than the layout", _set("new_fields", _count)),
    "big_frame": ("big_frame:SECONDS[:MB]  each so many seconds, a meaningless frame of 10 MB", _big_frame),
    "tiny": ("tiny:SECONDS[:N]  each so many seconds, 100,000 tiny frames in one write", _tiny),
}


def _apply(plan: FaultPlan, text: str, fault: str) -> None:
    name, *arguments = fault.split(":")
    if name not in FAULTS:
        raise ValueError(f"fault {text!r}: no fault is called {name!r}; there are {', '.join(FAULTS)}")
    usage, read = FAULTS[name]
    try:
        read(plan, *arguments)
    except (ValueError, TypeError) as exc:  # TypeError: too few or too many arguments
        raise ValueError(f"fault {text!r}: expected {usage.split('  ')[0]}") from exc


class Faults:
    """Every fault of one run: what concerns all, and what concerns one tag. ValueError names the text that is wrong."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.general = FaultPlan()
        self._tagged: dict[str, list[str]] = {}
        self._plans: dict[tuple[str, ...], FaultPlan] = {}
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Put one more fault into effect for the sessions that ask for their plan from now on."""
        fault, at, tag = text.strip().partition("@")
        if not at:
            _apply(self.general, text, fault)
        elif not tag:
            raise ValueError(f"fault {text!r}: expected an app key or a venue after @")
        else:
            _apply(FaultPlan(), text, fault)
            self._tagged.setdefault(tag, []).append(fault)
        self._plans.clear()

    @property
    def tags(self) -> tuple[str, ...]:
        """Every tag that a fault names."""
        return tuple(self._tagged)

    def own(self, tag: str) -> FaultPlan:
        """Return what *tag* has beyond the general plan."""
        plan = FaultPlan()
        for fault in self._tagged.get(tag, ()):
            _apply(plan, fault, fault)
        return plan

    def plan(self, *tags: str) -> FaultPlan:
        """Return the plan of a session that these tags describe; the same object for the same tags."""
        known = tuple(tag for tag in tags if tag in self._tagged)
        if not known:
            return self.general
        if known not in self._plans:
            plan = dataclasses.replace(self.general)
            for item in dataclasses.fields(plan):  # countdowns of the general plan stay shared
                value = getattr(plan, item.name)
                if isinstance(value, (dict, set)):
                    setattr(plan, item.name, value.copy())
            for tag in known:
                for fault in self._tagged[tag]:
                    _apply(plan, fault, fault)
            self._plans[known] = plan
        return self._plans[known]


def parse_faults(texts: Iterable[str]) -> FaultPlan:
    """Return the plan of *texts* for a session without tags; ValueError names the text that is wrong."""
    return Faults(texts).general
