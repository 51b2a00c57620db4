"""What goes wrong on command: each fault is a line of text, parsed into one plan that the simulator consults."""

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
    """Every fault of one run. Symbols are in upper case; times are seconds; 0 or None means that the fault is off."""

    no_ack: dict[str, Countdown] = field(default_factory=dict)
    lost_ack: dict[str, Countdown] = field(default_factory=dict)
    errors: dict[str, tuple[str, Countdown]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    late_ack_s: float = 0.0
    ack_wrong_tr: bool = False
    limit: int | None = None
    close_every_s: float = 0.0
    abort_every_s: float = 0.0
    garbage_per_s: float = 0.0
    expire_key: bool = False
    stall_after_s: float = 0.0
    stall_for_s: float = 0.0
    pingpong_only: bool = False
    refuse_approval: Countdown = field(default_factory=lambda: Countdown(0))


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


def _late_ack(plan: FaultPlan, seconds: str) -> None:
    plan.late_ack_s = _positive(seconds)


def _ack_wrong_tr(plan: FaultPlan) -> None:
    plan.ack_wrong_tr = True


def _limit(plan: FaultPlan, registrations: str) -> None:
    plan.limit = _count(registrations)


def _close(plan: FaultPlan, seconds: str) -> None:
    plan.close_every_s = _positive(seconds)


def _abort(plan: FaultPlan, seconds: str) -> None:
    plan.abort_every_s = _positive(seconds)


def _garbage(plan: FaultPlan, rate: str) -> None:
    plan.garbage_per_s = _positive(rate)


def _expire_key(plan: FaultPlan) -> None:
    plan.expire_key = True


def _stall(plan: FaultPlan, after: str, seconds: str) -> None:
    plan.stall_after_s, plan.stall_for_s = _positive(after), _positive(seconds)


def _pingpong_only(plan: FaultPlan) -> None:
    plan.pingpong_only = True


def _refuse_approval(plan: FaultPlan, times: str) -> None:
    plan.refuse_approval = Countdown(_count(times))


# name -> (how it is written, what reads it). A new fault is a field of the plan, a reader and a line here.
FAULTS: Final[dict[str, tuple[str, Callable[..., None]]]] = {
    "no_ack": ("no_ack:SYMBOL:N  ignore the first N subscribe requests of SYMBOL", _no_ack),
    "lost_ack": ("lost_ack:SYMBOL:N  register, but lose the first N replies for SYMBOL", _lost_ack),
    "late_ack": ("late_ack:SECONDS  register at once, reply so much later", _late_ack),
    "error": ("error:SYMBOL:MSG_CD[:N]  refuse SYMBOL with this code, always or N times", _error),
    "ack_wrong_tr": ("ack_wrong_tr  before each success, a stray UNSUBSCRIBE SUCCESS", _ack_wrong_tr),
    "silent": ("silent:SYMBOL  acknowledge SYMBOL and never send data for it", _silent),
    "limit": ("limit:K  MAX SUBSCRIBE OVER after K registrations of a session", _limit),
    "close": ("close:SECONDS  close every session properly, each so many seconds", _close),
    "abort": ("abort:SECONDS  reset every session inside a fragmented frame, each so many seconds", _abort),
    "garbage": ("garbage:RATE  so many malformed frames a second", _garbage),
    "expire_key": ("expire_key  the first approval key of each app key is refused (OPSP0011)", _expire_key),
    "stall": ("stall:AFTER:SECONDS  after so long, send nothing at all for a while", _stall),
    "pingpong_only": ("pingpong_only  acknowledge and keep the link alive, but never send data", _pingpong_only),
    "refuse_approval": ("refuse_approval:N  answer the first N approval requests with 500", _refuse_approval),
}


def parse_faults(texts: Iterable[str]) -> FaultPlan:
    """Return the plan that *texts* describe; ValueError names the text that is wrong and how it is written."""
    plan = FaultPlan()
    for text in texts:
        name, *arguments = text.strip().split(":")
        if name not in FAULTS:
            raise ValueError(f"fault {text!r}: no fault is called {name!r}; there are {', '.join(FAULTS)}")
        usage, read = FAULTS[name]
        try:
            read(plan, *arguments)
        except (ValueError, TypeError) as exc:  # TypeError: too few or too many arguments
            raise ValueError(f"fault {text!r}: expected {usage.split('  ')[0]}") from exc
    return plan
