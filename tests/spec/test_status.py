"""What `sise status`, `sise top` and `/status.json` say: from readings and files alone."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.config import Config, Feed, Supervision
from daemon.ingest.worker_status import SessionEntry, StatusFile, SubscriptionEntry, status_path
from daemon.rings import ring_path
from daemon.supervision.directory_lock import ChildEntry, Holder, ProcessId, identify
from daemon.supervision.process import ProcessState
from daemon.watching import console, top
from daemon.watching.inspection import Inspection, NotRunning, find_processes
from daemon.watching.markets import MarketReading, collected_markets, market_readings
from daemon.watching.ownership import ASSIGNED, COUNTERS_OF
from daemon.watching.readings import NS_PER_S, Instruments
from daemon.watching.summary import summarize
from daemon.watching.worker_status import Problem, SessionStatus, WorkerStatus, WorkerStatusFiles
from native_pipeline.counters import COUNTER_IDS, CountersBlock, create_counters_file
from native_pipeline.ring_creation import create_ring
from tests.spec.made_readings import process, reading

SESSION = SessionStatus(
    account="main",
    venue="venue",
    state="streaming",
    is_degraded=True,
    confirmed=3,
    desired=4,
    problems=[Problem(kind="trade", market="kr", symbol="005930", state="failed", attempts=3, reason="가격 \x1b[2J")],
    unlisted=7,
)


def worker_of(*sessions: SessionStatus) -> dict[str, WorkerStatus]:
    return {"worker-0": WorkerStatus(sessions=list(sessions))}


def summary(**parts: Any) -> dict[str, Any]:
    now = reading(100.0, **parts)
    market = MarketReading(
        name="kr", is_open=True, last_data_ns=95 * NS_PER_S, expected_since_ns=1, changes_at_ns=200 * NS_PER_S
    )
    return summarize([now], silence_limit_s=30, markets=[market])


# ---- sessions and markets -----------------------------------------------------------------------------------


def test_what_a_worker_writes_of_its_sessions_is_what_we_read(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    entry = SubscriptionEntry(
        market="kr", exchange="nxt", symbol="005930", kind="trade", state="failed", attempts=3, reason="no answer"
    )
    session = SessionEntry(
        account="main", venue="venue", state="streaming", is_degraded=True, wanted=4, confirmed=3,
        unconfirmed=(entry,), unlisted=2, markets={"kr.nxt": 10},
    )  # fmt: skip
    StatusFile(status_path(tmp_path, 0), 0).write([session])

    (found,) = WorkerStatusFiles(tmp_path).read("worker-0").sessions

    assert (found.desired, found.confirmed, found.unlisted, found.is_degraded) == (4, 3, 2, True)
    assert found.markets == {"kr.nxt": 10}
    assert [msgspec.structs.asdict(one) for one in found.problems] == [msgspec.structs.asdict(entry)]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"sessions": 1}'])
def test_a_worker_without_a_readable_file_shows_no_sessions(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "run").mkdir()
    if content is not None:
        status_path(tmp_path, 0).write_bytes(content)

    assert WorkerStatusFiles(tmp_path).read("worker-0") == WorkerStatus()


def test_a_file_is_read_again_when_it_changes_and_forgotten_when_it_goes(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    path, files = status_path(tmp_path, 0), WorkerStatusFiles(tmp_path)
    for state in ("connecting", "streaming"):
        path.write_bytes(msgspec.json.encode({"sessions": [{"state": state}]}))
        assert [session.state for session in files.read("worker-0").sessions] == [state]
    path.unlink()

    assert files.read("worker-0") == WorkerStatus()


FEEDS = (
    Feed(market="kr", account="main", symbols=("A",)),
    Feed(market="kr", exchange="nxt", accounts=("main", "second"), symbols=("A",)),
    Feed(market="crypto", account="coins", symbols=("B",)),
    Feed(market="kr", account="second", symbols=("C",)),
)


def test_the_markets_are_those_of_the_feeds() -> None:
    assert collected_markets(FEEDS) == ("kr", "kr.nxt", "crypto")


class Hours:
    """kr opened at 50 s; kr.nxt is closed."""

    def is_open(self, market: str, exchange: str, at: int) -> bool:
        return exchange == ""

    def opened_at(self, market: str, exchange: str, at: int) -> int | None:
        return 50 * NS_PER_S if market == "kr" else None

    def next_change(self, market: str, exchange: str, at: int) -> int | None:
        return None if market == "crypto" else 200 * NS_PER_S


@pytest.mark.requirement("QG-E2E-01")
def test_data_are_expected_since_the_latest_of_start_opening_and_newest_record() -> None:
    now = reading(
        100.0,
        supervisor=process("supervisor", started_s=40.0),
        worker=process("worker-0", last_data_ns=30 * NS_PER_S),
    )

    found = {one.name: one for one in market_readings(now, collected_markets(FEEDS), Hours())}

    assert {name: one.expected_since_ns / NS_PER_S for name, one in found.items()} == {
        "kr": 50.0,
        "kr.nxt": 0.0,
        "crypto": 40.0,
    }
    assert found["kr"].last_data_ns == 30 * NS_PER_S


@pytest.mark.requirement("QG-E2E-01")
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([], {"kr": 90, "kr.nxt": 90, "crypto": 90}),  # nothing yet: the workers' own numbers
        ([{"kr": 60}, {"kr": 70, "kr.nxt": 0}, {"crypto": 80}], {"kr": 70, "kr.nxt": 0, "crypto": 80}),
        ([{"kr": 0}, {"crypto": 0}], {"kr": 90, "kr.nxt": 90, "crypto": 90}),
        ([{"us": 50}], {"kr": 90, "kr.nxt": 90, "crypto": 90, "us": 50}),  # collected since a reload
    ],
)
def test_the_newest_data_of_a_market_are_those_of_its_sessions(
    said: list[dict[str, int]], expected: Mapping[str, int]
) -> None:
    sessions = [SessionStatus(markets=markets) for markets in said]
    now = reading(worker=process("worker-0", last_data_ns=90), workers=worker_of(*sessions))

    found = market_readings(now, collected_markets(FEEDS), Hours())

    assert {one.name: one.last_data_ns for one in found} == expected


# ---- text ---------------------------------------------------------------------------------------------------


def test_the_text_shows_processes_markets_sessions_and_problems() -> None:
    text = console.full_text(summary(workers=worker_of(SESSION)))

    assert text.startswith("Sise healthy  1970-01-01 00:01:40 UTC\n")
    for part in ("worker-0", "running", "kr", "open", "5 s ago", "3/4", "kr trade 005930: failed", "7 more"):
        assert part in text
    assert text.endswith("\n")


def test_a_venues_words_cannot_steer_the_terminal() -> None:
    text = console.full_text(summary(workers=worker_of(SESSION)))

    assert "\x1b" not in text
    assert "가격 ?[2J" in text


def test_reasons_come_first_and_the_state_says_degraded() -> None:
    lines = console.full_text(summary(writer=process("writer"))).splitlines()

    assert lines[0].startswith("Sise DEGRADED")
    assert lines[1] == "  ! writer: the database is not connected"


@pytest.mark.requirement("QG-IT-01")
def test_redis_that_is_away_is_said_although_the_daemon_is_healthy() -> None:
    status = summary()
    away = summary(publisher=process("publisher"))

    assert status["notes"] == []
    assert (away["ready"], away["notes"]) == (True, ["publisher: Redis is away: nothing is published, storing goes on"])
    first, second, *_ = console.full_text(away).splitlines()
    assert first.startswith("Sise healthy")
    assert second == "  ! publisher: Redis is away: nothing is published, storing goes on"
    assert console.one_line(away).endswith("Redis is away: nothing is published, storing goes on")


def test_a_recorder_that_is_gone_is_said_although_the_daemon_is_healthy() -> None:
    for state, silent_for_s, said in (
        ("stopped", 1.0, "recorder: is stopped"),
        ("running", 31.0, "recorder: no heartbeat for 31 s"),
    ):
        status = summary(recorder=process("recorder", state=state, silent_for_s=silent_for_s))

        assert (status["ready"], status["notes"]) == (True, [said])


def test_a_daemon_without_a_heartbeat_is_called_not_alive() -> None:
    assert console.state(summary(writer=process("writer", silent_for_s=60))) == "NOT ALIVE"


def test_one_line_has_the_rates_and_the_first_reason() -> None:
    line = console.one_line(summary(writer=process("writer")))

    assert line.startswith("00:01:40  DEGRADED  received 0/s")
    assert line.endswith("writer: the database is not connected")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2.0 h"), (172_800, "2.0 d")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert console.span(seconds) == text


def test_korean_syllables_take_two_columns() -> None:
    assert console.width("삼성 A") == 6


def test_a_frame_fits_the_screen_and_keeps_the_last_line() -> None:
    drawn = top.frame([f"line {n} " + "가" * 30 for n in range(50)] + ["q: quit"], (20, 10))
    lines = drawn.removeprefix(top.HOME_AND_CLEAR).removesuffix(top.CLEAR_BELOW).split("\r\n")

    assert len(lines) == 10
    assert lines[-1] == "q: quit" + top.CLEAR_LINE_END
    assert max(console.width(line.removesuffix(top.CLEAR_LINE_END)) for line in lines) <= 20


def test_following_writes_a_line_each_time_also_when_nothing_runs() -> None:
    out, rounds = StringIO(), iter([False, False, True])
    looks: Iterator[dict[str, Any] | NotRunning] = iter([summary(), NotRunning("gone"), summary()])

    def look() -> dict[str, Any]:
        found = next(looks)
        if isinstance(found, NotRunning):
            raise found
        return found

    top.follow(look, out, wait=lambda: next(rounds))

    assert [line.split("  ")[0] for line in out.getvalue().splitlines()] == [
        "00:01:40",
        "not running: gone",
        "00:01:40",
    ]


def test_drawing_goes_on_while_nothing_runs() -> None:
    out, rounds = StringIO(), iter([False, True])

    def look() -> dict[str, Any]:
        raise NotRunning("gone")

    top.redraw(look, out, wait=lambda: next(rounds))

    assert out.getvalue().count("Sise is not running: gone") == 2


def test_every_counter_is_assigned_to_a_process_that_writes_it() -> None:
    assert set(COUNTER_IDS) - ASSIGNED == set()
    assert ASSIGNED - set(COUNTER_IDS) == set()
    assert "alerts_published" in COUNTERS_OF["monitor"]


# ---- from outside -------------------------------------------------------------------------------------------


class DataDir:
    """The files that a running daemon leaves; its supervisor is this test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run"
        self.run.mkdir(parents=True)
        (path / "rings").mkdir()
        create_counters_file(self.run / "counters", 6)
        self.blocks: dict[str, CountersBlock] = {}
        me = identify(os.getpid())
        assert me is not None
        self.lock(me)
        self.start("supervisor", 0)

    def lock(self, holder: ProcessId) -> None:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
        (self.run / "sise.lock").write_bytes(msgspec.json.encode(Holder(holder, namespace, "2026-11-23T00:00:00Z")))

    def start(self, name: str, number: int) -> CountersBlock:
        block = CountersBlock(self.run / "counters", number)
        block.take(name)
        block.set_state(ProcessState.RUNNING)
        self.blocks[name] = block
        return block

    def children(self, *names: str) -> None:
        entries = [ChildEntry(name, ProcessId(1, 1)) for name in names]
        (self.run / "children.json").write_bytes(msgspec.json.encode(entries))


@pytest.fixture
def daemon(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path)


@pytest.fixture
def healthy(daemon: DataDir) -> DataDir:
    daemon.start("writer", 1).set("database_connected", 1)
    daemon.start("publisher", 2)
    worker = daemon.start("worker-0", 4)
    for name, value in (("connections_planned", 1), ("connections_ready", 1), ("subscriptions_confirmed", 3)):
        worker.set(name, value)
    daemon.children("writer", "publisher", "worker-0")
    return daemon


def test_processes_are_found_in_the_counters_file_in_the_order_of_the_data(healthy: DataDir) -> None:
    healthy.start("worker-10", 5)

    assert find_processes(healthy.run / "counters") == {
        "supervisor": 0, "worker-0": 4, "worker-10": 5, "writer": 1, "publisher": 2,
    }  # fmt: skip
    assert find_processes(healthy.run / "nothing") == {}


def test_a_ring_that_was_replaced_is_read_from_its_new_file(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    instruments = Instruments(counters_path=data.run / "counters", processes={"supervisor": 0}, data_dir=tmp_path)
    path = ring_path(tmp_path, 0)
    create_ring(path, ring=0, capacity_bytes=1 << 20)
    (before,) = instruments.read().rings

    path.unlink()
    create_ring(path, ring=0, capacity_bytes=1 << 21)

    (after,) = instruments.read().rings
    assert (before.capacity_bytes, after.capacity_bytes) == (1 << 20, 1 << 21)


def test_a_healthy_daemon_is_seen_so(healthy: DataDir) -> None:
    assert summarize([Inspection(healthy.path).read()], silence_limit_s=30)["reasons"] == []


def test_a_directory_in_which_nothing_ever_ran(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="no daemon has run here"):
        Inspection(tmp_path).read()


def test_a_dead_supervisor_is_no_running_daemon(healthy: DataDir) -> None:
    healthy.lock(ProcessId(os.getpid(), 12345))  # our pid, but another start time

    with pytest.raises(NotRunning, match="is dead"):
        Inspection(healthy.path).read()


def test_a_supervisor_that_came_to_its_own_end_is_not_called_dead(healthy: DataDir) -> None:
    healthy.lock(ProcessId(os.getpid(), 12345))
    healthy.start("supervisor", 0).set_state(ProcessState.STOPPED)

    with pytest.raises(NotRunning, match="the daemon has stopped"):
        Inspection(healthy.path).read()


def test_a_daemon_that_has_stopped_says_so(healthy: DataDir) -> None:
    healthy.blocks["supervisor"].set_state(ProcessState.STOPPED)

    with pytest.raises(NotRunning, match="has stopped"):
        Inspection(healthy.path).read()


def test_a_process_of_an_earlier_plan_is_left_out_and_one_that_never_came_up_is_missed(healthy: DataDir) -> None:
    healthy.start("worker-9", 5)
    healthy.start("supervisor", 0)  # restarted since
    for name, number in (("writer", 1), ("publisher", 2), ("worker-0", 4)):
        healthy.start(name, number)
    healthy.children("writer", "publisher", "worker-0", "worker-1")

    found = Inspection(healthy.path).read()

    assert [one.name for one in found.processes] == ["supervisor", "worker-0", "writer", "publisher"]
    assert found.missing == ["worker-1"]


def test_the_heartbeat_says_what_hangs(healthy: DataDir) -> None:
    later_ns = time.monotonic_ns() + 60 * NS_PER_S
    for name in ("supervisor", "publisher", "worker-0"):
        healthy.blocks[name].heartbeat()

    found = Inspection(healthy.path, mono_ns=lambda: later_ns).read()

    assert min(one.silent_for_s for one in found.processes) > 59


def no_sleep(_seconds: float) -> None:
    """Rates are not the point."""


def config_for(path: Path) -> Config:
    return Config(data_dir=str(path), supervision=Supervision(heartbeat_timeout_s=30), feeds=FEEDS)


def test_status_prints_everything_and_is_true_for_a_healthy_daemon(healthy: DataDir) -> None:
    out = StringIO()

    assert top.print_status(config_for(healthy.path), out, as_json=False, sleep=no_sleep)
    assert "Sise healthy" in out.getvalue()
    assert "crypto" in out.getvalue()


def test_status_as_json_has_what_the_page_has(healthy: DataDir) -> None:
    out = StringIO()

    assert top.print_status(config_for(healthy.path), out, as_json=True, sleep=no_sleep)

    found = json.loads(out.getvalue())
    assert found["running"] is True
    assert [one["name"] for one in found["markets"]] == ["kr", "kr.nxt", "crypto"]
    assert {one["name"]: one["open"] for one in found["markets"]} == {"kr": False, "kr.nxt": False, "crypto": True}
    assert found["alerts"] == {"raised": 0, "published": 0, "suppressed": 0, "lost": 0}


def test_status_is_false_and_names_what_is_degraded(healthy: DataDir) -> None:
    healthy.blocks["worker-0"].set("subscriptions_failed", 2)
    out = StringIO()

    assert not top.print_status(config_for(healthy.path), out, as_json=False, sleep=no_sleep)
    assert "worker-0: 2 subscriptions failed" in out.getvalue()


@pytest.mark.parametrize("as_json", [True, False])
def test_status_is_false_where_nothing_runs(tmp_path: Path, as_json: bool) -> None:
    out = StringIO()

    assert not top.print_status(config_for(tmp_path), out, as_json=as_json, sleep=no_sleep)
    assert "no daemon has run here" in out.getvalue()
    assert out.getvalue().count("\n") == 1
