"""Registrations that go from one session, or one worker, to another: who is told, what is shown, and the hole."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.ingest.changes import Changes
from daemon.ingest.ring_history import history_of
from daemon.ingest.worker_status import read_status, status_path
from daemon.rings import ring_path
from daemon.shard_plan import Moved, PlannedConnection, PlannedSubscription, WorkerPlan
from native_pipeline.ring_creation import create_ring
from native_pipeline.ring_writer import RingWriter
from native_pipeline.stream_receipts import EXCHANGE_FLAGS, append_gap
from tests.integration.invented_venue import Server
from tests.integration.test_sessions import SYMBOLS, Running, planned, settings, working
from tests.integration.test_worker import QUICK, Bench, bench, lines, on_uvloop, wait_until

__all__ = ["bench", "lines"]  # fixtures

SECOND_NS = 1_000_000_000
EARLIER_NS = 1_700_000_000 * SECOND_NS


class Records:
    """What the worker keeps of registrations that a session could not have."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Mapping[tuple[str, str], str]]] = []

    def __call__(self, account: str, reasons: Mapping[tuple[str, str], str]) -> bool:
        self.kept.append((account, dict(reasons)))
        return True


@pytest.mark.requirement("SUB-RETRY-01", "SUB-CONF-03")
@on_uvloop
async def test_what_a_session_could_not_have_is_offered_to_others_and_shown_as_moved(
    bench: Bench, lines: io.StringIO, tmp_path: Path
) -> None:
    declined, changes = Records(), Changes()
    quick = msgspec.structs.replace(QUICK, subscribe_timeout_s=0.1)
    shown = status_path(tmp_path, 0)
    shown.parent.mkdir()

    def answer(do: str, keys: list[str]) -> list[dict[str, Any]]:
        return [] if keys == [SYMBOLS[2]] else [{"is": do, "key": keys[0]}]

    async with Server(answer) as server, Server() as other:
        config = settings(server.url, "a", "b", ingest=quick)
        second = msgspec.structs.replace(config.accounts[1], ws_url=other.url)
        config = msgspec.structs.replace(config, accounts=(config.accounts[0], second))
        before = WorkerPlan(0, (planned(*SYMBOLS[:3], account="a"), planned(SYMBOLS[3], account="b")))
        after = WorkerPlan(0, (planned(*SYMBOLS[:2], account="a"), planned(*SYMBOLS[2:4], account="b")))
        async with working(
            bench, config, *before.connections, decline=declined, status_path=shown, changes=changes
        ) as running:
            await wait_until(lambda: bench.value("limits_learned") == 1)
            assert declined.kept == [("a", {("TRADES", SYMBOLS[2]): "no reply within 0.1 s"})]

            changes.put(config, after)
            await wait_until(lambda: running.confirmed == 4)
            await wait_until(lambda: [s.state for s in problems(shown)] == ["moved"])
            (moved,) = problems(shown)
            assert (moved.symbol, moved.reason) == (
                SYMBOLS[2],
                "tried on another session: no reply within 0.1 s",
            )

    assert server.asked("on").count([SYMBOLS[2]]) == 3
    assert other.asked("on") == [[SYMBOLS[3]], [SYMBOLS[2]]]


def problems(path: Path) -> list[Any]:
    found = read_status(path)
    return [] if found is None else [one for session in found.sessions for one in session.unconfirmed]


@pytest.mark.requirement("SUB-RETRY-01")
@on_uvloop
async def test_a_bad_symbol_is_offered_to_nobody_and_no_text_of_the_venue_shows_a_key(
    bench: Bench, lines: io.StringIO, tmp_path: Path
) -> None:
    declined = Records()
    shown = status_path(tmp_path, 0)
    shown.parent.mkdir()

    def answer(do: str, keys: list[str]) -> list[dict[str, Any]]:
        if keys == [SYMBOLS[1]]:
            return [{"is": "refused", "why": "invalid", "key": keys[0], "text": "key very-secret is no good"}]
        return [{"is": do, "key": keys[0]}]

    async with Server(answer) as server:
        config = settings(server.url, app_key="very-secret")
        async with working(bench, config, planned(*SYMBOLS[:2]), decline=declined, status_path=shown):
            await wait_until(lambda: len(problems(shown)) == 1)
            (found,) = problems(shown)

    assert found.state == "rejected"
    assert "********" in found.reason
    assert "very-secret" not in lines.getvalue()
    assert declined.kept == []


def nxt(symbol: str) -> PlannedConnection:
    return PlannedConnection("main", "kis", (PlannedSubscription("trade", "kr", "nxt", symbol, "TRADES", symbol),))


def another_ring(directory: Path) -> Path:
    """The ring of worker 1, where both streams of a symbol ended, each at its own time; return its data directory."""
    path = ring_path(directory, 1)
    path.parent.mkdir(parents=True)
    create_ring(path, ring=1, capacity_bytes=1 << 20)
    ring = RingWriter(path)
    append_gap(ring, (SYMBOLS[0], 1, "nxt"), EARLIER_NS - 1, EARLIER_NS, 1, venue=1, market=1)
    append_gap(ring, (SYMBOLS[0], 1, ""), EARLIER_NS, EARLIER_NS + SECOND_NS, 1, venue=1, market=1)
    ring.publish()
    ring.close()
    return directory


@pytest.mark.requirement("F63")
@pytest.mark.parametrize("is_live", [True, False], ids=["while running", "at the start"])
@on_uvloop
async def test_a_stream_from_another_worker_has_a_gap_from_its_last_record_there(
    bench: Bench, lines: io.StringIO, tmp_path: Path, is_live: bool
) -> None:
    data_dir = another_ring(tmp_path / "other")
    plan = WorkerPlan(0, (nxt(SYMBOLS[0]),), (Moved(1, "kis", "TRADES", SYMBOLS[0]),))

    async with Server(lambda do, keys: [{"is": do, "key": keys[0]}]) as server:
        config = settings(server.url)
        first = WorkerPlan(0, ()) if is_live else plan
        async with working(
            bench, config, *first.connections, moved=first.moved, history=lambda worker: history_of(data_dir, worker)
        ) as running:
            if is_live:
                await running.worker.apply(config, plan)
            await wait_until(lambda: bench.value("gaps_recorded") == 1)

    (gap,) = bench.of_kind("gap")
    assert (gap["symbol"], gap["started_ns"]) == (SYMBOLS[0], EARLIER_NS)
    assert gap["flags"] == EXCHANGE_FLAGS["nxt"]


@pytest.mark.requirement("F63")
@on_uvloop
async def test_a_stream_that_is_new_has_no_past(bench: Bench, lines: io.StringIO, tmp_path: Path) -> None:
    data_dir = another_ring(tmp_path / "other")
    async with Server(lambda do, keys: [{"is": do, "key": keys[0]}]) as server:
        config = settings(server.url)
        async with working(bench, config, history=lambda worker: history_of(data_dir, worker)) as running:
            await running.worker.apply(config, WorkerPlan(0, (nxt(SYMBOLS[0]),)))
            await wait_until(lambda: running.confirmed == 1)

    assert bench.of_kind("gap") == []
    assert history_of(tmp_path / "nowhere", 3) == {}
    assert isinstance(running, Running)
