"""The plan over time: kept across restarts, close to the one before, with what was learned meanwhile."""

import datetime
from pathlib import Path

import msgspec
import pytest

from daemon.alerts import RecordingAlerts
from daemon.config import Account, Config
from daemon.declined import DeclinedRegistrations
from daemon.errors import ConfigError
from daemon.learned_limits import LearnedLimits
from daemon.planning import PLAN_FILE, Planner, planned_streams, preview, read_plan
from daemon.shard_plan import Plan
from tests.spec.test_shard_plan import account, by_account, config, fake_venue, feed, named, places, symbols, workers

NOW = datetime.datetime.now(datetime.UTC)
POOL = ("a0", "a1")


def fleet(wanted: tuple[str, ...], accounts: list[Account] | None = None) -> Config:
    return config(accounts or named(2), [feed(POOL, wanted, kinds=("trade",))])


def planner(data_dir: Path) -> Planner:
    return Planner(data_dir, source="sise.toml", venues=fake_venue)


def start(data_dir: Path, wanted: int) -> Plan:
    starting = planner(data_dir)
    plan = starting.start(fleet(symbols(wanted)))
    starting.keep()
    return plan


def changed(before: Plan, after: Plan) -> set[str]:
    return {subscription.symbol for _, subscription in places(before) ^ places(after)}


@pytest.mark.requirement("F63")
def test_a_changed_list_of_symbols_touches_only_those_now_and_after_a_restart(tmp_path: Path) -> None:
    first = planner(tmp_path)
    before = first.start(fleet(symbols(40)))

    live = first.again(fleet((*symbols(20, 1000), *symbols(30, 10))))
    restarted = planner(tmp_path).start(fleet((*symbols(20, 1000), *symbols(30, 10))))

    assert changed(before, live) == {*symbols(20, 1000), *symbols(10)}
    assert workers(live) == workers(before)
    assert restarted == live


def test_the_same_plan_is_written_once_and_a_new_one_under_the_next_number(tmp_path: Path) -> None:
    for wanted in (10, 10, 12):
        start(tmp_path, wanted)

    kept = read_plan(tmp_path)
    assert kept is not None
    assert kept.generation == 2
    assert (tmp_path / PLAN_FILE).stat().st_mode & 0o777 == 0o600
    assert b"secret" not in (tmp_path / PLAN_FILE).read_bytes()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"generation":1,"plan":{"workers":[{"worker":0}]}}'])
def test_a_kept_plan_that_cannot_be_read_is_planned_anew(tmp_path: Path, content: bytes) -> None:
    expected = start(tmp_path, 10)
    (tmp_path / PLAN_FILE).write_bytes(content)

    assert start(tmp_path, 10) == expected
    assert read_plan(tmp_path) is not None


def test_a_plan_that_cannot_be_kept_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").touch()

    assert len(places(start(tmp_path, 10))) == 10


def test_a_start_writes_nothing_before_the_directory_is_its_own(tmp_path: Path) -> None:
    planner(tmp_path).start(fleet(symbols(10)))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.requirement("F08")
def test_a_limit_that_was_learned_moves_what_is_too_much_and_leaves_the_rest(tmp_path: Path) -> None:
    running = planner(tmp_path)
    before = running.start(fleet(symbols(40)))
    LearnedLimits(tmp_path).record("a0", 12, NOW)

    after = running.again(fleet(symbols(40)))

    assert {name: len(c.subscriptions) for name, c in by_account(after).items()} == {"a0": 12, "a1": 28}
    assert by_account(after)["a0"].subscriptions == by_account(before)["a0"].subscriptions[:12]
    assert len(changed(before, after)) == 8
    assert planner(tmp_path).start(fleet(symbols(40))) == after


@pytest.mark.requirement("F08")
def test_what_finds_no_other_session_is_reported_once_and_a_restart_is_not_refused(tmp_path: Path) -> None:
    alerts = RecordingAlerts()
    running = planner(tmp_path)
    running.start(fleet(symbols(60)))
    running.report_to(alerts)
    LearnedLimits(tmp_path).record("a0", 12, NOW)

    after = running.again(fleet(symbols(60)))
    running.again(fleet(symbols(60)))

    assert [left.subscription.symbol for left in after.left_out] == list(symbols(7, 53))
    assert alerts.codes() == ["registrations_left_out"]
    assert alerts.sent[0][2] == "no account has room for 7 registrations: " + ", ".join(symbols(7, 53))
    restarted = planner(tmp_path)
    assert restarted.start(fleet(symbols(60))).left_out == after.left_out
    restarted.report_to(alerts)
    assert alerts.codes() == ["registrations_left_out"] * 2


@pytest.mark.requirement("F63")
def test_a_plan_that_is_refused_leaves_the_one_in_force(tmp_path: Path) -> None:
    running = planner(tmp_path)
    before = running.start(fleet(symbols(40)))

    with pytest.raises(ConfigError, match="too many"):
        running.again(fleet(symbols(100)))

    assert running.again(fleet(symbols(40))) == before


def test_only_the_workers_of_the_start_get_what_comes_later(tmp_path: Path) -> None:
    accounts = [account("a0"), account("a1")]
    running = planner(tmp_path)
    running.start(config(accounts, [feed("a0", 5)]))

    after = running.again(config(accounts, [feed("a0", 5), feed("a1", symbols(5, 100))]))

    assert running.running == {0}
    assert workers(after) == {"a0": 0, "a1": 0}


def test_a_preview_is_what_a_start_would_do_and_writes_nothing(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(fleet(symbols(40)), data_dir=str(tmp_path / "data"))

    shown = preview(settings, source="sise.toml", venues=fake_venue)

    assert not (tmp_path / "data").exists()
    assert planner(tmp_path / "data").start(settings) == shown


@pytest.mark.requirement("SUB-RETRY-01")
def test_what_a_session_could_not_have_goes_to_another_account_and_comes_back_from_none(tmp_path: Path) -> None:
    subject = planner(tmp_path)
    before = subject.start(fleet(symbols(10)))
    (account_before, first) = min(places(before), key=repr)
    key = first.channel, first.key
    declined = DeclinedRegistrations(tmp_path)

    declined.record(account_before, {key: "no reply"})
    after = subject.again(fleet(symbols(10)))

    assert changed(before, after) == {first.symbol}
    ((account_after, _),) = [place for place in places(after) if place[1] == first]
    assert account_after != account_before

    declined.record(account_after, {key: "no reply"})  # nobody can have it: it stays where it is now

    assert places(subject.again(fleet(symbols(10)))) == places(after)


@pytest.mark.requirement("F63")
def test_a_registration_that_changes_its_worker_says_where_its_history_is_until_it_moves_on(tmp_path: Path) -> None:
    subject = planner(tmp_path)
    settings = msgspec.structs.replace(fleet(symbols(4)), workers=2)
    before = subject.start(settings)
    assert all(worker.moved == () for worker in before.workers)
    worker_of = {s.key: w.worker for w in before.workers for c in w.connections for s in c.subscriptions}
    account_name, one = min(places(before), key=repr)

    DeclinedRegistrations(tmp_path).record(account_name, {(one.channel, one.key): "no reply"})
    after = subject.again(settings)
    (moved,) = [moved for worker in after.workers for moved in worker.moved]
    again = planner(tmp_path).start(settings)

    assert (moved.worker, moved.channel, moved.key) == (worker_of[one.key], one.channel, one.key)
    assert one.key in {s.key for c in after.workers[1 - moved.worker].connections for s in c.subscriptions}
    assert subject.again(settings) == after == again


def test_a_restart_with_more_workers_says_where_the_history_of_a_stream_is(tmp_path: Path) -> None:
    accounts = named(3)
    settings = config(accounts, [feed(("a0", "a1", "a2"), symbols(9), kinds=("trade",))], workers=1)
    first = planner(tmp_path)
    first.start(settings)
    first.keep()

    after = planner(tmp_path).start(msgspec.structs.replace(settings, workers=3))

    for worker in after.workers[1:]:
        assert {moved.key for moved in worker.moved} == {s.key for c in worker.connections for s in c.subscriptions}
        assert {moved.worker for moved in worker.moved} == {0}
    assert after.workers[0].moved == ()


@pytest.mark.requirement("DLP-01")
def test_the_kept_plan_tells_what_a_worker_collects_in_the_words_of_the_tables(tmp_path: Path) -> None:
    running = planner(tmp_path)
    kinds = ("trade", "orderbook", "expected", "status")
    plan = running.start(config(named(2), [feed(POOL, symbols(9), kinds=kinds)]))
    running.keep()

    told = [planned_streams(tmp_path, worker.worker) for worker in plan.workers]

    assert all(told)
    assert told[0] != told[1]
    assert set.union(*told) == {
        ("kis", "kr", symbol, kind) for symbol in symbols(9) for kind in ("trade", "orderbook", "event")
    }
    assert planned_streams(tmp_path / "elsewhere", 0) == set()
