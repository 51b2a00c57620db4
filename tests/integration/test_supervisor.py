"""The supervisor with real processes that do nothing but live and die."""

import itertools
import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.config import Supervision
from daemon.rings import prepare_rings, ring_path
from daemon.supervision.directory_lock import ChildEntry
from daemon.supervision.process import ExitCode
from native_pipeline.ring_writer import RingWriter
from tests.integration.dummy_harness import (
    MONITOR,
    PATIENCE_S,
    PUBLISHER,
    QUICK,
    WORKER,
    WRITER,
    Daemon,
    Start,
    behaving,
    dummies,
    is_alive,
    wait_for,
)

PATIENT = msgspec.structs.replace(QUICK, grace_s=60.0)
QUARANTINE = 3  # of sise_record_kind; any kind will do


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a daemon of dummies; a second call is a second daemon on the same data directory."""
    with dummies(tmp_path) as starter:
        yield starter


def fill_ring(data_dir: Path, *, records: int) -> int:
    """Publish quarantine records that nobody has committed; return their size in the ring."""
    prepare_rings(data_dir, workers=1, capacity_mb=1)
    ring = RingWriter(ring_path(data_dir, 0))
    began = ring.head
    for number in range(records):
        ring.append(QUARANTINE, b"frame %02d" % number)
    ring.publish()
    size = ring.head - began
    ring.close()
    return size


# ---- stopping --------------------------------------------------------------------------------------------


@pytest.mark.requirement("GS-01")
def test_sigterm_stops_workers_then_sinks_then_the_monitor_and_says_so_with_counts(start: Start) -> None:
    worker = behaving(WORKER, adds={"records_received": 7, "records_quarantined": 1}, uses_asyncio=True)
    writer = behaving(WRITER, adds={"rows_committed": 7})
    publisher = behaving(PUBLISHER, adds={"records_published": 7})
    daemon = start(MONITOR, writer, publisher, worker)
    for name in ("worker-0", "writer", "publisher", "monitor"):
        daemon.wait_running(name)

    code = daemon.stop()

    assert code == 0
    asked = {name: daemon.events(name)[-2] for name in ("worker-0", "writer", "publisher", "monitor")}
    ended = {name: daemon.events(name)[-1] for name in asked}
    assert {event for event, _, _ in asked.values()} == {"asked_to_stop"}
    assert {event for event, _, _ in ended.values()} == {"drained"}
    assert ended["worker-0"][2] < min(asked["writer"][2], asked["publisher"][2])
    assert max(ended["writer"][2], ended["publisher"][2]) < asked["monitor"][2]
    last = daemon.log()[-1]
    counts = ("records_received", "rows_committed", "records_published", "records_quarantined", "remaining_in_rings")
    assert last["event"] == "Graceful Shutdown Complete"
    assert [last[name] for name in counts] == [7, 7, 7, 1, 0]


@pytest.mark.requirement("GS-01", "LEAK-02")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_no_process_and_only_the_lock_file(start: Start, number: signal.Signals) -> None:
    daemon = start(WORKER, WRITER, MONITOR)
    pids = [daemon.wait_running(name) for name in ("worker-0", "writer", "monitor")]

    code = daemon.stop(number)

    assert code == 0
    assert not [pid for pid in pids if is_alive(pid)]
    assert [path.name for path in (daemon.data_dir / "run").iterdir()] == ["sise.lock"]


@pytest.mark.requirement("GS-01")
def test_records_that_cannot_be_drained_in_time_stay_in_the_rings_and_the_exit_is_clean(start: Start) -> None:
    daemon = start(WORKER, behaving(WRITER, drains_until="never"), MONITOR)
    size = fill_ring(daemon.data_dir, records=3)
    daemon.wait_running("writer")
    began = time.monotonic()

    code = daemon.stop()

    assert code == 0
    assert time.monotonic() - began < QUICK.grace_s
    assert daemon.wait_logged("records_stay_in_the_rings")["records"] == 3
    last = daemon.log()[-1]
    assert last["event"] == "Graceful Shutdown Complete"
    assert (last["remaining_in_rings"], last["remaining_bytes_in_rings"]) == (3, size)


@pytest.mark.requirement("GS-01")
def test_what_stays_in_the_rings_is_told_also_when_the_writer_was_killed(start: Start) -> None:
    daemon = start(WORKER, behaving(WRITER, ignores_stop=True))
    size = fill_ring(daemon.data_dir, records=5)
    daemon.wait_running("writer")

    assert daemon.stop() == 1

    last = daemon.log()[-1]
    assert last["event"] == "Shutdown After Failure"
    assert (last["remaining_in_rings"], last["remaining_bytes_in_rings"]) == (5, size)


# ---- a disk that takes nothing -----------------------------------------------------------------------------


def test_a_record_of_the_children_that_cannot_be_written_is_reported_once_and_the_daemon_goes_on(start: Start) -> None:
    daemon = start(WORKER, WRITER)
    worker = daemon.wait_running("worker-0")
    obstacle = daemon.data_dir / "run" / "children.json.new"
    obstacle.mkdir()  # as good as a full disk: opening the file is an OSError

    os.kill(worker, signal.SIGKILL)
    daemon.wait_running("worker-0", lives=2)
    reported = daemon.wait_logged("run_record_not_written")
    os.kill(daemon.wait_running("writer"), signal.SIGKILL)
    successor = daemon.wait_running("writer", lives=2)
    obstacle.rmdir()
    daemon.wait_logged("run_records_written_again")

    assert reported["level"] == "error"
    assert reported["path"].endswith("run/children.json")
    assert daemon.log_text().count("run_record_not_written") == 1
    recorded = msgspec.json.decode((daemon.data_dir / "run" / "children.json").read_bytes(), type=list[ChildEntry])
    assert successor in {entry.process.pid for entry in recorded}
    assert daemon.stop() == 0


@pytest.mark.requirement("GS-01")
def test_a_stop_is_graceful_while_no_record_can_be_written(start: Start) -> None:
    daemon = start(WORKER, WRITER, MONITOR)
    for name in ("worker-0", "writer", "monitor"):
        daemon.wait_running(name)
    for file in ("children.json.new", "sise.pid.new"):
        (daemon.data_dir / "run" / file).mkdir()

    assert daemon.stop() == 0

    assert daemon.log()[-1]["event"] == "Graceful Shutdown Complete"
    assert [daemon.events(name)[-1][0] for name in ("worker-0", "writer", "monitor")] == ["drained"] * 3


@pytest.mark.requirement("GS-01")
def test_a_process_that_does_not_stop_is_killed_within_the_grace_period_and_the_exit_code_says_so(start: Start) -> None:
    limits = msgspec.structs.replace(QUICK, grace_s=6.0)  # its margin is what a busy machine takes to reap and to exit
    daemon = start(WORKER, behaving(WRITER, ignores_stop=True), MONITOR, supervision=limits)
    pid = daemon.wait_running("writer")
    daemon.wait_running("monitor")
    began = time.monotonic()

    code = daemon.stop()

    assert code == 1
    assert time.monotonic() - began < limits.grace_s
    assert not is_alive(pid)
    assert daemon.events("monitor")[-1][0] == "drained"
    assert daemon.log()[-1]["event"] == "Shutdown After Failure"
    assert daemon.log()[-1]["unclean"] == ["writer"]


@pytest.mark.requirement("GS-01", "F28", "F31")
def test_one_that_dies_while_it_drains_is_started_once_more_and_the_stop_is_clean(start: Start) -> None:
    daemon = start(WORKER, behaving(WRITER, drains_until="done"), MONITOR, supervision=PATIENT)
    pids = [daemon.wait_running(name) for name in ("worker-0", "writer", "monitor")]
    daemon.process.terminate()
    wait_for(lambda: "asked_to_stop" in [event for event, _, _ in daemon.events("writer")], "the writer to drain")
    os.kill(pids[1], signal.SIGKILL)
    wait_for(lambda: [event for event, _, _ in daemon.events("writer")].count("asked_to_stop") == 2, "the next one")
    (daemon.data_dir / "done").touch()

    assert daemon.process.wait(PATIENCE_S) == 0
    assert len(daemon.lives("writer")) == 2
    assert daemon.events("writer")[-1][0] == "drained"
    assert daemon.events("writer")[-1][2] < daemon.events("monitor")[-1][2]
    assert daemon.log()[-1]["event"] == "Graceful Shutdown Complete"


@pytest.mark.requirement("GS-01")
def test_one_that_dies_while_it_drains_and_has_no_time_left_is_not_started_again(start: Start) -> None:
    short = msgspec.structs.replace(QUICK, grace_s=1.0)  # 0.7 s until writers have to be through
    daemon = start(WORKER, behaving(WRITER, exit_code=1), MONITOR, supervision=short)
    for name in ("worker-0", "writer", "monitor"):
        daemon.wait_running(name)

    assert daemon.stop() == 1

    assert len(daemon.lives("writer")) == 1
    assert "writer" in daemon.log()[-1]["unclean"]


@pytest.mark.requirement("GS-01", "F43")
def test_a_ring_that_was_replaced_just_then_spoils_the_stop_of_no_worker_and_a_writer_tries_once(start: Start) -> None:
    replaced = int(ExitCode.RING_REPLACED)
    parts = behaving(WORKER, exit_code=replaced), behaving(WRITER, exit_code=replaced), MONITOR
    daemon = start(*parts, supervision=PATIENT)
    for name in ("worker-0", "writer", "monitor"):
        daemon.wait_running(name)

    assert daemon.stop() == 1

    assert (len(daemon.lives("worker-0")), len(daemon.lives("writer"))) == (1, 2)
    assert daemon.log()[-1]["unclean"] == ["writer"]


@pytest.mark.requirement("GS-01")
def test_a_second_signal_while_stopping_is_harmless(start: Start) -> None:
    daemon = start(behaving(WORKER, drains_until="go"), WRITER)
    daemon.wait_running("worker-0")
    daemon.process.terminate()
    wait_for(lambda: daemon.events("worker-0")[-1][0] == "asked_to_stop", "the stop to begin")

    daemon.process.terminate()
    daemon.process.send_signal(signal.SIGINT)
    wait_for(lambda: daemon.log_text().count("already_stopping") == 2, "both to be taken")
    (daemon.data_dir / "go").touch()

    assert daemon.process.wait(PATIENCE_S) == 0
    assert daemon.events("worker-0")[-1][0] == "drained"


@pytest.mark.requirement("GS-01")
def test_a_stop_during_the_start_is_kept_until_the_child_can_take_it(start: Start) -> None:
    daemon = start(WORKER, WRITER)
    daemon.wait_logged("child_started")

    code = daemon.stop()

    assert code == 0
    assert [daemon.events(name)[-1][0] for name in ("worker-0", "writer")] == ["drained", "drained"]


def test_a_sink_that_waits_for_its_restart_is_started_to_drain(start: Start) -> None:
    slow = Supervision(grace_s=5.0, restart_first_s=20.0, restart_max_s=20.0)
    daemon = start(behaving(WORKER, drains_until="go"), WRITER, supervision=slow)
    daemon.wait_running("worker-0")
    os.kill(daemon.wait_running("writer"), signal.SIGKILL)
    daemon.wait_logged("child_died")

    daemon.process.terminate()
    daemon.wait_running("writer", lives=2)
    (daemon.data_dir / "go").touch()

    assert daemon.process.wait(PATIENCE_S) == 0
    assert daemon.events("writer")[-1][0] == "drained"


# ---- restarting ------------------------------------------------------------------------------------------


@pytest.mark.requirement("CH-PROC-01")
def test_a_killed_process_is_restarted_and_still_hears_its_wake_up(start: Start) -> None:
    daemon = start(behaving(WORKER, rings="writer"), WRITER)
    worker, writer = daemon.wait_running("worker-0"), daemon.wait_running("writer")

    os.kill(writer, signal.SIGKILL)
    successor = daemon.wait_running("writer", lives=2)
    before = len(daemon.events("writer"))
    os.kill(worker, signal.SIGKILL)
    daemon.wait_running("worker-0", lives=2)

    woken = wait_for(lambda: daemon.events("writer")[before:], "the restarted writer to be woken")
    assert [(event, pid) for event, pid, _ in woken] == [("woken", successor)]
    assert daemon.stop() == 0


@pytest.mark.requirement("CH-PROC-01")
def test_being_killed_from_outside_never_spends_the_restart_budget(start: Start) -> None:
    one_restart = msgspec.structs.replace(QUICK, restarts_per_hour=1)
    daemon = start(WORKER, supervision=one_restart)

    for life in range(1, 5):
        os.kill(daemon.wait_running("worker-0", lives=life), signal.SIGKILL)

    daemon.wait_running("worker-0", lives=5)
    assert daemon.stop() == 0


@pytest.mark.requirement("CH-PROC-01")
def test_a_crash_loop_spends_the_restart_budget_and_stops_the_daemon_in_order(start: Start) -> None:
    three_restarts = msgspec.structs.replace(QUICK, restarts_per_hour=3)
    daemon = start(behaving(WORKER, fails_at_boot="crash"), WRITER, supervision=three_restarts)

    code = daemon.process.wait(PATIENCE_S)

    assert code == 1
    assert len([event for event, _, _ in daemon.events("worker-0") if event == "began"]) == 4
    assert daemon.wait_logged("restart_budget_spent")["level"] == "critical"
    assert daemon.events("writer")[-1][0] == "drained"


def test_a_crash_loop_of_a_best_effort_process_leaves_the_daemon_alone(start: Start) -> None:
    one_restart = msgspec.structs.replace(QUICK, restarts_per_hour=1)
    daemon = start(WORKER, behaving(MONITOR, fails_when_running=True), supervision=one_restart)

    daemon.wait_running("monitor", lives=4)

    assert daemon.lives("worker-0") == [daemon.wait_running("worker-0")]
    assert daemon.stop() == 0


def test_a_hung_process_prints_where_it_hangs_and_is_killed_and_restarted(start: Start) -> None:
    impatient = msgspec.structs.replace(QUICK, heartbeat_timeout_s=1.5)
    daemon = start(behaving(WORKER, hangs_if="hang"), WRITER, supervision=impatient)
    daemon.wait_running("worker-0")

    (daemon.data_dir / "hang").touch()
    daemon.wait_logged("child_hung")
    (daemon.data_dir / "hang").unlink()

    daemon.wait_running("worker-0", lives=2)
    assert "_wait_for_stop" in daemon.log_text()
    assert len(daemon.lives("writer")) == 1
    assert daemon.stop() == 0


def test_a_frozen_process_is_killed_and_restarted(start: Start) -> None:
    impatient = msgspec.structs.replace(QUICK, heartbeat_timeout_s=1.5)
    daemon = start(WORKER, WRITER, supervision=impatient)
    os.kill(daemon.wait_running("writer"), signal.SIGSTOP)

    daemon.wait_running("writer", lives=2)

    assert daemon.log_text().count("child_hung") == 1
    assert daemon.stop() == 0


@pytest.mark.parametrize(("failure", "expected"), [("config", 2), ("ring", 3)])
def test_a_process_that_cannot_boot_stops_the_daemon_with_its_code(start: Start, failure: str, expected: int) -> None:
    daemon = start(behaving(WORKER, fails_at_boot=failure), WRITER)

    code = daemon.process.wait(PATIENCE_S)

    assert code == expected
    assert daemon.wait_logged("child_cannot_boot")["child"] == "worker-0"
    assert len(daemon.events("worker-0")) == 1


# ---- the death of the supervisor, and its successor --------------------------------------------------------


@pytest.mark.requirement("F29", "CH-PROC-01")
def test_children_of_a_killed_supervisor_drain_and_end_by_themselves(start: Start) -> None:
    daemon = start(behaving(WORKER, uses_asyncio=True), WRITER, MONITOR)
    names = ("worker-0", "writer", "monitor")
    pids = [daemon.wait_running(name) for name in names]

    daemon.process.kill()
    daemon.process.wait()

    wait_for(lambda: not [pid for pid in pids if is_alive(pid)], "the orphans to end")
    assert [daemon.events(name)[-1][0] for name in names] == ["drained_orphaned"] * 3


@pytest.mark.requirement("F29", "CH-PROC-01")
def test_a_successor_waits_until_the_orphans_have_drained(start: Start) -> None:
    first = start(behaving(WORKER, drains_until="go"), WRITER, supervision=msgspec.structs.replace(QUICK, grace_s=60.0))
    first.wait_running("writer")
    worker = first.wait_running("worker-0")
    first.process.kill()
    first.process.wait()

    second = start(WORKER, WRITER)
    assert "worker-0" in second.wait_logged("waiting_for_orphans")["orphans"]
    assert is_alive(worker)
    (first.data_dir / "go").touch()

    second.wait_running("worker-0", lives=2)
    ends = [at for event, pid, at in second.events("worker-0") if pid == worker and event == "drained_orphaned"]
    begins = [at for event, pid, at in second.events("worker-0") if pid != worker and event == "began"]
    assert ends[0] < begins[0]
    assert second.stop() == 0


@pytest.mark.requirement("F29", "CH-PROC-01")
def test_a_successor_kills_orphans_that_outstay_the_grace_period(start: Start) -> None:
    first = start(behaving(WORKER, ignores_stop=True), WRITER)
    orphan = first.wait_running("worker-0")
    first.process.kill()
    first.process.wait()

    second = start(WORKER, WRITER, supervision=msgspec.structs.replace(QUICK, grace_s=0.5))

    second.wait_running("worker-0", lives=2)
    assert not is_alive(orphan)
    assert second.stop() == 0


@pytest.mark.requirement("F29", "CH-PROC-01")
def test_a_successor_does_not_wait_for_sinks_that_cannot_drain(start: Start) -> None:
    patient = msgspec.structs.replace(QUICK, grace_s=600.0)
    stuck = (behaving(WRITER, ignores_stop=True), behaving(PUBLISHER, ignores_stop=True))
    first = start(WORKER, *stuck, behaving(MONITOR, ignores_stop=True), supervision=patient)
    orphans = [first.wait_running(name) for name in ("worker-0", "writer", "publisher", "monitor")]
    first.process.kill()
    first.process.wait()

    second = start(WORKER, WRITER, PUBLISHER, MONITOR, supervision=patient)

    second.wait_running("writer", lives=2)
    assert not [pid for pid in orphans if is_alive(pid)]
    assert second.stop() == 0


def test_a_successor_that_waits_for_orphans_can_be_stopped(start: Start) -> None:
    first = start(behaving(WORKER, ignores_stop=True), WRITER)
    first.wait_running("worker-0")
    first.process.kill()
    first.process.wait()
    second = start(WORKER, WRITER)
    second.wait_logged("waiting_for_orphans")

    assert second.stop() == 0
    assert "child_started" not in second.log_text()


def test_a_second_daemon_on_the_same_directory_is_refused_with_the_pid_of_the_first(start: Start) -> None:
    first = start(WORKER)
    first.wait_running("worker-0")

    second = start(WORKER)
    code = second.process.wait(PATIENCE_S)

    assert code == 1
    assert len(second.log()) == 1
    assert f"(pid {first.process.pid})" in second.log()[0]["reason"]
    assert first.lives("worker-0") == [first.wait_running("worker-0")]
    assert first.stop() == 0


# ---- settings and secrets ------------------------------------------------------------------------------------


def test_sighup_reads_the_settings_again_for_children_started_later(start: Start) -> None:
    daemon = start(WORKER, supervision=QUICK)
    first = daemon.wait_running("worker-0")

    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_logged("reloaded")
    os.kill(first, signal.SIGKILL)
    daemon.wait_running("worker-0", lives=2)

    tokens = [event for event, _, _ in daemon.events("worker-0") if event.startswith("running")]
    assert tokens == ["running_token_none", "running_token_new"]
    assert daemon.stop() == 0


def test_sighup_with_an_invalid_file_keeps_the_old_settings(start: Start) -> None:
    daemon = start(WORKER)
    worker = daemon.wait_running("worker-0")
    (daemon.data_dir / "bad_config").touch()

    daemon.process.send_signal(signal.SIGHUP)

    assert daemon.wait_logged("reload_refused")["error"] == "sise.toml: workers: expected int"
    assert is_alive(worker)
    assert daemon.stop() == 0


def reloads(daemon: Daemon, name: str) -> list[str]:
    """Return what *name* was told by reloads, in order: account's key, symbols, database."""
    return [event.removeprefix("reloaded_") for event, _, _ in daemon.events(name) if event.startswith("reloaded_")]


def reload(daemon: Daemon, times: int) -> dict[str, Any]:
    """Send SIGHUP; wait until it is the *times*-th that was taken, and return the line in the log."""
    daemon.process.send_signal(signal.SIGHUP)

    def taken() -> list[dict[str, Any]]:
        return [line for line in daemon.log() if line["event"] in ("reloaded", "reload_refused")]

    wait_for(lambda: len(taken()) == times, "the reload")
    return taken()[-1]


LIVE_WORKERS = tuple(
    msgspec.structs.replace(behaving(WORKER, uses_asyncio=True), index=index) for index in range(2)
)  # fmt: skip
DSN = "postgresql://sise@localhost/sise"


@pytest.mark.requirement("F63")
def test_a_reload_reaches_only_the_worker_whose_part_has_changed(start: Start) -> None:
    daemon = start(*LIVE_WORKERS, WRITER)
    (daemon.data_dir / "same").touch()
    pids = [daemon.wait_running(name) for name in ("worker-0", "worker-1", "writer")]

    (daemon.data_dir / "worker-0").write_text("005930 000660")
    first = reload(daemon, 1)
    wait_for(lambda: len(reloads(daemon, "worker-0")) == 1, "the worker to hear of it")
    (daemon.data_dir / "worker-0").write_text("005930")
    second = reload(daemon, 2)
    wait_for(lambda: len(reloads(daemon, "worker-0")) == 2, "the worker to hear of it")
    third = reload(daemon, 3)

    assert [line["concerned"] for line in (first, second, third)] == [["worker-0"], ["worker-0"], []]
    assert reloads(daemon, "worker-0") == [f"_005930+000660_{DSN}", f"_005930_{DSN}"]
    assert reloads(daemon, "worker-1") == []
    assert [daemon.wait_running(name) for name in ("worker-0", "worker-1", "writer")] == pids
    assert [len(daemon.lives(name)) for name in ("worker-0", "worker-1", "writer")] == [1, 1, 1]
    assert daemon.stop() == 0


@pytest.mark.requirement("F64")
def test_a_rotated_secret_reaches_the_workers_that_use_it_and_those_started_later(start: Start) -> None:
    daemon = start(*LIVE_WORKERS, WRITER)
    first = daemon.wait_running("worker-0")
    daemon.wait_running("worker-1")

    (daemon.data_dir / "rotated").write_text("second-key")
    line = reload(daemon, 1)
    wait_for(lambda: reloads(daemon, "worker-0") and reloads(daemon, "worker-1"), "both workers to hear of it")
    os.kill(first, signal.SIGKILL)
    daemon.wait_running("worker-0", lives=2)
    (daemon.data_dir / "rotated").write_text("third-key")
    reload(daemon, 2)
    wait_for(lambda: len(reloads(daemon, "worker-0")) == 2, "its successor to hear of the next one")

    assert line["concerned"] == ["worker-0", "worker-1"]
    assert reloads(daemon, "worker-0") == [f"second-key_nothing_{DSN}", f"third-key_nothing_{DSN}"]
    assert "second-key" not in daemon.log_text()
    assert daemon.stop() == 0


@pytest.mark.requirement("F63")
def test_what_cannot_change_while_running_is_named_and_the_rest_applies(start: Start) -> None:
    daemon = start(*LIVE_WORKERS)
    daemon.wait_running("worker-0")
    (daemon.data_dir / "rotated").write_text("second-key")

    reload(daemon, 1)

    assert daemon.wait_logged("reload_needs_restart")["keys"] == ["workers", "database.dsn"]
    wait_for(lambda: reloads(daemon, "worker-0"), "the worker to hear of it")
    assert reloads(daemon, "worker-0") == [f"second-key_nothing_{DSN}"]
    assert daemon.stop() == 0


@pytest.mark.requirement("F63")
def test_settings_that_cannot_be_planned_change_nothing(start: Start) -> None:
    daemon = start(*LIVE_WORKERS)
    daemon.wait_running("worker-0")
    (daemon.data_dir / "rotated").write_text("second-key")
    (daemon.data_dir / "too_many").touch()

    refused = reload(daemon, 1)

    assert (refused["event"], refused["error"]) == ("reload_refused", "sise.toml: feeds: 7 too many")
    (daemon.data_dir / "too_many").unlink()
    assert reload(daemon, 2)["concerned"] == ["worker-0", "worker-1"]
    assert daemon.stop() == 0


@pytest.mark.requirement("F63")
def test_many_reloads_at_once_and_at_the_start_end_with_the_last_one(start: Start) -> None:
    daemon = start(*LIVE_WORKERS, WRITER)
    (daemon.data_dir / "same").touch()
    daemon.wait_logged("child_started")

    for number in range(30):
        (daemon.data_dir / "worker-0").write_text(f"S{number}")
        daemon.process.send_signal(signal.SIGHUP)
    for name in ("worker-0", "worker-1", "writer"):
        daemon.wait_running(name)

    wait_for(lambda: reloads(daemon, "worker-0")[-1:] == [f"_S29_{DSN}"], "the last one")
    assert [len(daemon.lives(name)) for name in ("worker-0", "worker-1", "writer")] == [1, 1, 1]
    assert daemon.stop() == 0


@pytest.mark.requirement("F08")
def test_a_limit_that_a_worker_learns_brings_a_new_plan_to_the_others(start: Start) -> None:
    learner = behaving(WORKER, uses_asyncio=True, learns_if="refused")
    daemon = start(learner, LIVE_WORKERS[1])
    daemon.wait_running("worker-0")
    daemon.wait_running("worker-1")

    (daemon.data_dir / "worker-1").write_text("moved")
    (daemon.data_dir / "refused").touch()

    wait_for(lambda: reloads(daemon, "worker-1"), "the other worker to take what does not fit")
    assert daemon.wait_logged("reloaded")["concerned"] == ["worker-1"]
    assert daemon.log_text().count('"reloaded"') == 1
    assert daemon.stop() == 0


# ---- what is done before the children start ------------------------------------------------------------------


def test_the_chore_is_done_before_the_first_child_starts(start: Start) -> None:
    daemon = start(WORKER, chore="import sys; assert sys.stdin.read() == 'told'")
    daemon.wait_running("worker-0")

    events = [line["event"] for line in daemon.log()]

    assert events.index("chore_done") < events.index("child_started")
    assert daemon.stop() == 0


def test_a_chore_that_fails_or_hangs_holds_nothing_up_for_long(start: Start) -> None:
    failing = start(WORKER, chore="raise SystemExit(3)")
    failing.wait_running("worker-0")
    failed = failing.wait_logged("chore_failed")
    assert failing.stop() == 0

    hanging = start(WORKER, chore="import time; time.sleep(1000)")
    hanging.wait_running("worker-0", lives=2)

    assert (failed["level"], failed["error"]) == ("warning", "exit code 3")
    assert hanging.stop() == 0
    assert "chore_done" not in hanging.log_text()


@pytest.mark.requirement("GS-01", "F31")
def test_a_start_that_waits_is_stopped_at_once_and_asks_no_faster_because_children_end(start: Start) -> None:
    daemon = start(WORKER, waits=True)
    wait_for(lambda: daemon.log_text().count('"waiting"') >= 3, "three rounds")

    assert daemon.stop() == 0
    rounds = [datetime.fromisoformat(line["timestamp"]) for line in daemon.log() if line["event"] == "waiting"]
    assert all(later - earlier > timedelta(seconds=0.9) for earlier, later in itertools.pairwise(rounds))
    assert daemon.log()[-1]["event"] == "stopped_while_starting"
    assert daemon.events("worker-0") == []


# ---- secrets ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement("F64")
def test_secrets_are_in_no_command_line_environment_log_or_file(start: Start) -> None:
    daemon = start(WORKER, WRITER)
    pids = [daemon.process.pid, daemon.wait_running("worker-0"), daemon.wait_running("writer")]

    seen = [Path(f"/proc/{pid}/{file}").read_bytes() for pid in pids for file in ("cmdline", "environ")]
    files = [path for path in daemon.data_dir.rglob("*") if path.is_file()]
    seen += [path.read_bytes() for path in files]

    assert daemon.stop() == 0
    assert not [text for text in (*seen, daemon.log_text().encode()) if b"THE-SECRET" in text]


def test_roles_are_words_of_the_titles_and_files_are_private_and_memory_is_small(start: Start) -> None:
    daemon = start(WORKER, WRITER)
    pids = [daemon.process.pid, daemon.wait_running("worker-0"), daemon.wait_running("writer")]

    titles = [Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode() for pid in pids]
    run_dir = daemon.data_dir / "run"
    resident_kib = int(Path(f"/proc/{pids[0]}/status").read_text().split("VmRSS:")[1].split()[0])

    assert titles == ["sise: supervisor", "sise: worker 0", "sise: writer"]
    assert run_dir.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in [*run_dir.iterdir(), daemon.data_dir / "counters"]} == {0o600}
    assert int((run_dir / "sise.pid").read_text()) == daemon.process.pid
    assert resident_kib < 36 * 1024
    assert daemon.stop() == 0
