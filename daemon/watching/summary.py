"""Everything that is known of the daemon at one moment, as JSON: for `/status.json` and for `sise status`. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from daemon.watching import ages, health
from daemon.watching.markets import MarketReading
from daemon.watching.ownership import relevant_counters
from daemon.watching.readings import NS_PER_S, ProcessReading, Reading, RingReading

RATES = ("frames_received", "records_received", "records_published", "rows_committed", "records_quarantined")
COMPLETENESS = ("volume_gaps", "gaps_recorded", "duplicates_dropped", "records_late", "publish_lapped")
ALERTS = ("alerts_raised", "alerts_published", "alerts_suppressed", "alerts_lost")
MIN_SPAN_S = 0.5  # between the readings of a rate


def summarize(  # Any: JSON
    history: Sequence[Reading], *, silence_limit_s: float, markets: Sequence[MarketReading] = ()
) -> dict[str, Any]:
    """Return the last reading of *history* (in order of time), and what follows from the ones before it."""
    now = history[-1]
    dead = health.dead_reasons(now, silence_limit_s=silence_limit_s)
    unready = health.unready_reasons(history, silence_limit_s=silence_limit_s)
    return {
        "time": iso(now.wall_ns),
        "alive": not dead,
        "ready": not unready,
        "reasons": list(dict.fromkeys([*dead, *unready])),
        "notes": health.notes(now, silence_limit_s=silence_limit_s),
        "totals": {name: total(now, name) for name in RATES},
        "per_second": rates(history),
        "age_us": ages.between(history[0], now),
        "exchange_delays": [msgspec.structs.asdict(one) for one in now.delays],
        "completeness": {name: total(now, name) for name in COMPLETENESS},
        "reconcile": {"minutes": total(now, "minutes_reconciled"), **(now.reconcile or {})},
        "spilled": {"files": total(now, "spill_files"), "bytes": total(now, "spill_bytes")},
        "alerts": {name.removeprefix("alerts_"): total(now, name) for name in ALERTS},
        "markets": [_market(now, market) for market in markets],
        "processes": [_process(now, process) for process in now.processes],
        "missing": now.missing,
        "sessions": list(_sessions(now)),
        "rings": [_ring(ring) for ring in now.rings],
    }


def iso(wall_ns: int) -> str:
    """Return a wall clock time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(wall_ns / NS_PER_S, UTC).isoformat()


def total(reading: Reading, counter: str) -> int:
    """Return the sum of *counter* over all processes."""
    return sum(process.values[counter] for process in reading.processes)


def rates(history: Sequence[Reading]) -> dict[str, float]:
    """Return the increase a second over the last ten seconds of *history*."""
    now = history[-1]
    since = next(reading for reading in history if now.mono_ns - reading.mono_ns <= 10 * NS_PER_S)
    elapsed_s = (now.mono_ns - since.mono_ns) / NS_PER_S
    if elapsed_s < MIN_SPAN_S:
        return dict.fromkeys(RATES, 0.0)
    return {name: round((total(now, name) - total(since, name)) / elapsed_s, 1) for name in RATES}


def _age_s(now: Reading, wall_ns: int) -> float | None:
    return round(max(0, now.wall_ns - wall_ns) / NS_PER_S, 1) if wall_ns else None


def _market(now: Reading, market: MarketReading) -> dict[str, Any]:
    return {
        "name": market.name,
        "open": market.is_open,
        "last_data_age_s": _age_s(now, market.last_data_ns),
        "changes_at": None if market.changes_at_ns is None else iso(market.changes_at_ns),
    }


def _process(now: Reading, process: ProcessReading) -> dict[str, Any]:
    return {
        "name": process.name,
        "role": process.role,
        "pid": process.pid,
        "state": process.state,
        "silent_for_s": round(process.silent_for_s, 3),
        "starts": process.starts,
        "uptime_s": round((now.wall_ns - process.started_ns) / NS_PER_S, 1),
        "rss_bytes": process.values["rss_bytes"],
        "counters": relevant_counters(process),
    }


def _sessions(now: Reading) -> Iterator[Mapping[str, Any]]:
    for worker, status in now.workers.items():
        for session in status.sessions:
            yield {
                "worker": worker,
                "account": session.account,
                "venue": session.venue,
                "state": session.state,
                "degraded": session.is_degraded,
                "confirmed": session.confirmed,
                "desired": session.desired,
                "markets": sorted(session.markets),
                "last_data_age_s": _age_s(now, max(session.markets.values(), default=0)),
                "problems": [msgspec.structs.asdict(one) for one in session.problems],
                "unlisted": session.unlisted,
            }


def _ring(ring: RingReading) -> dict[str, Any]:
    return {
        "name": ring.name,
        "capacity_bytes": ring.capacity_bytes,
        "written_bytes": ring.head,
        "consumers": {
            consumer.name: {
                "mode": consumer.mode,
                "lag_bytes": consumer.lag_bytes,
                "lag_share": round(consumer.lag_bytes / ring.capacity_bytes, 4),
                "lapped_records": consumer.lapped_records,
            }
            for consumer in ring.consumers
        },
    }
